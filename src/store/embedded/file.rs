//! The state file: a redb database with the keys, the revision, and a digest that proves both.
//!
//! A new file is made under another name and linked into place when it is complete, so that a file under the real
//! name is never half made: an empty or foreign one is damage, and is never written over.

use super::digest;
use super::failure::{Failure, guarded};
use crate::store::Revision;
use crate::store::draft::Changes;
use crate::store::state::Value;
use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The format of the tables below; a file with a higher one is refused.
pub(super) const FORMAT: u64 = 1;

/// Key to revision and value.
const ENTRIES: TableDefinition<'_, &[u8], (u64, &[u8])> = TableDefinition::new("entries");

/// `format`, `revision` and `digest`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// redb's page cache, in bytes. Small, because reads are answered from memory and redb only writes.
const CACHE: usize = 4 * 1024 * 1024;

/// What a state file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) keys: BTreeMap<String, Value>,
    pub(super) revision: Revision,
    pub(super) digest: u64,
}

/// A state file, open and locked, or closed after an error.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    database: Option<Database>,
}

impl StateFile {
    /// Opens a state file, or makes an empty one if there is none.
    pub(super) fn open(path: &Path) -> Result<(Self, Content), Failure> {
        let (database, content) = match open(path) {
            Err(Failure::Absent) => create(path)?,
            opened => opened?,
        };
        // What a crash in the middle of making the file left; nobody can be making it now.
        let _ = fs::remove_file(unfinished(path));
        Ok((Self { path: path.to_owned(), database: Some(database) }, content))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the last write succeeded or the file was opened again since.
    pub(super) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Opens the file again after an error and returns what it holds. A file that is gone is an error here, because
    /// an empty one would lose what the callers know to be stored.
    pub(super) fn reopen(&mut self) -> Result<Content, Failure> {
        self.close();
        let (database, content) = open(&self.path)?;
        self.database = Some(database);
        Ok(content)
    }

    /// Makes changes durable, all or none. After an error the file is closed, and only [`Self::reopen`] tells whether
    /// the changes are in it: redb may fail after the point of no return.
    pub(super) fn write(&mut self, changes: &Changes, digest: u64) -> Result<(), Failure> {
        self.transact(|database| {
            commit(database, changes.revision, digest, |txn| {
                let mut entries = txn.open_table(ENTRIES)?;
                for (key, value) in &changes.keys {
                    match value {
                        Some(value) => {
                            entries.insert(key.as_bytes(), (value.revision.0, &value.bytes[..]))?
                        }
                        None => entries.remove(key.as_bytes())?,
                    };
                }
                Ok(())
            })
        })
    }

    /// Puts the whole content in place of what the file holds.
    pub(super) fn restore(
        &mut self,
        keys: &BTreeMap<String, Value>,
        revision: Revision,
        digest: u64,
    ) -> Result<(), Failure> {
        self.transact(|database| overwrite(database, keys, revision, digest))
    }

    fn transact(&mut self, work: impl FnOnce(&Database) -> Result<(), redb::Error>) -> Result<(), Failure> {
        let Some(database) = &self.database else {
            return Err(Failure::Io("is closed after an error".to_owned()));
        };
        let done = guarded(Failure::Io, || Ok(work(database)?));
        if done.is_err() {
            self.close();
        }
        done
    }

    /// Closes the file as an error does.
    #[cfg(test)]
    pub(super) fn fail(&mut self) {
        self.close();
    }

    fn close(&mut self) {
        if let Some(database) = self.database.take() {
            close(database);
        }
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        self.close();
    }
}

/// Closes a database. redb records a clean shutdown then; should it panic over its own damage, the next open repairs.
fn close(database: Database) {
    let closed = guarded(Failure::Io, || {
        drop(database);
        Ok(())
    });
    if let Err(failure) = closed {
        log::warn!("closing the state file: {failure:?}");
    }
}

/// Opens an existing state file and proves its content.
fn open(path: &Path) -> Result<(Database, Content), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Failure::Io("is not a regular file".to_owned()));
    }
    if metadata.len() == 0 {
        return Err(Failure::Damaged("it is empty".to_owned()));
    }
    let repaired = Arc::new(AtomicBool::new(false));
    let mut database = guarded(Failure::Damaged, || database(file, &repaired))?;
    // The database is outlived by what uses it, so that a panic there is over before it is closed.
    match guarded(Failure::Damaged, || prove(&mut database, repaired.load(Ordering::Relaxed))) {
        Ok(content) => Ok((database, content)),
        Err(failure) => {
            close(database);
            Err(failure)
        }
    }
}

fn database(file: File, repaired: &Arc<AtomicBool>) -> Result<Database, Failure> {
    let repaired = Arc::clone(repaired);
    Builder::new()
        .set_cache_size(CACHE)
        .set_repair_callback(move |_| repaired.store(true, Ordering::Relaxed))
        .create_file(file)
        .map_err(|error| redb::Error::from(error).into())
}

/// Reads everything, and has redb check what it would only find out later: which pages are free. A repair on opening
/// has done that already.
fn prove(database: &mut Database, repaired: bool) -> Result<Content, Failure> {
    let content = load(database)?;
    if repaired || database.check_integrity().map_err(redb::Error::from)? {
        return Ok(content);
    }
    // redb's repair may have gone back to an older commit; the content read before is proven by its digest.
    log::warn!("the state file's page table was damaged and has been rebuilt; no data was lost");
    overwrite(database, &content.keys, content.revision, content.digest)?;
    Ok(content)
}

/// Makes an empty state file, with its folder if that is absent.
fn create(path: &Path) -> Result<(Database, Content), Failure> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Failure::Io(format!("its folder cannot be made: {error}")))?;
    let unfinished = unfinished(path);
    let made = make(&unfinished).and_then(|database| {
        let linked = link(&unfinished, path, folder);
        Ok((database, linked?))
    });
    let _ = fs::remove_file(&unfinished);
    let (database, linked) = made?;
    match linked {
        Linked::Ours => Ok((database, Content { keys: BTreeMap::new(), revision: Revision(0), digest: 0 })),
        Linked::Theirs => {
            close(database);
            open(path)
        }
    }
}

/// Who made the file that now has the real name.
enum Linked {
    Ours,
    Theirs,
}

fn link(unfinished: &Path, path: &Path, folder: &Path) -> Result<Linked, Failure> {
    match fs::hard_link(unfinished, path) {
        Ok(()) => {
            File::open(folder)?.sync_all()?;
            Ok(Linked::Ours)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Linked::Theirs),
        // Another process that makes the same file has taken ours away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::Busy),
        Err(error) => Err(Failure::Io(format!("cannot be made: {error}"))),
    }
}

fn make(unfinished: &Path) -> Result<Database, Failure> {
    let failed = |error: io::Error| Failure::Io(format!("cannot be made: {error}"));
    match fs::remove_file(unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(unfinished);
    let file = file.map_err(failed)?;
    let database = guarded(Failure::Io, || database(file, &Arc::default()))?;
    match guarded(Failure::Io, || Ok(overwrite(&database, &BTreeMap::new(), Revision(0), 0)?)) {
        Ok(()) => Ok(database),
        Err(failure) => {
            close(database);
            Err(failure)
        }
    }
}

/// The name of a file that is not complete yet.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    PathBuf::from(name)
}

fn overwrite(
    database: &Database,
    keys: &BTreeMap<String, Value>,
    revision: Revision,
    digest: u64,
) -> Result<(), redb::Error> {
    commit(database, revision, digest, |txn| {
        txn.delete_table(ENTRIES)?;
        let mut entries = txn.open_table(ENTRIES)?;
        for (key, value) in keys {
            entries.insert(key.as_bytes(), (value.revision.0, &value.bytes[..]))?;
        }
        Ok(())
    })
}

/// One durable transaction: the changes of the entries, and what proves them.
fn commit(
    database: &Database,
    revision: Revision,
    digest: u64,
    change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    change(&txn)?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("revision", revision.0)?;
        meta.insert("digest", digest)?;
    }
    txn.commit()?;
    Ok(())
}

/// Reads everything and holds it against the digest.
fn load(database: &Database) -> Result<Content, Failure> {
    let txn = database.begin_read().map_err(redb::Error::from)?;
    let meta = txn.open_table(META).map_err(redb::Error::from)?;
    let number = |name: &str| match meta.get(name).map_err(redb::Error::from)? {
        Some(number) => Ok(number.value()),
        None => Err(Failure::Damaged(format!("its {name} is missing"))),
    };
    let format = number("format")?;
    if format > FORMAT {
        return Err(Failure::Newer(format));
    }
    let revision = number("revision")?;
    let mut keys = BTreeMap::new();
    let entries = txn.open_table(ENTRIES).map_err(redb::Error::from)?;
    for row in entries.iter().map_err(redb::Error::from)? {
        let (key, value) = row.map_err(redb::Error::from)?;
        let key = std::str::from_utf8(key.value()).map_err(|_| damaged_data())?.to_owned();
        let (revision, bytes) = value.value();
        keys.insert(key, Value { revision: Revision(revision), bytes: Bytes::copy_from_slice(bytes) });
    }
    let digest = number("digest")?;
    let newest = keys.values().map(|value| value.revision.0).max().unwrap_or_default();
    if digest != digest::of(&keys) || newest > revision {
        return Err(damaged_data());
    }
    Ok(Content { keys, revision: Revision(revision), digest })
}

fn damaged_data() -> Failure {
    Failure::Damaged("its data does not match its checksum".to_owned())
}
