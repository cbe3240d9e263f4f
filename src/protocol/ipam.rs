//! IpamDriver calls.

use super::{Options, null_as_default};
use serde::{Deserialize, Serialize};

/// Key of RequestAddress options whose value `com.docker.network.gateway` marks a gateway's address.
const REQUEST_ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY_TYPE: &str = "com.docker.network.gateway";
/// Key of RequestAddress options that holds the container's or task's name (engine 29 and later).
const ENDPOINT_NAME: &str = "com.docker.network.endpoint.name";

/// Key that swarm's leader adds to the options of its own requests (swarmkit `cnmallocator`).
const SERIAL: &str = "com.docker.network.ipam.serial";

/// Answer of `GetCapabilities`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct IpamCapabilities {
    /// Whether the engine makes up a MAC and sends it with RequestAddress.
    #[serde(rename = "RequiresMACAddress")]
    pub requires_mac_address: bool,
    /// Whether the engine repeats pool and address requests when it starts.
    #[serde(rename = "RequiresRequestReplay")]
    pub requires_request_replay: bool,
}

/// Answer of `GetDefaultAddressSpaces`. Both the same: different names send the engine into its overlap check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressSpaces {
    /// Space of local networks.
    pub local_default_address_space: String,
    /// Space of global networks.
    pub global_default_address_space: String,
}

/// `RequestPool`: one for each `--subnet`, or one for each IP version without.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestPool {
    /// One of the answered address spaces.
    #[serde(deserialize_with = "null_as_default")]
    pub address_space: String,
    /// `--subnet`, or empty.
    #[serde(deserialize_with = "null_as_default")]
    pub pool: String,
    /// `--ip-range`, or empty.
    #[serde(deserialize_with = "null_as_default")]
    pub sub_pool: String,
    /// `--ipam-opt`, and on 20.10 swarm leaders a stray `RequestAddressType`.
    #[serde(deserialize_with = "null_as_default")]
    pub options: Options,
    /// IPv6 wanted; swarm leaders send false with IPv6 subnets too, so the subnet decides where there is one.
    #[serde(rename = "V6", deserialize_with = "null_as_default")]
    pub v6: bool,
}

/// Answer of `RequestPool`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PoolAnswer {
    /// Ours to choose; the same from every node for the same request.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The prefix that the engine shows and checks `--ip` against.
    #[serde(rename = "Pool")]
    pub pool: String,
    /// May hold the gateway, so that the engine does not ask for one.
    #[serde(rename = "Data")]
    pub data: Options,
}

/// `ReleasePool`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReleasePool {
    /// As answered by RequestPool.
    #[serde(rename = "PoolID", deserialize_with = "null_as_default")]
    pub pool_id: String,
}

/// `RequestAddress`: for a gateway, an auxiliary address or an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RequestAddress {
    /// As answered by RequestPool.
    #[serde(rename = "PoolID", deserialize_with = "null_as_default")]
    pub pool_id: String,
    /// `--ip`, `--gateway`, `--aux-address`, or empty for any address.
    #[serde(rename = "Address", deserialize_with = "null_as_default")]
    pub address: String,
    /// See the accessors.
    #[serde(rename = "Options", deserialize_with = "null_as_default")]
    pub options: Options,
}

impl RequestAddress {
    /// Whether the address is to be the network's gateway.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.options.get(REQUEST_ADDRESS_TYPE).and_then(|v| v.as_str()) == Some(GATEWAY_TYPE)
    }

    /// Whether swarm's leader asks, for a task or a service of whichever node.
    #[must_use]
    pub fn is_of_swarm_leader(&self) -> bool {
        self.options.contains_key(SERIAL)
    }

    /// Name of the container or task, from engine 29 on.
    #[must_use]
    pub fn endpoint_name(&self) -> Option<&str> {
        self.options.get(ENDPOINT_NAME).and_then(|v| v.as_str())
    }
}

/// Answer of `RequestAddress`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressAnswer {
    /// Address with the prefix length that the container's interface gets.
    pub address: String,
    /// Nothing of ours.
    pub data: Options,
}

/// `ReleaseAddress`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReleaseAddress {
    /// As answered by RequestPool.
    #[serde(rename = "PoolID", deserialize_with = "null_as_default")]
    pub pool_id: String,
    /// Plain address.
    #[serde(rename = "Address", deserialize_with = "null_as_default")]
    pub address: String,
}
