//! The rules of one policy or profile as a chain. Pure.
//!
//! A rule that allows sets the accept mark and returns, one that passes sets the pass mark and returns; the shape that
//! called asks for both. What a rule compares is all in one rule of the kernel, except that ports by number *or* by
//! name become one rule for each way.

use super::super::{LogRate, LogTuning, Marks};
use super::set;
use crate::model::{Cidr, IpVersion};
use crate::nft::{Family, Rule, SetContents, Verdict};
use crate::policy::{
    Action, PortMatch, PortRange, ResolvedRule, ResourceKind, RuleList, RuleListId, SetId, SetKind,
    SideMatch, log_prefix,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `info`.
const LOG_LEVEL: u32 = 6;
/// Longest comment that the kernel gives back as it was (`NFT_USERDATA_MAXLEN` less the header and the final NUL).
const LONGEST_COMMENT: usize = 126;

/// A comment that reads back as it was written.
pub(super) fn comment(text: &str) -> String {
    let plain = |letter: char| if letter == ' ' || letter.is_ascii_graphic() { letter } else { '?' };
    text.chars().take(LONGEST_COMMENT).map(plain).collect()
}

/// A list's rules, and the sets that stand for prefixes and ports written out in them.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub(super) rules: Vec<Rule>,
    pub(super) literals: Vec<SetContents>,
}

/// The chain of a list.
pub(super) fn render(id: &RuleListId, list: &RuleList, marks: Marks, log: &LogTuning) -> Rendered {
    let mut rendered = Rendered::default();
    let writer = Writer {
        chain: id.chain(),
        log_prefix: log_prefix(&log.prefix, id, list),
        log_rate: log.rate,
        profile: id.owner.kind == ResourceKind::Profile,
        marks,
    };
    for rule in &list.rules {
        writer.rule(&mut rendered, rule, &comment(&format!("rule {} of {id}", rule.index + 1)));
    }
    rendered
}

struct Writer {
    chain: String,
    log_prefix: String,
    log_rate: Option<LogRate>,
    profile: bool,
    marks: Marks,
}

/// One way in which ports can match.
enum Term<'a> {
    Ranges(&'a [PortRange]),
    Named(&'a SetId),
}

fn terms(ports: &PortMatch) -> Vec<Term<'_>> {
    let ranges = (!ports.ranges.is_empty()).then_some(Term::Ranges(&ports.ranges));
    ranges.into_iter().chain(ports.named.iter().map(Term::Named)).collect()
}

impl Writer {
    /// One rule of the kernel for each pair of ways in which the ports of both sides can match. Verdicts do not mind if
    /// a packet matches two of them, a log does: there each also demands that no earlier one matches.
    fn rule(&self, out: &mut Rendered, rule: &ResolvedRule, comment: &str) {
        let exclusive = rule.action == Action::Log;
        let (sources, destinations) = (terms(&rule.source.ports), terms(&rule.destination.ports));
        for source in 0..sources.len().max(1) {
            for destination in 0..destinations.len().max(1) {
                let mut built = self.head(rule);
                for (side, from, terms, chosen) in [
                    (&rule.source, true, &sources, source),
                    (&rule.destination, false, &destinations, destination),
                ] {
                    let mut matcher = Matcher { out: &mut *out, version: rule.family, from };
                    built = matcher.side(built, side);
                    let earlier = terms.iter().take(chosen).filter(|_| exclusive);
                    built = earlier.fold(built, |built, term| matcher.ports(built, term, true));
                    built =
                        terms.get(chosen).into_iter().fold(built, |b, term| matcher.ports(b, term, false));
                }
                out.rules.push(self.act(built, rule.action).comment(comment));
            }
        }
    }

    fn head(&self, rule: &ResolvedRule) -> Rule {
        let mut built = Rule::in_chain(&self.chain);
        if let Some(version) = rule.family {
            built = built.family(family(version));
        }
        if let Some(protocol) = rule.protocol {
            built = built.l4proto_is(protocol, false);
        }
        if let Some(protocol) = rule.not_protocol {
            built = built.l4proto_is(protocol, true);
        }
        for (icmp, invert) in [(rule.icmp, false), (rule.not_icmp, true)] {
            if let Some(icmp) = icmp {
                built = built.icmp(icmp.icmp_type, icmp.code, invert);
            }
        }
        built
    }

    fn act(&self, rule: Rule, action: Action) -> Rule {
        let rule = rule.counter();
        match action {
            Action::Allow => rule.set_mark(0, self.marks.accept).verdict(Verdict::Return),
            Action::Pass if self.profile => rule.verdict(Verdict::Return),
            Action::Pass => rule.set_mark(0, self.marks.pass).verdict(Verdict::Return),
            Action::Deny => rule.verdict(Verdict::Drop),
            Action::Log => {
                let limited = match self.log_rate {
                    Some(LogRate { lines, seconds, burst }) => rule.limit(lines, seconds, burst),
                    None => rule,
                };
                limited.log(&self.log_prefix, LOG_LEVEL)
            }
        }
    }
}

/// Adds what one side demands.
struct Matcher<'a> {
    out: &'a mut Rendered,
    version: Option<IpVersion>,
    from: bool,
}

impl Matcher<'_> {
    /// All but the ports that must match. Without a family no address is compared ([`ResolvedRule::family`]).
    fn side(&mut self, mut rule: Rule, side: &SideMatch) -> Rule {
        if let Some(version) = self.version {
            if !side.nets.is_empty() {
                rule = self.nets(rule, (&side.nets, version), false);
            }
            if !side.not_nets.is_empty() {
                rule = self.nets(rule, (&side.not_nets, version), true);
            }
            for (set, invert) in [(&side.set, false), (&side.not_set, true)] {
                if let Some(id) = set {
                    let name = set::name(id, SetKind::Nets, version);
                    rule = rule.address_in(family(version), self.from, &name, invert);
                }
            }
        }
        terms(&side.not_ports).iter().fold(rule, |rule, term| self.ports(rule, term, true))
    }

    fn nets(&mut self, rule: Rule, (nets, version): (&[Cidr], IpVersion), invert: bool) -> Rule {
        if let [single] = nets {
            return rule.net(family(version), self.from, (set::octets(single.base()), mask(single)), invert);
        }
        let name = self.literal(set::of_nets(nets, version));
        rule.address_in(family(version), self.from, &name, invert)
    }

    fn ports(&mut self, rule: Rule, term: &Term<'_>, invert: bool) -> Rule {
        match (term, self.version) {
            (Term::Ranges([single]), _) => rule.port_between(self.from, (single.first, single.last), invert),
            (Term::Ranges(ranges), _) => {
                let name = self.literal(set::of_ports(ranges));
                rule.port_in(self.from, &name, invert)
            }
            (Term::Named(id), Some(version)) => {
                let name = set::name(id, SetKind::Ports, version);
                rule.address_port_in(family(version), self.from, &name, invert)
            }
            (Term::Named(_), None) => rule,
        }
    }

    fn literal(&mut self, contents: SetContents) -> String {
        let name = contents.set.name.clone();
        if !self.out.literals.iter().any(|known| known.set.name == name) {
            self.out.literals.push(contents);
        }
        name
    }
}

fn family(version: IpVersion) -> Family {
    match version {
        IpVersion::V4 => Family::Ip,
        IpVersion::V6 => Family::Ip6,
    }
}

fn mask(net: &Cidr) -> Vec<u8> {
    let len = u32::from(net.prefix_len());
    match net.base() {
        IpAddr::V4(_) => {
            let host = u32::MAX.checked_shr(len).unwrap_or(0);
            set::octets(IpAddr::V4(Ipv4Addr::from_bits(!host)))
        }
        IpAddr::V6(_) => {
            let host = u128::MAX.checked_shr(len).unwrap_or(0);
            set::octets(IpAddr::V6(Ipv6Addr::from_bits(!host)))
        }
    }
}
