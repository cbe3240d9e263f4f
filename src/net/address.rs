//! The host's own addresses, and which of them packets leave with.

use super::error::NetError;
use super::link::Link;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// One address of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// Index of the interface that has it.
    pub index: u32,
    /// The interface's name.
    pub device: String,
    /// Whether the interface is administratively up.
    pub up: bool,
    /// The address.
    pub address: IpAddr,
    /// Length in bits of the prefix that is on link with it.
    pub prefix_len: u8,
    /// Whether others of the interface come first: an IPv4 address beside another of its subnet, or a temporary IPv6
    /// address (`IFA_F_SECONDARY`, `IFA_F_TEMPORARY`: the same bit).
    pub secondary: bool,
    /// Whether it must not be used: not yet known to be unique, known not to be, or running out.
    pub unusable: bool,
}

/// The message that lists all addresses of both families.
pub(crate) fn list() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// The addresses in the answers, with what is known of their interfaces, in the kernel's order.
pub(crate) fn decode_all(messages: &[RouteNetlinkMessage], links: &[Link]) -> Vec<HostAddress> {
    let links: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let decode = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewAddress(found) => {
            links.get(&found.header.index).and_then(|link| decode(found, link))
        }
        _ => None,
    };
    messages.iter().filter_map(decode).collect()
}

fn decode(message: &AddressMessage, link: &Link) -> Option<HostAddress> {
    let address = address_of(message)?;
    // IPv6 interfaces of routers and anycast addresses aside, the flags of the attribute include the header's.
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let is = |wide: AddressFlags, narrow: AddressHeaderFlags| {
        attribute.is_some_and(|flags| flags.contains(wide)) || message.header.flags.contains(narrow)
    };
    let unusable = is(AddressFlags::Tentative, AddressHeaderFlags::Tentative)
        || is(AddressFlags::Dadfailed, AddressHeaderFlags::Dadfailed)
        || is(AddressFlags::Deprecated, AddressHeaderFlags::Deprecated);
    Some(HostAddress {
        index: link.index,
        device: link.name.clone(),
        up: link.up,
        address,
        prefix_len: message.header.prefix_len,
        secondary: is(AddressFlags::Secondary, AddressHeaderFlags::Secondary),
        unusable,
    })
}

/// `IFA_LOCAL` is the address itself where both are given; `IFA_ADDRESS` may be that of the other end of a tunnel.
pub(crate) fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let given = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    local.or(given)
}

/// The address that packets to a destination leave with: what the kernel binds a socket to that is connected there,
/// which sends nothing. `None` where there is no route.
pub(crate) fn source_to(destination: IpAddr) -> Result<Option<IpAddr>, NetError> {
    /// Any port will do; calico/node takes this one, too.
    const PORT: u16 = 80;
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let failed = |error: io::Error| NetError::of_io(format!("look up the way to {destination}"), error);
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).map_err(failed)?;
    match socket.connect(SocketAddr::new(destination, PORT)) {
        Ok(()) => socket.local_addr().map(|local| Some(local.ip())).map_err(failed),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::AddrNotAvailable
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(error)),
    }
}
