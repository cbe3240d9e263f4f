//! What follows from documents, without a kernel.

use super::host::{self, HostView};
use super::resolve::Situation;
use super::view::{Touched, View};
use super::{Parts, Worker};
use crate::ipam::Ipam;
use crate::model::{Cidr, IpVersion, NodeName};
use crate::net::faulty::{Call, FaultyHost};
use crate::net::{HostAddress, HostRoute, Link};
use crate::store::{MemoryStore, Store, Txn};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const ROOT: &str = "/calico/resources/v3/projectcalico.org/";

fn put(view: &mut View, plural: &str, name: &str, spec: Value) -> Touched {
    let document = json!({"metadata": {"name": name}, "spec": spec}).to_string();
    view.update(&format!("{ROOT}{plural}/{name}"), Some(document.as_bytes()))
}

fn put_block(view: &mut View, cidr: &str, owner: &str, borrowed: &[(usize, &str)]) -> Touched {
    let mut allocations = vec![Value::Null; 8];
    let mut attributes = Vec::new();
    for (n, (ordinal, node)) in borrowed.iter().enumerate() {
        allocations[*ordinal] = json!(n);
        attributes.push(json!({"secondary": {"node": node}}));
    }
    let affinity = format!("host:{owner}");
    let document =
        json!({"cidr": cidr, "affinity": affinity, "allocations": allocations, "attributes": attributes});
    let key = crate::model::key::block(&cidr.parse().unwrap());
    view.update(&key, Some(document.to_string().as_bytes()))
}

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link { mtu, ..Link::sample(index, name) }
}

/// Node `me` at 192.0.2.1/24 on eth0, `near` in its subnet, `far` outside, all with tunnels; a pool.
fn view(pool: Value) -> (View, HostView) {
    let mut view = View::new("me");
    for (name, address, tunnel) in [
        ("me", "192.0.2.1/24", "10.65.0.1"),
        ("near", "192.0.2.2/24", "10.65.0.9"),
        ("far", "198.51.100.3/24", "10.65.0.17"),
    ] {
        let spec = json!({"bgp": {"ipv4Address": address}, "ipv4VXLANTunnelAddr": tunnel});
        put(&mut view, "nodes", name, spec);
    }
    put(&mut view, "ippools", "pool", pool);
    for (n, name) in ["me", "near", "far"].into_iter().enumerate() {
        put_block(&mut view, &format!("10.65.0.{}/29", 8 * n), name, &[]);
    }
    let address = HostAddress {
        index: 2,
        device: "eth0".to_owned(),
        up: true,
        address: "192.0.2.1".parse().unwrap(),
        prefix_len: 24,
        secondary: false,
        unusable: false,
    };
    let (mut offer, problems) = HostView::look(&view, &[link(2, "eth0", 1500)], &[address]);
    assert_eq!(problems, Vec::<String>::new());
    offer.set_tunnels([Some(9), None]);
    (view, offer)
}

fn texts(view: &View, host: &HostView) -> (Vec<String>, Vec<String>) {
    let (mut routes, mut problems) = (Vec::new(), Vec::new());
    for (cidr, block) in &view.blocks {
        let resolved = Situation { view, host }.block(cidr, block);
        routes.extend(resolved.routes.iter().map(text));
        problems.extend(resolved.problems);
    }
    (routes, problems)
}

fn text(route: &HostRoute) -> String {
    let via = route.gateway.map(|ip| format!(" via {ip}")).unwrap_or_default();
    let device = route.index.map(|index| format!(" dev {index}")).unwrap_or_default();
    format!("{}{via}{device} metric {}", route.destination, route.metric)
}

#[test]
fn what_bird_programs_is_left_to_it() {
    let (near, far) =
        ("10.65.0.8/29 via 10.65.0.9 dev 9 metric 1024", "10.65.0.16/29 via 10.65.0.17 dev 9 metric 1024");
    for (pool, bird, programs, others) in [
        (json!({}), true, "EnabledNoEncapOnly", vec![]),
        (json!({}), true, "Disabled", vec!["10.65.0.8/29 via 192.0.2.2 dev 2 metric 1024"]),
        (json!({}), false, "Enabled", vec!["10.65.0.8/29 via 192.0.2.2 dev 2 metric 1024"]),
        (json!({"vxlanMode": "Always"}), true, "Enabled", vec![near, far]),
    ] {
        let mut spec = json!({"cidr": "10.65.0.0/16", "blockSize": 29});
        spec.as_object_mut().unwrap().extend(pool.as_object().unwrap().clone());
        let (view, host) = view(spec);
        let mut view = view.beside(bird);
        put(&mut view, "bgpconfigurations", "default", json!({"programClusterRoutes": programs}));
        // The blackhole of the own block is this module's in any case.
        let wanted: Vec<&str> = [vec!["10.65.0.0/29 metric 1024"], others].concat();
        assert_eq!(texts(&view, &host).0, wanted, "{pool} {programs} {bird}");
    }
}

#[test]
fn the_mode_of_the_pool_says_how_a_block_is_reached() {
    let own = "10.65.0.0/29 metric 1024";
    for (pool, near, far) in [
        (json!({}), "via 192.0.2.2 dev 2", None),
        (json!({"vxlanMode": "Always"}), "via 10.65.0.9 dev 9", Some("via 10.65.0.17 dev 9")),
        (json!({"vxlanMode": "CrossSubnet"}), "via 192.0.2.2 dev 2", Some("via 10.65.0.17 dev 9")),
        (json!({"ipipMode": "CrossSubnet"}), "via 192.0.2.2 dev 2", None),
    ] {
        let mut spec = json!({"cidr": "10.65.0.0/16", "blockSize": 29});
        spec.as_object_mut().unwrap().extend(pool.as_object().unwrap().clone());
        let (view, host) = view(spec);
        let (routes, problems) = texts(&view, &host);
        let mut wanted = vec![own.to_owned(), format!("10.65.0.8/29 {near} metric 1024")];
        wanted.extend(far.map(|far| format!("10.65.0.16/29 {far} metric 1024")));
        assert_eq!(routes, wanted, "{pool}");
        assert_eq!(problems.is_empty(), far.is_some(), "{problems:?}");
    }
}

#[test]
fn a_pool_of_ipip_is_told_before_another_node_has_a_block_of_it() {
    let mut view = View::new("me");
    let said = |view: &View| HostView::look(view, &[], &[]).1;
    put(&mut view, "ippools", "pool", json!({"cidr": "10.65.0.0/16", "ipipMode": "Always"}));
    put(&mut view, "ippools", "near", json!({"cidr": "10.66.0.0/16", "ipipMode": "CrossSubnet"}));
    put(&mut view, "nodes", "me", json!({}));
    assert_eq!(said(&view), Vec::<String>::new());
    put(&mut view, "nodes", "other", json!({"bgp": {"ipv4Address": "192.0.2.2/24"}}));
    let sentence = "pool pool (10.65.0.0/16) has an ipipMode, and this plugin does no IPIP: set ipipMode Never and \
                    vxlanMode Always or CrossSubnet";
    assert_eq!(said(&view), [sentence]);
}

#[test]
fn what_is_missing_or_claimed_twice_is_said_in_one_sentence() {
    let (mut view, host) = view(json!({"cidr": "10.65.0.0/16", "vxlanMode": "Always"}));
    let said = |view: &View| texts(view, &host).1.join("; ");
    put(&mut view, "nodes", "far", json!({"bgp": {"ipv4Address": "198.51.100.3/24"}}));
    assert!(said(&view).contains("node far has no IPv4 VXLAN tunnel address"), "{}", said(&view));
    put(&mut view, "nodes", "far", json!({}));
    assert!(said(&view).contains("node far has no IPv4 address"), "{}", said(&view));
    put(&mut view, "nodes", "far", json!({"bgp": {"ipv4Address": "192.0.2.2/24"}}));
    assert!(said(&view).contains("nodes far and near both say that 192.0.2.2 is theirs"), "{}", said(&view));
    let twin = json!({"bgp": {"ipv4Address": "198.51.100.3/24"}, "ipv4VXLANTunnelAddr": "10.65.0.9"});
    put(&mut view, "nodes", "far", twin);
    assert!(said(&view).contains("have the same VXLAN tunnel address 10.65.0.9"), "{}", said(&view));
    assert_eq!(Situation { view: &view, host: &host }.vteps(IpVersion::V4).len(), 1);
    let key = format!("{ROOT}nodes/far");
    assert!(matches!(view.update(&key, None), Touched::Node(_)));
    assert!(said(&view).contains("node far, which has no Node resource"), "{}", said(&view));
    assert_eq!(view.update(&key, Some(b"{")), Touched::Nothing);
    assert!(view.broken[&key].contains("cannot be read and stays without effect"));
}

#[test]
fn a_change_touches_no_more_than_it_must() {
    let (mut view, _) = view(json!({"cidr": "10.65.0.0/16"}));
    let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse::<Cidr>().unwrap()).collect();
    assert_eq!(put_block(&mut view, "10.65.0.8/29", "near", &[]), Touched::Nothing);
    assert_eq!(
        put_block(&mut view, "10.65.0.8/29", "near", &[(3, "far")]),
        Touched::Blocks(blocks(&["10.65.0.8/29"]))
    );
    let spec = json!({"bgp": {"ipv4Address": "198.51.100.4/24"}});
    assert_eq!(
        put(&mut view, "nodes", "far", spec.clone()),
        Touched::Node(blocks(&["10.65.0.8/29", "10.65.0.16/29"]))
    );
    assert_eq!(put(&mut view, "nodes", "far", spec), Touched::Nothing);
    assert_eq!(put(&mut view, "nodes", "me", json!({})), Touched::All);
    let masquerades = json!({"cidr": "10.65.0.0/16", "natOutgoing": true});
    assert_eq!(put(&mut view, "ippools", "pool", masquerades), Touched::Nothing);
    assert_eq!(put(&mut view, "felixconfigurations", "node.other", json!({"vxlanVNI": 7})), Touched::Nothing);
    assert_eq!(put(&mut view, "felixconfigurations", "node.me", json!({"vxlanVNI": 7})), Touched::All);
}

#[test]
fn an_mtu_that_does_not_fit_is_told() {
    let (mut view, host) = view(json!({"cidr": "10.65.0.0/16", "vxlanMode": "Always"}));
    let (device, problem) = host::device(&view, &host, IpVersion::V4);
    assert_eq!((device.unwrap().mtu, problem), (1450, None));
    put(&mut view, "felixconfigurations", "default", json!({"vxlanMTU": 1500}));
    let (device, problem) = host::device(&view, &host, IpVersion::V4);
    assert_eq!(device.unwrap().mtu, 1500);
    assert!(problem.unwrap().contains("carries 1450"));
}

#[tokio::test(start_paused = true)]
async fn a_datastore_that_never_rests_does_not_put_off_the_look_at_the_kernel() {
    let (store, host) = (Arc::new(MemoryStore::new()), Arc::new(FaultyHost::new()));
    let node = NodeName::new("me").unwrap();
    let (_felix, active) = tokio::sync::watch::channel(true);
    let ipam = Ipam::new(store.clone(), node.clone());
    let parts = Parts { store: store.clone(), host: host.clone(), ipam, node, bird: false, active };
    let working = tokio::spawn(Worker::new(parts).run());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let looks = || host.calls().iter().filter(|call| matches!(call, Call::HostRoutes)).count();
    let before = looks();
    for n in 0..60 {
        let block = json!({"cidr": "10.65.0.0/29", "affinity": format!("host:node-{n}"), "allocations": [], "attributes": []});
        let key = crate::model::key::block(&"10.65.0.0/29".parse().unwrap());
        store.commit(Txn::new().put(key, block.to_string())).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let often = looks() - before;
    assert!((3..=5).contains(&often), "{often} looks in two minutes");
    working.abort();
}
