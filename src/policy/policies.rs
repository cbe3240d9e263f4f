//! Which policies apply to which local endpoint, and in what order.

use super::changes::{EndOfTier, ShapeTier};
use super::label_index::{ItemNumber, LabelIndex, Labels, SelectorNumber};
use super::policy::{Order, Policy};
use super::resolved::Direction;
use super::update::ResourceId;
use crate::model::TierSpec;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A tier's place and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tier {
    pub(super) order: Order,
    pub(super) end: EndOfTier,
}

impl Tier {
    /// Only `Pass` is special; anything else denies (`felix/rules/endpoints.go`).
    pub(super) fn of(spec: &TierSpec) -> Self {
        let end = match spec.default_action.as_deref() {
            Some("Pass") => EndOfTier::Pass,
            _ => EndOfTier::Deny,
        };
        Self { order: Order::of(spec.order.as_ref()), end }
    }
}

#[derive(Debug)]
struct Entry {
    policy: Arc<Policy>,
    key: (Order, String),
}

/// Tiers that are there before tiers that are not, then by order, then by name (`felix/calc/policy_sorter.go`).
type TierKey = (bool, Option<Order>, Arc<str>);

/// All policies and tiers, and the local endpoints that they select.
#[derive(Debug, Default)]
pub(super) struct Policies {
    numbers: BTreeMap<ResourceId, SelectorNumber>,
    entries: HashMap<SelectorNumber, Entry>,
    next: SelectorNumber,
    index: LabelIndex,
    tiers: BTreeMap<Arc<str>, Tier>,
    by_tier: BTreeMap<Arc<str>, BTreeSet<SelectorNumber>>,
}

impl Policies {
    /// Puts, changes or takes out a policy. Answers the endpoints for which another sequence of policies holds now.
    pub(super) fn put(&mut self, id: &ResourceId, policy: Option<Arc<Policy>>) -> BTreeSet<ItemNumber> {
        let known = self.numbers.get(id).copied();
        let old = known.and_then(|number| self.entries.get(&number)).map(|entry| Arc::clone(&entry.policy));
        if old == policy {
            return BTreeSet::new();
        }
        let number = known.unwrap_or_else(|| {
            self.next = self.next.wrapping_add(1);
            self.next
        });
        let same_selector = matches!((&old, &policy), (Some(a), Some(b)) if a.selector == b.selector);
        let same_place = matches!((&old, &policy), (Some(a), Some(b)) if a.same_place(b));
        let (before, after) = if same_selector {
            let matched: BTreeSet<ItemNumber> = self.index.items_of(number).collect();
            (matched.clone(), matched)
        } else {
            let before = self.index.remove_selector(number);
            let selector = policy.as_ref().map(|policy| policy.selector.clone());
            (before, selector.map(|it| self.index.add_selector(number, it)).unwrap_or_default())
        };
        if let Some(old) = &old {
            self.leave_tier(&old.tier, number);
        }
        match policy {
            Some(policy) => {
                self.by_tier.entry(Arc::clone(&policy.tier)).or_default().insert(number);
                self.numbers.insert(id.clone(), number);
                self.entries.insert(number, Entry { key: policy.sort_key(), policy });
            }
            None => {
                self.numbers.remove(id);
                self.entries.remove(&number);
            }
        }
        if same_place { &before ^ &after } else { &before | &after }
    }

    fn leave_tier(&mut self, tier: &Arc<str>, number: SelectorNumber) {
        let Some(members) = self.by_tier.get_mut(tier) else { return };
        members.remove(&number);
        if members.is_empty() {
            self.by_tier.remove(tier);
        }
    }

    /// Puts, changes or takes out a tier. Answers the endpoints for which another sequence of policies holds now.
    pub(super) fn put_tier(&mut self, name: &Arc<str>, tier: Option<Tier>) -> BTreeSet<ItemNumber> {
        let old = match tier {
            Some(tier) => self.tiers.insert(Arc::clone(name), tier),
            None => self.tiers.remove(name),
        };
        if old == tier {
            return BTreeSet::new();
        }
        let policies = self.by_tier.get(name).into_iter().flatten();
        policies.flat_map(|number| self.index.items_of(*number)).collect()
    }

    /// Puts a local endpoint or gives it other labels. Answers whether another sequence of policies holds for it.
    pub(super) fn put_endpoint(&mut self, number: ItemNumber, labels: Labels) -> bool {
        !self.index.put_item(number, labels).is_empty()
    }

    /// Takes a local endpoint out.
    pub(super) fn remove_endpoint(&mut self, number: ItemNumber) {
        self.index.remove_item(number);
    }

    /// A policy.
    pub(super) fn get(&self, id: &ResourceId) -> Option<&Arc<Policy>> {
        Some(&self.entries.get(self.numbers.get(id)?)?.policy)
    }

    /// A tier, if there is one of that name.
    pub(super) fn tier(&self, name: &str) -> Option<Tier> {
        self.tiers.get(name).copied()
    }

    /// All policies.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.entries.values().map(|entry| &entry.policy)
    }

    /// All tiers.
    pub(super) fn tiers(&self) -> impl Iterator<Item = (&Arc<str>, Tier)> {
        self.tiers.iter().map(|(name, tier)| (name, *tier))
    }

    /// The tiers with policies for an endpoint and a direction, in order. A tier without any is left out, and so is
    /// its default action.
    pub(super) fn sequence(&self, endpoint: ItemNumber, direction: Direction) -> Vec<ShapeTier> {
        let mut tiers: BTreeMap<TierKey, Vec<&Entry>> = BTreeMap::new();
        for number in self.index.selectors_of(endpoint) {
            let Some(entry) = self.entries.get(&number) else { continue };
            if entry.policy.rules(direction).is_some() {
                tiers.entry(self.tier_key(&entry.policy.tier)).or_default().push(entry);
            }
        }
        tiers.into_iter().map(|((_, _, name), entries)| self.shape_tier(name, entries, direction)).collect()
    }

    fn tier_key(&self, name: &Arc<str>) -> TierKey {
        let tier = self.tiers.get(name);
        (tier.is_none(), tier.map(|tier| tier.order), Arc::clone(name))
    }

    fn shape_tier(&self, name: Arc<str>, mut entries: Vec<&Entry>, direction: Direction) -> ShapeTier {
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        let end = self.tiers.get(&name).map_or(EndOfTier::Deny, |tier| tier.end);
        ShapeTier {
            name,
            policies: entries.iter().map(|entry| entry.policy.list_id(direction)).collect(),
            end,
        }
    }

    /// The labels of a local endpoint.
    pub(super) fn labels(&self, number: ItemNumber) -> Option<&Labels> {
        self.index.labels_of(number)
    }
}
