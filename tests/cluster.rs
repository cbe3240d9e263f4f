//! This host as a node of a cluster: its Node resource against the kernel's addresses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic, its helpers too"
)]

mod support;

use calico_libnetwork::cluster::{ClaimError, NameClaim, NodeKeeper, Published, machine_id};
use calico_libnetwork::config::{Detection, NodeAddress, NodeConfig};
use calico_libnetwork::model::{AsNumber, NodeName, NodeSpec, Resource, key};
use calico_libnetwork::net::faulty::FaultyHost;
use calico_libnetwork::net::{Host, HostAddress, KernelHost};
use calico_libnetwork::store::{MemoryStore, SharedStore, Txn, typed};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use support::netns::{self, Ip};
use tokio::time::Instant;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host with two uplinks and a bridge of Docker's.
async fn uplinks() -> Arc<dyn Host> {
    let net = Ip::open();
    for (device, peer) in [("eth0", "far0"), ("eth1", "far1")] {
        net.veth(device, peer).await;
        net.up(device).await;
        net.up(peer).await;
    }
    net.address("eth0", ip("192.0.2.1"), 24).await;
    net.address("eth0", ip("2001:db8::1"), 64).await;
    net.address("eth1", ip("10.0.0.1"), 16).await;
    net.bridge("docker0").await;
    net.up("docker0").await;
    net.address("docker0", ip("172.17.0.1"), 16).await;
    // The far ends have no names that Docker or Calico give.
    net.address("far0", ip("169.254.7.7"), 16).await;
    Arc::new(KernelHost::open("/proc/sys/net").await.unwrap())
}

fn keeper(
    store: &SharedStore,
    host: &Arc<dyn Host>,
    name: &str,
    (config, machine): (NodeConfig, &str),
) -> NodeKeeper {
    NodeKeeper::new(store.clone(), host.clone(), NodeName::new(name).unwrap(), config, machine.to_owned())
}

async fn node(store: &SharedStore, name: &str) -> Value {
    let entry = store.get(&key::resource::<NodeSpec>(name)).await.unwrap().unwrap();
    serde_json::from_slice(&entry.value).unwrap()
}

async fn put(store: &SharedStore, name: &str, spec: Value) {
    let node = json!({"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name, "uid": "u",
        "creationTimestamp": "2026-11-21T00:51:43Z", "labels": {"rack": "r1"}}, "spec": spec, "status": {}});
    let txn = Txn::new().put(key::resource::<NodeSpec>(name), node.to_string());
    store.commit(txn).await.unwrap();
}

fn methods(v4: Detection) -> NodeConfig {
    let mut config = NodeConfig::default();
    config.ipv4.detection = v4;
    config
}

#[test]
fn the_node_has_the_hosts_addresses_with_their_prefix_lengths() {
    netns::run(|| async {
        let host = uplinks().await;
        let store: SharedStore = Arc::new(MemoryStore::new());
        let own = keeper(&store, &host, "a", (NodeConfig::default(), "m"));
        let first = own.publish().await.unwrap();
        assert!(first.written && first.problems.is_empty(), "{first:?}");
        let written = node(&store, "a").await;
        assert_eq!(
            written["spec"],
            json!({"bgp": {"ipv4Address": "10.0.0.1/16", "ipv6Address": "2001:db8::1/64"}})
        );
        assert_eq!(written["status"], json!({}));
        assert!(!own.publish().await.unwrap().written, "nothing changed");

        let alone: SharedStore = Arc::new(MemoryStore::new());
        let by = |method| keeper(&alone, &host, "b", (methods(method), "m"));
        let pattern = |text: &str| vec![text.to_owned()];
        for (method, expected) in [
            (Detection::Interface(pattern("^eth0$")), "192.0.2.1/24"),
            (Detection::SkipInterface(pattern("eth1")), "192.0.2.1/24"),
            (Detection::InCidr(vec!["10.0.0.0/8".parse().unwrap()]), "10.0.0.1/16"),
            (Detection::CanReach("192.0.2.99".to_owned()), "192.0.2.1/24"),
        ] {
            let found = by(method.clone()).examine().await.unwrap();
            assert_eq!(found.addresses[0].as_deref(), Some(expected), "{method:?}");
        }
        let nowhere = by(Detection::CanReach("198.51.100.1".to_owned())).examine().await.unwrap();
        assert!(nowhere.problems[0].contains("can reach 198.51.100.1"), "{nowhere:?}");
    });
}

#[test]
fn a_detected_address_follows_the_host_and_what_others_wrote_stays() {
    netns::run(|| async {
        let host = uplinks().await;
        let store: SharedStore = Arc::new(MemoryStore::new());
        let users = json!({"bgp": {"ipv4Address": "192.0.2.1/24", "asNumber": 64513, "routeReflectorClusterID": "1.0.0.1"},
            "ipv4VXLANTunnelAddr": "10.9.0.1", "wireguard": {"interfaceIPv4Address": "10.9.0.2"}});
        put(&store, "a", users.clone()).await;
        let own = keeper(&store, &host, "a", (NodeConfig::default(), "m"));
        own.publish().await.unwrap();
        let mut expected = users.clone();
        expected["bgp"]["ipv6Address"] = "2001:db8::1/64".into();
        let after = node(&store, "a").await;
        assert_eq!(after["spec"], expected);
        assert_eq!(after["metadata"]["labels"], json!({"rack": "r1"}));

        let mut asked = NodeConfig { as_number: Some(AsNumber(65_000)), ..NodeConfig::default() };
        asked.ipv4.address = NodeAddress::Detected;
        keeper(&store, &host, "a", (asked, "m")).publish().await.unwrap();
        let after = node(&store, "a").await;
        assert_eq!(after["spec"]["bgp"]["ipv4Address"], "10.0.0.1/16");
        assert_eq!(after["spec"]["bgp"]["asNumber"], 65000);
        assert_eq!(after["spec"]["wireguard"], users["wireguard"]);

        // The lease of eth1 ends and another address comes.
        Ip::open().delete("eth1").await;
        Ip::open().address("eth0", ip("192.0.2.77"), 24).await;
        let moved = own.publish().await.unwrap();
        assert_eq!(moved.addresses[0].as_deref(), Some("192.0.2.1/24"), "{moved:?}");
    });
}

#[test]
fn two_hosts_with_one_address_or_one_name_are_told_apart() {
    netns::run(|| async {
        let host = uplinks().await;
        let store: SharedStore = Arc::new(MemoryStore::new());
        let (a, b) = ("a", "b");
        keeper(&store, &host, a, (NodeConfig::default(), "m1")).publish().await.unwrap();
        let second = keeper(&store, &host, b, (NodeConfig::default(), "m2"));
        let refused: Published = second.publish().await.unwrap();
        assert_eq!(refused.addresses, [None, None]);
        assert!(refused.problems[0].starts_with("Node a has the IPv4 address 10.0.0.1 too"), "{refused:?}");
        let unchecked = NodeConfig { check_conflicts: false, ..NodeConfig::default() };
        let forced = keeper(&store, &host, b, (unchecked, "m2")).publish().await.unwrap();
        assert_eq!(forced.addresses[0].as_deref(), Some("10.0.0.1/16"));

        let namesake = keeper(&store, &host, a, (NodeConfig::default(), "m3"));
        assert_eq!(namesake.other_machine().await.unwrap().as_deref(), Some("m1"));
        let taken = namesake.publish().await.unwrap();
        assert_eq!(taken.taken_from.as_deref(), Some("m1"));
        assert_eq!(namesake.other_machine().await.unwrap(), None);
        let read = typed::get::<Resource<NodeSpec>>(&*store, &namesake.key()).await.unwrap().unwrap();
        assert_eq!(read.value.metadata.annotation("org.projectcalico.docker.machine"), Some("m3"));
    });
}

#[tokio::test]
async fn a_machine_keeps_its_id_as_long_as_it_is_up() {
    let local = MemoryStore::new();
    let first = machine_id(&local).await.unwrap();
    assert_eq!(machine_id(&local).await.unwrap(), first);
    assert_ne!(machine_id(&MemoryStore::new()).await.unwrap(), first);
}

/// A host that has one address.
fn host_with(address: &str) -> Arc<dyn Host> {
    let host = FaultyHost::new();
    host.set_addresses(vec![HostAddress {
        index: 2,
        device: "eth0".to_owned(),
        up: true,
        address: ip(address),
        prefix_len: 24,
        secondary: false,
        unusable: false,
    }]);
    Arc::new(host)
}

/// The Node's address and the machine that it says it is.
async fn owner(store: &SharedStore) -> (String, String) {
    let node = node(store, "a").await;
    let machine = &node["metadata"]["annotations"]["org.projectcalico.docker.machine"];
    (node["spec"]["bgp"]["ipv4Address"].as_str().unwrap().to_owned(), machine.as_str().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_host_does_nothing_under_a_name_under_which_another_lives() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let of = |address: &str, machine: &str| {
        keeper(&store, &host_with(address), "a", (NodeConfig::default(), machine))
    };
    let first = of("192.0.2.1", "11-bb");
    let begun = Instant::now();
    NameClaim::new(first.clone()).make().await.unwrap();
    first.publish().await.unwrap();
    NameClaim::new(first.clone()).make().await.unwrap();
    // The same host after a reboot, and after its state was lost.
    for machine in ["11-cc", "22-bb"] {
        NameClaim::new(of("192.0.2.1", machine)).make().await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody is asked");

    let lives = tokio::spawn({
        let first = first.clone();
        async move {
            loop {
                let published = first.publish().await.unwrap();
                if let Some(asker) = published.asked_by {
                    return asker;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    // A clone that was booted elsewhere, and is the first in all but its address and boot.
    let mut claim = NameClaim::new(of("192.0.2.2", "11-dd"));
    let refused = claim.make().await.unwrap_err();
    assert!(matches!(&refused, ClaimError::Taken(machine) if machine == "11-bb"), "{refused}");
    assert_eq!(lives.await.unwrap(), "11-dd");
    assert_eq!(owner(&store).await, ("192.0.2.1/24".to_owned(), "11-bb".to_owned()));
    // The first is restarted now, which is no reason to take its name.
    let before = store.get(&first.key()).await.unwrap().unwrap().revision;
    claim.make().await.unwrap_err();
    assert_eq!(store.get(&first.key()).await.unwrap().unwrap().revision, before, "it is not asked again");
    store.commit(Txn::new().remove(first.key())).await.unwrap();
    claim.make().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_host_is_gone_is_the_next_ones() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let of = |address: &str, machine: &str| {
        keeper(&store, &host_with(address), "a", (NodeConfig::default(), machine))
    };
    of("192.0.2.1", "11-bb").publish().await.unwrap();
    let (next, begun) = (of("192.0.2.2", "22-cc"), Instant::now());
    NameClaim::new(next.clone()).make().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(5), "it was asked");
    next.publish().await.unwrap();
    assert_eq!(owner(&store).await, ("192.0.2.2/24".to_owned(), "22-cc".to_owned()));
    let left = node(&store, "a").await["metadata"]["annotations"].as_object().unwrap().clone();
    assert!(!left.contains_key("org.projectcalico.docker.asked-by"), "{left:?}");
}
