//! What the cluster's datastore costs: round trips, latencies beside a raw etcd put in the same run, the first address among
//! many blocks, racing allocators, memory. Prints a table; absolute times mean little, ratios and counts do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark, not a part of the plugin"
)]

#[path = "../tests/driver/host.rs"]
#[allow(dead_code, reason = "the driver's tests use the rest")]
mod host;
#[path = "../tests/etcd/node.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod node;
#[path = "../tests/support/etcd.rs"]
mod server;

use calico_libnetwork::app::replicate;
use calico_libnetwork::ipam::block::Block;
use calico_libnetwork::ipam::{AutoAssign, Ipam, Owner};
use calico_libnetwork::model::{HandleId, IpVersion, NodeName, key};
use calico_libnetwork::store::{
    Entry, EtcdOptions, EtcdStore, Event, Listing, Revision, SharedStore, Store, StoreError, Txn,
};
use futures::future::{BoxFuture, join_all};
use futures::stream::BoxStream;
use futures::{FutureExt, TryFutureExt};
use node::{Node, pool, pools};
use serde_json::json;
use server::Etcd;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

const V4: &str = "CalicoPoolIPv4";
const V6: &str = "CalicoPoolIPv6";
/// Argument of the process that only follows the datastore, whose URL comes next.
const REPLICA: &str = "--replica-of";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == REPLICA) {
        return runtime.block_on(replica(arguments[at + 1].clone()));
    }
    runtime.block_on(async {
        println!("| figure | value | beside |\n|---|---|---|");
        round_trips().await;
        latencies().await;
        first_address().await;
        for racers in [1, 10, 50] {
            racing(racers).await;
        }
        memory().await;
    });
}

async fn etcd() -> Etcd {
    Etcd::start().await.expect("etcd is installed: make setup")
}

async fn round_trips() {
    let etcd = etcd().await;
    pools(&etcd.store).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    let _first = node.run(&[V4, V6]).await.unwrap();
    for (name, wanted) in [("IPv4", &[V4][..]), ("IPv4 and IPv6", &[V4, V6][..])] {
        let before = etcd.served().await;
        let container = node.run(wanted).await.unwrap();
        let started = etcd.served().await;
        node.stop(&container).await.unwrap();
        let (start, stop) = (started.since(before), etcd.served().await.since(started));
        println!(
            "| serial round trips of a start / stop, {name} | {} writes, {} reads / {} writes, {} reads | Go plugin: 9 or more |",
            start.writes, start.reads, stop.writes, stop.reads
        );
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0
}

async fn timed<T>(times: &mut Vec<Duration>, work: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let done = work.await;
    times.push(begin.elapsed());
    done
}

async fn latencies() {
    let etcd = etcd().await;
    pools(&etcd.store).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    let (mut puts, mut requests, mut creates) = (Vec::new(), Vec::new(), Vec::new());
    let value = "x".repeat(1000);
    for round in 0..300 {
        timed(&mut puts, etcd.store.commit(Txn::new().put("/raw", value.clone()))).await.unwrap();
        let address = timed(&mut requests, node.request(V4)).await.unwrap();
        let body = json!({"NetworkID": node.network, "EndpointID": format!("{round:08x}{}", "cd".repeat(28)),
            "Interface": {"Address": format!("{address}/32"), "AddressIPv6": "", "MacAddress": ""}, "Options": {}});
        timed(&mut creates, node.call("NetworkDriver.CreateEndpoint", &body)).await.unwrap();
    }
    for percent in [50, 99] {
        let put = percentile(&mut puts, percent);
        for (name, times) in [("RequestAddress", &mut requests), ("CreateEndpoint", &mut creates)] {
            let took = percentile(times, percent);
            println!(
                "| {name}, p{percent} of 300 | {took:.1} ms | raw put of 1 kB {put:.1} ms: {:.2} times |",
                took / put
            );
        }
    }
}

async fn first_address() {
    let etcd = etcd().await;
    pool(&etcd.store, "large", &json!({"cidr": "10.64.0.0/10", "blockSize": 26})).await;
    let mut txn = Txn::new();
    for number in 0..10_000_u32 {
        let cidr = format!("10.{}.{}.{}/26", 64 + number / 1024, number / 4 % 256, number % 4 * 64);
        let other = NodeName::new(&format!("other-{}", number % 500)).unwrap();
        let block = Block::new(cidr.parse().unwrap(), &other, SystemTime::now()).unwrap();
        txn = txn.put(key::block(&block.cidr()), serde_json::to_vec(block.document()).unwrap());
        if txn.ops.len() == 100 {
            etcd.store.commit(std::mem::take(&mut txn)).await.unwrap();
        }
    }
    let listed = Instant::now();
    etcd.store.list(key::BLOCK_ROOT).await.unwrap();
    let listed = listed.elapsed().as_secs_f64() * 1000.0;
    let node = Node::start(&etcd.store, "docker-1").await;
    let (before, begin) = (etcd.served().await, Instant::now());
    node.request(V4).await.unwrap();
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    let served = etcd.served().await.since(before);
    println!(
        "| first address with 10 000 blocks | {took:.1} ms, {} writes, {} reads | one list of all blocks, read at the start: {listed:.1} ms |",
        served.writes, served.reads
    );
}

/// Counts the races lost.
#[derive(Debug)]
struct Counting {
    inner: EtcdStore,
    lost: Arc<AtomicU64>,
}

impl Store for Counting {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        self.inner.get(key)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.inner.list(prefix)
    }
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.inner
            .commit(txn)
            .inspect_err(|error| {
                self.lost.fetch_add(u64::from(error.is_conflict()), Ordering::Relaxed);
            })
            .boxed()
    }
    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        self.inner.watch(prefix, from)
    }
}

/// Nodes that each take addresses one after the other, all from one pool that has few blocks: most of them borrow.
async fn racing(racers: usize) {
    const EACH: usize = 20;
    let etcd = etcd().await;
    pool(&etcd.store, "small", &json!({"cidr": "10.40.0.0/21", "blockSize": 26})).await;
    let lost = Arc::new(AtomicU64::new(0));
    let mut allocators = Vec::new();
    for number in 0..racers {
        let node = NodeName::new(&format!("docker-{number}")).unwrap();
        calico_libnetwork::cluster::ensure_initialized(&etcd.store, &node).await.unwrap();
        let counting = Counting { inner: etcd.store.clone(), lost: lost.clone() };
        let replica = replicate(Arc::new(counting), &node);
        replica.in_step().await;
        allocators.push(Ipam::new(replica, node));
    }
    let begin = Instant::now();
    let taken = join_all(allocators.iter().map(|ipam| async move {
        let (mut taken, mut times) = (Vec::new(), Vec::new());
        for number in 0..EACH {
            let handle = HandleId::new(&format!("libnetwork.{}.{number}", ipam.node())).unwrap();
            let owner = Owner { handle, attributes: BTreeMap::new() };
            let request = AutoAssign { version: IpVersion::V4, pool: None, within: None, owner };
            taken.push(timed(&mut times, ipam.auto_assign(&request)).await.unwrap());
        }
        (taken, times)
    }))
    .await;
    let took = begin.elapsed().as_secs_f64();
    let (taken, times): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
    let all: Vec<_> = taken.into_iter().flatten().collect();
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "an address was given twice");
    assert_eq!(node::allocated(&etcd.store).await.len(), all.len(), "an address leaked");
    println!(
        "| {racers} racing nodes, {EACH} addresses each, 32 blocks | {:.0} addresses a second; p50 {:.1} ms, slowest {:.1} ms | {} races lost, no duplicate, no leak |",
        all.len() as f64 / took,
        percentile(&mut times, 50),
        percentile(&mut times, 100),
        lost.load(Ordering::Relaxed)
    );
}

/// Resident memory of this process in kB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn memory() {
    let etcd = etcd().await;
    pools(&etcd.store).await;
    let limits = json!({"strict_affinity": false, "auto_allocate_blocks": true, "maxBlocksPerHost": 500});
    etcd.store.commit(Txn::new().put(key::IPAM_CONFIG, limits.to_string())).await.unwrap();
    let other = Node::start(&etcd.store, "docker-1").await;
    // Endpoints as the driver writes them, twenty at a time.
    let rounds = 500;
    for _ in 0..rounds {
        for started in join_all((0..20).map(|_| other.run(&[V4]))).await {
            started.unwrap();
        }
    }
    drop(other);
    let bytes: usize = {
        let all = etcd.store.list("/calico/").await.unwrap();
        all.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum()
    };
    // Another process has its memory to itself.
    let own = std::process::Command::new(std::env::current_exe().unwrap())
        .args([REPLICA, etcd.endpoint().as_str()])
        .output()
        .unwrap();
    println!(
        "| memory of the replica with 10 000 endpoints in the store | {} kB more | their data: {} kB |",
        String::from_utf8(own.stdout).unwrap().trim(),
        bytes / 1024
    );
}

/// Prints by how many kB this process grows when it follows the datastore.
async fn replica(url: String) {
    let store: SharedStore = Arc::new(EtcdStore::connect(EtcdOptions::new(vec![url])));
    store.get("/").await.unwrap();
    let before = resident();
    let replica = replicate(store, &NodeName::new("docker-2").unwrap());
    replica.in_step().await;
    println!("{}", resident().saturating_sub(before));
}
