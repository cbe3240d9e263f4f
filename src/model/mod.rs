//! What Calico stores: ids, prefixes, keys and the JSON under them.
//!
//! Pure: nothing here awaits, reads a clock or touches a file. Every struct keeps the fields it does not know
//! (`extra`), because a document that a newer Calico wrote must survive our rewriting it.

mod affinity;
mod as_number;
mod bgp_configuration;
mod bgp_filter;
mod bgp_peer;
mod block;
mod cidr;
mod cluster;
mod endpoint;
mod felix;
mod handle;
mod host_endpoint;
mod id;
mod ipam_config;
pub mod key;
mod meta;
mod network_set;
mod node;
mod policy;
mod pool;
mod profile;
mod reservation;
mod router_id;
mod rule;
mod sha2;

pub use affinity::{AffinityState, BlockAffinity};
pub use as_number::AsNumber;
pub use bgp_configuration::{BgpConfigurationSpec, Community, PrefixAdvertisement};
pub use bgp_filter::{
    AddCommunity, BgpFilterOperation, BgpFilterRule, BgpFilterSpec, CommunityMatch, PrefixLengths,
    PrependAsPath, SetPriority,
};
pub use bgp_peer::BgpPeerSpec;
pub use block::{AllocationAttribute, AllocationBlock};
pub use cidr::{Cidr, CidrError, IpVersion};
pub use cluster::{ClusterInformationSpec, TierSpec};
pub use endpoint::{WorkloadEndpointSpec, endpoint_name, endpoint_name_prefix, parse_endpoint_name};
pub use felix::FelixConfigurationSpec;
pub use handle::IpamHandle;
pub use host_endpoint::{EndpointPort, HostEndpointSpec};
pub use id::{
    EndpointId, HOST_IFACE_PREFIX, HandleId, IdError, IfaceName, MacAddress, NetworkId, NodeName,
    is_resource_name,
};
pub use ipam_config::IpamConfig;
pub use meta::{Kind, NETWORK_ANNOTATION, ObjectMeta, Resource};
pub use network_set::{GlobalNetworkSetSpec, NetworkSetSpec};
pub use node::{NodeAddress, NodeBgpSpec, NodeSpec};
pub use policy::{GlobalNetworkPolicySpec, NetworkPolicySpec};
pub use pool::{EncapMode, IpPoolSpec};
pub use profile::ProfileSpec;
pub use reservation::IpReservationSpec;
pub use router_id::RouterId;
pub use rule::{EntityRule, IcmpFields, NumberOrText, Rule, ServiceAccountMatch};
pub use sha2::{sha224, sha256};

/// The namespace and orchestrator under which every endpoint of this plugin stands, as the Go plugin's did.
pub const ORCHESTRATOR: &str = "libnetwork";

/// Prefix of every label, annotation and driver option that belongs to this project.
pub const PROJECT_PREFIX: &str = "org.projectcalico.";
