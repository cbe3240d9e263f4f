//! What FelixConfiguration says about the packet filter, changed while it is in force: packets to the host, Log rules,
//! natOutgoing.

use crate::lab::{Lab, Probe, address, ask, open_mesh};
use crate::nsrun::{have, in_namespace, inside, run};
use calico_libnetwork::dataplane::{HostAction, LogRate, LogTuning, NatTuning, PoolNat, Tuning};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

fn isolated(test: &str, body: impl FnOnce()) {
    if have("nft", "nft") {
        in_namespace(test, body);
    }
}

fn tune(lab: &Lab, tuning: Tuning) {
    lab.block(lab.dataplane.tune(tuning)).unwrap();
}

fn host(action: HostAction) -> Tuning {
    Tuning { host_action: action, ..Tuning::default() }
}

#[test]
fn packets_to_the_host_go_by_policy_and_then_by_the_default_action() {
    isolated("tuning::packets_to_the_host_go_by_policy_and_then_by_the_default_action", || {
        let mut lab = Lab::start();
        let reaches = |name: &str| [4, 6].map(|family| ask(name, address("host", family), Probe::Tcp(80)));
        for (action, open) in
            [(HostAction::Drop, false), (HostAction::Accept, true), (HostAction::Return, true)]
        {
            tune(&lab, host(action));
            assert_eq!(reaches("a"), [open; 2], "{action:?}");
            // Replies to the host pass whatever the action, and the host is not policed.
            for family in [4, 6] {
                assert!(ask("host", address("a", family), Probe::Tcp(80)), "{action:?} IPv{family}");
                assert!(ask("b", address("a", family), Probe::Tcp(80)), "{action:?} IPv{family}");
            }
        }
        run(
            "nft add table inet host; nft add chain inet host input '{ type filter hook input priority 0; policy drop; }'",
        );
        run("nft add rule inet host input ct state established,related accept");
        run("nft add rule inet host input meta l4proto ipv6-icmp accept");
        for (action, open) in [(HostAction::Drop, false), (HostAction::Return, false)] {
            tune(&lab, host(action));
            assert_eq!(reaches("a"), [open; 2], "the host drops, {action:?}");
        }
        run("nft delete table inet host");
        // Policy comes before the action.
        let mut documents = open_mesh();
        let spec = json!({"selector": "name == 'a'", "types": ["Egress"], "egress": []});
        documents.insert("globalnetworkpolicies/from-a".to_owned(), json!({"spec": spec}));
        lab.become_(&documents);
        for action in [HostAction::Accept, HostAction::Return] {
            tune(&lab, host(action));
            assert_eq!((reaches("a"), reaches("b")), ([false; 2], [true; 2]), "{action:?}");
        }
    });
}

#[test]
fn log_rules_write_as_they_are_told_and_decide_nothing() {
    isolated("tuning::log_rules_write_as_they_are_told_and_decide_nothing", || {
        let mut lab = Lab::start();
        let mut documents = open_mesh();
        let ingress = json!([{"action": "Log", "protocol": "UDP"}, {"action": "Allow"}]);
        let spec = json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": ingress});
        documents.insert("globalnetworkpolicies/to-a".to_owned(), json!({"spec": spec}));
        lab.become_(&documents);
        let shown = || run("nft list table inet calico-docker");
        assert!(shown().contains("log prefix \"calico-packet: \" level info"), "{}", shown());
        let rate = Some(LogRate { lines: 10, seconds: 60, burst: 5 });
        let log = LogTuning { prefix: "%t|%k|%n|%p".to_owned(), rate };
        tune(&lab, Tuning { log, ..Tuning::default() });
        let want = "limit rate 10/minute log prefix \"default|gnp|to-a|to-a: \" level info";
        assert!(shown().contains(want), "{}", shown());
        lab.expect("a log decides nothing, whatever its limit", "udp/80: all");
        for _ in 0..20 {
            assert!(ask("b", address("a", 4), Probe::Udp(80)));
        }
        let repairs = lab.dataplane.status().borrow().repairs;
        lab.block(lab.dataplane.resync()).unwrap();
        assert_eq!(lab.dataplane.status().borrow().repairs, repairs, "it reads back as it was meant");
    });
}

/// Tells whoever asks from which address and port it heard.
fn tell_peers(namespace: &str, port: u16) {
    inside(namespace, move || {
        let socket = UdpSocket::bind(("::", port)).unwrap();
        std::thread::spawn(move || {
            while let Ok((_, peer)) = socket.recv_from(&mut [0; 8]) {
                let _ = socket.send_to(peer.to_string().as_bytes(), peer);
            }
        });
    });
}

/// As whom `from` is seen.
fn seen(from: &str, at: SocketAddr) -> Option<SocketAddr> {
    inside(from, move || {
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.connect(at).unwrap();
        let mut buffer = [0; 64];
        let len = (0..5).find_map(|_| {
            socket.send(b"x").ok()?;
            socket.recv(&mut buffer).ok()
        })?;
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        let peer: SocketAddr = text.parse().unwrap();
        let plain = match peer.ip() {
            IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
            v4 @ IpAddr::V4(_) => v4,
        };
        Some(SocketAddr::new(plain, peer.port()))
    })
}

#[test]
fn nat_outgoing_is_as_the_configuration_says() {
    isolated("tuning::nat_outgoing_is_as_the_configuration_says", || {
        const PORT: u16 = 9999;
        let lab = Lab::start();
        ["x", "b"].into_iter().for_each(|name| tell_peers(name, PORT));
        run("ip address add 192.0.2.9/24 dev uplink");
        let pools = ["10.65.0.0/16", "fd65::/64"]
            .map(|cidr| PoolNat { cidr: cidr.parse().unwrap(), nat_outgoing: true });
        lab.block(lab.dataplane.set_pools(&pools)).unwrap();
        let nat = |nat: NatTuning| tune(&lab, Tuning { nat, ..Tuning::default() });
        let at = |name: &str, family| SocketAddr::new(address(name, family), PORT);
        let of = |name: &str, family| seen("a", at(name, family)).unwrap();
        let both = |name: &str| [4, 6].map(|family| of(name, family).ip());
        let (host, own) =
            ([4, 6].map(|family| address("host", family)), [4, 6].map(|family| address("a", family)));
        nat(NatTuning::default());
        assert_eq!((both("x"), both("b")), (host, own));
        // Hosts are spared; x is one.
        nat(NatTuning { spared: [4, 6].map(|family| address("x", family)).into(), ..NatTuning::default() });
        run("nsenter --net=/run/netns/x ip route add 10.65.0.0/16 via 192.0.2.1");
        assert_eq!(both("x"), own);
        // Only what leaves through another interface would be translated.
        nat(NatTuning { interface: Some("eth*".to_owned()), ..NatTuning::default() });
        assert_eq!(both("x"), own);
        nat(NatTuning { interface: Some("up*".to_owned()), ..NatTuning::default() });
        assert_eq!(both("x"), host);
        nat(NatTuning { ports: Some((20_000, 20_010)), ..NatTuning::default() });
        for family in [4, 6] {
            let peer = of("x", family);
            assert_eq!(peer.ip(), address("host", family));
            assert!((20_000..=20_010).contains(&peer.port()), "{peer}");
        }
        let given = Ipv4Addr::new(192, 0, 2, 9);
        nat(NatTuning { address: Some(given), ..NatTuning::default() });
        assert_eq!(both("x"), [IpAddr::V4(given), host[1]]);
        lab.block(lab.dataplane.resync()).unwrap();
        let repairs = lab.dataplane.status().borrow().repairs;
        lab.block(lab.dataplane.resync()).unwrap();
        assert_eq!(lab.dataplane.status().borrow().repairs, repairs, "it reads back as it was meant");
    });
}
