//! Docker's remote NetworkDriver and IpamDriver protocol: twenty-two calls and their JSON.
//!
//! Pure: [`decode`] turns a path and a body into a [`Request`], [`Response`] serialises to what the engine reads.
//! What the calls mean is in `driver`. Verified against engines 20.10.24, 26.1.5, 28.5.2 and 29.7.2.

mod ipam;
mod network;
mod request;

pub use ipam::{
    AddressAnswer, AddressSpaces, IpamCapabilities, PoolAnswer, ReleaseAddress, ReleasePool, RequestAddress,
    RequestPool,
};
pub use network::{
    AllocateNetwork, AllocateNetworkAnswer, CreateEndpoint, CreateEndpointAnswer, CreateNetwork, Discovery,
    DiscoveryData, EndpointInterface, EndpointRef, GwAllocCheck, GwAllocCheckAnswer, InterfaceName, IpamData,
    Join, JoinAnswer, NetworkCapabilities, NetworkRef, OperInfoAnswer, PortBinding,
    ProgramExternalConnectivity, RouteType, StaticRoute,
};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Free-form options. `null`, a missing key and `{}` mean the same.
pub type Options = Map<String, Value>;

/// Name of the Docker option that carries the user's `-o` options at network creation.
pub const GENERIC_OPTIONS: &str = "com.docker.network.generic";

/// One call, decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// `/Plugin.Activate`; sent to v1 plugins only, once in dockerd's life.
    Activate,
    /// `/NetworkDriver.GetCapabilities`.
    NetworkCapabilities,
    /// `/NetworkDriver.GwAllocCheck`, engine 28 and later, if announced.
    GwAllocCheck(GwAllocCheck),
    /// `/NetworkDriver.AllocateNetwork`, on the swarm leader with scope `global`.
    AllocateNetwork(AllocateNetwork),
    /// `/NetworkDriver.FreeNetwork`, on the swarm leader with scope `global`.
    FreeNetwork(NetworkRef),
    /// `/NetworkDriver.CreateNetwork`.
    CreateNetwork(CreateNetwork),
    /// `/NetworkDriver.DeleteNetwork`.
    DeleteNetwork(NetworkRef),
    /// `/NetworkDriver.CreateEndpoint`.
    CreateEndpoint(CreateEndpoint),
    /// `/NetworkDriver.DeleteEndpoint`.
    DeleteEndpoint(EndpointRef),
    /// `/NetworkDriver.EndpointOperInfo`.
    EndpointOperInfo(EndpointRef),
    /// `/NetworkDriver.Join`.
    Join(Join),
    /// `/NetworkDriver.Leave`.
    Leave(EndpointRef),
    /// `/NetworkDriver.ProgramExternalConnectivity`.
    ProgramExternalConnectivity(ProgramExternalConnectivity),
    /// `/NetworkDriver.RevokeExternalConnectivity`.
    RevokeExternalConnectivity(EndpointRef),
    /// `/NetworkDriver.DiscoverNew`.
    DiscoverNew(Discovery),
    /// `/NetworkDriver.DiscoverDelete`.
    DiscoverDelete(Discovery),
    /// `/IpamDriver.GetCapabilities`.
    IpamCapabilities,
    /// `/IpamDriver.GetDefaultAddressSpaces`.
    AddressSpaces,
    /// `/IpamDriver.RequestPool`.
    RequestPool(RequestPool),
    /// `/IpamDriver.ReleasePool`.
    ReleasePool(ReleasePool),
    /// `/IpamDriver.RequestAddress`.
    RequestAddress(RequestAddress),
    /// `/IpamDriver.ReleaseAddress`.
    ReleaseAddress(ReleaseAddress),
}

/// Why a call cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// No such method: the one case that is answered with status 404, which the engine reads as "not implemented".
    #[error("{0} is not a method of the NetworkDriver or IpamDriver protocol")]
    UnknownMethod(String),
    /// The body is empty where arguments are needed. The engine retries with an empty body after a broken or timed-out
    /// answer (moby#39331), so this must change nothing.
    #[error(
        "{0} came without arguments: the engine repeats a call with an empty body after a lost answer; start the container again"
    )]
    EmptyBody(&'static str),
    /// The body is not the JSON that the method takes.
    #[error("{method}: the request cannot be read: {why}")]
    BadBody {
        /// The method.
        method: &'static str,
        /// What is wrong, with the place in the body.
        why: String,
    },
}

/// Decodes one call. `path` is the request's path with its leading slash.
pub fn decode(path: &str, body: &[u8]) -> Result<Request, DecodeError> {
    Ok(match path {
        "/Plugin.Activate" => Request::Activate,
        "/NetworkDriver.GetCapabilities" => Request::NetworkCapabilities,
        "/NetworkDriver.GwAllocCheck" => Request::GwAllocCheck(arguments("GwAllocCheck", body)?),
        "/NetworkDriver.AllocateNetwork" => Request::AllocateNetwork(arguments("AllocateNetwork", body)?),
        "/NetworkDriver.FreeNetwork" => Request::FreeNetwork(arguments("FreeNetwork", body)?),
        "/NetworkDriver.CreateNetwork" => Request::CreateNetwork(arguments("CreateNetwork", body)?),
        "/NetworkDriver.DeleteNetwork" => Request::DeleteNetwork(arguments("DeleteNetwork", body)?),
        "/NetworkDriver.CreateEndpoint" => Request::CreateEndpoint(arguments("CreateEndpoint", body)?),
        "/NetworkDriver.DeleteEndpoint" => Request::DeleteEndpoint(arguments("DeleteEndpoint", body)?),
        "/NetworkDriver.EndpointOperInfo" => Request::EndpointOperInfo(arguments("EndpointOperInfo", body)?),
        "/NetworkDriver.Join" => Request::Join(arguments("Join", body)?),
        "/NetworkDriver.Leave" => Request::Leave(arguments("Leave", body)?),
        "/NetworkDriver.ProgramExternalConnectivity" => {
            Request::ProgramExternalConnectivity(arguments("ProgramExternalConnectivity", body)?)
        }
        "/NetworkDriver.RevokeExternalConnectivity" => {
            Request::RevokeExternalConnectivity(arguments("RevokeExternalConnectivity", body)?)
        }
        "/NetworkDriver.DiscoverNew" => Request::DiscoverNew(arguments("DiscoverNew", body)?),
        "/NetworkDriver.DiscoverDelete" => Request::DiscoverDelete(arguments("DiscoverDelete", body)?),
        "/IpamDriver.GetCapabilities" => Request::IpamCapabilities,
        "/IpamDriver.GetDefaultAddressSpaces" => Request::AddressSpaces,
        "/IpamDriver.RequestPool" => Request::RequestPool(arguments("RequestPool", body)?),
        "/IpamDriver.ReleasePool" => Request::ReleasePool(arguments("ReleasePool", body)?),
        "/IpamDriver.RequestAddress" => Request::RequestAddress(arguments("RequestAddress", body)?),
        "/IpamDriver.ReleaseAddress" => Request::ReleaseAddress(arguments("ReleaseAddress", body)?),
        unknown => {
            // Long enough for any method there ever was: whatever it is, it ends up in a log line.
            let name = unknown.trim_start_matches('/').chars().take(80).collect();
            return Err(DecodeError::UnknownMethod(name));
        }
    })
}

fn arguments<T: DeserializeOwned>(method: &'static str, body: &[u8]) -> Result<T, DecodeError> {
    if body.trim_ascii().is_empty() {
        return Err(DecodeError::EmptyBody(method));
    }
    // serde would take an array for a struct, field by field, and an empty one for a call without arguments.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(DecodeError::BadBody { method, why: "a JSON object is expected".to_owned() });
    }
    serde_json::from_slice(body).map_err(|error| DecodeError::BadBody { method, why: error.to_string() })
}

/// What a call is answered with on success; serialises to a JSON object, never to nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Response {
    /// `{"Implements":["NetworkDriver","IpamDriver"]}`.
    Activate {
        /// The two interfaces.
        #[serde(rename = "Implements")]
        implements: [&'static str; 2],
    },
    /// Answer to [`Request::NetworkCapabilities`].
    NetworkCapabilities(NetworkCapabilities),
    /// Answer to [`Request::GwAllocCheck`].
    GwAllocCheck(GwAllocCheckAnswer),
    /// Answer to [`Request::AllocateNetwork`].
    AllocateNetwork(AllocateNetworkAnswer),
    /// Answer to [`Request::CreateEndpoint`].
    CreateEndpoint(CreateEndpointAnswer),
    /// Answer to [`Request::EndpointOperInfo`].
    OperInfo(OperInfoAnswer),
    /// Answer to [`Request::Join`].
    Join(Box<JoinAnswer>),
    /// Answer to [`Request::IpamCapabilities`].
    IpamCapabilities(IpamCapabilities),
    /// Answer to [`Request::AddressSpaces`].
    AddressSpaces(AddressSpaces),
    /// Answer to [`Request::RequestPool`].
    Pool(PoolAnswer),
    /// Answer to [`Request::RequestAddress`].
    Address(AddressAnswer),
    /// `{}`.
    Empty {},
}

/// A failure as every engine shows it: network calls read `Err`, IPAM calls read `Error`, both with status 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure<'a> {
    /// Read by NetworkDriver calls.
    #[serde(rename = "Err")]
    pub err: &'a str,
    /// Read by IpamDriver calls.
    #[serde(rename = "Error")]
    pub error: &'a str,
}

impl<'a> Failure<'a> {
    /// A failure with one sentence for the user. No secrets: the engine prints it to whoever called.
    #[must_use]
    pub fn new(sentence: &'a str) -> Self {
        Self { err: sentence, error: sentence }
    }
}

/// Reads `null` as the type's default, as Go's decoder does.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
