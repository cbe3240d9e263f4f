//! What this node remembers of a Docker network. The engine tells it once, at creation, and never again, not even
//! after a restart; so it is kept in the plugin's own state.

use crate::model::{Cidr, NetworkId};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Whose IPAM serves a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum IpamKind {
    /// Calico's: blocks of a pool.
    Calico,
    /// Docker's own (`docker network create -d calico` without `--ipam-driver`).
    Docker,
}

/// One prefix of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkPool {
    /// As Docker shows it; `0.0.0.0/0` or `::/0` for a network without `--subnet`.
    pub(super) subnet: Cidr,
    /// `--aux-address`: never handed out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) aux: Vec<IpAddr>,
    /// `--gateway`: shown by Docker, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gateway: Option<IpAddr>,
}

impl NetworkPool {
    /// A prefix with nothing else to it.
    pub(super) fn of_prefix(subnet: Cidr) -> Self {
        Self { subnet, aux: Vec::new(), gateway: None }
    }
}

/// A Docker network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    /// Docker's ID.
    pub(super) id: NetworkId,
    /// Profile of its endpoints.
    pub(super) profile: String,
    /// Whether the profile was made for this network by the driver.
    pub(super) own_profile: bool,
    /// The label by which the endpoints of a network that the Go plugin made know each other; nobody else may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) go_label: Option<String>,
    /// Whose IPAM.
    pub(super) ipam: IpamKind,
    /// `--internal`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) internal: bool,
    /// `-o com.docker.network.driver.mtu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u32>,
    /// What interface names in the containers begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) iface_prefix: Option<String>,
    /// Its prefixes, IPv4 first.
    pub(super) pools: Vec<NetworkPool>,
}

impl NetworkRecord {
    /// Takes over the profile that the network had before.
    pub(super) fn keep_profile(&mut self, known: &Self) {
        self.profile.clone_from(&known.profile);
        self.own_profile = known.own_profile;
        self.go_label.clone_from(&known.go_label);
    }

    /// Whether an address is one of the network's auxiliary addresses.
    pub(super) fn has_aux(&self, ip: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.aux.contains(&ip))
    }

    /// Whether a prefix is one of the network's.
    pub(super) fn has_subnet(&self, subnet: Cidr) -> bool {
        self.pools.iter().any(|pool| pool.subnet == subnet)
    }

    /// Whether an address was given as the network's gateway.
    pub(super) fn has_gateway(&self, ip: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.gateway == Some(ip))
    }
}
