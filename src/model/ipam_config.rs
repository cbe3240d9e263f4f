//! The IPAM configuration that `calicoctl ipam configure` writes (`libcalico-go/lib/backend/model/ipam_config.go`).

use serde::{Deserialize, Serialize};

/// How blocks are claimed. An absent key and an empty document mean different things: see [`IpamConfig::default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    /// Addresses come from this node's own blocks only.
    #[serde(default)]
    pub strict_affinity: bool,
    /// New blocks may be claimed.
    #[serde(default)]
    pub auto_allocate_blocks: bool,
    /// Blocks a node may own; 0 means the built-in limit of 20.
    #[serde(default, rename = "maxBlocksPerHost")]
    pub max_blocks_per_host: u32,
    /// Seconds for which a released address is not handed out again.
    #[serde(default, rename = "ipCooldownSeconds")]
    pub ip_cooldown_seconds: u32,
}

impl Default for IpamConfig {
    /// What holds when the key is absent. A key that is present but empty means false and 0 everywhere.
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            ip_cooldown_seconds: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_document_disables_what_an_absent_key_allows() {
        let empty: IpamConfig = serde_json::from_str("{}").unwrap();
        assert!(!empty.auto_allocate_blocks);
        assert!(IpamConfig::default().auto_allocate_blocks);
    }
}
