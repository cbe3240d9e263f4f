//! What real engines sent, sent again.
//!
//! `fixtures/docker-captures` holds one JSON object a line: what engines 20.10.24, 26.1.5, 28.5.2 and 29.7.2, single
//! and as swarm nodes, sent to a plugin, headers included. `clen` 0 is an empty body. `dropped` marks requests whose
//! connection the capturing plugin closed without an answer: the same call with an empty body follows each.

use crate::client::{Client, Running};
use crate::handler::Scripted;
use crate::wire::arguments;
use calico_libnetwork::protocol::{self, PortBinding, Request};
use calico_libnetwork::server::Options;
use serde_json::{Value, json};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One captured request.
struct Captured {
    connection: u64,
    method: String,
    head: Vec<String>,
    arguments: Value,
    body: String,
}

impl Captured {
    fn read(line: &Value) -> Self {
        let arguments = line["req"].clone();
        // The engine ends its JSON with a line break.
        let body = if line["clen"] == 0 { String::new() } else { format!("{arguments}\n") };
        assert_eq!(line["clen"], body.len(), "the body is not what was captured: {line}");
        Self {
            connection: line["conn"].as_u64().unwrap(),
            method: line["method"].as_str().unwrap().to_owned(),
            head: line["hdrs"].as_array().unwrap().iter().map(|h| h.as_str().unwrap().to_owned()).collect(),
            arguments,
            body,
        }
    }

    fn path(&self) -> String {
        format!("/{}", self.method)
    }

    fn is_empty_retry(&self) -> bool {
        let without = ["Plugin.Activate", "GetCapabilities", "GetDefaultAddressSpaces"];
        self.body.is_empty() && !without.iter().any(|name| self.method.ends_with(name))
    }

    fn bytes(&self) -> String {
        format!("{}\r\n\r\n{}", self.head.join("\r\n"), self.body)
    }

    fn decode(&self) -> Request {
        protocol::decode(&self.path(), self.body.as_bytes()).unwrap()
    }
}

fn captures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/docker-captures");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ext == "jsonl"));
    files.sort();
    assert_eq!(files.len(), 18);
    files
}

fn read(file: &Path) -> Vec<Captured> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| !line["method"].is_null()).map(|line| Captured::read(&line)).collect()
}

/// All calls of the files whose name contains one of `parts`, decoded; empty retries left out.
fn calls(parts: &[&str]) -> Vec<Request> {
    let files = captures().into_iter().filter(|file| parts.iter().any(|part| name(file).contains(part)));
    let captured = files.flat_map(|file| read(&file));
    let calls: Vec<_> =
        captured.filter(|captured| !captured.is_empty_retry()).map(|captured| captured.decode()).collect();
    assert!(!calls.is_empty());
    calls
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

const ENGINE_20: &[&str] = &["engine20", "swarm-s20"];
const ENGINE_26: &[&str] = &["engine26"];
const ENGINE_28: &[&str] = &["engine28"];
const ENGINE_29: &[&str] = &["engine29", "swarm-s29"];

/// Every argument that was sent was read, and nothing else.
fn assert_read_whole(captured: &Captured, request: &Request) {
    let read = arguments(request);
    let mut sent = captured.arguments.as_object().unwrap().clone();
    for (key, value) in &read {
        let came = sent.remove(key).unwrap_or(Value::Null);
        match came {
            Value::Null => assert!(is_empty(value), "{}: {key} is made up: {value}", captured.method),
            came => assert_eq!(complete(key, &came), complete(key, value), "{}: {key}", captured.method),
        }
    }
    assert!(sent.is_empty(), "{}: not read: {sent:?}", captured.method);
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Pools with all their fields: engines leave out what is empty.
fn complete(key: &str, value: &Value) -> Value {
    if !key.starts_with("IPv") {
        return value.clone();
    }
    let pools = value.as_array().unwrap().iter().map(|pool| {
        let mut whole = json!({"AddressSpace": "", "Pool": "", "Gateway": "", "AuxAddresses": {}});
        for (field, value) in pool.as_object().unwrap() {
            whole[field] = value.clone();
        }
        whole
    });
    pools.collect()
}

#[tokio::test]
async fn every_captured_request_reaches_the_handler_as_it_was_sent() {
    for file in captures() {
        let handler = Scripted::prompt();
        let server = Running::start(Options::default(), &handler);
        let mut connections: BTreeMap<u64, Client> = BTreeMap::new();
        for captured in read(&file) {
            let place = format!("{}: {}", name(&file), captured.bytes());
            let client = match connections.entry(captured.connection) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(server.connect().await),
            };
            client.send(captured.bytes()).await;
            let answer = client.answer().await;
            let seen = handler.take();
            if captured.is_empty_retry() {
                assert!(answer.error().contains("without arguments"), "{place}");
                assert!(seen.is_empty(), "{place}");
                continue;
            }
            assert!(answer.is_success(), "{place}: {answer:?}");
            let [request] = seen.as_slice() else { panic!("{place}: {seen:?}") };
            let short = captured.method.rsplit('.').next().unwrap();
            assert!(request.method() == captured.method || request.method() == short, "{place}: {request:?}");
            assert_read_whole(&captured, request);
            let sent = |key: &str| captured.arguments[key].as_str();
            assert_eq!(request.subject(), (sent("NetworkID"), sent("EndpointID")), "{place}");
        }
        server.stop().await;
    }
}

#[test]
fn the_captures_hold_what_they_are_kept_for() {
    let all: Vec<_> = captures().iter().flat_map(|file| read(file)).collect();
    assert!(all.len() > 2800);
    assert_eq!(all.iter().filter(|captured| captured.is_empty_retry()).count(), 6);
    let methods: BTreeSet<_> = all.iter().map(|captured| captured.method.as_str()).collect();
    // GwAllocCheck is missing: the plugin that captured did not announce it.
    assert_eq!(methods.len(), 21);
    let empty_host = all.iter().filter(|captured| captured.head.iter().any(|line| line == "Host:")).count();
    assert!(empty_host > 500 && empty_host < all.len());
    assert!(all.iter().all(|captured| !captured.head.iter().any(|line| line.starts_with("Content-Type"))));
}

fn networks(calls: &[Request]) -> Vec<&protocol::CreateNetwork> {
    let networks: Vec<_> = calls
        .iter()
        .filter_map(|call| match call {
            Request::CreateNetwork(network) => Some(network),
            _ => None,
        })
        .collect();
    assert!(!networks.is_empty());
    networks
}

#[test]
fn engines_before_28_do_not_say_whether_a_network_has_ipv4_and_mean_yes() {
    for engine in [ENGINE_20, ENGINE_26] {
        for network in networks(&calls(engine)) {
            assert!(!network.options.contains_key("com.docker.network.enable_ipv4"));
            assert!(network.ipv4_enabled());
            assert!(!network.ipv4_data.is_empty());
        }
    }
}

#[test]
fn engines_from_28_say_whether_a_network_has_ipv4() {
    for engine in [ENGINE_28, ENGINE_29] {
        let calls = calls(engine);
        let networks = networks(&calls);
        assert!(networks.iter().all(|n| n.options.contains_key("com.docker.network.enable_ipv4")));
        let ipv6_only: Vec<_> = networks.iter().filter(|n| !n.ipv4_enabled()).collect();
        assert_eq!(ipv6_only.len(), 1);
        assert!(ipv6_only[0].ipv6_enabled());
        assert!(ipv6_only[0].ipv4_data.is_empty());
        assert_eq!(ipv6_only[0].ipv6_data.len(), 1);
    }
}

#[test]
fn internal_dual_stack_and_reserved_addresses_are_read_on_all_engines() {
    for engine in [ENGINE_20, ENGINE_26, ENGINE_28, ENGINE_29] {
        let calls = calls(engine);
        let networks = networks(&calls);
        assert!(networks.iter().any(|n| n.internal()));
        assert!(networks.iter().any(|n| !n.internal()));
        assert!(networks.iter().any(|n| n.ipv6_enabled() && !n.ipv6_data.is_empty()));
        let reserved: Vec<_> =
            networks.iter().filter(|n| n.ipv4_data.iter().any(|p| p.aux_addresses.len() == 2)).collect();
        assert_eq!(reserved.len(), 1);
        assert_eq!(reserved[0].ipv4_data[0].aux_addresses["r1"], "10.77.5.9/16");
        assert_eq!(reserved[0].driver_options()["com.docker.network.driver.mtu"], "1450");
        assert_eq!(reserved[0].driver_options()["foo"], "bar");
    }
}

#[test]
fn only_engine_29_names_the_endpoint_when_it_asks_for_an_address() {
    let named = |engine| {
        let calls = calls(engine);
        let names = calls.iter().filter_map(|call| match call {
            Request::RequestAddress(request) => request.endpoint_name().map(str::to_owned),
            _ => None,
        });
        names.collect::<Vec<_>>()
    };
    for engine in [ENGINE_20, ENGINE_26, ENGINE_28] {
        assert!(named(engine).is_empty());
    }
    assert_eq!(named(ENGINE_29).len(), 91);
    assert!(named(&["suite1-lifecycle-engine29"]).contains(&"proto-c2".to_owned()));
}

#[test]
fn gateways_are_told_from_endpoints_on_all_engines() {
    for engine in [ENGINE_20, ENGINE_26, ENGINE_28, ENGINE_29] {
        let (mut gateways, mut others) = (0, 0);
        for call in calls(engine) {
            if let Request::RequestAddress(request) = call {
                let counter = if request.is_gateway() { &mut gateways } else { &mut others };
                *counter += 1;
                assert!(!(request.is_gateway() && request.endpoint_name().is_some()));
            }
        }
        assert!(gateways > 5 && others > 20, "{gateways} {others}");
    }
}

#[test]
fn port_maps_are_read_on_all_engines() {
    for engine in [ENGINE_20, ENGINE_26, ENGINE_28, ENGINE_29] {
        let mut bindings = Vec::new();
        for call in calls(engine) {
            if let Request::ProgramExternalConnectivity(call) = call {
                bindings.extend(call.port_map().unwrap());
            }
        }
        let tcp =
            PortBinding { proto: 6, port: 80, host_ip: String::new(), host_port: 8081, host_port_end: 8081 };
        assert!(bindings.contains(&tcp), "{bindings:?}");
        if engine == ENGINE_26 {
            let udp = PortBinding {
                proto: 17,
                port: 53,
                host_ip: "127.0.0.1".to_owned(),
                host_port: 5353,
                host_port_end: 5353,
            };
            assert!(bindings.contains(&udp), "{bindings:?}");
        }
    }
}

#[test]
fn a_mac_address_of_the_user_is_read() {
    for (engine, in_options) in [(ENGINE_20, false), (ENGINE_26, true), (ENGINE_28, true), (ENGINE_29, true)]
    {
        let calls = calls(engine);
        let chosen = calls.iter().find_map(|call| match call {
            Request::CreateEndpoint(call) if call.interface.mac_address == "02:11:22:33:44:55" => Some(call),
            _ => None,
        });
        let Some(chosen) = chosen else {
            assert!(!in_options, "{engine:?}");
            continue;
        };
        let option = chosen.options.get("com.docker.network.endpoint.macaddress");
        assert_eq!(option, in_options.then(|| json!("AhEiM0RV")).as_ref());
        assert_eq!(chosen.interface.address, "10.78.0.77/24");
        assert_eq!(chosen.interface.address_ipv6, "fd78::77/64");
    }
}

#[test]
fn options_that_only_engine_28_sends_do_no_harm() {
    for (engine, expected) in [(ENGINE_20, false), (ENGINE_26, false), (ENGINE_28, true), (ENGINE_29, false)]
    {
        let found = calls(engine).iter().any(|call| match call {
            Request::ProgramExternalConnectivity(call) => {
                call.options.contains_key("com.docker.network.driver.private.no_proxy_6to4")
            }
            _ => false,
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn swarm_networks_have_short_ids_and_nodes_announce_themselves() {
    for engine in ["swarm-s20", "swarm-s29"] {
        let calls = calls(&[engine]);
        assert!(networks(&calls).iter().any(|network| network.network_id.len() == 25));
        let nodes: Vec<_> = calls
            .iter()
            .filter_map(|call| match call {
                Request::DiscoverNew(node) => Some(node),
                _ => None,
            })
            .collect();
        assert!(nodes.iter().any(|node| node.discovery_data.is_self));
        assert!(nodes.iter().any(|node| !node.discovery_data.is_self));
        for node in nodes {
            assert_eq!(node.discovery_type, 1);
            assert!(!node.discovery_data.address.is_empty());
            assert_eq!(node.discovery_data.is_self, !node.discovery_data.bind_address.is_empty());
        }
    }
}

#[test]
fn a_node_without_bind_address_is_read() {
    let body = br#"{"DiscoveryType":1,"DiscoveryData":{"Address":"10.99.0.7","Self":false}}"#;
    let Request::DiscoverNew(node) = protocol::decode("/NetworkDriver.DiscoverNew", body).unwrap() else {
        panic!("another call");
    };
    assert_eq!(node.discovery_data.address, "10.99.0.7");
    assert_eq!(node.discovery_data.bind_address, "");
}

#[test]
fn a_swarm_leader_sends_null_for_ipv6_pools_and_both_families_as_ipv4() {
    let captured: Vec<_> = captures()
        .iter()
        .flat_map(|file| read(file))
        .filter(|captured| captured.method.ends_with("AllocateNetwork"))
        .collect();
    assert_eq!(captured.len(), 4);
    assert!(captured.iter().all(|captured| captured.arguments["IPv6Data"].is_null()));
    let mut pools = BTreeSet::new();
    for captured in &captured {
        let Request::AllocateNetwork(network) = captured.decode() else { panic!("another call") };
        assert!(network.ipv6_data.is_empty());
        assert_eq!(json!(network.options), captured.arguments["Options"]);
        pools.extend(network.ipv4_data.into_iter().map(|data| data.pool));
    }
    assert!(pools.contains("fd43::/64") && pools.contains("10.43.0.0/16"), "{pools:?}");
}

/// Not in the captures; the body is that of the protocol reference, seen on 28 and 29.
#[test]
fn gw_alloc_check_carries_the_options_of_create_network() {
    let body = br#"{"Options":{"com.docker.network.enable_ipv4":true,"com.docker.network.enable_ipv6":false,
        "com.docker.network.generic":{"foo":"bar"}}}"#;
    let Request::GwAllocCheck(check) = protocol::decode("/NetworkDriver.GwAllocCheck", body).unwrap() else {
        panic!("another call");
    };
    assert_eq!(check.options["com.docker.network.generic"]["foo"], "bar");
}
