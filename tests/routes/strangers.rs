//! VXLAN packets from machines that are no nodes.

use crate::lab::{Host, Lab, TUNNELS, ip};
use crate::support::netns::{self, Echo};
use crate::vxlan::tunnel_address;
use calico_libnetwork::model::IpVersion::{V4, V6};
use serde_json::json;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const PORT: u16 = 4100;
/// A network like one of Docker's overlays, on the same UDP port.
const OVERLAY: u32 = 4097;

/// Makes a VXLAN device by which a host speaks to one other host, and has an address.
fn speak(host: &Host, (name, vni): (&str, u32), other: IpAddr, address: &str) {
    let local = if other.is_ipv4() { host.v4 } else { host.v6 };
    host.ip(&format!(
        "link add {name} type vxlan id {vni} dstport 4789 local {local} remote {other} dev eth0"
    ));
    host.ns.enter({
        let name = name.to_owned();
        move || crate::lab::no_doubt(&name)
    });
    host.ip(&format!("link set {name} up"));
    host.ip(&format!("addr add {address} dev {name}"));
}

/// The ways by which a stranger's packets come to a node: to its tunnel's ends, with the stranger's own address inside,
/// so that an answer comes back past the tunnel.
async fn intrude(lab: &Lab, stranger: &Host, a: &Host) -> [SocketAddr; 2] {
    let mut ends = Vec::new();
    let ways = [
        (V4, "vxlan.calico", "in4", a.v4, "10.77.0.9/32"),
        (V6, "vxlan-v6.calico", "in6", a.v6, "fd77::9/128"),
    ];
    for (version, name, device, host, own) in ways {
        let end = tunnel_address(lab, "a", version).await;
        speak(stranger, (device, 4096), host, own);
        let mac = crate::vxlan::device(a, name)["address"].as_str().unwrap().to_owned();
        stranger.ip(&format!("neigh replace {end} lladdr {mac} dev {device} nud permanent"));
        stranger.ip(&format!("route replace {end} dev {device}"));
        ends.push(SocketAddr::new(end, PORT));
    }
    [ends[0], ends[1]]
}

/// One datagram from a machine's own address: whether it was answered before long.
fn answered(from: &Host, to: SocketAddr, patience: Duration) -> bool {
    let own = if to.is_ipv4() { from.v4 } else { from.v6 };
    from.ns.enter(move || {
        let socket = UdpSocket::bind(SocketAddr::new(own, 0)).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(b"?", to).is_ok() && socket.recv_from(&mut [0; 64]).is_ok()
    })
}

/// Waits until a datagram is answered.
fn until_answered(from: &Host, to: SocketAddr) {
    let start = Instant::now();
    while !answered(from, to, Duration::from_millis(100)) {
        assert!(start.elapsed() < crate::lab::PATIENCE, "{} has no answer from {to}", from.name);
    }
}

/// How many packets of strangers were dropped.
fn dropped(host: &Host) -> u64 {
    host.ns.enter_async(|| async {
        let counts = calico_libnetwork::dataplane::rule_counts(crate::lab::PATIENCE).await.unwrap();
        let ours = counts.into_iter().filter(|count| count.what == "VXLAN from no node");
        ours.map(|count| count.packets).sum::<u64>()
    })
}

#[test]
fn only_nodes_and_who_is_listed_may_send_vxlan() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let (one, two) = (a.container(&lab, 1).await, b.container(&lab, 2).await);
        let stranger = lab.bare_host("s", 0, 9).await;
        for (host, other) in [(&a, &two), (&b, &one)] {
            host.until_routes(other, TUNNELS).await;
        }
        let ends = intrude(&lab, &stranger, &a).await;
        let echoes = a.ns.enter(move || ends.map(|end| Echo::start(end.ip(), PORT)));
        // So it is without the packet filter: what the stranger sends is taken.
        ends.iter().for_each(|end| until_answered(&stranger, *end));

        let filter = a.filter();
        for (n, end) in ends.into_iter().enumerate() {
            assert!(!answered(&stranger, end, Duration::from_millis(500)), "{end}");
            assert!(dropped(&a) > u64::try_from(n).unwrap());
            // Nodes pass, at once.
            assert!(answered(&b, end, crate::lab::PATIENCE), "{end}");
        }
        // Another VXLAN network on the same port is no business of ours.
        for (host, other, address) in [(&a, &stranger, "10.99.0.1/24"), (&stranger, &a, "10.99.0.9/24")] {
            speak(host, ("ov", OVERLAY), other.v4, address);
        }
        let overlay = SocketAddr::new(ip("10.99.0.1"), PORT);
        let beside = a.ns.enter(move || Echo::start(overlay.ip(), PORT));
        let asked = stranger.ns.enter(move || netns::probe_udp(ip("10.99.0.9"), overlay)).unwrap();
        assert_eq!(asked, ip("10.99.0.9"));

        let listed = json!({"externalNodesList": [stranger.v4.to_string(), format!("{}/127", stranger.v6)]});
        lab.put("FelixConfiguration", "felixconfigurations", "default", listed).await;
        ends.iter().for_each(|end| until_answered(&stranger, *end));
        lab.put("FelixConfiguration", "felixconfigurations", "default", json!({"vxlanEnabled": false})).await;
        a.until("no devices", |_| crate::vxlan::device(&a, "vxlan.calico").is_null()).await;
        drop((filter, echoes, beside));
    });
}
