//! Allocation block, as stored (`libcalico-go/lib/backend/model/block.go`). What can be done with one is in
//! `ipam::block`.

use super::{Cidr, NodeName};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A piece of a pool from which single addresses are handed out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocationBlock {
    /// The block's prefix.
    pub cidr: Cidr,
    /// `host:<node>`, `virtual:load-balancer` or none.
    #[serde(default)]
    pub affinity: Option<String>,
    /// RFC 3339 time of the claim; absent in blocks written before Calico v3.32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// For each ordinal: free, or an index into `attributes`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals in the order in which they are handed out.
    #[serde(default, deserialize_with = "null_as_default")]
    pub unallocated: Vec<usize>,
    /// Who owns the allocations.
    #[serde(default, deserialize_with = "null_as_default")]
    pub attributes: Vec<AllocationAttribute>,
    /// Grows by one with each change; beyond 2^53 from the start.
    #[serde(default, rename = "sequenceNumber")]
    pub sequence_number: u64,
    /// Ordinal to the sequence number before the change that allocated it.
    #[serde(default, rename = "sequenceNumberForAllocation", deserialize_with = "null_as_default")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Always false with etcd; the Kubernetes backend uses it.
    #[serde(default)]
    pub deleted: bool,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Owner of one or more allocations of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationAttribute {
    /// Handle of the owner. The Go plugin wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// Attributes: `node` (routes to borrowed addresses depend on it), `timestamp`, and the owner's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<BTreeMap<String, String>>,
    /// RFC 3339 time of release, while the address cools down (Calico v3.33).
    #[serde(default, rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl AllocationBlock {
    /// The text of `affinity` for a node.
    #[must_use]
    pub fn affinity_of(node: &NodeName) -> String {
        format!("host:{node}")
    }

    /// The node that owns the block, if a node does.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.affinity.as_deref()?.strip_prefix("host:")
    }
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: &str = r#"{"cidr":"10.10.0.128/29","affinity":"host:docker-1","affinity_claim_time":"2026-11-21T00:51:43Z","allocations":[0,null,null,null,null,null,null,null],"unallocated":[1,2,3,4,5,6,7],"attributes":[{"handle_id":"libnetwork.docker-1.h1","secondary":{"node":"docker-1","timestamp":"2026-08-22 06:33:20.123456789 +0000 UTC"}}],"sequenceNumber":1795222303692339349,"sequenceNumberForAllocation":{"0":1795222303692339348},"deleted":false}"#;

    #[test]
    fn calicos_own_block_round_trips() {
        let block: AllocationBlock = serde_json::from_str(FRESH).unwrap();
        assert_eq!(block.owner(), Some("docker-1"));
        assert_eq!(serde_json::to_string(&block).unwrap(), FRESH);
    }

    #[test]
    fn null_and_missing_fields_read_as_empty() {
        let text = r#"{"cidr":"10.10.0.128/29","affinity":null,"allocations":null,"unallocated":null,"attributes":null,"sequenceNumberForAllocation":null}"#;
        let block: AllocationBlock = serde_json::from_str(text).unwrap();
        assert!(block.attributes.is_empty() && block.sequence_number == 0);
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let text = FRESH.replace(r#""deleted":false"#, r#""deleted":false,"futureField":{"a":[1]}"#);
        let text = text.replace(r#""secondary""#, r#""alternateOwnerAttrs":{"x":"y"},"secondary""#);
        let block: AllocationBlock = serde_json::from_str(&text).unwrap();
        let again = serde_json::to_string(&block).unwrap();
        assert!(
            again.contains(r#""futureField":{"a":[1]}"#)
                && again.contains(r#""alternateOwnerAttrs":{"x":"y"}"#)
        );
    }
}
