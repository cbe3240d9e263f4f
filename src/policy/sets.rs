//! The sets that rules mention, shared by everyone who means the same, with members kept as items change.

use super::changes::SetChange;
use super::item::Item;
use super::label_index::{ItemNumber, LabelIndex, Labels, SelectorNumber};
use super::members::{Element, Members};
use super::resolved::{SetId, SetSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

#[derive(Debug)]
struct ActiveSet {
    spec: Arc<SetSpec>,
    /// How many rule lists mention it.
    users: usize,
    members: Members,
    /// Whether [`Sets::flush`] told of it.
    told: bool,
}

/// The sets in use, and every item that could be a member.
#[derive(Debug, Default)]
pub(super) struct Sets {
    index: LabelIndex,
    items: HashMap<ItemNumber, Arc<Item>>,
    numbers: BTreeMap<SetId, SelectorNumber>,
    sets: HashMap<SelectorNumber, ActiveSet>,
    next: SelectorNumber,
    /// Sets that are new, or whose members or number of users changed.
    dirty: BTreeSet<SelectorNumber>,
}

impl Sets {
    /// Puts or changes an item.
    pub(super) fn put_item(&mut self, number: ItemNumber, item: Arc<Item>, labels: Labels) {
        let old = self.items.insert(number, Arc::clone(&item));
        let stays: Vec<SelectorNumber> = match &old {
            Some(old) if old.nets != item.nets || old.ports != item.ports => {
                self.index.selectors_of(number).collect()
            }
            _ => Vec::new(),
        };
        let changes = self.index.put_item(number, labels);
        for selector in stays {
            if !changes.iter().any(|change| change.selector == selector) {
                self.contribute(selector, Some(&item), old.as_deref());
            }
        }
        for change in changes {
            if change.matches {
                self.contribute(change.selector, Some(&item), None);
            } else {
                self.contribute(change.selector, None, old.as_deref());
            }
        }
    }

    /// Takes an item out.
    pub(super) fn remove_item(&mut self, number: ItemNumber) {
        let old = self.items.remove(&number);
        for selector in self.index.remove_item(number) {
            self.contribute(selector, None, old.as_deref());
        }
    }

    /// What one item adds to a set and what it takes from it. Adding first keeps what stays from flickering.
    fn contribute(&mut self, selector: SelectorNumber, add: Option<&Item>, remove: Option<&Item>) {
        let Some(set) = self.sets.get_mut(&selector) else { return };
        for element in add.map(|item| item.members(&set.spec)).unwrap_or_default() {
            set.members.add(element);
        }
        for element in remove.map(|item| item.members(&set.spec)).unwrap_or_default() {
            set.members.remove(element);
        }
        self.dirty.insert(selector);
    }

    /// One more rule list mentions the set.
    pub(super) fn acquire(&mut self, spec: &Arc<SetSpec>) {
        if let Some(set) = self.numbers.get(&spec.id).and_then(|number| self.sets.get_mut(number)) {
            set.users += 1;
            return;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let mut members = Members::default();
        for item in self.index.add_selector(number, spec.selector.clone()) {
            for element in self.items.get(&item).map(|item| item.members(spec)).unwrap_or_default() {
                members.add(element);
            }
        }
        self.numbers.insert(spec.id.clone(), number);
        self.sets.insert(number, ActiveSet { spec: Arc::clone(spec), users: 1, members, told: false });
        self.dirty.insert(number);
    }

    /// One rule list less mentions the set. It stays until the next flush, in case another wants it.
    pub(super) fn release(&mut self, id: &SetId) {
        let Some(number) = self.numbers.get(id).copied() else { return };
        if let Some(set) = self.sets.get_mut(&number) {
            set.users = set.users.saturating_sub(1);
            self.dirty.insert(number);
        }
    }

    /// What changed since the last flush, and which sets nobody mentions any more.
    pub(super) fn flush(&mut self) -> (BTreeMap<SetId, SetChange>, BTreeSet<SetId>) {
        let mut changes = BTreeMap::new();
        let mut removed = BTreeSet::new();
        for number in std::mem::take(&mut self.dirty) {
            let Some(set) = self.sets.get_mut(&number) else { continue };
            let id = set.spec.id.clone();
            if set.users == 0 {
                if set.told {
                    removed.insert(id.clone());
                }
                self.index.remove_selector(number);
                self.sets.remove(&number);
                self.numbers.remove(&id);
                continue;
            }
            let (added, gone) = set.members.take_changes();
            let new = !std::mem::replace(&mut set.told, true);
            if new || !added.is_empty() || !gone.is_empty() {
                changes.insert(id, SetChange { kind: set.spec.kind(), new, added, removed: gone });
            }
        }
        (changes, removed)
    }

    /// The members of a set in use.
    pub(super) fn members(&self, id: &SetId) -> Option<&Members> {
        Some(&self.sets.get(self.numbers.get(id)?)?.members)
    }

    /// Every member that is shown, for a renderer that has to start anew.
    pub(super) fn snapshot(&self) -> BTreeMap<SetId, SetChange> {
        let told = self.sets.values().filter(|set| set.told);
        told.map(|set| {
            let added: Vec<Element> = set.members.shown().iter().copied().collect();
            let change = SetChange { kind: set.spec.kind(), new: true, added, removed: Vec::new() };
            (set.spec.id.clone(), change)
        })
        .collect()
    }
}
