//! What every datastore backend must do, stated once. Each function is one statement and takes an empty backend.

use bytes::Bytes;
use calico_libnetwork::store::retry::on_conflict;
use calico_libnetwork::store::{Entry, Event, Guard, Listing, Op, Revision, Store, StoreError, Txn};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A backend under test.
pub(crate) trait Backend {
    /// The store, empty when the test begins.
    fn store(&self) -> Arc<dyn Store>;

    /// Makes the backend forget all history up to now.
    fn forget_history(&self) -> BoxFuture<'_, ()>;

    /// Whether a watch that has fallen behind a compaction must answer `Compacted` even if it was open before.
    fn drops_slow_watchers(&self) -> bool;
}

/// How long a test waits for what must happen.
const SOON: Duration = Duration::from_secs(20);

/// How long a test waits to see that something does not happen.
const QUIET: Duration = Duration::from_millis(100);

type Events = BoxStream<'static, Result<Event, StoreError>>;

async fn next(events: &mut Events) -> Result<Event, StoreError> {
    timeout(SOON, events.next()).await.expect("an event comes soon").expect("the watch goes on")
}

async fn is_quiet(events: &mut Events) -> bool {
    timeout(QUIET, events.next()).await.is_err()
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.commit(Txn::new().put(key, value.to_owned())).await.expect("put")
}

async fn read(store: &dyn Store, key: &str) -> Option<Entry> {
    store.get(key).await.expect("get")
}

async fn list(store: &dyn Store, prefix: &str) -> Listing {
    store.list(prefix).await.expect("list")
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    list(store, prefix).await.entries.into_iter().map(|entry| entry.key).collect()
}

fn conflict(result: Result<Revision, StoreError>) -> String {
    match result {
        Err(StoreError::Conflict { key }) => key,
        other => panic!("expected a conflict, not {other:?}"),
    }
}

fn invalid(result: Result<Revision, StoreError>) -> String {
    match result {
        Err(StoreError::Invalid { why }) => why,
        other => panic!("expected a refusal, not {other:?}"),
    }
}

pub(crate) async fn a_key_that_was_never_written_is_absent(backend: &dyn Backend) {
    let store = backend.store();
    assert_eq!(read(&*store, "/a").await, None);
    assert_eq!(list(&*store, "/").await.entries, []);
}

pub(crate) async fn a_key_reads_as_it_was_written(backend: &dyn Backend) {
    let store = backend.store();
    let revision = put(&*store, "/a", "one").await;
    let expected = Entry { key: "/a".into(), value: Bytes::from("one"), revision };
    assert_eq!(read(&*store, "/a").await, Some(expected.clone()));
    assert_eq!(list(&*store, "/a").await.entries, [expected]);
    let bytes: Bytes = (0..=255).collect::<Vec<u8>>().into();
    store.commit(Txn::new().put("/bytes", bytes.clone()).put("/empty", Bytes::new())).await.unwrap();
    assert_eq!(read(&*store, "/bytes").await.unwrap().value, bytes);
    assert_eq!(read(&*store, "/empty").await.unwrap().value, Bytes::new());
}

pub(crate) async fn a_list_is_in_byte_order(backend: &dyn Backend) {
    let store = backend.store();
    for key in ["/b", "/a/c", "/a", "/a0", "/a-b", "/\u{e9}", "/Z", "/a/b/c"] {
        put(&*store, key, "x").await;
    }
    assert_eq!(keys(&*store, "/").await, ["/Z", "/a", "/a-b", "/a/b/c", "/a/c", "/a0", "/b", "/\u{e9}"]);
}

pub(crate) async fn a_prefix_is_a_plain_byte_prefix(backend: &dyn Backend) {
    let store = backend.store();
    for key in ["/a", "/a/b", "/a/b/c", "/ab", "/b", "/a\u{10ffff}", "/a0"] {
        put(&*store, key, "x").await;
    }
    assert_eq!(keys(&*store, "/a").await, ["/a", "/a/b", "/a/b/c", "/a0", "/ab", "/a\u{10ffff}"]);
    assert_eq!(keys(&*store, "/a/").await, ["/a/b", "/a/b/c"]);
    assert_eq!(keys(&*store, "/a/b").await, ["/a/b", "/a/b/c"]);
    assert_eq!(keys(&*store, "/a\u{10ffff}").await, ["/a\u{10ffff}"]);
    assert_eq!(keys(&*store, "/c").await, [""; 0]);
    assert_eq!(keys(&*store, "").await.len(), 7, "the empty prefix means every key");
}

pub(crate) async fn create_is_refused_where_a_key_exists(backend: &dyn Backend) {
    let store = backend.store();
    let revision = store.commit(Txn::new().create("/a", "one")).await.unwrap();
    assert_eq!(conflict(store.commit(Txn::new().create("/a", "two")).await), "/a");
    let entry = read(&*store, "/a").await.unwrap();
    assert_eq!((entry.value, entry.revision), (Bytes::from("one"), revision));
}

pub(crate) async fn update_is_refused_unless_the_key_is_as_it_was_read(backend: &dyn Backend) {
    let store = backend.store();
    let first = put(&*store, "/a", "one").await;
    let second = store.commit(Txn::new().update("/a", first, "two")).await.unwrap();
    assert_eq!(conflict(store.commit(Txn::new().update("/a", first, "three")).await), "/a");
    let future = Revision(second.0 + 10);
    assert_eq!(conflict(store.commit(Txn::new().update("/a", future, "three")).await), "/a");
    assert_eq!(read(&*store, "/a").await.unwrap().value, Bytes::from("two"));
    store.commit(Txn::new().upsert("/a", Some(second), "three").upsert("/b", None, "new")).await.unwrap();
    assert_eq!(keys(&*store, "/").await, ["/a", "/b"]);
}

pub(crate) async fn delete_is_refused_unless_the_key_is_as_it_was_read(backend: &dyn Backend) {
    let store = backend.store();
    let first = put(&*store, "/a", "one").await;
    let second = put(&*store, "/a", "two").await;
    assert_eq!(conflict(store.commit(Txn::new().delete("/a", first)).await), "/a");
    let gone = store.commit(Txn::new().delete("/a", second)).await.unwrap();
    assert!(gone > second);
    assert_eq!(read(&*store, "/a").await, None);
    assert_eq!(conflict(store.commit(Txn::new().delete("/a", second)).await), "/a");
}

pub(crate) async fn a_guard_at_a_revision_fails_for_an_absent_key(backend: &dyn Backend) {
    let store = backend.store();
    for revision in [Revision(0), Revision(1)] {
        assert_eq!(conflict(store.commit(Txn::new().update("/a", revision, "x")).await), "/a");
        assert_eq!(conflict(store.commit(Txn::new().guard(Guard::At("/a".into(), revision))).await), "/a");
    }
}

pub(crate) async fn deleting_what_does_not_exist_succeeds_and_changes_nothing(backend: &dyn Backend) {
    let store = backend.store();
    let before = put(&*store, "/a", "one").await;
    assert_eq!(store.commit(Txn::new().remove("/absent")).await.unwrap(), before);
    assert_eq!(store.commit(Txn::new()).await.unwrap(), before);
    assert_eq!(list(&*store, "/").await.revision, before);
    let after = store.commit(Txn::new().remove("/absent").put("/b", "two")).await.unwrap();
    assert_eq!(after, Revision(before.0 + 1));
    let mut events = store.watch("/", before);
    assert_eq!(next(&mut events).await.unwrap().key(), "/b");
    assert!(is_quiet(&mut events).await, "no event for what was not there");
}

pub(crate) async fn a_key_can_be_deleted_and_created_again(backend: &dyn Backend) {
    let store = backend.store();
    let first = store.commit(Txn::new().create("/a", "one")).await.unwrap();
    store.commit(Txn::new().delete("/a", first)).await.unwrap();
    let second = store.commit(Txn::new().create("/a", "two")).await.unwrap();
    assert_eq!(conflict(store.commit(Txn::new().update("/a", first, "three")).await), "/a");
    assert_eq!(read(&*store, "/a").await.unwrap().revision, second);
}

pub(crate) async fn a_transaction_applies_all_or_nothing(backend: &dyn Backend) {
    let store = backend.store();
    let revision = put(&*store, "/a", "one").await;
    let refused = Txn::new().put("/x", "x").remove("/a").create("/y", "y").guard(Guard::Absent("/a".into()));
    assert_eq!(conflict(store.commit(refused).await), "/a");
    assert_eq!(keys(&*store, "/").await, ["/a"]);
    let applied = Txn::new().create("/x", "x").delete("/a", revision).create("/y", "y");
    let revision = store.commit(applied).await.unwrap();
    let listing = list(&*store, "/").await;
    assert_eq!(listing.revision, revision);
    assert_eq!(listing.entries.iter().map(|entry| &*entry.key).collect::<Vec<_>>(), ["/x", "/y"]);
    assert!(listing.entries.iter().all(|entry| entry.revision == revision));
}

pub(crate) async fn a_conflict_names_the_first_key_whose_guard_failed(backend: &dyn Backend) {
    let store = backend.store();
    let revision = put(&*store, "/a", "one").await;
    put(&*store, "/c", "three").await;
    let txn = Txn::new().update("/a", revision, "x").create("/b", "x").create("/c", "x");
    assert_eq!(conflict(store.commit(txn).await), "/c");
    let txn = Txn::new().guard(Guard::At("/b".into(), revision)).create("/c", "x");
    assert_eq!(conflict(store.commit(txn).await), "/b");
}

pub(crate) async fn guards_without_operations_are_checked(backend: &dyn Backend) {
    let store = backend.store();
    let revision = put(&*store, "/a", "one").await;
    let holds = Txn::new().guard(Guard::At("/a".into(), revision)).guard(Guard::Absent("/b".into()));
    assert_eq!(store.commit(holds).await.unwrap(), revision);
    assert_eq!(conflict(store.commit(Txn::new().guard(Guard::Absent("/a".into()))).await), "/a");
}

pub(crate) async fn each_commit_has_its_own_higher_revision(backend: &dyn Backend) {
    let store = backend.store();
    let mut last = list(&*store, "/").await.revision;
    for n in 0..20 {
        let txn = Txn::new().put("/a", format!("{n}")).put(format!("/b/{n}"), "x");
        let revision = store.commit(txn).await.unwrap();
        assert_eq!(revision, Revision(last.0 + 1));
        assert_eq!(read(&*store, "/a").await.unwrap().revision, revision);
        assert_eq!(list(&*store, "/").await.revision, revision);
        last = revision;
    }
    let listing = list(&*store, "/absent").await;
    assert_eq!((listing.entries.len(), listing.revision), (0, last));
}

pub(crate) async fn concurrent_commits_get_distinct_revisions(backend: &dyn Backend) {
    let store = backend.store();
    let before = list(&*store, "/").await.revision;
    let commits = (0..40).map(|n| {
        let store = backend.store();
        tokio::spawn(async move { put(&*store, &format!("/k/{n}"), "x").await })
    });
    let mut seen = BTreeSet::new();
    for commit in commits.collect::<Vec<_>>() {
        assert!(seen.insert(commit.await.unwrap()));
    }
    assert_eq!(seen, (before.0 + 1..=before.0 + 40).map(Revision).collect());
    for entry in list(&*store, "/k/").await.entries {
        assert!(seen.remove(&entry.revision));
    }
}

pub(crate) async fn a_malformed_transaction_is_refused(backend: &dyn Backend) {
    let store = backend.store();
    let twice = [
        Txn::new().put("/a", "1").put("/a", "2"),
        Txn::new().put("/a", "1").remove("/a"),
        Txn::new().remove("/a").remove("/b").remove("/a"),
    ];
    for txn in twice {
        let why = invalid(store.commit(txn).await);
        assert!(why.contains("/a is changed more than once"), "{why}");
    }
    let why = invalid(store.commit(Txn::new().put("", "1")).await);
    assert!(why.contains("a key is empty"), "{why}");
    let many = |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.create(format!("/{n}"), "x"));
    let why = invalid(store.commit(many(Txn::MAX_OPS + 1)).await);
    assert!(why.contains("at most 128"), "{why}");
    assert_eq!(keys(&*store, "").await, [""; 0], "nothing was changed");
    store.commit(many(Txn::MAX_OPS)).await.unwrap();
    assert_eq!(keys(&*store, "").await.len(), Txn::MAX_OPS);
}

pub(crate) async fn a_large_value_is_kept(backend: &dyn Backend) {
    let store = backend.store();
    let large: Bytes = (0..1024 * 1024).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let before = list(&*store, "/").await.revision;
    let revision = store.commit(Txn::new().put("/large", large.clone())).await.unwrap();
    let expected = Entry { key: "/large".into(), value: large, revision };
    assert_eq!(read(&*store, "/large").await, Some(expected.clone()));
    assert_eq!(list(&*store, "/").await.entries, std::slice::from_ref(&expected));
    assert_eq!(next(&mut store.watch("/", before)).await.unwrap(), Event::Put(expected));
}

pub(crate) async fn twenty_thousand_keys_are_listed(backend: &dyn Backend) {
    // (57) of tests/conformance.md
    let store = backend.store();
    // Long values: the list is larger than the 4 MB that gRPC takes by default.
    let value = Bytes::from(vec![b'v'; 300]);
    let commits = (0..20_000 / 100).map(|hundred| {
        let (store, value) = (backend.store(), value.clone());
        async move {
            let keys = hundred * 100..(hundred + 1) * 100;
            let txn = keys.fold(Txn::new(), |txn, n| txn.create(format!("/k/{n:05}"), value.clone()));
            store.commit(txn).await.unwrap();
        }
    });
    futures::stream::iter(commits).buffer_unordered(16).collect::<Vec<()>>().await;
    let listing = list(&*store, "/k/").await;
    assert_eq!(listing.entries.len(), 20_000);
    for (n, entry) in listing.entries.iter().enumerate() {
        assert_eq!((&entry.key, &entry.value), (&format!("/k/{n:05}"), &value));
    }
    assert_eq!(keys(&*store, "/k/123").await.len(), 100);
}

pub(crate) async fn fifty_racing_increments_lose_none(backend: &dyn Backend) {
    let store = backend.store();
    put(&*store, "/counter", "0").await;
    let tasks = (0..50).map(|_| {
        let store = backend.store();
        tokio::spawn(async move {
            let increment = || async {
                let entry = read(&*store, "/counter").await.unwrap();
                let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                store.commit(Txn::new().update("/counter", entry.revision, (number + 1).to_string())).await
            };
            on_conflict(increment).await.unwrap();
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(read(&*store, "/counter").await.unwrap().value, Bytes::from("50"));
}

pub(crate) async fn readers_never_see_half_a_transaction(backend: &dyn Backend) {
    let store = backend.store();
    store.commit(Txn::new().put("/p/a", "0").put("/p/b", "0")).await.unwrap();
    let writer = {
        let store = backend.store();
        tokio::spawn(async move {
            for n in 1..=100 {
                store.commit(Txn::new().put("/p/a", n.to_string()).put("/p/b", n.to_string())).await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let listing = list(&*store, "/p/").await;
        assert_eq!(listing.entries[0].value, listing.entries[1].value);
        assert_eq!(listing.entries[0].revision, listing.entries[1].revision);
        assert!(listing.entries[0].revision <= listing.revision);
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
}

pub(crate) async fn a_watch_reports_puts_and_deletes_in_order(backend: &dyn Backend) {
    let store = backend.store();
    let start = list(&*store, "/").await.revision;
    let mut events = store.watch("/w/", start);
    let created = put(&*store, "/w/a", "one").await;
    let updated = store.commit(Txn::new().put("/w/a", "two").put("/w/b", "new")).await.unwrap();
    let deleted = store.commit(Txn::new().remove("/w/a")).await.unwrap();
    let expect = |key: &str, value: &str, revision| {
        Event::Put(Entry { key: key.into(), value: value.to_owned().into(), revision })
    };
    assert_eq!(next(&mut events).await.unwrap(), expect("/w/a", "one", created));
    assert_eq!(next(&mut events).await.unwrap(), expect("/w/a", "two", updated));
    assert_eq!(next(&mut events).await.unwrap(), expect("/w/b", "new", updated));
    let gone = Event::Delete { key: "/w/a".into(), revision: deleted };
    assert_eq!(next(&mut events).await.unwrap(), gone);
    assert!(is_quiet(&mut events).await);
}

pub(crate) async fn a_watch_reports_only_its_prefix(backend: &dyn Backend) {
    let store = backend.store();
    let start = list(&*store, "/").await.revision;
    let mut events = store.watch("/w/", start);
    let mut one_key = store.watch("/w/b", start);
    for key in ["/a", "/w", "/w0", "/w/b", "/x"] {
        put(&*store, key, "x").await;
    }
    store.commit(Txn::new().remove("/a").remove("/w")).await.unwrap();
    assert_eq!(next(&mut events).await.unwrap().key(), "/w/b");
    assert_eq!(next(&mut one_key).await.unwrap().key(), "/w/b");
    assert!(is_quiet(&mut events).await);
    let mut all = store.watch("", start);
    for key in ["/a", "/w", "/w0", "/w/b", "/x", "/a", "/w"] {
        assert_eq!(next(&mut all).await.unwrap().key(), key);
    }
}

pub(crate) async fn a_watch_resumes_after_any_kept_revision(backend: &dyn Backend) {
    let store = backend.store();
    let mut revisions = vec![list(&*store, "/").await.revision];
    for n in 0..10 {
        revisions.push(put(&*store, "/w", &n.to_string()).await);
    }
    for (skipped, from) in revisions.iter().enumerate() {
        let mut events = store.watch("/w", *from);
        for revision in revisions.iter().skip(skipped + 1) {
            assert_eq!(next(&mut events).await.unwrap().revision(), *revision);
        }
    }
}

pub(crate) async fn a_watch_from_a_list_misses_nothing_under_concurrent_writers(backend: &dyn Backend) {
    let store = backend.store();
    let writers = (0..4).map(|writer| {
        let store = backend.store();
        tokio::spawn(async move {
            for n in 0..60 {
                let key = format!("/w/{writer}/{}", n % 7);
                let txn = Txn::new().put(key, n.to_string()).put(format!("/w/{writer}/last"), n.to_string());
                store.commit(txn).await.unwrap();
                if n % 5 == 0 {
                    store.commit(Txn::new().remove(format!("/w/{writer}/{}", (n + 3) % 7))).await.unwrap();
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut checked = 0;
    while checked < 5 || !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        follow_until_equal(&*store).await;
        checked += 1;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    follow_until_equal(&*store).await;
}

/// Lists, applies the watch to the list, and compares with a later list.
async fn follow_until_equal(store: &dyn Store) {
    let listing = list(store, "/w/").await;
    let mut events = store.watch("/w/", listing.revision);
    let mut model: BTreeMap<_, _> =
        listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    let mut seen = listing.revision;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let later = list(store, "/w/").await;
    let newest = later.entries.iter().map(|entry| entry.revision).max().unwrap_or_default();
    loop {
        // Deletions of the last revision may still be on their way when all puts are there.
        let wait = if seen < newest { SOON } else { QUIET };
        let Ok(event) = timeout(wait, events.next()).await else { break };
        let event = event.expect("the watch goes on").expect("no error");
        if event.revision() > later.revision {
            break;
        }
        assert!(event.revision() >= seen, "in order");
        seen = event.revision();
        match event {
            Event::Put(entry) => model.insert(entry.key.clone(), entry),
            Event::Delete { key, .. } => model.remove(&key),
        };
    }
    assert_eq!(model.into_values().collect::<Vec<_>>(), later.entries);
}

pub(crate) async fn a_watch_from_before_the_history_is_compacted(backend: &dyn Backend) {
    // (56) of tests/conformance.md
    let store = backend.store();
    let start = put(&*store, "/w/a", "x").await;
    put(&*store, "/w/a", "y").await;
    put(&*store, "/w/a", "z").await;
    backend.forget_history().await;
    let revision = put(&*store, "/w/b", "x").await;
    let mut events = store.watch("/w/", start);
    let oldest = match next(&mut events).await {
        Err(StoreError::Compacted { oldest, .. }) => oldest,
        other => panic!("expected Compacted, not {other:?}"),
    };
    assert!(oldest > start && oldest <= revision, "{oldest} is between {start} and {revision}");
    assert!(timeout(SOON, events.next()).await.unwrap().is_none(), "the watch ends after an error");
    let listing = list(&*store, "/w/").await;
    let mut events = store.watch("/w/", listing.revision);
    put(&*store, "/w/c", "x").await;
    assert_eq!(next(&mut events).await.unwrap().key(), "/w/c");
    let mut events = store.watch("/w/", oldest);
    let first = next(&mut events).await.expect("the oldest revision named can be watched from");
    assert!(first.revision() > oldest);
}

pub(crate) async fn a_slow_watcher_neither_blocks_commits_nor_misses_changes_silently(backend: &dyn Backend) {
    let store = backend.store();
    let start = put(&*store, "/w/first", "x").await;
    let mut slow = store.watch("/w/", start);
    put(&*store, "/w/second", "x").await;
    assert_eq!(next(&mut slow).await.unwrap().key(), "/w/second");
    let mut last = Revision(0);
    for round in 0..50 {
        let keys = 0..Txn::MAX_OPS;
        let txn = keys.fold(Txn::new(), |txn, n| txn.put(format!("/w/{n:03}"), format!("{round}")));
        last = timeout(SOON, store.commit(txn)).await.expect("commits go on").unwrap();
    }
    let mut seen = 0;
    let ended = loop {
        match next(&mut slow).await {
            Ok(event) if event.revision() == last && event.key() == "/w/127" => break None,
            Ok(_) => seen += 1,
            Err(error) => break Some(error),
        }
    };
    assert_eq!(ended.is_some(), backend.drops_slow_watchers());
    match ended {
        None => assert_eq!(seen, 50 * Txn::MAX_OPS - 1, "all of them were delivered"),
        Some(StoreError::Compacted { .. }) => {
            assert!(timeout(SOON, slow.next()).await.unwrap().is_none(), "the watch ends after an error");
        }
        Some(other) => panic!("expected Compacted, not {other}"),
    }
}

pub(crate) async fn many_watchers_each_see_everything(backend: &dyn Backend) {
    let store = backend.store();
    let start = list(&*store, "/").await.revision;
    let watchers: Vec<_> = (0..20)
        .map(|_| {
            let mut events = store.watch("/w/", start);
            tokio::spawn(async move {
                for n in 0..50 {
                    assert_eq!(next(&mut events).await.unwrap().key(), format!("/w/{n:02}"));
                }
            })
        })
        .collect();
    for n in 0..50 {
        put(&*store, &format!("/w/{n:02}"), "x").await;
    }
    for watcher in watchers {
        watcher.await.unwrap();
    }
}

pub(crate) async fn an_abandoned_commit_leaves_a_consistent_store(backend: &dyn Backend) {
    let store = backend.store();
    for n in 0..50_u64 {
        let txn = Txn::new().put("/p/a", n.to_string()).put("/p/b", n.to_string());
        let _ = timeout(Duration::from_micros(n * 20), store.commit(txn)).await;
    }
    put(&*store, "/after", "x").await;
    let listing = list(&*store, "/p/").await;
    let values: BTreeSet<_> = listing.entries.iter().map(|entry| (&entry.value, entry.revision)).collect();
    assert!(values.len() <= 1, "both or none: {listing:?}");
}

/// A step of the random test: which keys, and whether the guards are to hold.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Guard `Absent`.
    Absent(u8),
    /// Guard `At` the revision that the model has for the key, plus this.
    At(u8, i8),
    /// Put.
    Put(u8, u8),
    /// Delete.
    Delete(u8),
}

/// The plainest store that could be: what all backends are held against.
#[derive(Debug, Default)]
struct Oracle {
    keys: BTreeMap<String, (u64, Bytes)>,
    revision: u64,
    events: Vec<Event>,
}

impl Oracle {
    fn commit(&mut self, txn: &Txn) -> Result<u64, String> {
        let mut keys: Vec<_> = txn.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("malformed".to_owned());
        }
        for guard in &txn.guards {
            let at = self.keys.get(guard.key()).map(|(revision, _)| *revision);
            let holds = match guard {
                Guard::Absent(_) => at.is_none(),
                Guard::At(_, revision) => at == Some(revision.0),
            };
            if !holds {
                return Err(format!("conflict on {}", guard.key()));
            }
        }
        let (next, mut changed) = (self.revision + 1, false);
        for op in &txn.ops {
            match op {
                Op::Put(key, value) => {
                    self.keys.insert(key.clone(), (next, value.clone()));
                    let entry = Entry { key: key.clone(), value: value.clone(), revision: Revision(next) };
                    self.events.push(Event::Put(entry));
                    changed = true;
                }
                Op::Delete(key) => {
                    if self.keys.remove(key).is_some() {
                        self.events.push(Event::Delete { key: key.clone(), revision: Revision(next) });
                        changed = true;
                    }
                }
            }
        }
        self.revision = if changed { next } else { self.revision };
        Ok(self.revision)
    }

    fn listing(&self) -> Vec<Entry> {
        let entry = |(key, (revision, value)): (&String, &(u64, Bytes))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: Revision(*revision),
        };
        self.keys.iter().map(entry).collect()
    }

    fn txn(&self, prefix: &str, steps: &[Step]) -> Txn {
        let name = |key: &u8| format!("{prefix}{key}");
        steps.iter().fold(Txn::new(), |txn, step| match step {
            Step::Absent(key) => txn.guard(Guard::Absent(name(key))),
            Step::At(key, off) => {
                let at = self.keys.get(&name(key)).map_or(self.revision, |(revision, _)| *revision);
                txn.guard(Guard::At(name(key), Revision(at.saturating_add_signed(i64::from(*off)))))
            }
            Step::Put(key, value) => txn.put(name(key), vec![*value]),
            Step::Delete(key) => txn.remove(name(key)),
        })
    }
}

/// Runs random transactions against a store and the oracle, and compares answers, content and history. Other keys
/// than those under `prefix` may exist but not change meanwhile.
pub(crate) async fn behaves_as_the_oracle(store: &dyn Store, prefix: &str, txns: &[Vec<Step>]) {
    let start = list(store, prefix).await.revision;
    let mut oracle = Oracle { revision: start.0, ..Oracle::default() };
    for steps in txns {
        let txn = oracle.txn(prefix, steps);
        let expected = oracle.commit(&txn);
        let got = match store.commit(txn).await {
            Ok(revision) => Ok(revision.0),
            Err(StoreError::Conflict { key }) => Err(format!("conflict on {key}")),
            Err(StoreError::Invalid { .. }) => Err("malformed".to_owned()),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(got, expected);
        let listing = list(store, prefix).await;
        assert_eq!(listing.revision.0, oracle.revision);
        assert_eq!(listing.entries, oracle.listing());
    }
    let mut events = store.watch(prefix, start);
    for expected in &oracle.events {
        assert_eq!(&next(&mut events).await.unwrap(), expected);
    }
}

/// Every statement above, as tests of one backend: `conformance!(name, expression that makes the backend)`.
#[macro_export]
macro_rules! conformance {
    ($module:ident, $backend:expr) => {
        $crate::conformance!($module, $backend;
            a_key_that_was_never_written_is_absent,
            a_key_reads_as_it_was_written,
            a_list_is_in_byte_order,
            a_prefix_is_a_plain_byte_prefix,
            create_is_refused_where_a_key_exists,
            update_is_refused_unless_the_key_is_as_it_was_read,
            delete_is_refused_unless_the_key_is_as_it_was_read,
            a_guard_at_a_revision_fails_for_an_absent_key,
            deleting_what_does_not_exist_succeeds_and_changes_nothing,
            a_key_can_be_deleted_and_created_again,
            a_transaction_applies_all_or_nothing,
            a_conflict_names_the_first_key_whose_guard_failed,
            guards_without_operations_are_checked,
            each_commit_has_its_own_higher_revision,
            concurrent_commits_get_distinct_revisions,
            a_malformed_transaction_is_refused,
            a_large_value_is_kept,
            twenty_thousand_keys_are_listed,
            fifty_racing_increments_lose_none,
            readers_never_see_half_a_transaction,
            a_watch_reports_puts_and_deletes_in_order,
            a_watch_reports_only_its_prefix,
            a_watch_resumes_after_any_kept_revision,
            a_watch_from_a_list_misses_nothing_under_concurrent_writers,
            a_watch_from_before_the_history_is_compacted,
            a_slow_watcher_neither_blocks_commits_nor_misses_changes_silently,
            many_watchers_each_see_everything,
            an_abandoned_commit_leaves_a_consistent_store,
        );
    };
    ($module:ident, $backend:expr; $($statement:ident,)*) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $statement() {
                    if let Some(backend) = $backend {
                        suite::$statement(&backend).await;
                    }
                }
            )*
        }
    };
}
