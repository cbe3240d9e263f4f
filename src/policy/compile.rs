//! Rules as stored to rules as rendered. Decides everything that needs no other resource: families, ports, sets.
//!
//! What Calico's validator refuses is refused here; what Felix filters by family is filtered here
//! (`felix/rules/policy.go`, FilterRuleToIPVersion).

use super::entity::{self, Peers};
use super::members::without_overlaps;
use super::parts::{self, Parts, Ports, Protocol, RuleError};
use super::resolved::{Action, PortMatch, PortName, ResolvedRule, RuleList, SetId, SetSpec, SideMatch};
use crate::model::{Cidr, EntityRule, IpVersion, Rule};
use crate::selector::Selector;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A list of rules compiled, and what should be said about it.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) list: RuleList,
    /// Sentences without the rule's owner.
    pub(super) warnings: Vec<String>,
}

/// Compiles the rules of one direction. `what` names the direction in errors and warnings.
pub(super) fn compile(
    rules: &[Rule],
    namespace: Option<&str>,
    tier: Option<Arc<str>>,
    what: &str,
) -> Result<Compiled, String> {
    let mut compiler = Compiler { namespace, sets: BTreeMap::new(), rules: Vec::new(), warnings: Vec::new() };
    for (index, rule) in rules.iter().enumerate() {
        let place = format!("{what} rule {}", index + 1);
        compiler.rule(index, rule, &place).map_err(|error| format!("{place}: {error}"))?;
    }
    let mut list = RuleList { tier, rules: compiler.rules, specs: Vec::new() };
    // A rule that matches no family left its sets behind.
    let mentioned: BTreeSet<&SetId> = list.sets().collect();
    list.specs = compiler
        .sets
        .iter()
        .filter(|(id, _)| mentioned.contains(id))
        .map(|(_, spec)| Arc::clone(spec))
        .collect();
    Ok(Compiled { list, warnings: compiler.warnings })
}

struct Compiler<'a> {
    namespace: Option<&'a str>,
    sets: BTreeMap<SetId, Arc<SetSpec>>,
    rules: Vec<ResolvedRule>,
    warnings: Vec<String>,
}

impl Compiler<'_> {
    fn rule(&mut self, index: usize, rule: &Rule, place: &str) -> Result<(), RuleError> {
        let none = EntityRule::default();
        let source = rule.source.as_ref().unwrap_or(&none);
        let destination = rule.destination.as_ref().unwrap_or(&none);
        let parts = Parts::of(rule, source, destination)?;
        let stated = parts::family(rule.ip_version)?;
        let family = stated.or(parts.protocol.and_then(|protocol| protocol.implies));
        self.warn_about(rule, source, destination, place);

        let protocol = parts.protocol.map(|protocol| protocol.number);
        let whole = ResolvedRule {
            index,
            family,
            protocol,
            not_protocol: parts.not_protocol.map(|protocol| protocol.number),
            icmp: parts.icmp,
            not_icmp: parts.not_icmp,
            source: self.side(source, parts.source, parts.protocol)?,
            destination: self.side(destination, parts.destination, parts.protocol)?,
            action: parts.action,
        };
        // Nothing ever resolves a service in an etcd datastore: the rule matches nothing.
        if source.services.is_some() || destination.services.is_some() {
            return Ok(());
        }
        self.by_family(whole, place);
        Ok(())
    }

    /// One rule for both families if it compares no address; else one for each family that it can match.
    fn by_family(&mut self, whole: ResolvedRule, place: &str) {
        if !whole.source.has_address() && !whole.destination.has_address() {
            self.rules.push(whole);
            return;
        }
        for version in [IpVersion::V4, IpVersion::V6] {
            if whole.family.is_some_and(|family| family != version) {
                continue;
            }
            let catch_all = Cidr::any(version);
            if [&whole.source, &whole.destination].iter().any(|side| side.not_nets.contains(&catch_all)) {
                self.warnings.push(format!("{place} excludes {catch_all}, so it never matches {version}"));
                continue;
            }
            if let (Some(source), Some(destination)) =
                (of_family(&whole.source, version), of_family(&whole.destination, version))
            {
                self.rules.push(ResolvedRule { family: Some(version), source, destination, ..whole.clone() });
            }
        }
    }

    fn side(
        &mut self,
        entity: &EntityRule,
        parts: parts::Side,
        protocol: Option<Protocol>,
    ) -> Result<SideMatch, RuleError> {
        let Peers { positive, negative } = entity::peers(entity, self.namespace)?;
        let ports = self.ports(parts.ports, positive.as_ref(), protocol);
        let not_ports = self.ports(parts.not_ports, positive.as_ref(), protocol);
        // Named ports alone already hold what the selector says.
        let implied = ports.ranges.is_empty() && !ports.named.is_empty();
        let positive = positive.filter(|_| !implied);
        Ok(SideMatch {
            nets: without_overlaps(parts.nets),
            not_nets: without_overlaps(parts.not_nets),
            set: positive.map(|selector| self.set(SetSpec::of_selector(selector))),
            not_set: negative.map(|selector| self.set(SetSpec::of_selector(selector))),
            ports,
            not_ports,
        })
    }

    /// Named ports are those of what the positive selector matches, also where the ports are negated: a rule cannot
    /// match anything else (`felix/calc/rule_scanner.go`).
    fn ports(&mut self, ports: Ports, positive: Option<&Selector>, protocol: Option<Protocol>) -> PortMatch {
        let selector = positive.unwrap_or(&Selector::All);
        let named = ports.names.into_iter().map(|name| {
            let port = PortName { name, protocol: protocol.map(|protocol| protocol.number) };
            self.set(SetSpec::of_port(selector.clone(), port))
        });
        PortMatch { named: named.collect(), ranges: ports.ranges }
    }

    fn set(&mut self, spec: SetSpec) -> SetId {
        let id = spec.id.clone();
        self.sets.entry(id.clone()).or_insert_with(|| Arc::new(spec));
        id
    }

    fn warn_about(&mut self, rule: &Rule, source: &EntityRule, destination: &EntityRule, place: &str) {
        if rule.http.is_some() {
            self.warnings.push(format!(
                "{place} has an http clause, which a packet filter cannot see: the rule matches as if it were absent"
            ));
        }
        if source.services.is_some() || destination.services.is_some() {
            self.warnings.push(format!(
                "{place} names a Kubernetes service, which nothing resolves: it matches nothing"
            ));
        }
        let unknown: Vec<&str> = [&rule.extra, &source.extra, &destination.extra]
            .iter()
            .flat_map(|map| map.keys())
            .map(String::as_str)
            .collect();
        if !unknown.is_empty() {
            self.warnings.push(format!("{place} has fields that are not known here: {}", unknown.join(", ")));
        }
    }
}

/// A side for one family. `None` if a list of prefixes has none of that family: then the rule is not for it.
fn of_family(side: &SideMatch, version: IpVersion) -> Option<SideMatch> {
    let only = |nets: &[Cidr]| -> Option<Vec<Cidr>> {
        let kept: Vec<Cidr> = nets.iter().filter(|net| net.version() == version).copied().collect();
        (nets.is_empty() || !kept.is_empty()).then_some(kept)
    };
    Some(SideMatch { nets: only(&side.nets)?, not_nets: only(&side.not_nets)?, ..side.clone() })
}

/// The built-in profile of Calico's client that allows everything.
pub(super) fn allow_all() -> RuleList {
    RuleList { rules: vec![ResolvedRule::unconditional(Action::Allow)], ..RuleList::default() }
}
