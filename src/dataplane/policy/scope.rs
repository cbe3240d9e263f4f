//! Which changes of policy may overtake which others, and what of a large one can go ahead of the rest. Pure.

use super::PolicyState;
use crate::policy::{Changes, RuleList, RuleListId, SetChange, SetId, Shape, ShapeId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a change of policy is about.
///
/// A later change may overtake it if neither writes what the other is about: then both orders end in the same state, in
/// between everything that is mentioned is there, and nothing that is mentioned is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Scope {
    /// What it brings, changes or removes.
    written: Names,
    /// What those mention, before and after.
    mentioned: Names,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    sets: BTreeSet<SetId>,
    lists: BTreeSet<RuleListId>,
    shapes: BTreeSet<ShapeId>,
    endpoints: BTreeSet<Arc<str>>,
}

impl Names {
    fn meet(&self, other: &Self) -> bool {
        !self.sets.is_disjoint(&other.sets)
            || !self.lists.is_disjoint(&other.lists)
            || !self.shapes.is_disjoint(&other.shapes)
            || !self.endpoints.is_disjoint(&other.endpoints)
    }

    fn extend(&mut self, other: Self) {
        self.sets.extend(other.sets);
        self.lists.extend(other.lists);
        self.shapes.extend(other.shapes);
        self.endpoints.extend(other.endpoints);
    }

    fn mention_sets(&mut self, list: &RuleList) {
        self.sets.extend(list.sets().cloned());
    }

    fn mention_lists(&mut self, shape: &Shape) {
        let policies = shape.tiers.iter().flat_map(|tier| &tier.policies);
        self.lists.extend(policies.chain(&shape.profiles).cloned());
    }
}

impl Scope {
    /// What a change is about that is to be made to this state.
    pub(in super::super) fn of(state: &PolicyState, changes: &Changes) -> Self {
        let written = Names {
            sets: changes.sets.keys().chain(&changes.removed_sets).cloned().collect(),
            lists: changes.rule_lists.keys().chain(&changes.removed_rule_lists).cloned().collect(),
            shapes: changes.shapes.keys().chain(&changes.removed_shapes).cloned().collect(),
            endpoints: changes.endpoints.keys().chain(&changes.removed_endpoints).cloned().collect(),
        };
        let mut mentioned = Names::default();
        let lists = written.lists.iter().filter_map(|id| state.lists.get(id));
        lists.chain(changes.rule_lists.values()).for_each(|list| mentioned.mention_sets(list));
        let shapes = written.shapes.iter().filter_map(|id| state.shapes.get(id));
        shapes.chain(changes.shapes.values()).for_each(|shape| mentioned.mention_lists(shape));
        let endpoints = written.endpoints.iter().filter_map(|name| state.endpoints.get(name));
        let asked = endpoints.chain(changes.endpoints.values());
        mentioned.shapes.extend(asked.flat_map(|it| [it.ingress.clone(), it.egress.clone()]));
        Self { written, mentioned }
    }

    /// Whether a change that came later has to wait for what this is about.
    pub(in super::super) fn holds_up(&self, later: &Self) -> bool {
        self.written.meet(&later.written)
            || self.written.meet(&later.mentioned)
            || self.mentioned.meet(&later.written)
    }

    /// It is about this, too: a change that waits.
    pub(in super::super) fn extend(&mut self, other: Self) {
        self.written.extend(other.written);
        self.mentioned.extend(other.mentioned);
    }
}

impl PolicyState {
    /// The sets of a change that have so many members that these go ahead of the rest of it: new ones, which nothing
    /// mentions yet, with more than `most` members together, and those of which one alone changes by more than that.
    pub(in super::super) fn going_ahead(&self, changes: &Changes, most: usize) -> BTreeSet<SetId> {
        let new = |id: &SetId| !self.sets.contains_key(id);
        let fresh: usize = changes.sets.iter().filter(|(id, _)| new(id)).map(|(_, it)| count(it)).sum();
        let goes = |(id, it): &(&SetId, &SetChange)| count(it) > most || (fresh > most && new(id));
        changes.sets.iter().filter(goes).map(|(id, _)| id.clone()).collect()
    }
}

/// How many members come and go.
fn count(change: &SetChange) -> usize {
    change.added.len() + change.removed.len()
}

/// How many members of sets come and go in a change.
pub(in super::super) fn members_in(changes: &Changes) -> usize {
    changes.sets.values().map(count).sum()
}

/// The change as several, one after the other: first what is about these sets, each with about `most` members, and last
/// all else. What goes from a set goes before anything comes: it may cover that.
pub(in super::super) fn apart(mut changes: Changes, ahead: &BTreeSet<SetId>, most: usize) -> Vec<Changes> {
    let mut pieces = Vec::new();
    let mut current = Changes::default();
    for id in ahead {
        let Some(SetChange { kind, new, added, removed }) = changes.sets.remove(id) else { continue };
        let (mut added, mut removed) = (added.into_iter().peekable(), removed.into_iter().peekable());
        let mut new = new;
        loop {
            if members_in(&current) >= most {
                pieces.push(std::mem::take(&mut current));
            }
            let room = most - members_in(&current);
            let gone: Vec<_> = removed.by_ref().take(room).collect();
            let come: Vec<_> = added.by_ref().take(room - gone.len()).collect();
            let new = std::mem::take(&mut new);
            current.sets.insert(id.clone(), SetChange { kind, new, added: come, removed: gone });
            if added.peek().is_none() && removed.peek().is_none() {
                break;
            }
        }
    }
    pieces.extend([current, changes]);
    pieces
}
