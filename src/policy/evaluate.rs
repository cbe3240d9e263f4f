//! What would be decided about a new flow, by the same rules that are handed to the renderer, and by which of them.
//!
//! Answers hold as of the last flush. Established flows, invalid packets, tunnels that a workload sends and traffic
//! between a workload and its host are settled before or after policy and are no part of the answer.

use super::changes::{EndOfTier, Shape};
use super::graph::Graph;
use super::item::Item;
use super::members::PortMember;
use super::parts::{ICMP, ICMP_V6, has_ports};
use super::resolved::{Action, Direction, IcmpMatch, PortMatch, ResolvedRule, RuleListId, SetId, SideMatch};
use super::sets::Sets;
use super::update::ResourceId;
use crate::model::{Cidr, IpVersion};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes, after destination NAT.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port; 0 where the protocol has none.
    pub destination_port: u16,
    /// ICMP type and code; (0, 0) for other protocols.
    pub icmp: (u8, u8),
    /// Whether the destination was translated: the flow came by a published port.
    pub published: bool,
}

impl Flow {
    /// A flow from an ephemeral port (40000); for ICMP an echo request.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> Self {
        let icmp = match protocol {
            ICMP => (8, 0),
            ICMP_V6 => (128, 0),
            _ => (0, 0),
        };
        let source_port = if has_ports(protocol) { 40_000 } else { 0 };
        Self { source, destination, protocol, source_port, destination_port: port, icmp, published: false }
    }
}

/// What is decided about a flow: on the source's node about leaving, on the destination's about arriving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The source's egress; `None` if the source is no workload.
    pub egress: Option<Decision>,
    /// The destination's ingress; `None` if the destination is no workload.
    pub ingress: Option<Decision>,
}

impl Trace {
    /// Whether policy lets the flow through on both sides.
    #[must_use]
    pub fn allowed(&self) -> bool {
        [&self.egress, &self.ingress].into_iter().flatten().all(|decision| decision.allowed)
    }
}

/// What one endpoint's policy decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The endpoint.
    pub endpoint: ResourceId,
    /// The node that decides.
    pub node: String,
    /// The direction.
    pub direction: Direction,
    /// Whether the flow is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
    /// Rules that matched before without deciding: Log and Pass.
    pub on_the_way: Vec<RuleRef>,
}

/// One rule as its author wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    /// Its policy or profile, and the direction.
    pub list: RuleListId,
    /// Its place in that list, from 0.
    pub index: usize,
    /// What it does.
    pub action: Action,
}

/// Why a flow is allowed or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// This rule matched.
    Rule(RuleRef),
    /// No policy of this tier decided, and its default action denies.
    EndOfTier(Arc<str>),
    /// No profile allowed it.
    NoProfile,
    /// Nothing else decided, and it came by a published port.
    PublishedPort,
    /// Nothing is known about the endpoint's interface on its node: another endpoint has it.
    NotServed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "{} rule {}", rule.list, rule.index + 1),
            Self::EndOfTier(tier) => write!(f, "the end of tier {tier}: none of its policies decided"),
            Self::NoProfile => f.write_str("no profile allowed it"),
            Self::PublishedPort => f.write_str("a published port leads there, and no policy decides"),
            Self::NotServed => f.write_str("another endpoint has its interface"),
        }
    }
}

impl Graph {
    /// What is decided about a new flow between two addresses; see [`Graph::trace`].
    #[must_use]
    pub fn evaluate(&self, source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> Trace {
        self.trace(&Flow::new(source, destination, protocol, port))
    }

    /// What is decided about a new flow, and by what. Costs little if both ends live here; what another node decides
    /// is worked out from all resources, which costs as much as that node's start.
    #[must_use]
    pub fn trace(&self, flow: &Flow) -> Trace {
        Trace { egress: self.decide(flow, Direction::Egress), ingress: self.decide(flow, Direction::Ingress) }
    }

    fn decide(&self, flow: &Flow, direction: Direction) -> Option<Decision> {
        let address = match direction {
            Direction::Egress => flow.source,
            Direction::Ingress => flow.destination,
        };
        let (id, item) = self.workload_at(address)?;
        let home = item.home.as_ref()?;
        if home.node != self.node {
            return self.seen_from(&home.node).decide(flow, direction);
        }
        let told = self.locals.told(&home.interface).filter(|told| told.endpoint == *id);
        let shape = told.and_then(|told| self.shapes.get(told.shape(direction)));
        let mut on_the_way = Vec::new();
        let (allowed, reason) = match shape {
            Some(shape) => self.ask(shape, flow, &mut on_the_way),
            None => (false, Reason::NotServed),
        };
        Some(Decision {
            endpoint: id.clone(),
            node: self.node.clone(),
            direction,
            allowed,
            reason,
            on_the_way,
        })
    }

    /// The workload that has an address; of several the one here, then the one with the lowest key.
    fn workload_at(&self, address: IpAddr) -> Option<(&ResourceId, &Item)> {
        let net = Cidr::host(address);
        let workloads = self.items.values().filter(|(_, item)| item.nets.contains(&net));
        let here = |item: &Item| item.home.as_ref().is_some_and(|home| home.node == self.node);
        workloads
            .filter(|(_, item)| item.home.is_some())
            .map(|(id, item)| (id, &**item))
            .min_by_key(|(id, item)| (!here(item), *id))
    }

    /// The endpoint chain (`felix/rules/endpoints.go`): tiers, profiles, deny.
    fn ask(&self, shape: &Shape, flow: &Flow, on_the_way: &mut Vec<RuleRef>) -> (bool, Reason) {
        'tiers: for tier in &shape.tiers {
            for policy in &tier.policies {
                match self.first_decision(policy, flow, on_the_way) {
                    Some(rule) if rule.action == Action::Pass => {
                        on_the_way.push(rule);
                        continue 'tiers;
                    }
                    Some(rule) => return (rule.action == Action::Allow, Reason::Rule(rule)),
                    None => {}
                }
            }
            if tier.end == EndOfTier::Deny {
                return (false, Reason::EndOfTier(Arc::clone(&tier.name)));
            }
        }
        for profile in &shape.profiles {
            match self.first_decision(profile, flow, on_the_way) {
                Some(rule) if rule.action == Action::Pass => on_the_way.push(rule),
                Some(rule) => return (rule.action == Action::Allow, Reason::Rule(rule)),
                None => {}
            }
        }
        if flow.published && shape.direction == Direction::Ingress {
            return (true, Reason::PublishedPort);
        }
        (false, Reason::NoProfile)
    }

    /// The first rule of a list that matches and does not merely log.
    fn first_decision(
        &self,
        list: &RuleListId,
        flow: &Flow,
        on_the_way: &mut Vec<RuleRef>,
    ) -> Option<RuleRef> {
        for rule in &self.lists.get(list)?.rules {
            if !matches(rule, flow, &self.sets) {
                continue;
            }
            let found = RuleRef { list: list.clone(), index: rule.index, action: rule.action };
            if rule.action != Action::Log {
                return Some(found);
            }
            on_the_way.push(found);
        }
        None
    }
}

/// Whether a rule matches the first packet of a flow.
fn matches(rule: &ResolvedRule, flow: &Flow, sets: &Sets) -> bool {
    let source = Peer { address: flow.source, port: flow.source_port, protocol: flow.protocol, sets };
    let destination = Peer { address: flow.destination, port: flow.destination_port, ..source };
    let icmp = |wanted: IcmpMatch| {
        wanted.icmp_type == flow.icmp.0 && wanted.code.is_none_or(|code| code == flow.icmp.1)
    };
    rule.family.is_none_or(|family| family == IpVersion::of(flow.source))
        && rule.protocol.is_none_or(|protocol| protocol == flow.protocol)
        && rule.not_protocol != Some(flow.protocol)
        && rule.icmp.is_none_or(icmp)
        && !rule.not_icmp.is_some_and(icmp)
        && source.is(&rule.source)
        && destination.is(&rule.destination)
}

/// One end of a flow.
#[derive(Clone, Copy)]
struct Peer<'a> {
    address: IpAddr,
    port: u16,
    protocol: u8,
    sets: &'a Sets,
}

impl Peer<'_> {
    fn is(&self, side: &SideMatch) -> bool {
        (side.nets.is_empty() || side.nets.iter().any(|net| net.contains(self.address)))
            && !side.not_nets.iter().any(|net| net.contains(self.address))
            && side.set.as_ref().is_none_or(|set| self.is_in(set))
            && !side.not_set.as_ref().is_some_and(|set| self.is_in(set))
            && (side.ports.is_empty() || self.has_port(&side.ports))
            && !self.has_port(&side.not_ports)
    }

    fn is_in(&self, set: &SetId) -> bool {
        self.sets.members(set).is_some_and(|members| members.holds_address(self.address))
    }

    fn has_port(&self, ports: &PortMatch) -> bool {
        let member = PortMember { address: self.address, protocol: self.protocol, port: self.port };
        let named = |set| self.sets.members(set).is_some_and(|members| members.holds_port(member));
        ports.ranges.iter().any(|range| (range.first..=range.last).contains(&self.port))
            || ports.named.iter().any(named)
    }
}
