//! What goes over the socket.

use crate::model::key::CALICO_ROOT;
use crate::store::{Entry, Guard, Listing, Op, Revision, StoreError, Txn};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Reads one key.
pub(super) const GET: &str = "/v1/get";
/// Reads all keys with a prefix.
pub(super) const LIST: &str = "/v1/list";
/// Applies a transaction.
pub(super) const COMMIT: &str = "/v1/commit";
/// Asks the policy graph.
pub(super) const POLICY: &str = "/v1/policy";

/// An answer: what was asked for, or why not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer<T> {
    Ok(T),
    Error(WireError),
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub(super) enum WireError {
    Conflict {
        key: String,
    },
    Unavailable {
        why: String,
    },
    Corrupt {
        key: String,
        why: String,
    },
    Invalid {
        why: String,
    },
    /// The request itself is not one that is served.
    Refused {
        why: String,
    },
}

impl From<StoreError> for WireError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { key } => Self::Conflict { key },
            StoreError::Corrupt { key, why } => Self::Corrupt { key, why },
            StoreError::Invalid { why } => Self::Invalid { why },
            StoreError::Unavailable { why } => Self::Unavailable { why },
            compacted @ StoreError::Compacted { .. } => Self::Unavailable { why: compacted.to_string() },
        }
    }
}

impl From<WireError> for StoreError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Conflict { key } => Self::Conflict { key },
            WireError::Corrupt { key, why } => Self::Corrupt { key, why },
            WireError::Unavailable { why } => Self::Unavailable { why },
            WireError::Invalid { why } | WireError::Refused { why } => Self::Invalid { why },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyRequest {
    pub(super) key: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PrefixRequest {
    pub(super) prefix: String,
}

/// A value: text where it is one, so that people can read along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Payload {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Bytes> for Payload {
    fn from(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }
}

impl From<Payload> for Bytes {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Text(text) => text.into(),
            Payload::Bytes(bytes) => bytes.into(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireEntry {
    key: String,
    value: Payload,
    revision: u64,
}

impl From<&Entry> for WireEntry {
    fn from(entry: &Entry) -> Self {
        Self { key: entry.key.clone(), value: (&entry.value).into(), revision: entry.revision.0 }
    }
}

impl From<WireEntry> for Entry {
    fn from(entry: WireEntry) -> Self {
        Self { key: entry.key, value: entry.value.into(), revision: Revision(entry.revision) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireListing {
    entries: Vec<WireEntry>,
    revision: u64,
}

impl From<&Listing> for WireListing {
    fn from(listing: &Listing) -> Self {
        Self { entries: listing.entries.iter().map(WireEntry::from).collect(), revision: listing.revision.0 }
    }
}

impl From<WireListing> for Listing {
    fn from(listing: WireListing) -> Self {
        let entries = listing.entries.into_iter().map(Entry::from).collect();
        Self { entries, revision: Revision(listing.revision) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireRevision {
    pub(super) revision: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WireGuard {
    Absent { key: String },
    At { key: String, revision: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WireOp {
    Put { key: String, value: Payload },
    Delete { key: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireTxn {
    guards: Vec<WireGuard>,
    ops: Vec<WireOp>,
}

impl From<&Txn> for WireTxn {
    fn from(txn: &Txn) -> Self {
        let guard = |guard: &Guard| match guard {
            Guard::Absent(key) => WireGuard::Absent { key: key.clone() },
            Guard::At(key, revision) => WireGuard::At { key: key.clone(), revision: revision.0 },
        };
        let op = |op: &Op| match op {
            Op::Put(key, value) => WireOp::Put { key: key.clone(), value: value.into() },
            Op::Delete(key) => WireOp::Delete { key: key.clone() },
        };
        Self { guards: txn.guards.iter().map(guard).collect(), ops: txn.ops.iter().map(op).collect() }
    }
}

impl From<WireTxn> for Txn {
    fn from(txn: WireTxn) -> Self {
        let guard = |guard| match guard {
            WireGuard::Absent { key } => Guard::Absent(key),
            WireGuard::At { key, revision } => Guard::At(key, Revision(revision)),
        };
        let op = |op| match op {
            WireOp::Put { key, value } => Op::Put(key, value.into()),
            WireOp::Delete { key } => Op::Delete(key),
        };
        Self {
            guards: txn.guards.into_iter().map(guard).collect(),
            ops: txn.ops.into_iter().map(op).collect(),
        }
    }
}

/// Whether a key or prefix is below what is served.
pub(super) fn served(key: &str) -> Result<(), WireError> {
    if key.starts_with(CALICO_ROOT) {
        return Ok(());
    }
    Err(WireError::Refused {
        why: format!("{key:?} is not below {CALICO_ROOT}, which is all that is served"),
    })
}

/// Whether all keys are below what is served, and whatever is changed is guarded.
pub(super) fn acceptable(txn: &Txn) -> Result<(), WireError> {
    let guarded: BTreeSet<&str> = txn.guards.iter().map(Guard::key).collect();
    txn.guards.iter().map(Guard::key).chain(txn.ops.iter().map(Op::key)).try_for_each(served)?;
    match txn.ops.iter().find(|op| !guarded.contains(op.key())) {
        None => Ok(()),
        Some(bare) => {
            let why = format!("the change of {} has no guard: say what it was read as", bare.key());
            Err(WireError::Refused { why })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_survive_the_wire() {
        let txn = Txn::new()
            .create("/calico/a", "text")
            .update("/calico/b", Revision(7), vec![0xff, 0xfe])
            .delete("/calico/c", Revision(8))
            .guard(Guard::Absent("/calico/d".to_owned()));
        let text = serde_json::to_string(&WireTxn::from(&txn)).unwrap();
        let back: WireTxn = serde_json::from_str(&text).unwrap();
        assert_eq!(Txn::from(back), txn);
    }

    #[test]
    fn only_guarded_changes_below_calico_are_acceptable() {
        assert_eq!(acceptable(&Txn::new().create("/calico/a", "x")), Ok(()));
        for refused in [
            Txn::new().put("/calico/a", "x"),
            Txn::new().remove("/calico/a"),
            Txn::new().create("/libnetwork/v1/network/x", "x"),
            Txn::new().guard(Guard::Absent("/other".to_owned())),
            Txn::new().create("", "x"),
        ] {
            assert!(matches!(acceptable(&refused), Err(WireError::Refused { .. })), "{refused:?}");
        }
    }

    #[test]
    fn errors_of_the_store_keep_their_meaning() {
        let conflict: StoreError = WireError::from(StoreError::Conflict { key: "k".to_owned() }).into();
        assert!(conflict.is_conflict());
    }
}
