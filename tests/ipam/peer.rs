//! A real datastore beside the double: it is asked the same, and what it answers must be the same.

use calico_libnetwork::store::{Entry, Guard, Op, Revision, SharedStore, StoreError, Txn};
use std::collections::{BTreeMap, BTreeSet};

/// What stands behind a double. Its keys stand below a prefix of their own, so that worlds share one datastore.
pub(crate) struct Peer {
    store: SharedStore,
    prefix: String,
    /// One request at a time, in the double's order: revisions of the double, and what they are over there.
    pub(crate) turn: tokio::sync::Mutex<Revisions>,
}

/// Operations in one transaction at most, as etcd has it.
const BATCH: usize = 100;

/// A revision that no key has over there: what never was here was never there.
const NEVER: u64 = u32::MAX as u64;

/// Revisions of the double by key and revision of the datastore, and those of the datastore by the double's.
#[derive(Debug, Default)]
pub(crate) struct Revisions {
    here: BTreeMap<(String, u64), u64>,
    there: BTreeMap<u64, u64>,
}

impl Revisions {
    fn note(&mut self, txn: &Txn, here: u64, there: u64) {
        self.here.extend(txn.ops.iter().map(|op| ((op.key().to_owned(), there), here)));
        self.there.insert(here, there);
    }

    fn there(&self, at: Revision) -> Revision {
        Revision(self.there.get(&at.0).copied().unwrap_or(NEVER))
    }
}

impl Peer {
    #[allow(dead_code, reason = "one of the two programs that share this file makes one")]
    pub(crate) fn new(store: SharedStore, prefix: String) -> Self {
        Self { store, prefix, turn: tokio::sync::Mutex::default() }
    }

    fn there(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn translate(&self, revisions: &Revisions, txn: &Txn) -> Txn {
        let guard = |guard: &Guard| match guard {
            Guard::Absent(key) => Guard::Absent(self.there(key)),
            Guard::At(key, at) => Guard::At(self.there(key), revisions.there(*at)),
        };
        let op = |op: &Op| match op {
            Op::Put(key, value) => Op::Put(self.there(key), value.clone()),
            Op::Delete(key) => Op::Delete(self.there(key)),
        };
        Txn { guards: txn.guards.iter().map(guard).collect(), ops: txn.ops.iter().map(op).collect() }
    }

    /// Does over there what was done here without asking, each as its revision; many at once, as far as no key is
    /// changed twice.
    pub(crate) async fn follow(&self, revisions: &mut Revisions, untold: &[(Txn, u64)]) {
        let mut left = untold;
        while !left.is_empty() {
            let mut keys = BTreeSet::new();
            let fresh = |(txn, _): &&(Txn, u64)| {
                keys.len() + txn.ops.len() <= BATCH
                    && txn.guards.is_empty()
                    && txn.ops.iter().all(|op| keys.insert(op.key().to_owned()))
            };
            let count = left.iter().take_while(fresh).count().max(1);
            let (now, later) = left.split_at(count);
            let guards = now.iter().flat_map(|(txn, _)| txn.guards.clone()).collect();
            let all = Txn { guards, ops: now.iter().flat_map(|(txn, _)| txn.ops.clone()).collect() };
            let there = self.store.commit(self.translate(revisions, &all)).await.unwrap();
            now.iter().for_each(|(txn, here)| revisions.note(txn, *here, there.0));
            left = later;
        }
    }

    /// Commits, as what will be revision `here` if it succeeds. A conflict names the key as it is called here.
    pub(crate) async fn commit(
        &self,
        revisions: &mut Revisions,
        txn: &Txn,
        here: u64,
    ) -> Result<Revision, StoreError> {
        match self.store.commit(self.translate(revisions, txn)).await {
            Ok(there) => {
                revisions.note(txn, here, there.0);
                Ok(Revision(here))
            }
            Err(StoreError::Conflict { key }) => {
                Err(StoreError::Conflict { key: key[self.prefix.len()..].to_owned() })
            }
            Err(error) => Err(error),
        }
    }

    /// What stands under a prefix, with keys and revisions as they are here.
    pub(crate) async fn list(&self, revisions: &Revisions, prefix: &str) -> Vec<Entry> {
        let found = self.store.list(&self.there(prefix)).await.unwrap().entries;
        found.into_iter().map(|entry| self.translate_back(revisions, entry)).collect()
    }

    /// One key, likewise.
    pub(crate) async fn get(&self, revisions: &Revisions, key: &str) -> Option<Entry> {
        let found = self.store.get(&self.there(key)).await.unwrap()?;
        Some(self.translate_back(revisions, found))
    }

    fn translate_back(&self, revisions: &Revisions, entry: Entry) -> Entry {
        let key = entry.key[self.prefix.len()..].to_owned();
        let value = entry.value;
        let revision = revisions.here[&(key.clone(), entry.revision.0)];
        Entry { key, value, revision: Revision(revision) }
    }
}
