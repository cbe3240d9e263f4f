//! BIRD with our configuration among other routers: what is announced, learned and kept.

use crate::bird_is_there;
use crate::lab::{Host, Router, Stream, reach, routes, topology, wait, wait_check, wait_route};
use crate::nsrun::{have, in_namespace, inside, run};
use crate::support::netns::probe_udp;
use serde_json::{Value, json};

/// A router of another AS, with each host as a neighbour over both IP versions.
const FABRIC: &str = "
router id 172.16.0.254;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; interface \"c0\"; }
protocol kernel { persist; graceful restart on; ipv4 { export all; }; }
protocol kernel { persist; graceful restart on; ipv6 { export all; }; }
template bgp host {
  local as 65001; graceful restart on; passive on;
  ipv4 { import all; export where source = RTS_DEVICE; };
}
template bgp host6 {
  local as 65001; graceful restart on; passive on;
  ipv6 { import all; export where source = RTS_DEVICE; };
}
protocol bgp h1 from host { neighbor 172.16.0.1 as 64512; }
protocol bgp h2 from host { neighbor 172.16.0.2 as 64512; }
protocol bgp h1six from host6 { neighbor fd16::1 as 64512; }
protocol bgp h2six from host6 { neighbor fd16::2 as 64512; }
";

/// A calico/node: the sessions and filters that confd writes for the mesh, in BIRD 2's words.
const CALICO_NODE: &str = "
router id 172.16.0.3;
protocol device { scan time 2; }
protocol direct { ipv4; interface -\"cali*\", \"*\"; }
protocol static { ipv4; route 10.1.3.0/26 blackhole; }
filter calico_kernel_programming {
  if (source = RTS_BGP && !defined(krt_metric)) then krt_metric = 2147483647 - bgp_local_pref;
  accept;
}
protocol kernel {
  learn; persist; scan time 2; metric 0; merge paths on; graceful restart on;
  ipv4 { import all; export filter calico_kernel_programming; };
}
template bgp bgp_template {
  local as 64512; multihop; graceful restart on; source address 172.16.0.3;
  connect delay time 2; connect retry time 5; error wait time 5, 30;
  ipv4 {
    import all; add paths on;
    export filter {
      if (!defined(krt_metric)) then krt_metric = 1024;
      bgp_local_pref = 2147483647 - krt_metric;
      if (net = 10.1.3.0/26) then accept;
      if (net ~ 10.1.3.0/26) then reject;
      if (net ~ 10.1.0.0/16) then accept;
      reject;
    };
  };
}
";

fn node(name: &str, n: u8, extra: &Value) -> (String, Value) {
    let mut bgp = json!({"ipv4Address": format!("172.16.0.{n}/24")});
    if n != 3 {
        bgp["ipv6Address"] = json!(format!("fd16::{n}/64"));
    }
    for (key, value) in extra.as_object().unwrap() {
        bgp[key] = value.clone();
    }
    let labels =
        if extra.get("routeReflectorClusterID").is_some() { json!({"role": "rr"}) } else { json!({}) };
    let document = json!({"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name, "labels": labels},
        "spec": {"bgp": bgp}, "status": {}});
    (format!("nodes/{name}"), document)
}

fn resource(kind: &str, plural: &str, name: &str, spec: &Value) -> (String, Value) {
    let document =
        json!({"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec});
    (format!("{plural}/{name}"), document)
}

/// Pools without encapsulation and NAT, and a policy that lets everybody in.
fn common() -> Vec<(String, Value)> {
    let open = json!({"order": 1, "selector": "all()", "types": ["Ingress", "Egress"],
        "ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]});
    let mut policy = resource("GlobalNetworkPolicy", "globalnetworkpolicies", "default.open", &open);
    policy.1["spec"]["tier"] = json!("default");
    vec![
        resource("IPPool", "ippools", "p4", &json!({"cidr": "10.1.0.0/16"})),
        resource("IPPool", "ippools", "p6", &json!({"cidr": "fd00:1::/64"})),
        policy,
    ]
}

fn tor() -> Vec<(String, Value)> {
    ["172.16.0.254", "fd16::fe"]
        .into_iter()
        .enumerate()
        .map(|(place, ip)| {
            resource(
                "BGPPeer",
                "bgppeers",
                &format!("tor-{place}"),
                &json!({"peerIP": ip, "asNumber": 65001}),
            )
        })
        .collect()
}

/// The block of a container: the /26 or /122 around it.
fn block(address: std::net::IpAddr) -> String {
    let len = if address.is_ipv4() { 26 } else { 122 };
    calico_libnetwork::model::Cidr::masking(address, len).to_string()
}

fn ready() -> bool {
    bird_is_there() && have("nft", "netns") && have("ip", "netns")
}

#[test]
fn containers_are_reached_through_a_fabric_and_sessions_survive_their_speakers() {
    if !ready() {
        return;
    }
    in_namespace(
        "routers::containers_are_reached_through_a_fabric_and_sessions_survive_their_speakers",
        || {
            topology(&[1, 2, 3]);
            let fabric = Router::start("", "fabric", FABRIC);
            let mesh = "protocol bgp Mesh_1 from bgp_template { neighbor 172.16.0.1 as 64512; }
            protocol bgp Mesh_2 from bgp_template { neighbor 172.16.0.2 as 64512; }";
            let _calico = Router::start("h3", "calico", &format!("{CALICO_NODE}{mesh}"));
            let none = json!({});
            let nodes = [node("h1", 1, &none), node("h2", 2, &none), node("h3", 3, &none)];
            let documents = [nodes.to_vec(), common(), tor()].concat();
            let mut one = Host::start("h1", &documents);
            let two = Host::start("h2", &documents);
            let (a, b) = (one.container(), two.container());

            // From behind the fabric, without NAT, over both versions.
            for (from, to) in
                [("10.200.0.2", a.v4), ("fd20::2", a.v6), ("10.200.0.2", b.v4), ("fd20::2", b.v6)]
            {
                reach("c", from.parse().unwrap(), to);
            }
            // Each other directly, over the mesh; and a calico/node, which routes to us as we to it.
            wait_route("h1", &block(b.v4), "via 172.16.0.2 dev eth0 proto bird metric 1024");
            wait_route("h2", &block(a.v6), "via fd16::1 dev eth0 proto bird metric 1024");
            reach("wh1", a.v4, b.v4);
            reach("wh1", a.v6, b.v6);
            wait_route("h1", "10.1.3.0/26", "via 172.16.0.3 dev eth0 proto bird metric 1024");
            wait_route("h3", &block(a.v4), "via 172.16.0.1 dev eth0 proto bird metric 1024");
            // Blocks are announced as wholes, and blackholes are not BIRD's.
            let single = run(&format!("ip route show {}", a.v4));
            assert!(single.is_empty(), "the fabric has a route to one container: {single}");
            let own = one.routes(&block(a.v4));
            assert!(!own.contains("proto bird"), "{own}");
            wait_check(&one, "Mesh_172_16_0_2 with h2 (172.16.0.2, AS 64512) is up since");
            wait_check(&one, "Global_fd16__fe with tor-1 (fd16::fe, AS 65001) is up since");

            survive(&mut one, a.v4);

            one.wait_told("BGP session Global_172_16_0_254 with tor-0 (172.16.0.254, AS 65001) is up");
            fabric.kill();
            one.wait_told("BGP session Global_172_16_0_254 with tor-0 (172.16.0.254, AS 65001) went down");
            let told = one.check();
            assert!(
                told.contains("Global_172_16_0_254 with tor-0 (172.16.0.254, AS 65001) is not up since"),
                "{told}"
            );
            assert!(told.contains("Mesh_172_16_0_2 with h2 (172.16.0.2, AS 64512) is up"), "{told}");
        },
    );
}

/// The session with the fabric is up and the fabric has got all routes again: a second restart before that is no graceful
/// one (RFC 4724, 4.2), for any speaker.
fn settled(one: &Host) {
    wait_check(one, "Global_172_16_0_254 with tor-0 (172.16.0.254, AS 65001) is up");
    wait("the fabric is to have got all routes again", || {
        let told = run("birdcl -s /run/fabric.ctl show protocols all h1");
        let done = told.contains("Established") && !told.contains("graceful restart active");
        if done { Ok(()) } else { Err(told) }
    });
}

/// A plugin that is killed, a BIRD that is killed, both, and an orderly stop: no datagram is lost.
fn survive(one: &mut Host, to: std::net::IpAddr) {
    let stream = Stream::start("c", "10.200.0.2".parse().unwrap(), to);
    let bird = one.bird().expect("BIRD runs");
    one.kill();
    assert_eq!(one.bird().as_ref(), Some(&bird), "BIRD outlives the plugin");
    one.again();
    one.wait_log("BIRD of a former process of this plugin goes on", 1);
    assert_eq!(one.bird().as_ref(), Some(&bird));

    run(&format!("kill -9 {bird}"));
    one.wait_log("BIRD is started again", 1);
    one.wait_log("BIRD runs", 3);
    settled(one);

    let bird = one.bird().expect("BIRD runs");
    one.kill();
    run(&format!("kill -9 {bird}"));
    one.again();
    one.wait_log("BIRD runs", 4);
    settled(one);

    assert_eq!(one.stop(), Some(0), "an orderly stop");
    assert_eq!(one.bird(), None, "BIRD ends with it");
    assert!(one.routes("10.1.3.0/26").contains("proto bird"), "its routes stay");
    one.again();
    one.wait_log("BIRD runs", 5);
    settled(one);
    let (sent, lost) = stream.finish();
    assert!(sent > 50, "only {sent} datagrams were sent");
    assert_eq!(lost, 0, "of {sent} datagrams {lost} were lost");
}

#[test]
fn a_route_reflector_tells_its_clients_of_each_other() {
    if !ready() {
        return;
    }
    in_namespace("routers::a_route_reflector_tells_its_clients_of_each_other", || {
        topology(&[1, 2, 3]);
        let client = "protocol bgp Node_2 from bgp_template { neighbor 172.16.0.2 as 64512; }";
        let _calico = Router::start("h3", "calico", &format!("{CALICO_NODE}{client}"));
        let (none, reflects) = (json!({}), json!({"routeReflectorClusterID": "244.0.0.1"}));
        let documents = [
            vec![node("h1", 1, &none), node("h2", 2, &reflects), node("h3", 3, &none)],
            common(),
            vec![
                resource(
                    "BGPConfiguration",
                    "bgpconfigurations",
                    "default",
                    &json!({"nodeToNodeMeshEnabled": false}),
                ),
                resource(
                    "BGPPeer",
                    "bgppeers",
                    "rr",
                    &json!({"nodeSelector": "all()", "peerSelector": "role == 'rr'"}),
                ),
            ],
        ]
        .concat();
        let one = Host::start("h1", &documents);
        let two = Host::start("h2", &documents);
        let (a, b) = (one.container(), two.container());
        wait_route("h1", "10.1.3.0/26", "via 172.16.0.3 dev eth0 proto bird");
        wait_route("h3", &block(a.v4), "via 172.16.0.1 dev eth0 proto bird");
        wait_route("h1", &block(b.v6), "via fd16::2 dev eth0 proto bird");
        reach("wh1", a.v4, b.v4);
        let told = one.check();
        assert!(told.contains("Node_172_16_0_2 with rr (172.16.0.2, AS 64512) is up"), "{told}");
        assert!(!told.contains("172.16.0.3"), "a client peers with the reflector only: {told}");
    });
}

/// Another program on h1 gives its routes BIRD's number, too; they lead nowhere that we know.
fn others_routes() {
    for route in
        ["-4 route replace 10.251.0.0/24 via 172.16.0.253", "-6 route replace fd51::/64 via fd16::fd"]
    {
        run(&format!("nsenter --net=/run/netns/h1 ip {route} proto bird"));
    }
}

/// The routes of h1's BIRD are gone, those of another program are not, and somebody was told of them.
fn gone_but_for_others(told: &str) {
    for ours in ["10.1.3.0/26", "10.200.0.0/24", "fd20::/64"] {
        assert_eq!(routes("h1", ours), "");
    }
    for others in ["10.251.0.0/24", "fd51::/64"] {
        assert!(routes("h1", others).contains("proto bird"), "another program's route stays");
    }
    let sentence =
        "routes of protocol 12 (bird) that are not known to be this plugin's stay: 10.251.0.0/24, fd51::/64;";
    assert!(told.contains(sentence), "{told}");
}

#[test]
fn with_bgp_switched_off_its_routes_go() {
    if !ready() {
        return;
    }
    in_namespace("routers::with_bgp_switched_off_its_routes_go", || {
        topology(&[1, 3]);
        let mesh = "protocol bgp Mesh_1 from bgp_template { neighbor 172.16.0.1 as 64512; }";
        let _calico = Router::start("h3", "calico", &format!("{CALICO_NODE}{mesh}"));
        // There is no h2, for which it would wait before it announces anything.
        let _fabric = Router::start("", "fabric", &format!("graceful restart wait 2;{FABRIC}"));
        let none = json!({});
        let documents = [vec![node("h1", 1, &none), node("h3", 3, &none)], common(), tor()].concat();
        let mut one = Host::start("h1", &documents);
        wait_route("h1", "10.1.3.0/26", "via 172.16.0.3 dev eth0 proto bird");
        wait_route("h1", "10.200.0.0/24", "via 172.16.0.254 dev eth0 proto bird");
        wait_route("h1", "fd20::/64", "via fe80::");
        run("nsenter --net=/run/netns/h1 ip route add 10.250.0.0/24 via 172.16.0.254 proto static");
        // What others give its number, a BIRD that runs takes away itself: so all of that number is its own then.
        others_routes();
        for others in ["10.251.0.0/24", "fd51::/64"] {
            wait("BIRD is to take another program's route away", || match routes("h1", others).as_str() {
                "" => Ok(()),
                left => Err(left.to_owned()),
            });
        }
        one.stop();
        others_routes();
        one.again_with("none");
        wait("BIRD's routes are to go", || match routes("h1", "10.1.3.0/26").as_str() {
            "" => Ok(()),
            other => Err(other.to_owned()),
        });
        assert!(routes("h1", "10.250.0.0/24").contains("proto static"), "an administrator's route stays");
        wait("BIRD is to end", || one.bird().map_or(Ok(()), Err));
        wait("its file is to go", || match Host::folder("h1").join("state/bird").exists() {
            true => Err("it is there".to_owned()),
            false => Ok(()),
        });
        gone_but_for_others(&one.log());

        // The same at an uninstall, where no BIRD can be run any more.
        one.stop();
        one.again();
        wait_route("h1", "10.1.3.0/26", "via 172.16.0.3 dev eth0 proto bird");
        wait_route("h1", "10.200.0.0/24", "via 172.16.0.254 dev eth0 proto bird");
        wait_route("h1", "fd20::/64", "via fe80::");
        one.stop();
        assert!(one.routes("10.1.3.0/26").contains("proto bird"), "they stay for the next start");
        others_routes();
        gone_but_for_others(&one.clean_up_without_bird());
        assert!(routes("h1", "10.250.0.0/24").contains("proto static"), "an administrator's route stays");
        assert!(!Host::folder("h1").join("state/bird").exists());
    });
}

/// A block of each family that is h1's, as IPAM writes it, in whichever datastore.
fn blocks_of_h1() -> Vec<(String, Value)> {
    let mut documents = Vec::new();
    for (family, cidr) in [("ipv4", "10.1.9.0/26"), ("ipv6", "fd00:1::900/122")] {
        let (key, size) = (cidr.replace('/', "-"), 64);
        let block = json!({"cidr": cidr, "affinity": "host:h1", "allocations": vec![Value::Null; size],
            "unallocated": (0..size).collect::<Vec<_>>(), "attributes": [], "deleted": false, "strictAffinity": false});
        documents.push((format!("/calico/ipam/v2/assignment/{family}/block/{key}"), block));
        let claim = json!({"state": "confirmed", "deleted": false});
        documents.push((format!("/calico/ipam/v2/host/h1/{family}/block/{key}"), claim));
    }
    documents
}

#[test]
fn a_borrowed_address_is_announced_by_the_borrower_and_its_block_by_the_owner() {
    if !ready() {
        return;
    }
    let name = "routers::a_borrowed_address_is_announced_by_the_borrower_and_its_block_by_the_owner";
    in_namespace(name, || {
        topology(&[1, 2, 3]);
        let _fabric = Router::start("", "fabric", FABRIC);
        let mesh = "protocol bgp Mesh_1 from bgp_template { neighbor 172.16.0.1 as 64512; }
            protocol bgp Mesh_2 from bgp_template { neighbor 172.16.0.2 as 64512; }";
        let _calico = Router::start("h3", "calico", &format!("{CALICO_NODE}{mesh}"));
        let none = json!({});
        let nodes = [node("h1", 1, &none), node("h2", 2, &none), node("h3", 3, &none)];
        let documents = [nodes.to_vec(), common(), tor(), blocks_of_h1()].concat();
        let owner = Host::start("h1", &documents);
        let borrower = Host::start("h2", &documents);
        let held = owner.container_at(["10.1.9.4", "fd00:1::904"]);
        let borrowed = borrower.container_at(["10.1.9.5", "fd00:1::905"]);

        // The owner ends its block in a blackhole, and knows the way to the address all the same.
        assert!(owner.routes("10.1.9.0/26").contains("blackhole"), "{}", owner.routes("10.1.9.0/26"));
        wait_route("h1", "10.1.9.5", "via 172.16.0.2 dev eth0 proto bird metric 1024");
        wait_route("h1", "fd00:1::905", "via fd16::2 dev eth0 proto bird metric 1024");
        // A calico/node has both from the mesh.
        wait_route("h3", "10.1.9.0/26", "via 172.16.0.1 dev eth0 proto bird");
        wait_route("h3", "10.1.9.5", "via 172.16.0.2 dev eth0 proto bird");
        for (prefix, via) in [("10.1.9.0/26", "172.16.0.1"), ("10.1.9.5", "172.16.0.2")] {
            wait(&format!("the fabric is to route {prefix} via {via}"), || {
                let told = run(&format!("ip route show {prefix}"));
                if told.contains(&format!("via {via} ")) { Ok(()) } else { Err(told) }
            });
        }
        let single = run("ip route show 10.1.9.4; ip -6 route show fd00:1::904");
        assert!(single.is_empty(), "an address of the owner's is not announced beside its block: {single}");

        for container in [&held, &borrowed] {
            reach("c", "10.200.0.2".parse().unwrap(), container.v4);
            reach("c", "fd20::2".parse().unwrap(), container.v6);
        }
        reach("wh1", held.v4, borrowed.v4);
        reach("wh1", held.v6, borrowed.v6);
        reach("wh2", borrowed.v4, held.v4);
        reach("h3", "172.16.0.3".parse().unwrap(), borrowed.v4);
    });
}

/// A BGPFilter.
fn filter(name: &str, spec: &Value) -> (String, Value) {
    resource("BGPFilter", "bgpfilters", name, spec)
}

#[test]
fn a_filter_decides_what_a_router_learns_and_what_is_learned_from_it() {
    if !ready() {
        return;
    }
    in_namespace("routers::a_filter_decides_what_a_router_learns_and_what_is_learned_from_it", || {
        topology(&[1]);
        let fabric = format!("graceful restart wait 2;{FABRIC}");
        let _fabric = Router::start("", "fabric", &fabric);
        let mut peers = tor();
        peers.iter_mut().for_each(|(_, peer)| peer["spec"]["filters"] = json!(["f"]));
        let within = |cidr: &str| json!({"cidr": cidr, "matchOperator": "In", "action": "Accept"});
        let mut marked = within("10.1.0.0/16");
        marked["operations"] =
            json!([{"addCommunity": {"value": "65001:77"}}, {"prependASPath": {"prefix": [64999]}}]);
        let mut preferred = within("10.200.0.0/16");
        preferred["operations"] = json!([{"setPriority": {"value": 500}}]);
        let spec = json!({"exportV4": [marked], "exportV6": [{"action": "Reject"}],
            "importV4": [preferred], "importV6": [{"action": "Reject"}]});
        let documents = [vec![node("h1", 1, &json!({})), filter("f", &spec)], common(), peers].concat();
        let one = Host::start("h1", &documents);
        let a = one.container();

        reach("c", "10.200.0.2".parse().unwrap(), a.v4);
        wait_route("h1", "10.200.0.0/24", "via 172.16.0.254 dev eth0 proto bird metric 500");
        let told = run(&format!("birdcl -s /run/fabric.ctl show route all {}", block(a.v4)));
        assert!(told.contains("BGP.as_path: 64512 64999"), "{told}");
        assert!(told.contains("BGP.community: (65001,77)"), "{told}");
        // Over IPv6 nothing passes, though the session is up.
        wait_check(&one, "Global_fd16__fe with tor-1 (fd16::fe, AS 65001) is up since");
        let six = block(a.v6);
        assert_eq!(run(&format!("ip -6 route show {six}")), "", "the fabric has heard of {six}");
        assert_eq!(routes("h1", "fd20::/64"), "");
        let (from, to) = ("fd20::2".parse().unwrap(), std::net::SocketAddr::new(a.v6, 7000));
        assert!(inside("c", move || probe_udp(from, to)).is_err(), "IPv6 traffic passes");

        // The other way round, while everything runs.
        let spec = json!({"exportV4": [{"action": "Reject"}], "importV4": [{"action": "Reject"}]});
        one.apply(&filter("f", &spec).1);
        reach("c", from, a.v6);
        wait_route("h1", "fd20::/64", "proto bird");
        wait("IPv4 is to end", || {
            match format!(
                "{}{}",
                run(&format!("ip route show {}", block(a.v4))),
                routes("h1", "10.200.0.0/24")
            )
            .as_str()
            {
                "" => Ok(()),
                left => Err(left.to_owned()),
            }
        });
        let (from, to) = ("10.200.0.2".parse().unwrap(), std::net::SocketAddr::new(a.v4, 7000));
        assert!(inside("c", move || probe_udp(from, to)).is_err(), "IPv4 traffic passes");
    });
}

#[test]
fn with_routes_off_bird_ends_the_nodes_blocks_and_routes_the_others() {
    if !ready() {
        return;
    }
    in_namespace("routers::with_routes_off_bird_ends_the_nodes_blocks_and_routes_the_others", || {
        topology(&[1, 2]);
        let _fabric = Router::start("", "fabric", FABRIC);
        let none = json!({});
        let documents = [vec![node("h1", 1, &none), node("h2", 2, &none)], common(), tor()].concat();
        let off = &[("CALICO_LIBNETWORK_ROUTES", "off")];
        let mut one = Host::start_with("h1", &documents, off);
        let two = Host::start_with("h2", &documents, off);
        let (a, b) = (one.container(), two.container());
        for (from, to) in [("10.200.0.2", a.v4), ("fd20::2", a.v6)] {
            reach("c", from.parse().unwrap(), to);
        }
        wait_route("h1", &block(b.v4), "via 172.16.0.2 dev eth0 proto bird metric 1024");
        reach("wh1", a.v4, b.v4);
        reach("wh1", a.v6, b.v6);
        // An address of its block that nobody has does not go back to the router.
        for (own, from) in [(block(a.v4), "172.16.0.1"), (block(a.v6), "fd16::1")] {
            wait_route("h1", &own, "proto bird");
            assert!(one.routes(&own).contains("blackhole"), "{}", one.routes(&own));
            let cidr: calico_libnetwork::model::Cidr = own.parse().unwrap();
            let from = std::net::SocketAddr::new(from.parse().unwrap(), 0);
            let to = std::net::SocketAddr::new(cidr.last(), 9);
            let said = inside("h1", move || std::net::UdpSocket::bind(from).unwrap().send_to(b"?", to));
            assert!(said.is_err(), "{own}: {said:?}");
        }
        one.stop();
        one.again_with("none");
        wait("BIRD's blackholes are to go", || {
            match format!("{}{}", one.routes(&block(a.v4)), one.routes(&block(a.v6))).as_str() {
                "" => Ok(()),
                left => Err(left.to_owned()),
            }
        });
    });
}

/// Felix filters on h1, or does no more.
fn felix(there: bool) {
    let table = match there {
        true => {
            "table ip calico { chain filter-cali-FORWARD { }; chain filter-FORWARD { type filter hook forward priority 0; jump filter-cali-FORWARD; }; }"
        }
        false => "delete table ip calico",
    };
    run(&format!("nsenter --net=/run/netns/h1 nft '{table}'"));
}

#[test]
fn beside_felix_birds_routes_are_those_of_who_speaks_bgp_then() {
    if !ready() {
        return;
    }
    in_namespace("routers::beside_felix_birds_routes_are_those_of_who_speaks_bgp_then", || {
        topology(&[1, 3]);
        let mesh = "protocol bgp Mesh_1 from bgp_template { neighbor 172.16.0.1 as 64512; }";
        let _calico = Router::start("h3", "calico", &format!("{CALICO_NODE}{mesh}"));
        let none = json!({});
        let patience = resource(
            "BGPConfiguration",
            "bgpconfigurations",
            "default",
            &json!({"nodeMeshMaxRestartTime": "5s"}),
        );
        let documents = [vec![node("h1", 1, &none), node("h3", 3, &none), patience], common()].concat();
        let mut one = Host::start("h1", &documents);
        let route = ("10.1.3.0/26", "via 172.16.0.3 dev eth0 proto bird metric 1024");
        wait_route("h1", route.0, route.1);

        // Felix without a BIRD: for as long as the peers wait for one, the routes stay.
        felix(true);
        one.wait_told("BGP is left to calico/node");
        assert!(one.routes(route.0).contains(route.1), "{}", one.routes(route.0));
        others_routes();
        one.wait_told("nobody speaks BGP on this host since Felix programs it");
        wait("BIRD's routes are to go", || match one.routes(route.0).as_str() {
            "" => Ok(()),
            left => Err(left.to_owned()),
        });
        assert!(one.routes("10.251.0.0/24").contains("proto bird"), "another program's route stays");
        let told = one.check();
        assert!(told.contains("left to BIRD of calico/node"), "{told}");

        // Felix goes: BGP is the plugin's again.
        felix(false);
        one.wait_log("BIRD runs", 2);
        wait_route("h1", route.0, route.1);

        // Felix with a BIRD: that one has them.
        felix(true);
        one.wait_told("BGP is left to calico/node");
        let theirs = CALICO_NODE.replace("172.16.0.3", "172.16.0.1").replace("10.1.3.0/26", "10.1.1.0/26");
        let mesh = "protocol bgp Mesh_3 from bgp_template { neighbor 172.16.0.3 as 64512; }";
        let _theirs = Router::start("h1", "theirs", &format!("{theirs}{mesh}"));
        one.wait_told("routes that BIRD left are calico/node's: somebody speaks BGP on this host");
        wait_route("h1", route.0, route.1);
        wait("calico/node is to be a peer", || {
            let told = run("birdcl -s /run/theirs.ctl show protocols Mesh_3");
            if told.contains("Established") { Ok(()) } else { Err(told) }
        });
        one.stop();
        let told = one.clean_up_without_bird();
        assert!(told.contains("routes between nodes are its own and stay"), "{told}");
        assert!(one.routes(route.0).contains(route.1), "{}", one.routes(route.0));
    });
}
