//! One policy as it is applied: whom it selects, where it stands, its rules for both directions.

use super::compile::{self, Compiled};
use super::entity;
use super::resolved::{Direction, RuleList, RuleListId};
use super::update::ResourceId;
use crate::model::{GlobalNetworkPolicySpec, Rule};
use crate::selector::Selector;
use serde_json::Number;
use std::cmp::Ordering;
use std::sync::Arc;

/// The tier of a policy that names none.
const DEFAULT_TIER: &str = "default";
/// The hint that keeps a policy's sets ready where it selects nothing yet.
const ALWAYS_NEEDED: &str = "AssumeNeededOnEveryNode";

/// A place in a sequence: lower first, absent last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Order(f64);

impl Order {
    pub(super) fn of(number: Option<&Number>) -> Self {
        Self(number.and_then(Number::as_f64).unwrap_or(f64::INFINITY))
    }

    /// The number, unless absent.
    pub(super) fn number(self) -> Option<f64> {
        self.0.is_finite().then_some(self.0)
    }
}

impl Eq for Order {}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    /// JSON has no NaN; 0 and -0 are the same place.
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

/// A policy that can apply to endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Policy {
    pub(super) id: ResourceId,
    pub(super) tier: Arc<str>,
    pub(super) order: Order,
    pub(super) selector: Selector,
    /// The rules for traffic to endpoints; `None` if the policy does not apply to that direction.
    pub(super) ingress: Option<Arc<RuleList>>,
    /// The rules for traffic from endpoints; `None` if the policy does not apply to that direction.
    pub(super) egress: Option<Arc<RuleList>>,
    /// Whether its rules and sets are kept ready without any endpoint here.
    pub(super) always_needed: bool,
    /// Whether it only stands in for a policy that cannot be read.
    pub(super) stand_in: bool,
}

impl Policy {
    /// The rules for a direction.
    pub(super) fn rules(&self, direction: Direction) -> Option<&Arc<RuleList>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }

    /// The name of the rules for a direction.
    pub(super) fn list_id(&self, direction: Direction) -> RuleListId {
        RuleListId { owner: self.id.clone(), direction }
    }

    /// Order in the tier, and among equals the text name/namespace/kind (`felix/calc/policy_sorter.go`).
    pub(super) fn sort_key(&self) -> (Order, String) {
        let namespace = self.id.namespace.as_deref().unwrap_or_default();
        (self.order, format!("{}/{namespace}/{}", self.id.name, self.id.kind.word()))
    }

    /// Whether only rules differ, so that everybody's sequence of policies stays what it is.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        self.tier == other.tier
            && self.order == other.order
            && self.ingress.is_some() == other.ingress.is_some()
            && self.egress.is_some() == other.egress.is_some()
    }
}

/// A policy read, and what should be said about it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) policy: Option<Policy>,
    /// Sentences that go on after the policy's name.
    pub(super) problems: Vec<String>,
}

/// Reads a policy. One that makes no sense denies everything to and from what it selects.
pub(super) fn read(id: &ResourceId, spec: &GlobalNetworkPolicySpec) -> Reading {
    if let Some(word) = for_hosts_only(spec) {
        let problem =
            format!("is for host endpoints only ({word}), which are not supported here: it is ignored");
        return Reading { policy: None, problems: vec![problem] };
    }
    match compiled(id, spec) {
        Ok((policy, problems)) => Reading { policy: Some(policy), problems },
        Err(why) => stand_in(id, spec, &why),
    }
}

/// What stands for a policy that cannot be read: it selects the same endpoints in the same place, and denies. If
/// whom it selects cannot be read either, nothing stands for it, as in Calico.
pub(super) fn stand_in(id: &ResourceId, spec: &GlobalNetworkPolicySpec, why: &str) -> Reading {
    if for_hosts_only(spec).is_some() {
        return Reading { policy: None, problems: vec![format!("is ignored: {why}")] };
    }
    let selector = match entity::subjects(spec, id.namespace.as_deref()) {
        Ok(selector) => selector,
        Err(error) => {
            let problem = format!("is ignored, because whom it selects cannot be told: {error}");
            return Reading { policy: None, problems: vec![problem] };
        }
    };
    let tier = tier(spec);
    let (ingress, egress) = directions(spec.types.as_deref()).unwrap_or((true, true));
    let deny = Arc::new(RuleList::deny_all(Some(Arc::clone(&tier))));
    let policy = Policy {
        id: id.clone(),
        tier,
        order: Order::of(spec.order.as_ref()),
        selector,
        ingress: ingress.then(|| Arc::clone(&deny)),
        egress: egress.then_some(deny),
        always_needed: false,
        stand_in: true,
    };
    Reading { policy: Some(policy), problems: vec![format!("denies everything for what it selects: {why}")] }
}

/// Untracked and pre-DNAT policies never apply to workloads.
fn for_hosts_only(spec: &GlobalNetworkPolicySpec) -> Option<&'static str> {
    if spec.do_not_track == Some(true) {
        return Some("doNotTrack");
    }
    (spec.pre_dnat == Some(true)).then_some("preDNAT")
}

fn compiled(id: &ResourceId, spec: &GlobalNetworkPolicySpec) -> Result<(Policy, Vec<String>), String> {
    let namespace = id.namespace.as_deref();
    let selector = entity::subjects(spec, namespace).map_err(|error| error.to_string())?;
    let tier = tier(spec);
    let (ingress, egress) = directions(spec.types.as_deref())?;
    let mut problems = Vec::new();
    let mut list = |applies: bool, rules: Option<&Vec<Rule>>, what| -> Result<_, String> {
        let rules = rules.map(Vec::as_slice).unwrap_or_default();
        let Compiled { list, warnings } = compile::compile(rules, namespace, Some(Arc::clone(&tier)), what)?;
        if applies {
            problems.extend(warnings);
        }
        Ok(applies.then(|| Arc::new(list)))
    };
    let ingress = list(ingress, spec.ingress.as_ref(), "ingress")?;
    let egress = list(egress, spec.egress.as_ref(), "egress")?;
    let hints = spec.performance_hints.as_deref().unwrap_or_default();
    let policy = Policy {
        id: id.clone(),
        order: Order::of(spec.order.as_ref()),
        selector,
        ingress,
        egress,
        always_needed: hints.iter().any(|hint| hint == ALWAYS_NEEDED),
        stand_in: false,
        tier,
    };
    Ok((policy, problems))
}

fn tier(spec: &GlobalNetworkPolicySpec) -> Arc<str> {
    spec.tier.as_deref().filter(|tier| !tier.is_empty()).unwrap_or(DEFAULT_TIER).into()
}

/// Whether a policy applies to ingress and to egress. As read from the datastore, no types mean both
/// (`felix/calc/policy_sorter.go`, ExtractPolicyMetadata).
fn directions(types: Option<&[String]>) -> Result<(bool, bool), String> {
    let types = types.unwrap_or_default();
    let is = |word: &str| types.iter().any(|it| it.eq_ignore_ascii_case(word));
    let known = |it: &&String| it.eq_ignore_ascii_case("ingress") || it.eq_ignore_ascii_case("egress");
    if let Some(unknown) = types.iter().find(|it| !known(it)) {
        return Err(format!("type {unknown:?} is neither Ingress nor Egress"));
    }
    Ok(if types.is_empty() { (true, true) } else { (is("ingress"), is("egress")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::update::ResourceKind;

    fn reading(spec: &str) -> Reading {
        let id = ResourceId::global(ResourceKind::GlobalNetworkPolicy, "p");
        read(&id, &serde_json::from_str(spec).unwrap())
    }

    fn applies(spec: &str) -> (bool, bool) {
        let policy = reading(spec).policy.unwrap();
        (policy.ingress.is_some(), policy.egress.is_some())
    }

    #[test]
    fn types_say_the_directions_and_no_types_mean_both() {
        assert_eq!(applies(r#"{"types":["Ingress"]}"#), (true, false));
        assert_eq!(applies(r#"{"types":["egress"]}"#), (false, true));
        assert_eq!(applies("{}"), (true, true));
        assert_eq!(applies(r#"{"types":[],"ingress":[{"action":"Allow"}]}"#), (true, true));
    }

    #[test]
    fn a_policy_with_a_bad_rule_denies_in_its_place() {
        let read = reading(
            r#"{"tier":"t","order":7,"selector":"a == 'b'","types":["Ingress"],
                "ingress":[{"action":"Allow"},{"action":"Permit"}]}"#,
        );
        let policy = read.policy.unwrap();
        assert!(policy.stand_in);
        assert_eq!((&*policy.tier, policy.order.number()), ("t", Some(7.0)));
        assert_eq!(policy.ingress.as_deref(), Some(&RuleList::deny_all(Some("t".into()))));
        assert_eq!(policy.egress, None);
        assert_eq!(
            read.problems,
            [
                r#"denies everything for what it selects: ingress rule 2: action "Permit" is none of Allow, Deny, Log, Pass"#
            ]
        );
    }

    #[test]
    fn a_policy_that_selects_nobody_knows_whom_is_ignored() {
        let read = reading(r#"{"selector":"a ==","ingress":[{"action":"Permit"}]}"#);
        assert_eq!(read.policy, None);
        assert!(read.problems[0].starts_with("is ignored, because whom it selects cannot be told: "));
    }

    #[test]
    fn orders_sort_with_absent_last() {
        let order = |text: &str| Order::of(serde_json::from_str::<Option<Number>>(text).unwrap().as_ref());
        let mut orders = [order("null"), order("1e6"), order("-3"), order("10.5"), order("10")];
        orders.sort();
        let numbers: Vec<_> = orders.iter().map(|order| order.number()).collect();
        assert_eq!(numbers, [Some(-3.0), Some(10.0), Some(10.5), Some(1e6), None]);
        assert_eq!(order("0"), order("-0.0"));
    }
}
