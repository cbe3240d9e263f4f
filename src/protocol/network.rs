//! NetworkDriver calls.

use super::{GENERIC_OPTIONS, Options, null_as_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
const INTERNAL: &str = "com.docker.network.internal";
const PORT_MAP: &str = "com.docker.network.portmap";

/// Answer of `GetCapabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkCapabilities {
    /// `local` or `global`: who asks for addresses on a swarm.
    #[serde(rename = "Scope")]
    pub scope: &'static str,
    /// `global` switches swarm's service discovery on for the network.
    #[serde(rename = "ConnectivityScope")]
    pub connectivity_scope: &'static str,
    /// Whether GwAllocCheck may be called (engine 28 and later).
    #[serde(rename = "GwAllocChecker")]
    pub gw_alloc_checker: bool,
}

/// `GwAllocCheck`: whether the engine is to reserve a gateway address.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GwAllocCheck {
    /// As in CreateNetwork.
    #[serde(deserialize_with = "null_as_default")]
    pub options: Options,
}

/// Answer of `GwAllocCheck`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GwAllocCheckAnswer {
    /// No IPv4 gateway is needed.
    #[serde(rename = "SkipIPv4")]
    pub skip_ipv4: bool,
    /// No IPv6 gateway is needed.
    #[serde(rename = "SkipIPv6")]
    pub skip_ipv6: bool,
}

/// One pool of a network, as IPAM answered it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamData {
    /// Address space of the pool: tells whose IPAM it is.
    #[serde(deserialize_with = "null_as_default")]
    pub address_space: String,
    /// Prefix.
    #[serde(deserialize_with = "null_as_default")]
    pub pool: String,
    /// Gateway with the pool's prefix length; empty when skipped.
    #[serde(deserialize_with = "null_as_default")]
    pub gateway: String,
    /// `--aux-address`: name to address with prefix length.
    #[serde(deserialize_with = "null_as_default")]
    pub aux_addresses: BTreeMap<String, String>,
}

/// `CreateNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CreateNetwork {
    /// 64 hex digits, or 25 characters for a swarm network.
    #[serde(rename = "NetworkID", deserialize_with = "null_as_default")]
    pub network_id: String,
    /// See the accessors.
    #[serde(rename = "Options", deserialize_with = "null_as_default")]
    pub options: Options,
    /// IPv4 pools.
    #[serde(rename = "IPv4Data", deserialize_with = "null_as_default")]
    pub ipv4_data: Vec<IpamData>,
    /// IPv6 pools.
    #[serde(rename = "IPv6Data", deserialize_with = "null_as_default")]
    pub ipv6_data: Vec<IpamData>,
}

impl CreateNetwork {
    /// Whether the network has IPv4; engines before 28 do not say, and mean yes.
    #[must_use]
    pub fn ipv4_enabled(&self) -> bool {
        self.options.get(ENABLE_IPV4).and_then(serde_json::Value::as_bool).unwrap_or(true)
    }

    /// Whether the network has IPv6.
    #[must_use]
    pub fn ipv6_enabled(&self) -> bool {
        self.options.get(ENABLE_IPV6).and_then(serde_json::Value::as_bool).unwrap_or(false)
    }

    /// Whether the network was created with `--internal`.
    #[must_use]
    pub fn internal(&self) -> bool {
        self.options.get(INTERNAL).and_then(serde_json::Value::as_bool).unwrap_or(false)
    }

    /// The user's `-o` options.
    #[must_use]
    pub fn driver_options(&self) -> BTreeMap<String, String> {
        let generic = self.options.get(GENERIC_OPTIONS).and_then(serde_json::Value::as_object);
        let text =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        generic.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
    }
}

/// `DeleteNetwork` and `FreeNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NetworkRef {
    /// The network.
    #[serde(rename = "NetworkID", deserialize_with = "null_as_default")]
    pub network_id: String,
}

/// `AllocateNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllocateNetwork {
    /// The network.
    #[serde(rename = "NetworkID", deserialize_with = "null_as_default")]
    pub network_id: String,
    /// The user's `-o` options; after a change of leader merged with those answered before.
    #[serde(rename = "Options", deserialize_with = "null_as_default")]
    pub options: BTreeMap<String, String>,
    /// Pools of both IP versions.
    #[serde(rename = "IPv4Data", deserialize_with = "null_as_default")]
    pub ipv4_data: Vec<IpamData>,
    /// Null on all engines seen.
    #[serde(rename = "IPv6Data", deserialize_with = "null_as_default")]
    pub ipv6_data: Vec<IpamData>,
}

/// Answer of `AllocateNetwork`: only what is answered reaches the workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AllocateNetworkAnswer {
    /// The options, echoed.
    pub options: BTreeMap<String, String>,
}

/// The interface of `CreateEndpoint`, in request and answer. A field that came filled must go back empty, even if it
/// is the same: the engine refuses the endpoint otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointInterface {
    /// IPv4 address with prefix length.
    #[serde(
        rename = "Address",
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub address: String,
    /// IPv6 address with prefix length.
    #[serde(
        rename = "AddressIPv6",
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub address_ipv6: String,
    /// MAC address.
    #[serde(
        rename = "MacAddress",
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub mac_address: String,
}

/// `CreateEndpoint`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CreateEndpoint {
    /// The network.
    #[serde(rename = "NetworkID", deserialize_with = "null_as_default")]
    pub network_id: String,
    /// The endpoint: 64 hex digits.
    #[serde(rename = "EndpointID", deserialize_with = "null_as_default")]
    pub endpoint_id: String,
    /// What IPAM and the user chose.
    #[serde(rename = "Interface", deserialize_with = "null_as_default")]
    pub interface: EndpointInterface,
    /// Docker's own options and the user's per-endpoint `driver-opt`s.
    #[serde(rename = "Options", deserialize_with = "null_as_default")]
    pub options: Options,
}

/// Answer of `CreateEndpoint`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateEndpointAnswer {
    /// What the engine did not choose itself.
    pub interface: EndpointInterface,
}

/// A call that names an endpoint and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointRef {
    /// The network.
    #[serde(rename = "NetworkID", deserialize_with = "null_as_default")]
    pub network_id: String,
    /// The endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "null_as_default")]
    pub endpoint_id: String,
}

/// Answer of `EndpointOperInfo`; its content has no visible effect on any engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct OperInfoAnswer {
    /// Always empty.
    pub value: BTreeMap<String, String>,
}

/// `Join`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Join {
    /// The network.
    #[serde(rename = "NetworkID", deserialize_with = "null_as_default")]
    pub network_id: String,
    /// The endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "null_as_default")]
    pub endpoint_id: String,
    /// Path of the sandbox. It does not exist yet on engines up to 27: a name, not a file.
    #[serde(rename = "SandboxKey", deserialize_with = "null_as_default")]
    pub sandbox_key: String,
    /// Port maps and exposed ports.
    #[serde(rename = "Options", deserialize_with = "null_as_default")]
    pub options: Options,
}

/// Answer of `Join`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JoinAnswer {
    /// The interface to move into the sandbox.
    #[serde(rename = "InterfaceName")]
    pub interface_name: InterfaceName,
    /// IPv4 default gateway, empty for none.
    #[serde(rename = "Gateway", skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// IPv6 default gateway, empty for none; only with an IPv6 address.
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "String::is_empty")]
    pub gateway_ipv6: String,
    /// Routes of the sandbox.
    #[serde(rename = "StaticRoutes", skip_serializing_if = "Vec::is_empty")]
    pub static_routes: Vec<StaticRoute>,
    /// Keeps the engine from adding docker_gwbridge.
    #[serde(rename = "DisableGatewayService")]
    pub disable_gateway_service: bool,
}

/// The interface of a `Join` answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceName {
    /// Its name in dockerd's network namespace.
    #[serde(rename = "SrcName")]
    pub src_name: String,
    /// What its name in the container begins with; the engine adds a number.
    #[serde(rename = "DstPrefix")]
    pub dst_prefix: String,
    /// Its whole name in the container; engines before 29.8 ignore it.
    #[serde(rename = "DstName", skip_serializing_if = "String::is_empty")]
    pub dst_name: String,
}

/// How a static route leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteType {
    /// Through a next hop: 0.
    NextHop,
    /// Directly on the interface: 1.
    Connected,
}

impl Serialize for RouteType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::NextHop => 0,
            Self::Connected => 1,
        })
    }
}

/// A route of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    /// Prefix.
    pub destination: String,
    /// Connected or through a next hop.
    pub route_type: RouteType,
    /// The next hop; empty for connected routes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_hop: String,
}

/// `ProgramExternalConnectivity`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ProgramExternalConnectivity {
    /// The network.
    #[serde(rename = "NetworkID", deserialize_with = "null_as_default")]
    pub network_id: String,
    /// The endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "null_as_default")]
    pub endpoint_id: String,
    /// See [`ProgramExternalConnectivity::port_map`].
    #[serde(rename = "Options", deserialize_with = "null_as_default")]
    pub options: Options,
}

impl ProgramExternalConnectivity {
    /// The ports to publish; empty when there are none.
    pub fn port_map(&self) -> Result<Vec<PortBinding>, serde_json::Error> {
        match self.options.get(PORT_MAP) {
            None | Some(serde_json::Value::Null) => Ok(Vec::new()),
            Some(list) => Vec::deserialize(list),
        }
    }
}

/// One published port or range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    /// IP protocol: 6 TCP, 17 UDP, 132 SCTP.
    #[serde(rename = "Proto", deserialize_with = "null_as_default")]
    pub proto: u8,
    /// The container's port.
    #[serde(rename = "Port", deserialize_with = "null_as_default")]
    pub port: u16,
    /// The host's address; empty for all.
    #[serde(rename = "HostIP", deserialize_with = "null_as_default")]
    pub host_ip: String,
    /// First port of the host; 0 for any free one.
    #[serde(rename = "HostPort", deserialize_with = "null_as_default")]
    pub host_port: u16,
    /// Last port of the host that may be taken; 0 means the same as the first.
    #[serde(rename = "HostPortEnd", deserialize_with = "null_as_default")]
    pub host_port_end: u16,
}

/// `DiscoverNew` and `DiscoverDelete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Discovery {
    /// 1 for a node.
    #[serde(deserialize_with = "null_as_default")]
    pub discovery_type: i64,
    /// The node.
    #[serde(deserialize_with = "null_as_default")]
    pub discovery_data: DiscoveryData,
}

/// A swarm node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DiscoveryData {
    /// The node's address.
    #[serde(deserialize_with = "null_as_default")]
    pub address: String,
    /// Filled for the own node only; engines 20.10 and 29 send the key for others, too, empty.
    #[serde(deserialize_with = "null_as_default")]
    pub bind_address: String,
    /// Whether it is the own node.
    #[serde(rename = "Self", deserialize_with = "null_as_default")]
    pub is_self: bool,
}
