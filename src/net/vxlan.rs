//! The VXLAN devices over which packets for workloads of other nodes travel, and what is behind them: for each other
//! node a permanent neighbour and a forwarding entry (`felix/dataplane/linux/vxlan_mgr.go`, `felix/vxlanfdb`).

use super::address::{self, address_of};
use super::endpoint::{found, refusals};
use super::error::{Meaning, NetError};
use super::link::{self, Change, Link};
use super::rtnl::{Ask, Rtnl};
use crate::model::{Cidr, MacAddress};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkVxlan};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names of the VXLAN devices of IPv4 and IPv6, Felix's too (`felix/dataplane/linux/dataplanedefs`).
pub const VXLAN_DEVICES: [&str; 2] = ["vxlan.calico", "vxlan-v6.calico"];

/// A VXLAN device as it should be. It learns nothing: what is behind it is told by [`Vtep`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanDevice {
    /// Its name, of [`VXLAN_DEVICES`].
    pub name: &'static str,
    /// The network that its packets bear, 24 bits.
    pub vni: u32,
    /// UDP port, on this node and all others.
    pub port: u16,
    /// Index of the interface that its packets leave through.
    pub parent: u32,
    /// This node's address, from which they are sent.
    pub local: IpAddr,
    /// Ethernet address that the other nodes know.
    pub mac: MacAddress,
    /// MTU in bytes.
    pub mtu: u32,
    /// The only address of the family that it has, as /32 or /128: the host's own towards workloads of other nodes.
    pub address: IpAddr,
}

/// The end of the tunnel at another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vtep {
    /// Address of the other node's VXLAN device: next hop of the routes to its blocks.
    pub address: IpAddr,
    /// Ethernet address of that device.
    pub mac: MacAddress,
    /// The other node's address, to which packets are sent.
    pub host: IpAddr,
}

/// What decides whether a device can stay.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    vni: Option<u32>,
    port: Option<u16>,
    parent: Option<u32>,
    local: Option<IpAddr>,
    learning: Option<bool>,
}

impl Shape {
    fn of(message: &LinkMessage) -> Option<Self> {
        let infos = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
        let details = infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(details)) => Some(details),
            _ => None,
        })?;
        let mut shape = Self::default();
        for detail in details {
            match detail {
                InfoVxlan::Id(vni) => shape.vni = Some(*vni),
                InfoVxlan::Port(port) => shape.port = Some(*port),
                InfoVxlan::Link(index) => shape.parent = Some(*index),
                InfoVxlan::Local(ip) => shape.local = Some((*ip).into()),
                InfoVxlan::Local6(ip) => shape.local = Some((*ip).into()),
                InfoVxlan::Learning(learns) => shape.learning = Some(*learns),
                _ => {}
            }
        }
        Some(shape)
    }

    fn wanted(device: &VxlanDevice) -> Self {
        Self {
            vni: Some(device.vni),
            port: Some(device.port),
            parent: Some(device.parent),
            local: Some(device.local),
            learning: Some(false),
        }
    }
}

/// See [`super::Underlay::ensure_vxlan`].
pub(crate) async fn ensure(rtnl: &Rtnl, device: &VxlanDevice) -> Result<u32, NetError> {
    let answer = rtnl.ask(link::get(device.name)).await?;
    let shape = answer.messages.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Shape::of(link),
        _ => None,
    });
    let (link, made) = match found(answer)? {
        Some(link) if shape == Some(Shape::wanted(device)) => (link, false),
        Some(link) if shape.is_none() => {
            let why = format!("it is a {}, not a vxlan", link.kind.as_deref().unwrap_or("real interface"));
            return Err(NetError::NameTaken { iface: link.name, why });
        }
        Some(link) => {
            log::info!("{} is made anew: its VNI, port, parent or address changed", device.name);
            absent_is_fine(rtnl, link::delete(link.index, &link.name)).await?;
            (create(rtnl, device).await?, true)
        }
        None => (create(rtnl, device).await?, true),
    };
    let dressed = dress(rtnl, device, &link).await;
    if let (Err(error), true) = (&dressed, made) {
        let undone = absent_is_fine(rtnl, link::delete(link.index, &link.name)).await;
        let errors = [Some(error.duplicate()), undone.err()].into_iter().flatten().collect();
        return Err(NetError::of_all(errors).unwrap_or(NetError::Stopped));
    }
    dressed.map(|()| link.index)
}

async fn create(rtnl: &Rtnl, device: &VxlanDevice) -> Result<Link, NetError> {
    let builder = LinkMessageBuilder::<LinkVxlan>::new(device.name)
        .id(device.vni)
        .dev(device.parent)
        .port(device.port)
        .learning(false);
    let builder = match device.local {
        IpAddr::V4(ip) => builder.local(ip),
        IpAddr::V6(ip) => builder.local6(ip),
    };
    let message = builder.address(device.mac.0.to_vec()).mtu(device.mtu).build();
    let what = format!("make {} (VNI {}, UDP port {})", device.name, device.vni, device.port);
    let create = Ask::new(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, what);
    let mut answers = rtnl.batch(vec![create, link::get(device.name)]).await?.into_iter();
    match answers.next().and_then(|answer| answer.refusal) {
        // The name was free a moment ago: what is there already is a device with this VNI on this port.
        Some(refusal) if Meaning::of(refusal.errno) == Meaning::AlreadyThere => {
            return Err(NetError::VniTaken { device: device.name, vni: device.vni, port: device.port });
        }
        Some(refusal) => return Err(refusal.into()),
        None => {}
    }
    found(answers.next().unwrap_or_default())?
        .ok_or_else(|| NetError::NotThere { what: format!("look up new interface {}", device.name) })
}

/// What can be changed on a device that is there.
async fn dress(rtnl: &Rtnl, device: &VxlanDevice, link: &Link) -> Result<(), NetError> {
    let listed = rtnl.dump(address::list(), "list addresses").await?;
    let here = listed.iter().filter_map(|message| own_address(message, link.index));
    let of_family = here.filter(|found| found.0.is_ipv4() == device.address.is_ipv4());
    let wanted = (device.address, Cidr::host(device.address).prefix_len());
    let (right, wrong): (Vec<_>, Vec<_>) =
        of_family.filter(|found| !is_link_local(found.0)).partition(|found| *found == wanted);
    let change = Change {
        mac: (link.mac != Some(device.mac)).then_some(device.mac),
        mtu: (link.mtu != device.mtu).then_some(device.mtu),
        up: !link.up,
        ..Change::default()
    };
    let mut asks: Vec<Ask> = wrong.iter().map(|found| delete_address(*found, link)).collect();
    if right.is_empty() {
        asks.push(add_address(wanted, link));
    }
    asks.extend(link::change(link.index, device.name, &change));
    refusals(rtnl.batch(asks).await?)
}

/// An address with the length of its prefix.
type Addressed = (IpAddr, u8);

fn own_address(message: &RouteNetlinkMessage, index: u32) -> Option<Addressed> {
    match message {
        RouteNetlinkMessage::NewAddress(found) if found.header.index == index => {
            Some((address_of(found)?, found.header.prefix_len))
        }
        _ => None,
    }
}

fn address_message((ip, len): Addressed, index: u32) -> AddressMessage {
    match ip {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, len).build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, len).build(),
    }
}

/// Adds an address that is usable at once: nobody else is asked whether it is in use.
fn add_address(address: Addressed, link: &Link) -> Ask {
    let mut message = address_message(address, link.index);
    if address.0.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    let what = format!("add address {}/{} dev {}", address.0, address.1, link.name);
    Ask::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE, what)
}

fn delete_address(address: Addressed, link: &Link) -> Ask {
    let what = format!("delete address {}/{} dev {}", address.0, address.1, link.name);
    Ask::new(RouteNetlinkMessage::DelAddress(address_message(address, link.index)), 0, what)
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

async fn absent_is_fine(rtnl: &Rtnl, ask: Ask) -> Result<(), NetError> {
    let refused = rtnl.ask(ask).await?.refusal.map(NetError::from);
    refused.filter(|error| !error.is_not_there()).map_or(Ok(()), Err)
}

/// See [`super::Underlay::remove_vxlan`].
pub(crate) async fn remove(rtnl: &Rtnl, name: &str) -> Result<(), NetError> {
    let Some(link) = found(rtnl.ask(link::get(name)).await?)? else { return Ok(()) };
    if link.kind.as_deref() != Some("vxlan") {
        return Ok(());
    }
    absent_is_fine(rtnl, link::delete(link.index, &link.name)).await
}

fn entry(family: AddressFamily, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message
}

fn neighbour(vtep: &Vtep, index: u32) -> NeighbourMessage {
    let family = if vtep.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut message = entry(family, index);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(vtep.address.into()));
    message
}

fn forwarding(vtep: &Vtep, index: u32) -> NeighbourMessage {
    let mut message = entry(AddressFamily::Bridge, index);
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(vtep.mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(vtep.host.into()));
    message
}

/// Both entries of an end, the forwarding entry first: a packet that finds the neighbour finds its way.
fn additions(vtep: &Vtep, index: u32) -> [Ask; 2] {
    let (flags, what) =
        (NLM_F_CREATE | NLM_F_REPLACE, format!("add the way to tunnel address {}", vtep.address));
    let mut neighbour = neighbour(vtep, index);
    neighbour.attributes.push(NeighbourAttribute::LinkLayerAddress(vtep.mac.0.to_vec()));
    [forwarding(vtep, index), neighbour]
        .map(|message| Ask::new(RouteNetlinkMessage::NewNeighbour(message), flags, what.clone()))
}

fn deletions(vtep: &Vtep, index: u32) -> [Ask; 2] {
    let what = format!("delete the way to tunnel address {}", vtep.address);
    [neighbour(vtep, index), forwarding(vtep, index)]
        .map(|message| Ask::new(RouteNetlinkMessage::DelNeighbour(message), 0, what.clone()))
}

/// See [`super::Underlay::change_vteps`].
pub(crate) async fn change(rtnl: &Rtnl, index: u32, delete: &[Vtep], add: &[Vtep]) -> Result<(), NetError> {
    let gone = rtnl.batch(delete.iter().flat_map(|vtep| deletions(vtep, index)).collect()).await?;
    let kept = gone.into_iter().filter_map(|answer| answer.refusal).map(NetError::from);
    let mut errors: Vec<NetError> = kept.filter(|error| !error.is_not_there()).collect();
    let added = rtnl.batch(add.iter().flat_map(|vtep| additions(vtep, index)).collect()).await?;
    errors.extend(refusals(added).err());
    NetError::of_all(errors).map_or(Ok(()), Err)
}

/// See [`super::Underlay::vteps`].
pub(crate) async fn list(rtnl: &Rtnl, index: u32) -> Result<Vec<Vtep>, NetError> {
    let families = [AddressFamily::Bridge, AddressFamily::Inet, AddressFamily::Inet6];
    let mut found = Vec::new();
    for family in families {
        let ask = RouteNetlinkMessage::GetNeighbour(entry(family, 0));
        found.extend(rtnl.dump(ask, "list the neighbours of VXLAN devices").await?);
    }
    let mut hosts: BTreeMap<MacAddress, Vec<IpAddr>> = BTreeMap::new();
    let mut neighbours: Vec<(Option<IpAddr>, MacAddress)> = Vec::new();
    for message in &found {
        let RouteNetlinkMessage::NewNeighbour(found) = message else { continue };
        if found.header.ifindex != index || !is_permanent(found) {
            continue;
        }
        let Some(mac) = mac_of(found) else { continue };
        let ip = ip_of(found);
        if found.header.family == AddressFamily::Bridge {
            hosts.entry(mac).or_default().extend(ip);
        } else {
            neighbours.push((ip, mac));
        }
    }
    Ok(joined(&neighbours, &hosts))
}

/// Whether the kernel keeps an entry until somebody takes it away; `bridge fdb add` sets `NUD_NOARP` besides.
pub(super) fn is_permanent(entry: &NeighbourMessage) -> bool {
    u16::from(entry.header.state) & u16::from(NeighbourState::Permanent) != 0
}

/// An entry of one kind without the other is told with the unspecified address in the place of what is missing, so that
/// a comparison finds it.
fn joined(
    neighbours: &[(Option<IpAddr>, MacAddress)],
    hosts: &BTreeMap<MacAddress, Vec<IpAddr>>,
) -> Vec<Vtep> {
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let (unknown, mut vteps) = ([nobody], Vec::new());
    for (ip, mac) in neighbours {
        let behind = hosts.get(mac).map_or(unknown.as_slice(), Vec::as_slice);
        vteps.extend(behind.iter().map(|host| Vtep {
            address: ip.unwrap_or(nobody),
            mac: *mac,
            host: *host,
        }));
    }
    for (mac, behind) in hosts {
        if !neighbours.iter().any(|(_, known)| known == mac) {
            vteps.extend(behind.iter().map(|host| Vtep { address: nobody, mac: *mac, host: *host }));
        }
    }
    vteps
}

pub(super) fn mac_of(message: &NeighbourMessage) -> Option<MacAddress> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => {
            <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddress)
        }
        _ => None,
    })
}

pub(super) fn ip_of(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(|octets| Ipv4Addr::from(octets).into());
            v4.or_else(|| {
                <[u8; 16]>::try_from(bytes.as_slice()).ok().map(|octets| Ipv6Addr::from(octets).into())
            })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_end_is_no_end() {
        let mac = |n| MacAddress([n; 6]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let hosts = BTreeMap::from([(mac(1), vec![ip("192.0.2.1")]), (mac(3), vec![ip("192.0.2.3")])]);
        let neighbours = [(Some(ip("10.0.0.1")), mac(1)), (Some(ip("10.0.0.2")), mac(2))];
        let nobody = ip("0.0.0.0");
        assert_eq!(
            joined(&neighbours, &hosts),
            [
                Vtep { address: ip("10.0.0.1"), mac: mac(1), host: ip("192.0.2.1") },
                Vtep { address: ip("10.0.0.2"), mac: mac(2), host: nobody },
                Vtep { address: nobody, mac: mac(3), host: ip("192.0.2.3") },
            ]
        );
    }
}
