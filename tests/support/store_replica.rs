//! The replica in front of a store in memory, in all weathers.

use super::suite::Backend;
use calico_libnetwork::store::faulty::{Fault, Verb};
use calico_libnetwork::store::replica::{Region, Spill};
use calico_libnetwork::store::{FaultyStore, MemoryStore, ReplicaStore, Revision, Store, StoreError, Txn};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

type Inner = FaultyStore<MemoryStore>;

pub(crate) struct Replica {
    store: Arc<ReplicaStore>,
}

fn region(root: &str, kept: &[&str]) -> Region {
    let kept = kept.iter().map(|prefix| (*prefix).to_owned()).collect();
    Region { root: root.to_owned(), kept, spill: None, budget: 1 << 30 }
}

impl Replica {
    pub(crate) async fn new() -> Self {
        let store = ReplicaStore::start(Arc::new(MemoryStore::new()), vec![region("/", &["/"])]);
        store.in_step().await;
        Self { store: Arc::new(store) }
    }
}

impl Backend for Replica {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn forget_history(&self) -> BoxFuture<'_, ()> {
        async {
            // More changes than the history holds, until the replica has been told of them.
            loop {
                for _ in 0..16 {
                    let txn = (0..Txn::MAX_OPS).fold(Txn::new(), |txn, n| txn.put(format!("/fill/{n}"), "x"));
                    self.store.commit(txn).await.unwrap();
                }
                self.store.list("/").await.unwrap();
                let first = timeout(Duration::from_secs(5), self.store.watch("/", Revision(0)).next()).await;
                if matches!(first, Ok(Some(Err(StoreError::Compacted { .. })))) {
                    break;
                }
            }
            // The next changes are too small to push another of the large ones out.
            self.store.commit(Txn::new().put("/fill/last", "x")).await.unwrap();
            self.store.list("/").await.unwrap();
        }
        .boxed()
    }

    fn drops_slow_watchers(&self) -> bool {
        true
    }
}

/// A replica of `/kept/` and what stands behind it.
async fn faulty() -> (Arc<Inner>, ReplicaStore) {
    let inner = Arc::new(FaultyStore::new(MemoryStore::new()));
    let store = ReplicaStore::start(inner.clone(), vec![region("/", &["/kept/"])]);
    store.in_step().await;
    (inner, store)
}

fn reads(inner: &Inner) -> u64 {
    inner.calls(Verb::Get) + inner.calls(Verb::List)
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_read_from_memory_and_what_is_not_from_the_store() {
    let (inner, store) = faulty().await;
    store.commit(Txn::new().put("/kept/a", "1").put("/other", "1")).await.unwrap();
    let before = reads(&inner);
    assert_eq!(store.get("/kept/a").await.unwrap().unwrap().value, "1");
    assert_eq!(store.get("/kept/b").await.unwrap(), None);
    assert_eq!(store.list("/kept/").await.unwrap().entries.len(), 1);
    assert_eq!(reads(&inner), before, "nothing was asked for");
    assert!(store.get("/other").await.unwrap().is_some());
    assert_eq!(store.list("/").await.unwrap().entries.len(), 2);
    assert_eq!(reads(&inner), before + 2);
}

#[tokio::test(start_paused = true)]
async fn own_changes_are_read_at_once_though_the_watch_is_silent() {
    let inner = Arc::new(FaultyStore::new(MemoryStore::new()));
    inner.fail_always(Verb::Watch, Fault::Hang);
    let store = ReplicaStore::start(inner.clone(), vec![region("/", &["/kept/"])]);
    store.in_step().await;
    let first = store.commit(Txn::new().create("/kept/a", "1").create("/kept/b", "1")).await.unwrap();
    let entry = store.get("/kept/a").await.unwrap().unwrap();
    assert_eq!((entry.revision, entry.value), (first, "1".into()));
    let second =
        store.commit(Txn::new().update("/kept/a", first, "2").delete("/kept/b", first)).await.unwrap();
    assert_eq!(store.get("/kept/a").await.unwrap().unwrap().revision, second);
    assert_eq!(store.get("/kept/b").await.unwrap(), None);
    let listed = store.list("/kept/").await.unwrap();
    assert_eq!((listed.entries.len(), listed.revision), (1, second), "a list is of one revision");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_tells_nothing_is_not_believed_for_long() {
    let inner = Arc::new(FaultyStore::new(MemoryStore::new()));
    inner.fail(Verb::Watch, 1, Fault::Hang);
    let store = ReplicaStore::start(inner.clone(), vec![region("/", &["/kept/"])]);
    store.in_step().await;
    // Somebody else's change, of which the dead watch says nothing.
    inner.inner().commit(Txn::new().put("/kept/theirs", "1")).await.unwrap();
    assert_eq!(store.get("/kept/theirs").await.unwrap(), None, "nobody can know yet");
    store.commit(Txn::new().put("/elsewhere", "1")).await.unwrap();
    let found = async {
        while store.get("/kept/theirs").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(4), found)
        .await
        .expect("our own change did not come back, so the watch is dead");
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_lost_once() {
    let inner = Arc::new(FaultyStore::new(MemoryStore::new()));
    inner.fail_always(Verb::Watch, Fault::Hang);
    let first = inner.inner().commit(Txn::new().put("/kept/a", "1").put("/kept/gone", "1")).await.unwrap();
    let store = ReplicaStore::start(inner.clone(), vec![region("/", &["/kept/"])]);
    store.in_step().await;
    inner.inner().commit(Txn::new().put("/kept/a", "theirs").remove("/kept/gone")).await.unwrap();
    for key in ["/kept/a", "/kept/gone"] {
        let known = store.get(key).await.unwrap().unwrap();
        assert_eq!(known.revision, first);
        let lost = store.commit(Txn::new().update(key, known.revision, "mine")).await.unwrap_err();
        assert!(lost.is_conflict());
        let before = reads(&inner);
        let known = store.get(key).await.unwrap();
        assert_eq!(reads(&inner), before, "it was read again already");
        store.commit(Txn::new().upsert(key, known.map(|known| known.revision), "mine")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_in_doubt_is_asked_for() {
    let (inner, store) = faulty().await;
    inner.fail(Verb::Commit, 1, Fault::AppliedThenUnavailable);
    inner.cut_watches();
    inner.fail_always(Verb::Watch, Fault::Hang);
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.in_step().await;
    inner.fail(Verb::Commit, 1, Fault::AppliedThenUnavailable);
    store.commit(Txn::new().put("/kept/a", "1")).await.unwrap_err();
    assert!(store.get("/kept/a").await.unwrap().is_some(), "it may have been applied, so the store is asked");
    assert_eq!(store.list("/kept/").await.unwrap().entries.len(), 1);
    // A caller that gives up leaves the same doubt.
    inner.fail(Verb::Commit, 1, Fault::Delay(Duration::from_secs(60)));
    let given_up = timeout(Duration::from_secs(1), store.commit(Txn::new().put("/kept/b", "1"))).await;
    assert!(given_up.is_err());
    let before = reads(&inner);
    assert_eq!(store.get("/kept/b").await.unwrap(), None);
    assert_eq!(reads(&inner), before + 1);
}

#[tokio::test(start_paused = true)]
async fn while_it_is_not_followed_everything_is_asked_for_and_watchers_are_told() {
    let (inner, store) = faulty().await;
    let revision = store.commit(Txn::new().put("/kept/a", "1")).await.unwrap();
    let mut events = store.watch("/kept/", Revision(0));
    assert_eq!(events.next().await.unwrap().unwrap().revision(), revision);
    inner.fail_always(Verb::List, Fault::Unavailable);
    inner.cut_watches();
    let ended = events.next().await.unwrap().unwrap_err();
    assert!(matches!(ended, StoreError::Unavailable { .. }), "{ended}");
    let before = reads(&inner);
    assert!(store.get("/kept/a").await.unwrap().is_some());
    assert_eq!(reads(&inner), before + 1);
    assert!(store.list("/kept/").await.is_err(), "an answer from memory would hide the outage");
    inner.heal();
    timeout(Duration::from_secs(60), store.in_step()).await.expect("it gets in step again");
    let before = reads(&inner);
    assert!(store.get("/kept/a").await.unwrap().is_some());
    assert_eq!(reads(&inner), before);
}

#[tokio::test(start_paused = true)]
async fn too_much_is_given_up_but_for_what_is_this_nodes() {
    let inner = Arc::new(FaultyStore::new(MemoryStore::new()));
    let spill = Spill { prefix: "/kept/".to_owned(), unless: "mine".to_owned() };
    let region = Region { spill: Some(spill), budget: 1000, ..region("/", &["/kept/", "/small/"]) };
    let store = ReplicaStore::start(inner.clone(), vec![region]);
    store.in_step().await;
    let value = |who: &str| format!("{}{who}", "x".repeat(100));
    store.commit(Txn::new().put("/kept/0", value("mine")).put("/small/a", "1")).await.unwrap();
    for n in 1..30 {
        inner.inner().commit(Txn::new().put(format!("/kept/{n}"), value("theirs"))).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let before = reads(&inner);
    assert!(store.get("/kept/0").await.unwrap().is_some());
    assert!(store.get("/small/a").await.unwrap().is_some());
    assert_eq!(store.get("/small/b").await.unwrap(), None);
    assert_eq!(reads(&inner), before);
    assert!(store.get("/kept/7").await.unwrap().is_some(), "given up, not forgotten");
    assert_eq!(store.list("/kept/").await.unwrap().entries.len(), 30);
    assert_eq!(reads(&inner), before + 2);
}
