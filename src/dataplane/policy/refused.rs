//! What the kernel does not take, kept apart so that it holds nothing else back. Pure.
//!
//! | the kernel refuses | then |
//! |---|---|
//! | a rule of a policy or profile | its chain drops everything that comes to it |
//! | a set, or members of it | the set is empty, and so it is with every policy that asks for it |
//! | what a shape asks | the endpoints that have the shape are closed |
//!
//! So whom a refused thing is about stays protected. A list that changes is tried again at once, everything else when
//! [`PolicyState::pardon`] says so.

use super::super::Marks;
use super::{PolicyState, set};
use crate::nft::{Batch, Expr, Op, Rule, Verdict};
use crate::policy::{RuleList, RuleListId, SetId, SetKind, ShapeId};
use std::collections::{BTreeMap, BTreeSet};

/// What was refused, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Refused {
    lists: BTreeMap<RuleListId, String>,
    sets: BTreeMap<SetId, String>,
    shapes: BTreeMap<ShapeId, String>,
}

impl Refused {
    /// Whether nothing is.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.sets.is_empty() && self.shapes.is_empty()
    }

    /// A sentence for each.
    pub(in super::super) fn sentences(&self) -> Vec<String> {
        let lists = self.lists.iter().map(|(id, why)| format!("{id} denies everything: {why}"));
        let sets = self
            .sets
            .iter()
            .map(|(id, why)| format!("policies that ask for set {id} deny everything: {why}"));
        let shapes = self.shapes.iter().map(|(id, why)| format!("endpoints of shape {id} are closed: {why}"));
        lists.chain(sets).chain(shapes).collect()
    }

    pub(super) fn has_set(&self, id: &SetId) -> bool {
        self.sets.contains_key(id)
    }

    pub(super) fn shape(&self, id: &ShapeId) -> Option<&String> {
        self.shapes.get(id)
    }

    /// Why a list's rules are not in force.
    pub(super) fn list(&self, id: &RuleListId, rules: &RuleList) -> Option<&String> {
        self.lists.get(id).or_else(|| rules.sets().find_map(|set| self.sets.get(set)))
    }

    pub(super) fn forget_list(&mut self, id: &RuleListId) {
        self.lists.remove(id);
    }

    pub(super) fn forget_set(&mut self, id: &SetId) {
        self.sets.remove(id);
    }

    pub(super) fn forget_shape(&mut self, id: &ShapeId) {
        self.shapes.remove(id);
    }
}

/// The one rule of a chain whose own rules were refused.
pub(super) fn closed(chain: &str, why: &str) -> Rule {
    Rule::in_chain(chain).drop_because(&super::list::comment(&format!("refused: {why}")))
}

impl PolicyState {
    /// What is refused now.
    pub(in super::super) fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Keeps apart what an operation that the kernel refused is about. Says whether there is anything to keep apart
    /// that was not yet: then the rest is worth another try.
    pub(in super::super) fn refuse(&mut self, batch: &Batch, index: usize, why: &str, marks: Marks) -> bool {
        let before = self.refused.clone();
        match batch.ops.get(index) {
            Some(Op::AddRule(rule) | Op::InsertRule { rule, .. }) => self.refuse_chain(&rule.chain, why),
            Some(Op::AddChain(chain)) => self.refuse_chain(&chain.name, why),
            Some(Op::FlushChain(name) | Op::DeleteChain(name)) => self.refuse_chain(name, why),
            Some(Op::AddSet(new)) => self.refuse_set(&new.name, why),
            Some(Op::DeleteSet(name)) => self.refuse_set(name, why),
            Some(Op::AddElements { set, elements }) => {
                self.refuse_set(set, why);
                // An element that leads to a shape.
                for element in elements {
                    if let Some(crate::nft::Data::Verdict(Verdict::Goto(shape))) = &element.data {
                        self.refuse_chain(shape, why);
                    }
                }
            }
            Some(Op::DeleteElements { set, .. }) => self.refuse_set(set, why),
            Some(Op::AddTable | Op::DeleteTable | Op::DeleteRule { .. }) | None => {}
        }
        self.recount(marks);
        self.refused != before
    }

    /// Everything is to be tried again. Gives the names of the sets that were refused: they are empty in the kernel.
    pub(in super::super) fn pardon(&mut self, marks: Marks) -> BTreeSet<String> {
        let refused = std::mem::take(&mut self.refused);
        self.recount(marks);
        let kinds = refused.sets.into_keys().filter_map(|id| Some((self.sets.get(&id)?.0, id)));
        kinds.flat_map(|(kind, id)| set::VERSIONS.map(|version| set::name(&id, kind, version))).collect()
    }

    fn refuse_chain(&mut self, name: &str, why: &str) {
        let list = self.lists.keys().find(|id| id.chain() == name).cloned();
        let shape =
            self.shapes.iter().find(|(id, it)| id.chain(it.direction) == name).map(|(id, _)| id.clone());
        if let Some(id) = list {
            self.refused.lists.entry(id).or_insert_with(|| why.to_owned());
        }
        if let Some(id) = shape {
            self.refused.shapes.entry(id).or_insert_with(|| why.to_owned());
        }
    }

    fn refuse_set(&mut self, name: &str, why: &str) {
        let called =
            |id: &SetId, kind: SetKind| set::VERSIONS.iter().any(|v| set::name(id, kind, *v) == name);
        let found = self.sets.iter().find(|(id, (kind, _))| called(id, *kind)).map(|(id, _)| id.clone());
        if let Some(id) = found {
            self.refused.sets.entry(id).or_insert_with(|| why.to_owned());
            return;
        }
        if self.literals.contains_key(name) {
            let mentions =
                |rule: &Rule| rule.exprs.iter().any(|e| matches!(e, Expr::Lookup { set, .. } if set == name));
            let users: Vec<RuleListId> = self
                .lists
                .iter()
                .filter(|(id, rules)| {
                    super::list::render(id, rules, Marks { accept: 0, pass: 0 }, &self.log)
                        .rules
                        .iter()
                        .any(mentions)
                })
                .map(|(id, _)| id.clone())
                .collect();
            for id in users {
                self.refused.lists.entry(id).or_insert_with(|| why.to_owned());
            }
        }
    }

    /// Which sets written out in rules are mentioned, and how often: only by lists that are in force.
    fn recount(&mut self, marks: Marks) {
        let mut literals = BTreeMap::new();
        for (id, rules) in &self.lists {
            for contents in self.rendered(id, rules, marks).literals {
                let name = contents.set.name.clone();
                literals.entry(name).or_insert_with(|| (contents, 0)).1 += 1;
            }
        }
        self.literals = literals;
    }
}
