//! What this node's Node resource becomes: calico/node's rules (`configureIPsAndSubnets`, `checkConflictingNodes`), with
//! one more. A detected address is noted in an annotation, so that a later detection may change it, and never an
//! address that somebody else set. Pure.

use super::detect::{Seen, detect};
use crate::config::{NodeAddress, NodeAddressConfig, NodeConfig};
use crate::model::{IpVersion, NodeBgpSpec, NodeSpec, Resource};
use ipnetwork::IpNetwork;
use std::net::IpAddr;

/// The annotation that holds the address we detected, by IP version.
pub(super) fn detected_annotation(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "org.projectcalico.docker.detected-ipv4",
        IpVersion::V6 => "org.projectcalico.docker.detected-ipv6",
    }
}

/// The annotation that holds [`super::machine_id`] of the host that wrote the Node last.
pub(super) const MACHINE_ANNOTATION: &str = "org.projectcalico.docker.machine";

/// The annotation by which another host asks whether one lives under the Node's name ([`super::claim`]). Who does takes it away.
pub(super) const ASKED_ANNOTATION: &str = "org.projectcalico.docker.asked-by";

/// What a plan is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) config: &'a NodeConfig,
    pub(super) machine: &'a str,
    /// By IP version: IPv4, IPv6.
    pub(super) seen: [Seen<'a>; 2],
    /// All Nodes but this one.
    pub(super) others: &'a [Resource<NodeSpec>],
}

/// The Node as it shall be, and what is wrong, each in a sentence.
pub(super) fn plan(node: &Resource<NodeSpec>, facts: Facts<'_>) -> (Resource<NodeSpec>, Vec<String>) {
    let mut planned = node.clone();
    let mut bgp = planned.spec.bgp.take().unwrap_or_default();
    let mut problems = Vec::new();
    let [v4, v6] = facts.seen;
    for (version, seen) in [(IpVersion::V4, v4), (IpVersion::V6, v6)] {
        let config = facts.config.of(version);
        let name = detected_annotation(version);
        let current = address_of(&bgp, version);
        let before = Before { current, detected: node.metadata.annotation(name) };
        let mut after = choose(config, version, before, seen);
        if facts.config.check_conflicts {
            refuse_conflict(&mut after, version, before, facts.others);
        }
        problems.append(&mut after.problems);
        let slot = match version {
            IpVersion::V4 => &mut bgp.ipv4_address,
            IpVersion::V6 => &mut bgp.ipv6_address,
        };
        *slot = after.address;
        annotate(&mut planned, name, after.detected);
    }
    if let Some(number) = facts.config.as_number {
        bgp.as_number = Some(number);
    }
    planned.spec.bgp = Some(bgp).filter(|bgp| *bgp != NodeBgpSpec::default());
    annotate(&mut planned, MACHINE_ANNOTATION, Some(facts.machine.to_owned()));
    annotate(&mut planned, ASKED_ANNOTATION, None);
    (planned, problems)
}

fn annotate(node: &mut Resource<NodeSpec>, name: &str, value: Option<String>) {
    match value {
        Some(value) => node.metadata.annotate(name, value),
        None => {
            node.metadata.annotations.as_mut().and_then(|annotations| annotations.remove(name));
        }
    }
}

/// The address of one IP version, if there is one that is not empty.
pub(super) fn address_of(bgp: &NodeBgpSpec, version: IpVersion) -> Option<&str> {
    let text = match version {
        IpVersion::V4 => bgp.ipv4_address.as_deref(),
        IpVersion::V6 => bgp.ipv6_address.as_deref(),
    };
    text.filter(|text| !text.is_empty())
}

/// The addresses that a Node publishes.
pub(super) fn published(node: &Resource<NodeSpec>) -> impl Iterator<Item = IpAddr> {
    let text = |version| node.spec.bgp.as_ref().and_then(|bgp| address_of(bgp, version));
    let texts = [IpVersion::V4, IpVersion::V6].into_iter().filter_map(text);
    texts.filter_map(|text| text.parse::<IpNetwork>().ok()).map(|network| network.ip())
}

#[derive(Debug, Clone, Copy)]
struct Before<'a> {
    current: Option<&'a str>,
    detected: Option<&'a str>,
}

#[derive(Debug, Default)]
struct After {
    address: Option<String>,
    /// The same, if it is a detected one.
    detected: Option<String>,
    problems: Vec<String>,
}

fn choose(config: &NodeAddressConfig, version: IpVersion, before: Before<'_>, seen: Seen<'_>) -> After {
    let kept = || before.current.map(str::to_owned);
    let ours = before.current.is_none() || before.current == before.detected;
    let mut after = match &config.address {
        NodeAddress::Detected => detected(config, version, before, seen),
        NodeAddress::WhereUnset if ours => detected(config, version, before, seen),
        NodeAddress::WhereUnset | NodeAddress::Kept => After { address: kept(), ..After::default() },
        NodeAddress::Given(ip, prefix_len) => {
            let on_host = seen.addresses.iter().find(|address| address.address == *ip);
            let whole = version.bits();
            let len = prefix_len.or(on_host.map(|address| address.prefix_len)).unwrap_or(whole);
            let address = IpNetwork::new(*ip, len).ok().map(|network| network.to_string());
            After { address, ..After::default() }
        }
    };
    if after.problems.is_empty() {
        after.problems.extend(after.address.as_deref().and_then(|text| off_host(text, version, seen)));
    }
    after
}

fn detected(config: &NodeAddressConfig, version: IpVersion, before: Before<'_>, seen: Seen<'_>) -> After {
    match detect(&config.detection, version, seen) {
        Ok(found) => {
            let text = Some(found.to_string());
            After { address: text.clone(), detected: text, problems: Vec::new() }
        }
        Err(why) => {
            // An IPv6 address is asked for by nobody who did not set anything.
            let asked = version == IpVersion::V4 || config.address == NodeAddress::Detected;
            let problem = match before.current {
                Some(current) => Some(format!("{why}; the Node keeps {current}")),
                None if asked => {
                    Some(format!("{why}: other nodes have no way to this one; everything on this host works"))
                }
                None => None,
            };
            After {
                address: before.current.map(str::to_owned),
                detected: before
                    .detected
                    .filter(|detected| Some(*detected) == before.current)
                    .map(str::to_owned),
                problems: problem.into_iter().collect(),
            }
        }
    }
}

/// What is wrong with an address that others set, or that was there once.
fn off_host(text: &str, version: IpVersion, seen: Seen<'_>) -> Option<String> {
    let Ok(network) = text.parse::<IpNetwork>() else {
        return Some(format!("the Node's {version} address {text:?} cannot be read"));
    };
    let on_host = seen.addresses.iter().any(|address| address.address == network.ip());
    (!on_host).then(|| format!("the Node's {version} address {text} is on no interface of this host"))
}

/// Two hosts with one address get each other's packets. A detected address is then not published; what people set
/// stays as it was.
fn refuse_conflict(after: &mut After, version: IpVersion, before: Before<'_>, others: &[Resource<NodeSpec>]) {
    let ip = |text: &str| text.parse::<IpNetwork>().ok().map(|network| network.ip());
    let Some(own) = after.address.as_deref().and_then(ip) else { return };
    let same = |node: &&Resource<NodeSpec>| {
        node.spec.bgp.as_ref().and_then(|bgp| address_of(bgp, version)).and_then(ip) == Some(own)
    };
    let Some(other) = others.iter().find(same) else { return };
    after.problems.push(format!(
        "Node {} has the {version} address {own} too: it is not published for this node; if that Node is gone for \
         good, delete it",
        other.name()
    ));
    if after.detected.take().is_some() {
        after.address = None;
    } else {
        after.address = before.current.map(str::to_owned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Detection;
    use crate::model::ObjectMeta;
    use crate::net::HostAddress;
    use serde_json::json;

    fn host_address(text: &str) -> HostAddress {
        let network: IpNetwork = text.parse().unwrap();
        HostAddress {
            index: 2,
            device: "eth0".to_owned(),
            up: true,
            address: network.ip(),
            prefix_len: network.prefix(),
            secondary: false,
            unusable: false,
        }
    }

    fn node(name: &str, spec: serde_json::Value) -> Resource<NodeSpec> {
        Resource::new(
            ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() },
            serde_json::from_value(spec).unwrap(),
        )
    }

    fn run(
        address: NodeAddress,
        before: &Resource<NodeSpec>,
        on_host: &[&str],
        others: &[Resource<NodeSpec>],
    ) -> (Resource<NodeSpec>, String) {
        let ipv4 = NodeAddressConfig { address, detection: Detection::FirstFound };
        let config = NodeConfig { ipv4, ..NodeConfig::default() };
        let addresses: Vec<_> = on_host.iter().map(|text| host_address(text)).collect();
        let seen = Seen { addresses: &addresses, source: None };
        let facts = Facts { config: &config, machine: "m", seen: [seen, seen], others };
        let (after, problems) = plan(before, facts);
        (after, problems.join("\n"))
    }

    fn v4(node: &Resource<NodeSpec>) -> Option<&str> {
        node.spec.bgp.as_ref().and_then(|bgp| address_of(bgp, IpVersion::V4))
    }

    #[test]
    fn a_detected_address_follows_the_host_and_a_set_one_stays() {
        let empty = node("a", json!({}));
        let (first, problems) = run(NodeAddress::WhereUnset, &empty, &["10.0.0.1/24", "fd00::1/64"], &[]);
        assert_eq!((v4(&first), problems.as_str()), (Some("10.0.0.1/24"), ""));
        assert_eq!(first.spec.bgp.as_ref().unwrap().ipv6_address.as_deref(), Some("fd00::1/64"));
        let (moved, _) = run(NodeAddress::WhereUnset, &first, &["10.0.0.2/24"], &[]);
        assert_eq!(v4(&moved), Some("10.0.0.2/24"));
        // Nothing to do: nothing changes.
        assert_eq!(run(NodeAddress::WhereUnset, &moved, &["10.0.0.2/24"], &[]).0, moved);

        let users =
            node("a", json!({"bgp": {"ipv4Address": "192.0.2.1/24", "asNumber": 7}, "wireguard": {}}));
        let (kept, problems) = run(NodeAddress::WhereUnset, &users, &["10.0.0.1/24"], &[]);
        assert_eq!(v4(&kept), Some("192.0.2.1/24"));
        assert!(problems.contains("192.0.2.1/24 is on no interface"), "{problems}");
        assert_eq!(kept.spec, users.spec, "what is not ours is kept");
        assert_eq!(v4(&run(NodeAddress::Detected, &users, &["10.0.0.1/24"], &[]).0), Some("10.0.0.1/24"));
    }

    #[test]
    fn none_and_given_are_calico_nodes() {
        let empty = node("a", json!({}));
        let (kept, problems) = run(NodeAddress::Kept, &empty, &["10.0.0.1/24"], &[]);
        assert_eq!((v4(&kept), problems.as_str(), &kept.spec.bgp), (None, "", &None));
        let given = |len| NodeAddress::Given("10.0.0.9".parse().unwrap(), len);
        assert_eq!(v4(&run(given(None), &empty, &["10.0.0.9/24"], &[]).0), Some("10.0.0.9/24"));
        assert_eq!(v4(&run(given(Some(16)), &empty, &["10.0.0.9/24"], &[]).0), Some("10.0.0.9/16"));
        let (elsewhere, problems) = run(given(None), &empty, &["10.0.0.1/24"], &[]);
        assert_eq!(v4(&elsewhere), Some("10.0.0.9/32"));
        assert!(problems.contains("on no interface"), "{problems}");
    }

    #[test]
    fn a_host_without_address_says_so_and_keeps_what_it_had() {
        let empty = node("a", json!({}));
        let (none, problems) = run(NodeAddress::WhereUnset, &empty, &[], &[]);
        assert_eq!(none.spec.bgp, None);
        assert!(problems.contains("everything on this host works"), "{problems}");
        let (first, _) = run(NodeAddress::WhereUnset, &empty, &["10.0.0.1/24"], &[]);
        let (kept, problems) = run(NodeAddress::WhereUnset, &first, &[], &[]);
        assert_eq!(kept, first, "and it may be detected again");
        assert!(problems.contains("keeps 10.0.0.1/24"), "{problems}");
    }

    #[test]
    fn an_address_that_another_node_has_is_not_published() {
        let empty = node("a", json!({}));
        let other = [node("b", json!({"bgp": {"ipv4Address": "10.0.0.1/16"}}))];
        let (refused, problems) = run(NodeAddress::WhereUnset, &empty, &["10.0.0.1/24"], &other);
        assert_eq!(v4(&refused), None);
        assert!(problems.starts_with("Node b has the IPv4 address 10.0.0.1 too"), "{problems}");
        let (freed, problems) = run(NodeAddress::WhereUnset, &refused, &["10.0.0.1/24"], &[]);
        assert_eq!((v4(&freed), problems.as_str()), (Some("10.0.0.1/24"), ""));
        let users = node("a", json!({"bgp": {"ipv4Address": "10.0.0.1/24"}}));
        assert_eq!(
            v4(&run(NodeAddress::WhereUnset, &users, &["10.0.0.1/24"], &other).0),
            Some("10.0.0.1/24")
        );
    }
}
