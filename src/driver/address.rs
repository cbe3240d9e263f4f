//! RequestAddress and ReleaseAddress.

use super::Drivers;
use super::error::{DriverError, refused};
use super::go_plugin::is_pool_name;
use super::locks::Key;
use super::pool::containing;
use super::pool_id::PoolId;
use super::swarm::held_for_swarm;
use crate::ipam::{AutoAssign, Expect, IpamError, Owner};
use crate::model::{Cidr, HandleId, NodeName};
use crate::protocol::{AddressAnswer, Options, ReleaseAddress, RequestAddress};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Attribute of an allocation: name of the container or task, where the engine tells it (29 and later).
const CONTAINER_ATTRIBUTE: &str = "container";
/// An address that was handed out so recently is on its way to its endpoint.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

/// What every handle of this plugin on a node begins with; what follows is random, so that no two allocations share one.
#[must_use]
pub fn handle_prefix(node: &NodeName) -> String {
    format!("{}.{node}.", crate::model::ORCHESTRATOR)
}

impl Drivers {
    /// A new owner for one address.
    pub(super) fn new_owner(&self, container: Option<&str>) -> Result<Owner, DriverError> {
        let handle = HandleId::new(&format!(
            "{}{}",
            handle_prefix(&self.options.node),
            uuid::Uuid::new_v4().simple()
        ))?;
        let attributes = container.map(|name| (CONTAINER_ATTRIBUTE.to_owned(), name.to_owned()));
        Ok(Owner { handle, attributes: BTreeMap::from_iter(attributes) })
    }

    pub(super) async fn request_address(&self, call: &RequestAddress) -> Result<AddressAnswer, DriverError> {
        let id = self.pool_id(&call.pool_id).await?;
        // With scope `global` the nodes of a swarm repeat the gateway that the leader was told.
        if let Some(next_hop) = call.address.parse().ok().filter(|ip| call.is_gateway() && is_link_local(*ip))
        {
            return Ok(answer(next_hop));
        }
        let wanted = parse_wanted(&call.address, id)?;
        let ip = match (call.is_gateway(), wanted) {
            // Shown by Docker and without effect: the next hop is link-local, and no address is spent on it.
            (true, Some(gateway)) => return Ok(answer_in(gateway, id.subnet())),
            (true, None) => return Ok(answer(super::plan::next_hop(id.version(), 1))),
            (false, Some(ip)) if call.is_of_swarm_leader() => {
                let _held = self.locks.hold(Key::Address(ip)).await;
                self.assign_for_swarm(ip).await?;
                ip
            }
            (false, None) if call.is_of_swarm_leader() => {
                self.any_for_swarm(self.any_of(id, None).await?).await?
            }
            (false, Some(ip)) => {
                let _held = self.locks.hold(Key::Address(ip)).await;
                self.assign(ip, call.endpoint_name()).await?;
                self.endpoints.reserve(ip, Instant::now());
                ip
            }
            (false, None) => self.any_address(id, call.endpoint_name()).await?,
        };
        Ok(answer(ip))
    }

    async fn any_address(&self, id: PoolId, container: Option<&str>) -> Result<IpAddr, DriverError> {
        // Ends with the pool: what is passed over stays allocated, as it should have been.
        loop {
            let ip = self.auto_assign(id, container).await?;
            match self.endpoints.owner_of(ip) {
                None => {
                    self.endpoints.reserve(ip, Instant::now());
                    return Ok(ip);
                }
                Some(owner) => log::warn!(
                    "{ip} was free in the datastore though endpoint {} has it; it is allocated again now",
                    owner.short()
                ),
            }
        }
    }

    async fn auto_assign(&self, id: PoolId, container: Option<&str>) -> Result<IpAddr, DriverError> {
        let request = self.any_of(id, container).await?;
        Ok(self.ipam.auto_assign(&request).await?)
    }

    /// The request for any address of a pool.
    async fn any_of(&self, id: PoolId, container: Option<&str>) -> Result<AutoAssign, DriverError> {
        let (pool, within) = match id {
            PoolId::Any(_) => (None, None),
            PoolId::Subnet { subnet, range } => {
                let pools = self.ipam.pools().await?;
                let pool = containing(&pools, subnet).ok_or_else(|| {
                    refused(format!("no pool contains {subnet} any more: create it again, or the network"))
                })?;
                (Some(pool.spec.cidr), Some(range.unwrap_or(subnet)))
            }
        };
        Ok(AutoAssign { version: id.version(), pool, within, owner: self.new_owner(container)? })
    }

    /// This very address. One that this node holds and no endpoint has taken is the answer to a call whose first
    /// answer was lost, or a replay after a restart.
    async fn assign(&self, ip: IpAddr, container: Option<&str>) -> Result<(), DriverError> {
        if let Some(owner) = self.endpoints.owner_of(ip) {
            return Err(refused(format!(
                "{ip} is already in use by endpoint {} on this node",
                owner.short()
            )));
        }
        match self.ipam.assign(ip, None, &self.new_owner(container)?).await {
            Ok(()) => Ok(()),
            Err(error @ IpamError::AlreadyAssigned { .. }) => match self.is_unclaimed(ip).await? {
                true => Ok(()),
                false => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Whether this plugin holds an address for nobody on this node, or for a task of the swarm.
    async fn is_unclaimed(&self, ip: IpAddr) -> Result<bool, DriverError> {
        let prefix = handle_prefix(&self.options.node);
        let Some(allocation) = self.ipam.lookup(ip).await? else { return Ok(true) };
        let ours = allocation.handle.as_deref().is_some_and(|handle| handle.starts_with(&prefix))
            || held_for_swarm(&allocation).is_some();
        let auxiliary = self.networks().await?.iter().any(|network| network.has_aux(ip));
        Ok(ours && !auxiliary && self.endpoints.owner_of(ip).is_none())
    }

    pub(super) async fn release_address(&self, call: &ReleaseAddress) -> Result<(), DriverError> {
        // Engines release whatever they have noted, also gateways that nobody assigned.
        let of_us = PoolId::parse(&call.pool_id).is_ok() || is_pool_name(&call.pool_id);
        let Some(ip) = call.address.parse().ok().filter(|ip| of_us && !is_link_local(*ip)) else {
            return Ok(());
        };
        let _held = self.locks.hold(Key::Address(ip)).await;
        if let Some(owner) = self.endpoints.owner_of(ip) {
            log::warn!("{ip} is not released: endpoint {} still has it", owner.short());
            return Ok(());
        }
        if self.is_another_networks(ip).await? {
            return Ok(());
        }
        self.release_own(ip).await
    }

    /// `network rm` releases the gateway that its user gave, which nobody assigned; on another network of the same pool
    /// it may be an auxiliary address, or a container may be about to get it.
    async fn is_another_networks(&self, ip: IpAddr) -> Result<bool, DriverError> {
        let networks = self.networks().await?;
        let recent = self.endpoints.reserved_since(ip).is_some_and(|since| since.elapsed() < ON_ITS_WAY);
        Ok(networks.iter().any(|network| network.has_gateway(ip))
            && (recent || networks.iter().any(|network| network.has_aux(ip))))
    }

    /// Gives back an address that this node holds; one that it does not hold is left alone.
    pub(super) async fn release_own(&self, ip: IpAddr) -> Result<(), DriverError> {
        let expect = Expect { node: Some(self.options.node.clone()), ..Expect::default() };
        match self.ipam.release(ip, &expect).await {
            Ok(_) => {
                self.endpoints.unreserve(ip);
                Ok(())
            }
            Err(error @ IpamError::NotOwner { .. }) => {
                if !self.release_for_swarm(ip).await? {
                    log::warn!("{ip} is not released: {error}");
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What is answered for gateways, and never assigned.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The address asked for, checked against the network's own prefix.
fn parse_wanted(text: &str, id: PoolId) -> Result<Option<IpAddr>, DriverError> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip: IpAddr = text.parse().map_err(|_| refused(format!("{text:?} is not an IP address")))?;
    match id.subnet().contains(ip) {
        true => Ok(Some(ip)),
        false => Err(refused(format!("{ip} is not inside {}", id.subnet()))),
    }
}

fn answer(ip: IpAddr) -> AddressAnswer {
    AddressAnswer { address: Cidr::host(ip).to_string(), data: Options::new() }
}

fn answer_in(ip: IpAddr, subnet: Cidr) -> AddressAnswer {
    AddressAnswer { address: format!("{ip}/{}", subnet.prefix_len()), data: Options::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_outside_its_network_names_both() {
        let id = PoolId::parse("10.1.0.0/24").unwrap();
        assert_eq!(
            parse_wanted("10.9.0.5", id).unwrap_err().to_string(),
            "10.9.0.5 is not inside 10.1.0.0/24"
        );
        assert_eq!(parse_wanted("", id).unwrap(), None);
        assert!(parse_wanted("fd00::1", PoolId::parse("CalicoPoolIPv4").unwrap()).is_err());
    }
}
