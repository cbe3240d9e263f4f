//! What BIRD's configuration is made by besides the datastore, and what comes out. Pure.

use super::reach::Reach;
use crate::model::RouterId;
use std::net::SocketAddr;
use std::time::Duration;

/// The default of `nodeMeshMaxRestartTime` and `maxRestartTime`, and BIRD's own.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// BGP's TCP port.
pub(super) const PORT: u16 = 179;

/// What the settings of this plugin say about BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// How the router ID is found.
    pub router_id: RouterId,
    /// Whether BIRD puts the ends of this node's blocks into the kernel, as calico/node's does: where this plugin makes no
    /// routes. Packets to addresses that nobody has would go back to the router that sent them here.
    pub blackholes: bool,
}

/// A configuration, and what of the datastore it could not follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendering {
    /// The text of the file.
    pub text: String,
    /// Names of the sessions in it.
    pub sessions: Vec<String>,
    /// One sentence for each thing that was left out or has no effect.
    pub problems: Vec<String>,
    /// Where routes that BIRD programs by it may lead.
    pub reach: Reach,
    /// Where a BGP speaker of this node listens.
    pub(super) ends: Vec<SocketAddr>,
    /// How long peers keep routes of this node while its BGP speaker is away.
    pub(super) patience: Duration,
}
