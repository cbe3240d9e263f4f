//! A state that many read and watch while one writes. Reads never wait for a disk: they are lookups under a lock
//! that the writer holds only while it moves finished changes in. A watcher is a cursor into the state's history, so
//! a slow one costs nothing and blocks nobody; when the history moves past its cursor it is told so.

use super::draft::Changes;
use super::state::State;
use super::{Entry, Event, Listing, Revision, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;

/// The reading side; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Mirror {
    /// Guards the keys and their history, which change together. Nothing panics while it is held for writing, so a
    /// poisoned lock is still sound.
    state: Arc<RwLock<State>>,
    /// Tells watchers of each new revision; closes with the [`Publisher`].
    revision: watch::Receiver<Revision>,
}

/// The writing side; there is one. Watches end when it is dropped.
#[derive(Debug)]
pub(super) struct Publisher {
    state: Arc<RwLock<State>>,
    revision: watch::Sender<Revision>,
}

/// Both sides of a state.
pub(super) fn mirror(state: State) -> (Publisher, Mirror) {
    let (sender, receiver) = watch::channel(state.revision());
    let state = Arc::new(RwLock::new(state));
    (Publisher { state: Arc::clone(&state), revision: sender }, Mirror { state, revision: receiver })
}

impl Publisher {
    /// The state, for the length of a short look. Nobody else changes it in between: the publisher is the writer.
    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes changes visible to readers and watchers.
    pub(super) fn publish(&mut self, changes: Changes) {
        let revision = changes.revision;
        if changes.events.is_empty() {
            return;
        }
        self.change(|state| state.apply(changes.events, revision));
    }

    /// Makes changes visible to watchers, and to readers those that `keep` picks.
    pub(super) fn publish_some(
        &mut self,
        events: Vec<Event>,
        revision: Revision,
        keep: impl FnMut(&Entry) -> bool,
    ) {
        self.change(|state| state.apply_some(events, revision, keep));
    }

    /// Drops the keys that `keep` does not pick.
    pub(super) fn retain(&mut self, keep: impl FnMut(&str, &Bytes) -> bool) {
        self.change(|state| state.retain(keep));
    }

    /// Puts another state in place, whose history starts anew.
    pub(super) fn replace(&mut self, state: State) {
        self.change(|old| *old = state);
    }

    /// Forgets the history.
    pub(super) fn compact(&mut self) {
        self.change(State::compact);
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let revision = state.revision();
        drop(state);
        self.revision.send_replace(revision);
    }
}

impl Mirror {
    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.read().get(key)
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        self.read().list(prefix)
    }

    /// Revision of the last change.
    pub(super) fn revision(&self) -> Revision {
        self.read().revision()
    }

    pub(super) fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> BoxStream<'static, Result<Event, StoreError>> {
        let watcher = Watcher {
            mirror: self.clone(),
            prefix: prefix.to_owned(),
            seen: from,
            ready: VecDeque::new(),
            ended: false,
        };
        stream::unfold(watcher, |mut watcher| async move { Some((watcher.next().await?, watcher)) }).boxed()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One watch: how far it has got, and what it has taken but not delivered yet (never more than the history holds).
struct Watcher {
    mirror: Mirror,
    prefix: String,
    /// Everything up to here is delivered or in `ready`.
    seen: Revision,
    ready: VecDeque<Event>,
    ended: bool,
}

impl Watcher {
    /// The next change; `None` after an error.
    async fn next(&mut self) -> Option<Result<Event, StoreError>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            // Marked as seen before looking, so that a change made between the look and the wait wakes it.
            self.mirror.revision.mark_unchanged();
            if let Err(error) = self.take() {
                self.ended = true;
                return Some(Err(error));
            }
            if self.ready.is_empty() && self.mirror.revision.changed().await.is_err() {
                self.ended = true;
                return Some(Err(StoreError::Unavailable {
                    why: "its changes are not followed any more".to_owned(),
                }));
            }
        }
    }

    fn take(&mut self) -> Result<(), StoreError> {
        let state = self.mirror.state.read().unwrap_or_else(PoisonError::into_inner);
        self.ready = state.since(&self.prefix, self.seen)?;
        self.seen = self.seen.max(state.revision());
        Ok(())
    }
}
