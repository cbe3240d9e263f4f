//! What keeps nodes apart, over a real etcd: many nodes take and give addresses at the same time.

use crate::etcd_server::{Etcd, runtime};
use calico_libnetwork::ipam::{AutoAssign, Expect, Facts, FindingKind, Ipam, Owner, Released, audit};
use calico_libnetwork::model::{HandleId, IpVersion, NodeName};
use calico_libnetwork::resource::remove_node;
use calico_libnetwork::store::{SharedStore, Store, Txn};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

const ROOT: &str = "/calico/resources/v3/projectcalico.org";
const NODES: usize = 6;

fn wanted(handle: &str) -> AutoAssign {
    let owner = Owner { handle: HandleId::new(handle).unwrap(), attributes: BTreeMap::new() };
    AutoAssign { version: IpVersion::V4, pool: None, within: None, owner }
}

/// What is wrong; addresses that nobody uses are not: there are no endpoints.
async fn problems(store: &dyn Store) -> Vec<String> {
    let entries = store.list("/calico/").await.unwrap().entries;
    let found = audit(&Facts::of(&entries), SystemTime::now(), Duration::ZERO);
    let wrong = found.problems().filter(|finding| finding.kind != FindingKind::LeakedAddress);
    wrong.map(|finding| finding.text.clone()).collect()
}

/// Each node asks for `count` addresses at once; who got which.
async fn storm(nodes: &[Ipam], round: usize, count: usize) -> Vec<(usize, String, IpAddr)> {
    let ask = |node: usize, n: usize| {
        let (ipam, handle) = (nodes[node].clone(), format!("r{round}-n{node}-{n}"));
        async move { ipam.auto_assign(&wanted(&handle)).await.ok().map(|ip| (node, handle, ip)) }
    };
    let asked = (0..nodes.len()).flat_map(|node| (0..count).map(move |n| (node, n)));
    join_all(asked.map(|(node, n)| ask(node, n))).await.into_iter().flatten().collect()
}

/// (20, 31, 32, 36, 42) Blocks, claims and borrowed addresses under races; then every node leaves.
#[test]
fn racing_nodes_over_a_real_etcd_share_no_address_and_leave_nothing() {
    let Some(etcd) = Etcd::start() else { return };
    let runtime = runtime();
    let store: SharedStore = etcd.store(&runtime);
    runtime.block_on(async {
        let put = |key: String, value: String| store.commit(Txn::new().create(key, value));
        put(
            format!("{ROOT}/ippools/a"),
            r#"{"metadata":{"name":"a"},"spec":{"cidr":"10.1.0.0/26","blockSize":29}}"#.to_owned(),
        )
        .await
        .unwrap();
        let names: Vec<NodeName> =
            (0..NODES).map(|n| NodeName::new(&format!("docker-{n}")).unwrap()).collect();
        for name in &names {
            put(format!("{ROOT}/nodes/{name}"), format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{}}}}"#))
                .await
                .unwrap();
        }
        let nodes: Vec<Ipam> = names.iter().map(|name| Ipam::new(store.clone(), name.clone())).collect();
        for round in 0..3 {
            // 72 ask for 64.
            let got = storm(&nodes, round, 12).await;
            assert_eq!(got.len(), 64, "all of the pool is given out, and no more");
            let distinct: BTreeSet<IpAddr> = got.iter().map(|(_, _, ip)| *ip).collect();
            assert_eq!(distinct.len(), 64, "no address is given twice");
            assert_eq!(problems(&*store).await, Vec::<String>::new());
            let release = |(node, handle, ip): &(usize, String, IpAddr)| {
                let expect = Expect { handle: HandleId::new(handle).ok(), ..Expect::default() };
                let (ipam, ip) = (nodes[*node].clone(), *ip);
                async move { ipam.release(ip, &expect).await.unwrap() }
            };
            for released in join_all(got.iter().map(release)).await {
                assert!(matches!(released, Released::Freed(_)));
            }
            assert_eq!(problems(&*store).await, Vec::<String>::new());
            assert!(store.list("/calico/ipam/v2/handle/").await.unwrap().entries.is_empty());
        }
        let kept = storm(&nodes, 9, 2).await;
        assert_eq!(kept.len(), 2 * NODES);
        for removed in join_all(names.iter().map(|name| remove_node(&store, name))).await {
            removed.unwrap();
        }
        let left = store.list("/calico/").await.unwrap().entries;
        let left: Vec<&str> = left.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(left, [format!("{ROOT}/ippools/a")], "the nodes left nothing");
    });
}
