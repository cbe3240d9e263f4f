//! What keeps nodes apart, over a real etcd: many nodes take and give addresses at the same time.

use crate::etcd_server::{Etcd, runtime};
use calico_libnetwork::ipam::{AutoAssign, Expect, Facts, FindingKind, Ipam, Owner, Released, audit};
use calico_libnetwork::model::{AllocationBlock, HandleId, IpVersion, IpamHandle, NodeName, key};
use calico_libnetwork::resource::remove_node;
use calico_libnetwork::store::{EtcdOptions, EtcdStore, SharedStore, Store, Txn};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

const ROOT: &str = "/calico/resources/v3/projectcalico.org";
const NODES: usize = 6;

/// What this program is told to do when it is started as one of two that take addresses: etcd's URL, its node, its name.
const TAKER: &str = "CALICO_TEST_TAKER";
/// How many addresses each of the two takes, of a block of 64: as many as there are, together.
const EACH: usize = 32;

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

/// One of two processes: waits for its start, and prints which address it has got under which handle. Several requests of
/// it are under way at a time, and some of its addresses share a handle.
fn take(told: &str) {
    let [url, node, name] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    runtime().block_on(async {
        let store: SharedStore =
            std::sync::Arc::new(EtcdStore::connect(EtcdOptions::new(vec![url.to_owned()])));
        let ipam = Ipam::new(store, NodeName::new(node).unwrap());
        println!("\nready");
        std::io::stdin().read_exact(&mut [0]).unwrap();
        for round in 0..EACH / 4 {
            let handles: Vec<String> = (0..4).map(|n| format!("{name}-{round}-{}", n / 2)).collect();
            let requests: Vec<AutoAssign> = handles.iter().map(|handle| wanted(handle)).collect();
            let got = join_all(requests.iter().map(|request| ipam.auto_assign(request))).await;
            for (handle, ip) in handles.iter().zip(got) {
                println!("got {} {handle}", ip.unwrap());
            }
        }
    });
}

/// Starts this program as one that takes addresses, and waits until it is ready.
fn taker(url: &str, node: &str, name: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "etcd::statement_32_two_processes_never_get_the_same_address", "--nocapture"])
        .env(TAKER, format!("{url} {node} {name}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line != "ready\n" {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "{name} ended before it was ready");
    }
    (child, said)
}

/// (32) Two processes that allocate N addresses each at the same time from one block never get the same one, and the counts
/// of the handles add up to the allocations: two of one node, then two of which one borrows.
#[test]
fn statement_32_two_processes_never_get_the_same_address() {
    if let Ok(told) = std::env::var(TAKER) {
        return take(&told);
    }
    for nodes in [["docker-1", "docker-1"], ["docker-1", "docker-2"]] {
        let Some(etcd) = Etcd::start() else { return };
        let runtime = runtime();
        let store: SharedStore = etcd.store(&runtime);
        let pool = r#"{"metadata":{"name":"a"},"spec":{"cidr":"10.1.0.0/26","blockSize":26}}"#;
        let node = |name: &str| {
            Txn::new().put(
                format!("{ROOT}/nodes/{name}"),
                format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{}}}}"#),
            )
        };
        runtime.block_on(async {
            store.commit(Txn::new().create(format!("{ROOT}/ippools/a"), pool)).await.unwrap();
            for name in nodes {
                store.commit(node(name)).await.unwrap();
            }
        });
        let takers = [0, 1].map(|n| taker(etcd.url(), nodes[n], &format!("process-{n}")));
        let mut got: Vec<(IpAddr, String)> = Vec::new();
        let started = takers.map(|(mut child, said)| {
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"!").unwrap();
            (child, said)
        });
        for (mut child, said) in started {
            let lines = said.lines().map(Result::unwrap);
            let of_one: Vec<(IpAddr, String)> = lines
                .filter_map(|line| {
                    let (ip, handle) = line.strip_prefix("got ")?.split_once(' ')?;
                    Some((ip.parse().unwrap(), handle.to_owned()))
                })
                .collect();
            assert!(child.wait().unwrap().success());
            assert_eq!(of_one.len(), EACH);
            got.extend(of_one);
        }
        let distinct: BTreeSet<IpAddr> = got.iter().map(|(ip, _)| *ip).collect();
        assert_eq!(distinct.len(), 2 * EACH, "an address was given twice");

        runtime.block_on(async {
            let blocks = store.list(key::BLOCK_ROOT).await.unwrap().entries;
            assert_eq!(blocks.len(), 1);
            let block: AllocationBlock = serde_json::from_slice(&blocks[0].value).unwrap();
            let block = calico_libnetwork::ipam::block::Block::open(block).unwrap();
            let held: BTreeSet<(IpAddr, String)> =
                block.allocations().map(|held| (held.ip, held.handle.clone().unwrap())).collect();
            assert_eq!(held, got.iter().cloned().collect(), "the block holds what was answered");
            let handles = store.list(key::HANDLE_ROOT).await.unwrap().entries;
            let counts = handles.iter().flat_map(|entry| {
                let handle: IpamHandle = serde_json::from_slice(&entry.value).unwrap();
                handle.block.into_values()
            });
            assert_eq!(counts.sum::<u64>(), held.len() as u64, "the handles count what the block holds");
            assert_eq!(problems(&*store).await, Vec::<String>::new());
        });
    }
}
