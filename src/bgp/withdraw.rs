//! Takes the routes of a BIRD of this plugin out of the kernel, whether it still runs or not.

use super::bird::{Bird, BirdError, Places, disown, forget, noted};
use super::reach::{BIRD, Parted, Reach, part};
use crate::net::{HostRoute, NetError, RouteChanges, Underlay};

/// Why routes of BIRD may still be there.
#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    /// Its files.
    #[error(transparent)]
    Files(#[from] BirdError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] NetError),
}

/// Most routes that a sentence names.
const NAMED: usize = 5;

/// Takes the routes of the BIRD that runs in these places, or ran there since the host was started, out of the kernel, and its
/// files away; does nothing where none has run. Gives a sentence about routes of BIRD's protocol that stay, because
/// nothing says that they are this plugin's.
///
/// # Errors
/// What could not be done; its files are left then, for another attempt.
pub async fn withdraw(places: &Places, host: &dyn Underlay) -> Result<Option<String>, WithdrawError> {
    if !places.has_run() {
        return Ok(None);
    }
    let stays = take_out(places, host).await?;
    forget(places).await?;
    Ok(stays)
}

/// The same, but for the files with which it is started again.
pub(super) async fn take_out(places: &Places, host: &dyn Underlay) -> Result<Option<String>, WithdrawError> {
    let reach = match Bird::adopt(places).await {
        Ok(bird) => {
            bird.down().await;
            // At each look at the kernel it took away what others had marked with its number: all that is there is its own.
            Reach::everywhere()
        }
        Err(_) => noted(places).await?,
    };
    let Parted { ours, others } = part(host.host_routes().await?, &reach);
    host.change_routes(&RouteChanges { delete: ours, ..RouteChanges::default() }).await?;
    disown(places).await?;
    Ok(stays(&others))
}

/// Ends a BIRD that runs in these places and forgets it; its routes are another's from now on.
///
/// # Errors
/// What could not be removed.
pub async fn hand_over(places: &Places) -> Result<(), BirdError> {
    if let Ok(bird) = Bird::adopt(places).await {
        bird.leave().await;
    }
    forget(places).await
}

fn stays(others: &[HostRoute]) -> Option<String> {
    let named: Vec<String> = others.iter().take(NAMED).map(|route| route.destination.to_string()).collect();
    let more = others.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let sentence = format!(
        "routes of protocol {BIRD} (bird) that are not known to be this plugin's stay: {}{more}; if no other BIRD is at work \
         here, take them away with ip route del",
        named.join(", ")
    );
    (!others.is_empty()).then_some(sentence)
}
