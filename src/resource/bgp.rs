//! Hosts and their BGP: what is wrong with HostEndpoints, BGPConfigurations, BGPPeers and BGPFilters, whose fields have
//! their forms (`libcalico-go/lib/validator/v3/validator.go`, the rules beside the API's types).

use super::shape::{Problems, has_ports, is_given};
use crate::model::{Cidr, IfaceName, IpVersion};
use serde_json::{Map, Value};
use std::net::{IpAddr, SocketAddr};

type Spec = Map<String, Value>;

fn text<'a>(spec: &'a Spec, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn has(spec: &Spec, field: &str) -> bool {
    is_given(spec.get(field))
}

pub(super) fn host_endpoint(spec: &Spec, problems: &mut Problems) {
    if !has(spec, "node") {
        problems.say("spec.node", "the name of a node is expected");
    }
    let interface = text(spec, "interfaceName");
    if interface.is_empty() && !has(spec, "expectedIPs") {
        problems.say("spec.interfaceName", "it or expectedIPs is expected");
    }
    if !interface.is_empty() && interface != "*" && IfaceName::new(interface).is_err() {
        problems.say(
            "spec.interfaceName",
            format!("the name of an interface or * is expected, not {interface:?}"),
        );
    }
    let ports = spec.get("ports").and_then(Value::as_array);
    for (index, port) in ports.into_iter().flatten().enumerate() {
        for field in ["name", "protocol", "port"] {
            if port.get(field).is_none_or(Value::is_null) {
                problems.say(&format!("spec.ports[{index}].{field}"), "it is missing");
            }
        }
        if port.get("protocol").is_some_and(|protocol| !protocol.is_null() && !has_ports(protocol)) {
            problems.say(
                &format!("spec.ports[{index}].protocol"),
                "TCP, UDP or SCTP is expected, which have ports",
            );
        }
    }
}

pub(super) fn configuration(name: &str, spec: &Spec, problems: &mut Problems) {
    for field in ["nodeToNodeMeshEnabled", "asNumber"] {
        if has(spec, field) && name != "default" {
            problems.say(&format!("spec.{field}"), "it can be set in default only");
        }
    }
    for field in ["nodeMeshPassword", "nodeMeshMaxRestartTime"] {
        if has(spec, field) && name != "default" {
            problems.say(&format!("spec.{field}"), "it can be set in default only");
        }
        if has(spec, field) && spec.get("nodeToNodeMeshEnabled") == Some(&Value::Bool(false)) {
            problems.say(&format!("spec.{field}"), "it means nothing without nodeToNodeMeshEnabled");
        }
    }
    let defined: Vec<&str> = spec
        .get("communities")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|community| community.get("name").and_then(Value::as_str))
        .collect();
    let advertised = spec.get("prefixAdvertisements").and_then(Value::as_array);
    for (index, prefix) in advertised.into_iter().flatten().enumerate() {
        let path = format!("spec.prefixAdvertisements[{index}]");
        if prefix.get("cidr").is_none_or(Value::is_null) {
            problems.say(&format!("{path}.cidr"), "an IP prefix is expected");
        }
        let words = prefix.get("communities").and_then(Value::as_array);
        for word in words.into_iter().flatten().filter_map(Value::as_str) {
            if !word.contains(':') && !defined.contains(&word) {
                problems.say(
                    &format!("{path}.communities"),
                    format!("{word:?} is not defined in spec.communities"),
                );
            }
        }
    }
}

pub(super) fn peer(spec: &Spec, problems: &mut Problems) {
    if has(spec, "node") && has(spec, "nodeSelector") {
        problems.say("spec.nodeSelector", "it cannot stand together with node");
    }
    let by_address = has(spec, "peerIP") || spec.get("asNumber").is_some_and(|number| *number != 0);
    if by_address && has(spec, "peerSelector") {
        problems.say("spec.peerSelector", "it cannot stand together with peerIP or asNumber");
    }
    if has(spec, "localWorkloadSelector") && (has(spec, "peerIP") || has(spec, "peerSelector")) {
        problems.say("spec.localWorkloadSelector", "it cannot stand together with peerIP or peerSelector");
    }
    let address = text(spec, "peerIP");
    if !address.is_empty() && peer_address(address).is_none() {
        let why =
            format!("an address is expected, with a port as 10.0.0.1:179 or [fd00::1]:179, not {address:?}");
        problems.say("spec.peerIP", why);
    }
    let gateway = text(spec, "reachableBy");
    match (gateway.parse::<IpAddr>(), peer_address(address)) {
        _ if gateway.is_empty() => {}
        (Ok(gateway), Some(peer)) if IpVersion::of(gateway) == IpVersion::of(peer) => {}
        (_, _) => problems.say("spec.reachableBy", "an address of peerIP's version is expected"),
    }
    if has(spec, "nextHopMode") && spec.get("keepOriginalNextHop") == Some(&Value::Bool(true)) {
        problems.say("spec.nextHopMode", "it cannot stand together with keepOriginalNextHop");
    }
}

/// The address of a peer, with or without a port.
fn peer_address(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().ok();
    bare.or_else(|| text.parse::<SocketAddr>().ok().filter(|it| it.port() > 0).map(|it| it.ip()))
}

pub(super) fn filter(spec: &Spec, problems: &mut Problems) {
    let lists = [
        ("exportV4", IpVersion::V4),
        ("importV4", IpVersion::V4),
        ("exportV6", IpVersion::V6),
        ("importV6", IpVersion::V6),
    ];
    for (field, version) in lists {
        let rules = spec.get(field).and_then(Value::as_array);
        for (index, rule) in rules.into_iter().flatten().filter_map(Value::as_object).enumerate() {
            filter_rule(rule, &format!("spec.{field}[{index}]"), version, problems);
        }
    }
}

fn filter_rule(rule: &Spec, path: &str, version: IpVersion, problems: &mut Problems) {
    if !has(rule, "action") {
        problems.say(&format!("{path}.action"), "Accept or Reject is expected");
    }
    if has(rule, "cidr") != has(rule, "matchOperator") {
        problems.say(&format!("{path}.matchOperator"), "it and cidr are set together or not at all");
    }
    if has(rule, "prefixLength") && !has(rule, "cidr") {
        problems.say(&format!("{path}.prefixLength"), "it needs cidr");
    }
    if let Ok(cidr) = Cidr::parse_masking(text(rule, "cidr"))
        && cidr.version() != version
    {
        problems.say(&format!("{path}.cidr"), format!("an {version} prefix is expected, not {cidr}"));
    }
    for end in ["min", "max"] {
        let length = rule.get("prefixLength").and_then(|it| it.get(end)).and_then(Value::as_u64);
        if length.is_some_and(|length| length > u64::from(version.bits())) {
            problems.say(&format!("{path}.prefixLength.{end}"), format!("{} is the most", version.bits()));
        }
    }
    if has(rule, "operations") && text(rule, "action") != "Accept" {
        problems.say(&format!("{path}.operations"), "they go with action Accept only");
    }
    let operations = rule.get("operations").and_then(Value::as_array);
    for (index, operation) in operations.into_iter().flatten().enumerate() {
        if operation.as_object().is_none_or(|fields| fields.len() != 1) {
            problems.say(&format!("{path}.operations[{index}]"), "exactly one operation is expected");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::resource::{doubts, problems, read};

    #[test]
    fn what_calicoctl_takes_is_taken() {
        for (kind, name, spec) in [
            ("HostEndpoint", "a", "{node: docker-1, interfaceName: eth0, expectedIPs: [172.17.8.101]}"),
            (
                "HostEndpoint",
                "a",
                "{node: docker-1, interfaceName: '*', ports: [{name: web, protocol: TCP, port: 80}]}",
            ),
            ("BGPConfiguration", "default", "{}"),
            (
                "BGPConfiguration",
                "default",
                "{logSeverityScreen: Info, nodeToNodeMeshEnabled: true, asNumber: 63400, listenPort: 178, serviceClusterIPs: [{cidr: 10.96.0.0/12}], communities: [{name: bgp-large, value: '63400:300:100'}], prefixAdvertisements: [{cidr: 172.218.4.0/26, communities: [bgp-large, '63400:120']}]}",
            ),
            ("BGPPeer", "rr1", "{node: docker-1, peerIP: 172.17.8.1, asNumber: 64512}"),
            ("BGPPeer", "rr1", "{peerIP: '[fd00::1]:1790', asNumber: '1.10', filters: [f]}"),
            ("BGPPeer", "rr1", "{peerIP: 10.0.0.1, maxRestartTime: 1h2m3.5s, keepaliveTime: 20s}"),
            ("BGPConfiguration", "default", "{ipv4NormalRoutePriority: 1024, ipv6NormalRoutePriority: 512}"),
            ("BGPPeer", "rr1", "{nodeSelector: all(), peerSelector: has(rr)}"),
            (
                "BGPFilter",
                "f",
                "{exportV4: [{action: Accept, matchOperator: In, cidr: 77.0.0.0/16, prefixLength: {min: 24}, source: RemotePeers, interface: eth0}], importV6: [{action: Reject, matchOperator: NotEqual, cidr: '5000::/64'}]}",
            ),
            ("IPAMConfiguration", "default", "{strictAffinity: false, autoAllocateBlocks: true}"),
        ] {
            assert_eq!(problems(kind, name, spec), Vec::<String>::new(), "{kind} {spec}");
        }
    }

    #[test]
    fn host_endpoints_that_calicoctl_refuses_are_refused() {
        for (spec, part) in [
            ("{interfaceName: eth0}", "spec.node: "),
            ("{node: b}", "spec.interfaceName: it or expectedIPs"),
            ("{node: b, expectedIPs: [10.0.0.0/8]}", "spec.expectedIPs[0]: an IP address"),
            (
                "{node: b, interfaceName: '*', ports: [{name: Web, protocol: TCP, port: 80}]}",
                "spec.ports[0].name: a port's name of up to 15 lower case letters",
            ),
            (
                "{node: b, interfaceName: '*', ports: [{name: ping, protocol: ICMP, port: 8}]}",
                "spec.ports[0].protocol: TCP, UDP or SCTP is expected",
            ),
        ] {
            let found = problems("HostEndpoint", "a", spec);
            assert!(found.len() == 1 && found[0].starts_with(part), "{spec}: {found:?}");
        }
    }

    #[test]
    fn what_calicoctl_refuses_is_refused() {
        for (kind, name, spec, part) in [
            ("BGPConfiguration", "other", "{}", "metadata.name: default is expected"),
            ("BGPConfiguration", "default", "{asNumber: 4294967296}", "spec.asNumber: an AS number"),
            (
                "BGPConfiguration",
                "node.a",
                "{asNumber: 64512}",
                "spec.asNumber: it can be set in default only",
            ),
            ("BGPPeer", "a", "{peerIP: 10.0.0.1, maxRestartTime: '10'}", "a time with its unit such as 90s"),
            ("BGPConfiguration", "node.a", "{nodeMeshMaxRestartTime: 90s}", "it can be set in default only"),
            (
                "BGPConfiguration",
                "default",
                "{prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [x]}]}",
                "is not defined in spec.communities",
            ),
            ("BGPPeer", "a", "{node: a, nodeSelector: all()}", "spec.nodeSelector: it cannot stand together"),
            ("BGPPeer", "a", "{peerIP: 10.0.0.1, peerSelector: all()}", "spec.peerSelector: it cannot stand"),
            ("BGPPeer", "a", "{peerIP: '10.0.0:1'}", "spec.peerIP: an address is expected"),
            ("BGPPeer", "a", "{peerIp: 10.0.0.1}", "spec.peerIp: there is no such field; peerIP is meant"),
            ("IPAMConfiguration", "default", "{}", "spec.autoAllocateBlocks: it must be true"),
            (
                "IPAMConfiguration",
                "default",
                "{autoAllocateBlocks: true, maxBlocksPerHost: 4}",
                "spec.maxBlocksPerHost: a limit needs strictAffinity",
            ),
        ] {
            let found = problems(kind, name, spec);
            assert!(found.len() == 1 && found[0].contains(part), "{kind} {spec}: {found:?}");
        }
    }

    #[test]
    fn filters_that_calicoctl_refuses_are_refused() {
        for (spec, part) in [
            ("{exportV4: [{action: Accept, cidr: 10.0.0.0/8}]}", "matchOperator: it and cidr"),
            ("{exportV4: [{matchOperator: In, cidr: 10.0.0.0/8}]}", "action: Accept or Reject"),
            (
                "{importV6: [{action: Reject, matchOperator: In, cidr: 10.0.0.0/8}]}",
                "an IPv6 prefix is expected",
            ),
            (
                "{exportV4: [{action: Accept, matchOperator: In, cidr: 10.0.0.1/8}]}",
                "the host's bits are set: 10.0.0.0/8 is expected",
            ),
        ] {
            let found = problems("BGPFilter", "a", spec);
            assert!(found.len() == 1 && found[0].contains(part), "{spec}: {found:?}");
        }
    }

    #[test]
    fn an_ipam_configuration_is_doubted_because_ipam_does_not_read_it() {
        let text = "kind: IPAMConfiguration\napiVersion: projectcalico.org/v3\nmetadata: {name: default}\nspec: {autoAllocateBlocks: true}\n";
        assert!(doubts(&read(text).unwrap()[0])[0].contains("ipam configure"));
    }
}
