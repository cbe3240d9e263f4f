//! Addresses that swarm's leader takes for tasks of other nodes (`CALICO_LIBNETWORK_SCOPE=global`).
//!
//! The leader is not told for which node an address is, so it holds it under a handle that is no node's, and no node's
//! collector takes it back. The node that runs the task is asked for the very address, and makes it its own when
//! CreateEndpoint comes. Both release it: the node first, the leader after that.
//!
//! ```text
//! leader: RequestAddress "" -> libnetwork-swarm.R      node: RequestAddress IP -> held for swarm, so it may be taken
//! leader: ReleaseAddress IP <- free, or still ours     node: CreateEndpoint    -> libnetwork.NODE.R
//! new leader: RequestAddress IP -> held, so success    node: ReleaseAddress    -> free
//! ```

use super::Drivers;
use super::error::{DriverError, refused};
use crate::ipam::{Allocation, AutoAssign, Expect, IpamError, NETWORK_ATTRIBUTE, Owner};
use crate::model::{HandleId, ORCHESTRATOR};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What the handle of an address begins with that is held for a task of some node.
const HANDLE_PREFIX: &str = "libnetwork-swarm.";

fn new_owner() -> Result<Owner, DriverError> {
    let handle = HandleId::new(&format!("{HANDLE_PREFIX}{}", uuid::Uuid::new_v4().simple()))?;
    // What a network keeps for itself has no endpoint, and is no leak (`ipam check`).
    let kept = (NETWORK_ATTRIBUTE.to_owned(), "swarm".to_owned());
    Ok(Owner { handle, attributes: BTreeMap::from([kept]) })
}

/// The handle of an address that is held for a task of some node.
pub(super) fn held_for_swarm(allocation: &Allocation) -> Option<HandleId> {
    let handle = allocation.handle.as_deref().filter(|handle| handle.starts_with(HANDLE_PREFIX))?;
    HandleId::new(handle).ok()
}

/// Whether this plugin, on any node, holds an address.
fn is_held_by_plugin(allocation: &Allocation) -> bool {
    let of_node = |handle: &str| handle.strip_prefix(ORCHESTRATOR).is_some_and(|rest| rest.starts_with('.'));
    held_for_swarm(allocation).is_some() || allocation.handle.as_deref().is_some_and(of_node)
}

impl Drivers {
    /// Any address of a request, for a task or a virtual IP of the swarm.
    pub(super) async fn any_for_swarm(&self, mut request: AutoAssign) -> Result<IpAddr, DriverError> {
        request.owner = new_owner()?;
        Ok(self.ipam.auto_assign(&request).await?)
    }

    /// This very address for the swarm. A new leader repeats all requests of the old one, so an address that this
    /// plugin holds somewhere is the answer; whether a task may have it is seen on the task's node.
    pub(super) async fn assign_for_swarm(&self, ip: IpAddr) -> Result<(), DriverError> {
        match self.ipam.assign(ip, None, &new_owner()?).await {
            Err(IpamError::AlreadyAssigned { owner, .. }) if is_held_by_plugin(&owner) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Makes an address that is held for a task of some node this node's.
    pub(super) async fn take_from_swarm(&self, ip: IpAddr, held: &HandleId) -> Result<(), DriverError> {
        match self.ipam.rehome(ip, Some(held), &self.new_owner(None)?).await? {
            true => Ok(()),
            false => Err(refused(format!("{ip} was taken by another node at the same moment"))),
        }
    }

    /// Frees an address that another node allocated, if it is held for the swarm: one that a task's node has made its
    /// own is that node's to free.
    pub(super) async fn release_for_swarm(&self, ip: IpAddr) -> Result<bool, DriverError> {
        let Some(handle) = self.ipam.lookup(ip).await?.as_ref().and_then(held_for_swarm) else {
            return Ok(false);
        };
        let expect = Expect { handle: Some(handle), ..Expect::default() };
        match self.ipam.release(ip, &expect).await {
            Ok(_) => Ok(true),
            Err(IpamError::NotOwner { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
