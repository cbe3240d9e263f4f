//! A node's claim on a block (`libcalico-go/lib/backend/model/block_affinity.go`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How far a claim has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    /// The block is this node's. A missing or empty state means the same (written before Calico v3.0.5).
    #[default]
    #[serde(alias = "")]
    Confirmed,
    /// The node is about to create the block.
    Pending,
    /// The node is about to give the block up.
    PendingDeletion,
}

/// Value under an affinity key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockAffinity {
    /// How far the claim has come.
    #[serde(default)]
    pub state: AffinityState,
    /// Always false with etcd; the Kubernetes backend uses it.
    #[serde(default)]
    pub deleted: bool,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl BlockAffinity {
    /// A claim in the given state.
    #[must_use]
    pub fn new(state: AffinityState) -> Self {
        Self { state, ..Self::default() }
    }

    /// Reads a value; an empty one is a confirmed claim.
    pub fn decode(value: &[u8]) -> Result<Self, serde_json::Error> {
        if value.is_empty() { Ok(Self::default()) } else { serde_json::from_slice(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_calico_writes_them() {
        let json = |state| serde_json::to_string(&BlockAffinity::new(state)).unwrap();
        assert_eq!(json(AffinityState::Confirmed), r#"{"state":"confirmed","deleted":false}"#);
        assert_eq!(json(AffinityState::PendingDeletion), r#"{"state":"pendingDeletion","deleted":false}"#);
        assert_eq!(BlockAffinity::decode(b"").unwrap().state, AffinityState::Confirmed);
        assert_eq!(BlockAffinity::decode(br#"{"state":""}"#).unwrap().state, AffinityState::Confirmed);
    }
}
