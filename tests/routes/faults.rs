//! Each call to the kernel fails once: everything converges, and nothing is left behind.

use crate::lab::{Lab, all_reach_all};
use crate::support::netns;
use crate::vxlan::device;
use calico_libnetwork::model::IpVersion::{V4, V6};

/// Calls of a worker's first minutes; which one fails varies with the order of events, all of them do once.
const FAULTS: [&[usize]; 14] = [
    &[1],
    &[2],
    &[3],
    &[4],
    &[5],
    &[6],
    &[7],
    &[8],
    &[9],
    &[10],
    &[11],
    &[12],
    &[13, 14, 15],
    &[16, 17, 18, 19],
];

#[test]
fn whatever_fails_once_comes_right() {
    for faults in FAULTS {
        netns::run(move || async move {
            let lab = Lab::new().await;
            lab.pools("CrossSubnet").await;
            let (b, c) = (lab.host("b", 0, 2).await, lab.host("c", 1, 3).await);
            let (two, three) = (b.container(&lab, 2).await, c.container(&lab, 3).await);
            let a = lab.bare_host("a", 0, 1).await;
            lab.node("a", &format!("{}/24", a.v4), &format!("{}/64", a.v6)).await;
            let a = a.work_over_faults(lab.shared(), faults);
            let one = a.container(&lab, 1).await;
            a.until_route(&two.block(V4), "dev eth0").await;
            a.until_route(&two.block(V6), "dev eth0").await;
            for (host, other) in [(&a, &three), (&c, &one), (&c, &two), (&b, &three)] {
                host.until_route(&other.block(V4), "dev vxlan.calico").await;
                host.until_route(&other.block(V6), "dev vxlan-v6.calico").await;
            }
            b.until_route(&one.block(V4), "dev eth0").await;
            b.until_route(&one.block(V6), "dev eth0").await;
            all_reach_all(&[&one, &two, &three]);
            lab.pools("Never").await;
            for name in ["b", "c"] {
                lab.delete("nodes", name).await;
            }
            a.until(&format!("nothing is left, faults {faults:?}"), |routes| {
                let only_own = routes.iter().all(|route| route.starts_with("blackhole "));
                only_own && device(&a, "vxlan.calico").is_null() && device(&a, "vxlan-v6.calico").is_null()
            })
            .await;
        });
    }
}
