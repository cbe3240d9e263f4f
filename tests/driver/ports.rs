//! Published ports. Host ports are held by real sockets, so the tests take free ones.

use crate::engine::{Engine, RunPlan, plan, port, subnet};
use crate::host::Fate;
use crate::world::World;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// The next number to try: below the range from which the kernel takes the ports that nobody chose
/// (`net.ipv4.ip_local_port_range`), so that tests with port 0 keep out of the way.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that nobody had a moment ago, on both IP versions, with its successor.
fn free_port() -> u16 {
    let begin = u16::try_from(20_000 + std::process::id() % 10_000).unwrap();
    loop {
        let port = begin + NEXT.fetch_add(2, Ordering::Relaxed) % 2_000;
        let free = |port| {
            TcpListener::bind(("0.0.0.0", port)).is_ok()
                && TcpListener::bind(("::1", port)).is_ok()
                && UdpSocket::bind(("0.0.0.0", port)).is_ok()
        };
        if free(port) && free(port + 1) {
            return port;
        }
    }
}

fn binding(proto: u8, host_ip: &str, first: u16, last: u16) -> Value {
    json!({"Proto": proto, "IP": "", "Port": 80, "HostIP": host_ip, "HostPort": first, "HostPortEnd": last})
}

fn publish(ports: &[Value]) -> RunPlan {
    RunPlan { ports: ports.to_vec(), ..RunPlan::default() }
}

fn program(reference: &Value, ports: &Value) -> Value {
    let mut body = reference.clone();
    body["Options"] = json!({"com.docker.network.portmap": ports});
    body
}

const PEC: &str = "NetworkDriver.ProgramExternalConnectivity";

#[tokio::test]
async fn a_port_is_published_for_both_ip_versions_and_let_go() {
    // 36, defect 10
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap();
    let number = free_port();
    let udp = binding(17, "", number, number);
    let endpoint = engine.run_with(&network, &publish(&[port(number, 80), udp])).await.unwrap();
    let ports = world.firewall.ports();
    assert_eq!(ports.len(), 4);
    assert!(
        ports.iter().all(|port| port.host_port == number && port.to_port == 80 && port.host_ip.is_none())
    );
    assert!(TcpListener::bind(("0.0.0.0", number)).is_err() && UdpSocket::bind(("0.0.0.0", number)).is_err());
    world.ok("NetworkDriver.RevokeExternalConnectivity", &endpoint.reference()).await;
    assert!(world.firewall.ports().is_empty());
    assert!(TcpListener::bind(("0.0.0.0", number)).is_ok());
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn leave_lets_ports_go_that_were_not_revoked() {
    // 36
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let endpoint = engine.run_with(&network, &publish(&[port(0, 80)])).await.unwrap();
    let number = world.firewall.ports()[0].host_port;
    world.ok("NetworkDriver.Leave", &endpoint.reference()).await;
    assert!(world.firewall.ports().is_empty() && TcpListener::bind(("0.0.0.0", number)).is_ok());
}

#[tokio::test]
async fn a_range_gives_the_first_port_that_is_free() {
    // 36
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let number = free_port();
    let range = || publish(&[binding(6, "", number, number + 1)]);
    let first = engine.run_with(&network, &range()).await.unwrap();
    let second = engine.run_with(&network, &range()).await.unwrap();
    let mut taken: Vec<u16> = world.firewall.ports().iter().map(|port| port.host_port).collect();
    taken.sort_unstable();
    assert_eq!(taken, [number, number + 1]);
    let error = engine.run_with(&network, &range()).await.unwrap_err();
    assert!(error.contains(&format!("host port {number}-{} for container port 80", number + 1)), "{error}");
    for endpoint in [&first, &second] {
        engine.stop(endpoint).await;
    }
    engine.remove(&network).await;
    world.assert_clean("after a conflict").await;
}

#[tokio::test]
async fn a_port_that_a_process_of_the_host_has_is_refused_by_number() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let number = taken.local_addr().unwrap().port();
    let error = engine.run_with(&network, &publish(&[port(number, 80)])).await.unwrap_err();
    assert_eq!(error, format!("host port {number} for container port 80 is already in use on this host"));
    let elsewhere = binding(6, "203.0.113.7", 0, 0);
    let error = engine.run_with(&network, &publish(&[elsewhere])).await.unwrap_err();
    assert!(error.contains("203.0.113.7: this host has no such address"), "{error}");
    engine.remove(&network).await;
    world.assert_clean("after refusals").await;
}

#[tokio::test]
async fn a_host_address_confines_a_port() {
    // 36
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap();
    let number = free_port();
    let [a, b] = [
        engine.run_with(&network, &publish(&[binding(6, "127.0.0.1", number, number)])).await.unwrap(),
        engine.run_with(&network, &publish(&[binding(6, "127.0.0.2", number, number)])).await.unwrap(),
    ];
    let mut places: Vec<_> = world.firewall.ports().iter().map(|port| port.host_ip.unwrap()).collect();
    places.sort();
    assert_eq!(places, [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)]);
    let everywhere = publish(&[binding(6, "0.0.0.0", number, number)]);
    assert!(engine.run_with(&network, &everywhere).await.is_err());
    for endpoint in [&a, &b] {
        engine.stop(endpoint).await;
    }
    let endpoint = engine.run_with(&network, &everywhere).await.unwrap();
    let ports = world.firewall.ports();
    assert!(ports.len() == 1 && ports[0].to_ip.is_ipv4() && ports[0].host_ip.is_none(), "{ports:?}");
    engine.stop(&endpoint).await;
    let v6 = engine.run_with(&network, &publish(&[binding(6, "::", number, number)])).await.unwrap();
    assert!(world.firewall.ports()[0].to_ip.is_ipv6());
    engine.stop(&v6).await;
    let v4_only = engine.create(&plan(&[subnet("10.8.0.0/24")])).await.unwrap();
    let error = engine.run_with(&v4_only, &publish(&[binding(6, "::1", number, number)])).await.unwrap_err();
    assert!(error.contains("no address of that IP version"), "{error}");
    engine.remove(&network).await;
    engine.remove(&v4_only).await;
    world.assert_clean("after the networks").await;
}

#[tokio::test]
async fn repeated_calls_keep_the_ports_and_other_ones_replace_them() {
    // 36
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap();
    let endpoint = engine.run_with(&network, &publish(&[port(0, 80)])).await.unwrap();
    let ports = world.firewall.ports();
    assert_eq!(ports[0].host_port, ports[1].host_port, "one number for both IP versions");
    for _ in 0..3 {
        world.ok(PEC, &program(&endpoint.reference(), &json!([port(0, 80)]))).await;
        assert_eq!(world.firewall.ports(), ports);
    }
    let other = free_port();
    world.ok(PEC, &program(&endpoint.reference(), &json!([port(other, 81)]))).await;
    assert!(world.firewall.ports().iter().all(|port| (port.host_port, port.to_port) == (other, 81)));
    world.ok(PEC, &program(&endpoint.reference(), &json!(null))).await;
    assert!(world.firewall.ports().is_empty());
    let bad = program(&endpoint.reference(), &json!("eighty"));
    assert!(world.refusal(PEC, &bad).await.contains("port map cannot be read"));
    let icmp = json!([{"Proto": 1, "Port": 0, "HostIP": "", "HostPort": 0, "HostPortEnd": 0}]);
    assert!(world.refusal(PEC, &program(&endpoint.reference(), &icmp)).await.contains("protocol 1"));
    let nowhere = json!([binding(6, "host", 0, 0)]);
    assert!(world.refusal(PEC, &program(&endpoint.reference(), &nowhere)).await.contains("\"host\""));
}

#[tokio::test]
async fn a_repeated_call_after_a_failure_publishes() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    let body = program(&endpoint.reference(), &json!([port(0, 80)]));
    world.firewall.faults.fail(1, Fate::Fails);
    world.firewall.faults.fail(2, Fate::Fails);
    assert!(world.refusal(PEC, &body).await.contains("program the packet filter"));
    world.ok(PEC, &body).await;
    assert_eq!(world.firewall.ports().len(), 1);
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}
