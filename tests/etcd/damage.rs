//! What stands in the datastore is not as it should be.

use crate::node::{Node, pool, pools};
use crate::server::Etcd;
use calico_libnetwork::model::key;
use calico_libnetwork::store::{EtcdStore, Store, Txn};
use serde_json::json;
use std::time::{Duration, Instant};

const V4: &str = "CalicoPoolIPv4";
const V6: &str = "CalicoPoolIPv6";

async fn put(store: &EtcdStore, key: &str, text: &str) {
    store.commit(Txn::new().put(key, text.to_owned())).await.unwrap();
}

/// The sentence of a request that fails once the node has heard of the change.
async fn refusal(node: &Node, pool: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match node.request(pool).await {
            Err(sentence) => return sentence,
            Ok(address) => node.release(pool, &address).await.unwrap_or_default(),
        }
        assert!(Instant::now() < deadline, "it goes on as if nothing had happened");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn success(node: &Node, pool: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match node.request(pool).await {
            Ok(address) => return address,
            Err(sentence) => assert!(Instant::now() < deadline, "it does not work again: {sentence}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_cannot_be_read_stops_what_needs_it_and_nothing_else() {
    let Some(etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    let container = node.run(&[V4, V6]).await.unwrap();
    let resource = |rest: &str| format!("{}{rest}", key::RESOURCE_ROOT);

    // What others made: passed over.
    for key in [
        resource("ippools/broken"),
        resource("ipreservations/broken"),
        resource("nodes/other"),
        resource("profiles/broken"),
        resource("workloadendpoints/libnetwork/broken"),
        resource("globalnetworkpolicies/broken"),
        format!("{}broken", key::HANDLE_ROOT),
        "/calico/ipam/v2/host/other/ipv4/block/10.40.1.0-26".to_owned(),
        format!("{}ipv4/block/10.40.2.0-26", key::BLOCK_ROOT),
        format!("{}ipv4/block/nonsense", key::BLOCK_ROOT),
    ] {
        put(&etcd.store, &key, "{\"metadata\": nonsense").await;
    }
    let again = node.run(&[V4, V6]).await.unwrap();
    node.stop(&again).await.unwrap();

    // What this node needs: a sentence that names it, until it is right again.
    for (key, sound) in [
        (key::IPAM_CONFIG.to_owned(), None),
        (resource("nodes/docker-1"), Some(r#"{"kind":"Node","metadata":{"name":"docker-1"},"spec":{}}"#)),
    ] {
        put(&etcd.store, &key, "{").await;
        let sentence = refusal(&node, V4).await;
        assert!(sentence.contains(&key), "{sentence}");
        match sound {
            Some(sound) => put(&etcd.store, &key, sound).await,
            None => drop(etcd.store.commit(Txn::new().remove(key)).await.unwrap()),
        }
        let address = success(&node, V4).await;
        node.release(V4, &address).await.unwrap();
    }

    // A block of this node: its addresses cannot be released, and another block serves.
    let block = format!("{}ipv4/block/", key::BLOCK_ROOT);
    let mut own = etcd.store.list(&block).await.unwrap().entries.into_iter();
    let own = own.find(|entry| String::from_utf8_lossy(&entry.value).contains("host:docker-1")).unwrap();
    put(&etcd.store, &own.key, "{}").await;
    let address = success(&node, V6).await;
    node.release(V6, &address).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let sentence = loop {
        if let Err(sentence) = node.release(V4, &container.addresses[0].1).await {
            break sentence;
        }
        // Nothing to release as long as an endpoint has it; the endpoint goes first.
        node.stop(&container).await.unwrap_or_default();
        assert!(Instant::now() < deadline);
    };
    assert!(sentence.contains("is damaged"), "{sentence}");
    let elsewhere = success(&node, V4).await;
    node.release(V4, &elsewhere).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_deleted_under_us_serves_no_more_and_takes_addresses_back() {
    let Some(etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    let node = Node::start(&etcd.store, "docker-1").await;
    let container = node.run(&[V4]).await.unwrap();
    let pool_key = format!("{}ippools/default-ipv4-ippool", key::RESOURCE_ROOT);
    etcd.store.commit(Txn::new().remove(pool_key)).await.unwrap();
    let sentence = refusal(&node, V4).await;
    assert!(sentence.contains("no enabled IPv4 pool"), "{sentence}");
    node.stop(&container).await.unwrap();
    assert_eq!(crate::node::allocated(&etcd.store).await, [""; 0]);
    pool(&etcd.store, "new", &json!({"cidr": "10.50.0.0/24", "blockSize": 28})).await;
    assert!(success(&node, V4).await.starts_with("10.50.0."));
}
