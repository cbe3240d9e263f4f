//! The graph: told about resources one by one, asked now and then what changed for this node.

use super::changes::{Changes, EndpointShapes, Shape};
use super::compile::{self, Compiled};
use super::inherit::Inheritance;
use super::item::{self, Item};
use super::label_index::ItemNumber;
use super::locals::Locals;
use super::policies::{Policies, Tier};
use super::policy::{self, Policy};
use super::problems::Problems;
use super::resolved::{Direction, RuleList, RuleListId};
use super::sets::Sets;
use super::tables::{RuleLists, Shapes};
use super::update::{Document, LabelMap, ResourceId, ResourceKind, Update};
use crate::model::{GlobalNetworkPolicySpec, ProfileSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The profile that Calico's client makes up and never stores: everything is allowed.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// Both directions, in the order in which a packet between two local endpoints meets them.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// A profile's rules and the labels that it gives.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Profile {
    pub(super) ingress: Arc<RuleList>,
    pub(super) egress: Arc<RuleList>,
    labels: LabelMap,
}

/// Policy of one node. Owned by one task; every call is pure and ends at once.
#[derive(Debug)]
pub struct Graph {
    pub(super) node: String,
    numbers: BTreeMap<ResourceId, ItemNumber>,
    pub(super) items: HashMap<ItemNumber, (ResourceId, Arc<Item>)>,
    next: ItemNumber,
    pub(super) inheritance: Inheritance,
    pub(super) profiles: BTreeMap<Arc<str>, Arc<Profile>>,
    pub(super) policies: Policies,
    pub(super) locals: Locals,
    pub(super) shapes: Shapes,
    pub(super) lists: RuleLists,
    pub(super) sets: Sets,
    /// Rule lists kept without any endpoint, because their policy hints so: those acquired, and those wanted.
    kept: BTreeSet<RuleListId>,
    keep: BTreeSet<RuleListId>,
    problems: Problems,
}

impl Graph {
    /// A graph for the endpoints of one node, which knows of nothing yet.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let mut graph = Self {
            node: node.to_owned(),
            numbers: BTreeMap::new(),
            items: HashMap::new(),
            next: 0,
            inheritance: Inheritance::default(),
            profiles: BTreeMap::new(),
            policies: Policies::default(),
            locals: Locals::default(),
            shapes: Shapes::default(),
            lists: RuleLists::default(),
            sets: Sets::default(),
            kept: BTreeSet::new(),
            keep: BTreeSet::new(),
            problems: Problems::default(),
        };
        let list = Arc::new(compile::allow_all());
        let allow = Profile { ingress: Arc::clone(&list), egress: list, labels: LabelMap::new() };
        graph.profiles.insert(DEFAULT_ALLOW.into(), Arc::new(allow));
        graph
    }

    /// Takes in one update. What follows from it shows at the next [`Graph::flush`].
    pub fn update(&mut self, update: Update) {
        match update {
            Update::Put(id, document) => self.put(&id, &document),
            Update::Delete(id) => {
                self.problems.set(&id, Vec::new());
                self.set_absent(&id);
            }
            Update::Invalid { id, why, remains } => self.put_invalid(&id, &why, remains.as_deref()),
        }
    }

    fn put(&mut self, id: &ResourceId, document: &Document) {
        match (id.kind, document) {
            (ResourceKind::WorkloadEndpoint, Document::WorkloadEndpoint(labels, spec)) => {
                self.put_item(id, item::workload(id, labels, spec));
            }
            (ResourceKind::HostEndpoint, Document::HostEndpoint(labels, spec)) => {
                self.put_item(id, item::host(labels, spec, &self.node));
            }
            (
                ResourceKind::NetworkSet | ResourceKind::GlobalNetworkSet,
                Document::NetworkSet(labels, nets),
            ) => {
                self.put_item(id, item::network_set(id, labels, nets));
            }
            (ResourceKind::Profile, Document::Profile(spec)) => self.put_profile(id, spec),
            (ResourceKind::Tier, Document::Tier(spec)) => {
                self.problems.set(id, Vec::new());
                self.set_tier(&id.name, Some(Tier::of(spec)));
            }
            (ResourceKind::NetworkPolicy | ResourceKind::GlobalNetworkPolicy, Document::Policy(spec)) => {
                self.put_policy(id, policy::read(id, spec));
            }
            _ => self.put_invalid(id, "its document is of another kind", None),
        }
    }

    fn put_invalid(&mut self, id: &ResourceId, why: &str, remains: Option<&GlobalNetworkPolicySpec>) {
        if let Some(remains) = remains {
            return self.put_policy(id, policy::stand_in(id, remains, why));
        }
        let meaning = match id.kind {
            ResourceKind::Profile => "denies everything",
            ResourceKind::Tier => "counts as absent, so its policies come last and deny",
            ResourceKind::WorkloadEndpoint
            | ResourceKind::HostEndpoint
            | ResourceKind::NetworkSet
            | ResourceKind::GlobalNetworkSet
            | ResourceKind::NetworkPolicy
            | ResourceKind::GlobalNetworkPolicy => "is ignored",
        };
        self.problems.set(id, vec![format!("{meaning}: {why}")]);
        self.set_absent(id);
    }

    fn set_absent(&mut self, id: &ResourceId) {
        match id.kind {
            ResourceKind::WorkloadEndpoint
            | ResourceKind::HostEndpoint
            | ResourceKind::NetworkSet
            | ResourceKind::GlobalNetworkSet => self.set_item(id, None),
            ResourceKind::Profile => self.set_profile(&id.name, None),
            ResourceKind::Tier => self.set_tier(&id.name, None),
            ResourceKind::NetworkPolicy | ResourceKind::GlobalNetworkPolicy => self.set_policy(id, None),
        }
    }

    fn put_item(&mut self, id: &ResourceId, reading: item::Reading) {
        self.problems.set(id, reading.problems);
        self.set_item(id, reading.item.map(Arc::new));
    }

    fn put_policy(&mut self, id: &ResourceId, reading: policy::Reading) {
        self.problems.set(id, reading.problems);
        self.set_policy(id, reading.policy.map(Arc::new));
    }

    fn put_profile(&mut self, id: &ResourceId, spec: &ProfileSpec) {
        let list = |rules: Option<&Vec<_>>, what| {
            compile::compile(rules.map(Vec::as_slice).unwrap_or_default(), None, None, what)
        };
        let both = list(spec.ingress.as_ref(), "ingress")
            .and_then(|ingress| Ok((ingress, list(spec.egress.as_ref(), "egress")?)));
        let (ingress, egress) = match both {
            Ok(both) => both,
            Err(why) => return self.put_invalid(id, &why, None),
        };
        let Compiled { list: ingress, warnings: mut problems } = ingress;
        problems.extend(egress.warnings);
        self.problems.set(id, problems);
        let labels = spec.labels_to_apply.clone().unwrap_or_default();
        let profile = Profile { ingress: Arc::new(ingress), egress: Arc::new(egress.list), labels };
        self.set_profile(&id.name, Some(Arc::new(profile)));
    }

    /// An item is now this, or absent.
    fn set_item(&mut self, id: &ResourceId, item: Option<Arc<Item>>) {
        let known = self.numbers.get(id).copied();
        let old = known.and_then(|number| self.items.get(&number)).map(|(_, item)| Arc::clone(item));
        if old == item {
            return;
        }
        let number = known.unwrap_or_else(|| {
            self.next = self.next.wrapping_add(1);
            self.next
        });
        self.inheritance.put_child(number, old.as_deref(), item.as_deref());
        let interface = |item: &Option<Arc<Item>>| {
            let home = item.as_ref()?.home.as_ref()?;
            (home.node == self.node).then(|| Arc::clone(&home.interface))
        };
        self.locals.place(id, number, interface(&old), interface(&item));
        match item {
            Some(item) => {
                self.numbers.insert(id.clone(), number);
                self.items.insert(number, (id.clone(), item));
                self.index_item(number);
            }
            None => {
                self.numbers.remove(id);
                self.items.remove(&number);
                self.sets.remove_item(number);
            }
        }
        if !self.locals.contains(number) {
            self.policies.remove_endpoint(number);
        }
    }

    /// Shows an item with its present labels to those who select.
    fn index_item(&mut self, number: ItemNumber) {
        let Some((_, item)) = self.items.get(&number) else { return };
        let labels = self.inheritance.labels(item);
        self.sets.put_item(number, Arc::clone(item), Arc::clone(&labels));
        if self.locals.contains(number) && self.policies.put_endpoint(number, labels) {
            self.locals.touch(number);
        }
    }

    /// A profile is now this, or absent.
    fn set_profile(&mut self, name: &Arc<str>, profile: Option<Arc<Profile>>) {
        if &**name == DEFAULT_ALLOW {
            return;
        }
        let labels = profile.as_ref().map(|profile| profile.labels.clone()).unwrap_or_default();
        for child in self.inheritance.put_parent(name, labels) {
            self.index_item(child);
        }
        match profile {
            Some(profile) => self.profiles.insert(Arc::clone(name), profile),
            None => self.profiles.remove(name),
        };
        for direction in DIRECTIONS {
            self.lists.touch(profile_list(name, direction));
        }
    }

    /// A policy is now this, or absent.
    fn set_policy(&mut self, id: &ResourceId, policy: Option<Arc<Policy>>) {
        for direction in DIRECTIONS {
            let list = RuleListId { owner: id.clone(), direction };
            let keep = policy.as_ref().is_some_and(|it| it.always_needed && it.rules(direction).is_some());
            if keep {
                self.keep.insert(list.clone());
            } else {
                self.keep.remove(&list);
            }
            self.lists.touch(list);
        }
        for endpoint in self.policies.put(id, policy) {
            self.locals.touch(endpoint);
        }
    }

    /// A tier is now this, or absent.
    fn set_tier(&mut self, name: &Arc<str>, tier: Option<Tier>) {
        for endpoint in self.policies.put_tier(name, tier) {
            self.locals.touch(endpoint);
        }
    }

    /// What changed since the last flush, for the endpoints of this node. Costs as much as changed.
    pub fn flush(&mut self) -> Changes {
        let mut changes = Changes::default();
        for interface in self.locals.take_dirty() {
            let shapes = self.locals.owner(&interface).map(|(id, number)| (id.clone(), number));
            let shapes = shapes.and_then(|(id, number)| self.shapes_of(id, number));
            let old = self.locals.told(&interface).cloned();
            for id in old.iter().flat_map(|old| [&old.ingress, &old.egress]) {
                self.shapes.release(id);
            }
            self.locals.tell(&interface, shapes.clone());
            match shapes {
                Some(shapes) if Some(&shapes) == old.as_ref() => {}
                Some(shapes) => {
                    changes.endpoints.insert(interface, shapes);
                }
                None if old.is_some() => {
                    changes.removed_endpoints.insert(interface);
                }
                None => {}
            }
        }
        (changes.shapes, changes.removed_shapes) = self.shapes.flush(&mut self.lists);
        for list in self.keep.difference(&self.kept) {
            self.lists.acquire(list);
        }
        for list in self.kept.difference(&self.keep) {
            self.lists.release(list);
        }
        self.kept.clone_from(&self.keep);
        let current = |id: &RuleListId| rules_of(&self.policies, &self.profiles, id);
        (changes.rule_lists, changes.removed_rule_lists) = self.lists.flush(current, &mut self.sets);
        (changes.sets, changes.removed_sets) = self.sets.flush();
        changes.problems = self.problems.take_fresh();
        changes.problems.extend(self.locals.take_problems());
        changes
    }

    /// Everything as if nothing had been handed out yet, for a renderer that starts anew. Problems are those that
    /// were not told yet.
    pub fn everything(&mut self) -> Changes {
        let problems = self.flush().problems;
        Changes {
            sets: self.sets.snapshot(),
            rule_lists: self.lists.all().clone(),
            shapes: self.shapes.all(),
            endpoints: self.locals.all().clone(),
            problems,
            ..Changes::default()
        }
    }

    /// Sentences about everything that is wrong now.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.problems.all().chain(self.locals.problems()).collect()
    }

    fn shapes_of(&mut self, endpoint: ResourceId, number: ItemNumber) -> Option<EndpointShapes> {
        let item = Arc::clone(&self.items.get(&number)?.1);
        let mut acquire = |direction| {
            let shape = Shape {
                direction,
                tiers: self.policies.sequence(number, direction),
                profiles: item.profiles.iter().map(|name| profile_list(name, direction)).collect(),
            };
            self.shapes.acquire(shape, &mut self.lists)
        };
        let (egress, ingress) = (acquire(Direction::Egress), acquire(Direction::Ingress));
        Some(EndpointShapes { endpoint, ingress, egress })
    }

    /// The same resources as another node sees them. Costs as much as a start, and serves only to answer what that
    /// node would decide.
    #[must_use]
    pub(super) fn seen_from(&self, node: &str) -> Self {
        let mut other = Self::new(node);
        for (name, profile) in &self.profiles {
            other.set_profile(name, Some(Arc::clone(profile)));
        }
        for (name, tier) in self.policies.tiers() {
            other.set_tier(name, Some(tier));
        }
        for policy in self.policies.all() {
            other.set_policy(&policy.id, Some(Arc::clone(policy)));
        }
        for (id, item) in self.items.values() {
            other.set_item(id, Some(Arc::clone(item)));
        }
        other.flush();
        other
    }
}

/// The rules of a profile for a direction.
fn profile_list(name: &Arc<str>, direction: Direction) -> RuleListId {
    let owner = ResourceId { kind: ResourceKind::Profile, namespace: None, name: Arc::clone(name) };
    RuleListId { owner, direction }
}

/// The rules of a list now. What is missing denies (`felix/calc/active_rules_calculator.go`, DummyDropRules).
fn rules_of(
    policies: &Policies,
    profiles: &BTreeMap<Arc<str>, Arc<Profile>>,
    id: &RuleListId,
) -> Arc<RuleList> {
    let found = if id.owner.kind == ResourceKind::Profile {
        profiles.get(&id.owner.name).map(|profile| match id.direction {
            Direction::Ingress => Arc::clone(&profile.ingress),
            Direction::Egress => Arc::clone(&profile.egress),
        })
    } else {
        policies.get(&id.owner).and_then(|policy| policy.rules(id.direction)).cloned()
    };
    found.unwrap_or_else(|| Arc::new(RuleList::deny_all(None)))
}
