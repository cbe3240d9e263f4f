//! VXLAN: devices, what is behind them, tunnel addresses, subnets.

use crate::lab::{Container, Host, Lab, TUNNELS, UPLINK, all_reach_all, ip};
use crate::support::netns;
use calico_libnetwork::model::IpVersion::{V4, V6};
use serde_json::{Value, json};

pub(crate) fn device(host: &Host, name: &str) -> Value {
    let text = host.ip(&format!("-j -d link show dev {name}"));
    let devices: Value = serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).unwrap();
    devices[0].clone()
}

/// Waits until two hosts have routes through their tunnels to each other's containers.
async fn until_tunnelled(pairs: &[(&Host, &Container)]) {
    for (n, (host, _)) in pairs.iter().enumerate() {
        for (_, (_, other)) in pairs.iter().enumerate().filter(|(m, _)| *m != n) {
            host.until_routes(other, TUNNELS).await;
        }
    }
}

#[test]
fn vxlan_always_joins_hosts_of_one_subnet_and_of_two() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let hosts = [lab.host("a", 0, 1).await, lab.host("b", 0, 2).await, lab.host("c", 1, 3).await];
        let mut containers = Vec::new();
        for (host, n) in hosts.iter().zip(1..) {
            containers.push(host.container(&lab, n).await);
        }
        let pairs: Vec<_> = hosts.iter().zip(&containers).collect();
        until_tunnelled(&pairs).await;
        all_reach_all(&containers.iter().collect::<Vec<_>>());
        exact(&lab, &hosts[0]).await;
        for version in [V4, V6] {
            // The host itself speaks under its tunnel address.
            let seen = hosts[0].asks(&containers[2], version).unwrap();
            assert_eq!(seen, tunnel_address(&lab, "a", version).await);
        }
    });
}

pub(crate) async fn tunnel_address(
    lab: &Lab,
    node: &str,
    version: calico_libnetwork::model::IpVersion,
) -> std::net::IpAddr {
    let field = if version == V4 { "ipv4VXLANTunnelAddr" } else { "ipv6VXLANTunnelAddr" };
    ip(lab.spec_of("nodes", node).await[field].as_str().unwrap())
}

/// The attributes of both devices of node a.
async fn exact(lab: &Lab, a: &Host) {
    let parent: Value = serde_json::from_str(&a.ip("-j link show dev eth0")).unwrap();
    for (version, name, mtu, local, mac) in
        [(V4, "vxlan.calico", 1450, a.v4, "66:86:f7:e4:37:fa"), (V6, "vxlan-v6.calico", 1430, a.v6, "")]
    {
        let link = device(a, name);
        let data = &link["linkinfo"]["info_data"];
        assert_eq!(link["mtu"], mtu, "{link}");
        assert_eq!((&data["id"], &data["port"]), (&json!(4096), &json!(4789)), "{link}");
        assert_eq!((&data["learning"], &data["link"]), (&json!(false), &parent[0]["ifname"]), "{link}");
        let told = data.get("local6").or_else(|| data.get("local")).unwrap();
        assert_eq!(told, &json!(local.to_string()), "{link}");
        if !mac.is_empty() {
            assert_eq!(link["address"], mac, "{link}");
        }
        let own = tunnel_address(lab, "a", version).await;
        let addresses: Value = serde_json::from_str(&a.ip(&format!("-j addr show dev {name}"))).unwrap();
        let global: Vec<&Value> = addresses[0]["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|at| at["scope"] == "global")
            .collect();
        assert_eq!(global.len(), 1, "{addresses}");
        assert_eq!(global[0]["local"], own.to_string());
        assert_eq!(global[0]["prefixlen"], if version == V4 { 32 } else { 128 });
        assert_eq!(a.ip(&format!("fdb show dev {name}")).lines().count(), 2, "one for each other node");
    }
}

#[test]
fn cross_subnet_tunnels_only_where_it_must() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("CrossSubnet").await;
        let (a, b, c) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await, lab.host("c", 1, 3).await);
        let (one, two, three) =
            (a.container(&lab, 1).await, b.container(&lab, 2).await, c.container(&lab, 3).await);
        for (version, via) in [(V4, b.v4), (V6, b.v6)] {
            a.until_route(&two.block(version), &format!("via {via} dev eth0")).await;
        }
        until_tunnelled(&[(&a, &one), (&c, &three)]).await;
        until_tunnelled(&[(&b, &two), (&c, &three)]).await;
        b.until_routes(&one, UPLINK).await;
        all_reach_all(&[&one, &two, &three]);
    });
}

#[test]
fn borrowed_addresses_go_through_the_tunnel_to_the_borrower() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let (a, b, c) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await, lab.host("c", 1, 3).await);
        let owner = a.container(&lab, 1).await;
        let of = |text: String| text.parse::<calico_libnetwork::model::Cidr>().unwrap().last();
        let borrower = b.borrower(&lab, 2, vec![of(owner.block(V4)), of(owner.block(V6))]).await;
        let third = c.container(&lab, 3).await;
        for host in [&a, &c] {
            host.until_route(&borrower.address(V4).to_string(), "dev vxlan.calico").await;
            host.until_route(&borrower.address(V6).to_string(), "dev vxlan-v6.calico").await;
        }
        until_tunnelled(&[(&a, &owner), (&c, &third)]).await;
        b.until_routes(&third, TUNNELS).await;
        b.until_routes(&owner, TUNNELS).await;
        all_reach_all(&[&owner, &borrower, &third]);
    });
}

#[test]
fn a_tunnel_pool_with_blocks_of_one_address_serves_hosts() {
    netns::run(|| async {
        let lab = Lab::new().await;
        let tunnels = json!({"vxlanMode": "Always", "allowedUses": ["Tunnel"]});
        let workloads = json!({"vxlanMode": "Always", "allowedUses": ["Workload"]});
        lab.pool("t4", "10.66.0.0/24", 32, tunnels.clone()).await;
        lab.pool("t6", "fd66::/112", 128, tunnels).await;
        lab.pool("w4", "10.65.0.0/16", 29, workloads.clone()).await;
        lab.pool("w6", "fd65::/112", 125, workloads).await;
        let (a, c) = (lab.host("a", 0, 1).await, lab.host("c", 1, 3).await);
        let (one, three) = (a.container(&lab, 1).await, c.container(&lab, 3).await);
        until_tunnelled(&[(&a, &one), (&c, &three)]).await;
        let end = tunnel_address(&lab, "c", V4).await;
        a.until_route(&end.to_string(), "dev vxlan.calico scope link").await;
        for version in [V4, V6] {
            let back = tunnel_address(&lab, "a", version).await;
            c.until_route(&back.to_string(), "dev vxlan").await;
            let seen = a.asks(&three, version).unwrap();
            assert_eq!(seen, back);
        }
    });
}

#[test]
fn tunnel_addresses_are_calicos_and_are_given_back() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let a = lab.host("a", 0, 1).await;
        let one = a.container(&lab, 1).await;
        a.until("devices", |_| {
            !device(&a, "vxlan.calico").is_null() && !device(&a, "vxlan-v6.calico").is_null()
        })
        .await;
        for (version, kind, handle) in [
            (V4, "vxlanTunnelAddress", "vxlan-tunnel-addr-a"),
            (V6, "vxlanV6TunnelAddress", "vxlan-v6-tunnel-addr-a"),
        ] {
            let address = tunnel_address(&lab, "a", version).await;
            let ipam = calico_libnetwork::ipam::Ipam::new(lab.shared(), a.name.clone());
            let held = ipam.lookup(address).await.unwrap().unwrap();
            assert_eq!(held.handle.as_deref(), Some(handle));
            assert_eq!(held.attributes["type"], kind);
            assert_eq!(held.node(), Some("a"));
        }
        lab.pools("Never").await;
        a.until("no devices", |_| {
            device(&a, "vxlan.calico").is_null() && device(&a, "vxlan-v6.calico").is_null()
        })
        .await;
        let ipam = calico_libnetwork::ipam::Ipam::new(lab.shared(), a.name.clone());
        let start = std::time::Instant::now();
        loop {
            let node = lab.spec_of("nodes", "a").await;
            let held = ipam.allocations_of_node().await.unwrap();
            if node.get("ipv4VXLANTunnelAddr").is_none()
                && node.get("ipv6VXLANTunnelAddr").is_none()
                && held.len() == 2
            {
                break;
            }
            assert!(start.elapsed() < crate::lab::PATIENCE, "{node} {held:?}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        drop(one);
    });
}

#[test]
fn the_host_speaks_under_its_tunnel_address_whatever_it_is_bound_to() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let (a, c) = (lab.host("a", 0, 1).await, lab.host("c", 1, 3).await);
        let three = c.container(&lab, 3).await;
        a.until_routes(&three, TUNNELS).await;
        assert_eq!([a.asks_under(a.v4, &three).unwrap(), a.asks_under(a.v6, &three).unwrap()], [a.v4, a.v6]);
        let filter = a.filter();
        for (from, version) in [(a.v4, V4), (a.v6, V6)] {
            let own = tunnel_address(&lab, "a", version).await;
            assert_eq!(a.asks_under(from, &three).unwrap(), own);
            assert_eq!(a.asks(&three, version).unwrap(), own);
        }
        drop(filter);
    });
}
