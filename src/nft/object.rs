//! What a table holds: chains, sets and maps with their elements, rules.

use super::{Rule, Verdict};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// Family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// `NFPROTO_*`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6].into_iter().find(|f| f.number() == number)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

/// Which table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId {
    /// Its family.
    pub family: Family,
    /// Its name, at most 255 bytes.
    pub name: String,
}

impl TableId {
    /// A table by family and name.
    #[must_use]
    pub fn new(family: Family, name: &str) -> Self {
        Self { family, name: name.to_owned() }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Accepts and drops.
    Filter,
    /// Translates addresses of a connection's first packet.
    Nat,
    /// Re-routes locally made packets when their mark or addresses change.
    Route,
}

impl ChainKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat, Self::Route].into_iter().find(|k| k.name() == name)
    }
}

/// Where in the stack a base chain runs (`NF_INET_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Every packet that comes in.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets through this host.
    Forward,
    /// Packets from this host.
    Output,
    /// Every packet that goes out.
    Postrouting,
}

impl Hook {
    const ALL: [Self; 5] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|h| h.number() == number)
    }
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BaseChain {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it runs.
    pub hook: Hook,
    /// When, among the base chains of its hook: lower is earlier.
    pub priority: i32,
    /// Whether packets that no rule decided are dropped.
    pub drop: bool,
}

/// A chain; one without `base` runs only when it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name, unique in the table.
    pub name: String,
    /// Set for base chains.
    pub base: Option<BaseChain>,
}

/// Type of a key or value. The number is `nft`'s own (`TYPE_*` in its `datatype.h`); the kernel only stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// 4 bytes.
    Ipv4Addr,
    /// 16 bytes.
    Ipv6Addr,
    /// IP protocol, 1 byte.
    InetProto,
    /// Port, 2 bytes, big-endian.
    InetService,
    /// ICMPv6 type, 1 byte.
    Icmpv6Type,
    /// Interface name, 16 bytes, NUL-padded.
    Ifname,
}

impl DataType {
    const ALL: [Self; 6] =
        [Self::Ipv4Addr, Self::Ipv6Addr, Self::InetProto, Self::InetService, Self::Icmpv6Type, Self::Ifname];

    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Icmpv6Type => 29,
            Self::Ifname => 41,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.number() == number)
    }

    /// What `nft` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Icmpv6Type => "icmpv6_type",
            Self::Ifname => "ifname",
        }
    }

    /// Length in bytes.
    pub(crate) fn len(self) -> u32 {
        match self {
            Self::Ipv4Addr => 4,
            Self::Ipv6Addr | Self::Ifname => 16,
            Self::InetProto | Self::Icmpv6Type => 1,
            Self::InetService => 2,
        }
    }

    /// Whether `nft` shall read the bytes as big-endian.
    pub(crate) fn big_endian(self) -> bool {
        !matches!(self, Self::Ifname)
    }
}

/// What the elements of a set map to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetData {
    /// Nothing: it is a set.
    None,
    /// A verdict.
    Verdict,
    /// A value, concatenated of these.
    Value(Vec<DataType>),
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Name, unique in the table.
    pub name: String,
    /// Type of the keys; several are a concatenation, each padded to four bytes.
    pub key: Vec<DataType>,
    /// What keys map to.
    pub data: SetData,
    /// Whether keys are ends of intervals (see [`super::interval_elements`]).
    pub interval: bool,
}

/// Key of an element. Of equal values the end of one interval comes before the start of the next: in that order the
/// kernel takes adjacent intervals (`nft_set_rbtree.c`: a start after a start without end between them overlaps).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ElementKey {
    /// The value.
    pub bytes: Vec<u8>,
    /// In an interval set: this is the first value *after* an interval.
    pub end: bool,
}

impl Ord for ElementKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes).then(other.end.cmp(&self.end))
    }
}

impl PartialOrd for ElementKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What an element maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    /// Bytes.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// Its key.
    pub key: ElementKey,
    /// What it maps to, in a map.
    pub data: Option<Data>,
}

impl Element {
    /// A member of a set.
    #[must_use]
    pub fn member(key: Vec<u8>) -> Self {
        Self { key: ElementKey { bytes: key, end: false }, data: None }
    }

    /// An entry of a map.
    #[must_use]
    pub fn entry(key: Vec<u8>, data: Data) -> Self {
        Self { key: ElementKey { bytes: key, end: false }, data: Some(data) }
    }
}

/// An interface name as the kernel compares it: 16 bytes.
#[must_use]
pub fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// A concatenated key or value: each part padded to four bytes.
#[must_use]
pub fn concat(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// A set with what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetContents {
    /// Its definition.
    pub set: Set,
    /// Its elements.
    pub elements: BTreeMap<ElementKey, Option<Data>>,
}

/// A whole table: as it should be, or as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// `NFT_TABLE_F_*`: 1 is dormant, that is switched off.
    pub flags: u32,
    /// By name.
    pub chains: BTreeMap<String, Chain>,
    /// By the name of their chain, in order.
    pub rules: BTreeMap<String, Vec<Rule>>,
    /// By name.
    pub sets: BTreeMap<String, SetContents>,
}
