//! A store in memory: for tests, and to try things at a desk. Nothing survives it.

use super::draft::Draft;
use super::mirror::{Mirror, Publisher, mirror};
use super::state::State;
use super::{Entry, Event, Listing, Revision, Store, StoreError, Txn};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::sync::{Mutex, PoisonError};

/// A store in memory, with the semantics of the others. Each call lets other tasks run first, as a call over a
/// network would, so that races show in tests on one thread.
#[derive(Debug)]
pub struct MemoryStore {
    mirror: Mirror,
    /// Makes commits one at a time.
    publisher: Mutex<Publisher>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store, at revision 0.
    #[must_use]
    pub fn new() -> Self {
        let (publisher, mirror) = mirror(State::default());
        Self { mirror, publisher: Mutex::new(publisher) }
    }

    /// Forgets the history, as an etcd operator's compaction does: watches that have not seen every change yet end
    /// with [`StoreError::Compacted`].
    pub fn compact(&self) {
        self.publisher.lock().unwrap_or_else(PoisonError::into_inner).compact();
    }

    fn apply(&self, txn: Txn) -> Result<Revision, StoreError> {
        let mut publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, changes) = {
            let state = publisher.state();
            let mut draft = Draft::new(&state);
            (draft.add(txn)?, draft.finish())
        };
        publisher.publish(changes);
        Ok(revision)
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        tokio::task::yield_now().map(|()| Ok(self.mirror.get(key))).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        tokio::task::yield_now().map(|()| Ok(self.mirror.list(prefix))).boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        tokio::task::yield_now().map(|()| self.apply(txn)).boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        self.mirror.watch(prefix, from)
    }
}
