//! IPReservation: addresses that automatic assignment leaves alone.

use super::Cidr;
use super::meta::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of an IPReservation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpReservationSpec {
    /// Prefixes or bare addresses, as the user wrote them.
    #[serde(default, rename = "reservedCIDRs", skip_serializing_if = "Option::is_none")]
    pub reserved_cidrs: Option<Vec<String>>,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for IpReservationSpec {
    const KIND: &'static str = "IPReservation";
    const PLURAL: &'static str = "ipreservations";
}

impl IpReservationSpec {
    /// The prefixes that can be read; malformed entries are skipped as Calico skips them
    /// (`libcalico-go/lib/ipam/reserved.go`).
    pub fn cidrs(&self) -> impl Iterator<Item = Cidr> + '_ {
        let texts = self.reserved_cidrs.iter().flatten();
        texts.filter_map(|text| Cidr::parse_masking(text.trim()).ok())
    }
}
