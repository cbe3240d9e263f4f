//! The datastore backends: one conformance suite for all of them, and what only a file can suffer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy only knows functions marked as tests"
)]

#[path = "support/store_suite.rs"]
mod suite;

#[path = "support/store_file.rs"]
mod file;

#[path = "support/etcd.rs"]
mod server;

#[path = "support/store_etcd.rs"]
mod etcd;

#[path = "support/store_replica.rs"]
mod replica;

use calico_libnetwork::store::{EmbeddedStore, MemoryStore, Store, Txn};
use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use std::sync::Arc;
use suite::{Backend, Step};
use tempfile::TempDir;

struct Memory(Arc<MemoryStore>);

impl Backend for Memory {
    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    fn forget_history(&self) -> BoxFuture<'_, ()> {
        async { self.0.compact() }.boxed()
    }

    fn drops_slow_watchers(&self) -> bool {
        true
    }
}

conformance!(memory, Some(Memory(Arc::new(MemoryStore::new()))));

struct Embedded {
    store: Arc<EmbeddedStore>,
    _folder: TempDir,
}

impl Embedded {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("state.redb")).unwrap();
        Self { store: Arc::new(store), _folder: folder }
    }
}

impl Backend for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn forget_history(&self) -> BoxFuture<'_, ()> {
        // More changes than the history holds.
        async {
            for _ in 0..=4096 / Txn::MAX_OPS {
                let txn = (0..Txn::MAX_OPS).fold(Txn::new(), |txn, n| txn.put(format!("/fill/{n}"), "x"));
                self.store.commit(txn).await.unwrap();
            }
        }
        .boxed()
    }

    fn drops_slow_watchers(&self) -> bool {
        true
    }
}

conformance!(embedded, Some(Embedded::new()));

impl Backend for server::Etcd {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn forget_history(&self) -> BoxFuture<'_, ()> {
        self.compact().boxed()
    }

    fn drops_slow_watchers(&self) -> bool {
        false
    }
}

conformance!(etcd_server, server::Etcd::start().await);

conformance!(replica_of_memory, Some(replica::Replica::new().await));

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let key = 0..4_u8;
    let step = prop_oneof![
        1 => key.clone().prop_map(Step::Absent),
        2 => (key.clone(), prop_oneof![4 => Just(0_i8), 1 => -2..3_i8]).prop_map(|(key, off)| Step::At(key, off)),
        4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key.prop_map(Step::Delete),
    ];
    prop::collection::vec(prop::collection::vec(step, 0..5), 1..30)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn random_transactions_on_memory_behave_as_the_oracle(txns in steps()) {
        runtime().block_on(suite::behaves_as_the_oracle(&MemoryStore::new(), "/", &txns));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn random_transactions_on_a_file_behave_as_the_oracle_and_survive(txns in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        runtime().block_on(async {
            let store = EmbeddedStore::open(&path).unwrap();
            suite::behaves_as_the_oracle(&store, "/first/", &txns).await;
            let before = store.list("").await.unwrap();
            drop(store);
            let store = EmbeddedStore::open(&path).unwrap();
            assert_eq!(store.list("").await.unwrap(), before);
            suite::behaves_as_the_oracle(&store, "/second/", &txns).await;
        });
    }
}

#[test]
fn random_transactions_on_etcd_behave_as_the_oracle() {
    let runtime = runtime();
    let Some(etcd) = runtime.block_on(server::Etcd::start()) else { return };
    let round = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(40)
    });
    let result = runner.run(&steps(), |txns| {
        round.set(round.get() + 1);
        let prefix = format!("/{}/", round.get());
        runtime.block_on(suite::behaves_as_the_oracle(&etcd.store, &prefix, &txns));
        Ok(())
    });
    result.unwrap();
}
