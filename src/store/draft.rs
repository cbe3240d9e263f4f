//! Transactions on top of a state that they do not change yet (pure). A group of transactions is drafted one after
//! the other, each seeing the ones before it, and then written and applied as a whole.

use super::state::{State, Value};
use super::{Entry, Event, Guard, Op, Revision, StoreError, Txn};
use std::collections::BTreeMap;

/// Changes that are not applied yet.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    base: &'a State,
    changed: BTreeMap<String, Option<Value>>,
    events: Vec<Event>,
    revision: Revision,
}

/// What a draft comes to.
#[derive(Debug)]
pub(super) struct Changes {
    /// Every key that differs from the base: its new value, or `None` if it is to be deleted.
    pub(super) keys: BTreeMap<String, Option<Value>>,
    /// Every change, in order.
    pub(super) events: Vec<Event>,
    /// The revision after the last one.
    pub(super) revision: Revision,
}

impl<'a> Draft<'a> {
    pub(super) fn new(base: &'a State) -> Self {
        Self { base, changed: BTreeMap::new(), events: Vec::new(), revision: base.revision() }
    }

    /// Adds one transaction, or says why it cannot be applied and leaves no trace of it. As with etcd, one that
    /// changes nothing (it has no operation, or deletes what does not exist) makes no revision.
    pub(super) fn add(&mut self, txn: Txn) -> Result<Revision, StoreError> {
        txn.validate()?;
        if let Some(failed) = txn.guards.iter().find(|guard| !self.holds(guard)) {
            return Err(StoreError::Conflict { key: failed.key().to_owned() });
        }
        let revision = Revision(self.revision.0.saturating_add(1));
        for op in txn.ops {
            match op {
                Op::Put(key, bytes) => {
                    let entry = Entry { key: key.clone(), value: bytes.clone(), revision };
                    self.events.push(Event::Put(entry));
                    self.changed.insert(key, Some(Value { revision, bytes }));
                    self.revision = revision;
                }
                Op::Delete(key) if self.value(&key).is_some() => {
                    self.events.push(Event::Delete { key: key.clone(), revision });
                    self.changed.insert(key, None);
                    self.revision = revision;
                }
                Op::Delete(_) => {}
            }
        }
        Ok(self.revision)
    }

    pub(super) fn finish(self) -> Changes {
        Changes { keys: self.changed, events: self.events, revision: self.revision }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.base.value(key),
        }
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Absent(key) => self.value(key).is_none(),
            Guard::At(key, revision) => self.value(key).is_some_and(|value| value.revision == *revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transaction_sees_the_ones_before_it() {
        let state = State::default();
        let mut draft = Draft::new(&state);
        assert_eq!(draft.add(Txn::new().create("a", "1")).unwrap(), Revision(1));
        assert!(draft.add(Txn::new().create("a", "2").put("b", "2")).unwrap_err().is_conflict());
        assert_eq!(draft.add(Txn::new().update("a", Revision(1), "3")).unwrap(), Revision(2));
        assert_eq!(draft.add(Txn::new().delete("a", Revision(2))).unwrap(), Revision(3));
        assert_eq!(draft.add(Txn::new().remove("a").remove("b")).unwrap(), Revision(3));
        assert_eq!(draft.add(Txn::new().create("a", "4")).unwrap(), Revision(4));
        let changes = draft.finish();
        assert_eq!(changes.revision, Revision(4));
        assert_eq!(changes.events.len(), 4);
        assert_eq!(changes.keys.len(), 1, "the refused transaction left no trace");
    }
}
