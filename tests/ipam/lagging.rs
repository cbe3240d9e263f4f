//! One node's cache of the datastore: it answers with what was true a while ago.

use crate::double::Double;
use calico_libnetwork::store::{Entry, Event, Listing, Revision, Store, StoreError, Txn};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Reads come from a view that is brought up to date now and then, and whenever a commit has shown that it is stale.
#[derive(Debug)]
pub(crate) struct Lagging {
    inner: Arc<Double>,
    view: Mutex<Listing>,
    /// Decides when the view is refreshed: the same for the same seed.
    seed: AtomicU64,
    /// Commits that failed because of what had been read.
    pub(crate) stale: AtomicU64,
}

impl Lagging {
    pub(crate) fn new(inner: Arc<Double>, seed: u64) -> Arc<Self> {
        let view = Mutex::new(inner.listing());
        Arc::new(Self {
            inner,
            view,
            seed: AtomicU64::new(seed.wrapping_mul(2) + 1),
            stale: AtomicU64::new(0),
        })
    }

    fn refresh(&self) {
        *self.view.lock().unwrap() = self.inner.listing();
    }

    /// One read in sixteen hears of what the watch has told.
    fn maybe_refresh(&self) {
        let number = self.seed.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        if (number ^ (number >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 60 == 0 {
            self.refresh();
        }
    }
}

impl Store for Lagging {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move {
            tokio::task::yield_now().await;
            self.maybe_refresh();
            Ok(self.view.lock().unwrap().entries.iter().find(|entry| entry.key == key).cloned())
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        async move {
            tokio::task::yield_now().await;
            self.maybe_refresh();
            let view = self.view.lock().unwrap();
            let entries =
                view.entries.iter().filter(|entry| entry.key.starts_with(prefix)).cloned().collect();
            Ok(Listing { entries, revision: view.revision })
        }
        .boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async move {
            let done = self.inner.commit(txn).await;
            if done.as_ref().is_err_and(StoreError::is_conflict) {
                self.stale.fetch_add(1, Ordering::Relaxed);
                self.refresh();
            }
            done
        }
        .boxed()
    }

    fn watch(&self, _: &str, _: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        futures::stream::pending().boxed()
    }
}
