//! All keys in memory, and the last changes of them: what a local backend answers reads and watches from (pure).

use super::{Entry, Event, Listing, Revision, StoreError};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// How many changes a watcher may lag behind. A busy node makes some ten changes a second, so this is minutes.
const HISTORY_EVENTS: usize = 4096;

/// How many bytes of keys and values the kept changes may hold, so that large values cannot fill the memory.
const HISTORY_BYTES: usize = 16 * 1024 * 1024;

/// How much history is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct HistoryLimits {
    /// Changes.
    pub(super) events: usize,
    /// Bytes of their keys and values.
    pub(super) bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { events: HISTORY_EVENTS, bytes: HISTORY_BYTES }
    }
}

/// What stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    /// Revision of the last change.
    pub(super) revision: Revision,
    /// The bytes.
    pub(super) bytes: Bytes,
}

/// Keys, revision and recent history.
#[derive(Debug, Default)]
pub(super) struct State {
    keys: BTreeMap<String, Value>,
    revision: Revision,
    history: History,
}

impl State {
    /// The state as loaded: nothing before `revision` can be watched.
    pub(super) fn new(keys: BTreeMap<String, Value>, revision: Revision) -> Self {
        Self { keys, revision, history: History { compacted: revision, ..History::default() } }
    }

    /// The same with another bound on the history to come.
    pub(super) fn limited(mut self, limits: HistoryLimits) -> Self {
        self.history.limits = limits;
        self
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn keys(&self) -> &BTreeMap<String, Value> {
        &self.keys
    }

    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.value(key).map(|value| entry(key, value))
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let entries = self
            .keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| entry(key, value))
            .collect();
        Listing { entries, revision: self.revision }
    }

    /// Applies changes that a [`super::draft::Draft`] made on top of this state.
    pub(super) fn apply(&mut self, events: Vec<Event>, revision: Revision) {
        self.apply_some(events, revision, |_| true);
    }

    /// Adds changes to the history, and keeps the values of those that `keep` picks; of the others nothing stays. A
    /// value that is newer than a change of it was loaded after that change, and stays.
    pub(super) fn apply_some(
        &mut self,
        events: Vec<Event>,
        revision: Revision,
        mut keep: impl FnMut(&Entry) -> bool,
    ) {
        self.revision = revision;
        for event in events {
            let older = self.keys.get(event.key()).is_some_and(|value| value.revision > event.revision());
            match &event {
                _ if older => {}
                Event::Put(entry) if keep(entry) => {
                    let value = Value { revision: entry.revision, bytes: entry.value.clone() };
                    self.keys.insert(entry.key.clone(), value);
                }
                Event::Put(Entry { key, .. }) | Event::Delete { key, .. } => {
                    self.keys.remove(key);
                }
            }
            self.history.push(event);
        }
        self.history.trim(revision);
    }

    /// Drops the keys that `keep` does not pick.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&str, &Bytes) -> bool) {
        self.keys.retain(|key, value| keep(key, &value.bytes));
    }

    /// Forgets the history: watches from before now answer `Compacted`.
    pub(super) fn compact(&mut self) {
        let limits = self.history.limits;
        self.history = History { compacted: self.revision, limits, ..History::default() };
    }

    /// The changes under `prefix` after `from`, as far as the state has got.
    pub(super) fn since(&self, prefix: &str, from: Revision) -> Result<VecDeque<Event>, StoreError> {
        if from < self.history.compacted {
            return Err(StoreError::Compacted { from, oldest: self.history.compacted });
        }
        let events = &self.history.events;
        let first = events.partition_point(|event| event.revision() <= from);
        Ok(events.range(first..).filter(|event| event.key().starts_with(prefix)).cloned().collect())
    }
}

fn entry(key: &str, value: &Value) -> Entry {
    Entry { key: key.to_owned(), value: value.bytes.clone(), revision: value.revision }
}

/// The last changes, oldest first, whole revisions only.
#[derive(Debug, Default)]
struct History {
    events: VecDeque<Event>,
    bytes: usize,
    limits: HistoryLimits,
    /// Revision of the last change that is not kept: a watch can start after it.
    compacted: Revision,
}

impl History {
    fn push(&mut self, event: Event) {
        self.bytes = self.bytes.saturating_add(size(&event));
        self.events.push_back(event);
    }

    /// Drops the oldest revisions above the bounds, but never the newest: a watcher that waits for it must get it,
    /// however large it is.
    fn trim(&mut self, newest: Revision) {
        while let Some(oldest) = self.events.front() {
            let revision = oldest.revision();
            let within = self.events.len() <= self.limits.events && self.bytes <= self.limits.bytes;
            if revision == newest || (within && revision > self.compacted) {
                break;
            }
            self.bytes = self.bytes.saturating_sub(size(oldest));
            self.compacted = revision;
            self.events.pop_front();
        }
    }
}

fn size(event: &Event) -> usize {
    match event {
        Event::Put(entry) => entry.key.len().saturating_add(entry.value.len()),
        Event::Delete { key, .. } => key.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, size: usize, revision: u64) -> Event {
        let value = Bytes::from(vec![0; size]);
        Event::Put(Entry { key: key.to_owned(), value, revision: Revision(revision) })
    }

    fn oldest(state: &State) -> Revision {
        match state.since("", Revision(0)) {
            Err(StoreError::Compacted { oldest, .. }) => oldest,
            _ => Revision(0),
        }
    }

    #[test]
    fn history_is_bounded_in_events_and_never_splits_a_revision() {
        let mut state = State::default();
        for revision in 1..=HISTORY_EVENTS as u64 {
            state.apply(vec![put("a", 1, revision), put("b", 1, revision)], Revision(revision));
        }
        let half = HISTORY_EVENTS as u64 / 2;
        assert_eq!(oldest(&state), Revision(half));
        assert_eq!(state.since("", Revision(half)).unwrap().len(), HISTORY_EVENTS);
        assert_eq!(state.since("b", Revision(half)).unwrap().len(), HISTORY_EVENTS / 2);
        assert!(state.since("", Revision(half - 1)).is_err());
        state.apply(vec![put("c", 1, half * 2 + 1)], Revision(half * 2 + 1));
        assert_eq!(oldest(&state), Revision(half + 1), "both changes of one revision go together");
    }

    #[test]
    fn history_is_bounded_in_bytes_but_keeps_the_newest_revision() {
        let mut state = State::default();
        state.apply(vec![put("a", 10, 1)], Revision(1));
        state.apply(vec![put("b", HISTORY_BYTES + 1, 2)], Revision(2));
        assert_eq!(oldest(&state), Revision(1));
        assert_eq!(state.since("", Revision(1)).unwrap().len(), 1);
        state.apply(vec![put("c", 10, 3)], Revision(3));
        assert_eq!(oldest(&state), Revision(2));
        assert_eq!(state.history.bytes, 11);
    }
}
