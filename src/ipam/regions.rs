//! What of the datastore a node's IPAM reads for each address, as regions of a replica.

use crate::model::{ClusterInformationSpec, IpPoolSpec, IpReservationSpec, NodeName, NodeSpec, key};
use crate::store::replica::{Region, Spill};

/// Memory for blocks: some six thousand full ones of Calico's usual size, many more of those that are not. With more, a
/// node keeps those that it owns.
const BLOCK_BUDGET: usize = 64 * 1024 * 1024;

/// Memory for pools, reservations and nodes; they are never given up.
const RESOURCE_BUDGET: usize = 16 * 1024 * 1024;

/// Two watches: of IPAM's data, and of Calico's resources. Endpoints and policy go through the second one for whoever
/// follows them, and are not kept.
#[must_use]
pub fn regions(node: &NodeName, handle_prefix: &str) -> Vec<Region> {
    let ipam = Region {
        root: key::IPAM_ROOT.to_owned(),
        kept: vec![
            key::BLOCK_ROOT.to_owned(),
            key::host(node),
            format!("{}{handle_prefix}", key::HANDLE_ROOT),
            key::IPAM_CONFIG.to_owned(),
        ],
        spill: Some(Spill {
            prefix: key::BLOCK_ROOT.to_owned(),
            unless: format!("\"{}\"", crate::model::AllocationBlock::affinity_of(node)),
        }),
        budget: BLOCK_BUDGET,
    };
    let resources = Region {
        root: key::RESOURCE_ROOT.to_owned(),
        kept: vec![
            key::resources::<IpPoolSpec>(),
            key::resources::<IpReservationSpec>(),
            key::resources::<NodeSpec>(),
            key::resources::<ClusterInformationSpec>(),
        ],
        spill: None,
        budget: RESOURCE_BUDGET,
    };
    vec![ipam, resources]
}
