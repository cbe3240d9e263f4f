//! Links, routes, neighbours and sysctls of the host: the lower half of endpoints.
//!
//! [`Host`] is the seam. [`KernelHost`] is the kernel over rtnetlink, ctnetlink and `/proc/sys/net`;
//! [`faulty::FaultyHost`] fails on cue, for tests. What an endpoint needs on its host side is `reference/dataplane.md`,
//! section 1: a veth pair, sysctls, a host route per address, permanent IPv4 neighbours, a link-local IPv6 gateway.
//!
//! Nothing here decides: callers say what should be, and every verb can be repeated.

mod address;
mod beside;
mod conntrack;
mod container;
mod endpoint;
mod error;
pub mod faulty;
mod foreign;
mod gather;
mod kernel;
mod link;
mod monitor;
mod mtu;
mod neigh;
mod next_hop;
mod remote;
mod route;
mod rtnl;
mod rule;
mod setting;
mod siblings;
mod sysctl;
mod vxlan;
mod worker;

pub use address::HostAddress;
pub use container::{ContainerEndpoint, may_enter_containers, program_container};
pub use error::NetError;
pub use kernel::KernelHost;
pub use link::Link;
pub use monitor::{AddressChange, HostEvent, LinkChange, NeighbourChange, RouteChange};
pub use mtu::{FALLBACK_MTU, host_mtu, is_uplink, workload_mtu};
pub use next_hop::{NEXT_HOPS, NextHops};
pub use remote::RouteChanges;
pub use route::{HostRoute, KERNEL_PROTOCOL, ROUTE_METRIC, ROUTE_PROTOCOL, RouteKind};
pub use setting::SettingOf;
pub use vxlan::{VXLAN_DEVICES, Vtep, VxlanDevice};

use crate::model::{IfaceName, IpVersion, MacAddress};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The host side of one endpoint, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointLink {
    /// Name of the host side: `cali` and eleven characters of the endpoint's ID.
    pub host: IfaceName,
    /// Name of the container's end until Docker moves and renames it.
    pub temp: IfaceName,
    /// Ethernet address of the container's end; the host side's is always `ee:ee:ee:ee:ee:ee`.
    pub mac: MacAddress,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// The mark of ownership that the host side bears as its alias: the same text for the same endpoint, always.
    pub alias: String,
    /// The endpoint's addresses: each gets a /32 or /128 route.
    pub addresses: Vec<IpAddr>,
    /// The link-local address that the host side gets as the container's IPv6 gateway.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Whether the container has other endpoints, under whose addresses it may send here too.
    pub siblings: bool,
}

impl EndpointLink {
    /// One of the IPv6 addresses, if the endpoint needs IPv6 at all.
    #[must_use]
    pub fn first_ipv6(&self) -> Option<Ipv6Addr> {
        let v6 = self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V6(ip) => Some(*ip),
            IpAddr::V4(_) => None,
        });
        v6.or(self.gateway_v6)
    }

    /// What is needed to release it.
    #[must_use]
    pub fn reference(&self) -> EndpointRef {
        EndpointRef {
            host: self.host.clone(),
            temp: self.temp.clone(),
            alias: self.alias.clone(),
            addresses: self.addresses.clone(),
        }
    }
}

/// The host side of one endpoint, as far as it takes to remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRef {
    /// Name of the host side.
    pub host: IfaceName,
    /// Name of the container's end while it is not in a container.
    pub temp: IfaceName,
    /// The mark of ownership; an interface with another one is left alone.
    pub alias: String,
    /// Addresses whose routes go first, so that the endpoint is cut off before its link is torn down. May be empty:
    /// the kernel removes all routes of a link with it.
    pub addresses: Vec<IpAddr>,
}

/// What this kernel offers and permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// Whether it has connection tracking now (the module may be loaded later, by nftables).
    pub conntrack: bool,
    /// Whether new containers have the `rp_filter` 1, with which one on several networks is reached on one of them only.
    pub strict_containers: bool,
}

/// The host's kernel. All verbs are idempotent, safe to call from many tasks at once, bounded in time, and run to their
/// end even if the caller drops the future.
pub trait Host: Send + Sync + std::fmt::Debug {
    /// Whether everything that the other verbs need is there and permitted. Changes nothing.
    fn check(&self) -> BoxFuture<'_, Result<HostFacts, NetError>>;

    /// All interfaces.
    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, NetError>>;

    /// Makes the pair if it is not there and programs its host side: alias, sysctls (before the link is up), up,
    /// gateway, routes, neighbours. A pair whose other end is in a container already is kept and programmed again, so
    /// this also repairs what a link that went down and up lost. On failure what this call made is undone.
    ///
    /// [`NetError::NameTaken`] if an interface of the name is not this endpoint's, [`NetError::NoIpv6`] if IPv6 is
    /// needed and the kernel has none.
    fn ensure_endpoint<'a>(&'a self, endpoint: &'a EndpointLink) -> BoxFuture<'a, Result<(), NetError>>;

    /// Tells an endpoint that exists whether its container has others now, as [`EndpointLink::siblings`]: then the
    /// kernel's source check lets their addresses pass on its host side. Makes nothing that is not there.
    fn set_siblings<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        siblings: bool,
    ) -> BoxFuture<'a, Result<(), NetError>>;

    /// Removes the routes and the pair, from whichever end is here; nothing to remove is success. Routes to the same
    /// addresses on other devices stay, and so does an interface that is not this endpoint's.
    fn release_endpoint<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), NetError>>;

    /// Takes away what others have put into the main table on the host sides of these endpoints: all but a route to
    /// each of their addresses and what the kernel keeps for the interface itself. Interfaces without an endpoint's mark
    /// are left alone, and routes that lead elsewhere, too. A foreign route to an endpoint's own address stays as long
    /// as it is the only one. Tells what went, and what could not; beside Felix, whose business it is then, nothing.
    fn remove_foreign_routes<'a>(
        &'a self,
        endpoints: &'a [EndpointRef],
    ) -> BoxFuture<'a, Result<Vec<Result<HostRoute, NetError>>, NetError>>;

    /// The main routing table, IPv4 then IPv6.
    fn host_routes(&self) -> BoxFuture<'_, Result<Vec<HostRoute>, NetError>>;

    /// The host's own addresses, loopback and link-local ones too, in the kernel's order.
    fn addresses(&self) -> BoxFuture<'_, Result<Vec<HostAddress>, NetError>>;

    /// The address that packets to a destination leave with; `None` where no route leads.
    fn source_to(&self, destination: IpAddr) -> BoxFuture<'_, Result<Option<IpAddr>, NetError>>;

    /// Guarantees that [`NEXT_HOPS`], the next hops of all containers, resolve as unicast through another device than
    /// the endpoints', without which the kernel answers no proxy ARP. Call it at the start and when a route comes or
    /// goes that [`HostRoute::touches_next_hops`].
    fn ensure_next_hops(&self) -> BoxFuture<'_, Result<NextHops, NetError>>;

    /// Turns on forwarding, for IPv6 too if the kernel has it, and tells the versions for which it was off. With IPv6
    /// forwarding the host itself takes router advertisements only on interfaces with `accept_ra=2`.
    fn enable_forwarding(&self) -> BoxFuture<'_, Result<Vec<IpVersion>, NetError>>;

    /// Removes the connection tracking entries whose original source, or reply source, is one of the addresses; to be
    /// awaited before an address is handed out again. Answers how many there were.
    fn flush_conntrack<'a>(&'a self, addresses: &'a [IpAddr]) -> BoxFuture<'a, Result<usize, NetError>>;

    /// Changes of links, routes, addresses and settings from now on. After [`HostEvent::Resync`] some were lost: list again.
    fn monitor(&self) -> BoxFuture<'_, Result<BoxStream<'static, HostEvent>, NetError>>;
}

/// The host's kernel as routes between nodes need it, with the same promises.
pub trait Underlay: Host {
    /// Takes routes away, replaces and adds some, in this order, in few datagrams. What can be done is done; the error
    /// tells what could not. [`NetError::RouteTaken`] where somebody else's route stands.
    fn change_routes<'a>(&'a self, changes: &'a RouteChanges) -> BoxFuture<'a, Result<(), NetError>>;

    /// Makes a VXLAN device be as it should, and tells its index. One of that name with another VNI, port, parent,
    /// local address or with learning is made anew; the rest is changed in place.
    ///
    /// [`NetError::NameTaken`] if an interface of the name is no VXLAN device, [`NetError::VniTaken`] if another
    /// device has the VNI and port.
    fn ensure_vxlan<'a>(&'a self, device: &'a VxlanDevice) -> BoxFuture<'a, Result<u32, NetError>>;

    /// Removes a VXLAN device; nothing to remove is success, and what is no VXLAN device stays.
    fn remove_vxlan<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), NetError>>;

    /// What is behind a VXLAN device, by its index. An end of which only one of its two entries is there has
    /// `0.0.0.0` where the other would tell.
    fn vteps(&self, index: u32) -> BoxFuture<'_, Result<Vec<Vtep>, NetError>>;

    /// Takes ends behind a VXLAN device away, then adds or replaces some.
    fn change_vteps<'a>(
        &'a self,
        index: u32,
        delete: &'a [Vtep],
        add: &'a [Vtep],
    ) -> BoxFuture<'a, Result<(), NetError>>;
}

/// A host that many parts share.
pub type SharedHost = Arc<dyn Host>;

/// The same with what routes between nodes need.
pub type SharedUnderlay = Arc<dyn Underlay>;
