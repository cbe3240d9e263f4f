//! A guarded transaction: conditions on keys, and what to do if all of them hold.

use super::{Revision, StoreError};
use bytes::Bytes;
use std::collections::BTreeSet;

/// A condition on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was last changed at this revision.
    At(String, Revision),
}

impl Guard {
    /// The key that the condition is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::At(key, _) => key,
        }
    }
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a value.
    Put(String, Bytes),
    /// Deletes the key; deleting what does not exist is not an error (guard it if it must exist).
    Delete(String),
}

impl Op {
    /// The key that is changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Guards and operations; built with the verbs below. A key is changed at most once (etcd refuses more).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub guards: Vec<Guard>,
    /// Applied in order if they do.
    pub ops: Vec<Op>,
}

impl Txn {
    /// The most operations, and the most guards, of one transaction: etcd's default `--max-txn-ops`. All backends
    /// hold it, so that what works with one works with all.
    pub const MAX_OPS: usize = 128;

    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a key that must not exist yet.
    #[must_use]
    pub fn create(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.guards.push(Guard::Absent(key.clone()));
        self.ops.push(Op::Put(key, value.into()));
        self
    }

    /// Writes a key that must still be as it was read.
    #[must_use]
    pub fn update(mut self, key: impl Into<String>, at: Revision, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.guards.push(Guard::At(key.clone(), at));
        self.ops.push(Op::Put(key, value.into()));
        self
    }

    /// Writes a key that was read at `at`, or must not exist if it was not there.
    #[must_use]
    pub fn upsert(self, key: impl Into<String>, at: Option<Revision>, value: impl Into<Bytes>) -> Self {
        match at {
            Some(revision) => self.update(key, revision, value),
            None => self.create(key, value),
        }
    }

    /// Deletes a key that must still be as it was read.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>, at: Revision) -> Self {
        let key = key.into();
        self.guards.push(Guard::At(key.clone(), at));
        self.ops.push(Op::Delete(key));
        self
    }

    /// Writes a key whatever stands there. Only for keys that nobody else writes.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put(key.into(), value.into()));
        self
    }

    /// Deletes a key whatever stands there. Only for keys that nobody else writes.
    #[must_use]
    pub fn remove(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete(key.into()));
        self
    }

    /// Adds a condition on a key that is not changed.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }
    /// Refuses what etcd would refuse, in every backend: an empty key, a key changed twice, too many operations.
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        let invalid = |why| Err(StoreError::Invalid { why });
        let longest = self.guards.len().max(self.ops.len());
        if longest > Self::MAX_OPS {
            return invalid(format!("{longest} operations or guards; at most {} are allowed", Self::MAX_OPS));
        }
        if self.guards.iter().map(Guard::key).chain(self.ops.iter().map(Op::key)).any(str::is_empty) {
            return invalid("a key is empty".to_owned());
        }
        let mut changed = BTreeSet::new();
        match self.ops.iter().find(|op| !changed.insert(op.key())) {
            Some(twice) => invalid(format!("{} is changed more than once", twice.key())),
            None => Ok(()),
        }
    }
}
