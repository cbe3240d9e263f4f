//! What a container costs on the wire, by etcd's own count of the calls it served.

use crate::node::{Node, pools};
use crate::server::{Etcd, Served};
use calico_libnetwork::ipam::Census;
use calico_libnetwork::model::{AllocationBlock, NodeName, key};
use calico_libnetwork::store::{Store, Txn};
use futures::future::join_all;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

const V4: &str = "CalicoPoolIPv4";
const V6: &str = "CalicoPoolIPv6";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_and_a_stop_cost_two_writes_and_no_read() {
    let Some(etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    // The first container claims the node's block.
    let first = node.run(&[V4, V6]).await.unwrap();

    let before = etcd.served().await;
    let container = node.run(&[V4]).await.unwrap();
    let started = etcd.served().await;
    assert_eq!(started.since(before), Served { reads: 0, writes: 2 }, "address with handle; endpoint");
    node.stop(&container).await.unwrap();
    let stopped = etcd.served().await;
    assert_eq!(stopped.since(started), Served { reads: 0, writes: 2 }, "endpoint; address with handle");

    let container = node.run(&[V4, V6]).await.unwrap();
    let started = etcd.served().await;
    assert_eq!(
        started.since(stopped),
        Served { reads: 0, writes: 3 },
        "an address of each version; endpoint"
    );
    node.stop(&container).await.unwrap();
    assert_eq!(etcd.served().await.since(started), Served { reads: 0, writes: 3 });
    node.stop(&first).await.unwrap();
    assert_eq!(etcd.store.list(key::HANDLE_ROOT).await.unwrap().entries, [], "nothing is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_at_the_same_time_share_their_writes() {
    let Some(etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    let first = node.run(&[V4]).await.unwrap();
    let before = etcd.served().await;
    let containers = join_all((0..20).map(|_| node.run(&[V4]))).await;
    let containers: Vec<_> = containers.into_iter().map(Result::unwrap).collect();
    let started = etcd.served().await.since(before);
    assert_eq!(started.reads, 0);
    assert!(started.writes < 20 + 10, "20 endpoints, and few writes of the block: {started:?}");
    let addresses: BTreeSet<_> = containers.iter().map(|container| &container.addresses[0].1).collect();
    assert_eq!(addresses.len(), 20);
    let before = etcd.served().await;
    for stopped in join_all(containers.iter().map(|container| node.stop(container))).await {
        stopped.unwrap();
    }
    let stopped = etcd.served().await.since(before);
    assert_eq!(stopped.reads, 0);
    assert!(stopped.writes < 20 + 15, "{stopped:?}");
    node.stop(&first).await.unwrap();
}

/// Full blocks of other nodes.
async fn fill(store: &dyn Store, count: u32) {
    let mut txn = Txn::new();
    for number in 0..count {
        let cidr = format!("10.{}.{}.{}/26", 64 + number / 1024, number / 4 % 256, number % 4 * 64);
        let node = NodeName::new(&format!("other-{}", number % 500)).unwrap();
        let block =
            calico_libnetwork::ipam::block::Block::new(cidr.parse().unwrap(), &node, SystemTime::now());
        let block: AllocationBlock = block.unwrap().document().clone();
        txn = txn.put(key::block(&block.cidr), serde_json::to_vec(&block).unwrap());
        if txn.ops.len() == Txn::MAX_OPS {
            store.commit(std::mem::take(&mut txn)).await.unwrap();
        }
    }
    if !txn.ops.is_empty() {
        store.commit(txn).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_address_among_twenty_thousand_blocks_needs_no_read_beyond_one_list() {
    let Some(etcd) = Etcd::start().await else { return };
    crate::node::pool(&etcd.store, "large", &serde_json::json!({"cidr": "10.64.0.0/10", "blockSize": 26}))
        .await;
    fill(&etcd.store, 20_000).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    let before = etcd.served().await;
    let address = node.request(V4).await.unwrap();
    // Announce, create, take; all blocks were listed once, when the node started.
    assert_eq!(etcd.served().await.since(before), Served { reads: 0, writes: 3 });
    node.release(V4, &address).await.unwrap();
}

/// Blocks of which every address is held, as libnetwork's are: some eight kilobytes each.
async fn fill_to_the_brim(store: &dyn Store, count: u32) {
    let node = NodeName::new("other").unwrap();
    let mut block =
        calico_libnetwork::ipam::block::Block::new("10.64.0.0/26".parse().unwrap(), &node, SystemTime::now())
            .unwrap();
    for number in 0..64 {
        let owner = serde_json::json!({
            "handle_id": format!("libnetwork.other.{number:032x}"),
            "secondary": {"node": "other", "timestamp": "2026-11-27 00:00:00 +0000 UTC"}
        });
        let owner = serde_json::from_value(owner).unwrap();
        block.take(format!("10.64.0.{number}").parse().unwrap(), &owner).unwrap();
    }
    let full = serde_json::to_string(block.document()).unwrap();
    let mut txn = Txn::new();
    for number in 0..count {
        let cidr = format!("10.{}.{}.{}/26", 64 + number / 1024, number / 4 % 256, number % 4 * 64);
        let value = full.replace("10.64.0.0/26", &cidr);
        txn = txn.put(key::block(&cidr.parse().unwrap()), value);
        if txn.ops.len() == 100 {
            store.commit(std::mem::take(&mut txn)).await.unwrap();
        }
    }
    println!("{count} blocks of {} bytes", full.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counting_ten_thousand_full_blocks_again_and_again_reads_them_once() {
    let Some(etcd) = Etcd::start().await else { return };
    crate::node::pool(&etcd.store, "large", &serde_json::json!({"cidr": "10.64.0.0/10", "blockSize": 26}))
        .await;
    fill_to_the_brim(&etcd.store, 10_000).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    let (ipam, start) = (node.drivers.ipam().clone(), Instant::now());
    let before = etcd.served().await;
    let counted = ipam.pool_usage().await.unwrap();
    let alone = etcd.served().await.since(before).reads;
    println!("counted once: {alone} reads, {:?}", start.elapsed());
    assert!(alone > 0, "so much is not kept in memory");
    assert_eq!(counted[0].usage.used, 640_000);

    let (census, start) = (Census::new(ipam), Instant::now());
    let before = etcd.served().await;
    // Who gives up does not stop it, and five who ask meanwhile are served by it.
    let _gave_up = tokio::time::timeout(Duration::from_millis(10), census.pools()).await;
    for pools in join_all((0..5).map(|_| census.pools())).await {
        assert_eq!(*pools.unwrap(), counted);
    }
    let first = etcd.served().await;
    println!("asked for six times at once: {} reads, {:?}", first.since(before).reads, start.elapsed());
    assert_eq!(first.since(before).reads, alone);
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(*census.pools().await.unwrap(), counted);
    }
    println!("asked for twenty times more: {:?}", start.elapsed());
    assert_eq!(etcd.served().await.since(first), Served { reads: 0, writes: 0 });
}
