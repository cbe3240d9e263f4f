//! Labels that items inherit from their profiles: an item's own label wins, then the first profile that has it
//! (`felix/labelindex/label_inheritance_index.go`).

use super::item::Item;
use super::label_index::{ItemNumber, Labels};
use super::update::LabelMap;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

#[derive(Debug, Default)]
struct Parent {
    labels: LabelMap,
    children: BTreeSet<ItemNumber>,
}

/// Where a label of an item comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelOrigin {
    /// The item's own.
    Own,
    /// Inherited from this profile.
    Profile(Arc<str>),
}

/// Labels of profiles, and who inherits them.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    parents: HashMap<Arc<str>, Parent>,
}

impl Inheritance {
    /// Gives a profile's labels. Answers the items that inherit them, if anything changed.
    pub(super) fn put_parent(&mut self, profile: &Arc<str>, labels: LabelMap) -> BTreeSet<ItemNumber> {
        let parent = self.parents.entry(Arc::clone(profile)).or_default();
        if parent.labels == labels {
            self.tidy(profile);
            return BTreeSet::new();
        }
        parent.labels = labels;
        let children = parent.children.clone();
        self.tidy(profile);
        children
    }

    /// An item's profiles changed.
    pub(super) fn put_child(&mut self, number: ItemNumber, old: Option<&Item>, new: Option<&Item>) {
        for profile in old.iter().flat_map(|item| &item.profiles) {
            if let Some(parent) = self.parents.get_mut(profile) {
                parent.children.remove(&number);
            }
        }
        for profile in new.iter().flat_map(|item| &item.profiles) {
            self.parents.entry(Arc::clone(profile)).or_default().children.insert(number);
        }
        for profile in old.iter().flat_map(|item| &item.profiles) {
            self.tidy(profile);
        }
    }

    /// All labels of an item.
    pub(super) fn labels(&self, item: &Item) -> Labels {
        let mut labels = item.labels.clone();
        for parent in item.profiles.iter().filter_map(|profile| self.parents.get(profile)) {
            for (label, value) in &parent.labels {
                if !labels.contains_key(label) {
                    labels.insert(label.clone(), value.clone());
                }
            }
        }
        Arc::new(labels)
    }

    /// Where a label of an item comes from.
    pub(super) fn origin(&self, item: &Item, label: &str) -> LabelOrigin {
        if item.labels.contains_key(label) {
            return LabelOrigin::Own;
        }
        let has = |profile: &&Arc<str>| {
            self.parents.get(*profile).is_some_and(|parent| parent.labels.contains_key(label))
        };
        let from = item.profiles.iter().find(has);
        from.map_or(LabelOrigin::Own, |profile| LabelOrigin::Profile(Arc::clone(profile)))
    }

    fn tidy(&mut self, profile: &Arc<str>) {
        if self
            .parents
            .get(profile)
            .is_some_and(|parent| parent.labels.is_empty() && parent.children.is_empty())
        {
            self.parents.remove(profile);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> LabelMap {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn own_labels_win_then_the_first_profile() {
        let mut inheritance = Inheritance::default();
        let item = Item {
            labels: map(&[("a", "own")]),
            profiles: vec!["p1".into(), "p2".into()],
            ..Item::default()
        };
        inheritance.put_child(1, None, Some(&item));
        assert_eq!(
            inheritance.put_parent(&"p2".into(), map(&[("a", "2"), ("b", "2"), ("c", "2")])),
            [1].into()
        );
        assert_eq!(inheritance.put_parent(&"p1".into(), map(&[("b", "1")])), [1].into());
        assert!(inheritance.put_parent(&"p1".into(), map(&[("b", "1")])).is_empty());
        assert_eq!(*inheritance.labels(&item), map(&[("a", "own"), ("b", "1"), ("c", "2")]));
        assert_eq!(inheritance.origin(&item, "a"), LabelOrigin::Own);
        assert_eq!(inheritance.origin(&item, "b"), LabelOrigin::Profile("p1".into()));
        inheritance.put_child(1, Some(&item), None);
        inheritance.put_parent(&"p1".into(), map(&[]));
        inheritance.put_parent(&"p2".into(), map(&[]));
        assert!(inheritance.parents.is_empty());
    }
}
