//! What should not be: clashes, missing addresses, broken documents, somebody else's devices.

use crate::lab::{Lab, TUNNELS, UPLINK, all_reach_all};
use crate::support::netns;
use crate::vxlan::device;
use calico_libnetwork::model::IpVersion::{V4, V6};
use serde_json::json;

#[test]
fn of_two_nodes_with_one_address_the_first_keeps_it_and_the_rest_works() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Never").await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let (one, two) = (a.container(&lab, 1).await, b.container(&lab, 2).await);
        let thief = lab.bare_host("z", 0, 9).await;
        lab.node("z", &format!("{}/24", b.v4), &format!("{}/64", b.v6)).await;
        let three = thief.container(&lab, 3).await;
        for (host, other) in [(&a, &two), (&b, &one)] {
            host.until_routes(other, UPLINK).await;
        }
        assert!(!a.routes().iter().any(|route| route.contains(&three.block(V4))), "{:#?}", a.routes());
        all_reach_all(&[&one, &two]);
        lab.node("z", &format!("{}/24", thief.v4), &format!("{}/64", thief.v6)).await;
        a.until_route(&three.block(V4), &format!("via {}", thief.v4)).await;
    });
}

#[test]
fn broken_documents_leave_the_rest_alone() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Never").await;
        lab.raw("/calico/resources/v3/projectcalico.org/nodes/broken", "{").await;
        lab.put("Node", "nodes", "odd", json!({"bgp": {"ipv4Address": "here"}})).await;
        lab.put("Node", "nodes", "bare", json!({})).await;
        lab.raw("/calico/resources/v3/projectcalico.org/ippools/broken", "[]").await;
        lab.raw("/calico/ipam/v2/assignment/ipv4/block/10.65.77.0-29", "null").await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let (one, two) = (a.container(&lab, 1).await, b.container(&lab, 2).await);
        a.until_routes(&two, UPLINK).await;
        // A document that breaks while it is in use keeps what it said.
        lab.raw("/calico/resources/v3/projectcalico.org/nodes/b", "{}").await;
        lab.raw("/calico/resources/v3/projectcalico.org/ippools/four", "{}").await;
        let late = lab.host("c", 0, 3).await;
        late.until_route(&one.block(V6), "dev eth0").await;
        a.until_route(&two.block(V4), "dev eth0").await;
        b.until_routes(&one, UPLINK).await;
        all_reach_all(&[&one, &two]);
    });
}

#[test]
fn a_pool_over_the_hosts_own_subnet_does_not_take_it_over() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pool("four", "192.0.2.0/24", 29, json!({})).await;
        lab.pool("six", "fd65::/112", 125, json!({})).await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let two = b.container(&lab, 2).await;
        a.until_route(&two.block(V6), "dev eth0").await;
        assert!(
            !a.routes()
                .iter()
                .any(|route| route.contains("192.0.2.0/29") || route.starts_with("blackhole 192"))
        );
    });
}

#[test]
fn a_vni_that_docker_has_is_told_and_another_one_works_beside_it() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let (a, c) = (lab.bare_host("a", 0, 1).await, lab.bare_host("c", 1, 3).await);
        for host in [&a, &c] {
            // As Docker's overlay makes them: learning, and answering for neighbours.
            host.ip("link add ingress type vxlan id 4096 dstport 4789 learning proxy l2miss l3miss");
            host.ip("link set ingress up");
            lab.node(host.name.as_str(), &format!("{}/24", host.v4), &format!("{}/64", host.v6)).await;
        }
        let (a, c) = (a.work(lab.shared()), c.work(lab.shared()));
        let (one, three) = (a.container(&lab, 1).await, c.container(&lab, 3).await);
        a.until_route(&three.block(V6), "dev vxlan-v6.calico").await;
        assert!(device(&a, "vxlan.calico").is_null());
        let spec = json!({"vxlanVNI": calico_libnetwork::routes::FREE_VNI});
        lab.put("FelixConfiguration", "felixconfigurations", "default", spec).await;
        for (host, other) in [(&a, &three), (&c, &one)] {
            host.until_routes(other, TUNNELS).await;
        }
        all_reach_all(&[&one, &three]);
        assert_eq!(device(&a, "ingress")["linkinfo"]["info_data"]["id"], 4096);
    });
}

#[test]
fn a_cluster_of_this_plugin_alone_gets_a_vni_that_docker_has_not() {
    netns::run(|| async {
        let lab = Lab::new().await;
        let spec = json!({"clusterGUID": "0", "clusterType": "libnetwork", "datastoreReady": true});
        lab.put("ClusterInformation", "clusterinformations", "default", spec).await;
        lab.pools("Always").await;
        let a = lab.host("a", 0, 1).await;
        a.until("a device with our own VNI", |_| {
            device(&a, "vxlan.calico")["linkinfo"]["info_data"]["id"] == calico_libnetwork::routes::FREE_VNI
        })
        .await;
    });
}

#[test]
fn an_interface_of_the_name_that_is_no_vxlan_stays() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pools("Always").await;
        let a = lab.bare_host("a", 0, 1).await;
        a.ip("link add vxlan.calico type bridge");
        lab.node("a", &format!("{}/24", a.v4), &format!("{}/64", a.v6)).await;
        let a = a.work(lab.shared());
        a.until("the other device", |_| !device(&a, "vxlan-v6.calico").is_null()).await;
        assert_eq!(device(&a, "vxlan.calico")["linkinfo"]["info_kind"], "bridge");
        a.ip("link del vxlan.calico");
        a.until("our device", |_| device(&a, "vxlan.calico")["linkinfo"]["info_kind"] == "vxlan").await;
    });
}
