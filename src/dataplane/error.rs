//! What a caller of the dataplane can be told.

use super::{PortMap, Protocol};
use crate::model::IfaceName;
use crate::nft::NftError;
use std::time::Duration;

/// Why a verb was not done.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The kernel's packet filter could not be changed or read.
    #[error("{attempt}: {source}")]
    Kernel {
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        source: NftError,
    },
    /// Somebody else publishes that port.
    #[error("port {port}/{protocol} of the host is already published for endpoint {holder}")]
    PortTaken {
        /// The host's port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// Host side interface of the endpoint that has it.
        holder: IfaceName,
    },
    /// A mapping makes no sense.
    #[error("port mapping {map} cannot be published: {why}")]
    Port {
        /// The mapping.
        map: PortMap,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The interface is none of an endpoint.
    #[error("interface {0} does not belong to an endpoint: its name does not begin with cali")]
    ForeignInterface(IfaceName),
    /// The policy of an endpoint did not come in time.
    #[error(
        "endpoint {iface} stays closed: its policy is not known after {within:?}, because its WorkloadEndpoint is not in \
         the datastore or the datastore does not tell of it"
    )]
    NoPolicy {
        /// The endpoint's host side interface.
        iface: IfaceName,
        /// How long it was waited for.
        within: Duration,
    },
    /// The policy of an endpoint came, but waits for a change that was not done in time.
    #[error(
        "endpoint {iface} stays closed: its policy waits for {behind}, after {within:?}; start it again later"
    )]
    PolicyWaits {
        /// The endpoint's host side interface.
        iface: IfaceName,
        /// How long it was waited for.
        within: Duration,
        /// What it waits for.
        behind: String,
    },
    /// A rule in Docker's FORWARD chain could not be removed.
    #[error("remove our rules from FORWARD: {0}")]
    Guard(String),
    /// The worker has ended.
    #[error("the dataplane has stopped")]
    Stopped,
}
