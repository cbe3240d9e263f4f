//! What is handed to the renderer, counted by who needs it: endpoints need shapes, shapes need rule lists, rule
//! lists need sets. Nothing is let go before a flush ends, so what one drops and another takes up never moves.

use super::changes::{Shape, ShapeId};
use super::hash::unique_id;
use super::resolved::{RuleList, RuleListId};
use super::sets::Sets;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

#[derive(Debug)]
struct ShapeEntry {
    shape: Arc<Shape>,
    users: usize,
    told: bool,
}

/// Shapes by content.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    ids: HashMap<Arc<Shape>, ShapeId>,
    entries: BTreeMap<ShapeId, ShapeEntry>,
    dirty: BTreeSet<ShapeId>,
}

impl Shapes {
    /// One more endpoint has the shape.
    pub(super) fn acquire(&mut self, shape: Shape, lists: &mut RuleLists) -> ShapeId {
        if let Some(id) = self.ids.get(&shape) {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.users += 1;
            }
            return id.clone();
        }
        let id = name(&shape);
        for list in mentioned(&shape) {
            lists.acquire(list);
        }
        let shape = Arc::new(shape);
        self.ids.insert(Arc::clone(&shape), id.clone());
        self.entries.insert(id.clone(), ShapeEntry { shape, users: 1, told: false });
        self.dirty.insert(id.clone());
        id
    }

    /// One endpoint less has the shape.
    pub(super) fn release(&mut self, id: &ShapeId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.users = entry.users.saturating_sub(1);
            self.dirty.insert(id.clone());
        }
    }

    /// Shapes that are new, and those that nobody has any more.
    pub(super) fn flush(
        &mut self,
        lists: &mut RuleLists,
    ) -> (BTreeMap<ShapeId, Arc<Shape>>, BTreeSet<ShapeId>) {
        let mut new = BTreeMap::new();
        let mut removed = BTreeSet::new();
        for id in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.users > 0 {
                if !std::mem::replace(&mut entry.told, true) {
                    new.insert(id, Arc::clone(&entry.shape));
                }
                continue;
            }
            for list in mentioned(&entry.shape) {
                lists.release(list);
            }
            self.ids.remove(&entry.shape);
            if entry.told {
                removed.insert(id.clone());
            }
            self.entries.remove(&id);
        }
        (new, removed)
    }

    /// A shape that some endpoint has.
    pub(super) fn get(&self, id: &ShapeId) -> Option<&Arc<Shape>> {
        self.entries.get(id).map(|entry| &entry.shape)
    }

    /// All shapes.
    pub(super) fn all(&self) -> BTreeMap<ShapeId, Arc<Shape>> {
        self.entries.iter().map(|(id, entry)| (id.clone(), Arc::clone(&entry.shape))).collect()
    }
}

fn mentioned(shape: &Shape) -> impl Iterator<Item = &RuleListId> {
    shape.tiers.iter().flat_map(|tier| &tier.policies).chain(&shape.profiles)
}

/// Lines separate what could run into each other: no name of a Calico resource holds a line end.
fn name(shape: &Shape) -> ShapeId {
    let mut text = format!("{}\n", shape.direction);
    for tier in &shape.tiers {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "tier {} {:?}", tier.name, tier.end);
        for policy in &tier.policies {
            let _ = writeln!(text, "policy {policy}");
        }
    }
    for profile in &shape.profiles {
        let _ = writeln!(text, "profile {profile}");
    }
    let id = unique_id("shape", &text);
    ShapeId(id.split_once(':').map_or("", |(_, hash)| hash).into())
}

/// Rule lists by name.
#[derive(Debug, Default)]
pub(super) struct RuleLists {
    users: BTreeMap<RuleListId, usize>,
    told: BTreeMap<RuleListId, Arc<RuleList>>,
    dirty: BTreeSet<RuleListId>,
}

impl RuleLists {
    /// One more shape mentions the list.
    pub(super) fn acquire(&mut self, id: &RuleListId) {
        let users = self.users.entry(id.clone()).or_default();
        *users += 1;
        if *users == 1 {
            self.dirty.insert(id.clone());
        }
    }

    /// One shape less mentions the list.
    pub(super) fn release(&mut self, id: &RuleListId) {
        let Some(users) = self.users.get_mut(id) else { return };
        *users = users.saturating_sub(1);
        if *users == 0 {
            self.users.remove(id);
            self.dirty.insert(id.clone());
        }
    }

    /// The list may have other rules now.
    pub(super) fn touch(&mut self, id: RuleListId) {
        if self.users.contains_key(&id) {
            self.dirty.insert(id);
        }
    }

    /// Lists that are new or have other rules, and those that nobody mentions any more. `current` gives a list's
    /// rules.
    pub(super) fn flush(
        &mut self,
        current: impl Fn(&RuleListId) -> Arc<RuleList>,
        sets: &mut Sets,
    ) -> (BTreeMap<RuleListId, Arc<RuleList>>, BTreeSet<RuleListId>) {
        let mut changed = BTreeMap::new();
        let mut removed = BTreeSet::new();
        for id in std::mem::take(&mut self.dirty) {
            let old = self.told.get(&id).cloned();
            let new = self.users.contains_key(&id).then(|| current(&id));
            if old == new {
                continue;
            }
            for spec in new.iter().flat_map(|list| &list.specs) {
                sets.acquire(spec);
            }
            for spec in old.iter().flat_map(|list| &list.specs) {
                sets.release(&spec.id);
            }
            if let Some(list) = new {
                self.told.insert(id.clone(), Arc::clone(&list));
                changed.insert(id, list);
            } else {
                self.told.remove(&id);
                removed.insert(id);
            }
        }
        (changed, removed)
    }

    /// A list as it was handed out last.
    pub(super) fn get(&self, id: &RuleListId) -> Option<&Arc<RuleList>> {
        self.told.get(id)
    }

    /// All lists as they were handed out last.
    pub(super) fn all(&self) -> &BTreeMap<RuleListId, Arc<RuleList>> {
        &self.told
    }
}
