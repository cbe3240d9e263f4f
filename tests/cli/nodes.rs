//! `node`: what a node has is told, and given back when it never comes back.

use crate::ROOT;
use crate::world::World;
use calico_libnetwork::ipam::{AutoAssign, Owner};
use calico_libnetwork::model::{HandleId, IpVersion};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Two nodes; the second has an endpoint in a block of its own, one with an address of the first's, and a device.
fn cluster(world: &World) -> IpAddr {
    world.does(
        &["apply", "-f", "-"],
        "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: a}\nspec: {cidr: 10.1.0.0/24, blockSize: 29}\n",
    );
    for name in ["docker-1", "docker-2"] {
        world.put(&format!("{ROOT}/nodes/{name}"), &format!(r#"{{"kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"bgp":{{"ipv4Address":"192.0.2.1/24"}}}}}}"#));
    }
    let owner = |handle: &str| Owner { handle: HandleId::new(handle).unwrap(), attributes: BTreeMap::new() };
    let any = |node: &str, handle: &str| {
        let request = AutoAssign { version: IpVersion::V4, pool: None, within: None, owner: owner(handle) };
        world.block_on(world.ipam(node).auto_assign(&request)).unwrap()
    };
    let kept = any("docker-1", "kept");
    endpoint(world, "docker-1", "aaaa", kept);
    endpoint(world, "docker-2", "bbbb", any("docker-2", "own"));
    let borrowed: IpAddr = match kept {
        IpAddr::V4(kept) => std::net::Ipv4Addr::from(u32::from(kept) ^ 1).into(),
        IpAddr::V6(_) => panic!("an IPv4 address was asked for"),
    };
    world.block_on(world.ipam("docker-2").assign(borrowed, None, &owner("borrowed"))).unwrap();
    endpoint(world, "docker-2", "cccc", borrowed);
    any("docker-2", "vxlan-tunnel-addr-docker-2");
    kept
}

fn endpoint(world: &World, node: &str, id: &str, ip: IpAddr) {
    let name = format!("{}-libnetwork-libnetwork-{id}", node.replace('-', "--"));
    world.put(&format!("{ROOT}/workloadendpoints/libnetwork/{name}"), &format!(r#"{{"kind":"WorkloadEndpoint","metadata":{{"name":"{name}","namespace":"libnetwork"}},"spec":{{"orchestrator":"libnetwork","node":"{node}","endpoint":"{id}","ipNetworks":["{ip}/32"],"profiles":["net"],"interfaceName":"cali{id}"}}}}"#));
}

#[test]
fn a_node_that_is_gone_for_good_gives_everything_back_and_nothing_else_is_touched() {
    World::both(|world| {
        let kept = cluster(world);
        for (plural, name, spec) in [
            ("felixconfigurations", "node.docker-2", "{}"),
            ("felixconfigurations", "node.docker-1", "{}"),
            ("bgppeers", "of-2", r#"{"node":"docker-2","peerIP":"192.0.2.9","asNumber":64512}"#),
            ("bgppeers", "of-all", r#"{"peerIP":"192.0.2.9","asNumber":64512}"#),
            ("hostendpoints", "of-1", r#"{"node":"docker-1","interfaceName":"eth0"}"#),
            ("hostendpoints", "of-2", r#"{"node":"docker-2","interfaceName":"eth0"}"#),
        ] {
            world.put(
                &format!("{ROOT}/{plural}/{name}"),
                &format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{spec}}}"#),
            );
        }
        world.put(&format!("{ROOT}/profiles/net"), r#"{"kind":"Profile","metadata":{"name":"net","annotations":{"org.projectcalico.docker.nodes":"docker-1,docker-2"}},"spec":{}}"#);
        world.put("/calico/ipam/v2/host/docker-2", "");
        for host in ["docker-1", "docker-2"] {
            world.put(&format!("/calico/felix/v2/no-region/host/{host}/last_reported_status"), "{}");
            world.put(&format!("/calico/felix/v1/host/{host}/endpoint/eth0"), r#"{"status":"up"}"#);
        }
        let listed = world.does(&["node", "list"], "");
        assert!(listed.contains("docker-2   192.0.2.1/24          2           1        3"), "{listed}");
        let shown = world.does(&["node", "show", "docker-2"], "");
        assert!(shown.contains("endpoints: 2\n  docker--2-libnetwork-libnetwork-bbbb"), "{shown}");
        assert!(shown.contains("of its own: 3\n  bgppeers/of-2\n"), "{shown}");
        assert!(shown.ends_with("reports of its Felix: 2"), "{shown}");

        let refused = world.fails(1, &["node", "remove", "docker-2"], "");
        assert!(refused.contains("node docker-2 stays: it has 2 endpoints"), "{refused}");
        let done = world.does(&["node", "remove", "docker-2", "--force"], "");
        assert_eq!(
            done,
            "removed node docker-2: 2 endpoints, 3 addresses, 1 blocks; 3 settings, BGP peers and host endpoints of its own"
        );
        let left: Vec<String> = world
            .keys("/calico/")
            .into_iter()
            .filter(|key| key.contains("docker-2") || key.contains("docker--2"))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "every trace is gone");
        assert_eq!(
            world.json(&format!("{ROOT}/profiles/net"))["metadata"]["annotations"]["org.projectcalico.docker.nodes"],
            "docker-1"
        );
        for plural in ["felixconfigurations", "bgppeers"] {
            assert_eq!(world.keys(&format!("{ROOT}/{plural}/")).len(), 1);
        }
        assert_eq!(world.keys(&format!("{ROOT}/hostendpoints/")), [format!("{ROOT}/hostendpoints/of-1")]);
        let reports = world.keys("/calico/felix/");
        assert_eq!(reports.iter().filter(|key| key.contains("/host/docker-1/")).count(), 2, "{reports:?}");
        assert!(world.block_on(world.ipam("docker-1").lookup(kept)).unwrap().is_some());
        assert_eq!(world.audit().findings, []);
        assert!(
            world
                .fails(1, &["node", "remove", "docker-2"], "")
                .contains("nothing in the datastore names a node docker-2")
        );
    });
}

#[test]
fn a_block_that_others_have_addresses_of_stays_without_owner() {
    World::both(|world| {
        cluster(world);
        world.delete(&format!("{ROOT}/workloadendpoints/libnetwork/docker--1-libnetwork-libnetwork-aaaa"));
        let done = world.does(&["node", "remove", "docker-1"], "");
        assert!(done.contains("1 addresses, 0 blocks; 1 blocks stay without owner"), "{done}");
        let problems: Vec<_> = world.audit().problems().cloned().collect();
        assert_eq!(problems.len(), 1, "the tunnel's address has no device in this test: {problems:?}");
        assert_eq!(world.keys("/calico/ipam/v2/host/docker-1/"), Vec::<String>::new());
    });
}

#[test]
fn a_node_with_a_heartbeat_is_not_taken_for_gone() {
    World::both(|world| {
        world.put(
            &format!("{ROOT}/nodes/docker-3"),
            r#"{"kind":"Node","metadata":{"name":"docker-3"},"spec":{}}"#,
        );
        let status = "/calico/felix/v2/no-region/host/docker-3/status";
        world.put(status, r#"{"time":"2026-08-22T06:33:20Z","uptime":40.0}"#);
        assert!(world.fails(1, &["node", "remove", "docker-3"], "").contains("its Felix has a heartbeat"));
        world.delete(status);
        world.does(&["node", "remove", "docker-3"], "");
        world.fails(64, &["node", "remove", "Not A Name"], "");
    });
}

/// Each of these alone names a node of which everything else is gone.
#[test]
fn a_node_of_which_only_a_trace_is_left_is_listed_and_the_trace_is_removed() {
    World::both(|world| {
        for (trace, value) in [
            (format!("{ROOT}/hostendpoints/of-9"), r#"{"spec":{"node":"docker-9","interfaceName":"eth0"}}"#),
            (format!("{ROOT}/bgppeers/of-9"), r#"{"spec":{"node":"docker-9","peerIP":"192.0.2.9"}}"#),
            (format!("{ROOT}/felixconfigurations/node.docker-9"), r#"{"spec":{}}"#),
            ("/calico/felix/v1/host/docker-9/endpoint/eth0".to_owned(), r#"{"status":"up"}"#),
            ("/calico/felix/v2/no-region/host/docker-9/last_reported_status".to_owned(), "{}"),
            ("/calico/ipam/v2/host/docker-9".to_owned(), ""),
        ] {
            world.put(&trace, value);
            let listed = world.does(&["node", "list"], "");
            assert!(listed.contains("docker-9") && listed.contains("no Node resource"), "{trace}: {listed}");
            let done = world.does(&["node", "remove", "docker-9"], "");
            assert!(done.starts_with("removed node docker-9: 0 endpoints"), "{trace}: {done}");
            assert!(!world.keys("/calico/").contains(&trace), "{trace} is still there");
            assert!(!world.does(&["node", "list"], "").contains("docker-9"), "{trace}");
        }
    });
}
