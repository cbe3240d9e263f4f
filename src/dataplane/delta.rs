//! Differences between what is desired and what is there, as batches. Pure.

use super::render::Entries;
use crate::nft::{Batch, Data, Element, ElementKey, Op, Table, TableId};
use std::collections::BTreeMap;

type Elements = BTreeMap<ElementKey, Option<Data>>;

/// The batch from one state of some sets to another.
pub(super) fn elements(id: &TableId, before: &Entries, after: &Entries) -> Batch {
    let mut batch = Batch::new(id.clone());
    let none = Elements::new();
    for (set, want) in after {
        set_delta(&mut batch, set, before.get(set).unwrap_or(&none), want);
    }
    batch
}

fn set_delta(batch: &mut Batch, set: &str, have: &Elements, want: &Elements) {
    let only = |one: &Elements, other: &Elements| -> Vec<Element> {
        let differs = |(key, data): &(&ElementKey, &Option<Data>)| other.get(*key) != Some(*data);
        one.iter()
            .filter(differs)
            .map(|(key, data)| Element { key: key.clone(), data: data.clone() })
            .collect()
    };
    batch.elements(set, only(have, want), only(want, have));
}

/// What it takes to make a table right.
#[derive(Debug)]
pub(super) struct Repair {
    /// All of it, in one transaction.
    pub(super) batch: Batch,
    /// What was wrong, as half sentences.
    pub(super) findings: Vec<String>,
}

/// Compares a table with how it should be. `None` if nothing is to be done. While the skeleton (chains with their
/// hooks, sets with their types) is right, only what differs is changed and counters survive; otherwise the whole table
/// is replaced, in the same single transaction, so that packets see the old or the new one and nothing between.
pub(super) fn repair(id: &TableId, desired: &Table, actual: Option<&Table>) -> Option<Repair> {
    let Some(actual) = actual else {
        return Some(Repair {
            batch: replacement(id, desired),
            findings: vec!["the table was missing".to_owned()],
        });
    };
    if let Some(finding) = skeleton_differs(desired, actual) {
        return Some(Repair { batch: replacement(id, desired), findings: vec![finding] });
    }
    let mut batch = Batch::new(id.clone());
    let mut findings = Vec::new();
    for (name, want) in &desired.sets {
        let Some(have) = actual.sets.get(name) else { continue };
        if have.elements != want.elements {
            set_delta(&mut batch, name, &have.elements, &want.elements);
            findings.push(format!("set {name} had other elements"));
        }
    }
    let none = Vec::new();
    for (chain, want) in &desired.rules {
        let have = actual.rules.get(chain).unwrap_or(&none);
        if have.len() != want.len() || have.iter().zip(want).any(|(h, w)| !h.same_as(w)) {
            batch.push(Op::FlushChain(chain.clone()));
            want.iter().for_each(|rule| batch.push(Op::AddRule(rule.clone())));
            findings.push(format!("chain {chain} had other rules"));
        }
    }
    (!findings.is_empty()).then_some(Repair { batch, findings })
}

fn skeleton_differs(desired: &Table, actual: &Table) -> Option<String> {
    if desired.flags != actual.flags {
        return Some("the table had other flags".to_owned());
    }
    if desired.chains != actual.chains {
        let wrong = desired.chains.iter().find(|(name, chain)| actual.chains.get(*name) != Some(*chain));
        let foreign = actual.chains.keys().find(|name| !desired.chains.contains_key(*name));
        let name = wrong.map(|(name, _)| name).or(foreign);
        return Some(format!("chain {} was missing, changed or none of ours", name.map_or("", |n| n)));
    }
    let kind = |table: &Table, name: &String| table.sets.get(name).map(|contents| contents.set.clone());
    let mut names = desired.sets.keys().chain(actual.sets.keys());
    names
        .find(|name| kind(desired, name) != kind(actual, name))
        .map(|name| format!("set {name} was missing, changed or none of ours"))
}

/// The batch that makes the table right whatever stands there now: it is added (so that it exists), deleted and made.
pub(super) fn replacement(id: &TableId, desired: &Table) -> Batch {
    let mut batch = Batch::new(id.clone());
    batch.ops = vec![Op::AddTable, Op::DeleteTable, Op::AddTable];
    batch.ops.extend(desired.sets.values().map(|contents| Op::AddSet(contents.set.clone())));
    // Chains that nobody calls first: rules and verdicts refer to chains, and hooks go live with their rules.
    batch.ops.extend(desired.chains.values().map(|chain| Op::AddChain(chain.clone())));
    for (name, contents) in &desired.sets {
        set_delta(&mut batch, name, &Elements::new(), &contents.elements);
    }
    batch.ops.extend(desired.rules.values().flatten().map(|rule| Op::AddRule(rule.clone())));
    batch
}
