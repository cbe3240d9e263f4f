//! Rules as a renderer needs them: every selector a set, every name a number, one rule a family where addresses
//! are compared.

use super::hash::unique_id;
use super::update::{ResourceId, ResourceKind};
use crate::model::{Cidr, IpVersion};
use crate::selector::Selector;
use std::fmt;
use std::sync::Arc;

/// Which way traffic goes, seen from the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// `in` or `out`, for names.
    fn short(self) -> &'static str {
        match self {
            Self::Ingress => "in",
            Self::Egress => "out",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// The rules of one policy or profile for one direction: one chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleListId {
    /// The policy or profile.
    pub owner: ResourceId,
    /// The direction.
    pub direction: Direction,
}

impl RuleListId {
    /// 38 characters of `[A-Za-z0-9_-]`, stable over restarts, for a chain's name.
    #[must_use]
    pub fn hash(&self) -> String {
        let id = unique_id("r", &self.to_string());
        id.split_once(':').map_or_else(String::new, |(_, hash)| hash.to_owned())
    }

    /// Name of the chain that holds the rules.
    #[must_use]
    pub fn chain(&self) -> String {
        let kind = if self.owner.kind == ResourceKind::Profile { "prof" } else { "pol" };
        format!("{kind}-{}-{}", self.direction.short(), self.hash())
    }
}

impl fmt::Display for RuleListId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.owner, self.direction)
    }
}

/// Name of a set, the same as Felix's: `s:…` for the members of a selector, `n:…` for named ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(Arc<str>);

impl SetId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a set's members look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SetKind {
    /// Prefixes that never overlap.
    Nets,
    /// Address, protocol and port.
    Ports,
}

/// The port name of a named-port set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortName {
    pub(super) name: String,
    /// IP protocol number; `None` means TCP, UDP and SCTP.
    pub(super) protocol: Option<u8>,
}

/// What a set holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetSpec {
    pub(super) id: SetId,
    pub(super) selector: Selector,
    pub(super) port: Option<PortName>,
}

impl SetSpec {
    /// The addresses of what a selector matches.
    pub(super) fn of_selector(selector: Selector) -> Self {
        Self { id: SetId(unique_id("s", &selector.to_string()).into()), selector, port: None }
    }

    /// The ports of that name of what a selector matches.
    pub(super) fn of_port(selector: Selector, port: PortName) -> Self {
        let protocol = match port.protocol {
            None => "any",
            Some(17) => "udp",
            Some(132) => "sctp",
            Some(_) => "tcp",
        };
        let members = unique_id("s", &selector.to_string());
        let id = unique_id("n", &format!("{members},{protocol},{}", port.name));
        Self { id: SetId(id.into()), selector, port: Some(port) }
    }

    pub(super) fn kind(&self) -> SetKind {
        if self.port.is_some() { SetKind::Ports } else { SetKind::Nets }
    }
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The endpoint's policy allows the packet; nothing further is asked.
    Allow,
    /// The packet is dropped.
    Deny,
    /// The rest of the tier is skipped; in a profile, the rest of the profile.
    Pass,
    /// The packet is logged and goes on to the next rule.
    Log,
}

/// ICMP type, and code where given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// Type.
    pub icmp_type: u8,
    /// Code; `None` matches any.
    pub code: Option<u8>,
}

/// Ports `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// Ports: one of the ranges, or in one of the sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// Sorted, without overlaps.
    pub ranges: Vec<PortRange>,
    /// Sets of [`SetKind::Ports`], compared with this side's address, the packet's protocol and this side's port.
    pub named: Vec<SetId>,
}

impl PortMatch {
    /// Whether there is nothing to compare.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.named.is_empty()
    }
}

/// One side of a rule. What is not empty must hold, all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SideMatch {
    /// One of these holds the address. Sorted, without overlaps, of the rule's family.
    pub nets: Vec<Cidr>,
    /// None of these holds the address. Sorted, without overlaps, of the rule's family.
    pub not_nets: Vec<Cidr>,
    /// The address is in this set.
    pub set: Option<SetId>,
    /// The address is not in this set.
    pub not_set: Option<SetId>,
    /// The port is one of these, by number *or* by name.
    pub ports: PortMatch,
    /// The port is none of these, neither by number nor by name.
    pub not_ports: PortMatch,
}

impl SideMatch {
    /// Every set that is mentioned.
    pub fn sets(&self) -> impl Iterator<Item = &SetId> {
        let ports = self.ports.named.iter().chain(&self.not_ports.named);
        self.set.iter().chain(&self.not_set).chain(ports)
    }

    /// Whether an address is compared, so that the rule has a family.
    pub(super) fn has_address(&self) -> bool {
        !self.nets.is_empty() || !self.not_nets.is_empty() || self.sets().next().is_some()
    }
}

/// One rule. What is given must hold, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResolvedRule {
    /// Place of the source rule in its policy's list, from 0. A source rule becomes none, one or two of these.
    pub index: usize,
    /// `None` matches both families; then no address is compared.
    pub family: Option<IpVersion>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// IP protocol number that the packet must not have.
    pub not_protocol: Option<u8>,
    /// ICMP type and code; `protocol` is then 1 or 58.
    pub icmp: Option<IcmpMatch>,
    /// Not this ICMP type, or with a code: not this type together with this code; `protocol` is then 1 or 58.
    pub not_icmp: Option<IcmpMatch>,
    /// Where the packet comes from.
    pub source: SideMatch,
    /// Where it goes.
    pub destination: SideMatch,
    /// What is done.
    pub action: Action,
}

/// The rules of one list, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleList {
    /// The tier of the policy; `None` for a profile.
    pub tier: Option<Arc<str>>,
    /// The rules.
    pub rules: Vec<ResolvedRule>,
    /// What the sets that the rules mention hold, each once.
    pub(super) specs: Vec<Arc<SetSpec>>,
}

impl RuleList {
    /// Every set that the rules mention, more than once if they do.
    pub fn sets(&self) -> impl Iterator<Item = &SetId> {
        self.rules.iter().flat_map(|rule| rule.source.sets().chain(rule.destination.sets()))
    }

    /// A list that denies everything.
    pub(super) fn deny_all(tier: Option<Arc<str>>) -> Self {
        Self { tier, rules: vec![ResolvedRule::unconditional(Action::Deny)], specs: Vec::new() }
    }
}

impl ResolvedRule {
    /// A rule that matches everything.
    pub(super) fn unconditional(action: Action) -> Self {
        Self {
            index: 0,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: SideMatch::default(),
            destination: SideMatch::default(),
            action,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_felixs_names() {
        let spec = SetSpec::of_selector(Selector::parse("").unwrap());
        assert_eq!(spec.id.as_str(), "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug");
    }

    #[test]
    fn named_ports_of_other_protocols_are_other_sets() {
        let of = |protocol| {
            SetSpec::of_port(Selector::All, PortName { name: "http".to_owned(), protocol }).id.to_string()
        };
        assert!(of(Some(6)).starts_with("n:"));
        assert_ne!(of(Some(6)), of(Some(17)));
        assert_ne!(of(Some(6)), of(None));
    }

    #[test]
    fn list_names_tell_owner_and_direction_apart() {
        let list =
            |kind, name, direction| RuleListId { owner: ResourceId::global(kind, name), direction }.hash();
        let names = [
            list(ResourceKind::Profile, "a", Direction::Ingress),
            list(ResourceKind::Profile, "a", Direction::Egress),
            list(ResourceKind::GlobalNetworkPolicy, "a", Direction::Ingress),
        ];
        assert_eq!(names[0].len(), 38);
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    }
}
