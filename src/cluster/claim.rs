//! The claim to a node name, made before anything is done under it: two hosts with one name would take each other's Node,
//! and each one's collector would give back the other's addresses.
//!
//! ```text
//! newcomer: the Node is another machine's -> writes who asks     that machine, if it lives: takes the question away
//!           question gone within the time: refused               (`node_plan`, as with all that it did not write)
//!           question still there: nobody lives under the name, it is the newcomer's
//! ```

use super::node::{ClusterError, NodeKeeper};
use super::node_plan::{ASKED_ANNOTATION, published};
use crate::model::{NodeSpec, Resource};
use crate::net::HostAddress;
use std::time::Duration;
use tokio::time::Instant;

/// Who lives answers in a few milliseconds. Calls of Docker that wait meanwhile still end within their deadline.
const ANSWER: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// Why the name is not this host's.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another host lives under it.
    #[error(
        "another host (machine {0}) runs under this node's name: nothing is done here until this one has a name of its own \
         (NODENAME), or that host is gone for good and its Node is removed (node remove)"
    )]
    Taken(String),
    /// Kernel or datastore.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// One start's claim.
#[derive(Debug)]
pub struct NameClaim {
    keeper: NodeKeeper,
    /// The machine that has answered. It keeps the name also while it is away: it may only be restarted.
    refused_by: Option<String>,
}

impl NameClaim {
    /// A claim to the keeper's node name.
    #[must_use]
    pub fn new(keeper: NodeKeeper) -> Self {
        Self { keeper, refused_by: None }
    }

    /// Returns when the name is this host's: no other had it, or none answers within five seconds.
    ///
    /// # Errors
    /// Another host lives under the name; kernel or datastore.
    pub async fn make(&mut self) -> Result<(), ClaimError> {
        let Some((node, other)) = self.taken().await? else { return Ok(()) };
        if self.refused_by.as_ref() == Some(&other) {
            return Err(ClaimError::Taken(other));
        }
        if is_former_life(&node, (&other, self.keeper.machine()), &self.keeper.addresses().await?) {
            return Ok(());
        }
        self.keeper.ask().await?;
        let asked = Instant::now();
        while asked.elapsed() < ANSWER {
            tokio::time::sleep(LOOK).await;
            let Some((node, other)) = self.taken().await? else { return Ok(()) };
            if node.metadata.annotation(ASKED_ANNOTATION).is_none() {
                self.refused_by = Some(other.clone());
                return Err(ClaimError::Taken(other));
            }
        }
        Ok(())
    }

    /// The Node, if another machine wrote it, and which.
    async fn taken(&self) -> Result<Option<(Resource<NodeSpec>, String)>, ClusterError> {
        let node = self.keeper.read().await?;
        Ok(node.and_then(|node| self.keeper.other(&node).map(|other| (node, other))))
    }
}

/// Whether the machine that wrote the Node was this host before its reboot, or before its state was lost: it had an address that
/// this one has, and one half of its ID is the same. A clone has another address.
fn is_former_life(node: &Resource<NodeSpec>, (before, now): (&str, &str), addresses: &[HostAddress]) -> bool {
    let halves = before.split('-').zip(now.split('-'));
    let related = halves.into_iter().any(|(before, now)| before == now);
    related && published(node).any(|own| addresses.iter().any(|address| address.address == own))
}
