//! Where things stand in the datastore: the only file that knows a path.
//!
//! Calico's own keys are those of `libcalico-go/lib/backend/model`; what only this plugin on this node needs (its
//! Docker networks) stands below [`LOCAL_ROOT`], which no Calico component reads and which never goes to a shared
//! datastore.

use super::meta::Kind;
use super::{Cidr, EndpointId, HandleId, IpVersion, NetworkId, NodeName};

/// Everything that Calico owns.
pub const CALICO_ROOT: &str = "/calico/";
/// All v3 resources.
pub const RESOURCE_ROOT: &str = "/calico/resources/v3/projectcalico.org/";
/// All of IPAM's data.
pub const IPAM_ROOT: &str = "/calico/ipam/v2/";
/// All allocation blocks, both versions.
pub const BLOCK_ROOT: &str = "/calico/ipam/v2/assignment/";
/// All handles.
pub const HANDLE_ROOT: &str = "/calico/ipam/v2/handle/";
/// The IPAM configuration that IPAM itself reads (datamodel 1.14); only the operator's `ipam configure` writes it.
pub const IPAM_CONFIG: &str = "/calico/ipam/v2/config";
/// What this plugin keeps for itself on this node.
pub const LOCAL_ROOT: &str = "/libnetwork/v1/";

const HOST_ROOT: &str = "/calico/ipam/v2/host/";

/// Prefix of all resources of a kind.
#[must_use]
pub fn resources<S: Kind>() -> String {
    format!("{RESOURCE_ROOT}{}/", S::PLURAL)
}

/// A cluster-scoped resource.
#[must_use]
pub fn resource<S: Kind>(name: &str) -> String {
    format!("{RESOURCE_ROOT}{}/{name}", S::PLURAL)
}

/// A namespaced resource.
#[must_use]
pub fn namespaced<S: Kind>(namespace: &str, name: &str) -> String {
    format!("{RESOURCE_ROOT}{}/{namespace}/{name}", S::PLURAL)
}

/// An allocation block.
#[must_use]
pub fn block(cidr: &Cidr) -> String {
    format!("{}{}", blocks(cidr.version()), cidr.key_text())
}

/// Prefix of all blocks of one IP version.
#[must_use]
pub fn blocks(version: IpVersion) -> String {
    format!("{BLOCK_ROOT}{}/block/", version.key_word())
}

/// The block that a key names, if it is a block's key.
#[must_use]
pub fn parse_block(key: &str) -> Option<Cidr> {
    let (version, block) = key.strip_prefix(BLOCK_ROOT)?.split_once("/block/")?;
    Cidr::from_key_text(block).filter(|cidr| cidr.version().key_word() == version)
}

/// One node's claim on a block.
#[must_use]
pub fn affinity(node: &NodeName, block: &Cidr) -> String {
    format!("{}{}", affinities(node, block.version()), block.key_text())
}

/// Prefix of one node's claims.
#[must_use]
pub fn host(node: &NodeName) -> String {
    format!("{HOST_ROOT}{node}/")
}

/// Prefix of one node's claims of one IP version.
#[must_use]
pub fn affinities(node: &NodeName, version: IpVersion) -> String {
    format!("{HOST_ROOT}{node}/{}/block/", version.key_word())
}

/// What old Calicos wrote when a node first took an address; nothing reads it.
#[must_use]
pub fn node_marker(node: &NodeName) -> String {
    format!("{HOST_ROOT}{node}")
}

/// The node that a key below IPAM's hosts is of: a claim's, or the node's own.
#[must_use]
pub fn claimant(key: &str) -> Option<&str> {
    key.strip_prefix(HOST_ROOT)?.split('/').next().filter(|node| !node.is_empty())
}

/// The node and block that an affinity key names.
#[must_use]
pub fn parse_affinity(key: &str) -> Option<(NodeName, Cidr)> {
    let mut parts = key.strip_prefix(HOST_ROOT)?.split('/');
    let node = NodeName::new(parts.next()?).ok()?;
    let version = parts.next()?;
    let block = parts.next().filter(|word| *word == "block").and_then(|_| parts.next())?;
    let cidr = Cidr::from_key_text(block).filter(|cidr| cidr.version().key_word() == version)?;
    parts.next().is_none().then_some((node, cidr))
}

/// A handle.
#[must_use]
pub fn handle(id: &HandleId) -> String {
    format!("{HANDLE_ROOT}{id}")
}

/// The handle that a key names.
#[must_use]
pub fn parse_handle(key: &str) -> Option<HandleId> {
    HandleId::new(key.strip_prefix(HANDLE_ROOT)?).ok()
}

/// This host's random ID, in its own state.
pub const MACHINE: &str = "/libnetwork/v1/machine";

/// Felix's configuration: `default`, and `node.NAME` for one node, which wins.
#[must_use]
pub fn felix_configuration(name: &str) -> String {
    format!("{RESOURCE_ROOT}felixconfigurations/{name}")
}

/// What Felix reports of itself and of workloads: `REGION/host/NODE/...`
/// (`libcalico-go/lib/backend/model/statusreports.go`).
pub const FELIX_REPORTS: &str = "/calico/felix/v2/";
/// The same of Felixes that have an `OpenstackRegion` (`libcalico-go/lib/backend/model/region.go`).
pub const FELIX_REGIONS: &str = "/calico/felix/v2/region-";

/// The heartbeat of a node's Felix, where it has no region: a lease takes it away when Felix does not renew it.
#[must_use]
pub fn felix_status(node: &NodeName) -> String {
    format!("{FELIX_REPORTS}no-region/host/{node}/status")
}

/// The node whose Felix's heartbeat a key is, in any region.
#[must_use]
pub fn parse_felix_status(key: &str) -> Option<&str> {
    let (_, rest) = key.strip_prefix(FELIX_REPORTS)?.split_once("/host/")?;
    rest.strip_suffix("/status").filter(|node| !node.contains('/'))
}

/// One Docker network's record on this node.
#[must_use]
pub fn network(id: &NetworkId) -> String {
    format!("{}{id}", networks())
}

/// Prefix of all Docker networks' records on this node.
#[must_use]
pub fn networks() -> String {
    format!("{LOCAL_ROOT}network/")
}

/// The published ports of one endpoint of this node.
#[must_use]
pub fn ports(id: &EndpointId) -> String {
    format!("{}{id}", all_ports())
}

/// Prefix of the published ports of all endpoints of this node.
#[must_use]
pub fn all_ports() -> String {
    format!("{LOCAL_ROOT}ports/")
}

/// The endpoint whose published ports a key holds.
#[must_use]
pub fn parse_ports(key: &str) -> Option<EndpointId> {
    EndpointId::new(key.strip_prefix(&all_ports())?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{IpPoolSpec, WorkloadEndpointSpec};
    use super::*;

    #[test]
    fn keys_are_calicos() {
        // (1) of tests/conformance.md
        let v4: Cidr = "10.10.0.128/29".parse().unwrap();
        let v6: Cidr = "fd80:24e2:f998:72d6::4c0/122".parse().unwrap();
        let node = NodeName::new("docker-1").unwrap();
        assert_eq!(block(&v4), "/calico/ipam/v2/assignment/ipv4/block/10.10.0.128-29");
        assert_eq!(block(&v6), "/calico/ipam/v2/assignment/ipv6/block/fd80:24e2:f998:72d6::4c0-122");
        assert_eq!(affinity(&node, &v4), "/calico/ipam/v2/host/docker-1/ipv4/block/10.10.0.128-29");
        assert_eq!(resource::<IpPoolSpec>("a"), "/calico/resources/v3/projectcalico.org/ippools/a");
        assert_eq!(
            namespaced::<WorkloadEndpointSpec>("libnetwork", "n"),
            "/calico/resources/v3/projectcalico.org/workloadendpoints/libnetwork/n"
        );
    }

    #[test]
    fn keys_are_read_back() {
        let block_cidr: Cidr = "fd80:24e2:f998:72d6::4c0/122".parse().unwrap();
        let node = NodeName::new("docker-1").unwrap();
        assert_eq!(parse_block(&block(&block_cidr)), Some(block_cidr));
        assert_eq!(parse_affinity(&affinity(&node, &block_cidr)), Some((node, block_cidr)));
        assert_eq!(parse_block("/calico/ipam/v2/assignment/ipv6/block/10.10.0.128-29"), None);
        assert_eq!(parse_affinity("/calico/ipam/v2/host/docker-1"), None);
        for key in
            ["/calico/ipam/v2/host/docker-1", "/calico/ipam/v2/host/docker-1/ipv4/block/10.10.0.128-29"]
        {
            assert_eq!(claimant(key), Some("docker-1"));
        }
        assert_eq!(claimant("/calico/ipam/v2/handle/docker-1"), None);
    }

    #[test]
    fn only_a_heartbeat_says_that_felix_lives() {
        let node = NodeName::new("docker-1").unwrap();
        assert_eq!(parse_felix_status(&felix_status(&node)), Some("docker-1"));
        assert_eq!(parse_felix_status("/calico/felix/v2/region-a/host/docker-1/status"), Some("docker-1"));
        for other in [
            "/calico/felix/v2/no-region/host/docker-1/last_reported_status",
            "/calico/felix/v2/no-region/host/docker-1/workload/x/endpoint/status",
            "/calico/felix/v1/host/docker-1/status",
        ] {
            assert_eq!(parse_felix_status(other), None, "{other}");
        }
    }
}
