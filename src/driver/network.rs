//! CreateNetwork and DeleteNetwork.

use super::error::{DriverError, refused};
use super::go_plugin::Origin;
use super::locks::Key;
use super::options::NetworkOptions;
use super::pool::{containing, name_part};
use super::pool_id::PoolId;
use super::record::{IpamKind, NetworkPool, NetworkRecord};
use super::{Drivers, is_own_address_space, new_metadata, plan, profile};
use crate::ipam::NETWORK_ATTRIBUTE;
use crate::model::{Cidr, IpPoolSpec, NETWORK_ANNOTATION, NetworkId, Resource, key};
use crate::net::workload_mtu;
use crate::protocol::{CreateNetwork, IpamData, NetworkRef};
use crate::store::{StoreError, Txn, typed};
use std::net::IpAddr;

impl Drivers {
    /// The records of all networks of this node.
    pub(super) async fn networks(&self) -> Result<Vec<NetworkRecord>, DriverError> {
        let records = typed::list::<NetworkRecord>(&*self.local, &key::networks()).await?;
        Ok(records.into_iter().map(|record| record.value).collect())
    }

    /// The record of one network.
    pub(super) async fn network(&self, id: &NetworkId) -> Result<NetworkRecord, DriverError> {
        let record = typed::get::<NetworkRecord>(&*self.local, &key::network(id)).await?;
        record.map(|record| record.value).ok_or_else(|| DriverError::UnknownNetwork(id.short().to_owned()))
    }

    /// The record of a network that may be new; one that cannot be read is as good as none.
    async fn known_network(&self, id: &NetworkId) -> Result<Option<NetworkRecord>, DriverError> {
        match self.network(id).await {
            Ok(record) => Ok(Some(record)),
            Err(DriverError::UnknownNetwork(_) | DriverError::Store(StoreError::Corrupt { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn create_network(
        &self,
        call: &CreateNetwork,
        origin: Origin,
    ) -> Result<(), DriverError> {
        let id = NetworkId::new(&call.network_id)?;
        let _held = self.locks.hold(Key::Network(id.clone())).await;
        let mut record = self.plan_network(call, &id)?;
        let known = self.known_network(&id).await?;
        match known.as_ref().filter(|known| known.go_label.is_some()) {
            Some(known) => record.keep_profile(known),
            None => self.take_over_network(&mut record, origin).await?,
        }
        let _pools = self.locks.hold(Key::Pools).await;
        match record.ipam {
            IpamKind::Calico => self.ensure_pools(&record).await?,
            IpamKind::Docker => self.check_docker_pools(&record).await?,
        }
        if let Err(error) = self.make_network(&record).await {
            // The engine does not call DeleteNetwork after a failed CreateNetwork.
            if known.is_none()
                && let Err(undo) = self.unmake_network(&record).await
            {
                log::warn!("network {} is not cleaned up after a failed CreateNetwork: {undo}", id.short());
            }
            return Err(error);
        }
        if known.is_none() {
            record.pools.iter().for_each(|pool| self.pending_pools.remove(&pool.subnet));
        }
        self.say_what_has_no_effect(&record).await;
        Ok(())
    }

    /// The record first: by it everything else is found again if this ends half-way.
    async fn make_network(&self, record: &NetworkRecord) -> Result<(), DriverError> {
        let key = key::network(&record.id);
        let value = typed::encode(&key, record)?;
        self.local.commit(Txn::new().put(key, value)).await?;
        if self.options.create_profiles {
            let node = Some(&self.options.node).filter(|_| record.own_profile);
            profile::ensure(&*self.store, &record.profile, node).await?;
        }
        match record.ipam {
            IpamKind::Docker => self.write_docker_pools(record).await?,
            IpamKind::Calico => self.mark_auxiliary(record).await?,
        }
        Ok(())
    }

    /// Says of auxiliary addresses that the network keeps them: no endpoint ever has them, and `ipam check` of any node
    /// would take them for leaked.
    async fn mark_auxiliary(&self, record: &NetworkRecord) -> Result<(), DriverError> {
        for ip in record.pools.iter().flat_map(|pool| &pool.aux) {
            self.ipam.annotate(*ip, NETWORK_ATTRIBUTE, record.id.as_str()).await?;
        }
        Ok(())
    }

    /// What was accepted and does not do what it may seem to do.
    async fn say_what_has_no_effect(&self, record: &NetworkRecord) {
        let id = record.id.short();
        for pool in record.pools.iter().filter(|pool| pool.gateway.is_some()) {
            log::info!(
                "network {id}: the gateway given for {} is shown by Docker and has no effect; containers use 169.254.1.1",
                pool.subnet
            );
        }
        let Some(mtu) = record.mtu else { return };
        match self.host.links().await.map(|links| workload_mtu(&links)) {
            Ok(uplink) if mtu > uplink => log::warn!(
                "network {id}: its MTU of {mtu} is more than the {uplink} of this host's uplink or VXLAN device; larger packets to other \
                 hosts are fragmented or lost"
            ),
            Ok(_) => {}
            Err(error) => log::debug!("network {id}: its MTU is not compared with the host's: {error}"),
        }
    }

    /// What the request makes of the network. Pure but for the settings.
    fn plan_network(&self, call: &CreateNetwork, id: &NetworkId) -> Result<NetworkRecord, DriverError> {
        let options = NetworkOptions::parse(&call.driver_options(), call.ipv6_enabled())?;
        let ipv4 = call.ipv4_data.iter().filter(|_| call.ipv4_enabled());
        let data = || ipv4.clone().chain(&call.ipv6_data);
        let own = data().filter(|data| is_own_address_space(&data.address_space)).count();
        let ipam = match own {
            0 if data().count() > 0 => IpamKind::Docker,
            _ => IpamKind::Calico,
        };
        if ipam == IpamKind::Docker && self.options.shared_datastore {
            return Err(refused(
                "Docker's own IPAM would assign the same addresses on every node of this cluster: create the network with \
                 --ipam-driver set to this plugin's name too",
            ));
        }
        let pools = data().map(|data| parse_pool(data, ipam)).collect::<Result<Vec<_>, _>>()?;
        if pools.is_empty() {
            return Err(refused(
                "a network needs an IPv4 or an IPv6 prefix; the null IPAM driver gives none",
            ));
        }
        let own_profile = options.profile.is_none();
        Ok(NetworkRecord {
            id: id.clone(),
            profile: options.profile.unwrap_or_else(|| plan::profile_name(id)),
            own_profile,
            go_label: None,
            ipam,
            internal: call.internal(),
            mtu: options.mtu,
            iface_prefix: Some(options.iface_prefix.unwrap_or_else(|| self.options.iface_prefix.clone())),
            pools,
        })
    }

    /// The pools were there at RequestPool; one may have gone since with the last of its networks.
    async fn ensure_pools(&self, record: &NetworkRecord) -> Result<(), DriverError> {
        for pool in record.pools.iter().filter(|pool| pool.subnet.prefix_len() > 0) {
            self.ensure_pool(pool.subnet).await?;
        }
        Ok(())
    }

    /// Prefixes that Docker's own IPAM chose must be nobody else's.
    async fn check_docker_pools(&self, record: &NetworkRecord) -> Result<(), DriverError> {
        let pools = self.ipam.pools().await?;
        for subnet in record.pools.iter().map(|pool| pool.subnet) {
            let name = docker_pool_name(&record.id, subnet);
            if let Some(other) = pools.iter().find(|p| p.spec.cidr.overlaps(&subnet) && p.name() != name) {
                return Err(refused(format!(
                    "Docker's own IPAM chose {subnet}, which overlaps pool {} ({}): give --ipam-driver this plugin's name, \
                     or another --subnet",
                    other.name(),
                    other.spec.cidr
                )));
            }
        }
        Ok(())
    }

    /// Records the prefixes of Docker's own IPAM as pools that are closed for allocation, so that NAT and routes know
    /// them. They go with the network.
    async fn write_docker_pools(&self, record: &NetworkRecord) -> Result<(), DriverError> {
        let mut txn = Txn::new();
        for subnet in record.pools.iter().map(|pool| pool.subnet) {
            let name = docker_pool_name(&record.id, subnet);
            let mut metadata = new_metadata(&name);
            metadata.annotate(NETWORK_ANNOTATION, record.id.as_str());
            let spec =
                IpPoolSpec { disabled: true, nat_outgoing: !record.internal, ..IpPoolSpec::new(subnet) };
            let key = key::resource::<IpPoolSpec>(&name);
            let value = typed::encode(&key, &Resource::new(metadata, spec))?;
            txn = txn.put(key, value);
        }
        self.store.commit(txn).await?;
        self.refresh_pools().await
    }

    async fn forget_docker_pools(&self, record: &NetworkRecord) -> Result<(), DriverError> {
        let names = record.pools.iter().map(|pool| docker_pool_name(&record.id, pool.subnet));
        let txn = names.fold(Txn::new(), |txn, name| txn.remove(key::resource::<IpPoolSpec>(&name)));
        self.store.commit(txn).await?;
        self.refresh_pools().await
    }

    pub(super) async fn delete_network(&self, call: &NetworkRef) -> Result<(), DriverError> {
        let id = NetworkId::new(&call.network_id)?;
        self.remove_network(&id).await
    }

    /// Forgets a network with everything that was made for it; one that is not known is gone already.
    pub(super) async fn remove_network(&self, id: &NetworkId) -> Result<(), DriverError> {
        let _held = self.locks.hold(Key::Network(id.clone())).await;
        let record = match self.network(id).await {
            Ok(record) => record,
            Err(DriverError::UnknownNetwork(_)) => return Ok(()),
            // A record that cannot be read would otherwise stay for ever. Its pools are the collector's.
            Err(DriverError::Store(StoreError::Corrupt { .. })) => {
                if self.options.create_profiles {
                    profile::release(&*self.store, &plan::profile_name(id), &self.options.node).await?;
                }
                self.local.commit(Txn::new().remove(key::network(id))).await?;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for endpoint in self.endpoints.all() {
            // The engine removes endpoints first; what is left here it has forgotten.
            if endpoint.network.as_ref() == Some(id) {
                self.collect_endpoint(&endpoint).await?;
            }
        }
        let _pools = self.locks.hold(Key::Pools).await;
        self.unmake_network(&record).await
    }

    /// Takes away what was made for a network, and its record last: as long as that stands, the collector tries again.
    /// The caller holds the pools.
    async fn unmake_network(&self, record: &NetworkRecord) -> Result<(), DriverError> {
        match record.ipam {
            IpamKind::Docker => self.forget_docker_pools(record).await?,
            IpamKind::Calico => {
                for pool in record.pools.iter().filter(|pool| pool.subnet.prefix_len() > 0) {
                    self.remove_unused_pool(pool.subnet, Some(&record.id)).await?;
                }
            }
        }
        if record.own_profile && self.options.create_profiles {
            profile::release(&*self.store, &record.profile, &self.options.node).await?;
        }
        self.local.commit(Txn::new().remove(key::network(&record.id))).await?;
        Ok(())
    }

    /// Whether a network's addresses come from this plugin's IPAM, and from where the pool is.
    pub(super) async fn check_in_network(
        &self,
        record: &NetworkRecord,
        ip: IpAddr,
    ) -> Result<(), DriverError> {
        if !record.pools.iter().any(|pool| pool.subnet.contains(ip)) {
            let subnets: Vec<String> = record.pools.iter().map(|pool| pool.subnet.to_string()).collect();
            return Err(refused(format!("{ip} is not inside the network's {}", subnets.join(", "))));
        }
        if record.ipam == IpamKind::Calico {
            let pools = self.ipam.pools().await?;
            if containing(&pools, Cidr::host(ip)).is_none() {
                return Err(refused(format!("no pool contains {ip} any more: its pool was deleted")));
            }
        }
        Ok(())
    }
}

/// Name of the closed pool over a prefix of a network with Docker's IPAM.
fn docker_pool_name(id: &NetworkId, subnet: Cidr) -> String {
    let id = id.short().to_lowercase().replace('_', "-");
    format!("docker-ipam-{}-{}", id.trim_matches('-'), name_part(subnet))
}

fn parse_pool(data: &IpamData, ipam: IpamKind) -> Result<NetworkPool, DriverError> {
    let subnet = match PoolId::parse(&data.pool) {
        Ok(id) => id.subnet(),
        Err(_) => Cidr::parse_masking(&data.pool)?,
    };
    if ipam == IpamKind::Docker && subnet.prefix_len() == 0 {
        return Err(refused("a network needs an IPv4 or an IPv6 prefix; the null IPAM driver gives none"));
    }
    let address = |text: &str| -> Result<IpAddr, DriverError> {
        let ip = text.split('/').next().unwrap_or(text);
        ip.parse().map_err(|_| refused(format!("{text:?} is not an IP address")))
    };
    let aux = data.aux_addresses.values().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
    let gateway = match data.gateway.as_str() {
        "" => None,
        text => Some(address(text)?),
    };
    // Our own answer, not the user's wish.
    let gateway = gateway.filter(|ip| subnet.prefix_len() > 0 && subnet.contains(*ip));
    Ok(NetworkPool { subnet, aux, gateway: gateway.filter(|_| ipam == IpamKind::Calico) })
}
