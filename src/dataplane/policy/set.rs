//! Selectors' members, and lists of prefixes and ports in rules, as sets. Pure.

use crate::model::{Cidr, IpVersion};
use crate::nft::{self, DataType, ElementKey, Set, SetContents, SetData, concat, interval_elements};
use crate::policy::{self, PortRange, SetId, SetKind, unique_id};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Both halves of every selector's set.
pub(super) const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// Name of one family's half of a set.
pub(super) fn name(id: &SetId, kind: SetKind, version: IpVersion) -> String {
    let hash = id.as_str().split_once(':').map_or(id.as_str(), |(_, hash)| hash);
    let (kind, version) = match (kind, version) {
        (SetKind::Nets, IpVersion::V4) => ("sel", 4),
        (SetKind::Nets, IpVersion::V6) => ("sel", 6),
        (SetKind::Ports, IpVersion::V4) => ("np", 4),
        (SetKind::Ports, IpVersion::V6) => ("np", 6),
    };
    format!("{kind}-{hash}-{version}")
}

/// One family's half of a set, without elements.
pub(super) fn definition(id: &SetId, kind: SetKind, version: IpVersion) -> Set {
    let key = match kind {
        SetKind::Nets => vec![address(version)],
        SetKind::Ports => vec![address(version), DataType::InetProto, DataType::InetService],
    };
    Set { name: name(id, kind, version), key, data: SetData::None, interval: kind == SetKind::Nets }
}

fn address(version: IpVersion) -> DataType {
    match version {
        IpVersion::V4 => DataType::Ipv4Addr,
        IpVersion::V6 => DataType::Ipv6Addr,
    }
}

/// What stands for a member. Prefixes stay apart even where they touch, so that each comes and goes alone.
pub(in super::super) fn elements(member: &policy::Element) -> Vec<nft::Element> {
    match member {
        policy::Element::Net(net) => prefix(net),
        policy::Element::Port(member) => {
            let (protocol, port) = ([member.protocol], member.port.to_be_bytes());
            vec![nft::Element::member(concat(&[&octets(member.address), &protocol, &port]))]
        }
    }
}

fn prefix(net: &Cidr) -> Vec<nft::Element> {
    interval_elements([(net.base(), net.prefix_len())])
}

/// An address as the kernel compares it.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The set of the prefixes that a rule lists; its name says what is in it, so that it never changes.
pub(super) fn of_nets(nets: &[Cidr], version: IpVersion) -> SetContents {
    let content = nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let members = nets.iter().flat_map(prefix);
    literal("nets", &content, address(version), members)
}

/// The set of the ports that a rule lists.
pub(super) fn of_ports(ranges: &[PortRange]) -> SetContents {
    let content: Vec<String> = ranges.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
    let members = ranges.iter().flat_map(|range| {
        let end = range.last.checked_add(1).map(|next| nft::Element {
            key: ElementKey { bytes: next.to_be_bytes().to_vec(), end: true },
            data: None,
        });
        std::iter::once(nft::Element::member(range.first.to_be_bytes().to_vec())).chain(end)
    });
    literal("ports", &content.join(","), DataType::InetService, members)
}

fn literal(
    kind: &str,
    content: &str,
    key: DataType,
    members: impl Iterator<Item = nft::Element>,
) -> SetContents {
    let name = unique_id(kind, content).replace(':', "-");
    let set = Set { name, key: vec![key], data: SetData::None, interval: true };
    let elements: BTreeMap<_, _> = members.map(|element| (element.key, element.data)).collect();
    SetContents { set, elements }
}
