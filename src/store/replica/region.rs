//! One part of the key space: what is kept of it, and what can be answered from memory.

use super::overlay::Overlay;
use crate::store::mirror::{Mirror, Publisher, mirror};
use crate::store::state::{HistoryLimits, State, Value};
use crate::store::{Entry, Event, Listing, Revision};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Changes that a watcher of the replica may lag behind. One that lags more lists again.
const HISTORY: HistoryLimits = HistoryLimits { events: 1024, bytes: 4 * 1024 * 1024 };

/// How long one of our own changes may be on its way back to us: the datastore tells within milliseconds. Later than
/// that the watch is not taken for alive.
const ECHO: Duration = Duration::from_secs(3);

/// What one watch follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The prefix that is watched.
    pub root: String,
    /// Prefixes below it, or single keys, whose values are kept in memory.
    pub kept: Vec<String>,
    /// What is given up when the kept values are too many.
    pub spill: Option<Spill>,
    /// Bytes of keys and values that are kept at most before that.
    pub budget: usize,
}

/// Values of which only some stay in memory when there are too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spill {
    /// One of [`Region::kept`].
    pub prefix: String,
    /// The values that contain this text stay.
    pub unless: String,
}

impl Region {
    fn keeps(&self, key: &str) -> bool {
        self.kept.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    fn spills(&self, key: &str, value: &[u8]) -> bool {
        self.spill.as_ref().is_some_and(|spill| {
            let unless = spill.unless.as_bytes();
            key.starts_with(&spill.prefix)
                && !value.windows(unless.len().max(1)).any(|window| window == unless)
        })
    }
}

/// An answer from memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// This is how it stands.
    Known(T),
    /// The watch is about to tell what we know already: wait for it.
    Wait,
    /// The datastore has to be asked.
    Ask,
}

/// A region as it is followed.
#[derive(Debug)]
pub(super) struct Part {
    region: Region,
    /// What the watch has told; `None` while it is not followed. Held to look only.
    live: RwLock<Option<Live>>,
    /// What is known beyond that. It is looked at before `live`: a change that has left it is in `live` already.
    overlay: Mutex<Overlay>,
    /// Wakes who waits for own changes to come back.
    pub(super) written: Notify,
    /// Wakes who waits for the watch to catch up.
    pub(super) told: tokio::sync::watch::Sender<()>,
    /// Tells whether it is in step.
    pub(super) in_step: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Clone)]
struct Live {
    mirror: Mirror,
    /// Whether values were given up.
    partial: bool,
}

/// The writing side of a region in step; there is one.
#[derive(Debug)]
pub(super) struct Follower {
    publisher: Publisher,
    size: usize,
    partial: bool,
}

impl Part {
    pub(super) fn new(region: Region) -> Self {
        Self {
            region,
            live: RwLock::new(None),
            overlay: Mutex::default(),
            written: Notify::new(),
            told: tokio::sync::watch::Sender::new(()),
            in_step: tokio::sync::watch::Sender::new(false),
        }
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// Everything is going to be listed.
    pub(super) fn restart(&self) {
        self.overlay().restart();
    }

    /// Begins with what was listed since [`Self::restart`].
    pub(super) fn begin(&self, listings: Vec<Listing>) -> Follower {
        let revision = listings.iter().map(|listing| listing.revision).min().unwrap_or_default();
        let entries = listings.into_iter().flat_map(|listing| listing.entries);
        let keys: BTreeMap<String, Value> = entries
            .map(|entry| (entry.key, Value { revision: entry.revision, bytes: entry.value }))
            .collect();
        let (publisher, mirror) = mirror(State::new(keys, revision).limited(HISTORY));
        let mut follower = Follower { publisher, size: 0, partial: false };
        self.overlay().rebase(revision);
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(Live { mirror, partial: false });
        self.weigh(&mut follower);
        self.in_step.send_replace(true);
        follower
    }

    /// Takes over what the watch told, in order and in whole revisions.
    pub(super) fn apply(&self, follower: &mut Follower, events: Vec<Event>) {
        let Some(revision) = events.last().map(Event::revision) else { return };
        let exists = |event: &Event| matches!(event, Event::Put(_));
        let told: Vec<(String, Revision, bool)> =
            events.iter().map(|event| (event.key().to_owned(), event.revision(), exists(event))).collect();
        let Follower { publisher, size, partial } = follower;
        publisher.publish_some(events, revision, |entry| {
            let keep =
                self.region.keeps(&entry.key) && !(*partial && self.region.spills(&entry.key, &entry.value));
            if keep {
                *size = size.saturating_add(entry.key.len()).saturating_add(entry.value.len());
            }
            keep
        });
        let told = told.iter().map(|(key, revision, exists)| (key.as_str(), *revision, *exists));
        self.overlay().told(told, revision);
        self.told.send_replace(());
        if follower.size > self.region.budget {
            self.weigh(follower);
        }
    }

    /// Measures what is kept, and gives values up if it is too much.
    fn weigh(&self, follower: &mut Follower) {
        let measure = |follower: &Follower| {
            let state = follower.publisher.state();
            state.keys().iter().map(|(key, value)| key.len().saturating_add(value.bytes.len())).sum()
        };
        follower.size = measure(follower);
        if follower.size <= self.region.budget || follower.partial || self.region.spill.is_none() {
            return;
        }
        log::info!("{} is too large to be kept in memory; only this node's part of it is", self.region.root);
        // Told first: a key that is gone from memory must not be taken for one that does not exist.
        if let Some(live) = self.live.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            live.partial = true;
        }
        follower.partial = true;
        follower.publisher.retain(|key, value| !self.region.spills(key, value));
        follower.size = measure(follower);
    }

    /// The watch is broken: everything is read from the datastore until the region is in step again.
    pub(super) fn lose(&self) {
        self.in_step.send_replace(false);
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.told.send_replace(());
    }

    /// When the watch has to have told of our oldest change that it has not told yet.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.overlay().oldest_echo().map(|since| since + ECHO)
    }

    /// One key.
    pub(super) fn get(&self, key: &str, now: Instant) -> Answer<Option<Entry>> {
        if !self.region.keeps(key) {
            return Answer::Ask;
        }
        let own = {
            let overlay = self.overlay();
            if overlay.doubts(key, now) {
                return Answer::Ask;
            }
            overlay.get(key)
        };
        let Some(live) = self.live() else { return Answer::Ask };
        match (own, live.mirror.get(key)) {
            (Some((revision, own)), Some(told)) if revision >= told.revision => Answer::Known(own),
            (_, Some(told)) => Answer::Known(Some(told)),
            (Some((_, own)), None) => Answer::Known(own),
            (None, None) if live.partial && self.may_have_spilled(key) => Answer::Ask,
            (None, None) => Answer::Known(None),
        }
    }

    /// All keys under a prefix, as of one revision: what is known beyond the watch is waited for and not mixed in.
    pub(super) fn list(&self, prefix: &str, now: Instant) -> Answer<Listing> {
        if !self.region.keeps(prefix) {
            return Answer::Ask;
        }
        let ahead = {
            let overlay = self.overlay();
            if overlay.doubts(prefix, now) {
                return Answer::Ask;
            }
            overlay.is_ahead(prefix)
        };
        match self.live() {
            Some(live) if live.partial && self.may_have_spilled(prefix) => Answer::Ask,
            Some(_) if ahead => Answer::Wait,
            Some(live) => Answer::Known(live.mirror.list(prefix)),
            None => Answer::Ask,
        }
    }

    fn may_have_spilled(&self, key: &str) -> bool {
        self.region.spill.as_ref().is_some_and(|spill| key.starts_with(&spill.prefix))
    }

    /// The mirror whose watches can be given out, if all changes under `prefix` go through it.
    pub(super) fn watched(&self, prefix: &str) -> Option<Mirror> {
        self.live().filter(|_| prefix.starts_with(&self.region.root)).map(|live| live.mirror)
    }

    /// Notes changes of ours that were applied at `revision`. `Put`s come back by the watch, so they prove it alive.
    pub(super) fn wrote(&self, changes: &[(String, Option<Bytes>)], revision: Revision, now: Instant) {
        let mut overlay = self.overlay();
        // Noted also while the region is being listed: the listing may be older.
        let live = self.live();
        let told = |key: &str| live.as_ref().is_some_and(|live| has_told(&live.mirror, key, revision));
        let absent = |key: &str| live.as_ref().is_some_and(|live| live.mirror.get(key).is_none());
        let mut is_put = false;
        for (key, bytes) in changes.iter().filter(|(key, _)| key.starts_with(&self.region.root)) {
            is_put |= bytes.is_some();
            let is_absent = bytes.is_none() && absent(key) && !overlay.is_ahead(key);
            if self.region.keeps(key) && !told(key) && !is_absent {
                overlay.note(key.clone(), revision, bytes.clone());
            }
        }
        if is_put && live.is_some_and(|live| live.mirror.revision() < revision) {
            overlay.expect_echo(revision, now);
            drop(overlay);
            self.written.notify_one();
        }
    }

    /// Notes a key as it was read from the datastore at `revision`.
    pub(super) fn reread(&self, key: &str, found: Option<&Entry>, revision: Revision) {
        let mut overlay = self.overlay();
        let Some(live) = self.live() else { return };
        let revision = found.map_or(revision, |entry| entry.revision);
        let is_absent = found.is_none() && live.mirror.get(key).is_none() && !overlay.is_ahead(key);
        if !has_told(&live.mirror, key, revision) && !is_absent {
            overlay.note(key.to_owned(), revision, found.map(|entry| entry.value.clone()));
        }
    }

    /// Notes keys of which nothing is certain.
    pub(super) fn doubt(&self, keys: &[String], now: Instant) {
        let kept = keys.iter().filter(|key| self.region.keeps(key)).cloned();
        self.overlay().doubt(kept, now);
    }

    pub(super) fn keeps(&self, key: &str) -> bool {
        self.region.keeps(key)
    }

    fn overlay(&self) -> MutexGuard<'_, Overlay> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Option<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether the watch has told how a key stands at a revision, or later.
fn has_told(mirror: &Mirror, key: &str, revision: Revision) -> bool {
    mirror.revision() > revision || mirror.get(key).is_some_and(|told| told.revision >= revision)
}
