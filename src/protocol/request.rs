//! What can be said about any call without knowing what it means: its name, and whom it concerns.

use super::Request;

impl Request {
    /// The method, as the engine names it. The two `GetCapabilities` keep their interface's name, all others are
    /// unique without.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Activate => "Activate",
            Self::NetworkCapabilities => "NetworkDriver.GetCapabilities",
            Self::GwAllocCheck(_) => "GwAllocCheck",
            Self::AllocateNetwork(_) => "AllocateNetwork",
            Self::FreeNetwork(_) => "FreeNetwork",
            Self::CreateNetwork(_) => "CreateNetwork",
            Self::DeleteNetwork(_) => "DeleteNetwork",
            Self::CreateEndpoint(_) => "CreateEndpoint",
            Self::DeleteEndpoint(_) => "DeleteEndpoint",
            Self::EndpointOperInfo(_) => "EndpointOperInfo",
            Self::Join(_) => "Join",
            Self::Leave(_) => "Leave",
            Self::ProgramExternalConnectivity(_) => "ProgramExternalConnectivity",
            Self::RevokeExternalConnectivity(_) => "RevokeExternalConnectivity",
            Self::DiscoverNew(_) => "DiscoverNew",
            Self::DiscoverDelete(_) => "DiscoverDelete",
            Self::IpamCapabilities => "IpamDriver.GetCapabilities",
            Self::AddressSpaces => "GetDefaultAddressSpaces",
            Self::RequestPool(_) => "RequestPool",
            Self::ReleasePool(_) => "ReleasePool",
            Self::RequestAddress(_) => "RequestAddress",
            Self::ReleaseAddress(_) => "ReleaseAddress",
        }
    }

    /// The network and the endpoint that the call names, whole as sent. An ID that came empty counts as not named;
    /// IPAM calls name neither.
    #[must_use]
    pub fn subject(&self) -> (Option<&str>, Option<&str>) {
        let (network, endpoint) = match self {
            Self::Activate
            | Self::NetworkCapabilities
            | Self::GwAllocCheck(_)
            | Self::DiscoverNew(_)
            | Self::DiscoverDelete(_)
            | Self::IpamCapabilities
            | Self::AddressSpaces
            | Self::RequestPool(_)
            | Self::ReleasePool(_)
            | Self::RequestAddress(_)
            | Self::ReleaseAddress(_) => ("", ""),
            Self::AllocateNetwork(call) => (call.network_id.as_str(), ""),
            Self::FreeNetwork(call) | Self::DeleteNetwork(call) => (call.network_id.as_str(), ""),
            Self::CreateNetwork(call) => (call.network_id.as_str(), ""),
            Self::CreateEndpoint(call) => (call.network_id.as_str(), call.endpoint_id.as_str()),
            Self::Join(call) => (call.network_id.as_str(), call.endpoint_id.as_str()),
            Self::ProgramExternalConnectivity(call) => (call.network_id.as_str(), call.endpoint_id.as_str()),
            Self::DeleteEndpoint(call)
            | Self::EndpointOperInfo(call)
            | Self::Leave(call)
            | Self::RevokeExternalConnectivity(call) => (call.network_id.as_str(), call.endpoint_id.as_str()),
        };
        let named = |id: &'_ str| !id.is_empty();
        (Some(network).filter(|id| named(id)), Some(endpoint).filter(|id| named(id)))
    }
}
