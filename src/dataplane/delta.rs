//! Differences between what is desired and what is there, as batches. Pure.

use super::render::Entries;
use crate::nft::{Batch, Chain, Data, Element, ElementKey, Expr, Op, SetContents, SetData, Table, TableId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Elements in one transaction, so that the kernel is done with it long before the deadline also on a busy host: some
/// 50 ms on an idle one.
pub(super) const MOST_ELEMENTS: usize = 20_000;
/// Elements in one transaction of a very large change, for which the same holds.
const MOST_OF_MANY: usize = 50_000;

/// A change as transactions. When one ends, the kernel may walk through all of each set that it changes
/// (`nft_rbtree_commit` in `net/netfilter/nft_set_rbtree.c`), so the larger a change, the larger are its pieces.
pub(super) fn pieces(batch: Batch) -> Vec<Batch> {
    let most = (batch.elements_in() / 20).clamp(MOST_ELEMENTS, MOST_OF_MANY);
    batch.split(most)
}

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
    /// Whether this only prepares: then the table is to be compared again.
    pub(super) again: bool,
    /// Whether this makes the whole table.
    pub(super) anew: bool,
}

/// Compares a table with how it should be. `None` if nothing is to be done.
///
/// Only what differs is changed: rules switch for a packet as a whole, and counters survive. Chains and sets that are
/// missing are made first, in a transaction of their own, while nothing leads to them: a packet that is under way while
/// elements and rules switch together sees the new elements and the old rules. All else is one transaction. Where
/// something of ours stands there in another form, which cannot be changed in place, the table is replaced, also in one
/// transaction; then a packet that is in the middle of the old rules may find its map empty already, because the kernel
/// switches elements and rules by one counter that each lookup reads anew (`nft_set_elem_active`), and is dropped.
pub(super) fn repair(id: &TableId, desired: &Table, actual: Option<&Table>) -> Option<Repair> {
    let Some(actual) = actual else {
        return Some(replaced(id, desired, "the table was missing".to_owned()));
    };
    if let Some(finding) = conflict(desired, actual) {
        return Some(replaced(id, desired, finding));
    }
    let mut repair =
        Repair { batch: Batch::new(id.clone()), findings: Vec::new(), again: false, anew: false };
    repair.add_missing(desired, actual);
    if !repair.findings.is_empty() {
        repair.again = true;
        return Some(repair);
    }
    repair.add_missing_hooks(desired, actual);
    repair.fix_elements(desired, actual);
    repair.fix_rules(desired, actual);
    repair.delete_extra(desired, actual);
    (!repair.findings.is_empty()).then_some(repair)
}

/// What is there under one of our names and cannot become ours.
fn conflict(desired: &Table, actual: &Table) -> Option<String> {
    if desired.flags != actual.flags {
        return Some("the table had other flags".to_owned());
    }
    let chain =
        desired.chains.values().find(|want| actual.chains.get(&want.name).is_some_and(|have| have != *want));
    if let Some(chain) = chain {
        return Some(format!("chain {} had another form", chain.name));
    }
    let differs =
        |want: &&SetContents| actual.sets.get(&want.set.name).is_some_and(|have| have.set != want.set);
    desired.sets.values().find(differs).map(|want| format!("set {} had another form", want.set.name))
}

fn missing_chains<'a>(desired: &'a Table, actual: &Table) -> impl Iterator<Item = &'a Chain> {
    desired.chains.values().filter(|chain| !actual.chains.contains_key(&chain.name))
}

impl Repair {
    fn found(&mut self, finding: String, ops: impl IntoIterator<Item = Op>) {
        self.findings.push(finding);
        self.batch.ops.extend(ops);
    }

    fn add_missing(&mut self, desired: &Table, actual: &Table) {
        for (name, want) in desired.sets.iter().filter(|(name, _)| !actual.sets.contains_key(*name)) {
            self.found(format!("set {name} was missing"), [Op::AddSet(want.set.clone())]);
            // What maps to a verdict leads somewhere, perhaps to a chain that is yet to be made.
            if want.set.data != SetData::Verdict {
                set_delta(&mut self.batch, name, &Elements::new(), &want.elements);
            }
        }
        let missing: Vec<_> = missing_chains(desired, actual).filter(|chain| chain.base.is_none()).collect();
        for chain in &missing {
            self.found(format!("chain {} was missing", chain.name), [Op::AddChain((*chain).clone())]);
        }
        let rules = missing.iter().filter_map(|chain| desired.rules.get(&chain.name)).flatten();
        self.batch.ops.extend(rules.cloned().map(Op::AddRule));
    }

    /// Chains that hook into the stack go live with the rest.
    fn add_missing_hooks(&mut self, desired: &Table, actual: &Table) {
        for chain in missing_chains(desired, actual) {
            self.found(format!("chain {} was missing", chain.name), [Op::AddChain(chain.clone())]);
        }
    }

    fn fix_elements(&mut self, desired: &Table, actual: &Table) {
        let none = Elements::new();
        // What leads to shapes comes last: endpoints open when all that their rules ask for is there.
        let leads = |(_, want): &(&String, &SetContents)| want.set.data == SetData::Verdict;
        let (maps, sets): (Vec<_>, Vec<_>) = desired.sets.iter().partition(leads);
        for (name, want) in sets.into_iter().chain(maps) {
            let have = actual.sets.get(name).map_or(&none, |contents| &contents.elements);
            if *have != want.elements {
                set_delta(&mut self.batch, name, have, &want.elements);
                self.findings.push(format!("set {name} had other elements"));
            }
        }
    }

    fn fix_rules(&mut self, desired: &Table, actual: &Table) {
        let none = Vec::new();
        for (chain, want) in &desired.rules {
            let have = actual.rules.get(chain).unwrap_or(&none);
            if have.len() != want.len() || have.iter().zip(want).any(|(h, w)| !h.same_as(w)) {
                let rules = want.iter().map(|rule| Op::AddRule(rule.clone()));
                let ops: Vec<Op> = std::iter::once(Op::FlushChain(chain.clone())).chain(rules).collect();
                self.found(format!("chain {chain} had other rules"), ops);
            }
        }
    }

    /// What refers goes before what it refers to: rules, then maps, then chains. Anonymous sets go with their rules.
    fn delete_extra(&mut self, desired: &Table, actual: &Table) {
        let chains: Vec<&String> =
            actual.chains.keys().filter(|name| !desired.chains.contains_key(*name)).collect();
        let sets =
            actual.sets.keys().filter(|name| !desired.sets.contains_key(*name) && !name.starts_with("__"));
        self.batch.ops.extend(chains.iter().map(|name| Op::FlushChain((*name).clone())));
        for name in sets {
            self.found(format!("set {name} is none of ours"), [Op::DeleteSet(name.clone())]);
        }
        for name in chains {
            self.found(format!("chain {name} is none of ours"), [Op::DeleteChain(name.clone())]);
        }
    }
}

/// Makes the table anew, whatever stands there now: it is added (so that it exists), deleted and made. What is too large
/// for one transaction goes in several ([`Batch::split`]), in an order in which that is no hole: the hooks and their
/// rules are there with the first, and what leads to the endpoints' chains comes with the last. In between endpoints are
/// closed.
pub(super) fn replaced(id: &TableId, desired: &Table, finding: String) -> Repair {
    let add_set = |contents: &SetContents| Op::AddSet(contents.set.clone());
    let rules: Vec<Op> = desired.rules.values().flatten().cloned().map(Op::AddRule).collect();
    let mut batch = Batch::new(id.clone());
    batch.ops = vec![Op::AddTable, Op::DeleteTable, Op::AddTable];
    batch.ops.extend(most_asked_first(desired.sets.values().map(add_set).collect(), &rules));
    batch.ops.extend(desired.chains.values().map(|chain| Op::AddChain(chain.clone())));
    batch.ops.extend(rules);
    // Small sets are in the first transaction, so that what does not depend on endpoints' policy is whole at once.
    let mut contents: Vec<(&String, &SetContents)> = desired.sets.iter().collect();
    contents.sort_by_key(|(_, it)| (it.set.data == SetData::Verdict, it.elements.len()));
    for (name, contents) in contents {
        set_delta(&mut batch, name, &Elements::new(), &contents.elements);
    }
    Repair { batch, findings: vec![finding], again: false, anew: true }
}

/// Deletes those of these sets that no rule asks for: what a process that is no more left half filled. `None` if there
/// are none. Rules that are made next and ask for one would otherwise take it for whole.
pub(super) fn without_unasked(id: &TableId, actual: &Table, sets: &BTreeSet<String>) -> Option<Repair> {
    let asked: BTreeSet<&str> =
        actual.rules.values().flatten().flat_map(|rule| &rule.exprs).filter_map(Expr::set).collect();
    let unasked: Vec<&String> = sets.iter().filter(|set| !asked.contains(set.as_str())).collect();
    let findings = unasked.iter().map(|set| format!("set {set} was asked for by nobody")).collect();
    let ops = unasked.iter().map(|set| Op::DeleteSet((*set).clone())).collect();
    let repair = Repair { batch: Batch { table: id.clone(), ops }, findings, again: true, anew: false };
    (!unasked.is_empty()).then_some(repair)
}

/// Brings operations on new sets into an order that is cheap for the kernel: it finds a set by comparing names, from the
/// oldest set on (`nft_set_lookup` in `net/netfilter/nf_tables_api.c`), for each rule that asks for one. So the sets
/// that most of these rules ask for are added first; then comes all else, in its order.
pub(super) fn most_asked_first(ops: Vec<Op>, rules: &[Op]) -> Vec<Op> {
    let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
    let rules = rules.iter().filter_map(|op| if let Op::AddRule(rule) = op { Some(rule) } else { None });
    for set in rules.flat_map(|rule| &rule.exprs).filter_map(Expr::set) {
        *asked.entry(set).or_default() += 1;
    }
    let (mut sets, others): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(|op| matches!(op, Op::AddSet(_)));
    let often = |op: &Op| match op {
        Op::AddSet(set) => asked.get(set.name.as_str()).copied().unwrap_or_default(),
        _ => 0,
    };
    sets.sort_by_key(|op| Reverse(often(op)));
    sets.extend(others);
    sets
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dataplane::desired::Desired;
    use crate::dataplane::{Options, policy, render};
    use crate::nft::{Expr, Rule, Set, Verdict};
    use proptest::prelude::*;

    /// What the kernel does with a batch, including what it refuses.
    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    pub(in super::super) fn commit(table: Option<Table>, batch: &Batch) -> Option<Table> {
        let mut table = table;
        for op in &batch.ops {
            if let Op::AddTable = op {
                table.get_or_insert_default();
                continue;
            }
            let there = table.as_mut().expect("the table exists");
            match op {
                Op::DeleteTable => table = None,
                Op::AddChain(chain) => {
                    assert!(
                        there
                            .chains
                            .insert(chain.name.clone(), chain.clone())
                            .is_none_or(|old| old == *chain)
                    );
                    there.rules.entry(chain.name.clone()).or_default();
                }
                Op::DeleteChain(name) => {
                    let refers =
                        |v: &Verdict| matches!(v, Verdict::Jump(to) | Verdict::Goto(to) if to == name);
                    let data = there.sets.values().flat_map(|set| set.elements.values()).flatten();
                    let exprs = there.rules.values().flatten().flat_map(|rule| &rule.exprs);
                    assert!(
                        !data.into_iter().any(|d| matches!(d, Data::Verdict(v) if refers(v)))
                            && !exprs.into_iter().any(|e| matches!(e, Expr::Verdict(v) if refers(v))),
                        "{name} is in use"
                    );
                    there.chains.remove(name).expect("the chain exists");
                    there.rules.remove(name);
                }
                Op::FlushChain(name) => there.rules.get_mut(name).expect("the chain exists").clear(),
                Op::AddRule(rule) => {
                    for expr in &rule.exprs {
                        match expr {
                            Expr::Lookup { set, .. } => assert!(there.sets.contains_key(set), "{set}"),
                            Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => {
                                assert!(there.chains.contains_key(to), "{to}");
                            }
                            _ => {}
                        }
                    }
                    there.rules.get_mut(&rule.chain).expect("the chain exists").push(rule.clone())
                }
                Op::AddSet(set) => {
                    let contents = SetContents { set: set.clone(), elements: Elements::new() };
                    assert!(there.sets.insert(set.name.clone(), contents).is_none());
                }
                Op::DeleteSet(name) => {
                    let mut exprs = there.rules.values().flatten().flat_map(|rule| &rule.exprs);
                    assert!(
                        !exprs.any(|e| matches!(e, Expr::Lookup { set, .. } if set == name)),
                        "{name} is in use"
                    );
                    assert!(there.sets.remove(name).is_some());
                }
                Op::AddElements { set, elements } => {
                    let set = there.sets.get_mut(set).expect("the set exists");
                    for e in elements {
                        assert!(set.elements.insert(e.key.clone(), e.data.clone()).is_none());
                    }
                }
                Op::DeleteElements { set, elements } => {
                    let set = there.sets.get_mut(set).expect("the set exists");
                    elements.iter().for_each(|e| assert!(set.elements.remove(&e.key).is_some()));
                }
                Op::AddTable | Op::InsertRule { .. } | Op::DeleteRule { .. } => unreachable!(),
            }
        }
        table
    }

    fn desired() -> Table {
        let mut desired = Desired::default();
        for name in ["cali1", "cali2"] {
            desired.endpoints.insert(name.parse().unwrap(), BTreeSet::from(["10.0.0.1".parse().unwrap()]));
        }
        policy::switch(&mut desired, &policy::sample::changes(), Options::default().marks);
        render::table(&desired, &Options::default(), &BTreeSet::new())
    }

    /// One thing that somebody may do to our table.
    fn disturb(table: &mut Table, stroke: usize, pick: usize) {
        let chain = table.chains.keys().nth(pick % table.chains.len()).cloned().unwrap_or_default();
        let set = table.sets.keys().nth(pick % table.sets.len()).cloned().unwrap_or_default();
        let extra = format!("extra{pick}");
        match stroke {
            0 => table.flags = 1,
            1 => drop(table.rules.entry(chain).or_default().pop()),
            2 => table.rules.entry(chain.clone()).or_default().insert(0, Rule::in_chain(&chain).accept()),
            3 => {
                table.chains.remove(&chain);
                table.rules.remove(&chain);
                table.rules.values_mut().for_each(Vec::clear);
                table.sets.values_mut().for_each(|contents| contents.elements.clear());
            }
            4 => {
                table.chains.insert(extra.clone(), Chain { name: extra.clone(), base: None });
                let to_extra = Element::entry(vec![1; 16], Data::Verdict(Verdict::Goto(extra.clone())));
                table.rules.insert(extra, Vec::new());
                if let Some(map) = table.sets.get_mut("from-wl") {
                    map.elements.insert(to_extra.key, to_extra.data);
                }
            }
            5 => table.sets.get_mut(&set).unwrap().elements.clear(),
            6 => {
                let foreign =
                    Set { name: extra.clone(), key: Vec::new(), data: SetData::None, interval: false };
                table.sets.insert(extra, SetContents { set: foreign, elements: Elements::new() });
            }
            7 => table.sets.get_mut(&set).unwrap().set.interval ^= true,
            8 => drop(table.sets.remove(&set)),
            _ => table.chains.get_mut(&chain).unwrap().base = None,
        }
    }

    proptest! {
        #[test]
        fn whatever_was_done_to_the_table_two_batches_put_it_right(
            strokes in proptest::collection::vec((0_usize..10, any::<usize>()), 0..6),
        ) {
            let want = desired();
            let mut actual = want.clone();
            for (stroke, pick) in strokes {
                disturb(&mut actual, stroke, pick);
            }
            let id = render::table_id();
            for _ in 0..2 {
                let Some(repair) = repair(&id, &want, Some(&actual)) else { break };
                actual = commit(Some(actual), &repair.batch).unwrap();
                if !repair.again {
                    break;
                }
            }
            prop_assert_eq!(actual, want);
        }
    }

    #[test]
    fn a_missing_table_is_made_and_a_right_one_left_alone() {
        let (id, want) = (render::table_id(), desired());
        let repair = super::repair(&id, &want, None).unwrap();
        assert_eq!(repair.findings, ["the table was missing"]);
        assert_eq!(commit(None, &repair.batch).as_ref(), Some(&want));
        assert!(super::repair(&id, &want, Some(&want)).is_none());
    }

    #[test]
    fn a_table_that_goes_out_in_pieces_has_all_rules_at_once_and_opens_endpoints_last() {
        let want = desired();
        let repair = super::repair(&render::table_id(), &want, None).unwrap();
        let pieces = repair.batch.split(2);
        assert!(pieces.len() > 3, "{}", pieces.len());
        let mut table = None;
        for piece in &pieces {
            table = commit(table, piece);
            let there = table.as_ref().unwrap();
            assert_eq!((&there.chains, &there.rules), (&want.chains, &want.rules));
            let whole = |verdicts: bool| {
                let mut sets =
                    want.sets.iter().filter(|(_, it)| (it.set.data == SetData::Verdict) == verdicts);
                sets.all(|(name, it)| there.sets[name].elements == it.elements)
            };
            let maps = there.sets.values().filter(|it| it.set.data == SetData::Verdict);
            assert!(whole(false) || maps.into_iter().all(|it| it.elements.is_empty()));
        }
        assert_eq!(table.as_ref(), Some(&want));
    }

    #[test]
    fn the_set_that_most_rules_ask_for_is_made_first() {
        let set = |name: &str| {
            Op::AddSet(Set { name: name.to_owned(), key: Vec::new(), data: SetData::None, interval: false })
        };
        let rule = |asks: &str| Op::AddRule(Rule::in_chain("c").oifname_in(asks));
        let chain = || Op::AddChain(Chain { name: "c".to_owned(), base: None });
        let rules = [rule("often"), rule("once"), rule("often")];
        let ordered = most_asked_first(vec![chain(), set("never"), set("once"), set("often")], &rules);
        assert_eq!(ordered, [set("often"), set("once"), set("never"), chain()]);
    }

    #[test]
    fn of_sets_that_may_be_half_filled_those_go_that_no_rule_asks_for() {
        let (id, mut actual) = (render::table_id(), desired());
        let asked = actual.rules.values().flatten().flat_map(|rule| &rule.exprs).find_map(Expr::set);
        let asked = asked.unwrap().to_owned();
        let contents = actual.sets[&asked].clone();
        actual.sets.insert("left".to_owned(), contents);
        let found = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            without_unasked(&id, &actual, &names).map(|repair| repair.batch.ops)
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[&asked]), None);
        assert_eq!(found(&[&asked, "left"]), Some(vec![Op::DeleteSet("left".to_owned())]));
    }

    #[test]
    fn one_lost_element_costs_one_operation() {
        let (id, want) = (render::table_id(), desired());
        let mut actual = want.clone();
        actual.sets.get_mut("to-wl").unwrap().elements.pop_first();
        let repair = super::repair(&id, &want, Some(&actual)).unwrap();
        assert_eq!(repair.batch.ops.len(), 1);
    }
}
