//! What an endpoint is to be: request and network in, WorkloadEndpoint and Join answer out. Pure.

use super::index::LocalEndpoint;
use super::record::NetworkRecord;
use crate::model::{
    Cidr, EndpointId, EntityRule, IfaceName, IpVersion, MacAddress, NETWORK_ANNOTATION, NetworkId, NodeName,
    ORCHESTRATOR, ObjectMeta, ProfileSpec, Resource, Rule, WorkloadEndpointSpec, endpoint_name,
};
use crate::protocol::{InterfaceName, JoinAnswer, RouteType, StaticRoute};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Prefix of the label by which the endpoints of one network know each other.
const NETWORK_LABEL_PREFIX: &str = "network.projectcalico.org/";
/// A label's name has at most 63 characters, an ID of Docker's has 64 digits.
const NETWORK_LABEL_ID: usize = 32;

/// Where a new endpoint stands.
#[derive(Debug, Clone)]
pub(super) struct EndpointPlan {
    /// Docker's endpoint ID.
    pub(super) id: EndpointId,
    /// Its addresses, at most one of each IP version.
    pub(super) ips: Vec<IpAddr>,
    /// The container interface's address.
    pub(super) mac: MacAddress,
    /// The user's labels.
    pub(super) labels: BTreeMap<String, String>,
    /// The name that the interface is to have in the container.
    pub(super) ifname: Option<IfaceName>,
    /// Options of Docker's that have no effect here.
    pub(super) unused: Vec<String>,
}

/// The WorkloadEndpoint of a new endpoint, as Calico demands it (datamodel 2). Final: Join changes nothing in it.
pub(super) fn endpoint(
    plan: &EndpointPlan,
    network: &NetworkRecord,
    node: &NodeName,
    mut metadata: ObjectMeta,
) -> Resource<WorkloadEndpointSpec> {
    let mut labels = plan.labels.clone();
    labels.insert("projectcalico.org/namespace".to_owned(), ORCHESTRATOR.to_owned());
    labels.insert("projectcalico.org/orchestrator".to_owned(), ORCHESTRATOR.to_owned());
    metadata.name = endpoint_name(node, &plan.id);
    metadata.namespace = Some(ORCHESTRATOR.to_owned());
    metadata.labels = Some(labels);
    metadata.annotate(NETWORK_ANNOTATION, network.id.as_str());
    let spec = WorkloadEndpointSpec {
        orchestrator: ORCHESTRATOR.to_owned(),
        workload: ORCHESTRATOR.to_owned(),
        node: node.to_string(),
        endpoint: plan.id.to_string(),
        ip_networks: plan.ips.iter().map(|ip| Cidr::host(*ip).to_string()).collect(),
        profiles: vec![network.profile.clone()],
        interface_name: plan.id.host_iface().to_string(),
        mac: plan.mac.to_string(),
        ..WorkloadEndpointSpec::default()
    };
    Resource::new(metadata, spec)
}

/// Name of the profile that a network gets for itself.
pub(super) fn profile_name(network: &NetworkId) -> String {
    format!("network-{}", network.as_str().to_lowercase().replace('_', "-"))
}

/// The label that a profile puts on its endpoints. Its prefix is reserved, so that no user's label lets a container
/// into a network.
pub(super) fn network_label(profile: &str) -> String {
    let name = profile.strip_prefix("network-").and_then(|id| id.get(..NETWORK_LABEL_ID)).unwrap_or(profile);
    format!("{NETWORK_LABEL_PREFIX}{name}")
}

/// The profile of a network: in from endpoints of the same network, out to everywhere. The Go plugin forgot
/// `labelsToApply`, so that its networks dropped their own traffic (libnetwork-plugin#190).
pub(super) fn profile(name: &str, metadata: ObjectMeta) -> Resource<ProfileSpec> {
    let label = network_label(name);
    let same_network = EntityRule { selector: Some(format!("has({label})")), ..EntityRule::default() };
    let allow = Rule { action: "Allow".to_owned(), ..Rule::default() };
    let spec = ProfileSpec {
        ingress: Some(vec![Rule { source: Some(same_network), ..allow.clone() }]),
        egress: Some(vec![allow]),
        labels_to_apply: Some(BTreeMap::from([(label, String::new())])),
        ..ProfileSpec::default()
    };
    Resource::new(metadata, spec)
}

/// The `hop`-th next hop of a sandbox: 169.254.1.N or fe80::N. Each endpoint of a sandbox has its own, because two
/// equal connected routes fail on every engine; nothing owns the IPv4 ones, the host answers by proxy ARP.
pub(super) fn next_hop(version: IpVersion, hop: u8) -> IpAddr {
    match version {
        IpVersion::V4 => IpAddr::V4(Ipv4Addr::new(169, 254, 1, hop)),
        IpVersion::V6 => IpAddr::V6(next_hop_v6(hop)),
    }
}

/// The IPv6 next hop, which is an address of the host side of the veth.
pub(super) fn next_hop_v6(hop: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(hop))
}

/// The answer to Join. An internal network gets no gateway (the engine would program it), so its own prefixes are
/// routed instead. An endpoint without IPv6 address gets nothing of IPv6: engines refuse the container otherwise.
pub(super) fn join_answer(network: &NetworkRecord, endpoint: &LocalEndpoint, hop: u8) -> JoinAnswer {
    let mut answer = JoinAnswer {
        interface_name: InterfaceName {
            src_name: endpoint.id.temp_iface().to_string(),
            dst_prefix: network.iface_prefix.clone().unwrap_or_default(),
            dst_name: endpoint.ifname.as_ref().map(ToString::to_string).unwrap_or_default(),
        },
        ..JoinAnswer::default()
    };
    for version in [IpVersion::V4, IpVersion::V6] {
        if !endpoint.ips.iter().any(|ip| IpVersion::of(*ip) == version) {
            continue;
        }
        let gateway = next_hop(version, hop);
        answer.static_routes.push(connected(gateway));
        answer.static_routes.extend(prefix_routes(network, version, gateway));
        match version {
            _ if network.internal => {}
            IpVersion::V4 => answer.gateway = gateway.to_string(),
            IpVersion::V6 => answer.gateway_ipv6 = gateway.to_string(),
        }
    }
    answer
}

fn connected(ip: IpAddr) -> StaticRoute {
    StaticRoute {
        destination: Cidr::host(ip).to_string(),
        route_type: RouteType::Connected,
        next_hop: String::new(),
    }
}

/// Routes to the network's own prefixes where the default route does not serve them: on internal networks, and for
/// IPv6 prefixes of Docker's IPAM. Those make the whole prefix on-link in the container, where nobody answers neighbour
/// solicitations (proxy NDP knows single addresses only); two halves of it are more specific and win.
fn prefix_routes(network: &NetworkRecord, version: IpVersion, gateway: IpAddr) -> Vec<StaticRoute> {
    use super::record::IpamKind;
    let on_link = network.ipam == IpamKind::Docker;
    let through = |destination: Cidr| StaticRoute {
        destination: destination.to_string(),
        route_type: RouteType::NextHop,
        next_hop: gateway.to_string(),
    };
    let pools = network.pools.iter().map(|pool| pool.subnet).filter(|subnet| subnet.version() == version);
    pools
        .flat_map(|subnet| match (on_link, version) {
            (true, IpVersion::V6) => halves(subnet),
            (true, IpVersion::V4) => Vec::new(),
            (false, _) if network.internal => vec![subnet],
            (false, _) => Vec::new(),
        })
        .map(through)
        .collect()
}

fn halves(cidr: Cidr) -> Vec<Cidr> {
    let len = cidr.prefix_len() + 1;
    if len > cidr.version().bits() {
        return Vec::new();
    }
    [cidr.base(), cidr.last()].map(|ip| Cidr::masking(ip, len)).to_vec()
}

/// The endpoint that a stored WorkloadEndpoint of this node describes; `None` if it cannot be one of ours.
pub(super) fn read_endpoint(
    node: &NodeName,
    stored: &Resource<WorkloadEndpointSpec>,
) -> Option<(EndpointId, Option<NetworkId>, Vec<IpAddr>, IfaceName)> {
    let (owner, id) = crate::model::parse_endpoint_name(stored.name())?;
    if owner != *node {
        return None;
    }
    let network = stored.metadata.annotation(NETWORK_ANNOTATION).and_then(|text| NetworkId::new(text).ok());
    let ips = stored
        .spec
        .ip_networks
        .iter()
        .filter_map(|net| Some(Cidr::parse_masking(net).ok()?.base()))
        .collect();
    let iface = IfaceName::new(&stored.spec.interface_name).ok()?;
    Some((id, network, ips, iface))
}

#[cfg(test)]
mod tests {
    use super::super::record::{IpamKind, NetworkPool};
    use super::*;

    fn network(internal: bool, ipam: IpamKind, subnets: &[&str]) -> NetworkRecord {
        let pool = |text: &&str| NetworkPool { subnet: text.parse().unwrap(), aux: vec![], gateway: None };
        NetworkRecord {
            id: NetworkId::new(&"ab12".repeat(16)).unwrap(),
            profile: "web".to_owned(),
            own_profile: false,
            go_label: None,
            ipam,
            internal,
            mtu: None,
            iface_prefix: Some("cali".to_owned()),
            pools: subnets.iter().map(pool).collect(),
        }
    }

    fn id() -> EndpointId {
        EndpointId::new(&"0123456789abcdef".repeat(4)).unwrap()
    }

    fn with(ips: &[&str]) -> LocalEndpoint {
        LocalEndpoint {
            id: id(),
            network: None,
            iface: id().host_iface(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            mac: MacAddress::of_endpoint(&id()),
            ifname: None,
            sandbox: None,
        }
    }

    fn routes(answer: &JoinAnswer) -> Vec<String> {
        answer.static_routes.iter().map(|r| format!("{} {}", r.destination, r.next_hop)).collect()
    }

    #[test]
    fn join_gives_a_gateway_and_the_connected_route_to_it() {
        let network = network(false, IpamKind::Calico, &["10.1.0.0/24"]);
        let answer = join_answer(&network, &with(&["10.1.0.5", "fd00::5"]), 2);
        assert_eq!(answer.gateway, "169.254.1.2");
        assert_eq!(answer.gateway_ipv6, "fe80::2");
        assert_eq!(routes(&answer), ["169.254.1.2/32 ", "fe80::2/128 "]);
        assert_eq!(answer.interface_name.src_name, "temp0123456789a");
    }

    #[test]
    fn an_endpoint_without_ipv6_gets_nothing_of_ipv6() {
        let answer =
            join_answer(&network(false, IpamKind::Calico, &["0.0.0.0/0", "::/0"]), &with(&["10.1.0.5"]), 1);
        assert!(answer.gateway_ipv6.is_empty() && routes(&answer) == ["169.254.1.1/32 "]);
    }

    #[test]
    fn an_internal_network_gets_no_gateway_but_a_route_to_itself() {
        let answer = join_answer(&network(true, IpamKind::Calico, &["10.1.0.0/24"]), &with(&["10.1.0.5"]), 1);
        assert!(answer.gateway.is_empty());
        assert_eq!(routes(&answer), ["169.254.1.1/32 ", "10.1.0.0/24 169.254.1.1"]);
    }

    #[test]
    fn an_on_link_ipv6_prefix_of_dockers_is_overridden_by_its_halves() {
        let answer = join_answer(&network(false, IpamKind::Docker, &["fd01::/64"]), &with(&["fd01::2"]), 1);
        assert_eq!(routes(&answer), ["fe80::1/128 ", "fd01::/65 fe80::1", "fd01::8000:0:0:0/65 fe80::1"]);
    }

    #[test]
    fn the_profile_lets_its_own_endpoints_in() {
        let name = profile_name(&network(false, IpamKind::Calico, &[]).id);
        let profile = profile(&name, ObjectMeta::default());
        let label = network_label(&name);
        assert_eq!(label, format!("network.projectcalico.org/{}", "ab12".repeat(8)));
        assert!(profile.spec.labels_to_apply.unwrap().contains_key(&label));
        let selector = profile.spec.ingress.unwrap()[0].source.clone().unwrap().selector.unwrap();
        assert_eq!(selector, format!("has({label})"));
    }

    #[test]
    fn a_stored_endpoint_reads_back() {
        let node = NodeName::new("docker-1").unwrap();
        let plan = EndpointPlan {
            id: id(),
            ips: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            mac: MacAddress::of_endpoint(&id()),
            ifname: None,
            unused: Vec::new(),
            labels: BTreeMap::from([("projectcalico.org/namespace".to_owned(), "forged".to_owned())]),
        };
        let network = network(false, IpamKind::Calico, &[]);
        let stored = endpoint(&plan, &network, &node, ObjectMeta::default());
        assert_eq!(stored.name(), format!("docker--1-libnetwork-libnetwork-{}", id()));
        assert_eq!(stored.spec.ip_networks, ["10.1.0.5/32", "fd00::5/128"]);
        assert_eq!(stored.metadata.labels.as_ref().unwrap()["projectcalico.org/namespace"], "libnetwork");
        let read = read_endpoint(&node, &stored).unwrap();
        assert_eq!(read, (id(), Some(network.id), plan.ips, id().host_iface()));
        assert_eq!(read_endpoint(&NodeName::new("docker-2").unwrap(), &stored), None);
    }
}
