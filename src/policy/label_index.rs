//! Which items each selector matches, kept as labels and selectors come, change and go.
//!
//! Items and selectors are known by numbers that the owner gives. A selector is filed under its narrowest
//! [`Place`], so an item is shown only to selectors that could match it, and a changed item only to those of them
//! that mention a changed label; a new selector looks only at the items in its place.

use super::restriction::{self, Place};
use crate::selector::Selector;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Labels with what is inherited, shared by the indexes that hold them.
pub(super) type Labels = Arc<BTreeMap<String, String>>;
/// Number of an item.
pub(super) type ItemNumber = u32;
/// Number of a selector.
pub(super) type SelectorNumber = u32;

/// A pair that began or ceased to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MatchChange {
    pub(super) selector: SelectorNumber,
    /// Whether it matches now.
    pub(super) matches: bool,
}

#[derive(Debug, Default)]
struct ItemEntry {
    labels: Labels,
    matched: BTreeSet<SelectorNumber>,
}

#[derive(Debug)]
struct SelectorEntry {
    selector: Selector,
    mentions: BTreeSet<String>,
    place: Place,
    matched: BTreeSet<ItemNumber>,
}

type ByValue<T> = HashMap<String, HashMap<String, BTreeSet<T>>>;

/// The index.
#[derive(Debug, Default)]
pub(super) struct LabelIndex {
    items: HashMap<ItemNumber, ItemEntry>,
    selectors: HashMap<SelectorNumber, SelectorEntry>,
    items_by_label: ByValue<ItemNumber>,
    selectors_by_value: ByValue<SelectorNumber>,
    selectors_by_label: HashMap<String, BTreeSet<SelectorNumber>>,
    selectors_anywhere: BTreeSet<SelectorNumber>,
}

impl LabelIndex {
    /// Puts an item or gives it other labels. Answers the selectors whose answer about it changed.
    pub(super) fn put_item(&mut self, item: ItemNumber, labels: Labels) -> Vec<MatchChange> {
        let known = self.items.contains_key(&item);
        let old = std::mem::replace(&mut self.items.entry(item).or_default().labels, Arc::clone(&labels));
        if known && old == labels {
            return Vec::new();
        }
        let changed = changed_labels(&old, &labels);
        self.file_item(item, &old, &labels);
        let mut candidates = self.candidates(&labels);
        if let Some(entry) = self.items.get(&item) {
            candidates.extend(&entry.matched);
        }
        let mut changes = Vec::new();
        for number in candidates {
            let Some(entry) = self.selectors.get_mut(&number) else { continue };
            if known && entry.mentions.is_disjoint(&changed) {
                continue;
            }
            let matches = entry.selector.matches(&labels);
            let moved = if matches { entry.matched.insert(item) } else { entry.matched.remove(&item) };
            if moved {
                changes.push(MatchChange { selector: number, matches });
            }
        }
        if let Some(entry) = self.items.get_mut(&item) {
            for change in &changes {
                if change.matches {
                    entry.matched.insert(change.selector);
                } else {
                    entry.matched.remove(&change.selector);
                }
            }
        }
        changes
    }

    /// Takes an item out. Answers the selectors that matched it.
    pub(super) fn remove_item(&mut self, item: ItemNumber) -> BTreeSet<SelectorNumber> {
        let Some(entry) = self.items.remove(&item) else { return BTreeSet::new() };
        self.file_item(item, &entry.labels, &Labels::default());
        for number in &entry.matched {
            if let Some(selector) = self.selectors.get_mut(number) {
                selector.matched.remove(&item);
            }
        }
        entry.matched
    }

    /// Puts a new selector. Answers the items that it matches.
    pub(super) fn add_selector(
        &mut self,
        number: SelectorNumber,
        selector: Selector,
    ) -> BTreeSet<ItemNumber> {
        let place = restriction::place(&selector);
        let mentions = restriction::mentions(&selector);
        let matched = self.search(&place, &selector);
        for item in &matched {
            if let Some(entry) = self.items.get_mut(item) {
                entry.matched.insert(number);
            }
        }
        self.file_selector(number, &place);
        self.selectors.insert(number, SelectorEntry { selector, mentions, place, matched: matched.clone() });
        matched
    }

    /// Takes a selector out. Answers the items that it matched.
    pub(super) fn remove_selector(&mut self, number: SelectorNumber) -> BTreeSet<ItemNumber> {
        let Some(entry) = self.selectors.remove(&number) else { return BTreeSet::new() };
        self.unfile_selector(number, &entry.place);
        for item in &entry.matched {
            if let Some(item) = self.items.get_mut(item) {
                item.matched.remove(&number);
            }
        }
        entry.matched
    }

    /// The selectors that match an item.
    pub(super) fn selectors_of(&self, item: ItemNumber) -> impl Iterator<Item = SelectorNumber> + '_ {
        self.items.get(&item).into_iter().flat_map(|entry| entry.matched.iter().copied())
    }

    /// The items that a selector matches.
    pub(super) fn items_of(&self, selector: SelectorNumber) -> impl Iterator<Item = ItemNumber> + '_ {
        self.selectors.get(&selector).into_iter().flat_map(|entry| entry.matched.iter().copied())
    }

    /// An item's labels.
    pub(super) fn labels_of(&self, item: ItemNumber) -> Option<&Labels> {
        self.items.get(&item).map(|entry| &entry.labels)
    }

    /// Selectors that could match something with these labels.
    fn candidates(&self, labels: &BTreeMap<String, String>) -> BTreeSet<SelectorNumber> {
        let mut found = self.selectors_anywhere.clone();
        for (label, value) in labels {
            found.extend(self.selectors_by_label.get(label).into_iter().flatten());
            let by_value = self.selectors_by_value.get(label).and_then(|values| values.get(value));
            found.extend(by_value.into_iter().flatten());
        }
        found
    }

    /// Items in a selector's place that it matches.
    fn search(&self, place: &Place, selector: &Selector) -> BTreeSet<ItemNumber> {
        let matches = |item: &ItemNumber| {
            self.items.get(item).is_some_and(|entry| selector.matches(&entry.labels)).then_some(*item)
        };
        match place {
            Place::Nowhere => BTreeSet::new(),
            Place::Anywhere => self.items.keys().filter_map(matches).collect(),
            Place::Label(label) => {
                let values = self.items_by_label.get(label).into_iter().flat_map(HashMap::values);
                values.flatten().filter_map(matches).collect()
            }
            Place::Values(label, values) => {
                let Some(items) = self.items_by_label.get(label) else { return BTreeSet::new() };
                values.iter().filter_map(|value| items.get(value)).flatten().filter_map(matches).collect()
            }
        }
    }

    fn file_item(&mut self, item: ItemNumber, old: &Labels, new: &Labels) {
        for (label, value) in old.iter().filter(|(label, value)| new.get(*label) != Some(value)) {
            discard(&mut self.items_by_label, label, value, item);
        }
        for (label, value) in new.iter().filter(|(label, value)| old.get(*label) != Some(value)) {
            let values = self.items_by_label.entry(label.clone()).or_default();
            values.entry(value.clone()).or_default().insert(item);
        }
    }

    fn file_selector(&mut self, number: SelectorNumber, place: &Place) {
        match place {
            Place::Nowhere => {}
            Place::Anywhere => {
                self.selectors_anywhere.insert(number);
            }
            Place::Label(label) => {
                self.selectors_by_label.entry(label.clone()).or_default().insert(number);
            }
            Place::Values(label, values) => {
                let filed = self.selectors_by_value.entry(label.clone()).or_default();
                for value in values {
                    filed.entry(value.clone()).or_default().insert(number);
                }
            }
        }
    }

    fn unfile_selector(&mut self, number: SelectorNumber, place: &Place) {
        match place {
            Place::Nowhere => {}
            Place::Anywhere => {
                self.selectors_anywhere.remove(&number);
            }
            Place::Label(label) => {
                if let Some(numbers) = self.selectors_by_label.get_mut(label) {
                    numbers.remove(&number);
                    if numbers.is_empty() {
                        self.selectors_by_label.remove(label);
                    }
                }
            }
            Place::Values(label, values) => {
                for value in values {
                    discard(&mut self.selectors_by_value, label, value, number);
                }
            }
        }
    }
}

/// Takes a number out of a two-level index and leaves no empty level behind.
fn discard(index: &mut ByValue<u32>, label: &str, value: &str, number: u32) {
    let Some(values) = index.get_mut(label) else { return };
    if let Some(numbers) = values.get_mut(value) {
        numbers.remove(&number);
        if numbers.is_empty() {
            values.remove(value);
        }
    }
    if values.is_empty() {
        index.remove(label);
    }
}

/// Names of labels that are not the same in both.
fn changed_labels(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> BTreeSet<String> {
    let differ = |(label, value): &(&String, &String), other: &BTreeMap<String, String>| {
        other.get(*label) != Some(value)
    };
    let gone = old.iter().filter(|pair| differ(pair, new));
    let come = new.iter().filter(|pair| differ(pair, old));
    gone.chain(come).map(|(label, _)| label.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Arc::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn selector(text: &str) -> Selector {
        Selector::parse(text).unwrap()
    }

    #[test]
    fn changes_are_told_once() {
        let mut index = LabelIndex::default();
        assert!(index.put_item(1, labels(&[("role", "web")])).is_empty());
        assert_eq!(index.add_selector(7, selector("role == 'web'")), [1].into());
        assert_eq!(index.add_selector(8, selector("role != 'web'")), [].into());
        let changes = index.put_item(1, labels(&[("role", "db")]));
        let told: BTreeSet<_> = changes.iter().map(|c| (c.selector, c.matches)).collect();
        assert_eq!(told, [(7, false), (8, true)].into());
        assert!(index.put_item(1, labels(&[("role", "db")])).is_empty());
        assert!(index.put_item(1, labels(&[("role", "db"), ("x", "y")])).is_empty());
        assert_eq!(index.remove_item(1), [8].into());
        assert_eq!(index.remove_selector(8), [].into());
    }

    #[test]
    fn what_is_taken_out_leaves_nothing_behind() {
        let mut index = LabelIndex::default();
        index.put_item(1, labels(&[("a", "1"), ("b", "2")]));
        for (number, text) in ["a == '1'", "has(b)", "all()", "a in {}"].into_iter().enumerate() {
            index.add_selector(u32::try_from(number).unwrap(), selector(text));
        }
        index.remove_item(1);
        for number in 0..4 {
            index.remove_selector(number);
        }
        assert!(index.items.is_empty() && index.selectors.is_empty() && index.items_by_label.is_empty());
        assert!(index.selectors_by_value.is_empty() && index.selectors_by_label.is_empty());
        assert!(index.selectors_anywhere.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Op {
        Item(u32, Vec<(u8, u8)>),
        NoItem(u32),
        Selector(u32, usize),
        NoSelector(u32),
    }

    const TEXTS: [&str; 12] = [
        "all()",
        "a == '1'",
        "a != '1'",
        "has(b)",
        "!has(b)",
        "a in {'1', '2'} && has(b)",
        "a == '1' || b == '2'",
        "a == '1' || a == '3'",
        "b not in {'1'}",
        "c starts with '1' && !(a == '2')",
        "a in {}",
        "(has(a) || has(c)) && b == '1'",
    ];

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..6_u32, prop::collection::vec((0..3_u8, 1..4_u8), 0..4)).prop_map(|(i, l)| Op::Item(i, l)),
            1 => (0..6_u32).prop_map(Op::NoItem),
            2 => (0..6_u32, 0..TEXTS.len()).prop_map(|(s, t)| Op::Selector(s, t)),
            1 => (0..6_u32).prop_map(Op::NoSelector),
        ]
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_asking_everyone(ops in prop::collection::vec(op(), 1..60)) {
            let mut index = LabelIndex::default();
            let mut items: BTreeMap<u32, Labels> = BTreeMap::new();
            let mut selectors: BTreeMap<u32, Selector> = BTreeMap::new();
            let mut told: BTreeSet<(u32, u32)> = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Item(item, pairs) => {
                        let pairs = pairs.iter().map(|(k, v)| {
                            (char::from(b'a' + k).to_string(), v.to_string())
                        });
                        let labels: Labels = Arc::new(pairs.collect());
                        for change in index.put_item(item, Arc::clone(&labels)) {
                            let new = if change.matches {
                                told.insert((change.selector, item))
                            } else {
                                told.remove(&(change.selector, item))
                            };
                            prop_assert!(new, "told twice");
                        }
                        items.insert(item, labels);
                    }
                    Op::NoItem(item) => {
                        for selector in index.remove_item(item) {
                            prop_assert!(told.remove(&(selector, item)));
                        }
                        items.remove(&item);
                    }
                    Op::Selector(number, text) => {
                        for item in index.remove_selector(number) {
                            prop_assert!(told.remove(&(number, item)));
                        }
                        for item in index.add_selector(number, selector(TEXTS[text])) {
                            prop_assert!(told.insert((number, item)));
                        }
                        selectors.insert(number, selector(TEXTS[text]));
                    }
                    Op::NoSelector(number) => {
                        for item in index.remove_selector(number) {
                            prop_assert!(told.remove(&(number, item)));
                        }
                        selectors.remove(&number);
                    }
                }
                let asked: BTreeSet<(u32, u32)> = selectors
                    .iter()
                    .flat_map(|(number, selector)| {
                        items.iter().filter(|(_, l)| selector.matches(l)).map(|(item, _)| (*number, *item))
                    })
                    .collect();
                prop_assert_eq!(&told, &asked);
                for item in items.keys() {
                    let of: BTreeSet<u32> = index.selectors_of(*item).collect();
                    let want = asked.iter().filter(|(_, i)| i == item).map(|(s, _)| *s).collect();
                    prop_assert_eq!(of, want);
                }
            }
        }
    }
}
