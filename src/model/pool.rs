//! IPPool: a prefix from which blocks are cut.

use super::meta::{Kind, Resource};
use super::{Cidr, IpVersion};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// When traffic between nodes is encapsulated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncapMode {
    /// Never.
    #[default]
    #[serde(alias = "")]
    Never,
    /// Between any two nodes.
    Always,
    /// Only between nodes of different subnets.
    CrossSubnet,
}

/// Spec of an IPPool (`api/pkg/apis/projectcalico/v3/ippool.go`). Fields that an older or newer Calico left out are
/// read through the accessors, which apply Calico's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    /// The pool's prefix; it never changes.
    pub cidr: Cidr,
    /// VXLAN between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mode: Option<EncapMode>,
    /// IP in IP between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_mode: Option<EncapMode>,
    /// Whether traffic that leaves all pools is masqueraded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nat_outgoing: bool,
    /// A disabled pool serves no new address; NAT and routes still know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Keeps the pool out of BGP.
    #[serde(default, rename = "disableBGPExport", skip_serializing_if = "std::ops::Not::not")]
    pub disable_bgp_export: bool,
    /// Prefix length of a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// Which nodes may use the pool without being told to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// Which namespaces may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// `Workload`, `Tunnel`, `LoadBalancer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_uses: Option<Vec<String>>,
    /// `Automatic` or `Manual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_mode: Option<String>,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for IpPoolSpec {
    const KIND: &'static str = "IPPool";
    const PLURAL: &'static str = "ippools";
}

impl IpPoolSpec {
    /// A pool with Calico's defaults, written out as calicoctl writes them.
    #[must_use]
    pub fn new(cidr: Cidr) -> Self {
        Self {
            cidr,
            vxlan_mode: Some(EncapMode::Never),
            ipip_mode: Some(EncapMode::Never),
            nat_outgoing: false,
            disabled: false,
            disable_bgp_export: false,
            block_size: Some(Self::default_block_size(cidr)),
            node_selector: Some("all()".to_owned()),
            namespace_selector: None,
            allowed_uses: Some(vec!["Workload".to_owned(), "Tunnel".to_owned()]),
            assignment_mode: Some("Automatic".to_owned()),
            extra: Map::new(),
        }
    }

    /// /26 and /122, or the whole pool as one block where the pool is smaller.
    #[must_use]
    pub fn default_block_size(cidr: Cidr) -> u8 {
        let usual = match cidr.version() {
            IpVersion::V4 => 26,
            IpVersion::V6 => 122,
        };
        usual.max(cidr.prefix_len())
    }

    /// Prefix length of a block, with Calico's default of 26 or 122.
    #[must_use]
    pub fn block_size(&self) -> u8 {
        self.block_size.filter(|size| *size != 0).unwrap_or_else(|| match self.cidr.version() {
            IpVersion::V4 => 26,
            IpVersion::V6 => 122,
        })
    }

    /// Whether the pool may serve `use_` (`Workload`, `Tunnel`); an absent or empty list means both.
    #[must_use]
    pub fn allows_use(&self, use_: &str) -> bool {
        match self.allowed_uses.as_deref() {
            None | Some([]) => use_ == "Workload" || use_ == "Tunnel",
            Some(uses) => uses.iter().any(|u| u == use_),
        }
    }

    /// Whether addresses are taken without the pool being asked for by name or prefix.
    #[must_use]
    pub fn assigns_automatically(&self) -> bool {
        self.assignment_mode.as_deref().is_none_or(|mode| mode.is_empty() || mode == "Automatic")
    }

    /// VXLAN mode, `Never` when absent.
    #[must_use]
    pub fn vxlan(&self) -> EncapMode {
        self.vxlan_mode.unwrap_or_default()
    }

    /// IPIP mode, `Never` when absent.
    #[must_use]
    pub fn ipip(&self) -> EncapMode {
        self.ipip_mode.unwrap_or_default()
    }
}

impl Resource<IpPoolSpec> {
    /// Whether new addresses may come from this pool: not disabled, not being deleted, and no condition
    /// `Allocatable=False` (`libcalico-go/lib/clientv3/client.go`, from v3.32 on).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        let deleting = self.metadata.extra.get("deletionTimestamp").is_some_and(|v| !v.is_null());
        let conditions = self.status.as_ref().and_then(|s| s.get("conditions")).and_then(Value::as_array);
        let refused = conditions.is_some_and(|list| {
            list.iter().any(|c| {
                c.get("type").and_then(Value::as_str) == Some("Allocatable")
                    && c.get("status").and_then(Value::as_str) == Some("False")
            })
        });
        !self.spec.disabled && !deleting && !refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calicos_own_pool_round_trips() {
        let text = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"front-end","uid":"93141277-1d8a-459e-9062-ce0064667a25","creationTimestamp":"2026-11-21T00:51:43Z","annotations":{"org.projectcalico.label.network.ID":"7c1c0a5d"}},"spec":{"cidr":"10.10.0.0/24","vxlanMode":"Never","ipipMode":"Never","natOutgoing":true,"blockSize":29,"nodeSelector":"all()","allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"}}"#;
        let pool: Resource<IpPoolSpec> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&pool).unwrap(), text);
        assert!(pool.is_enabled());
        assert_eq!(pool.spec.block_size(), 29);
    }

    #[test]
    fn an_old_pool_gets_calicos_defaults() {
        let text = r#"{"metadata":{"name":"old"},"spec":{"cidr":"fd80::/64"},"status":null}"#;
        let pool: Resource<IpPoolSpec> = serde_json::from_str(text).unwrap();
        assert_eq!(pool.spec.block_size(), 122);
        assert!(pool.spec.allows_use("Workload") && pool.spec.assigns_automatically() && pool.is_enabled());
        assert_eq!(pool.spec.vxlan(), EncapMode::Never);
    }

    #[test]
    fn a_pool_that_is_going_away_is_not_enabled() {
        let unallocatable = r#"{"metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/24"},"status":{"conditions":[{"type":"Allocatable","status":"False"}]}}"#;
        let deleting = r#"{"metadata":{"name":"p","deletionTimestamp":"2026-11-21T00:51:43Z"},"spec":{"cidr":"10.0.0.0/24"}}"#;
        for text in [unallocatable, deleting] {
            let pool: Resource<IpPoolSpec> = serde_json::from_str(text).unwrap();
            assert!(!pool.is_enabled());
            assert!(serde_json::to_string(&pool).unwrap().contains("2026") || text.contains("conditions"));
        }
    }
}
