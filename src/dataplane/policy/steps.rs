//! From one policy to the next, as batches in the order that the kernel needs. Pure.

use super::super::desired::{Desired, Part};
use super::super::{Marks, delta, render};
use super::{PolicyState, set, shape};
use crate::model::IfaceName;
use crate::nft::{Batch, Chain, Op, SetContents};
use crate::policy::{Changes, RuleList, RuleListId, SetChange, SetId, Shape, ShapeId};
use std::sync::Arc;

/// What a change is made of.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// New sets with their members, new chains: nothing refers to them yet, so no packet sees them.
    sets: Vec<Op>,
    chains: Vec<Op>,
    rules: Vec<Op>,
    /// What packets see: members of sets, rules of chains that were there.
    edits: Vec<Op>,
    /// Chains that nobody refers to any more, their rules first, and then sets.
    emptied: Vec<Op>,
    dropped: Vec<Op>,
    dropped_sets: Vec<Op>,
    /// Sets written out in rules that one list less mentions; they go when all lists have said what they mention.
    released: Vec<String>,
    new_shapes: bool,
}

/// Records what the graph says and gives the transactions that bring the kernel there: [`batches`], in pieces.
pub(in super::super) fn switch(desired: &mut Desired, changes: &Changes, marks: Marks) -> Vec<Batch> {
    batches(desired, changes, marks).into_iter().flat_map(delta::pieces).collect()
}

/// Records what the graph says and gives the batches that bring the kernel there: one, or two where there are new
/// shapes.
///
/// A shape's chain is committed before the map elements that lead to it: a packet that is under way while a batch
/// switches sees elements of the new generation and rules of the old (see [`delta::repair`]). All that packets can see
/// switches in the last batch, at once; but what is more than the kernel takes within the deadline
/// ([`delta::MOST_ELEMENTS`]) goes in pieces, the members of new sets before anything asks for them.
pub(in super::super) fn batches(desired: &mut Desired, changes: &Changes, marks: Marks) -> Vec<Batch> {
    let changed = changes.endpoints.keys().chain(&changes.removed_endpoints);
    let interfaces: Vec<Part> =
        changed.filter_map(|name| IfaceName::new(name).ok()).map(Part::Endpoint).collect();
    let before = render::entries_of(desired, &interfaces);
    let mut parts = Parts::default();
    desired.policy.take(changes, marks, &mut parts);
    let id = render::table_id();
    let dispatch = delta::elements(&id, &before, &render::entries_of(desired, &interfaces)).ops;
    let Parts { sets, chains, rules, edits, emptied, dropped, dropped_sets, new_shapes, .. } = parts;
    let batch = |groups: Vec<Vec<Op>>| Batch { table: id.clone(), ops: groups.concat() };
    let additions = batch(vec![delta::most_asked_first(sets, &rules), chains, rules]);
    let visible = batch(vec![edits, dispatch, emptied, dropped, dropped_sets]);
    let apart = new_shapes || additions.elements_in() > delta::MOST_ELEMENTS;
    let mut batches =
        if apart { vec![additions, visible] } else { vec![batch(vec![additions.ops, visible.ops])] };
    batches.retain(|batch| !batch.ops.is_empty());
    batches
}

fn add_set(contents: &SetContents) -> Vec<Op> {
    let add = Op::AddSet(contents.set.clone());
    let elements =
        contents.elements.keys().cloned().map(|key| crate::nft::Element { key, data: None }).collect();
    let fill = Op::AddElements { set: contents.set.name.clone(), elements };
    if contents.elements.is_empty() { vec![add] } else { vec![add, fill] }
}

fn chain(name: &str) -> Op {
    Op::AddChain(Chain { name: name.to_owned(), base: None })
}

impl PolicyState {
    fn take(&mut self, changes: &Changes, marks: Marks, parts: &mut Parts) {
        for (id, change) in &changes.sets {
            self.change_set(id, change, parts);
        }
        for (id, rules) in &changes.rule_lists {
            self.change_list(id, Some(rules), marks, parts);
        }
        for (id, it) in &changes.shapes {
            self.add_shape(id, it, marks, parts);
        }
        for name in &changes.removed_endpoints {
            self.endpoints.remove(name);
        }
        for (name, shapes) in &changes.endpoints {
            self.endpoints.insert(Arc::clone(name), shapes.clone());
        }
        for id in &changes.removed_shapes {
            if let Some(it) = self.shapes.remove(id) {
                parts.drop_chain(&id.chain(it.direction));
                self.refused.forget_shape(id);
            }
        }
        for id in &changes.removed_rule_lists {
            self.change_list(id, None, marks, parts);
        }
        for id in &changes.removed_sets {
            if let Some((kind, _)) = self.sets.remove(id) {
                let names = set::VERSIONS.map(|version| set::name(id, kind, version));
                parts.dropped_sets.extend(names.map(Op::DeleteSet));
                self.refused.forget_set(id);
            }
        }
        for name in std::mem::take(&mut parts.released) {
            self.release_literal(&name, parts);
        }
    }

    fn change_set(&mut self, id: &SetId, change: &SetChange, parts: &mut Parts) {
        let new = !self.sets.contains_key(id);
        let (_, members) = self.sets.entry(id.clone()).or_insert_with(|| (change.kind, Default::default()));
        let gone: Vec<_> = change.removed.iter().filter(|member| members.remove(member)).collect();
        let come: Vec<_> = change.added.iter().filter(|member| members.insert(**member)).collect();
        if self.refused.has_set(id) {
            return;
        }
        for version in set::VERSIONS {
            let definition = set::definition(id, change.kind, version);
            let of_family = |members: &[&crate::policy::Element]| {
                let ours = members.iter().filter(|member| member.version() == version);
                let mut elements: Vec<_> = ours.flat_map(|member| set::elements(member)).collect();
                elements.sort_unstable();
                elements
            };
            let mut batch = Batch::new(render::table_id());
            batch.elements(&definition.name, of_family(&gone), of_family(&come));
            if new {
                parts.sets.push(Op::AddSet(definition));
                parts.sets.extend(batch.ops);
            } else {
                parts.edits.extend(batch.ops);
            }
        }
    }

    /// A list has these rules now, or none.
    fn change_list(
        &mut self,
        id: &RuleListId,
        rules: Option<&Arc<RuleList>>,
        marks: Marks,
        parts: &mut Parts,
    ) {
        let name = id.chain();
        let old = match rules {
            Some(rules) => self.lists.insert(id.clone(), Arc::clone(rules)),
            None => self.lists.remove(id),
        };
        let before = old.map(|old| self.rendered(id, &old, marks));
        // Other rules may be taken.
        self.refused.forget_list(id);
        let after = rules.map(|rules| self.rendered(id, rules, marks));
        for contents in after.iter().flat_map(|rendered| &rendered.literals) {
            let known = self.literals.entry(contents.set.name.clone());
            let (_, users) = known.or_insert_with(|| {
                parts.sets.extend(add_set(contents));
                (contents.clone(), 0)
            });
            *users += 1;
        }
        let mentioned = before.iter().flat_map(|rendered| &rendered.literals);
        parts.released.extend(mentioned.map(|contents| contents.set.name.clone()));
        let there = before.is_some();
        match after {
            Some(after) if !there => {
                parts.chains.push(chain(&name));
                parts.rules.extend(after.rules.into_iter().map(Op::AddRule));
            }
            Some(after) => {
                parts.edits.push(Op::FlushChain(name));
                parts.edits.extend(after.rules.into_iter().map(Op::AddRule));
            }
            None if there => parts.drop_chain(&name),
            None => {}
        }
    }

    fn release_literal(&mut self, name: &str, parts: &mut Parts) {
        let Some((_, users)) = self.literals.get_mut(name) else { return };
        *users = users.saturating_sub(1);
        if *users == 0 {
            self.literals.remove(name);
            parts.dropped_sets.push(Op::DeleteSet(name.to_owned()));
        }
    }

    fn add_shape(&mut self, id: &ShapeId, it: &Arc<Shape>, marks: Marks, parts: &mut Parts) {
        if self.shapes.insert(id.clone(), Arc::clone(it)).is_some() {
            return;
        }
        parts.new_shapes = true;
        parts.chains.push(chain(&id.chain(it.direction)));
        parts.rules.extend(shape::render(id, it, marks, self.vxlan_port).into_iter().map(Op::AddRule));
    }
}

impl Parts {
    fn drop_chain(&mut self, name: &str) {
        self.emptied.push(Op::FlushChain(name.to_owned()));
        self.dropped.push(Op::DeleteChain(name.to_owned()));
    }
}
