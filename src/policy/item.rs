//! What selectors can match: endpoints and network sets, reduced to labels, addresses and named ports.

use super::entity::{NAMESPACE_LABEL, NAMESPACE_PREFIX, SERVICE_ACCOUNT_LABEL, SERVICE_ACCOUNT_PREFIX};
use super::members::{Element, PortMember};
use super::parts;
use super::resolved::SetSpec;
use super::update::{LabelMap, ResourceId};
use crate::model::{Cidr, EndpointPort, HostEndpointSpec, IfaceName, WorkloadEndpointSpec};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Item {
    /// Its own labels.
    pub(super) labels: LabelMap,
    /// Profiles whose labels it inherits, the first that has a label wins.
    pub(super) profiles: Vec<Arc<str>>,
    pub(super) nets: BTreeSet<Cidr>,
    pub(super) ports: Vec<NamedPort>,
    /// Where it lives, for a workload.
    pub(super) home: Option<Home>,
}

/// Where a workload lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) node: String,
    pub(super) interface: Arc<str>,
}

/// A port with a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamedPort {
    name: String,
    protocol: u8,
    port: u16,
}

/// An item read, and what should be said about it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) item: Option<Item>,
    /// Sentences that go on after the resource's name.
    pub(super) problems: Vec<String>,
}

impl Item {
    /// What it contributes to a set that selects it.
    pub(super) fn members(&self, spec: &SetSpec) -> Vec<Element> {
        let Some(port) = &spec.port else { return self.nets.iter().copied().map(Element::Net).collect() };
        let meant = self.ports.iter().filter(|own| {
            own.name == port.name && port.protocol.is_none_or(|protocol| protocol == own.protocol)
        });
        meant
            .flat_map(|own| {
                self.nets.iter().map(|net| {
                    Element::Port(PortMember { address: net.base(), protocol: own.protocol, port: own.port })
                })
            })
            .collect()
    }
}

/// Reads a WorkloadEndpoint; without addresses it counts as absent, as in Felix.
pub(super) fn workload(id: &ResourceId, labels: &LabelMap, spec: &WorkloadEndpointSpec) -> Reading {
    if spec.ip_networks.is_empty() {
        return Reading::default();
    }
    match try_workload(id, labels, spec) {
        Ok(item) => Reading { item: Some(item), problems: Vec::new() },
        Err(why) => Reading { item: None, problems: vec![format!("is ignored: {why}")] },
    }
}

fn try_workload(id: &ResourceId, labels: &LabelMap, spec: &WorkloadEndpointSpec) -> Result<Item, String> {
    let mut nets = BTreeSet::new();
    for text in &spec.ip_networks {
        let net = Cidr::parse_masking(text).map_err(|error| error.to_string())?;
        if net.prefix_len() != net.version().bits() {
            return Err(format!("ipNetworks holds {text}, which is not a single address"));
        }
        nets.insert(net);
    }
    IfaceName::new(&spec.interface_name).map_err(|error| error.to_string())?;
    // Nobody can claim labels of a namespace or service account by a label of a workload.
    let own =
        |label: &&String| !label.starts_with(NAMESPACE_PREFIX) && !label.starts_with(SERVICE_ACCOUNT_PREFIX);
    let mut labels: LabelMap =
        labels.iter().filter(|(label, _)| own(label)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(account) =
        spec.extra.get("serviceAccountName").and_then(Value::as_str).filter(|it| !it.is_empty())
    {
        labels.insert(SERVICE_ACCOUNT_LABEL.to_owned(), account.to_owned());
    }
    let ports: Vec<EndpointPort> = match spec.extra.get("ports") {
        None | Some(Value::Null) => Vec::new(),
        Some(ports) => serde_json::from_value(ports.clone())
            .map_err(|error| format!("its ports cannot be read: {error}"))?,
    };
    let node = node_of(&id.name).ok_or("its name does not tell its node")?;
    Ok(Item {
        labels,
        profiles: spec.profiles.iter().map(|profile| profile.as_str().into()).collect(),
        nets,
        ports: named_ports(&ports)?,
        home: Some(Home { node, interface: spec.interface_name.as_str().into() }),
    })
}

/// Reads a HostEndpoint as a member of sets.
pub(super) fn host(labels: &LabelMap, spec: &HostEndpointSpec, local_node: &str) -> Reading {
    let mut problems = Vec::new();
    if spec.node == local_node {
        problems.push(
            "names this node, but host endpoints are not supported here: the host's own traffic is not filtered"
                .to_owned(),
        );
    }
    let ports = match named_ports(spec.ports.as_deref().unwrap_or_default()) {
        Ok(ports) => ports,
        Err(why) => return Reading { item: None, problems: vec![format!("is ignored: {why}")] },
    };
    let mut nets = BTreeSet::new();
    for text in spec.expected_ips.as_deref().unwrap_or_default() {
        match text.parse() {
            Ok(address) => {
                nets.insert(Cidr::host(address));
            }
            Err(_) => problems.push(format!("expects the address {text:?}, which is none: it is left out")),
        }
    }
    let profiles = spec.profiles.iter().flatten().map(|profile| profile.as_str().into()).collect();
    Reading { item: Some(Item { labels: labels.clone(), profiles, nets, ports, home: None }), problems }
}

/// Reads a NetworkSet or GlobalNetworkSet. A prefix that is none is left out, as in Calico.
pub(super) fn network_set(id: &ResourceId, labels: &LabelMap, texts: &[String]) -> Reading {
    let mut item = Item { labels: labels.clone(), ..Item::default() };
    if let Some(namespace) = &id.namespace {
        item.labels.insert(NAMESPACE_LABEL.to_owned(), namespace.to_string());
        // A namespaced set inherits the labels of its namespace's profile.
        item.profiles.push(format!("kns.{namespace}").into());
    }
    let mut problems = Vec::new();
    for text in texts {
        match Cidr::parse_masking(text) {
            Ok(net) => {
                item.nets.insert(net);
            }
            Err(error) => problems.push(format!("has a member that is left out: {error}")),
        }
    }
    Reading { item: Some(item), problems }
}

fn named_ports(ports: &[EndpointPort]) -> Result<Vec<NamedPort>, String> {
    let mut named = Vec::new();
    // Ports without a name are Kubernetes' own business.
    for port in ports.iter().filter(|port| !port.name.is_empty()) {
        let protocol = parts::protocol(&port.protocol).map_err(|error| error.to_string())?.number;
        if !parts::has_ports(protocol) {
            return Err(format!("port {:?} is of protocol {}, which has no ports", port.name, port.protocol));
        }
        if port.port == 0 {
            return Err(format!("port {:?} has number 0", port.name));
        }
        named.push(NamedPort { name: port.name.clone(), protocol, port: port.port });
    }
    named.sort_unstable();
    named.dedup();
    Ok(named)
}

/// The node in an endpoint's name: four parts joined by single dashes, a dash in a part doubled. A part never begins
/// or ends with a dash (`libcalico-go/lib/names/workloadendpoint.go`).
fn node_of(name: &str) -> Option<String> {
    const PARTS: usize = 4;
    // No name holds a NUL, so it can stand for a dash that is meant.
    let meant = name.replace("--", "\0");
    let parts: Vec<&str> = meant.split('-').collect();
    let first = parts.first().filter(|part| !part.is_empty())?;
    (parts.len() == PARTS).then(|| first.replace('\0', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::update::ResourceKind;

    fn id(name: &str) -> ResourceId {
        ResourceId::namespaced(ResourceKind::WorkloadEndpoint, "libnetwork", name)
    }

    fn spec(text: &str) -> WorkloadEndpointSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_node_stands_first_in_an_endpoints_name() {
        assert_eq!(node_of("docker--1-libnetwork-libnetwork-736c").as_deref(), Some("docker-1"));
        assert_eq!(node_of("n-k8s-pod--a-eth0").as_deref(), Some("n"));
        assert_eq!(node_of("a-b-c"), None);
        assert_eq!(node_of(""), None);
    }

    #[test]
    fn a_workload_cannot_claim_a_namespaces_labels() {
        let labels = [("pcns.team", "x"), ("pcsa.team", "x"), ("role", "web")];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let text = r#"{"ipNetworks":["10.0.0.1/32"],"interfaceName":"cali1","serviceAccountName":"sa"}"#;
        let item = workload(&id("n-libnetwork-libnetwork-e"), &labels, &spec(text)).item.unwrap();
        let expected = [("projectcalico.org/serviceaccount", "sa"), ("role", "web")];
        assert_eq!(item.labels, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn an_endpoint_that_makes_no_sense_is_ignored_and_says_why() {
        let bad = |text: &str| {
            let read = workload(&id("n-libnetwork-libnetwork-e"), &LabelMap::new(), &spec(text));
            assert_eq!(read.item, None, "{text}");
            read.problems.concat()
        };
        assert_eq!(bad(r#"{"interfaceName":"cali1"}"#), "");
        let text = bad(r#"{"ipNetworks":["10.0.0.0/24"],"interfaceName":"cali1"}"#);
        assert_eq!(text, "is ignored: ipNetworks holds 10.0.0.0/24, which is not a single address");
        assert!(bad(r#"{"ipNetworks":["10.0.0.1"],"interfaceName":"a b"}"#).starts_with("is ignored: "));
        let text =
            r#"{"ipNetworks":["10.0.0.1"],"interfaceName":"c","ports":[{"name":"a","protocol":1,"port":1}]}"#;
        assert!(bad(text).ends_with("which has no ports"));
    }

    #[test]
    fn bad_members_of_a_network_set_are_left_out() {
        let id = ResourceId::namespaced(ResourceKind::NetworkSet, "ns", "s");
        let texts = ["10.0.0.0/8".to_owned(), "nonsense".to_owned(), "fd00::1".to_owned()];
        let read = network_set(&id, &LabelMap::new(), &texts);
        let item = read.item.unwrap();
        assert_eq!(item.nets.len(), 2);
        assert_eq!(item.labels.get(NAMESPACE_LABEL).map(String::as_str), Some("ns"));
        assert_eq!(item.profiles, ["kns.ns".into()]);
        assert_eq!(read.problems.len(), 1);
    }
}
