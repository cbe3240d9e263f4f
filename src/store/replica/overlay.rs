//! What this process knows beyond what the watch has told so far: its own changes, keys that were read again, and keys
//! of which nothing is certain. It decides and does nothing; the time is an argument.

use crate::store::{Entry, Revision};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;
use tokio::time::Instant;

/// How long a change whose answer was lost may still be applied: longer than any call of the datastore takes.
const DOUBT: Duration = Duration::from_secs(30);

/// Most keys in doubt; with more, everything is.
const MOST_DOUBTS: usize = 1000;

/// A key as it was written by us, or read again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    revision: Revision,
    /// `None`: it does not exist.
    bytes: Option<Bytes>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    known: BTreeMap<String, Known>,
    /// Until when a key is in doubt.
    doubts: BTreeMap<String, Instant>,
    /// Until when every key is in doubt.
    all_doubtful: Option<Instant>,
    /// Own changes that the watch has not told yet, and since when.
    echoes: BTreeMap<Revision, Instant>,
}

impl Overlay {
    /// Everything is about to be read again: what was noted before is part of that, or belongs to a history that is no
    /// more (a datastore restored from a snapshot).
    pub(super) fn restart(&mut self) {
        self.known.clear();
        self.echoes.clear();
    }

    /// Everything was read again, as of `revision`: only what is newer stays.
    pub(super) fn rebase(&mut self, revision: Revision) {
        self.known.retain(|_, known| known.revision > revision);
    }

    /// Notes a key as it stands at a revision.
    pub(super) fn note(&mut self, key: String, revision: Revision, bytes: Option<Bytes>) {
        if self.known.get(&key).is_none_or(|known| known.revision <= revision) {
            self.known.insert(key, Known { revision, bytes });
        }
    }

    /// Notes that the watch should tell of this revision soon.
    pub(super) fn expect_echo(&mut self, revision: Revision, now: Instant) {
        self.echoes.entry(revision).or_insert(now);
    }

    /// Since when the watch owes us a change of our own.
    pub(super) fn oldest_echo(&self) -> Option<Instant> {
        self.echoes.values().min().copied()
    }

    /// Notes that a change of these keys may or may not be applied.
    pub(super) fn doubt(&mut self, keys: impl IntoIterator<Item = String>, now: Instant) {
        let until = now + DOUBT;
        self.doubts.retain(|_, until| *until > now);
        self.doubts.extend(keys.into_iter().map(|key| (key, until)));
        if self.doubts.len() > MOST_DOUBTS {
            self.doubts.clear();
            self.all_doubtful = Some(until);
        }
    }

    /// Whether anything under a prefix is in doubt.
    pub(super) fn doubts(&self, prefix: &str, now: Instant) -> bool {
        self.all_doubtful.is_some_and(|until| until > now)
            || under(&self.doubts, prefix).any(|(_, until)| *until > now)
    }

    /// A key, if something is known of it: its entry, or the revision at which it does not exist.
    pub(super) fn get(&self, key: &str) -> Option<(Revision, Option<Entry>)> {
        self.known.get(key).map(|known| (known.revision, entry(key, known)))
    }

    /// Whether anything is known of a key under a prefix that the watch has not told.
    pub(super) fn is_ahead(&self, prefix: &str) -> bool {
        under(&self.known, prefix).next().is_some()
    }

    /// The watch has told of these keys (whether each exists), and of everything before `revision`.
    pub(super) fn told<'a>(
        &mut self,
        keys: impl IntoIterator<Item = (&'a str, Revision, bool)>,
        revision: Revision,
    ) {
        for (key, told, exists) in keys {
            let agrees = |known: &Known| known.revision <= told || (known.bytes.is_none() && !exists);
            if self.known.get(key).is_some_and(agrees) {
                self.known.remove(key);
            }
        }
        self.known.retain(|_, known| known.revision >= revision);
        self.echoes.retain(|echo, _| *echo > revision);
    }
}

fn entry(key: &str, known: &Known) -> Option<Entry> {
    let value = known.bytes.clone()?;
    Some(Entry { key: key.to_owned(), value, revision: known.revision })
}

fn under<'a, V>(map: &'a BTreeMap<String, V>, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a V)> {
    let from = map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(move |(key, _)| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(overlay: &mut Overlay, key: &str, revision: u64) {
        overlay.note(key.to_owned(), Revision(revision), Some(Bytes::from_static(b"x")));
    }

    #[test]
    fn what_the_watch_has_told_is_dropped_and_nothing_else() {
        let mut overlay = Overlay::default();
        put(&mut overlay, "a", 5);
        put(&mut overlay, "b", 5);
        put(&mut overlay, "c", 6);
        overlay.told([("a", Revision(5), true)], Revision(5));
        assert!(overlay.get("a").is_none());
        assert!(overlay.get("b").is_some(), "its event of the same revision is yet to come");
        overlay.told([("z", Revision(6), true)], Revision(6));
        assert!(overlay.get("b").is_none(), "everything up to revision 5 was told");
        assert!(overlay.get("c").is_some());
    }

    #[test]
    fn a_key_that_was_read_as_gone_is_settled_by_its_deletion() {
        let mut overlay = Overlay::default();
        overlay.note("a".to_owned(), Revision(9), None);
        overlay.told([("a", Revision(4), true)], Revision(4));
        assert!(overlay.is_ahead("a"), "it existed before it was deleted");
        overlay.told([("a", Revision(6), false)], Revision(6));
        assert!(!overlay.is_ahead("a"));
    }

    #[test]
    fn an_older_note_does_not_replace_a_newer_one() {
        let mut overlay = Overlay::default();
        put(&mut overlay, "a", 7);
        overlay.note("a".to_owned(), Revision(6), None);
        assert_eq!(overlay.get("a").unwrap().0, Revision(7));
        overlay.note("a".to_owned(), Revision(8), None);
        assert_eq!(overlay.get("a"), Some((Revision(8), None)));
    }

    #[test]
    fn notes_from_before_a_restore_do_not_survive_it() {
        let mut overlay = Overlay::default();
        let now = Instant::now();
        put(&mut overlay, "old", 900);
        overlay.expect_echo(Revision(900), now);
        overlay.restart();
        put(&mut overlay, "new", 12);
        put(&mut overlay, "listed", 9);
        overlay.rebase(Revision(10));
        assert!(overlay.get("old").is_none() && overlay.get("listed").is_none());
        assert!(overlay.get("new").is_some());
        assert_eq!(overlay.oldest_echo(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_ends_when_nothing_can_be_applied_any_more() {
        let mut overlay = Overlay::default();
        overlay.doubt(["/a/b".to_owned()], Instant::now());
        assert!(overlay.doubts("/a/b", Instant::now()) && overlay.doubts("/a/", Instant::now()));
        assert!(!overlay.doubts("/a/c", Instant::now()));
        tokio::time::advance(DOUBT).await;
        assert!(!overlay.doubts("/a/", Instant::now()));
        overlay.doubt((0..=MOST_DOUBTS).map(|n| n.to_string()), Instant::now());
        assert!(overlay.doubts("/a/c", Instant::now()), "too many to tell apart");
    }
}
