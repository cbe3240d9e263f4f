//! A table as `nft list table` writes it. Pure.
//!
//! What is printed can be loaded with `nft --file`. Chains, sets and maps come sorted by name; names, keywords and
//! numbers are those of nft 1.0.6 (`src/rule.c`, `src/datatype.c`).

use super::print_rule;
use super::{BaseChain, Chain, Data, DataType, ElementKey, Hook, SetContents, SetData, Table, TableId};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The whole table, with counters as they were when it was read.
#[must_use]
pub fn print_table(id: &TableId, table: &Table) -> String {
    let mut text = format!("table {id} {{\n");
    // `NFT_TABLE_F_DORMANT`.
    if table.flags & 1 != 0 {
        text.push_str("\tflags dormant;\n");
    }
    for contents in table.sets.values() {
        print_set(&mut text, contents);
        text.push('\n');
    }
    for chain in table.chains.values() {
        print_chain(&mut text, table, chain);
        text.push('\n');
    }
    // A blank line stands between blocks, not after the last.
    text.pop();
    text.push_str("}\n");
    text
}

fn print_chain(text: &mut String, table: &Table, chain: &Chain) {
    let _ = writeln!(text, "\tchain {} {{", chain.name);
    if let Some(base) = chain.base {
        let policy = if base.drop { "drop" } else { "accept" };
        let (kind, hook) = (base.kind.name(), hook(base.hook));
        let _ = writeln!(text, "\t\ttype {kind} hook {hook} priority {}; policy {policy};", priority(base));
    }
    for rule in table.rules.get(&chain.name).into_iter().flatten() {
        let _ = writeln!(text, "\t\t{}", print_rule::line(rule, &table.sets));
    }
    text.push_str("\t}\n");
}

fn hook(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    }
}

/// A priority by the nearest name, as `nft` has it: names of NAT belong to the hooks where NAT of that kind is done.
fn priority(base: BaseChain) -> String {
    /// Farther away from a name the number says more.
    const NEAR: i32 = 10;
    let everywhere = [("raw", -300), ("mangle", -150), ("filter", 0), ("security", 50)];
    let nat = match base.hook {
        Hook::Prerouting => Some(("dstnat", -100)),
        Hook::Postrouting => Some(("srcnat", 100)),
        Hook::Input | Hook::Forward | Hook::Output => None,
    };
    let number = base.priority;
    let near = everywhere.into_iter().chain(nat).find(|(_, at)| (number - at).abs() <= NEAR);
    match near.map(|(name, at)| (name, number - at)) {
        Some((name, 0)) => name.to_owned(),
        Some((name, off)) if off > 0 => format!("{name} + {off}"),
        Some((name, off)) => format!("{name} - {}", off.abs()),
        None => number.to_string(),
    }
}

fn print_set(text: &mut String, contents: &SetContents) {
    let set = &contents.set;
    let kind = if set.data == SetData::None { "set" } else { "map" };
    let _ = writeln!(text, "\t{kind} {} {{", set.name);
    let data = match &set.data {
        SetData::None => String::new(),
        SetData::Verdict => " : verdict".to_owned(),
        SetData::Value(types) => format!(" : {}", type_names(types)),
    };
    let _ = writeln!(text, "\t\ttype {}{data}", type_names(&set.key));
    if set.interval {
        text.push_str("\t\tflags interval\n");
    }
    let elements = elements(contents);
    if !elements.is_empty() {
        let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
    }
    text.push_str("\t}\n");
}

fn type_names(types: &[DataType]) -> String {
    types.iter().map(|one| one.name()).collect::<Vec<_>>().join(" . ")
}

/// The elements, two keys as one range where the set is of intervals.
fn elements(contents: &SetContents) -> Vec<String> {
    let set = &contents.set;
    if set.interval {
        return ranges(contents);
    }
    let one = |(key, data): (&ElementKey, &Option<Data>)| {
        let key = values(&set.key, &key.bytes);
        match (data, &set.data) {
            (Some(Data::Verdict(verdict)), _) => format!("{key} : {verdict}"),
            (Some(Data::Value(bytes)), SetData::Value(types)) => format!("{key} : {}", values(types, bytes)),
            _ => key,
        }
    };
    contents.elements.iter().map(one).collect()
}

fn ranges(contents: &SetContents) -> Vec<String> {
    let kind = contents.set.key.first().copied().unwrap_or(DataType::Ipv4Addr);
    let mut found = Vec::new();
    let mut start: Option<&[u8]> = None;
    for key in contents.elements.keys() {
        match (start, key.end) {
            (Some(first), true) => {
                found.push(range(kind, first, &before(&key.bytes)));
                start = None;
            }
            (_, false) => start = Some(&key.bytes),
            (None, true) => {}
        }
    }
    if let Some(first) = start {
        found.push(range(kind, first, &vec![0xff; first.len()]));
    }
    found
}

/// The value before a big-endian one.
fn before(bytes: &[u8]) -> Vec<u8> {
    let mut value = bytes.to_vec();
    for byte in value.iter_mut().rev() {
        let (less, borrow) = byte.overflowing_sub(1);
        *byte = less;
        if !borrow {
            break;
        }
    }
    value
}

/// A range as one value, a prefix, or its two ends.
fn range(kind: DataType, first: &[u8], last: &[u8]) -> String {
    if first == last {
        return value(kind, first);
    }
    let address = matches!(kind, DataType::Ipv4Addr | DataType::Ipv6Addr);
    match prefix_len(first, last) {
        Some(len) if address => format!("{}/{len}", value(kind, first)),
        _ => format!("{}-{}", value(kind, first), value(kind, last)),
    }
}

/// The length of the prefix that covers exactly what lies between two values, if one does.
fn prefix_len(first: &[u8], last: &[u8]) -> Option<u32> {
    let same: u32 = first
        .iter()
        .zip(last)
        .map(|(a, b)| (a ^ b).leading_zeros().min(8))
        .scan(true, |on, bits| {
            let counted = if *on { bits } else { 0 };
            *on &= bits == 8;
            Some(counted)
        })
        .sum();
    let bit = |bytes: &[u8], at: u32| {
        let byte = usize::try_from(at / 8).ok().and_then(|index| bytes.get(index)).copied().unwrap_or(0);
        byte >> (7 - at % 8) & 1
    };
    let width = u32::try_from(first.len()).ok()? * 8;
    (same..width).all(|at| bit(first, at) == 0 && bit(last, at) == 1).then_some(same)
}

/// A concatenation: each value begins at a multiple of four bytes.
pub(super) fn values(types: &[DataType], bytes: &[u8]) -> String {
    let mut rest = bytes;
    let mut parts = Vec::new();
    for kind in types {
        let len = usize::try_from(kind.len()).unwrap_or(0);
        parts.push(value(*kind, rest.get(..len).unwrap_or_default()));
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    parts.join(" . ")
}

/// One value.
pub(super) fn value(kind: DataType, bytes: &[u8]) -> String {
    let number = || bytes.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let address4 = || <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).to_string());
    let address6 = || <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).to_string());
    match kind {
        DataType::Ipv4Addr => address4().unwrap_or_else(|_| number().to_string()),
        DataType::Ipv6Addr => address6().unwrap_or_else(|_| number().to_string()),
        DataType::InetProto => protocol(number()),
        DataType::InetService => number().to_string(),
        DataType::Icmpv6Type => icmpv6_type(number()),
        DataType::Ifname => quoted(bytes, bytes.len()),
    }
}

/// An interface name. One that is shorter than it says it is ends in a wildcard.
pub(super) fn quoted(bytes: &[u8], whole: usize) -> String {
    let name: Vec<u8> = bytes.iter().copied().take_while(|byte| *byte != 0).collect();
    let star = if bytes.len() < whole { "*" } else { "" };
    format!("\"{}{star}\"", String::from_utf8_lossy(&name))
}

/// A protocol by its name in `/etc/protocols` of every Debian.
pub(super) fn protocol(number: u64) -> String {
    match number {
        1 => "icmp",
        4 => "ipencap",
        6 => "tcp",
        17 => "udp",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "ipv6-icmp",
        132 => "sctp",
        136 => "udplite",
        other => return other.to_string(),
    }
    .to_owned()
}

pub(super) fn icmp_type(number: u64) -> String {
    match number {
        0 => "echo-reply",
        3 => "destination-unreachable",
        4 => "source-quench",
        5 => "redirect",
        8 => "echo-request",
        9 => "router-advertisement",
        10 => "router-solicitation",
        11 => "time-exceeded",
        12 => "parameter-problem",
        13 => "timestamp-request",
        14 => "timestamp-reply",
        15 => "info-request",
        16 => "info-reply",
        17 => "address-mask-request",
        18 => "address-mask-reply",
        other => return other.to_string(),
    }
    .to_owned()
}

pub(super) fn icmp_code(number: u8) -> String {
    match number {
        0 => "net-unreachable",
        1 => "host-unreachable",
        2 => "prot-unreachable",
        3 => "port-unreachable",
        9 => "net-prohibited",
        10 => "host-prohibited",
        13 => "admin-prohibited",
        other => return other.to_string(),
    }
    .to_owned()
}

pub(super) fn icmpv6_code(number: u8) -> String {
    match number {
        0 => "no-route",
        1 => "admin-prohibited",
        3 => "addr-unreachable",
        4 => "port-unreachable",
        5 => "policy-fail",
        6 => "reject-route",
        other => return other.to_string(),
    }
    .to_owned()
}

pub(super) fn icmpv6_type(number: u64) -> String {
    match number {
        1 => "destination-unreachable",
        2 => "packet-too-big",
        3 => "time-exceeded",
        4 => "parameter-problem",
        128 => "echo-request",
        129 => "echo-reply",
        130 => "mld-listener-query",
        131 => "mld-listener-report",
        132 => "mld-listener-done",
        133 => "nd-router-solicit",
        134 => "nd-router-advert",
        135 => "nd-neighbor-solicit",
        136 => "nd-neighbor-advert",
        137 => "nd-redirect",
        138 => "router-renumbering",
        141 => "ind-neighbor-solicit",
        142 => "ind-neighbor-advert",
        143 => "mld2-listener-report",
        other => return other.to_string(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{ChainKind, ifname, interval_elements};

    fn interval(prefixes: &[(&str, u8)]) -> Vec<String> {
        let elements = interval_elements(prefixes.iter().map(|(ip, len)| (ip.parse().unwrap(), *len)));
        let set = crate::nft::Set {
            name: "s".to_owned(),
            key: vec![if prefixes[0].0.contains(':') { DataType::Ipv6Addr } else { DataType::Ipv4Addr }],
            data: SetData::None,
            interval: true,
        };
        elements_of(set, elements)
    }

    fn elements_of(set: crate::nft::Set, list: Vec<crate::nft::Element>) -> Vec<String> {
        elements(&SetContents { set, elements: list.into_iter().map(|e| (e.key, e.data)).collect() })
    }

    #[test]
    fn intervals_are_prefixes_where_they_can_be() {
        assert_eq!(interval(&[("10.0.0.0", 8), ("192.0.2.1", 32)]), ["10.0.0.0/8", "192.0.2.1"]);
        assert_eq!(interval(&[("10.0.0.1", 32), ("10.0.0.2", 31)]), ["10.0.0.1-10.0.0.3"]);
        assert_eq!(interval(&[("0.0.0.0", 0)]), ["0.0.0.0/0"]);
        assert_eq!(interval(&[("255.0.0.0", 8)]), ["255.0.0.0/8"]);
        assert_eq!(interval(&[("fd00::", 8), ("fe80::1", 128)]), ["fd00::/8", "fe80::1"]);
    }

    #[test]
    fn priorities_have_names_where_nft_gives_them() {
        let of = |hook, priority| {
            super::priority(BaseChain { kind: ChainKind::Filter, hook, priority, drop: false })
        };
        assert_eq!(of(Hook::Prerouting, -300), "raw");
        assert_eq!(of(Hook::Forward, -10), "filter - 10");
        assert_eq!(of(Hook::Postrouting, 110), "srcnat + 10");
        assert_eq!(of(Hook::Prerouting, -105), "dstnat - 5");
        assert_eq!(of(Hook::Output, -105), "-105");
    }

    #[test]
    fn names_are_quoted_and_wildcards_shown() {
        assert_eq!(value(DataType::Ifname, &ifname("cali1")), "\"cali1\"");
        assert_eq!(quoted(b"cali", 16), "\"cali*\"");
    }
}
