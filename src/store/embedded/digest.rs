//! A checksum over all keys, kept with them in the state file (pure). redb checks its pages only when it repairs, so
//! a flipped bit in a file that was closed properly would pass for data; this catches it when the file is opened.
//!
//! Every entry has a hash and the digest is their sum, so that a commit adjusts it in the time of its own changes.

use crate::store::state::{State, Value};
use std::collections::BTreeMap;

/// FNV-1a's offset basis and prime for 64 bits (RFC 9923): short, stable for ever, and enough against accidents.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// The digest of all keys.
pub(super) fn of(keys: &BTreeMap<String, Value>) -> u64 {
    keys.iter().fold(0, |sum, (key, value)| sum.wrapping_add(of_entry(key, value)))
}

/// The digest after changes on top of `base`, whose digest is `before`.
pub(super) fn after(before: u64, base: &State, changed: &BTreeMap<String, Option<Value>>) -> u64 {
    changed.iter().fold(before, |sum, (key, new)| {
        let old = base.value(key).map_or(0, |value| of_entry(key, value));
        let new = new.as_ref().map_or(0, |value| of_entry(key, value));
        sum.wrapping_sub(old).wrapping_add(new)
    })
}

fn of_entry(key: &str, value: &Value) -> u64 {
    // The key's length goes first, so that bytes cannot move between key and value unnoticed.
    let length = (key.len() as u64).to_le_bytes();
    let revision = value.revision.0.to_le_bytes();
    let parts = [&length[..], &revision[..], key.as_bytes(), &value.bytes[..]];
    parts.into_iter().flatten().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Txn;
    use crate::store::draft::Draft;

    #[test]
    fn a_digest_adjusted_by_changes_is_that_of_the_changed_keys() {
        let mut state = State::default();
        let mut digest = of(state.keys());
        let txns = [
            Txn::new().put("a", "1").put("b", "2"),
            Txn::new().put("a", "3").remove("b").put("c", ""),
            Txn::new().remove("a").remove("absent"),
        ];
        for txn in txns {
            let mut draft = Draft::new(&state);
            draft.add(txn).unwrap();
            let changes = draft.finish();
            digest = after(digest, &state, &changes.keys);
            state.apply(changes.events, changes.revision);
            assert_eq!(digest, of(state.keys()));
        }
        assert_ne!(digest, 0);
    }
}
