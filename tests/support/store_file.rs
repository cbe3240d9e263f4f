//! What only a state file can suffer: crashes, a full disk, damage, a second user, a newer format.

use super::runtime;
use bytes::Bytes;
use calico_libnetwork::store::{EmbeddedStore, Entry, Event, Listing, Revision, Store, StoreError, Txn};
use futures::StreamExt;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tells a test binary that it runs as the child of a test, and with which state file.
const CHILD: &str = "STORE_TEST_CHILD";

/// Whether a missing prerequisite must fail the test.
pub(crate) fn missing(what: &str, why: &str) {
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == what), "{what} is required, but {why}");
    eprintln!("SKIP: {what}: {why}");
}

fn random() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(32)
}

fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path).unwrap()
}

fn list(store: &EmbeddedStore) -> Listing {
    runtime().block_on(store.list("")).unwrap()
}

fn commit(store: &EmbeddedStore, txn: Txn) -> Result<Revision, StoreError> {
    runtime().block_on(store.commit(txn))
}

/// This test binary again, running one test as a child.
fn child(test: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(CHILD, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}

/// A child that ends with the test, whatever becomes of the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn kill_9_loses_nothing_that_was_answered() {
    if let Some(path) = std::env::var_os(CHILD) {
        return commit_for_ever(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut acknowledged = BTreeMap::new();
    for _ in 0..10 {
        let mut child = Ends(child("file::kill_9_loses_nothing_that_was_answered", &path));
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let first = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("ACK")).unwrap();
        std::thread::sleep(Duration::from_micros(random() % 150_000));
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        for line in std::iter::once(first).chain(lines.map(Result::unwrap)) {
            // The last line may have been cut by the kill: then nobody was answered.
            if let [_, key, revision, "."] = line.split(' ').collect::<Vec<_>>()[..] {
                acknowledged.insert(key.to_owned(), Revision(revision.parse().unwrap()));
            }
        }
        check_after_crash(&path, &acknowledged);
    }
    assert!(acknowledged.len() > 100, "the children got to work: {}", acknowledged.len());
}

/// The child: four tasks, each of whose transactions counts up two keys and adds a third.
fn commit_for_ever(path: &Path) {
    let store = Arc::new(open(path));
    runtime().block_on(async {
        let tasks = (0..4).map(|task| {
            let store = store.clone();
            async move {
                let counters = [format!("/count/{task}/a"), format!("/count/{task}/b")];
                let mut at = store.get(&counters[0]).await.unwrap();
                loop {
                    let count = at.as_ref().map_or(0, number) + 1;
                    let before = at.as_ref().map(|entry| entry.revision);
                    let log = format!("/log/{task}/{count}");
                    let txn = counters.iter().fold(Txn::new(), |txn, counter| {
                        txn.upsert(counter.clone(), before, count.to_string())
                    });
                    let revision = store.commit(txn.create(log.clone(), "x")).await.unwrap();
                    say(&format!("ACK {log} {revision} ."));
                    at = store.get(&counters[1]).await.unwrap();
                }
            }
        });
        futures::future::join_all(tasks).await;
    });
}

fn number(entry: &Entry) -> u64 {
    std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
}

fn check_after_crash(path: &Path, acknowledged: &BTreeMap<String, Revision>) {
    let store = open(path);
    let listing = list(&store);
    let keys: BTreeMap<_, _> = listing.entries.iter().map(|entry| (entry.key.clone(), entry)).collect();
    for (key, revision) in acknowledged {
        assert_eq!(keys.get(key).map(|entry| entry.revision), Some(*revision), "{key} was answered");
    }
    assert!(listing.entries.iter().all(|entry| entry.revision <= listing.revision));
    for task in 0..4 {
        let (a, b) = (keys.get(&format!("/count/{task}/a")), keys.get(&format!("/count/{task}/b")));
        assert_eq!(a.map(|a| (&a.value, a.revision)), b.map(|b| (&b.value, b.revision)), "one transaction");
        let count = a.map_or(0, |entry| number(entry));
        let logged = keys.keys().filter(|key| key.starts_with(&format!("/log/{task}/"))).count();
        assert_eq!(logged as u64, count, "every count has its log entry and no more");
    }
}

#[test]
fn kill_9_while_the_file_is_made_leaves_nothing_that_prevents_a_start() {
    if let Some(path) = std::env::var_os(CHILD) {
        let _store = open(Path::new(&path));
        return say("OPEN");
    }
    for round in 0..15_u64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let name = "file::kill_9_while_the_file_is_made_leaves_nothing_that_prevents_a_start";
        let mut child = Ends(child(name, &path));
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_dir(folder.path()).unwrap().next().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(50));
        }
        std::thread::sleep(Duration::from_micros(round * 500));
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        let store = open(&path);
        commit(&store, Txn::new().create("/a", "x")).unwrap();
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["state.redb"], "nothing else is left");
    }
}

#[test]
fn a_second_process_is_told_that_the_file_is_used() {
    if let Some(path) = std::env::var_os(CHILD) {
        let _store = open(Path::new(&path));
        say("OPEN");
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut child = Ends(child("file::a_second_process_is_told_that_the_file_is_used", &path));
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.ends_with("OPEN")));
    let error = EmbeddedStore::open(&path).unwrap_err().to_string();
    assert!(
        error.contains(&*path.to_string_lossy()) && error.contains("is used by another process"),
        "{error}"
    );
    drop(child);
    open(&path);
}

#[test]
fn a_new_file_is_private_and_its_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one/two/state.redb");
    drop(open(&path));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn a_reopened_store_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = open(&path);
    let first = commit(&store, Txn::new().put("/a", "one").put("/b", "two")).unwrap();
    let last = commit(&store, Txn::new().remove("/b")).unwrap();
    let before = list(&store);
    drop(store);
    let store = open(&path);
    assert_eq!(list(&store), before);
    assert_eq!(commit(&store, Txn::new().update("/a", first, "three")).unwrap(), Revision(last.0 + 1));
    runtime().block_on(async {
        let mut events = store.watch("", last);
        assert_eq!(events.next().await.unwrap().unwrap().key(), "/a");
        let mut events = store.watch("", first);
        let ended = events.next().await.unwrap();
        assert!(matches!(ended, Err(StoreError::Compacted { oldest, .. }) if oldest == last), "{ended:?}");
    });
}

#[test]
fn watches_end_when_the_store_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("state.redb"));
    let mut events = store.watch("", Revision(0));
    commit(&store, Txn::new().put("/a", "one")).unwrap();
    drop(store);
    runtime().block_on(async {
        assert_eq!(events.next().await.unwrap().unwrap().key(), "/a");
        assert!(matches!(events.next().await, Some(Err(StoreError::Unavailable { .. }))));
        assert!(events.next().await.is_none());
    });
}

#[test]
fn commits_that_wait_are_written_before_the_store_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let store = open(&path);
    runtime().block_on(async {
        // Polled once, so that the transaction is in the queue, and then abandoned.
        let commits = (0..50).map(|n| store.commit(Txn::new().put(format!("/{n}"), "x")));
        futures::future::join_all(commits.map(|commit| tokio::time::timeout(Duration::ZERO, commit))).await;
    });
    drop(store);
    assert_eq!(list(&open(&path)).entries.len(), 50);
}

#[test]
fn a_file_of_a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(open(&path));
    let database = redb::Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 2).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = EmbeddedStore::open(&path).unwrap_err().to_string();
    assert!(error.contains("newer version") && error.contains("upgrade"), "{error}");
}

/// Asserts a refusal that names the file and what to do, and that the file is still as it was.
fn assert_damaged(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    match EmbeddedStore::open(path) {
        Err(error @ StoreError::Corrupt { .. }) => {
            let error = error.to_string();
            assert!(error.contains(&*path.to_string_lossy()) && error.contains("restore it"), "{error}");
        }
        other => panic!("expected Corrupt, not {other:?}"),
    }
    assert_eq!(fs::read(path).unwrap(), content, "the damaged file is left alone");
}

#[test]
fn what_is_no_state_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    assert_damaged(&path, b"");
    assert_damaged(&path, b"x");
    assert_damaged(&path, &[0; 10_000]);
    assert_damaged(&path, "not a database at all\n".repeat(1000).as_bytes());
    let other = folder.path().join("other.redb");
    drop(redb::Database::create(&other).unwrap());
    let foreign = EmbeddedStore::open(&other).unwrap_err();
    assert!(matches!(foreign, StoreError::Corrupt { .. }), "{foreign}");
    let error = EmbeddedStore::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("directory") || error.contains("regular file"), "{error}");
}

/// A state file with some hundred keys of different sizes, and what it holds. Copied while it is open it is as a
/// crash leaves it; each listing is one that it held after a commit.
fn sample(folder: &Path, closed: bool) -> (Vec<u8>, Vec<Listing>) {
    let path = folder.join("sample.redb");
    let store = open(&path);
    let mut listings = vec![list(&store)];
    for round in 0..8_usize {
        let txn = (0..40).fold(Txn::new(), |txn, n| {
            let value = Bytes::from(vec![b'a' + u8::try_from(round).unwrap(); n * 17 % 600]);
            txn.put(format!("/k/{}", (n * 7 + round * 13) % 150), value)
        });
        commit(&store, txn).unwrap();
        listings.push(list(&store));
    }
    if closed {
        drop(store);
        return (fs::read(&path).unwrap(), listings);
    }
    (fs::read(&path).unwrap(), listings)
}

/// Opens a damaged copy: it is refused with a sentence, or holds what was once committed.
fn open_damaged(path: &Path, content: &[u8], listings: &[Listing], what: &str) -> Option<usize> {
    fs::write(path, content).unwrap();
    match EmbeddedStore::open(path) {
        Ok(store) => {
            let listing = list(&store);
            let found = listings.iter().position(|known| *known == listing);
            let found = found.unwrap_or_else(|| panic!("{what}: opened with what was never committed"));
            commit(&store, Txn::new().put("/after", "x")).unwrap_or_else(|error| panic!("{what}: {error}"));
            drop(store);
            let reopened = list(&open(path));
            assert_eq!(reopened.entries.len(), listing.entries.len() + 1, "{what}");
            Some(found)
        }
        Err(error) => {
            assert!(error.to_string().contains(&*path.to_string_lossy()), "{what}: {error}");
            None
        }
    }
}

/// How many damaged copies each test opens.
const ROUNDS: usize = 150;

#[test]
fn flipped_bits_are_refused_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    for closed in [true, false] {
        let (intact, listings) = sample(&folder.path().join(format!("{closed}")), closed);
        let path = folder.path().join("flipped.redb");
        let newest = listings.len() - 1;
        assert_eq!(open_damaged(&path, &intact, &listings, "intact"), Some(newest));
        let used: Vec<usize> = (0..intact.len()).filter(|at| intact[*at] != 0).collect();
        let mut refused = 0;
        for _ in 0..ROUNDS {
            let mut damaged = intact.clone();
            let at = used[usize::try_from(random() % used.len() as u64).unwrap()];
            let bit = 1 << (random() % 8);
            damaged[at] ^= bit;
            let what = format!("closed {closed}, byte {at} ^ {bit:#04x}");
            match open_damaged(&path, &damaged, &listings, &what) {
                None => refused += 1,
                // After a crash redb cannot tell a damaged commit from one that the crash cut short.
                Some(found) => {
                    assert!(found == newest || (!closed && found + 1 == newest), "{what}: {found}")
                }
            }
        }
        assert!(refused > 0 || !closed, "some of the flips hit data");
    }
}

#[test]
fn lost_and_mixed_up_pages_are_refused_or_harmless() {
    const PAGE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    for closed in [true, false] {
        let (intact, listings) = sample(&folder.path().join(format!("{closed}")), closed);
        let path = folder.path().join("pages.redb");
        let pages = intact.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0));
        let pages: Vec<usize> = pages.map(|(page, _)| page * PAGE).collect();
        let random_page = || pages[usize::try_from(random() % pages.len() as u64).unwrap()];
        for round in 0..ROUNDS {
            let mut damaged = intact.clone();
            let (from, to) = (random_page(), random_page());
            match round % 2 {
                0 => damaged[to..to + PAGE].fill(0),
                _ => damaged.copy_within(from..from + PAGE, to),
            }
            let what = format!("closed {closed}, page at {to} from {from}, round {round}");
            let found = open_damaged(&path, &damaged, &listings, &what);
            assert!(found.is_none_or(|found| found + 2 >= listings.len()), "{what}: {found:?}");
        }
    }
}

#[test]
fn truncated_files_are_refused_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    for closed in [true, false] {
        let (intact, listings) = sample(&folder.path().join(format!("{closed}")), closed);
        let path = folder.path().join("truncated.redb");
        for round in 0..ROUNDS {
            let length = match round {
                0..40 => round * 4096,
                _ => usize::try_from(random() % intact.len() as u64).unwrap(),
            };
            let what = format!("closed {closed}, cut to {length} of {}", intact.len());
            let found = open_damaged(&path, &intact[..length], &listings, &what);
            assert!(found.is_none_or(|found| found + 2 >= listings.len()), "{what}: {found:?}");
        }
    }
}

/// Runs a test on a small file system of its own, which is gone with the thread.
fn on_a_small_disk(size: &str, test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().unwrap();
    let mounted = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(&*format!("size={size}")))
    };
    std::thread::scope(|scope| {
        scope.spawn(|| match mounted() {
            Ok(()) => test(folder.path()),
            Err(error) => missing("root", &format!("a tmpfs cannot be mounted: {error}")),
        });
    });
}

/// Takes all space that is left.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("ballast");
    let mut ballast = fs::File::create(&path).unwrap();
    for size in [64 * 1024, 4096, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
    path
}

#[test]
fn a_full_disk_refuses_changes_and_the_store_works_again_when_there_is_space() {
    on_a_small_disk("8m", |folder| {
        let path = folder.join("state.redb");
        let store = open(&path);
        let large = || Bytes::from(vec![7; 1024 * 1024]);
        let kept = commit(&store, Txn::new().put("/kept", "x")).unwrap();
        let mut events = store.watch("", kept);
        for round in 0..5 {
            let ballast = fill(folder);
            let before = list(&store);
            let mut refused = 0;
            for attempt in 0..6 {
                let key = format!("/large/{round}/{attempt}");
                match commit(&store, Txn::new().put(key, large()).put("/kept", format!("{round}"))) {
                    Ok(_) => {}
                    Err(StoreError::Unavailable { why }) => {
                        assert!(why.contains(&*path.to_string_lossy()), "{why}");
                        assert!(why.to_lowercase().contains("no space"), "{why}");
                        refused += 1;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(refused > 0, "6 MiB more cannot fit");
            let during = list(&store);
            assert_eq!(during.entries.len(), before.entries.len() + 6 - refused, "nothing half done");
            fs::remove_file(ballast).unwrap();
            commit(&store, Txn::new().put(format!("/small/{round}"), "x")).expect("there is space again");
            let large: Vec<_> =
                list(&store).entries.into_iter().filter(|entry| entry.key.starts_with("/large/")).collect();
            let txn =
                large.iter().fold(Txn::new(), |txn, entry| txn.delete(entry.key.clone(), entry.revision));
            commit(&store, txn).unwrap();
        }
        let last = list(&store);
        drop(store);
        assert_eq!(list(&open(&path)), last);
        let replayed = runtime().block_on(async {
            let mut keys = BTreeMap::from([("/kept".to_owned(), Bytes::from("x"))]);
            while let Some(Ok(event)) = events.next().await {
                match event {
                    Event::Put(entry) => keys.insert(entry.key, entry.value),
                    Event::Delete { key, .. } => keys.remove(&key),
                };
            }
            keys
        });
        let held: BTreeMap<_, _> = last.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        assert_eq!(replayed, held, "the watch missed nothing");
    });
}

#[test]
fn a_file_cannot_be_made_on_a_full_disk_but_can_when_there_is_space() {
    on_a_small_disk("4m", |folder| {
        let path = folder.join("state.redb");
        let ballast = fill(folder);
        let error = EmbeddedStore::open(&path).unwrap_err().to_string();
        assert!(
            error.contains(&*path.to_string_lossy()) && error.to_lowercase().contains("no space"),
            "{error}"
        );
        let names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["ballast"], "nothing is left behind");
        fs::remove_file(ballast).unwrap();
        commit(&open(&path), Txn::new().put("/a", "x")).unwrap();
    });
}
