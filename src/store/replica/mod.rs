//! A store in front of another one that answers what is read often from memory.
//!
//! ```text
//! get of what is kept       -> overlay, then mirror         (not in step, or in doubt: the datastore)
//! list of what is kept      -> mirror, once it has caught up with the overlay
//! commit                    -> the datastore -> overlay: we read what we wrote before the watch tells
//! watch below a root        -> the mirror's history: one connection to the datastore however many watch
//!        follow: list, watch, list again after a gap -> mirror
//! ```
//!
//! What is read here may be behind by as long as the watch takes, which is milliseconds. Blocks, claims and handles are
//! only changed under a guard on the revision that was read, so being behind costs a conflict and nothing else; the key
//! of a conflict is read again before the caller tries again. What is used without a guard (pools, reservations, IPAM
//! configuration, nodes) can be behind for longer only if the watch died silently: a change of our own that does not
//! come back within seconds ends that, a probe of the idle connection ends it in nine. After that the
//! datastore itself is asked until the watch is back. An operator's change of a pool taking so long is what a change
//! on another node may take as well.

mod follow;
mod overlay;
mod region;

pub use region::{Region, Spill};

use super::{Entry, Event, Listing, Op, Revision, SharedStore, Store, StoreError, Txn};
use crate::task::Task;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use region::{Answer, Part};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a list waits for the watch before it asks the datastore.
const PATIENCE: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub struct ReplicaStore {
    inner: SharedStore,
    parts: Vec<Arc<Part>>,
    _followers: Vec<Task<Infallible>>,
}

impl ReplicaStore {
    /// Begins to follow the regions, whose roots must not overlap. Returns at once; until a region is in step it is read
    /// from `inner`.
    #[must_use]
    pub fn start(inner: SharedStore, regions: Vec<Region>) -> Self {
        let parts: Vec<Arc<Part>> = regions.into_iter().map(Part::new).map(Arc::new).collect();
        let follow = |part: &Arc<Part>| Task::spawn(follow::follow(inner.clone(), part.clone()));
        Self { _followers: parts.iter().map(follow).collect(), inner, parts }
    }

    /// Waits until every region is in step.
    pub async fn in_step(&self) {
        for part in &self.parts {
            // The sender lives as long as the part.
            let _ = part.in_step.subscribe().wait_for(|in_step| *in_step).await;
        }
    }

    async fn apply(&self, txn: Txn) -> Result<Revision, StoreError> {
        let changes: Vec<(String, Option<Bytes>)> = txn.ops.iter().map(change).collect();
        let mut doubt = Doubt { store: self, keys: changes.iter().map(|(key, _)| key.clone()).collect() };
        let answer = self.inner.commit(txn).await;
        match &answer {
            Ok(revision) => {
                doubt.keys.clear();
                let now = Instant::now();
                self.parts.iter().for_each(|part| part.wrote(&changes, *revision, now));
            }
            Err(StoreError::Conflict { key }) => {
                doubt.keys.clear();
                self.reread(key).await;
            }
            Err(StoreError::Invalid { .. } | StoreError::Corrupt { .. } | StoreError::Compacted { .. }) => {
                doubt.keys.clear();
            }
            Err(StoreError::Unavailable { .. }) => {}
        }
        answer
    }

    /// Reads a key again that was not what memory has it for.
    async fn reread(&self, key: &str) {
        let Some(part) = self.parts.iter().find(|part| part.keeps(key)) else { return };
        // A list, not a get: it tells the revision also of what does not exist.
        match self.inner.list(key).await {
            Ok(listing) => {
                let found = listing.entries.iter().find(|entry| entry.key == key);
                part.reread(key, found, listing.revision);
            }
            Err(error) => {
                log::debug!("{key} is not read again: {error}");
                part.doubt(&[key.to_owned()], Instant::now());
            }
        }
    }
}

/// A list from memory, once the watch has told what we know; `None` if the datastore has to be asked.
async fn list(part: &Part, prefix: &str) -> Option<Listing> {
    let deadline = Instant::now() + PATIENCE;
    let mut told = part.told.subscribe();
    loop {
        told.mark_unchanged();
        match part.list(prefix, Instant::now()) {
            Answer::Known(listing) => return Some(listing),
            Answer::Ask => return None,
            Answer::Wait => match timeout_at(deadline, told.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            },
        }
    }
}

fn change(op: &Op) -> (String, Option<Bytes>) {
    match op {
        Op::Put(key, bytes) => (key.clone(), Some(bytes.clone())),
        Op::Delete(key) => (key.clone(), None),
    }
}

/// Keys that are being changed: in doubt, if the answer does not come or the caller does not wait for it.
struct Doubt<'a> {
    store: &'a ReplicaStore,
    keys: Vec<String>,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.keys.is_empty() {
            let now = Instant::now();
            self.store.parts.iter().for_each(|part| part.doubt(&self.keys, now));
        }
    }
}

impl Store for ReplicaStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        let now = Instant::now();
        for part in &self.parts {
            if let Answer::Known(found) = part.get(key, now) {
                return futures::future::ready(Ok(found)).boxed();
            }
        }
        self.inner.get(key)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        async move {
            for part in &self.parts {
                if let Some(found) = list(part, prefix).await {
                    return Ok(found);
                }
            }
            self.inner.list(prefix).await
        }
        .boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.apply(txn).boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        let mirror = self.parts.iter().find_map(|part| part.watched(prefix));
        mirror.map_or_else(|| self.inner.watch(prefix, from), |mirror| mirror.watch(prefix, from))
    }
}
