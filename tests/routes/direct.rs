//! Pools without encapsulation: next hops in one subnet, blackholes, borrowed addresses.

use crate::lab::{Lab, all_reach_all, ip};
use crate::support::netns;
use calico_libnetwork::model::IpVersion::{V4, V6};

#[test]
fn hosts_in_one_subnet_route_directly() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Never").await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let (web, db) = (a.container(&lab, 1).await, b.container(&lab, 2).await);
        for version in [V4, V6] {
            let (via_a, via_b) = match version {
                V4 => (a.v4, b.v4),
                V6 => (a.v6, b.v6),
            };
            a.until_route(&db.block(version), &format!("via {via_b} dev eth0")).await;
            b.until_route(&web.block(version), &format!("via {via_a} dev eth0")).await;
            a.until_route(&web.block(version), "blackhole").await;
            b.until_route(&db.block(version), "blackhole").await;
        }
        all_reach_all(&[&web, &db]);
        assert_eq!(a.routes().len(), 4, "{:#?}", a.routes());
    });
}

#[test]
fn an_address_that_nobody_has_is_refused_at_once() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Never").await;
        let a = lab.host("a", 0, 1).await;
        let web = a.container(&lab, 1).await;
        a.until_routes(&web, ["blackhole", "blackhole"]).await;
        for version in [V4, V6] {
            let cidr: calico_libnetwork::model::Cidr = web.block(version).parse().unwrap();
            let to = std::net::SocketAddr::new(cidr.last(), 4000);
            let any = if version == V4 { ip("0.0.0.0") } else { ip("::") };
            let said = a.ns.enter(move || std::net::UdpSocket::bind((any, 0)).unwrap().send_to(b"?", to));
            assert!(said.is_err(), "{version}: {said:?}");
        }
    });
}

#[test]
fn a_block_of_one_address_has_no_blackhole() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pool("four", "10.65.0.0/24", 32, serde_json::json!({})).await;
        lab.pool("six", "fd65::/112", 125, serde_json::json!({})).await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let (web, db) = (a.container(&lab, 1).await, b.container(&lab, 2).await);
        a.until_route(&db.address(V4).to_string(), &format!("via {}", b.v4)).await;
        a.until_route(&web.block(V6), "blackhole").await;
        b.until_route(&web.address(V4).to_string(), &format!("via {}", a.v4)).await;
        b.until_route(&web.block(V6), &format!("via {}", a.v6)).await;
        assert!(!a.routes().iter().any(|route| route.starts_with("blackhole 10.")), "{:#?}", a.routes());
        all_reach_all(&[&web, &db]);
    });
}

#[test]
fn a_borrowed_address_is_routed_to_the_borrower() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Never").await;
        let (a, b, c) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await, lab.host("c", 0, 3).await);
        let owner = a.container(&lab, 1).await;
        let (first4, first6) = (owner.block(V4), owner.block(V6));
        let of = |text: &str| text.parse::<calico_libnetwork::model::Cidr>().unwrap().last();
        let borrowed = vec![of(&first4), of(&first6)];
        let borrower = b.borrower(&lab, 2, borrowed.clone()).await;
        let third = c.container(&lab, 3).await;
        for (version, via) in [(V4, b.v4), (V6, b.v6)] {
            let address = borrower.address(version).to_string();
            a.until_route(&address, &format!("via {via}")).await;
            c.until_route(&address, &format!("via {via}")).await;
        }
        c.until_route(&first4, &format!("via {}", a.v4)).await;
        c.until_route(&first6, &format!("via {}", a.v6)).await;
        for (host, version) in [(&a, V4), (&b, V4), (&a, V6), (&b, V6)] {
            let via = if version == V4 { c.v4 } else { c.v6 };
            host.until_route(&third.block(version), &format!("via {via}")).await;
        }
        assert!(
            !b.routes().iter().any(|route| route.starts_with(&borrowed[0].to_string())),
            "{:#?}",
            b.routes()
        );
        all_reach_all(&[&owner, &borrower, &third]);
    });
}

#[test]
fn a_local_container_wins_over_a_route_to_another_node() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Never").await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let owner = b.container(&lab, 1).await;
        let address: calico_libnetwork::model::Cidr = owner.block(V4).parse().unwrap();
        // The datastore says that it is b's; a has it already.
        let local = a.container_at(vec![address.last(), ip("fd65::7777")], 2);
        let elsewhere = b.borrower(&lab, 3, vec![]).await;
        let ipam = calico_libnetwork::ipam::Ipam::new(
            lab.shared(),
            calico_libnetwork::model::NodeName::new("c").unwrap(),
        );
        let c = lab.host("c", 0, 3).await;
        ipam.assign(address.last(), None, &crate::lab::owner(&c.name, 9)).await.unwrap();
        a.until_route(&address.last().to_string(), &format!("via {}", c.v4)).await;
        assert_eq!(a.asks(&local, V4).unwrap(), ip("192.0.2.1"));
        let line = a.ip(&format!("route get {}", address.last()));
        assert!(line.contains("dev cali"), "{line}");
        drop(elsewhere);
    });
}
