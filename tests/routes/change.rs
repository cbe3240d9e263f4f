//! What changes while traffic flows: modes, settings, nodes, interfaces, other people's hands.

use crate::lab::{Host, Lab, TUNNELS, UPLINK, all_reach_all};
use crate::support::netns;
use crate::vxlan::device;
use calico_libnetwork::model::IpVersion::{V4, V6};
use serde_json::json;

#[test]
fn a_pool_changes_its_mode_and_back() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Never").await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let (one, two) = (a.container(&lab, 1).await, b.container(&lab, 2).await);
        for mode in ["Never", "Always", "CrossSubnet", "Always", "Never"] {
            lab.pools(mode).await;
            let (four, six) = if mode == "Always" {
                ("dev vxlan.calico", "dev vxlan-v6.calico")
            } else {
                ("dev eth0", "dev eth0")
            };
            for (host, other) in [(&a, &two), (&b, &one)] {
                host.until_routes(other, [four, six]).await;
            }
            all_reach_all(&[&one, &two]);
        }
        for host in [&a, &b] {
            host.until("no device", |_| device(host, "vxlan.calico").is_null()).await;
        }
    });
}

#[test]
fn settings_of_felix_make_the_device_anew() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let (a, c) = (lab.host("a", 0, 1).await, lab.host("c", 1, 3).await);
        let (one, three) = (a.container(&lab, 1).await, c.container(&lab, 3).await);
        for (vni, port, mtu) in [(4096, 4789, 0), (4097, 4789, 0), (4097, 8472, 0), (4097, 8472, 1300)] {
            let spec = json!({"vxlanVNI": vni, "vxlanPort": port, "vxlanMTU": mtu, "vxlanMTUV6": mtu});
            lab.put("FelixConfiguration", "felixconfigurations", "default", spec).await;
            for (host, other) in [(&a, &three), (&c, &one)] {
                for (name, usual) in [("vxlan.calico", 1450), ("vxlan-v6.calico", 1430)] {
                    let wanted = if mtu == 0 { usual } else { mtu };
                    host.until("device as set", |_| {
                        let link = device(host, name);
                        let data = &link["linkinfo"]["info_data"];
                        (&data["id"], &data["port"], &link["mtu"])
                            == (&json!(vni), &json!(port), &json!(wanted))
                    })
                    .await;
                }
                host.until_routes(other, TUNNELS).await;
            }
            all_reach_all(&[&one, &three]);
        }
    });
}

#[test]
fn what_belongs_to_a_node_goes_with_it() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let (a, c) = (lab.host("a", 0, 1).await, lab.host("c", 1, 3).await);
        let (one, three) = (a.container(&lab, 1).await, c.container(&lab, 3).await);
        a.until_routes(&three, TUNNELS).await;
        lab.delete("nodes", "c").await;
        let behind = |name: &str| {
            a.ip(&format!("fdb show dev {name}")) + &a.ip(&format!("neigh show dev {name} nud permanent"))
        };
        a.until("nothing leads to c", |routes| {
            let gone = !routes.iter().any(|route| route.contains("dev vxlan"));
            gone && behind("vxlan.calico").is_empty() && behind("vxlan-v6.calico").is_empty()
        })
        .await;
        a.until_route(&one.block(V4), "blackhole").await;
        // It comes back without its addresses, as far as routes go: nothing; then with them.
        lab.put("Node", "nodes", "c", json!({})).await;
        lab.node("c", &format!("{}/24", c.v4), &format!("{}/64", c.v6)).await;
        a.until_routes(&three, TUNNELS).await;
        all_reach_all(&[&one, &three]);
    });
}

#[test]
fn routes_move_with_the_nodes_address() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("CrossSubnet").await;
        let (a, b, c) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await, lab.host("c", 1, 3).await);
        let (one, two, three) =
            (a.container(&lab, 1).await, b.container(&lab, 2).await, c.container(&lab, 3).await);
        a.until_routes(&two, UPLINK).await;
        a.until_route(&three.block(V4), "dev vxlan.calico").await;
        // The wire gets another name and index, with the same addresses: it moves to a device on top of it.
        a.ip("link add link eth0 name moved type macvlan mode bridge");
        a.ip("addr flush dev eth0 scope global");
        a.ns.enter(|| crate::lab::no_doubt("moved"));
        a.ip("link set moved up");
        a.ip(&format!("addr add {}/24 dev moved", a.v4));
        a.ip(&format!("addr add {}/64 dev moved nodad", a.v6));
        a.ip("route add default via 192.0.2.254 dev moved");
        a.ip("-6 route replace default via 2001:db8:1::fe dev moved");
        a.until_routes(&two, ["dev moved", "dev moved"]).await;
        a.until("the tunnels leave through it", |_| {
            ["vxlan.calico", "vxlan-v6.calico"]
                .iter()
                .all(|name| device(&a, name)["linkinfo"]["info_data"]["link"] == "moved")
        })
        .await;
        a.until_routes(&three, TUNNELS).await;
        all_reach_all(&[&one, &two, &three]);
    });
}

#[test]
fn what_others_break_is_put_right_and_what_is_theirs_stays() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("CrossSubnet").await;
        let (a, b, c) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await, lab.host("c", 1, 3).await);
        let (one, two, three) =
            (a.container(&lab, 1).await, b.container(&lab, 2).await, c.container(&lab, 3).await);
        a.until_routes(&two, UPLINK).await;
        a.until_routes(&three, TUNNELS).await;
        let theirs = [
            "10.99.0.0/24 via 192.0.2.7 dev eth0 proto static",
            "10.98.0.0/24 via 192.0.2.7 dev eth0 proto 12",
        ];
        theirs.iter().for_each(|route| drop(a.ip(&format!("route add {route}"))));
        a.ip("route add 10.65.99.0/29 via 192.0.2.7 dev eth0 proto 80 metric 1024");
        a.until("a stray of ours goes", |routes| !routes.iter().any(|route| route.starts_with("10.65.99.")))
            .await;
        a.ip(&format!("route del {} proto 80", two.block(V4)));
        a.ip(&format!("-6 route del {} proto 80", one.block(V6)));
        a.until_route(&two.block(V4), "dev eth0").await;
        a.until_route(&one.block(V6), "blackhole").await;
        a.ip("link del vxlan.calico");
        a.until_route(&three.block(V4), "dev vxlan.calico").await;
        a.ip("link set eth0 down");
        a.ip("link set eth0 up");
        a.ip("addr replace 2001:db8:1::1/64 dev eth0 nodad");
        a.ip("route replace default via 192.0.2.254 dev eth0");
        a.ip("-6 route replace default via 2001:db8:1::fe dev eth0");
        a.until_routes(&two, UPLINK).await;
        a.until_routes(&three, TUNNELS).await;
        all_reach_all(&[&one, &two, &three]);
        ends_come_back(&a).await;
        all_reach_all(&[&one, &two, &three]);
        let found = look(&lab, &a).await;
        assert_eq!((found.others, found.problems.len()), (2, 0), "{found:?}");
        assert_eq!(found.tunnels, [("vxlan.calico", 2), ("vxlan-v6.calico", 2)]);
        assert!(found.right >= 6, "two other nodes and this one, both families: {found:?}");
        a.ip("route add 10.97.0.0/24 via 192.0.2.7 dev eth0 proto static");
        assert!(a.ip("route show proto static").contains("10.97.0.0/24"));
    });
}

/// What `check` would say of a host's routes.
async fn look(lab: &Lab, host: &Host) -> calico_libnetwork::routes::Examination {
    let (store, node) = (lab.shared(), host.name.clone());
    host.ns.enter_async(move || async move {
        let kernel = calico_libnetwork::net::KernelHost::open("/proc/sys/net").await.unwrap();
        calico_libnetwork::routes::examine(&*store, &kernel, &node, false).await.unwrap()
    })
}

/// What is behind a tunnel comes back as soon as it is touched, and not only when all is read again (30 s later).
async fn ends_come_back(a: &Host) {
    let behind = || {
        let lines = a.ip("fdb show dev vxlan.calico") + &a.ip("neigh show dev vxlan.calico nud permanent");
        let mut lines: Vec<String> = lines.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    };
    let first = |words: &str| -> String { a.ip(words).split_whitespace().next().unwrap().to_owned() };
    let end = first("neigh show dev vxlan.calico nud permanent");
    let mac = first("fdb show dev vxlan.calico");
    let before = behind();
    for breach in [
        format!("neigh del {end} dev vxlan.calico"),
        format!("neigh replace {end} lladdr 02:00:00:00:00:99 dev vxlan.calico nud permanent"),
        format!("fdb del {mac} dev vxlan.calico self"),
        "fdb add 02:00:00:00:00:98 dev vxlan.calico dst 192.0.2.99 self permanent".to_owned(),
    ] {
        let start = std::time::Instant::now();
        a.ip(&breach);
        a.until(&breach, |_| behind() == before).await;
        assert!(start.elapsed() < std::time::Duration::from_secs(15), "{breach}: only by chance");
    }
}

#[test]
fn a_restart_takes_nothing_away_and_stale_routes_go() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let (mut a, c) = (lab.host("a", 0, 1).await, lab.host("c", 1, 3).await);
        let (one, three) = (a.container(&lab, 1).await, c.container(&lab, 3).await);
        a.until_routes(&three, TUNNELS).await;
        c.until_routes(&one, TUNNELS).await;
        let before = (a.routes(), device(&a, "vxlan.calico")["ifindex"].clone());
        a.stop();
        all_reach_all(&[&one, &three]);
        a.ip("route add 10.65.99.0/29 via 192.0.2.7 dev eth0 proto 80 metric 1024");
        let mut a = a.work(lab.shared());
        a.until("as before", |routes| *routes == before.0).await;
        assert_eq!(device(&a, "vxlan.calico")["ifindex"], before.1, "the device is the same");
        let changes: Vec<String> =
            a.faults.as_ref().unwrap().calls().iter().map(|call| format!("{call:?}")).collect();
        let of_routes: Vec<&String> =
            changes.iter().filter(|call| call.starts_with("ChangeRoutes")).collect();
        assert_eq!(of_routes.len(), 1, "only the stray is touched: {of_routes:#?}");
        all_reach_all(&[&one, &three]);
        // What is lost while no worker keeps it is told.
        a.stop();
        a.ip(&format!("route del {}", three.block(V4)));
        a.ip("link del vxlan-v6.calico");
        let found = look(&lab, &a).await;
        assert!(
            found.problems.contains(&format!("the route to {} is missing", three.block(V4))),
            "{found:?}"
        );
        assert!(found.problems.iter().any(|it| it.starts_with("vxlan-v6.calico is missing")), "{found:?}");
    });
}

#[test]
fn beside_felix_nothing_is_touched() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Never").await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let two = b.container(&lab, 2).await;
        a.until_route(&two.block(V4), "dev eth0").await;
        a.active.send_replace(false);
        b.until_route(&two.block(V6), "blackhole").await;
        let before = a.faults.as_ref().unwrap().calls().len();
        let three = lab.host("c", 0, 3).await.container(&lab, 3).await;
        b.until_routes(&three, UPLINK).await;
        let calls = a.faults.as_ref().unwrap().calls();
        let changes = calls[before..].iter().filter(|call| format!("{call:?}").starts_with("ChangeRoutes"));
        assert_eq!(changes.count(), 0, "{calls:#?}");
        a.active.send_replace(true);
        a.until_route(&three.block(V4), "dev eth0").await;
    });
}
