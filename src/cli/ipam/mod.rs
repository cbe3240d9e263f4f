//! `ipam`: how full pools are, who has an address, what is wrong, and putting it right.

mod check;
mod configure;
mod release;
mod show;

use super::session::{Failure, Session};
use crate::ipam::{Facts, Ipam};
use crate::model::{NodeName, ORCHESTRATOR, key};
use clap::Subcommand;

/// What is asked or done about addresses.
#[derive(Debug, Subcommand)]
pub(super) enum Addresses {
    /// How full pools are, or who has one address
    Show(show::Show),
    /// Look for leaked addresses, duplicates, handles and blocks that do not agree; changes nothing
    Check(check::Check),
    /// Give addresses back that nobody uses
    Release(release::Release),
    /// Change how blocks are claimed, for all nodes
    Configure(configure::Configure),
}

pub(super) async fn run(session: Session, question: Addresses) -> Result<(), Failure> {
    match question {
        Addresses::Show(arguments) => show::run(&session, arguments).await,
        Addresses::Check(arguments) => check::run(&session, arguments).await,
        Addresses::Release(arguments) => release::run(&session, arguments).await,
        Addresses::Configure(arguments) => configure::run(&session, arguments).await,
    }
}

/// The IPAM of whoever runs the command. Nothing is assigned, so that it does not matter in whose name.
fn ipam(session: &Session) -> Result<Ipam, Failure> {
    let name = NodeName::new(ORCHESTRATOR).map_err(|error| Failure::of(&error))?;
    Ok(Ipam::new(session.store.clone(), name))
}

/// All that the datastore holds about addresses, as of one moment.
async fn facts(session: &Session) -> Result<Facts, Failure> {
    let listing = session.store.list(key::CALICO_ROOT).await.map_err(|error| Failure::of(&error))?;
    Ok(Facts::of(&listing.entries))
}
