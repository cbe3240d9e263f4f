//! Members that go, ways that close, histories that are lost.

use crate::node::{Container, Node, allocated, pool, pools};
use crate::server::{Etcd, INSTALLED, Members, Proxy, Weather, newer};
use calico_libnetwork::store::{EtcdOptions, EtcdStore, Store, Txn};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const V4: &str = "CalicoPoolIPv4";

/// How long a cluster may take to be itself again.
const AGAIN: Duration = Duration::from_secs(60);

/// The versions of etcd that there are here.
pub(crate) fn programs() -> Vec<PathBuf> {
    let newer = newer();
    if newer.is_none() {
        crate::server::missing("etcd-3.5", "Debian trixie's package cannot be fetched");
    }
    [Some(PathBuf::from(INSTALLED)), newer].into_iter().flatten().collect()
}

/// A store over a proxy, with little patience.
fn through(proxy: &Proxy) -> EtcdStore {
    let mut options = EtcdOptions::new(vec![format!("127.0.0.1:{}", proxy.port)]);
    options.request_timeout = Duration::from_secs(2);
    EtcdStore::connect(options)
}

/// Starts containers until one start has succeeded; the sentences of those that failed.
async fn run_until_it_works(node: &Node) -> (Container, Vec<String>) {
    let deadline = Instant::now() + AGAIN;
    let mut failed = Vec::new();
    loop {
        match node.run(&[V4]).await {
            Ok(container) => return (container, failed),
            Err(sentence) => failed.push(sentence),
        }
        assert!(Instant::now() < deadline, "it never works again: {:?}", failed.last());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Living containers have addresses of their own, and the datastore knows them; what else is allocated was answered with
/// an error, and the collector's.
async fn assert_sound(store: &EtcdStore, living: &[Container], failures: usize) {
    let held: Vec<String> =
        living.iter().flat_map(|c| c.addresses.iter().map(|(_, ip)| ip.clone())).collect();
    let distinct: BTreeSet<&String> = held.iter().collect();
    assert_eq!(distinct.len(), held.len(), "an address was given twice: {held:?}");
    let known: BTreeSet<String> = allocated(store).await.into_iter().collect();
    for ip in &held {
        assert!(known.contains(ip), "{ip} is in use and free in the datastore");
    }
    assert!(known.len() <= held.len() + failures, "{} are allocated, {} in use", known.len(), held.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_costs_some_calls_and_no_address() {
    for program in programs() {
        let Some(mut cluster) = Members::start(&program).await else { return };
        let store = cluster.store(&[0, 1, 2]);
        pools(&store).await;
        let node = Node::start(&store, "docker-1").await;
        let (first, _) = run_until_it_works(&node).await;
        let mut living = vec![first];
        let mut failures = 0;
        for _ in 0..2 {
            let leader = cluster.leader().await;
            cluster.kill(leader);
            for _ in 0..5 {
                let (container, failed) = run_until_it_works(&node).await;
                assert!(failed.iter().all(|sentence| sentence.contains("datastore")), "{failed:?}");
                failures += failed.len();
                living.push(container);
            }
            cluster.spawn(leader).unwrap();
        }
        assert_sound(&store, &living, failures).await;
        let others = Node::start(&store, "docker-2").await;
        living.push(run_until_it_works(&others).await.0);
        assert_sound(&store, &living, failures).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_calls_end_with_a_sentence_until_it_is_back() {
    let Some(mut cluster) = Members::start(Path::new(INSTALLED)).await else { return };
    let store = cluster.store(&[0, 1, 2]);
    pools(&store).await;
    let node = Node::start(&store, "docker-1").await;
    let (first, _) = run_until_it_works(&node).await;
    for index in [0, 1] {
        cluster.kill(index);
    }
    let asked = Instant::now();
    let sentence = node.run(&[V4]).await.unwrap_err();
    assert!(sentence.contains("etcd at http://127.0.0.1"), "{sentence}");
    assert!(asked.elapsed() < Duration::from_secs(15), "it hung for {:?}", asked.elapsed());
    for index in [0, 1] {
        cluster.spawn(index).unwrap();
    }
    let (second, failed) = run_until_it_works(&node).await;
    assert_sound(&store, &[first, second], failed.len() + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_swallows_everything_ends_calls_in_time_and_heals() {
    let Some(etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    let proxy = Proxy::to(etcd.client).await;
    let node = Node::start(&through(&proxy), "docker-1").await;
    let (first, _) = run_until_it_works(&node).await;
    proxy.set(Weather::Hole);
    let asked = Instant::now();
    let sentence = node.run(&[V4]).await.unwrap_err();
    assert!(sentence.contains("no answer within 2 s"), "{sentence}");
    assert!(asked.elapsed() < Duration::from_secs(8), "it hung for {:?}", asked.elapsed());
    proxy.set(Weather::Fair);
    let (second, failed) = run_until_it_works(&node).await;
    assert_sound(&etcd.store, &[first, second], failed.len() + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_etcd_makes_starts_slow_and_nothing_else() {
    let Some(etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    let proxy = Proxy::to(etcd.client).await;
    let node = Node::start(&through(&proxy), "docker-1").await;
    let (first, _) = run_until_it_works(&node).await;
    proxy.set(Weather::Slow(Duration::from_millis(300)));
    let second = node.run(&[V4]).await.unwrap();
    let third = node.run(&[V4]).await.unwrap();
    node.stop(&second).await.unwrap();
    assert_sound(&etcd.store, &[first, third], 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_away_meanwhile_is_listed_again() {
    let Some(etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    let proxy = Proxy::to(etcd.client).await;
    let node = Node::start(&through(&proxy), "docker-1").await;
    let (first, _) = run_until_it_works(&node).await;
    proxy.set(Weather::Hole);
    let gone = format!("{}ippools/default-ipv4-ippool", calico_libnetwork::model::key::RESOURCE_ROOT);
    etcd.store.commit(Txn::new().remove(gone)).await.unwrap();
    pool(&etcd.store, "other", &json!({"cidr": "10.99.0.0/24", "blockSize": 28})).await;
    etcd.compact().await;
    proxy.set(Weather::Fair);
    let deadline = Instant::now() + AGAIN;
    loop {
        let address = node.request(V4).await;
        if address.as_ref().is_ok_and(|address| address.starts_with("10.99.0.")) {
            break;
        }
        assert!(Instant::now() < deadline, "the new pool is not noticed: {address:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    node.stop(&first).await.expect("an address of a pool that is gone is released all the same");
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_of_an_older_state_living_containers_keep_their_addresses() {
    let Some(mut etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    let (first, _) = run_until_it_works(&node).await;
    etcd.kill();
    let saved = etcd.folder.path().join("saved");
    copy(&etcd.data(), &saved);
    etcd.restart(Duration::ZERO).await;
    let mut living = vec![first];
    for _ in 0..5 {
        living.push(run_until_it_works(&node).await.0);
    }
    etcd.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    std::fs::rename(&saved, etcd.data()).unwrap();
    etcd.restart(Duration::ZERO).await;
    for _ in 0..3 {
        living.push(run_until_it_works(&node).await.0);
    }
    let held: BTreeSet<&String> = living.iter().map(|container| &container.addresses[0].1).collect();
    assert_eq!(held.len(), living.len(), "an address of a living container was given to another");
    for container in &living {
        node.stop(container).await.unwrap();
    }
}
