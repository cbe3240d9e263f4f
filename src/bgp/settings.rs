//! How BGP is spoken on one node: BGPConfiguration `node.NAME`, then `default`, then Calico's defaults (pure).

use super::text::{duration_seconds, interface_pattern, unused};
use super::world::World;
use crate::model::{AsNumber, BgpConfigurationSpec, IpVersion, NodeBgpSpec, PrefixAdvertisement, Resource};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};

/// What the rest of the configuration needs to know of this node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Local {
    /// AS number.
    pub(super) as_number: AsNumber,
    /// Addresses, IPv4 and IPv6.
    pub(super) addresses: [Option<IpAddr>; 2],
    /// Set on a route reflector.
    pub(super) cluster_id: Option<Ipv4Addr>,
    /// TCP port, where it is not 179.
    pub(super) port: Option<u16>,
    /// Listen on the node's addresses only.
    pub(super) bound: bool,
    /// Whether there is a mesh.
    pub(super) mesh: bool,
    /// How long neighbours of the mesh keep routes, in seconds.
    pub(super) mesh_restart: Option<u64>,
    /// Patterns of interfaces whose routes are not read.
    pub(super) ignored: Vec<String>,
    /// What BIRD logs.
    pub(super) severity: Severity,
    /// Whether BIRD programs routes to pools without encapsulation.
    pub(super) programs: bool,
    /// Metrics of ordinary routes, IPv4 and IPv6.
    pub(super) metrics: [u32; 2],
    /// What prefixes carry, with values instead of names.
    pub(super) advertisements: Vec<PrefixAdvertisement>,
}

/// Least severe class of messages that is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Severity {
    /// Nothing.
    None,
    /// All, and each state and route.
    Debug,
    /// What is worth knowing.
    #[default]
    Info,
    /// What needs attention.
    Warning,
    /// Errors.
    Error,
    /// What ends BIRD.
    Fatal,
}

/// Calico's metric of ordinary routes.
const METRIC: u32 = 1024;
/// Metrics above this have another meaning for Calico.
const LARGEST_METRIC: u32 = 2_147_483_646;
/// Fields of the default configuration alone.
const CLUSTER_WIDE: &str = "nodeToNodeMeshEnabled, asNumber, nodeMeshPassword, nodeMeshMaxRestartTime, bindMode, \
                            ignoredInterfaces, programClusterRoutes and route priorities";

/// The part of an address with prefix length that is the address.
pub(super) fn address(text: Option<&str>, version: IpVersion) -> Option<IpAddr> {
    let ip: IpAddr = text?.split('/').next()?.trim().parse().ok()?;
    Some(ip).filter(|ip| IpVersion::of(*ip) == version && is_peer(*ip))
}

/// Whether an address can be one end of a session: that of one host, in a network between hosts.
pub(super) fn is_peer(ip: IpAddr) -> bool {
    let one_host = match ip {
        IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && ip.to_ipv4_mapped().is_none(),
    };
    one_host && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()
}

/// The AS number of a node's own.
pub(super) fn own_as(bgp: Option<&NodeBgpSpec>) -> Option<AsNumber> {
    bgp.and_then(|bgp| bgp.as_number).filter(|number| number.0 != 0)
}

/// IPv4 and IPv6 address of a node.
pub(super) fn addresses(bgp: Option<&NodeBgpSpec>) -> [Option<IpAddr>; 2] {
    let text = |field: fn(&NodeBgpSpec) -> &Option<String>| bgp.and_then(|bgp| field(bgp).as_deref());
    [
        address(text(|bgp| &bgp.ipv4_address), IpVersion::V4),
        address(text(|bgp| &bgp.ipv6_address), IpVersion::V6),
    ]
}

/// The AS number of nodes that have none of their own.
pub(super) fn cluster_as(world: &World) -> AsNumber {
    let default = world.configurations.get("default");
    let given = default.and_then(|configuration| configuration.spec.as_number);
    given.filter(|number| number.0 != 0).unwrap_or(AsNumber::DEFAULT)
}

/// The port that a node listens on, where it is not 179.
pub(super) fn port_of(world: &World, node: &str) -> Option<u16> {
    let own = world.configurations.get(&format!("node.{node}"));
    let of = |configuration: &Resource<BgpConfigurationSpec>| configuration.spec.listen_port;
    own.and_then(of)
        .or_else(|| world.configurations.get("default").and_then(of))
        .filter(|port| *port != 179 && *port != 0)
}

impl Local {
    /// Reads the settings of the world's node; what cannot be used is told in `problems`.
    pub(super) fn read(world: &World, problems: &mut Vec<String>) -> Self {
        let empty = BgpConfigurationSpec::default();
        let own_name = format!("node.{}", world.node);
        let default = world.configurations.get("default").map_or(&empty, |it| &it.spec);
        let own = world.configurations.get(&own_name).map_or(&empty, |it| &it.spec);
        tell_unused("default", default, problems);
        tell_unused(&own_name, own, problems);
        if *own != own_part(own) {
            problems
                .push(format!("BGPConfiguration {own_name}: {CLUSTER_WIDE} have an effect in default only"));
        }
        let bgp = world.nodes.get(world.node.as_str()).and_then(|node| node.spec.bgp.as_ref());
        let advertised = if own.prefix_advertisements.is_some() { own } else { default };
        Self {
            as_number: own_as(bgp).unwrap_or_else(|| cluster_as(world)),
            addresses: addresses(bgp),
            cluster_id: cluster_id(bgp, &world.node, problems),
            port: port_of(world, world.node.as_str()),
            bound: bound(default.bind_mode.as_deref(), problems),
            mesh: mesh(default, problems),
            mesh_restart: restart(default.node_mesh_max_restart_time.as_deref(), problems),
            ignored: ignored(default, problems),
            severity: severity(
                own.log_severity_screen.as_deref().or(default.log_severity_screen.as_deref()),
                problems,
            ),
            programs: programs(default, problems),
            metrics: [
                metric("ipv4NormalRoutePriority", default.ipv4_normal_route_priority, problems),
                metric("ipv6NormalRoutePriority", default.ipv6_normal_route_priority, problems),
            ],
            advertisements: advertisements(advertised, problems),
        }
    }

    /// The node's address of one version.
    pub(super) fn address(&self, version: IpVersion) -> Option<IpAddr> {
        let [v4, v6] = self.addresses;
        match version {
            IpVersion::V4 => v4,
            IpVersion::V6 => v6,
        }
    }

    /// The metric of ordinary routes of one version.
    pub(super) fn metric(&self, version: IpVersion) -> u32 {
        let [v4, v6] = self.metrics;
        match version {
            IpVersion::V4 => v4,
            IpVersion::V6 => v6,
        }
    }
}

/// What a node's own configuration may say.
fn own_part(own: &BgpConfigurationSpec) -> BgpConfigurationSpec {
    BgpConfigurationSpec {
        log_severity_screen: own.log_severity_screen.clone(),
        listen_port: own.listen_port,
        communities: own.communities.clone(),
        prefix_advertisements: own.prefix_advertisements.clone(),
        extra: own.extra.clone(),
        ..BgpConfigurationSpec::default()
    }
}

/// Fields for Kubernetes' services and workloads that speak BGP, and those of a later Calico.
fn tell_unused(name: &str, spec: &BgpConfigurationSpec, problems: &mut Vec<String>) {
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let fields = spec.extra.iter().filter(|(_, value)| !is_empty(value)).map(|(field, _)| field.as_str());
    problems.extend(unused(&format!("BGPConfiguration {name}"), fields));
}

fn cluster_id(
    bgp: Option<&NodeBgpSpec>,
    node: &impl std::fmt::Display,
    problems: &mut Vec<String>,
) -> Option<Ipv4Addr> {
    let text = bgp?.route_reflector_cluster_id.as_deref().filter(|text| !text.is_empty())?;
    let id = text.parse().ok();
    if id.is_none() {
        problems.push(format!(
            "Node {node} is no route reflector: its routeReflectorClusterID {text:?} is not in the form of an IPv4 address"
        ));
    }
    id
}

fn bound(mode: Option<&str>, problems: &mut Vec<String>) -> bool {
    match mode {
        Some("NodeIP") => true,
        None | Some("" | "None") => false,
        Some(other) => {
            problems.push(format!(
                "BGPConfiguration default: bindMode {other:?} is neither None nor NodeIP; all addresses are listened on"
            ));
            false
        }
    }
}

fn mesh(default: &BgpConfigurationSpec, problems: &mut Vec<String>) -> bool {
    let wanted = default.node_to_node_mesh_enabled.unwrap_or(true);
    let secret = default.node_mesh_password.as_ref().is_some_and(|value| !value.is_null());
    if wanted && secret {
        problems.push(
            "BGPConfiguration default: the node-to-node mesh is left out, its nodeMeshPassword is in a Kubernetes \
             secret, which this plugin cannot read"
                .to_owned(),
        );
    }
    wanted && !secret
}

fn restart(text: Option<&str>, problems: &mut Vec<String>) -> Option<u64> {
    duration_seconds("BGPConfiguration default: nodeMeshMaxRestartTime", text?, problems)
}

fn ignored(default: &BgpConfigurationSpec, problems: &mut Vec<String>) -> Vec<String> {
    let given = default.ignored_interfaces.iter().flatten();
    given
        .filter_map(|pattern| match interface_pattern(pattern) {
            Ok(pattern) => Some(pattern.to_owned()),
            Err(why) => {
                problems.push(format!("BGPConfiguration default: ignoredInterfaces: {why}"));
                None
            }
        })
        .collect()
}

fn severity(word: Option<&str>, problems: &mut Vec<String>) -> Severity {
    match word.unwrap_or_default().to_lowercase().as_str() {
        "" | "info" => Severity::Info,
        "none" => Severity::None,
        "trace" | "debug" => Severity::Debug,
        "warning" => Severity::Warning,
        "error" => Severity::Error,
        "fatal" => Severity::Fatal,
        other => {
            problems.push(format!("BGPConfiguration: logSeverityScreen {other:?} is no level; Info is used"));
            Severity::Info
        }
    }
}

fn programs(default: &BgpConfigurationSpec, problems: &mut Vec<String>) -> bool {
    match default.program_cluster_routes.as_deref() {
        Some("Enabled" | "EnabledIPIPOnly") => problems.push(
            "BGPConfiguration default: programClusterRoutes gives routes of IPIP pools to BIRD; this BIRD knows no \
             tunnels, so the plugin programs them itself"
                .to_owned(),
        ),
        None | Some("Disabled" | "EnabledNoEncapOnly") => {}
        Some(other) => problems.push(format!(
            "BGPConfiguration default: programClusterRoutes {other:?} is not known; EnabledNoEncapOnly is used"
        )),
    }
    default.programs_no_encap()
}

fn metric(field: &str, given: Option<u32>, problems: &mut Vec<String>) -> u32 {
    match given {
        Some(metric) if (1..=LARGEST_METRIC).contains(&metric) => metric,
        None => METRIC,
        Some(other) => {
            problems.push(format!(
                "BGPConfiguration default: {field} {other} is not within 1 and {LARGEST_METRIC}; {METRIC} is used"
            ));
            METRIC
        }
    }
}

/// Names of communities become values.
fn advertisements(spec: &BgpConfigurationSpec, problems: &mut Vec<String>) -> Vec<PrefixAdvertisement> {
    let named = |name: &str| {
        let mut all = spec.communities.iter().flatten();
        all.find(|community| community.name == name).map(|community| community.value.clone())
    };
    let mut resolved = Vec::new();
    for advertisement in spec.prefix_advertisements.iter().flatten() {
        let mut communities = Vec::new();
        for word in &advertisement.communities {
            match named(word) {
                Some(value) => communities.push(value),
                None if word.contains(':') => communities.push(word.clone()),
                None => problems.push(format!(
                    "BGPConfiguration: prefixAdvertisements of {} name community {word:?}, which is not defined",
                    advertisement.cidr
                )),
            }
        }
        resolved.push(PrefixAdvertisement { communities, ..advertisement.clone() });
    }
    resolved
}
