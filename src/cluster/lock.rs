//! The datastore's lock: `datastoreReady: false` in ClusterInformation says that the data is being moved
//! (`calicoctl datastore migrate lock`). Whoever behaves writes nothing then; Felix holds still, too.

use super::singletons::is_ready;
use crate::model::{ClusterInformationSpec, key};
use crate::store::{Entry, Event, Listing, Revision, SharedStore, Store, StoreError, Txn};
use crate::task::Backoff;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a write waits for the lock to go, so that a call of Docker still fails before its deadline.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pauses after the watch broke.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

fn information() -> String {
    key::resource::<ClusterInformationSpec>("default")
}

/// Follows the lock.
#[derive(Debug, Clone)]
pub struct DatastoreLock {
    store: SharedStore,
    ready: Arc<watch::Sender<bool>>,
}

impl DatastoreLock {
    /// Of this datastore; open until something else is read.
    #[must_use]
    pub fn new(store: SharedStore) -> Self {
        Self { store, ready: Arc::new(watch::channel(true).0) }
    }

    /// Whether the datastore may be written.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The datastore, whose writes wait while it is locked, and then fail with a sentence. The lock itself can be
    /// written always, for somebody must open it.
    #[must_use]
    pub fn guard(&self) -> SharedStore {
        Arc::new(GuardedStore { inner: self.store.clone(), ready: self.ready() })
    }

    /// Reads the lock.
    ///
    /// # Errors
    /// The datastore cannot be read.
    pub async fn read(&self) -> Result<(), StoreError> {
        let entry = self.store.get(&information()).await?;
        self.note(entry.as_ref());
        Ok(())
    }

    /// Follows it for ever. Of several followers of one lock each may end at any time.
    pub async fn follow(self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.follow_once(&mut backoff).await {
                Ok(()) | Err(StoreError::Compacted { .. }) => {}
                Err(error) => log::debug!("the datastore's lock is not followed for a moment: {error}"),
            }
            backoff.pause().await;
        }
    }

    async fn follow_once(&self, backoff: &mut Backoff) -> Result<(), StoreError> {
        let key = information();
        let listing = self.store.list(&key).await?;
        self.note(listing.entries.iter().find(|entry| entry.key == key));
        let mut changes = self.store.watch(&key, listing.revision);
        while let Some(change) = changes.next().await {
            match change? {
                Event::Put(entry) if entry.key == key => self.note(Some(&entry)),
                Event::Delete { key: gone, .. } if gone == key => self.note(None),
                Event::Put(_) | Event::Delete { .. } => {}
            }
            backoff.reset();
        }
        Ok(())
    }

    fn note(&self, entry: Option<&Entry>) {
        let ready = entry.is_none_or(is_ready);
        self.ready.send_if_modified(|was| {
            let changed = *was != ready;
            match (changed, ready) {
                (true, true) => log::info!("the datastore is unlocked: writes go on"),
                (true, false) => log::warn!("{}", sentence()),
                (false, _) => {}
            }
            *was = ready;
            changed
        });
    }
}

fn sentence() -> String {
    "the datastore is locked (datastoreReady of ClusterInformation is false, as while data is migrated): nothing is \
     written until it is unlocked"
        .to_owned()
}

#[derive(Debug)]
struct GuardedStore {
    inner: SharedStore,
    ready: watch::Receiver<bool>,
}

impl GuardedStore {
    async fn wait(&self, txn: &Txn) -> Result<(), StoreError> {
        let mut ready = self.ready.clone();
        if *ready.borrow() || (!txn.ops.is_empty() && txn.ops.iter().all(|op| op.key() == information())) {
            return Ok(());
        }
        match tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable { why: sentence() }),
        }
    }
}

impl Store for GuardedStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        self.inner.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.inner.list(prefix)
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async move {
            self.wait(&txn).await?;
            self.inner.commit(txn).await
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        self.inner.watch(prefix, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use serde_json::json;

    fn locked(ready: bool) -> Txn {
        let value = json!({"kind": "ClusterInformation", "metadata": {"name": "default"}, "spec": {"datastoreReady": ready}});
        Txn::new().put(information(), value.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn writes_wait_fail_and_go_on_with_the_lock() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let lock = DatastoreLock::new(store.clone());
        let guarded = lock.guard();
        let following = tokio::spawn(lock.clone().follow());
        let mut ready = lock.ready();
        let write = || guarded.commit(Txn::new().put("/calico/x", "1"));

        write().await.unwrap();
        store.commit(locked(false)).await.unwrap();
        ready.wait_for(|ready| !*ready).await.unwrap();
        let refused = write().await.unwrap_err().to_string();
        assert!(refused.contains("datastoreReady of ClusterInformation is false"), "{refused}");
        assert!(guarded.get("/calico/x").await.unwrap().is_some(), "reads go on");

        // One that waits goes on as soon as somebody opens the lock, which can be written always.
        let (waited, opened) = tokio::join!(write(), guarded.commit(locked(true)));
        opened.unwrap();
        waited.unwrap();
        following.abort();
    }

    #[tokio::test]
    async fn a_cluster_without_information_is_not_locked() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let lock = DatastoreLock::new(store.clone());
        lock.read().await.unwrap();
        assert!(*lock.ready().borrow());
        store.commit(Txn::new().put(information(), "no JSON")).await.unwrap();
        lock.read().await.unwrap();
        assert!(*lock.ready().borrow(), "what cannot be read says nothing");
        store.commit(locked(false)).await.unwrap();
        lock.read().await.unwrap();
        assert!(!*lock.ready().borrow());
    }
}
