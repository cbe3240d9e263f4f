//! The seam to the host's packet filter: the driver says what is there, the dataplane decides how it is programmed.

use crate::model::{Cidr, EndpointId, IfaceName};
use futures::future::BoxFuture;
use std::net::IpAddr;

/// A pool as NAT sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolNat {
    /// The pool's prefix.
    pub cidr: Cidr,
    /// Whether traffic from it to outside all pools is masqueraded.
    pub nat_outgoing: bool,
}

/// One published port: packets to `host_ip:host_port` go to `to_ip:to_port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// IP protocol: 6 TCP, 17 UDP, 132 SCTP.
    pub proto: u8,
    /// The host's address; `None` for all of the container address's IP version.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub to_ip: IpAddr,
    /// The container's port.
    pub to_port: u16,
}

/// What the driver asks of the packet filter. Each verb is idempotent and returns when the kernel has it; the error
/// is a sentence.
pub trait Firewall: Send + Sync {
    /// Opens an endpoint's interface, to which these addresses are routed.
    fn add_endpoint<'a>(
        &'a self,
        iface: &'a IfaceName,
        addresses: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Waits for a while until the policy of an open interface is in force, where another program than this filter sees to
    /// that, and says whether it is.
    fn await_policy<'a>(
        &'a self,
        _iface: &'a IfaceName,
        _addresses: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<bool, String>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Lets an open interface send under exactly these addresses of its container's other endpoints as well, besides
    /// its own. Closing it forgets them.
    fn set_siblings<'a>(
        &'a self,
        iface: &'a IfaceName,
        addresses: Vec<IpAddr>,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// Closes an endpoint's interface.
    fn remove_endpoint<'a>(&'a self, iface: &'a IfaceName) -> BoxFuture<'a, Result<(), String>>;

    /// Makes NAT know exactly these pools.
    fn set_pools(&self, pools: Vec<PoolNat>) -> BoxFuture<'_, Result<(), String>>;

    /// Publishes exactly these ports for an endpoint; none releases them.
    fn publish<'a>(
        &'a self,
        endpoint: &'a EndpointId,
        ports: Vec<PublishedPort>,
    ) -> BoxFuture<'a, Result<(), String>>;
}
