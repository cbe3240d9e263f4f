//! Why a call of Docker fails: one sentence that its user can act on.

use crate::ipam::IpamError;
use crate::model::{CidrError, IdError};
use crate::net::NetError;
use crate::store::StoreError;
use crate::store::retry::Conflicting;

/// Why a call fails. Docker prints the text to whoever ran the command.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Docker sent an id or address that cannot be one.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A prefix cannot be read.
    #[error(transparent)]
    Cidr(#[from] CidrError),
    /// The datastore.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Address management.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The host's links and routes.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The host's packet filter.
    #[error("program the packet filter: {0}")]
    Firewall(String),
    /// An option that this driver does not take, or a value it cannot use.
    #[error("{0}")]
    Refused(String),
    /// The network is not one of ours.
    #[error(
        "network {0} is not known to this plugin on this node; if it was created while the plugin had another state \
         folder, remove it and create it again"
    )]
    UnknownNetwork(String),
    /// The endpoint is not one of ours.
    #[error("endpoint {0} is not known to this plugin on this node; start the container again")]
    UnknownEndpoint(String),
}

impl Conflicting for DriverError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_conflict())
    }
}

/// A refusal with its sentence.
pub(super) fn refused(sentence: impl Into<String>) -> DriverError {
    DriverError::Refused(sentence.into())
}
