//! The datastore seam: four verbs over keys and bytes, and a revision that orders every change.
//!
//! Semantics are etcd's, because [`etcd`] is one of the backends: one global revision that grows with each commit, a
//! key's revision is that of its last change, a transaction applies all of its operations or none, a watch resumes
//! after any revision that has not been compacted. [`memory`] and [`embedded`] give the same; `tests/store.rs` holds
//! all of them against one suite.
//!
//! Callers use [`typed`] for documents and [`retry`] for compare-and-swap loops.
//!
//! ```text
//! faulty: a test double in front of any of these; replica: answers from memory in front of etcd
//!    memory        embedded ---- writer thread ---- state file (redb)        etcd ---- the cluster's etcd
//!          \       /
//!           mirror: a state behind a lock, and its watches; draft: transactions on top of a state
//! ```

mod draft;
pub mod embedded;
pub mod etcd;
pub mod faulty;
pub mod memory;
mod mirror;
pub mod replica;
pub mod retry;
mod state;
mod txn;
pub mod typed;

pub use embedded::EmbeddedStore;
pub use etcd::{EtcdOptions, EtcdStore};
pub use faulty::FaultyStore;
pub use memory::MemoryStore;
pub use replica::ReplicaStore;
pub use txn::{Guard, Op, Txn};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::sync::Arc;

/// Orders all changes of a store. 0 is before every change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One key as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Full key.
    pub key: String,
    /// Value.
    pub value: Bytes,
    /// Revision of the key's last change: what [`Guard::At`] compares.
    pub revision: Revision,
}

/// All keys under a prefix, as of one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// In byte order of the keys.
    pub entries: Vec<Entry>,
    /// The store's revision when the list was made: where a watch goes on without a gap.
    pub revision: Revision,
}

/// One change, as a watch reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put(Entry),
    /// The key was deleted at this revision.
    Delete {
        /// Full key.
        key: String,
        /// Revision of the deletion.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What a caller can be told. Each variant is a question that a caller asks.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A guard did not hold; nothing was changed.
    #[error("{key} was changed by someone else")]
    Conflict {
        /// The first key whose guard failed.
        key: String,
    },
    /// The watch's starting point is no longer kept: list again.
    #[error("revision {from} is compacted away; the oldest kept is {oldest}")]
    Compacted {
        /// Where the watch was to start.
        from: Revision,
        /// The oldest revision a watch can start after.
        oldest: Revision,
    },
    /// The datastore cannot be reached or cannot write (also: its disk is full). Trying again later may help.
    #[error("the datastore is unavailable: {why}")]
    Unavailable {
        /// What the backend said.
        why: String,
    },
    /// The value under a key, or the file that holds all of them, is not what it should be.
    #[error("{key} cannot be read: {why}")]
    Corrupt {
        /// The key; for damage of a whole state file, its name.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The transaction can never be applied, whatever the store holds: a mistake of the caller.
    #[error("the transaction is malformed: {why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
}

impl StoreError {
    /// Whether a guard failed, so that reading again and retrying makes sense.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// A datastore. All methods are safe to call from many tasks at once.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// One key, or `None` if it does not exist.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// All keys that begin with `prefix` (plain byte prefix: end it with `/` where a path is meant).
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Applies all operations if all guards hold, else none. The returned revision is that of every key put.
    /// When it returns `Ok`, the change survives a crash of this process and of the machine.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Every change under `prefix` after `from`, in order, without a gap; ends with an error, after which the caller
    /// lists again.
    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>>;
}

/// A store that many parts share.
pub type SharedStore = Arc<dyn Store>;
