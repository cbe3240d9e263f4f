//! The datastore, followed: everything listed once, then every change; listed again after a gap.

use super::view::View;
use crate::store::{Entry, Event, SharedStore, StoreError};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};

/// See the module.
pub(super) struct Feed {
    store: SharedStore,
    changes: Option<SelectAll<BoxStream<'static, Result<Event, StoreError>>>>,
}

impl Feed {
    pub(super) fn new(store: SharedStore) -> Self {
        Self { store, changes: None }
    }

    /// Lists everything, and watches from there.
    pub(super) async fn list(&mut self) -> Result<Vec<Entry>, StoreError> {
        self.changes = None;
        let (mut entries, mut changes) = (Vec::new(), SelectAll::new());
        for prefix in View::prefixes() {
            let listing = self.store.list(&prefix).await?;
            changes.push(self.store.watch(&prefix, listing.revision));
            entries.extend(listing.entries);
        }
        self.changes = Some(changes);
        Ok(entries)
    }

    /// Whether changes are told.
    pub(super) fn is_open(&self) -> bool {
        self.changes.is_some()
    }

    /// The next change. After an error, or `None`, everything must be listed again.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, StoreError> {
        let Some(changes) = &mut self.changes else { return std::future::pending().await };
        let event = changes.next().await.transpose();
        if !matches!(event, Ok(Some(_))) {
            self.changes = None;
        }
        event
    }
}
