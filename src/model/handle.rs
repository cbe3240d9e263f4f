//! IPAM handle: how many addresses an owner has in which blocks (`libcalico-go/lib/backend/model/ipam_handle.go`).

use super::Cidr;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Value under a handle's key. It is deleted when `block` becomes empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IpamHandle {
    /// Block to number of addresses.
    #[serde(default)]
    pub block: BTreeMap<Cidr, u64>,
    /// Always false with etcd; the Kubernetes backend uses it.
    #[serde(default)]
    pub deleted: bool,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calicos_own_handle_round_trips() {
        let text = r#"{"block":{"10.10.0.128/29":1},"deleted":false}"#;
        let handle: IpamHandle = serde_json::from_str(text).unwrap();
        assert_eq!(handle.block.get(&"10.10.0.128/29".parse().unwrap()), Some(&1));
        assert_eq!(serde_json::to_string(&handle).unwrap(), text);
    }
}
