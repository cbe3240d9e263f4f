//! What the datastore holds about addresses, read so that nothing that is wrong with one document hides another. Pure.

use super::block::{Block, BlockError};
use super::pools::Pool;
use crate::model::{
    AffinityState, AllocationBlock, BlockAffinity, Cidr, HandleId, IpPoolSpec, IpamHandle, Kind,
    NETWORK_ANNOTATION, NodeName, NodeSpec, Resource, WorkloadEndpointSpec, key,
};
use crate::store::Entry;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The addresses of a Node's own devices, as paths in its spec (datamodel 1.4).
const TUNNELS: [&str; 5] = [
    "/bgp/ipv4IPIPTunnelAddr",
    "/ipv4VXLANTunnelAddr",
    "/ipv6VXLANTunnelAddr",
    "/wireguard/interfaceIPv4Address",
    "/wireguard/interfaceIPv6Address",
];

/// Who uses an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// How sentences call it: `WorkloadEndpoint x`, `tunnel of Node y`.
    pub title: String,
    /// The node on which it is.
    pub node: String,
}

/// A pool as far as it says whose addresses are whose.
#[derive(Debug, Clone)]
pub(super) struct PoolFact {
    pub(super) cidr: Cidr,
    /// Docker's own IPAM hands its addresses out: nothing of it stands in blocks.
    pub(super) dockers: bool,
}

/// Everything that concerns addresses, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub(super) pools: Vec<PoolFact>,
    pub(super) blocks: BTreeMap<Cidr, Result<Block, BlockError>>,
    pub(super) claims: Vec<(NodeName, Cidr, AffinityState)>,
    pub(super) handles: BTreeMap<HandleId, IpamHandle>,
    pub(super) users: BTreeMap<IpAddr, Vec<User>>,
    pub(super) nodes: BTreeSet<String>,
    /// Keys whose values cannot be read, each with the reason.
    pub(super) unreadable: Vec<(String, String)>,
}

impl Facts {
    /// Reads a listing of [`key::CALICO_ROOT`]; what does not concern addresses is passed over.
    #[must_use]
    pub fn of(entries: &[Entry]) -> Self {
        let mut facts = Self::default();
        for entry in entries {
            facts.take(entry);
        }
        facts
    }

    /// The addresses of an endpoint or a node's device, and who has them.
    pub fn users(&self, ip: IpAddr) -> &[User] {
        self.users.get(&ip).map(Vec::as_slice).unwrap_or_default()
    }

    /// All blocks in order; nothing beside one that is damaged.
    pub fn blocks(&self) -> impl Iterator<Item = (Cidr, Option<&Block>)> {
        self.blocks.iter().map(|(cidr, block)| (*cidr, block.as_ref().ok()))
    }

    fn take(&mut self, entry: &Entry) {
        let key = entry.key.as_str();
        if let Some(cidr) = key::parse_block(key) {
            drop(self.blocks.insert(cidr, read_block(cidr, entry)));
        } else if let Some((node, cidr)) = key::parse_affinity(key) {
            match BlockAffinity::decode(&entry.value) {
                Ok(claim) => self.claims.push((node, cidr, claim.state)),
                Err(error) => self.unreadable.push((key.to_owned(), error.to_string())),
            }
        } else if let Some(id) = key::parse_handle(key) {
            if let Some(handle) = self.read(entry) {
                self.handles.insert(id, handle);
            }
        } else if key.starts_with(&key::resources::<IpPoolSpec>()) {
            if let Some(pool) = self.read::<Pool>(entry) {
                let dockers = pool.spec.disabled && pool.metadata.annotation(NETWORK_ANNOTATION).is_some();
                self.pools.push(PoolFact { cidr: pool.spec.cidr, dockers });
            }
        } else if key.starts_with(&key::resources::<WorkloadEndpointSpec>()) {
            if let Some(endpoint) = self.read::<Resource<WorkloadEndpointSpec>>(entry) {
                self.endpoint(&endpoint);
            }
        } else if let Some(name) = key.strip_prefix(&key::resources::<NodeSpec>()) {
            self.nodes.insert(name.to_owned());
            if let Some(node) = self.read::<Value>(entry) {
                self.tunnels(name, &node);
            }
        }
    }

    fn read<T: DeserializeOwned>(&mut self, entry: &Entry) -> Option<T> {
        match serde_json::from_slice(&entry.value) {
            Ok(read) => Some(read),
            Err(error) => {
                self.unreadable.push((entry.key.clone(), error.to_string()));
                None
            }
        }
    }

    fn endpoint(&mut self, endpoint: &Resource<WorkloadEndpointSpec>) {
        let user = User {
            title: format!("{} {}", WorkloadEndpointSpec::KIND, endpoint.name()),
            node: endpoint.spec.node.clone(),
        };
        for net in &endpoint.spec.ip_networks {
            self.uses(net, user.clone());
        }
    }

    fn tunnels(&mut self, name: &str, node: &Value) {
        let spec = node.get("spec").unwrap_or(&Value::Null);
        for path in TUNNELS {
            if let Some(address) = spec.pointer(path).and_then(Value::as_str) {
                let user = User { title: format!("tunnel of Node {name}"), node: name.to_owned() };
                self.uses(address, user);
            }
        }
    }

    fn uses(&mut self, net: &str, user: User) {
        if let Some(ip) = net.split('/').next().and_then(|text| text.parse().ok()) {
            self.users.entry(ip).or_default().push(user);
        }
    }
}

/// A block's document, where it is sound and of the block that its key names.
pub(super) fn read_block(cidr: Cidr, entry: &Entry) -> Result<Block, BlockError> {
    let read = serde_json::from_slice::<AllocationBlock>(&entry.value)
        .map_err(|error| BlockError { cidr, why: error.to_string() })?;
    if read.cidr != cidr {
        return Err(BlockError { cidr, why: format!("its document is of block {}", read.cidr) });
    }
    Block::open(read)
}
