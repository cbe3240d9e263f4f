//! What changes on the host, as the kernel announces it.

use super::address::address_of;
use super::error::NetError;
use super::link::Link;
use super::next_hop::is_next_hop_route;
use super::route::{self, HostRoute};
use super::setting::{self, SettingOf};
use super::vxlan;
use crate::model::MacAddress;
use futures::stream::{self, BoxStream};
use netlink_packet_core::{DecodeError, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use std::net::IpAddr;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Sender};

/// Events that wait for their reader. A container start makes about ten; when a burst is longer, reading the whole
/// state again is cheaper than a longer queue.
const WAITING: usize = 256;

/// Largest datagram of a notification, with room to spare.
const DATAGRAM: usize = 64 * 1024;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// One change on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// A link came, went or changed.
    Link(LinkChange),
    /// A route of the main table came or went. Our own route for the next hops is not reported, since
    /// [`super::Host::ensure_next_hops`] may take it away for a moment to look behind it.
    Route(RouteChange),
    /// An address came or went.
    Address(AddressChange),
    /// A permanent neighbour or forwarding entry came, or any went.
    Neighbour(NeighbourChange),
    /// A setting on which endpoints depend was changed.
    Setting(SettingOf),
    /// Events were lost: read everything again.
    Resync,
}

/// A link came, went or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkChange {
    /// The link as it is, or as it last was.
    pub link: Link,
    /// Whether it is gone.
    pub gone: bool,
}

/// A next hop of a route of the main table came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// The route; its device is known by index only.
    pub route: HostRoute,
    /// Whether it is gone.
    pub gone: bool,
}

/// An address came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressChange {
    /// Index of the link that has it.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length in bits of the prefix that is on link with it.
    pub prefix_len: u8,
    /// Whether it is gone.
    pub gone: bool,
}

/// A neighbour, or a forwarding entry, came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourChange {
    /// Index of the link that has it.
    pub index: u32,
    /// The Ethernet address, if it is told.
    pub mac: Option<MacAddress>,
    /// What the entry joins with it: a neighbour's address; the machine to which frames are sent, if `forwards`.
    pub address: IpAddr,
    /// Whether it is a forwarding entry.
    pub forwards: bool,
    /// Whether it is gone.
    pub gone: bool,
}

/// Subscribes, and starts the task that reads; it ends when the stream is dropped. Needs the worker's runtime.
pub(crate) fn open() -> Result<BoxStream<'static, HostEvent>, NetError> {
    let io = |error| NetError::of_io("subscribe to the kernel's notifications", error);
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(io)?;
    let groups = GROUPS.iter().fold(0_u32, |mask, group| mask | 1 << (*group as u32 - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups)).map_err(io)?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(pump(socket, sender));
    Ok(Box::pin(stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (event, receiver))
    })))
}

async fn pump(socket: TokioSocket, sender: Sender<HostEvent>) {
    let mut lost = false;
    loop {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        tokio::select! {
            // As soon as the reader has room again; what came meanwhile is covered by its reading everything.
            permit = sender.reserve(), if lost => match permit {
                Ok(permit) => {
                    permit.send(HostEvent::Resync);
                    lost = false;
                }
                Err(_closed) => return,
            },
            () = sender.closed() => return,
            received = socket.recv_from(&mut datagram) => match received {
                Ok(_kernel) if lost => {}
                Ok(_kernel) => match forward(&datagram, &sender) {
                    Ok(()) => {}
                    Err(TrySendError::Full(())) => lost = true,
                    Err(TrySendError::Closed(())) => return,
                },
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => lost = true,
                Err(error) => {
                    log::warn!("the kernel's notifications ended: {error}");
                    return;
                }
            },
        }
    }
}

fn forward(datagram: &[u8], sender: &Sender<HostEvent>) -> Result<(), TrySendError<()>> {
    for event in decode(datagram) {
        sender.try_send(event).map_err(|error| match error {
            TrySendError::Full(_) => TrySendError::Full(()),
            TrySendError::Closed(_) => TrySendError::Closed(()),
        })?;
    }
    Ok(())
}

/// The events in a datagram; one that cannot be read counts as lost.
fn decode(datagram: &[u8]) -> Vec<HostEvent> {
    let (mut events, mut rest) = (Vec::new(), datagram);
    while !rest.is_empty() {
        let (told, len) = match decode_first(rest) {
            Ok(first) => first,
            Err(error) => {
                log::debug!("a notification of the kernel cannot be read: {error}");
                events.push(HostEvent::Resync);
                break;
            }
        };
        events.extend(told);
        rest = rest.get(len..).filter(|_| len > 0).unwrap_or_default();
    }
    events
}

/// The events of the first message, and the bytes that it takes.
fn decode_first(datagram: &[u8]) -> Result<(Vec<HostEvent>, usize), DecodeError> {
    let header = NetlinkBuffer::new_checked(datagram)?;
    let len = usize::try_from(header.length()).unwrap_or(usize::MAX).next_multiple_of(4);
    let events = match header.message_type() {
        setting::CHANGED => setting::decode(header.payload()).map(HostEvent::Setting).into_iter().collect(),
        setting::GONE => Vec::new(),
        _ => match NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram)?.payload {
            NetlinkPayload::InnerMessage(inner) => events_of(&inner),
            _ => Vec::new(),
        },
    };
    Ok((events, len))
}

fn events_of(message: &RouteNetlinkMessage) -> Vec<HostEvent> {
    match message {
        RouteNetlinkMessage::NewLink(link) => vec![link_event(Link::decode(link), false)],
        RouteNetlinkMessage::DelLink(link) => vec![link_event(Link::decode(link), true)],
        RouteNetlinkMessage::NewRoute(found) => route_events(route::decode(found), false),
        RouteNetlinkMessage::DelRoute(found) => route_events(route::decode(found), true),
        RouteNetlinkMessage::NewAddress(found) => address_event(found, false).into_iter().collect(),
        RouteNetlinkMessage::DelAddress(found) => address_event(found, true).into_iter().collect(),
        RouteNetlinkMessage::NewNeighbour(found) => neighbour_event(found, false).into_iter().collect(),
        RouteNetlinkMessage::DelNeighbour(found) => neighbour_event(found, true).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn link_event(link: Link, gone: bool) -> HostEvent {
    HostEvent::Link(LinkChange { link, gone })
}

fn route_events(routes: Vec<HostRoute>, gone: bool) -> Vec<HostEvent> {
    let foreign = routes.into_iter().filter(|route| !is_next_hop_route(route));
    foreign.map(|route| HostEvent::Route(RouteChange { route, gone })).collect()
}

fn address_event(message: &AddressMessage, gone: bool) -> Option<HostEvent> {
    let (index, prefix_len) = (message.header.index, message.header.prefix_len);
    let address = address_of(message)?;
    Some(HostEvent::Address(AddressChange { index, address, prefix_len, gone }))
}

/// What the kernel learns and forgets by itself, which is told as well, concerns nobody here.
fn neighbour_event(message: &NeighbourMessage, gone: bool) -> Option<HostEvent> {
    let (index, forwards) = (message.header.ifindex, message.header.family == AddressFamily::Bridge);
    let address = vxlan::ip_of(message)?;
    let lasting = gone || vxlan::is_permanent(message);
    let change = NeighbourChange { index, mac: vxlan::mac_of(message), address, forwards, gone };
    lasting.then_some(HostEvent::Neighbour(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_that_cannot_be_read_asks_for_a_resync() {
        assert_eq!(decode(&[1, 2, 3]), [HostEvent::Resync]);
        assert_eq!(decode(&[]), []);
    }
}
