//! The routes that BIRD left when another began to program this host. calico/node's BIRD has the same protocol number and takes
//! them over; where there is none they go, after as long as the peers wait for one.

use super::bird::{Places, disown};
use super::rendering::PATIENCE;
use super::withdraw::take_out;
use crate::net::SharedUnderlay;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Longest wait for an answer of this host's own address.
const DIAL: Duration = Duration::from_secs(1);
/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(30);

/// What is known of them.
#[derive(Debug)]
pub(super) struct Leftover {
    /// Where a BGP speaker of this node listens, once the datastore was read, and how long peers wait for one.
    ends: Option<Vec<SocketAddr>>,
    patience: Duration,
    /// Set while somebody else programs this host, and routes of BIRD may be without an owner.
    until: Option<Instant>,
}

impl Leftover {
    /// None so far.
    pub(super) fn new() -> Self {
        Self { ends: None, patience: PATIENCE, until: None }
    }

    /// Where a BGP speaker of this node listens, and how long peers wait for one.
    pub(super) fn learn(&mut self, ends: Vec<SocketAddr>, patience: Duration) {
        (self.ends, self.patience) = (Some(ends), patience);
    }

    /// BIRD ended for another's sake: its routes stay for as long as the peers wait for that one.
    pub(super) fn leave(&mut self, places: &Places) {
        if places.reach().exists() {
            self.until = Some(Instant::now() + self.patience);
        }
    }

    /// This plugin programs the host again, and has the routes.
    pub(super) fn take_back(&mut self) {
        self.until = None;
    }

    /// Returns when they are to be seen to: never while there are none.
    pub(super) async fn due(&self) {
        match self.until {
            Some(time) => sleep_until(time).await,
            None => std::future::pending().await,
        }
    }

    /// Peers that waited have forgotten this node by now, unless somebody speaks BGP here: then the routes are theirs.
    pub(super) async fn settle(&mut self, places: &Places, host: &SharedUnderlay) {
        let Some(ends) = &self.ends else {
            // Whose the routes are cannot be asked yet.
            self.until = Some(Instant::now() + self.patience);
            return;
        };
        self.until = None;
        let outcome = if speaks(ends).await {
            log::info!("routes that BIRD left are calico/node's: somebody speaks BGP on this host");
            disown(places).await.map_err(Into::into)
        } else {
            log::warn!(
                "nobody speaks BGP on this host since Felix programs it: the routes that BIRD left are taken away; let calico/node \
                 run BIRD (CALICO_NETWORKING_BACKEND=bird), or give pools a vxlanMode"
            );
            let stays = take_out(places, &**host).await;
            stays.map(|stays| stays.iter().for_each(|sentence| log::warn!("{sentence}")))
        };
        if let Err(error) = outcome {
            log::warn!("routes that BIRD left: {error}");
            self.until = Some(Instant::now() + PAUSE);
        }
    }
}

/// Whether somebody listens at one of these ends.
async fn speaks(ends: &[SocketAddr]) -> bool {
    for end in ends {
        if let Ok(Ok(_)) = timeout(DIAL, TcpStream::connect(end)).await {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::bird::note;
    use super::super::reach::Reach;
    use super::*;
    use crate::net::KernelHost;
    use std::sync::Arc;

    #[tokio::test]
    async fn routes_that_bird_left_stay_until_it_is_known_where_calico_nodes_would_listen() {
        let folder = tempfile::tempdir().unwrap();
        let (bird, run) = (folder.path().join("bird"), folder.path().join("run"));
        let places = Places { program: bird.clone(), folder: bird, run };
        note(&places, &Reach::read("router 192.0.2.1\n")).await.unwrap();
        let host: SharedUnderlay = Arc::new(KernelHost::open("/proc/sys/net").await.unwrap());
        let mut leftover = Leftover { until: Some(Instant::now()), ..Leftover::new() };
        leftover.settle(&places, &host).await;
        assert!(leftover.until.is_some() && places.reach().exists());
    }
}
