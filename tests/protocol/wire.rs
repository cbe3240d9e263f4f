//! What a call was decoded to, under the names of the wire, so that it can be compared with what was sent.

use calico_libnetwork::protocol::{CreateEndpoint, Discovery, EndpointRef, IpamData, Request};
use serde_json::{Map, Value, json};

/// The arguments of a call; every one that the protocol knows is there.
pub(crate) fn arguments(request: &Request) -> Map<String, Value> {
    let arguments = match request {
        Request::Activate
        | Request::NetworkCapabilities
        | Request::IpamCapabilities
        | Request::AddressSpaces => json!({}),
        Request::GwAllocCheck(call) => json!({"Options": call.options}),
        Request::AllocateNetwork(call) => {
            network(&call.network_id, json!(call.options), &call.ipv4_data, &call.ipv6_data)
        }
        Request::CreateNetwork(call) => {
            network(&call.network_id, json!(call.options), &call.ipv4_data, &call.ipv6_data)
        }
        Request::FreeNetwork(call) | Request::DeleteNetwork(call) => json!({"NetworkID": call.network_id}),
        Request::CreateEndpoint(call) => create_endpoint(call),
        Request::Join(call) => json!({
            "NetworkID": call.network_id, "EndpointID": call.endpoint_id,
            "SandboxKey": call.sandbox_key, "Options": call.options,
        }),
        Request::ProgramExternalConnectivity(call) => json!({
            "NetworkID": call.network_id, "EndpointID": call.endpoint_id, "Options": call.options,
        }),
        Request::DeleteEndpoint(call)
        | Request::EndpointOperInfo(call)
        | Request::Leave(call)
        | Request::RevokeExternalConnectivity(call) => endpoint(call),
        Request::DiscoverNew(call) | Request::DiscoverDelete(call) => discovery(call),
        Request::RequestPool(call) => json!({
            "AddressSpace": call.address_space, "Pool": call.pool, "SubPool": call.sub_pool,
            "Options": call.options, "V6": call.v6,
        }),
        Request::ReleasePool(call) => json!({"PoolID": call.pool_id}),
        Request::RequestAddress(call) => {
            json!({"PoolID": call.pool_id, "Address": call.address, "Options": call.options})
        }
        Request::ReleaseAddress(call) => json!({"PoolID": call.pool_id, "Address": call.address}),
    };
    arguments.as_object().unwrap().clone()
}

fn network(id: &str, options: Value, ipv4: &[IpamData], ipv6: &[IpamData]) -> Value {
    json!({"NetworkID": id, "Options": options, "IPv4Data": ipv4, "IPv6Data": ipv6})
}

fn create_endpoint(call: &CreateEndpoint) -> Value {
    let interface = json!({
        "Address": call.interface.address,
        "AddressIPv6": call.interface.address_ipv6,
        "MacAddress": call.interface.mac_address,
    });
    json!({
        "NetworkID": call.network_id, "EndpointID": call.endpoint_id,
        "Interface": interface, "Options": call.options,
    })
}

fn endpoint(call: &EndpointRef) -> Value {
    json!({"NetworkID": call.network_id, "EndpointID": call.endpoint_id})
}

fn discovery(call: &Discovery) -> Value {
    let node = &call.discovery_data;
    json!({
        "DiscoveryType": call.discovery_type,
        "DiscoveryData": {"Address": node.address, "BindAddress": node.bind_address, "Self": node.is_self},
    })
}
