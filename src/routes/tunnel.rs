//! This node's tunnel addresses: taken from IPAM as calico/node does (`node/pkg/allocateip`), told in the Node
//! resource, given back when no pool needs them.

use super::view::{Encap, View};
use crate::ipam::{Ipam, IpamError, Owner};
use crate::model::{
    Cidr, ClusterInformationSpec, FelixConfigurationSpec, HandleId, IpVersion, NodeName, NodeSpec,
    ObjectMeta, Resource, key,
};
use crate::selector::Selector;
use crate::store::{Store, StoreError, Txn, retry, typed};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

/// The VXLAN network of a cluster that this plugin made. Calico's default, 4096, is the first that Docker's swarm gives to
/// its own overlay networks, on the same UDP port: `ingress` has it on every swarm.
pub const FREE_VNI: u32 = 4_242_424;

/// ClusterInformation's `clusterType` where no other Calico component has been.
const OWN_CLUSTER: &str = "libnetwork";

/// Why an address is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error("no {version} tunnel address for this node: {source}")]
    Ipam { version: IpVersion, source: IpamError },
    #[error("tell this node's {version} tunnel address: {source}")]
    Store { version: IpVersion, source: StoreError },
    #[error("node {0} has no Node resource, so it gets no tunnel address")]
    NoNode(NodeName),
}

/// What a version needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) version: IpVersion,
    /// Pools in which an address may lie.
    valid: Vec<Cidr>,
    /// Pools from which one may be taken, in the order of their names.
    candidates: Vec<Cidr>,
}

/// What a version needs by the pools and this node's labels. Pure.
pub(super) fn need(view: &View, version: IpVersion) -> Need {
    let labels = view.nodes.get(&view.me).map(|node| node.labels.clone()).unwrap_or_default();
    let vxlan = || {
        let of_version = view.pools.values().filter(move |pool| pool.cidr.version() == version);
        of_version.filter(|pool| matches!(pool.encap, Encap::Vxlan { .. }))
    };
    let selected = |selector: &str| Selector::parse(selector).is_ok_and(|selector| selector.matches(&labels));
    let candidates = vxlan().filter(|pool| pool.tunnels && selected(&pool.node_selector));
    Need {
        version,
        valid: vxlan().map(|pool| pool.cidr).collect(),
        candidates: candidates.map(|pool| pool.cidr).collect(),
    }
}

/// Sees to the addresses of one node.
#[derive(Debug, Clone)]
pub(super) struct Tunnels {
    pub(super) store: crate::store::SharedStore,
    pub(super) ipam: Ipam,
    pub(super) node: NodeName,
}

impl Tunnels {
    fn owner(&self, version: IpVersion) -> Result<Owner, TunnelError> {
        let (prefix, kind) = match version {
            IpVersion::V4 => ("vxlan-tunnel-addr", "vxlanTunnelAddress"),
            IpVersion::V6 => ("vxlan-v6-tunnel-addr", "vxlanV6TunnelAddress"),
        };
        let handle = HandleId::new(&format!("{prefix}-{}", self.node)).map_err(|error| {
            let why = error.to_string();
            TunnelError::Store { version, source: StoreError::Invalid { why } }
        })?;
        Ok(Owner { handle, attributes: BTreeMap::from([("type".to_owned(), kind.to_owned())]) })
    }

    /// Makes the address of one version be there and told, or be given back; can be repeated.
    pub(super) async fn settle(&self, need: &Need) -> Result<(), TunnelError> {
        let version = need.version;
        let stored = |source| TunnelError::Store { version, source };
        let owner = self.owner(version)?;
        let told = self
            .told(version)
            .await
            .map_err(stored)?
            .ok_or_else(|| TunnelError::NoNode(self.node.clone()))?;
        let wanted = if need.valid.is_empty() {
            self.give_back(version, &owner).await?;
            None
        } else {
            self.choose(need, &owner, told).await?
        };
        if wanted == told { Ok(()) } else { self.tell(version, wanted).await.map_err(stored) }
    }

    async fn give_back(&self, version: IpVersion, owner: &Owner) -> Result<(), TunnelError> {
        let released = self.ipam.release_by_handle(&owner.handle).await;
        let released = released.map_err(|source| TunnelError::Ipam { version, source })?;
        released.iter().for_each(|ip| log::info!("tunnel address {ip} is given back"));
        Ok(())
    }

    /// The address that this node has, or a new one; `None` if no pool may serve one.
    async fn choose(
        &self,
        need: &Need,
        owner: &Owner,
        told: Option<IpAddr>,
    ) -> Result<Option<IpAddr>, TunnelError> {
        let version = need.version;
        let failed = |source| TunnelError::Ipam { version, source };
        let valid = |ip: IpAddr| need.valid.iter().any(|pool| pool.contains(ip));
        let handle = owner.handle.as_str();
        if let Some(ip) = told.filter(|ip| valid(*ip)) {
            let holder = self.ipam.lookup(ip).await.map_err(failed)?;
            if holder.is_some_and(|holder| holder.handle.as_deref() == Some(handle)) {
                return Ok(Some(ip));
            }
        }
        // One that was taken and not told, because the process ended in between.
        let held = self.ipam.allocations_of_node().await.map_err(failed)?;
        let of_version = held.iter().filter(|held| IpVersion::of(held.ip) == version);
        let mut own = of_version.filter(|held| held.handle.as_deref() == Some(handle));
        if let Some(found) = own.find(|held| valid(held.ip)) {
            return Ok(Some(found.ip));
        }
        self.give_back(version, owner).await?;
        let mut last = None;
        for pool in &need.candidates {
            match self.ipam.auto_assign_tunnel(*pool, owner).await {
                Ok(ip) => {
                    log::info!("tunnel address {ip} is taken from pool {pool}");
                    return Ok(Some(ip));
                }
                Err(error) => last = Some(error),
            }
        }
        last.map_or(Ok(None), |source| Err(failed(source)))
    }

    async fn told(&self, version: IpVersion) -> Result<Option<Option<IpAddr>>, StoreError> {
        let key = key::resource::<NodeSpec>(self.node.as_str());
        let node = typed::get::<Resource<NodeSpec>>(&*self.store, &key).await?;
        Ok(node.map(|node| {
            let spec = node.value.spec;
            let text = match version {
                IpVersion::V4 => spec.ipv4_vxlan_tunnel_addr,
                IpVersion::V6 => spec.ipv6_vxlan_tunnel_addr,
            };
            text.and_then(|text| text.parse().ok())
        }))
    }

    async fn tell(&self, version: IpVersion, ip: Option<IpAddr>) -> Result<(), StoreError> {
        retry::on_conflict(|| async {
            let key = key::resource::<NodeSpec>(self.node.as_str());
            let Some(mut node) = typed::get::<Resource<NodeSpec>>(&*self.store, &key).await? else {
                return Ok(());
            };
            let text = ip.map(|ip| ip.to_string());
            match version {
                IpVersion::V4 => node.value.spec.ipv4_vxlan_tunnel_addr = text,
                IpVersion::V6 => node.value.spec.ipv6_vxlan_tunnel_addr = text,
            }
            let value = typed::encode(&key, &node.value)?;
            self.store.commit(Txn::new().update(&key, node.revision, value)).await.map(drop)
        })
        .await
    }

    /// Gives a cluster that only this plugin has made a VXLAN network that Docker does not use. Where Calico was, or where
    /// somebody has made settings, they stay.
    pub(super) async fn choose_vni(&self) -> Result<(), StoreError> {
        let store: &dyn Store = &*self.store;
        let information = key::resource::<ClusterInformationSpec>("default");
        let cluster = typed::get::<Resource<ClusterInformationSpec>>(store, &information).await?;
        let kind = cluster.and_then(|cluster| cluster.value.spec.cluster_type);
        if kind.as_deref() != Some(OWN_CLUSTER) {
            return Ok(());
        }
        let timestamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let metadata = ObjectMeta::created("default", uuid::Uuid::new_v4().to_string(), timestamp);
        let spec = FelixConfigurationSpec { vxlan_vni: Some(FREE_VNI), ..FelixConfigurationSpec::default() };
        let key = key::resource::<FelixConfigurationSpec>("default");
        let value = typed::encode(&key, &Resource::new(metadata, spec))?;
        match store.commit(Txn::new().create(&key, value)).await {
            Ok(_) => log::info!("created FelixConfiguration default (vxlanVNI {FREE_VNI})"),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
