//! A renderer that refuses whatever nf_tables would refuse: what mentions something absent, what is added twice,
//! what is deleted while mentioned, prefixes that overlap.

use crate::policy::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Kernel {
    pub(super) sets: BTreeMap<SetId, (SetKind, BTreeSet<Element>)>,
    pub(super) lists: BTreeMap<RuleListId, Arc<RuleList>>,
    pub(super) shapes: BTreeMap<ShapeId, Arc<Shape>>,
    pub(super) endpoints: BTreeMap<Arc<str>, EndpointShapes>,
}

fn sets_of(list: &RuleList) -> BTreeSet<SetId> {
    list.sets().cloned().collect()
}

impl Kernel {
    pub(super) fn apply(&mut self, changes: &Changes) {
        for (id, change) in &changes.sets {
            if change.new {
                assert!(change.removed.is_empty());
                assert!(self.sets.insert(id.clone(), (change.kind, BTreeSet::new())).is_none(), "{id} twice");
            }
            let (kind, members) = self.sets.get_mut(id).expect("members for an absent set");
            assert_eq!(*kind, change.kind);
            for element in &change.removed {
                assert!(members.remove(element), "{element:?} is not in {id}");
            }
            for element in &change.added {
                assert!(members.insert(*element), "{element:?} is in {id} already");
            }
            let nets: Vec<_> =
                members.iter().map(|it| if let Element::Net(net) = it { Some(*net) } else { None }).collect();
            for pair in nets.windows(2) {
                if let [Some(one), Some(other)] = pair {
                    assert!(!one.overlaps(other), "{one} and {other} overlap in {id}");
                }
            }
        }
        for (id, list) in &changes.rule_lists {
            for set in sets_of(list) {
                assert!(self.sets.contains_key(&set), "{id} mentions {set}, which is absent");
            }
            assert_ne!(
                self.lists.insert(id.clone(), Arc::clone(list)).as_ref(),
                Some(list),
                "{id} did not change"
            );
        }
        for (id, shape) in &changes.shapes {
            for list in shape.tiers.iter().flat_map(|tier| &tier.policies).chain(&shape.profiles) {
                assert!(self.lists.contains_key(list), "shape {id} mentions {list}, which is absent");
            }
            assert!(shape.tiers.iter().all(|tier| !tier.policies.is_empty()));
            assert!(self.shapes.insert(id.clone(), Arc::clone(shape)).is_none(), "shape {id} twice");
        }
        for interface in &changes.removed_endpoints {
            assert!(self.endpoints.remove(interface).is_some(), "{interface} is absent");
        }
        for (interface, shapes) in &changes.endpoints {
            for id in [&shapes.ingress, &shapes.egress] {
                assert!(self.shapes.contains_key(id), "{interface} has shape {id}, which is absent");
            }
            let before = self.endpoints.insert(Arc::clone(interface), shapes.clone());
            assert_ne!(before.as_ref(), Some(shapes), "{interface} did not change");
        }
        self.delete(changes);
        self.check_nothing_idle();
    }

    fn delete(&mut self, changes: &Changes) {
        for id in &changes.removed_shapes {
            assert!(
                !self.endpoints.values().any(|it| it.ingress == *id || it.egress == *id),
                "shape {id} is in use"
            );
            assert!(self.shapes.remove(id).is_some());
        }
        for id in &changes.removed_rule_lists {
            let used = self.shapes.values().any(|shape| mentions(shape, id));
            assert!(!used, "{id} is in use");
            assert!(self.lists.remove(id).is_some());
        }
        for id in &changes.removed_sets {
            assert!(!self.lists.values().any(|list| sets_of(list).contains(id)), "{id} is in use");
            assert!(self.sets.remove(id).is_some());
        }
    }

    /// Only what local endpoints need is there (no test here uses the hint that keeps policies without them but one,
    /// which looks at the changes itself).
    fn check_nothing_idle(&self) {
        let used: BTreeSet<&ShapeId> =
            self.endpoints.values().flat_map(|it| [&it.ingress, &it.egress]).collect();
        assert_eq!(used, self.shapes.keys().collect());
        for id in self.lists.keys() {
            assert!(self.shapes.values().any(|shape| mentions(shape, id)), "{id} is idle");
        }
        let used: BTreeSet<SetId> = self.lists.values().flat_map(|list| sets_of(list)).collect();
        assert_eq!(used, self.sets.keys().cloned().collect());
    }
}

fn mentions(shape: &Shape, id: &RuleListId) -> bool {
    shape.tiers.iter().flat_map(|tier| &tier.policies).chain(&shape.profiles).any(|list| list == id)
}
