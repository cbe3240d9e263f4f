//! Nodes: what each has, whether it lives, and taking one away that is gone for good.
//!
//! The order is that of Calico's client (`libcalico-go/lib/clientv3/node.go`): addresses and endpoints, blocks, what
//! else names the node, the Node resource last. Each step can be done again, so that a removal that was interrupted is
//! finished by the next, also when the Node resource never existed.

use super::write::WriteError;
use crate::ipam::{Expect, Facts, Ipam, IpamError};
use crate::model::{
    Cidr, HandleId, NodeName, NodeSpec, ORCHESTRATOR, Resource, WorkloadEndpointSpec, endpoint_name_prefix,
    key,
};
use crate::store::{Entry, SharedStore, Store, StoreError, Txn, retry};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What Felix reports of host endpoints.
const FELIX_HOST_STATUS: &str = "/calico/felix/v1/host/";
/// Handles of the addresses of a node's devices (`node/pkg/allocateip/allocateip.go`).
const TUNNEL_HANDLES: [&str; 5] = [
    "ipip-tunnel-addr-",
    "vxlan-tunnel-addr-",
    "vxlan-v6-tunnel-addr-",
    "wireguard-tunnel-addr-",
    "wireguard-v6-tunnel-addr-",
];
/// Kinds of which a resource `node.NAME` is one node's settings.
const SETTINGS: [&str; 2] = ["felixconfigurations", "bgpconfigurations"];

/// Kinds whose `spec.node` says that they are for one node alone.
const OF_ONE_NODE: [&str; 2] = ["bgppeers", "hostendpoints"];

/// What one node has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeReport {
    /// Its Node resource, if there is one.
    pub resource: Option<Value>,
    /// Names of its WorkloadEndpoints.
    pub endpoints: Vec<String>,
    /// Its blocks.
    pub blocks: Vec<Cidr>,
    /// How many addresses were assigned to it, in whichever blocks.
    pub addresses: usize,
    /// Whether its Felix has a heartbeat.
    pub heartbeat: bool,
    /// Settings, BGP peers and host endpoints that are for it alone, as `PLURAL/NAME`.
    pub resources: Vec<String>,
    /// How many reports its Felix left.
    pub reports: usize,
}

/// What was taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeRemoved {
    /// WorkloadEndpoints.
    pub endpoints: usize,
    /// Addresses.
    pub addresses: usize,
    /// Blocks that were deleted.
    pub deleted: usize,
    /// Blocks that stay without an owner, because other nodes have addresses of them.
    pub disowned: usize,
    /// Settings, BGP peers and host endpoints of the node.
    pub resources: usize,
}

/// Every node that anything in the datastore names, by its name.
///
/// # Errors
/// The datastore fails.
pub async fn nodes(store: &dyn Store) -> Result<BTreeMap<String, NodeReport>, StoreError> {
    let entries = store.list(key::CALICO_ROOT).await?.entries;
    let mut found: BTreeMap<String, NodeReport> = BTreeMap::new();
    for entry in &entries {
        if let Some(name) = entry.key.strip_prefix(&key::resources::<NodeSpec>()) {
            let value = serde_json::from_slice(&entry.value).unwrap_or_default();
            found.entry(name.to_owned()).or_default().resource = Some(value);
        } else if let Some(endpoint) = endpoint(entry) {
            found.entry(endpoint.spec.node.clone()).or_default().endpoints.push(endpoint.name().to_owned());
        } else if let Some(name) = reporter(&entry.key) {
            let node = found.entry(name.to_owned()).or_default();
            node.reports += 1;
            node.heartbeat |= key::parse_felix_status(&entry.key).is_some();
        } else if let Some((name, resource)) = of_one_node(entry) {
            found.entry(name).or_default().resources.push(resource.to_owned());
        } else if let Some(name) = key::claimant(&entry.key) {
            found.entry(name.to_owned()).or_default();
        }
    }
    for (cidr, block) in Facts::of(&entries).blocks() {
        let Some(block) = block else { continue };
        if let Some(owner) = block.owner() {
            found.entry(owner.to_owned()).or_default().blocks.push(cidr);
        }
        for held in block.allocations() {
            if let Some(node) = held.node() {
                found.entry(node.to_owned()).or_default().addresses += 1;
            }
        }
    }
    Ok(found)
}

fn endpoint(entry: &Entry) -> Option<Resource<WorkloadEndpointSpec>> {
    entry.key.strip_prefix(&key::resources::<WorkloadEndpointSpec>())?;
    serde_json::from_slice(&entry.value).ok()
}

/// The host whose Felix wrote a report.
fn reporter(key: &str) -> Option<&str> {
    let rest = match key.strip_prefix(key::FELIX_REPORTS) {
        Some(of_region) => of_region.split_once("/host/")?.1,
        None => key.strip_prefix(FELIX_HOST_STATUS)?,
    };
    rest.split_once('/').map(|(host, _)| host)
}

/// The node that a resource is for, if that is one node alone, and the resource.
fn of_one_node(entry: &Entry) -> Option<(String, &str)> {
    let resource = entry.key.strip_prefix(key::RESOURCE_ROOT)?;
    let (plural, name) = resource.split_once('/')?;
    let node = if SETTINGS.contains(&plural) {
        name.strip_prefix("node.")?.to_owned()
    } else if OF_ONE_NODE.contains(&plural) {
        let value: Value = serde_json::from_slice(&entry.value).ok()?;
        value.pointer("/spec/node")?.as_str().filter(|node| !node.is_empty())?.to_owned()
    } else {
        return None;
    };
    Some((node, resource))
}

/// Takes away everything that a node has. Nothing asks here whether the node lives.
///
/// # Errors
/// The datastore fails, or a block is damaged; what was done stays done, and doing it again goes on.
pub async fn remove_node(store: &SharedStore, node: &NodeName) -> Result<NodeRemoved, WriteError> {
    let remover = Remover { store, node, ipam: Ipam::new(store.clone(), node.clone()) };
    let endpoints = remover.endpoints().await?;
    let addresses = remover.addresses().await?;
    let (deleted, disowned) = remover.blocks().await?;
    let resources = remover.resources().await?;
    remover.reports().await?;
    remover.delete(&key::resource::<NodeSpec>(node.as_str())).await?;
    Ok(NodeRemoved { endpoints, addresses, deleted, disowned, resources })
}

struct Remover<'a> {
    store: &'a SharedStore,
    node: &'a NodeName,
    ipam: Ipam,
}

impl Remover<'_> {
    /// Deletes a key as it stands; whether there was one.
    async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        retry::on_conflict(|| async {
            match self.store.get(key).await? {
                None => Ok(false),
                Some(entry) => {
                    self.store.commit(Txn::new().delete(key, entry.revision)).await?;
                    Ok(true)
                }
            }
        })
        .await
    }

    async fn delete_all(&self, keys: impl IntoIterator<Item = String>) -> Result<usize, StoreError> {
        let mut count = 0;
        for key in keys {
            count += usize::from(self.delete(&key).await?);
        }
        Ok(count)
    }

    async fn endpoints(&self) -> Result<usize, StoreError> {
        let entries = self.store.list(&key::resources::<WorkloadEndpointSpec>()).await?.entries;
        // One that cannot be read has its node in its name, as Felix reads it.
        let named = format!(
            "{}{}",
            key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, ""),
            endpoint_name_prefix(self.node)
        );
        let ours = |entry: &&Entry| match endpoint(entry) {
            Some(endpoint) => endpoint.spec.node == self.node.as_str(),
            None => entry.key.starts_with(&named),
        };
        let keys: Vec<String> = entries.iter().filter(ours).map(|entry| entry.key.clone()).collect();
        self.delete_all(keys).await
    }

    /// Gives back what was assigned to the node, and only if it still is.
    async fn addresses(&self) -> Result<usize, IpamError> {
        let mut count = 0;
        for held in self.ipam.allocations_of_node().await? {
            let handle = held.handle.as_deref().and_then(|id| HandleId::new(id).ok());
            let expect = Expect { handle, node: Some(self.node.clone()), sequence: Some(held.sequence) };
            match self.ipam.release(held.ip, &expect).await {
                Ok(_) => count += 1,
                // Somebody else released it and got it in between.
                Err(IpamError::NotOwner { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for prefix in TUNNEL_HANDLES {
            if let Ok(handle) = HandleId::new(&format!("{prefix}{}", self.node)) {
                count += self.ipam.release_by_handle(&handle).await?.len();
            }
        }
        Ok(count)
    }

    async fn blocks(&self) -> Result<(usize, usize), WriteError> {
        let before = self.owned().await?;
        self.ipam.release_node().await?;
        // Blocks that the node lost its claim on.
        for cidr in self.owned().await? {
            self.ipam.release_affinity(cidr, false).await?;
        }
        self.delete(&key::node_marker(self.node)).await?;
        let left: BTreeSet<Cidr> = self.all_blocks().await?.into_iter().map(|(cidr, _)| cidr).collect();
        let disowned = before.iter().filter(|cidr| left.contains(cidr)).count();
        Ok((before.len() - disowned, disowned))
    }

    async fn owned(&self) -> Result<Vec<Cidr>, StoreError> {
        let all = self.all_blocks().await?;
        let ours = all.into_iter().filter(|(_, owner)| owner.as_deref() == Some(self.node.as_str()));
        Ok(ours.map(|(cidr, _)| cidr).collect())
    }

    async fn all_blocks(&self) -> Result<Vec<(Cidr, Option<String>)>, StoreError> {
        let facts = Facts::of(&self.store.list(key::BLOCK_ROOT).await?.entries);
        let owner = |(cidr, block): (Cidr, Option<&crate::ipam::block::Block>)| {
            (cidr, block.and_then(|block| block.owner().map(str::to_owned)))
        };
        Ok(facts.blocks().map(owner).collect())
    }

    /// The node's own settings, the BGP peers that are for it alone, the host endpoints on its interfaces.
    async fn resources(&self) -> Result<usize, StoreError> {
        let of_node = |entry: &&Entry| of_one_node(entry).is_some_and(|(node, _)| node == self.node.as_str());
        let mut keys: Vec<String> = Vec::new();
        for plural in SETTINGS.iter().chain(&OF_ONE_NODE) {
            let entries = self.store.list(&format!("{}{plural}/", key::RESOURCE_ROOT)).await?.entries;
            keys.extend(entries.iter().filter(of_node).map(|entry| entry.key.clone()));
        }
        self.delete_all(keys).await
    }

    /// What the node's Felix reported of itself and its endpoints: keys without a lease outlive it.
    async fn reports(&self) -> Result<usize, StoreError> {
        let ours = |entry: &&Entry| reporter(&entry.key) == Some(self.node.as_str());
        let mut keys: Vec<String> = Vec::new();
        for root in [key::FELIX_REPORTS.to_owned(), format!("{FELIX_HOST_STATUS}{}/", self.node)] {
            let entries = self.store.list(&root).await?.entries;
            keys.extend(entries.iter().filter(ours).map(|entry| entry.key.clone()));
        }
        self.delete_all(keys).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_of_the_host_in_its_key_and_of_no_other() {
        for report in ["status", "last_reported_status", "workload/x/y/endpoint/eth0"] {
            let key = format!("/calico/felix/v2/no-region/host/docker-1/{report}");
            assert_eq!(reporter(&key), Some("docker-1"), "{key}");
        }
        assert_eq!(reporter("/calico/felix/v2/no-region/host/docker-11/status"), Some("docker-11"));
        assert_eq!(reporter("/calico/felix/v1/host/docker-1/endpoint/eth0"), Some("docker-1"));
        assert_eq!(reporter("/calico/felix/v1/config/LogSeverity"), None);
    }
}
