//! Packets at the edge of what policy is about: errors that belong to a flow, packets without a flow, addresses whose
//! route went elsewhere.

use crate::lab::{Lab, Probe, address, ask, open_mesh};
use crate::nsrun::{have, in_namespace, inside, run};
use crate::raw::{ACK, FIN, INIT, INIT_ACK, RST, SYN, Segment, Wire};
use calico_libnetwork::dataplane::rule_counts;
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

fn isolated(test: &str, body: impl FnOnce()) {
    if have("nft", "nft") {
        in_namespace(test, body);
    }
}

/// What rules with this comment have counted.
fn counted(lab: &Lab, what: &str) -> u64 {
    let counts = lab.block(rule_counts(Duration::from_secs(60))).unwrap();
    counts.iter().filter(|count| count.what == what).map(|count| count.packets).sum()
}

#[test]
fn an_error_about_an_allowed_flow_comes_back_whatever_policy_says() {
    isolated("edges::an_error_about_an_allowed_flow_comes_back_whatever_policy_says", || {
        let mut lab = Lab::start();
        let mut documents = open_mesh();
        // b may send nothing, a may be sent nothing, and only UDP goes from a to b.
        for (name, spec) in [
            ("b-out", json!({"selector": "name == 'b'", "types": ["Egress"], "egress": []})),
            ("a-in", json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": []})),
            (
                "b-in",
                json!({"selector": "name == 'b'", "types": ["Ingress"], "ingress": [{"action": "Allow", "protocol": "UDP"}]}),
            ),
        ] {
            documents.insert(format!("globalnetworkpolicies/{name}"), json!({"spec": spec}));
        }
        lab.become_(&documents);
        for family in [4, 6] {
            let to = address("b", family);
            let error = inside("a", move || {
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                // Nobody listens there.
                socket.connect((to, 4444)).unwrap();
                // Linux limits how many such errors it sends; one of them is enough.
                (0..5).find_map(|_| {
                    let _ = socket.send(b"x");
                    socket
                        .recv(&mut [0; 8])
                        .err()
                        .filter(|error| error.kind() == ErrorKind::ConnectionRefused)
                })
            });
            assert!(error.is_some(), "IPv{family}: port unreachable comes back");
            assert!(!ask("b", address("a", family), Probe::Udp(80)), "IPv{family}");
        }
    });
}

#[test]
fn an_address_whose_route_went_elsewhere_is_spoofed() {
    isolated("edges::an_address_whose_route_went_elsewhere_is_spoofed", || {
        let lab = Lab::start();
        // As after its endpoint was removed: the address is reached through the uplink now.
        run("ip route replace 10.65.0.1/32 via 192.0.2.2");
        run("ip -6 route del fd65::1/128");
        run("ip -6 route add fd65::1/128 via 2001:db8::2");
        for family in [4, 6] {
            // Over IPv6 it may be the question for the next hop's Ethernet address that is dropped, and nothing follows it.
            let before = counted(&lab, "RPF");
            assert!(!ask("a", address("x", family), Probe::Udp(80)), "IPv{family}");
            assert!(!ask("a", address("b", family), Probe::Udp(80)), "IPv{family}");
            let least = if family == 4 { 2 } else { 1 };
            assert!(counted(&lab, "RPF") >= before + least, "IPv{family}");
            assert!(ask("b", address("x", family), Probe::Udp(80)), "IPv{family}");
        }
    });
}

#[test]
fn tables_of_others_with_like_names_and_the_packets_they_count_stay() {
    isolated("edges::tables_of_others_with_like_names_and_the_packets_they_count_stay", || {
        let mut lab = Lab::start();
        let foreign = [
            "table ip calico-docker { set from-wl { type ipv4_addr; elements = { 192.0.2.77 }; }; }",
            "table ip6 calico-docker { chain forward { counter comment \"theirs\"; }; }",
            "table inet calico-docker2 { map from-wl { type ifname : verdict; elements = { \"cali1\" : drop }; }; }",
        ];
        for table in foreign {
            std::fs::write("/run/foreign.nft", table).unwrap();
            run("nft --file /run/foreign.nft");
        }
        let listed = || {
            ["ip calico-docker", "ip6 calico-docker", "inet calico-docker2"]
                .map(|id| run(&format!("nft list table {id}")))
        };
        let before = listed();
        let mut documents = open_mesh();
        let spec = json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": []});
        documents.insert("globalnetworkpolicies/to-a".to_owned(), json!({"spec": spec}));
        lab.become_(&documents);
        run("nft flush table inet calico-docker");
        lab.block(lab.dataplane.resync()).unwrap();
        lab.expect("after a flush of our table", "tcp/80: all -*>a");
        assert_eq!(listed(), before);
    });
}

#[test]
fn a_stray_segment_is_judged_and_an_invalid_one_dropped_and_other_flows_go_on() {
    isolated("edges::a_stray_segment_is_judged_and_an_invalid_one_dropped_and_other_flows_go_on", || {
        let mut lab = Lab::start();
        for family in [4, 6] {
            let to = address("b", family);
            let mut flow = inside("a", move || TcpStream::connect((to, 80)).unwrap());
            let mut goes_on = || {
                flow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                flow.write_all(b"x").unwrap();
                flow.read_exact(&mut [0; 1]).unwrap();
            };
            goes_on();
            let (outside, inner) = (Wire::tcp("x", family), Wire::tcp("b", family));
            let segment = |from, what| Segment { from, to: 80, what };
            // What belongs to no connection is judged as what begins one, and whoever listens resets it.
            outside.send(&inner, segment(5001, ACK));
            inner.receives(segment(5001, ACK));
            outside.receives(Segment { from: 80, to: 5001, what: RST });
            goes_on();
            // What no connection has ever does not get as far. Packets of one sender keep their order.
            outside.send(&inner, segment(5002, SYN | FIN));
            outside.send(&inner, segment(5003, ACK));
            assert_eq!(inner.receive(), segment(5003, ACK), "IPv{family}");
            goes_on();
            // What nobody may send is dropped, and the flow that was there before goes on.
            let mut documents = open_mesh();
            let ingress = json!([{"action": "Allow", "protocol": "TCP", "source": {"ports": [5005]}}]);
            let spec = json!({"selector": "name == 'b'", "types": ["Ingress"], "ingress": ingress});
            documents.insert("globalnetworkpolicies/to-b".to_owned(), json!({"spec": spec}));
            lab.become_(&documents);
            let inner = Wire::tcp("b", family);
            outside.send(&inner, segment(5004, ACK));
            outside.send(&inner, segment(5005, ACK));
            assert_eq!(inner.receive(), segment(5005, ACK), "IPv{family}");
            goes_on();
            lab.become_(&open_mesh());
        }
    });
}

#[test]
fn sctp_is_known_by_its_ports() {
    isolated("edges::sctp_is_known_by_its_ports", || {
        let mut lab = Lab::start();
        let mut documents = open_mesh();
        let ingress = json!([{"action": "Allow", "protocol": "SCTP", "destination": {"ports": [90]}}]);
        for name in ["a", "b"] {
            let spec = json!({"selector": format!("name == '{name}'"), "types": ["Ingress"], "ingress": if name == "b" { ingress.clone() } else { json!([]) }});
            documents.insert(format!("globalnetworkpolicies/to-{name}"), json!({"spec": spec}));
        }
        lab.become_(&documents);
        lab.expect("other protocols with its port", "tcp/90: all -*>a -*>b");
        lab.expect("other protocols with its port", "udp/90: all -*>a -*>b");
        for family in [4, 6] {
            let (a, b) = (Wire::sctp("a", family), Wire::sctp("b", family));
            // Packets of one sender keep their order.
            a.send(&b, Segment { from: 5001, to: 91, what: INIT });
            a.send(&b, Segment { from: 5002, to: 90, what: INIT });
            assert_eq!(b.receive(), Segment { from: 5002, to: 90, what: INIT }, "IPv{family}");
            // The answer is part of the flow; a may be sent nothing else.
            b.send(&a, Segment { from: 90, to: 5003, what: INIT_ACK });
            b.send(&a, Segment { from: 90, to: 5002, what: INIT_ACK });
            assert_eq!(a.receive(), Segment { from: 90, to: 5002, what: INIT_ACK }, "IPv{family}");
        }
    });
}
