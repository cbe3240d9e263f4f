//! Routes: the host routes of endpoints, and what else stands in the main table.

use super::next_hop::touches_next_hops;
use super::rtnl::{Answer, Ask};
use crate::model::{Cidr, IpVersion};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The protocol number that marks our routes, as it marks Felix's
/// (`felix/dataplane/linux/dataplanedefs`, `DefaultRouteProto`).
pub const ROUTE_PROTOCOL: u8 = 80;

/// The metric of endpoint routes, Felix's `IPv4NormalRoutePriority`: BIRD takes a lower one for a live migration.
pub const ROUTE_METRIC: u32 = 1024;

/// The protocol of routes that the kernel makes for an address of an interface (`/etc/iproute2/rt_protos`).
pub const KERNEL_PROTOCOL: u8 = 2;

/// One next hop of a route in the host's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads.
    pub destination: Cidr,
    /// What happens to a packet.
    pub kind: RouteKind,
    /// The device, by index; `None` for routes without one, such as blackholes.
    pub index: Option<u32>,
    /// The device's name; `None` as the index, or if it vanished between two lists.
    pub device: Option<String>,
    /// The next router; `None` for an on-link route.
    pub gateway: Option<IpAddr>,
    /// Who made it (`/etc/iproute2/rt_protos`): 2 kernel, 3 boot, 4 static, 12 BIRD, 80 Calico.
    pub protocol: u8,
    /// Its metric; lower wins. 0 is the default of IPv4.
    pub metric: u32,
}

impl HostRoute {
    /// Whether it is a direct route: a unicast without a router.
    #[must_use]
    pub fn is_on_link(&self) -> bool {
        self.kind == RouteKind::Unicast && self.gateway.is_none()
    }

    /// Whether it looks like those that [`super::Host::ensure_endpoint`] makes.
    #[must_use]
    pub fn is_of_endpoint(&self) -> bool {
        self.kind == RouteKind::Unicast && self.protocol == ROUTE_PROTOCOL && self.metric == ROUTE_METRIC
    }

    /// Whether its coming or going can change what [`super::Host::ensure_next_hops`] finds; routes of endpoints do not.
    #[must_use]
    pub fn touches_next_hops(&self) -> bool {
        touches_next_hops(self)
    }
}

/// As `ip route` writes it: `DESTINATION [via GATEWAY] [dev DEVICE]`.
impl fmt::Display for HostRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        match &self.device {
            Some(device) => write!(f, " dev {device}"),
            None => Ok(()),
        }
    }
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Keeps it: an address of the host.
    Local,
    /// Drops or refuses it: blackhole, unreachable, prohibit, throw.
    Refuse,
    /// Anything else: multicast, broadcast, anycast.
    Other,
}

impl RouteKind {
    fn of(kind: RouteType) -> Self {
        match kind {
            RouteType::Unicast => Self::Unicast,
            RouteType::Local => Self::Local,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
                Self::Refuse
            }
            _ => Self::Other,
        }
    }
}

pub(crate) fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// The table of a route: the header's byte holds 252 (`RT_TABLE_COMPAT`) for tables beyond 255.
pub(crate) fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| u32::from(message.header.table))
}

/// A route of the main table, one entry per next hop; nothing for routes of other tables and cached ones.
pub(crate) fn decode(message: &RouteMessage) -> Vec<HostRoute> {
    if table_of(message) != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return Vec::new();
    }
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Vec::new(),
    };
    let (mut base, mut metric, mut hops) = (any, 0, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => base = ip_of(address).unwrap_or(any),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(next_hops) => {
                hops.extend(
                    next_hops.iter().map(|hop| (Some(hop.interface_index), gateway_of(&hop.attributes))),
                );
            }
            _ => {}
        }
    }
    if hops.is_empty() {
        hops.push((device_of(&message.attributes), gateway_of(&message.attributes)));
    }
    let destination = Cidr::masking(base, message.header.destination_prefix_length);
    let (kind, protocol) = (RouteKind::of(message.header.kind), u8::from(message.header.protocol));
    let route =
        |(index, gateway)| HostRoute { destination, kind, index, device: None, gateway, protocol, metric };
    hops.into_iter().map(route).collect()
}

pub(crate) fn device_of(attributes: &[RouteAttribute]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

pub(crate) fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(via) => match via {
            netlink_packet_route::route::RouteVia::Inet(ip) => Some(IpAddr::V4(*ip)),
            netlink_packet_route::route::RouteVia::Inet6(ip) => Some(IpAddr::V6(*ip)),
            _ => None,
        },
        _ => None,
    })
}

/// The message that lists all routes of a family.
pub(crate) fn list(version: IpVersion) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRoute(match version {
        IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    })
}

pub(crate) fn to(destination: Cidr) -> RouteMessage {
    let len = destination.prefix_len();
    match destination.base() {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, len).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, len).build(),
    }
}

/// `DESTINATION dev DEVICE scope SCOPE proto 80 metric 1024`, without netlink flags. IPv6 knows no scopes of routes.
pub(crate) fn add(destination: Cidr, index: u32, device: &str, scope: RouteScope) -> Ask {
    let mut route = to(destination);
    route.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    route.header.scope = scope;
    route.attributes.extend([RouteAttribute::Oif(index), RouteAttribute::Priority(ROUTE_METRIC)]);
    Ask::new(RouteNetlinkMessage::NewRoute(route), 0, format!("add route {destination} dev {device}"))
}

/// Deletes the route to a destination on one device, whoever made it; that of another device stays.
pub(crate) fn delete(destination: Cidr, index: u32, device: &str) -> Ask {
    let mut route = to(destination);
    // The wildcards of deletion: any protocol, scope and type (kernel net/ipv4/fib_trie.c, fib_table_delete).
    route.header.protocol = RouteProtocol::Unspec;
    route.header.scope = RouteScope::NoWhere;
    route.header.kind = RouteType::Unspec;
    route.attributes.push(RouteAttribute::Oif(index));
    Ask::new(RouteNetlinkMessage::DelRoute(route), 0, format!("delete route {destination} dev {device}"))
}

fn question(mut route: RouteMessage, what: String) -> Ask {
    route.header.table = RouteHeader::RT_TABLE_UNSPEC;
    route.header.protocol = RouteProtocol::Unspec;
    route.header.kind = RouteType::Unspec;
    Ask::new(RouteNetlinkMessage::GetRoute(route), 0, what)
}

/// Asks the kernel where it would send a packet.
pub(crate) fn lookup(ip: Ipv4Addr) -> Ask {
    question(to(Cidr::host(ip.into())), format!("look up the route to {ip}"))
}

/// Asks the kernel where it would send a packet to a link-local address of one device.
pub(crate) fn lookup_on(ip: Ipv6Addr, index: u32) -> Ask {
    let mut route = to(Cidr::host(ip.into()));
    route.attributes.push(RouteAttribute::Oif(index));
    question(route, format!("look up the route to {ip}"))
}

/// What the route in the answer to a lookup does; `None` if there is none.
pub(crate) fn kind_of(answer: &Answer) -> Option<RouteKind> {
    answer.messages.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewRoute(found) => Some(RouteKind::of(found.header.kind)),
        _ => None,
    })
}

/// The device of the route in the answer to a lookup.
pub(crate) fn device_in(answer: &Answer) -> Option<u32> {
    answer.messages.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewRoute(found) => device_of(&found.attributes),
        _ => None,
    })
}
