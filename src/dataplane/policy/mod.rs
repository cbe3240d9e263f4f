//! Calico's policy as objects of our table. Pure.
//!
//! | object | what it stands for |
//! |---|---|
//! | set `sel-<id>-4`, `-6` | addresses of what a selector matches |
//! | set `np-<id>-4`, `-6` | named ports: address, protocol, port |
//! | set `nets-<id>`, `ports-<id>` | prefixes or ports written out in rules |
//! | chain `pol-in-<id>`, `pol-out-`, `prof-in-`, `prof-out-` | rules of a policy or profile |
//! | chain `shape-from-<id>`, `shape-to-` | what is asked about the packets of all endpoints that have the same rules |
//!
//! What the policy graph says is kept as it says it, and rendered where it changed; so the whole table, for a
//! comparison, and a change of it, for a commit, come from the same functions.

mod list;
mod refused;
#[cfg(test)]
pub(super) mod sample;
mod scope;
mod set;
mod shape;
mod steps;
#[cfg(test)]
mod tests;

pub(super) use refused::Refused;
pub(super) use scope::{Scope, apart, members_in};
pub(super) use set::elements;
pub(super) use steps::{batches, switch};

use super::{LogTuning, Marks};
use crate::model::IfaceName;
use crate::nft::{Chain, Rule, SetContents, Table};
use crate::policy::{
    Direction, Element, EndpointShapes, RuleList, RuleListId, SetId, SetKind, Shape, ShapeId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that the policy graph has told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PolicyState {
    sets: BTreeMap<SetId, (SetKind, BTreeSet<Element>)>,
    lists: BTreeMap<RuleListId, Arc<RuleList>>,
    shapes: BTreeMap<ShapeId, Arc<Shape>>,
    endpoints: BTreeMap<Arc<str>, EndpointShapes>,
    /// Sets written out in rules, each with the number of lists that mention it.
    literals: BTreeMap<String, (SetContents, usize)>,
    refused: Refused,
    log: LogTuning,
    /// Besides [`super::tuning::VXLAN_PORT`].
    vxlan_port: Option<u16>,
}

impl PolicyState {
    /// How Log rules write from now on.
    pub(super) fn set_log(&mut self, log: &LogTuning) {
        self.log.clone_from(log);
    }

    /// To which UDP port no endpoint may send from now on, as nodes take VXLAN there.
    pub(super) fn set_vxlan_port(&mut self, port: u16) {
        self.vxlan_port = Some(port).filter(|port| *port != super::tuning::VXLAN_PORT);
    }

    /// Whether the policy of an endpoint is known.
    pub(super) fn knows(&self, iface: &IfaceName) -> bool {
        self.endpoints.contains_key(iface.as_str())
    }

    /// The chain that decides about an endpoint's packets. `None` if its policy is not known: then it is closed.
    pub(super) fn shape_chain(&self, iface: &IfaceName, direction: Direction) -> Option<String> {
        let id = self.endpoints.get(iface.as_str())?.shape(direction);
        (self.shapes.contains_key(id) && self.refused.shape(id).is_none()).then(|| id.chain(direction))
    }

    /// The sets of selectors that have more members than this, by name. What the kernel does not take is not among them.
    pub(super) fn larger_than(&self, most: usize) -> BTreeSet<String> {
        let taken = self.sets.iter().filter(|(id, _)| !self.refused.has_set(id));
        let large = taken.filter(|(_, (_, members))| members.len() > most);
        large.flat_map(|(id, (kind, _))| set::VERSIONS.map(|version| set::name(id, *kind, version))).collect()
    }

    /// The members that stand in the set of this name. `None` if no selector has it, or the kernel does not take it.
    pub(super) fn members(&self, name: &str) -> Option<Vec<Element>> {
        let named = |id: &SetId, kind| {
            set::VERSIONS.into_iter().find(|version| set::name(id, kind, *version) == name)
        };
        self.sets.iter().find_map(|(id, (kind, members))| {
            let version = named(id, *kind).filter(|_| !self.refused.has_set(id))?;
            Some(members.iter().filter(|member| member.version() == version).copied().collect())
        })
    }

    /// Adds all of it to the table, but not the elements of these sets.
    pub(super) fn extend(&self, table: &mut Table, marks: Marks, unread: &BTreeSet<String>) {
        for (id, (kind, members)) in &self.sets {
            for version in set::VERSIONS {
                let definition = set::definition(id, *kind, version);
                let taken = !self.refused.has_set(id) && !unread.contains(&definition.name);
                let of_family = members.iter().filter(|member| taken && member.version() == version);
                let elements =
                    of_family.flat_map(set::elements).map(|element| (element.key, element.data)).collect();
                table.sets.insert(definition.name.clone(), SetContents { set: definition, elements });
            }
        }
        for (name, (contents, _)) in &self.literals {
            table.sets.insert(name.clone(), contents.clone());
        }
        let lists = self.lists.iter().map(|(id, rules)| (id.chain(), self.rendered(id, rules, marks).rules));
        let shapes = self.shapes.iter().map(|(id, it)| (id.chain(it.direction), self.asked(id, it, marks)));
        for (name, rules) in lists.chain(shapes) {
            table.chains.insert(name.clone(), Chain { name: name.clone(), base: None });
            table.rules.insert(name, rules);
        }
    }

    /// The chain of a list; if the kernel does not take its rules, one that denies.
    fn rendered(&self, id: &RuleListId, rules: &RuleList, marks: Marks) -> list::Rendered {
        match self.refused.list(id, rules) {
            Some(why) => {
                list::Rendered { rules: vec![refused::closed(&id.chain(), why)], literals: Vec::new() }
            }
            None => list::render(id, rules, marks, &self.log),
        }
    }

    /// The chain of a shape; if the kernel does not take it, one that denies.
    fn asked(&self, id: &ShapeId, it: &Shape, marks: Marks) -> Vec<Rule> {
        match self.refused.shape(id) {
            Some(why) => vec![refused::closed(&id.chain(it.direction), why)],
            None => shape::render(id, it, marks, self.vxlan_port),
        }
    }
}
