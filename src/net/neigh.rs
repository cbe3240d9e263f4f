//! Neighbour entries and the gateway address: what the link layer of an endpoint's host side knows.

use super::rtnl::Ask;
use crate::model::MacAddress;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::AddressMessageBuilder;
use std::net::{Ipv4Addr, Ipv6Addr};

fn message(ip: Ipv4Addr, index: u32) -> NeighbourMessage {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = AddressFamily::Inet;
    neighbour.header.ifindex = index;
    neighbour.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)));
    neighbour
}

/// A permanent IPv4 neighbour, so that the first packet to a workload waits for nobody. Felix has none for IPv6 either
/// (`felix/dataplane/linux/int_dataplane.go`).
pub(crate) fn add(ip: Ipv4Addr, mac: MacAddress, index: u32, device: &str, flags: u16) -> Ask {
    let mut neighbour = message(ip, index);
    neighbour.header.state = NeighbourState::Permanent;
    neighbour.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    Ask::new(RouteNetlinkMessage::NewNeighbour(neighbour), flags, format!("add neighbour {ip} dev {device}"))
}

/// Deletes a neighbour entry.
pub(crate) fn delete(ip: Ipv4Addr, index: u32, device: &str) -> Ask {
    let what = format!("delete neighbour {ip} dev {device}");
    Ask::new(RouteNetlinkMessage::DelNeighbour(message(ip, index)), 0, what)
}

/// Prefix length of a gateway address: that of link-local addresses (RFC 4291, 2.5.6).
const LINK_LOCAL_LEN: u8 = 64;

const OWN_LEN: u8 = 32;

/// A link-local gateway address on an endpoint's host side, usable at once: without duplicate address detection it is
/// never tentative, also before the link has a carrier (kernel `net/ipv6/addrconf.c`, `addrconf_dad_begin`).
pub(crate) fn add_gateway(ip: Ipv6Addr, index: u32, device: &str, flags: u16) -> Ask {
    let mut address =
        AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, LINK_LOCAL_LEN).build();
    address.header.scope = AddressScope::Link;
    address.header.flags = AddressHeaderFlags::Nodad;
    address.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    Ask::new(RouteNetlinkMessage::NewAddress(address), flags, format!("add address {ip}/64 dev {device}"))
}

/// An IPv4 address of an endpoint's host side, for the host alone.
pub(crate) fn add_own(ip: Ipv4Addr, index: u32, device: &str) -> Ask {
    let mut address = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, OWN_LEN).build();
    address.header.scope = AddressScope::Host;
    Ask::new(RouteNetlinkMessage::NewAddress(address), 0, format!("add address {ip}/{OWN_LEN} dev {device}"))
}

/// Deletes a gateway address.
pub(crate) fn delete_gateway(ip: Ipv6Addr, index: u32, device: &str) -> Ask {
    let address = AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, LINK_LOCAL_LEN).build();
    Ask::new(RouteNetlinkMessage::DelAddress(address), 0, format!("delete address {ip}/64 dev {device}"))
}
