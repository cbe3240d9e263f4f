//! The host side of endpoints against the real kernel, one network namespace a test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic, its helpers too"
)]

mod support;

use calico_libnetwork::model::{IfaceName, MacAddress};
use calico_libnetwork::net::{EndpointLink, Host, HostEvent, KernelHost, Link, NetError, NextHops};
use futures::{FutureExt, StreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use rtnetlink::IpVersion;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::netns::{self, Echo, Ip, Namespace, Nic, first_udp, probe_tcp, probe_udp, set_sysctl, sysctl};

/// For what must happen, on a machine that may be very busy.
const PATIENCE: Duration = Duration::from_secs(20);

const SYSNET: &str = "/proc/sys/net";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Endpoint n of both families: `10.65.0.n`, `fd00:65::n`, next hops `169.254.1.N` and `fe80::N` by `hop`.
fn endpoint(n: u8, hop: u8) -> EndpointLink {
    EndpointLink {
        host: IfaceName::new(&format!("cali{n:011}")).unwrap(),
        temp: IfaceName::new(&format!("temp{n:011}")).unwrap(),
        mac: MacAddress([2, 0, 0, 0, 0, n]),
        mtu: 1440,
        alias: format!("calico-libnetwork:{n}"),
        addresses: vec![ip(&format!("10.65.0.{n}")), ip(&format!("fd00:65::{n:x}"))],
        gateway_v6: Some(format!("fe80::{hop:x}").parse().unwrap()),
        siblings: false,
    }
}

fn nic(name: &'static str, endpoint: &EndpointLink, hop: u8, default: bool) -> Nic {
    let next_hops = vec![ip(&format!("169.254.1.{hop}")), ip(&format!("fe80::{hop:x}"))];
    Nic { name, addresses: endpoint.addresses.clone(), next_hops, default }
}

async fn kernel() -> KernelHost {
    KernelHost::open(SYSNET).await.unwrap()
}

/// Ensures an endpoint and puts its other end in a new container with a default route.
async fn container(host: &KernelHost, n: u8) -> (EndpointLink, Namespace) {
    let endpoint = endpoint(n, 1);
    host.ensure_endpoint(&endpoint).await.unwrap();
    let container = Namespace::new();
    container.take(endpoint.temp.as_str(), "eth0").await;
    let nic = nic("eth0", &endpoint, 1, true);
    container.enter_async(move || async move { nic.configure().await });
    wait_for_carrier(host, &endpoint).await;
    (endpoint, container)
}

/// The kernel lets packets through a link some time after its other end came up, when a worker of its own got the rtnl
/// lock (`net/core/link_watch.c`): on a busy machine that can be after the first packet.
async fn wait_for_carrier(host: &KernelHost, endpoint: &EndpointLink) {
    let start = Instant::now();
    let runs = |link: &Link| link.name == endpoint.host.as_str() && link.carrier;
    while !host.links().await.unwrap().iter().any(runs) {
        assert!(start.elapsed() < PATIENCE, "{} gets no carrier", endpoint.host);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The routes of the main table on one device: destination length, header and metric.
async fn routes_on(name: &str) -> Vec<RouteMessage> {
    let net = Ip::open();
    let index = net.index(name).await.unwrap();
    let mut routes = net.routes(IpVersion::V4).await;
    routes.extend(net.routes(IpVersion::V6).await);
    routes
        .retain(|route| route.header.table == 254 && route.attributes.contains(&RouteAttribute::Oif(index)));
    routes
}

fn assert_sysctls(name: &str) {
    for (key, value) in [
        ("ipv6/conf/IF/accept_ra", "0"),
        ("ipv6/conf/IF/accept_dad", "0"),
        ("ipv6/conf/IF/disable_ipv6", "0"),
        ("ipv6/conf/IF/proxy_ndp", "1"),
        ("ipv6/conf/IF/forwarding", "1"),
        ("ipv4/conf/IF/route_localnet", "1"),
        ("ipv4/conf/IF/proxy_arp", "1"),
        ("ipv4/conf/IF/forwarding", "1"),
        ("ipv4/neigh/IF/proxy_delay", "0"),
        ("ipv6/neigh/IF/retrans_time_ms", "100"),
        ("ipv6/neigh/IF/mcast_solicit", "30"),
        ("ipv6/neigh/IF/ucast_solicit", "30"),
    ] {
        assert_eq!(sysctl(&key.replace("IF", name)), value, "{key}");
    }
    assert_eq!(sysctl(&format!("ipv4/conf/{name}/rp_filter")), sysctl("ipv4/conf/default/rp_filter"));
}

async fn assert_exact(endpoint: &EndpointLink) {
    let name = endpoint.host.as_str();
    assert_sysctls(name);

    let net = Ip::open();
    let index = net.index(name).await.unwrap();
    let link = kernel().await.links().await.unwrap().into_iter().find(|link| link.name == name).unwrap();
    assert!(link.up && link.is_veth(), "{link:?}");
    assert_eq!((link.index, link.mac, link.mtu), (index, Some(MacAddress::HOST_SIDE), endpoint.mtu));
    assert_eq!(link.alias.as_deref(), Some(endpoint.alias.as_str()));

    let routes = routes_on(name).await;
    for (kind, len) in [("IPv4", 32), ("IPv6", 128)] {
        let found: Vec<_> =
            routes.iter().filter(|route| route.header.destination_prefix_length == len).collect();
        assert_eq!(found.len(), 1, "{kind}: {routes:?}");
        let (header, attributes) = (&found[0].header, &found[0].attributes);
        assert_eq!(
            (header.protocol, header.scope),
            (RouteProtocol::Other(80), RouteScope::Universe),
            "{kind}"
        );
        assert_eq!(header.kind, RouteType::Unicast, "{kind}");
        assert!(attributes.contains(&RouteAttribute::Priority(1024)), "{kind}: {attributes:?}");
        assert!(
            !attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_))),
            "{kind}: {attributes:?}"
        );
    }

    let neighbours = net.neighbours().await;
    let permanent: Vec<_> = neighbours
        .iter()
        .filter(|entry| entry.header.ifindex == index && entry.header.state == NeighbourState::Permanent)
        .collect();
    assert_eq!(permanent.len(), 1, "{permanent:?}");
    let IpAddr::V4(v4) = endpoint.addresses[0] else { panic!("the first address is IPv4") };
    assert!(permanent[0].attributes.contains(&NeighbourAttribute::Destination(NeighbourAddress::Inet(v4))));
    assert!(permanent[0].attributes.contains(&NeighbourAttribute::LinkLayerAddress(endpoint.mac.0.to_vec())));

    let gateway = AddressAttribute::Address(IpAddr::V6(endpoint.gateway_v6.unwrap()));
    let addresses = net.addresses().await;
    let address =
        addresses.iter().find(|a| a.header.index == index && a.attributes.contains(&gateway)).unwrap();
    assert_eq!(address.header.prefix_len, 64);
    let flags = address.attributes.iter().find_map(|a| match a {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    assert!(!flags.unwrap().intersects(AddressFlags::Tentative | AddressFlags::Dadfailed), "{flags:?}");
}

async fn assert_nothing_else(before: &[String]) {
    let after = Ip::open().everything().await;
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    let lost: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    assert!(new.is_empty() && lost.is_empty(), "left behind: {new:#?}, lost: {lost:#?}");
}

#[test]
fn everything_is_exact_when_ensure_returns_and_nothing_is_left_after_release() {
    netns::run(|| async {
        set_sysctl("ipv4/conf/default/rp_filter", "1");
        let host = kernel().await;
        let before = Ip::open().everything().await;
        let endpoint = endpoint(1, 1);
        host.ensure_endpoint(&endpoint).await.unwrap();
        assert_exact(&endpoint).await;
        let links = host.links().await.unwrap();
        let temp = links.iter().find(|link| link.name == endpoint.temp.as_str()).unwrap();
        assert_eq!((temp.mac, temp.mtu, temp.up), (Some(endpoint.mac), endpoint.mtu, false));

        host.release_endpoint(&endpoint.reference()).await.unwrap();
        assert_nothing_else(&before).await;
        host.release_endpoint(&endpoint.reference()).await.unwrap();
        assert_nothing_else(&before).await;
    });
}

#[test]
fn ensure_twice_is_ensure_once() {
    netns::run(|| async {
        let host = kernel().await;
        let endpoint = endpoint(1, 1);
        host.ensure_endpoint(&endpoint).await.unwrap();
        let once = Ip::open().everything().await;
        host.ensure_endpoint(&endpoint).await.unwrap();
        assert_nothing_else(&once).await;
        assert_exact(&endpoint).await;
    });
}

#[test]
fn containers_reach_the_host_and_each_other_without_a_default_route_and_with_strict_reverse_path_filter() {
    netns::run(|| async {
        set_sysctl("ipv4/conf/all/rp_filter", "1");
        set_sysctl("ipv4/conf/default/rp_filter", "1");
        let net = Ip::open();
        net.address("lo", ip("192.0.2.1"), 32).await;
        net.address("lo", ip("2001:db8::1"), 128).await;
        let host = kernel().await;
        host.enable_forwarding().await.unwrap();
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByUs);
        let (a, in_a) = container(&host, 1).await;
        let (b, in_b) = container(&host, 2).await;
        let on_host = [Echo::start(ip("192.0.2.1"), 7), Echo::start(ip("2001:db8::1"), 7)];
        let b_addresses = b.addresses.clone();
        let in_container = in_b.enter(move || {
            b_addresses.into_iter().map(|address| Echo::start(address, 7)).collect::<Vec<_>>()
        });
        for family in [0, 1] {
            let from = a.addresses[family];
            for to in [on_host[family].address, in_container[family].address] {
                // The very first packet comes through: nothing is still on its way when ensure returns.
                in_a.enter(move || first_udp(from, to))
                    .unwrap_or_else(|error| panic!("first {from} to {to}: {error}"));
                assert_eq!(in_a.enter(move || probe_udp(from, to)).unwrap(), from, "udp {from} to {to}");
                assert_eq!(in_a.enter(move || probe_tcp(from, to)).unwrap(), from, "tcp {from} to {to}");
            }
            let (from, to) = (on_host[family].address.ip(), in_container[family].address);
            assert_eq!(probe_udp(from, to).unwrap(), from, "host {from} to {to}");
        }
    });
}

#[test]
fn without_the_next_hop_route_a_container_gets_no_answer() {
    netns::run(|| async {
        Ip::open().address("lo", ip("192.0.2.1"), 32).await;
        let host = kernel().await;
        host.enable_forwarding().await.unwrap();
        let (a, in_a) = container(&host, 1).await;
        let echo = Echo::start(ip("192.0.2.1"), 7);
        let (from, to) = (a.addresses[0], echo.address);
        assert!(
            in_a.enter(move || probe_udp(from, to)).is_err(),
            "the test of the next hop route proves nothing"
        );
        host.ensure_next_hops().await.unwrap();
        assert_eq!(in_a.enter(move || probe_udp(from, to)).unwrap(), from);
    });
}

#[test]
fn the_next_hop_route_comes_and_goes_with_the_hosts_own() {
    netns::run(|| async {
        let host = kernel().await;
        let net = Ip::open();
        let before = net.everything().await;
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByUs);
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByUs);
        let ours = host.host_routes().await.unwrap();
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert_eq!(
            (ours[0].destination.to_string().as_str(), ours[0].device.as_deref()),
            ("169.254.1.0/24", Some("lo"))
        );

        net.veth("eth0", "eth1").await;
        net.up("eth0").await;
        net.address("eth0", ip("192.0.2.2"), 24).await;
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByUs);
        net.route(ip("0.0.0.0"), 0, Some(ip("192.0.2.1")), "eth0").await;
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByHost);
        assert!(!host.host_routes().await.unwrap().iter().any(|route| route.device.as_deref() == Some("lo")));
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByHost);
        net.delete("eth0").await;
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByUs);
        net.delete_route(ip("169.254.1.0"), 24, "lo").await;
        assert_nothing_else(&before).await;
    });
}

#[test]
fn a_route_through_an_endpoint_does_not_hold_the_next_hops() {
    netns::run(|| async {
        let host = kernel().await;
        let endpoint = endpoint(1, 1);
        host.ensure_endpoint(&endpoint).await.unwrap();
        Ip::open().route(ip("169.254.0.0"), 16, None, endpoint.host.as_str()).await;
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByUs);
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByUs);
    });
}

#[test]
fn two_endpoints_of_one_container_answer_at_their_own_next_hops() {
    netns::run(|| async {
        let net = Ip::open();
        for (v4, v6) in [("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2")] {
            net.address("lo", ip(v4), 32).await;
            net.address("lo", ip(v6), 128).await;
        }
        let host = kernel().await;
        host.enable_forwarding().await.unwrap();
        host.ensure_next_hops().await.unwrap();
        let (first, second) = (endpoint(1, 1), endpoint(2, 2));
        let container = Namespace::new();
        for (endpoint, name, hop) in [(&first, "eth0", 1), (&second, "eth1", 2)] {
            host.ensure_endpoint(endpoint).await.unwrap();
            container.take(endpoint.temp.as_str(), name).await;
            let nic = nic(name, endpoint, hop, hop == 1);
            container.enter_async(move || async move { nic.configure().await });
        }
        container.enter_async(|| async {
            let net = Ip::open();
            net.route(ip("192.0.2.2"), 32, Some(ip("169.254.1.2")), "eth1").await;
            net.route(ip("2001:db8::2"), 128, Some(ip("fe80::2")), "eth1").await;
        });
        for (endpoint, hop) in [(&first, 1), (&second, 2)] {
            for (family, to) in [(0, format!("192.0.2.{hop}")), (1, format!("2001:db8::{hop}"))] {
                let echo = Echo::start(ip(&to), 7);
                let (from, to) = (endpoint.addresses[family], echo.address);
                assert_eq!(container.enter(move || probe_udp(from, to)).unwrap(), from, "{from} to {to}");
            }
        }
    });
}

/// The source that the kernel chooses for what the host sends to an address.
fn host_source(to: IpAddr) -> IpAddr {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    socket.connect((to, 7)).unwrap();
    socket.local_addr().unwrap().ip()
}

#[test]
fn a_container_answers_for_all_its_endpoints_over_one_of_them_whatever_the_hosts_rp_filter_is() {
    netns::run(|| async {
        set_sysctl("ipv4/conf/default/rp_filter", "1");
        set_sysctl("ipv4/conf/all/rp_filter", "1");
        let net = Ip::open();
        net.address("lo", ip("192.0.2.1"), 32).await;
        let host = kernel().await;
        host.enable_forwarding().await.unwrap();
        host.ensure_next_hops().await.unwrap();
        let (peer, in_peer) = container(&host, 3).await;
        let (first, second) = (endpoint(1, 1), endpoint(2, 2));
        let both = Namespace::new();
        for (endpoint, name, hop) in [(&first, "eth0", 1), (&second, "eth1", 2)] {
            host.ensure_endpoint(endpoint).await.unwrap();
            both.take(endpoint.temp.as_str(), name).await;
            let nic = nic(name, endpoint, hop, hop == 1);
            both.enter_async(move || async move { nic.configure().await });
            wait_for_carrier(&host, endpoint).await;
        }
        // What the first namespace has is inherited, and is none of this test's.
        both.enter(|| set_sysctl("ipv4/conf/all/rp_filter", "2"));
        let (from, address) = (peer.addresses[0], second.addresses[0]);
        let called = both.enter(move || Echo::start(address, 7));
        let to = called.address;
        let reached = || in_peer.enter(move || probe_udp(from, to)).is_ok();
        let of_first = || sysctl(&format!("ipv4/conf/{}/rp_filter", first.host));
        assert!(!reached(), "strict: the test proves nothing");
        let source = host_source(first.addresses[0]);
        for round in 0..2 {
            for endpoint in [&first, &second] {
                host.set_siblings(&endpoint.reference(), true).await.unwrap();
            }
            assert_eq!(of_first(), "2");
            for all in ["0", "1", "2"] {
                set_sysctl("ipv4/conf/all/rp_filter", all);
                assert!(reached(), "conf/all/rp_filter {all}, round {round}");
            }
            set_sysctl("ipv4/conf/all/rp_filter", "1");
            // Programmed anew, nothing is lost and nothing doubled.
            let before = net.everything().await;
            host.ensure_endpoint(&EndpointLink { siblings: true, ..first.clone() }).await.unwrap();
            assert_eq!(net.everything().await, before);
            assert!(reached());
            assert_eq!(host_source(first.addresses[0]), source, "the host is seen as before");
            match round {
                0 => host.set_siblings(&first.reference(), false).await.unwrap(),
                _ => host.ensure_endpoint(&first).await.unwrap(),
            }
            assert!(!reached(), "one that has no siblings any more is strict again");
            assert_exact(&first).await;
            assert_eq!(host_source(first.addresses[0]), source);
        }
        host.release_endpoint(&first.reference()).await.unwrap();
        host.set_siblings(&first.reference(), true).await.unwrap();
        assert_eq!(routes_on_or_none(first.host.as_str()).await, 0, "it makes nothing");
        let other = EndpointLink { alias: "another's".to_owned(), ..second.clone() };
        host.set_siblings(&other.reference(), false).await.unwrap();
        assert_eq!(sysctl(&format!("ipv4/conf/{}/rp_filter", second.host)), "2", "it is not that one's");
    });
}

#[test]
fn a_name_that_is_taken_is_refused_and_what_stands_there_is_not_touched() {
    netns::run(|| async {
        let host = kernel().await;
        let net = Ip::open();
        let (a, b, c) = (endpoint(1, 1), endpoint(2, 1), endpoint(3, 1));
        net.bridge(a.host.as_str()).await;
        net.veth(b.host.as_str(), "other").await;
        net.alias(b.host.as_str(), "somebody else's").await;
        net.veth("another", c.temp.as_str()).await;
        let before = net.everything().await;
        for (endpoint, taken, why) in
            [(&a, &a.host, "bridge"), (&b, &b.host, "somebody"), (&c, &c.temp, "without its host")]
        {
            let error = host.ensure_endpoint(endpoint).await.unwrap_err();
            let NetError::NameTaken { iface, .. } = &error else { panic!("{error}") };
            assert_eq!(iface, taken.as_str());
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_nothing_else(&before).await;
        for endpoint in [&a, &b] {
            host.release_endpoint(&endpoint.reference()).await.unwrap();
        }
        assert_nothing_else(&before).await;
    });
}

#[test]
fn a_pair_whose_other_end_is_in_a_container_is_kept_and_repaired() {
    netns::run(|| async {
        Ip::open().address("lo", ip("192.0.2.1"), 32).await;
        let host = kernel().await;
        host.enable_forwarding().await.unwrap();
        host.ensure_next_hops().await.unwrap();
        let (a, in_a) = container(&host, 1).await;
        let net = Ip::open();
        let index = net.index(a.host.as_str()).await;
        net.delete_route(a.addresses[0], 32, a.host.as_str()).await;
        set_sysctl(&format!("ipv4/conf/{}/proxy_arp", a.host), "0");
        host.ensure_endpoint(&a).await.unwrap();
        assert_eq!(net.index(a.host.as_str()).await, index, "the pair was made anew");
        assert_exact(&a).await;
        let echo = Echo::start(ip("192.0.2.1"), 7);
        let (from, to) = (a.addresses[0], echo.address);
        assert_eq!(in_a.enter(move || probe_udp(from, to)).unwrap(), from);

        // And releasing the host side takes the container's end with it.
        host.release_endpoint(&a.reference()).await.unwrap();
        assert_eq!(in_a.enter_async(|| async { Ip::open().index("eth0").await }), None);
    });
}

#[test]
fn a_pair_that_was_made_and_not_programmed_is_adopted() {
    netns::run(|| async {
        let host = kernel().await;
        let net = Ip::open();
        let endpoint = endpoint(1, 1);
        net.veth(endpoint.host.as_str(), endpoint.temp.as_str()).await;
        host.ensure_endpoint(&endpoint).await.unwrap();
        assert_exact(&endpoint).await;
        let links = host.links().await.unwrap();
        let temp = links.iter().find(|link| link.name == endpoint.temp.as_str()).unwrap();
        assert_eq!((temp.mac, temp.mtu), (Some(endpoint.mac), endpoint.mtu));
    });
}

#[test]
fn ensure_restores_what_a_link_loses_when_it_goes_down() {
    netns::run(|| async {
        let host = kernel().await;
        let (a, _in_a) = container(&host, 1).await;
        let net = Ip::open();
        net.down(a.host.as_str()).await;
        net.up(a.host.as_str()).await;
        assert!(
            routes_on(a.host.as_str()).await.iter().all(|route| route.header.destination_prefix_length != 32)
        );
        host.ensure_endpoint(&a).await.unwrap();
        assert_exact(&a).await;
        // The kernel's own, link-local ones are left as they are.
        let link_local = |route: &RouteMessage| {
            route.header.destination_prefix_length == 64 && route.header.protocol == RouteProtocol::Kernel
        };
        assert!(routes_on(a.host.as_str()).await.iter().any(link_local));
    });
}

#[test]
fn an_endpoint_that_cannot_be_programmed_leaves_nothing() {
    netns::run(|| async {
        let host = kernel().await;
        let before = Ip::open().everything().await;
        // The kernel refuses a multicast address on a link, after sysctls and beside good routes.
        let bad = EndpointLink { gateway_v6: Some("ff02::1".parse().unwrap()), ..endpoint(1, 1) };
        let error = host.ensure_endpoint(&bad).await.unwrap_err();
        assert!(error.to_string().contains("add address ff02::1/64"), "{error}");
        assert_nothing_else(&before).await;

        // On a pair that was there before, only what this call added goes again.
        let good = endpoint(1, 1);
        host.ensure_endpoint(&good).await.unwrap();
        let before = Ip::open().everything().await;
        let more = [good.addresses.clone(), vec![ip("10.65.0.99")]].concat();
        let error = host.ensure_endpoint(&EndpointLink { addresses: more, ..bad }).await.unwrap_err();
        assert!(error.to_string().contains("add address ff02::1/64"), "{error}");
        assert_nothing_else(&before).await;
    });
}

#[test]
fn sysctls_that_cannot_be_written_undo_the_pair() {
    netns::run(|| async {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("ipv4/conf/default")).unwrap();
        let host = KernelHost::open(root.path()).await.unwrap();
        let before = Ip::open().everything().await;
        let v4_only = EndpointLink { addresses: vec![ip("10.65.0.1")], gateway_v6: None, ..endpoint(1, 1) };
        assert!(host.ensure_endpoint(&v4_only).await.unwrap_err().is_not_there());
        assert_nothing_else(&before).await;
    });
}

#[test]
fn release_leaves_the_route_of_another_endpoint_for_the_same_address() {
    netns::run(|| async {
        let host = kernel().await;
        let old = endpoint(1, 1);
        let new = EndpointLink { addresses: old.addresses.clone(), ..endpoint(2, 1) };
        host.ensure_endpoint(&old).await.unwrap();
        host.ensure_endpoint(&new).await.unwrap();
        host.release_endpoint(&old.reference()).await.unwrap();
        assert_exact(&new).await;
    });
}

/// What iproute2 does and says in this namespace.
fn iproute(words: &str) -> String {
    let done = std::process::Command::new("ip").args(words.split_whitespace()).output().unwrap();
    let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "ip {words}: {text}");
    text
}

/// All routes of all tables.
fn all_routes() -> [String; 2] {
    ["-4", "-6"].map(|family| iproute(&format!("{family} -details route show table all")))
}

/// Asks an echo again and again until told to stop, from another thread; tells how often it was asked. Every single
/// datagram is answered.
fn keep_asking(
    asker: Namespace,
    from: Vec<IpAddr>,
    to: Vec<std::net::SocketAddr>,
) -> (Arc<AtomicBool>, std::thread::JoinHandle<usize>) {
    let stop = Arc::new(AtomicBool::new(false));
    let until = stop.clone();
    let thread = std::thread::spawn(move || {
        asker.enter(move || {
            let mut asked = 0;
            while !until.load(Ordering::Relaxed) {
                for (from, to) in from.iter().zip(&to) {
                    first_udp(*from, *to).unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
                    asked += 1;
                }
            }
            asked
        })
    });
    (stop, thread)
}

#[test]
fn routes_of_others_to_an_endpoint_go_without_a_lost_packet_and_everything_else_stays() {
    netns::run(|| async {
        let host = kernel().await;
        host.enable_forwarding().await.unwrap();
        host.ensure_next_hops().await.unwrap();
        let ((a, in_a), (b, in_b)) = (container(&host, 1).await, container(&host, 2).await);
        // One that has an endpoint's name and nobody's mark, and a link of the host.
        let (net, unmarked) = (Ip::open(), endpoint(3, 1));
        for (name, end) in [(unmarked.host.as_str(), "far1"), ("up0", "far0")] {
            net.veth(name, end).await;
            net.up(name).await;
            net.up(end).await;
        }
        let (a_side, a4, a6) = (a.host.as_str(), a.addresses[0], a.addresses[1]);
        let stays = [
            format!("-4 route add 10.99.0.0/24 dev {}", b.host),
            format!("-4 route add 10.99.1.0/24 dev {}", unmarked.host),
            format!("-6 route add fd00:99:1::/64 dev {}", unmarked.host),
            "-4 route add 10.99.2.0/24 dev up0".to_owned(),
            "-6 route add fd00:99:2::/64 dev up0".to_owned(),
            format!("-4 route add 10.99.3.0/24 dev {a_side} table 100"),
            format!("-6 route add fd00:99:3::/64 dev {a_side} table 100"),
            format!("-4 route add 10.99.4.0/24 nexthop dev {a_side} nexthop dev up0"),
            format!("-6 route add fe80:99::/64 dev {a_side} metric 9"),
            format!("-4 addr add 192.0.2.1/24 dev {a_side}"),
            format!("-6 addr add 2001:db8::1/64 dev {a_side} nodad"),
        ];
        stays.iter().for_each(|words| drop(iproute(words)));
        let addresses = a.addresses.clone();
        let echoes =
            in_a.enter(move || addresses.into_iter().map(|ip| Echo::start(ip, 7)).collect::<Vec<_>>());
        let at = echoes.iter().map(|echo| echo.address).collect();
        let before = all_routes();
        let (stop, asking) = keep_asking(in_b, b.addresses.clone(), at);
        let foreign = [
            format!("-4 route add 10.98.0.0/24 via {a4} dev {a_side} onlink proto static"),
            format!("-4 route add 10.98.1.9/32 dev {a_side} metric 9 proto 80"),
            format!("-4 route add 10.98.2.0/24 dev {a_side} proto 80 metric 1024"),
            format!("-4 route add {a4}/32 dev {a_side}"),
            format!("-4 route add 10.98.3.0/24 dev {a_side} tos 0x10"),
            format!("-4 route add 10.98.4.0/24 nexthop via {a4} dev {a_side} onlink nexthop dev {a_side}"),
            format!("-4 route add default dev {a_side} metric 77"),
            format!("-6 route add fd00:98::/64 via fe80::99 dev {a_side}"),
            format!("-6 route add fd00:98:1::9/128 dev {a_side} proto bird"),
            format!("-6 route add {a6}/128 dev {a_side} metric 9"),
        ];
        let asked = [a.reference(), unmarked.reference()];
        for round in 0..10 {
            foreign.iter().for_each(|words| drop(iproute(words)));
            let gone = host.remove_foreign_routes(&asked).await.unwrap();
            let gone: Vec<String> = gone.into_iter().map(|route| route.unwrap().to_string()).collect();
            assert_eq!(gone.len(), foreign.len(), "round {round}: {gone:#?}");
            assert!(gone.contains(&format!("10.98.0.0/24 via {a4} dev {a_side}")), "{gone:#?}");
            assert_eq!(all_routes(), before, "round {round}");
        }
        assert!(host.remove_foreign_routes(&asked).await.unwrap().is_empty());
        stop.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 100);
    });
}

#[test]
fn the_only_route_to_an_endpoint_stays_and_so_do_routes_of_others_beside_felix() {
    netns::run(|| async {
        let host = kernel().await;
        let a = endpoint(1, 1);
        host.ensure_endpoint(&a).await.unwrap();
        let (a_side, a4, asked) = (a.host.as_str(), a.addresses[0], [a.reference()]);
        iproute(&format!("-4 route del {a4}/32 dev {a_side} proto 80"));
        iproute(&format!("-4 route add {a4}/32 dev {a_side} metric 5"));
        assert!(host.remove_foreign_routes(&asked).await.unwrap().is_empty());
        host.ensure_endpoint(&a).await.unwrap();
        assert_eq!(host.remove_foreign_routes(&asked).await.unwrap().len(), 1);

        let (_felix, active) = tokio::sync::watch::channel(false);
        let back = kernel().await.beside(active);
        iproute(&format!("-4 route add 10.98.0.0/24 dev {a_side}"));
        assert!(back.remove_foreign_routes(&asked).await.unwrap().is_empty());
        assert_eq!(host.remove_foreign_routes(&asked).await.unwrap().len(), 1);
    });
}

#[test]
fn a_kernel_without_ipv6_serves_ipv4_endpoints_and_refuses_the_others() {
    netns::run(|| async {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/sys/net/ipv4", root.path().join("ipv4")).unwrap();
        let host = KernelHost::open(root.path()).await.unwrap();
        assert!(!host.check().await.unwrap().ipv6);
        host.enable_forwarding().await.unwrap();
        assert_eq!(
            (sysctl("ipv4/ip_forward"), sysctl("ipv6/conf/all/forwarding")),
            ("1".to_owned(), "0".to_owned())
        );
        let before = Ip::open().everything().await;
        let error = host.ensure_endpoint(&endpoint(1, 1)).await.unwrap_err();
        assert!(matches!(error, NetError::NoIpv6 { .. }), "{error}");
        assert_nothing_else(&before).await;
        let v4_only = EndpointLink { addresses: vec![ip("10.65.0.1")], gateway_v6: None, ..endpoint(1, 1) };
        host.ensure_endpoint(&v4_only).await.unwrap();
        assert_eq!(sysctl(&format!("ipv4/conf/{}/proxy_arp", v4_only.host)), "1");
    });
}

#[test]
fn an_endpoint_with_ipv6_works_where_ipv6_is_off_by_default() {
    netns::run(|| async {
        set_sysctl("ipv6/conf/all/disable_ipv6", "1");
        set_sysctl("ipv6/conf/default/disable_ipv6", "1");
        let host = kernel().await;
        let (v4_only, dual) = (
            EndpointLink { addresses: vec![ip("10.65.0.2")], gateway_v6: None, ..endpoint(2, 1) },
            endpoint(1, 1),
        );
        host.ensure_endpoint(&v4_only).await.unwrap();
        assert_eq!(sysctl(&format!("ipv6/conf/{}/disable_ipv6", v4_only.host)), "1");
        host.ensure_endpoint(&dual).await.unwrap();
        assert_exact(&dual).await;
    });
}

#[test]
fn check_tells_a_wrong_sysctl_root() {
    netns::run(|| async {
        assert!(kernel().await.check().await.unwrap().ipv6);
        let wrong = KernelHost::open("/proc/nowhere").await.unwrap();
        assert!(matches!(wrong.check().await, Err(NetError::NoSysctl { .. })));
    });
}

/// Binds `/proc/sys/net` to another path in a mount namespace of the calling thread, and of the threads that it starts.
fn bind_sysnet(path: &std::path::Path, flags: MsFlags) {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some(SYSNET), path, none, MsFlags::MS_BIND, none).unwrap();
    mount(none, path, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, none).unwrap();
}

#[test]
fn sysctls_are_written_through_a_bind_mount_as_in_a_managed_plugin() {
    netns::run(|| async {
        let root = tempfile::tempdir().unwrap();
        bind_sysnet(root.path(), MsFlags::MS_NOSUID);
        let host = KernelHost::open(root.path()).await.unwrap();
        host.check().await.unwrap();
        host.enable_forwarding().await.unwrap();
        let endpoint = endpoint(1, 1);
        host.ensure_endpoint(&endpoint).await.unwrap();
        assert_exact(&endpoint).await;
    });
}

#[test]
fn a_read_only_sysctl_mount_is_explained_and_nothing_is_left() {
    netns::run(|| async {
        let root = tempfile::tempdir().unwrap();
        bind_sysnet(root.path(), MsFlags::MS_RDONLY);
        let host = KernelHost::open(root.path()).await.unwrap();
        let before = Ip::open().everything().await;
        for error in
            [host.check().await.unwrap_err(), host.ensure_endpoint(&endpoint(1, 1)).await.unwrap_err()]
        {
            assert!(matches!(error, NetError::ReadOnly { .. }), "{error}");
            assert!(error.to_string().contains("/proc/sys/net must be mounted writable"), "{error}");
        }
        assert_nothing_else(&before).await;
    });
}

#[test]
fn another_loopback_route_holds_the_next_hops_too() {
    netns::run(|| async {
        let host = kernel().await;
        let net = Ip::open();
        net.route(ip("169.254.0.0"), 16, None, "lo").await;
        let before = net.everything().await;
        assert_eq!(host.ensure_next_hops().await.unwrap(), NextHops::ByHost);
        assert_nothing_else(&before).await;
    });
}

#[test]
fn routes_of_the_host_are_listed_with_their_device() {
    netns::run(|| async {
        let net = Ip::open();
        net.veth("eth0", "eth1").await;
        net.up("eth0").await;
        net.address("eth0", ip("192.0.2.2"), 24).await;
        net.route(ip("10.0.0.0"), 8, Some(ip("192.0.2.1")), "eth0").await;
        let host = kernel().await;
        host.ensure_endpoint(&endpoint(1, 1)).await.unwrap();
        let routes = host.host_routes().await.unwrap();
        let find = |text: &str| routes.iter().find(|route| route.destination.to_string() == text).unwrap();
        assert!(find("192.0.2.0/24").is_on_link());
        assert!(routes.iter().all(|route| !route.touches_next_hops()), "{routes:?}");
        assert_eq!(find("10.0.0.0/8").gateway, Some(ip("192.0.2.1")));
        assert_eq!(find("10.0.0.0/8").device.as_deref(), Some("eth0"));
        assert_eq!(find("fd00:65::1/128").device.as_deref(), Some("cali00000000001"));
        assert!(!routes.iter().any(|route| route.destination.to_string() == "192.0.2.2/32"), "local table");
    });
}

#[test]
fn changes_are_announced_and_a_slow_reader_is_told_to_resync() {
    netns::run(|| async {
        let host = kernel().await;
        let mut events = host.monitor().await.unwrap();
        let endpoint = endpoint(1, 1);
        host.ensure_endpoint(&endpoint).await.unwrap();
        host.release_endpoint(&endpoint.reference()).await.unwrap();
        let (mut up, mut routed, mut addressed, mut gone) = (false, false, false, false);
        let all = async {
            while !(up && routed && addressed && gone) {
                match events.next().await.unwrap() {
                    HostEvent::Link(change) if change.link.name == endpoint.host.as_str() => {
                        up |= change.link.up && !change.gone;
                        gone |= change.gone;
                    }
                    HostEvent::Route(change) => {
                        routed |= change.route.destination.to_string() == "10.65.0.1/32"
                    }
                    HostEvent::Address(change) => addressed |= change.address == ip("fe80::1"),
                    HostEvent::Link(_) | HostEvent::Neighbour(_) | HostEvent::Setting(_) => {}
                    HostEvent::Resync => panic!("nothing was lost"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap();

        let mut slow = host.monitor().await.unwrap();
        let net = Ip::open();
        for n in 0..300_u32 {
            net.address("lo", IpAddr::V4((0xc000_0200 + n).into()), 32).await;
        }
        let mut seen = 0;
        let resync = async {
            while slow.next().await.unwrap() != HostEvent::Resync {
                seen += 1;
            }
        };
        tokio::time::timeout(PATIENCE, resync).await.unwrap();
        assert!(seen >= 200, "only {seen} events before the resync");
        net.address("lo", ip("198.51.100.1"), 32).await;
        let goes_on = async {
            while !matches!(slow.next().await.unwrap(), HostEvent::Address(new) if new.address == ip("198.51.100.1"))
            {
            }
        };
        tokio::time::timeout(PATIENCE, goes_on).await.unwrap();
    });
}

#[test]
fn a_verb_goes_on_when_its_caller_gives_up() {
    netns::run(|| async {
        let host = kernel().await;
        let endpoint = endpoint(1, 1);
        assert!(
            host.ensure_endpoint(&endpoint).now_or_never().is_none(),
            "it was done before it could be dropped"
        );
        // Even when the host is dropped as well, it drains.
        drop(host);
        let start = Instant::now();
        while routes_on_or_none(endpoint.host.as_str()).await < 2 {
            assert!(start.elapsed() < PATIENCE, "the endpoint was left half-made");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_exact(&endpoint).await;
    });
}

async fn routes_on_or_none(name: &str) -> usize {
    if Ip::open().index(name).await.is_none() {
        return 0;
    }
    let routes = routes_on(name).await;
    routes.iter().filter(|route| matches!(route.header.destination_prefix_length, 32 | 128)).count()
}

#[test]
fn fifty_endpoints_at_once_come_and_go() {
    netns::run(|| async {
        let host = kernel().await;
        let before = Ip::open().everything().await;
        let all: Vec<_> = (1..=50).map(|n| endpoint(n, 1)).collect();
        futures::future::try_join_all(all.iter().map(|endpoint| host.ensure_endpoint(endpoint)))
            .await
            .unwrap();
        // Dumps in between do not get in each other's way.
        let (links, routes) = tokio::join!(host.links(), host.host_routes());
        assert_eq!(
            (links.unwrap().len(), routes.unwrap().iter().filter(|r| r.protocol == 80).count()),
            (101, 100)
        );
        for endpoint in &all {
            assert_exact(endpoint).await;
        }
        let references: Vec<_> = all.iter().map(EndpointLink::reference).collect();
        futures::future::try_join_all(references.iter().map(|endpoint| host.release_endpoint(endpoint)))
            .await
            .unwrap();
        assert_nothing_else(&before).await;
    });
}

/// One UDP flow in the connection tracking table, written as a program like `conntrack -I` does. `answers` is the
/// source of the other direction: the destination, or behind a destination NAT another address.
fn insert_flow(from: IpAddr, to: IpAddr, answers: IpAddr, port: u16) {
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = [u16::try_from(value.len() + 4).unwrap().to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let nested = |kind: u16, parts: &[Vec<u8>]| attribute(kind | 0x8000, &parts.concat());
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let first_kind = if from.is_ipv4() { 1 } else { 3 };
    let tuple = |kind: u16, source: (IpAddr, u16), destination: (IpAddr, u16)| {
        let ip =
            [attribute(first_kind, &octets(source.0)), attribute(first_kind + 1, &octets(destination.0))];
        let ports = [
            attribute(1, &[17]),
            attribute(2, &source.1.to_be_bytes()),
            attribute(3, &destination.1.to_be_bytes()),
        ];
        nested(kind, &[nested(1, &ip), nested(2, &ports)])
    };
    let body = [
        vec![if from.is_ipv4() { 2 } else { 10 }, 0, 0, 0],
        tuple(1, (from, port), (to, 53)),
        tuple(2, (answers, 53), (from, port)),
        attribute(7, &600_u32.to_be_bytes()),
    ]
    .concat();
    let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    // IPCTNL_MSG_CT_NEW of ctnetlink; REQUEST, ACK, EXCL, CREATE.
    message.extend([(1_u16 << 8).to_ne_bytes(), (1_u16 | 4 | 0x200 | 0x400).to_ne_bytes()].concat());
    message.extend([0; 8]);
    message.extend(body);
    let socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER).unwrap();
    socket.send_to(&message, &netlink_sys::SocketAddr::new(0, 0), 0).unwrap();
    let (answer, _kernel) = socket.recv_from_full().unwrap();
    assert_eq!(answer[16..20], [0; 4], "the kernel refuses the flow {from} to {to}");
}

fn flows() -> usize {
    sysctl("netfilter/nf_conntrack_count").parse().unwrap()
}

#[test]
fn flushing_an_address_forgets_its_flows_in_both_directions_and_no_others() {
    netns::run(|| async {
        let host = kernel().await;
        assert_eq!(host.flush_conntrack(&[ip("10.65.0.1")]).await.unwrap(), 0);
        let (mine, other, service) = (ip("10.65.0.1"), ip("10.65.0.2"), ip("192.0.2.80"));
        // More than one datagram of deletions.
        (0..150).for_each(|n| insert_flow(mine, other, other, 1000 + n));
        insert_flow(other, mine, mine, 2000);
        insert_flow(other, service, mine, 2001);
        insert_flow(other, service, service, 2002);
        insert_flow(ip("fd00::1"), ip("fd00::2"), ip("fd00::2"), 2003);
        insert_flow(ip("fd00::2"), ip("fd00::3"), ip("fd00::3"), 2004);
        assert_eq!(flows(), 155);
        assert_eq!(host.flush_conntrack(&[mine]).await.unwrap(), 152);
        assert_eq!(flows(), 3);
        assert_eq!(host.flush_conntrack(&[mine, ip("fd00::1")]).await.unwrap(), 1);
        assert_eq!(flows(), 2);
        assert_eq!(host.flush_conntrack(&[service, ip("fd00::3")]).await.unwrap(), 2);
        assert_eq!(flows(), 0);
        assert!(host.check().await.unwrap().conntrack);
    });
}
