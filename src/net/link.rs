//! Links: what the kernel says of one, and the messages that make and change an endpoint's pair.

use super::EndpointLink;
use crate::model::MacAddress;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::rtnl::Ask;

/// One network interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it, never used twice before a wrap.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias (`IFLA_IFALIAS`), where we leave our mark.
    pub alias: Option<String>,
    /// Its Ethernet address; `None` for a device that has none.
    pub mac: Option<MacAddress>,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// Whether packets pass (`IFF_RUNNING`): for a veth, whether its other end is up, too.
    pub carrier: bool,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The kind of a virtual device: `veth`, `bridge`, `vxlan`; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the other end of a veth, or of the parent device, in the namespace where that is.
    pub peer: Option<u32>,
    /// Whether that other end is in another network namespace, as that of a running container is.
    pub peer_elsewhere: bool,
}

impl Link {
    /// One that is up, for tests.
    #[cfg(test)]
    pub(crate) fn sample(index: u32, name: &str) -> Self {
        Self {
            index,
            name: name.to_owned(),
            alias: None,
            mac: None,
            up: true,
            carrier: true,
            loopback: false,
            mtu: 1500,
            kind: None,
            peer: None,
            peer_elsewhere: false,
        }
    }

    /// Whether this is one end of a veth pair.
    #[must_use]
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }

    /// Reads a link message.
    pub(crate) fn decode(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            mac: None,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::Running),
            loopback: flags.contains(LinkFlags::Loopback),
            mtu: 0,
            kind: None,
            peer: None,
            peer_elsewhere: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Address(bytes) => {
                    link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddress)
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => link.kind = kind_of(infos),
                _ => {}
            }
        }
        link
    }
}

fn kind_of(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

/// The links among the answers to a question.
pub(crate) fn decode_all(messages: &[RouteNetlinkMessage]) -> Vec<Link> {
    let link = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewLink(link) => Some(Link::decode(link)),
        _ => None,
    };
    messages.iter().filter_map(link).collect()
}

/// Makes the pair, both ends with their address and MTU from the first moment, so that udev sees addresses that were
/// set (`NET_ADDR_SET`) and leaves them alone.
pub(crate) fn create_pair(endpoint: &EndpointLink) -> Ask {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(endpoint.temp.as_str())
        .address(endpoint.mac.0.to_vec())
        .mtu(endpoint.mtu)
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(endpoint.host.as_str())
        .address(MacAddress::HOST_SIDE.0.to_vec())
        .mtu(endpoint.mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    let what = format!("make the veth pair {} and {}", endpoint.host, endpoint.temp);
    Ask::new(RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL, what)
}

/// Asks for one link by name.
pub(crate) fn get(name: &str) -> Ask {
    let message = without_counters(LinkUnspec::new_with_name(name)).build();
    Ask::new(RouteNetlinkMessage::GetLink(message), 0, format!("look up interface {name}"))
}

/// Asks for one link by index.
pub(crate) fn get_by_index(index: u32) -> Ask {
    let message = without_counters(LinkUnspec::new_with_index(index)).build();
    Ask::new(RouteNetlinkMessage::GetLink(message), 0, format!("look up interface {index}"))
}

/// The message that lists all links.
pub(crate) fn list() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(without_counters(LinkMessageBuilder::<LinkUnspec>::new()).build())
}

/// Half of an answer is counters, which nobody here reads.
fn without_counters(message: LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> {
    message.append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
}

/// Deletes a link by index, which cannot be another one than the one that was looked at.
pub(crate) fn delete(index: u32, name: &str) -> Ask {
    let message = LinkUnspec::new_with_index(index).build();
    Ask::new(RouteNetlinkMessage::DelLink(message), 0, format!("delete interface {name}"))
}

/// Deletes a link by name: one that was just made and cannot be looked up.
pub(crate) fn delete_by_name(name: &str) -> Ask {
    let message = LinkUnspec::new_with_name(name).build();
    Ask::new(RouteNetlinkMessage::DelLink(message), 0, format!("delete interface {name}"))
}

/// The group of links that are about to be deleted together: the letters "cali".
const DOOMED: u32 = u32::from_be_bytes(*b"cali");

/// Puts a link in the group of those to be deleted.
pub(crate) fn doom(index: u32, name: &str) -> Ask {
    let message = LinkUnspec::new_with_index(index).link_group(DOOMED).build();
    Ask::new(RouteNetlinkMessage::SetLink(message), 0, format!("delete interface {name}"))
}

/// Deletes all links of that group at once (kernel `rtnl_group_dellink`).
pub(crate) fn delete_doomed() -> Ask {
    let message = LinkMessageBuilder::<LinkUnspec>::new().link_group(DOOMED).build();
    Ask::new(RouteNetlinkMessage::DelLink(message), 0, "delete interfaces by group")
}

/// What is to change on one end of a pair that exists.
#[derive(Debug, Default)]
pub(crate) struct Change<'a> {
    pub(crate) alias: Option<&'a str>,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) mtu: Option<u32>,
    pub(crate) up: bool,
}

/// Changes a link; `None` if there is nothing to change.
pub(crate) fn change(index: u32, name: &str, change: &Change<'_>) -> Option<Ask> {
    if change.alias.is_none() && change.mac.is_none() && change.mtu.is_none() && !change.up {
        return None;
    }
    let mut message = LinkUnspec::new_with_index(index);
    if let Some(alias) = change.alias {
        message = message.alias(alias);
    }
    if let Some(mac) = change.mac {
        message = message.address(mac.0.to_vec());
    }
    if let Some(mtu) = change.mtu {
        message = message.mtu(mtu);
    }
    if change.up {
        message = message.up();
    }
    Some(Ask::new(RouteNetlinkMessage::SetLink(message.build()), 0, format!("set up interface {name}")))
}
