//! Bytes that no engine sends.

use crate::{WITH_ARGUMENTS, WITHOUT_ARGUMENTS};
use calico_libnetwork::protocol::{self, DecodeError, Request};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::Value;

/// Every method's path.
fn paths() -> impl Iterator<Item = &'static str> {
    WITH_ARGUMENTS.into_iter().chain(WITHOUT_ARGUMENTS)
}

/// Field names and options of the protocol, so that values of any type land where they matter.
const KEYS: [&str; 24] = [
    "NetworkID",
    "EndpointID",
    "SandboxKey",
    "Options",
    "Interface",
    "Address",
    "AddressIPv6",
    "MacAddress",
    "IPv4Data",
    "IPv6Data",
    "AuxAddresses",
    "Gateway",
    "Pool",
    "SubPool",
    "PoolID",
    "AddressSpace",
    "V6",
    "DiscoveryType",
    "DiscoveryData",
    "Self",
    "com.docker.network.generic",
    "com.docker.network.portmap",
    "com.docker.network.enable_ipv4",
    "RequestAddressType",
];

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let key = prop_oneof![proptest::sample::select(KEYS.as_slice()).prop_map(str::to_owned), ".{0,5}"];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Reads everything a request offers; accessors must not panic either.
fn read(request: &Request) {
    assert!(!request.method().is_empty());
    let (network, endpoint) = request.subject();
    assert!(network != Some("") && endpoint != Some(""));
    match request {
        Request::CreateNetwork(call) => {
            let _ = (call.driver_options(), call.ipv4_enabled(), call.ipv6_enabled(), call.internal());
        }
        Request::ProgramExternalConnectivity(call) => {
            let _ = call.port_map();
        }
        Request::RequestAddress(call) => {
            let _ = (call.is_gateway(), call.endpoint_name());
        }
        _ => {}
    }
}

fn decode(path: &str, body: &[u8]) {
    match protocol::decode(path, body) {
        Ok(request) => read(&request),
        Err(error) => {
            assert!(!matches!(error, DecodeError::UnknownMethod(_)), "{path}");
            assert!(!error.to_string().is_empty());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(body in vec(any::<u8>(), 0..200)) {
        for path in paths() {
            decode(path, &body);
        }
    }

    #[test]
    fn any_json_is_decoded_or_refused(value in json()) {
        let body = serde_json::to_vec(&value).unwrap();
        for path in paths() {
            decode(path, &body);
        }
    }

    #[test]
    fn any_broken_json_is_decoded_or_refused(value in json(), cut in any::<proptest::sample::Index>(), flip: u8) {
        let mut body = serde_json::to_vec(&value).unwrap();
        let at = cut.index(body.len());
        body[at] ^= flip;
        for path in paths() {
            decode(path, &body);
            decode(path, &body[..at]);
        }
    }

    #[test]
    fn any_other_path_is_unknown(path in "/.{0,40}") {
        prop_assume!(!paths().any(|known| known == path));
        let unknown = matches!(protocol::decode(&path, b"{}"), Err(DecodeError::UnknownMethod(_)));
        prop_assert!(unknown);
    }
}
