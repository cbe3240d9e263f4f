//! What stands in `table inet calico-docker` beside Felix. Pure.

use super::Options;
use super::desired::Desired;
use super::nat::hairpin;
use super::render::{FAMILIES, from_localhost, prerouting_beside, published, table};
use crate::nft::Table;
use std::collections::BTreeSet;

/// Chains that filter, with their hooks.
const FILTERS: [&str; 2] = ["forward", "input"];
/// Chains that stay: published ports, and the rule that keeps the host's localhost closed.
const STAY: [&str; 4] = ["raw-prerouting", "nat-prerouting", "nat-output", "postrouting"];

/// The whole table without what filters packets or translates them for pools: nothing leads to the rest any more. And
/// without the elements of these sets.
pub(super) fn unhooked(desired: &Desired, options: &Options, unread: &BTreeSet<String>) -> Table {
    let mut table = table(desired, options, unread);
    for chain in FILTERS {
        table.chains.remove(chain);
        table.rules.remove(chain);
    }
    let postrouting = FAMILIES.into_iter().map(hairpin).chain([from_localhost()]).collect();
    table.rules.insert("raw-prerouting".to_owned(), vec![prerouting_beside()]);
    let ports = published().into_iter().filter(|rule| rule.chain == "nat-prerouting").collect();
    table.rules.insert("nat-prerouting".to_owned(), ports);
    table.rules.insert("postrouting".to_owned(), postrouting);
    table
}

/// What stands beside Felix.
pub(super) fn reduced(desired: &Desired, options: &Options) -> Table {
    let mut table = unhooked(desired, options, &BTreeSet::new());
    let sets: Vec<&str> =
        FAMILIES.iter().flat_map(|names| [names.ports, names.ports_at, names.hairpin]).collect();
    table.sets.retain(|name, _| sets.contains(&name.as_str()));
    table.chains.retain(|name, _| STAY.contains(&name.as_str()));
    table.rules.retain(|name, _| STAY.contains(&name.as_str()));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::delta::{repair, tests::commit};
    use crate::dataplane::{policy, render};
    use crate::nft::TableId;

    fn full() -> Desired {
        let mut desired = Desired::default();
        for name in ["cali1", "cali2"] {
            desired.endpoints.insert(name.parse().unwrap(), BTreeSet::new());
        }
        policy::switch(&mut desired, &policy::sample::changes(), Options::default().marks);
        desired
    }

    /// How a table gets from one state to another, step by step.
    fn steps(id: &TableId, mut actual: Table, want: &Table) -> Vec<Table> {
        let mut all = Vec::new();
        while let Some(found) = repair(id, want, Some(&actual)) {
            actual = commit(Some(actual), &found.batch).unwrap();
            all.push(actual.clone());
        }
        assert_eq!(all.last().unwrap_or(&actual), want);
        all
    }

    #[test]
    fn the_filter_is_there_as_a_whole_or_not_at_all() {
        let (id, options, desired) = (render::table_id(), Options::default(), full());
        let (whole, little) = (table(&desired, &options, &BTreeSet::new()), reduced(&desired, &options));
        let mut back = steps(&id, whole.clone(), &unhooked(&desired, &options, &BTreeSet::new()));
        back.extend(steps(&id, back.last().unwrap().clone(), &little));
        let over = steps(&id, little.clone(), &whole);
        assert_eq!((back.len(), over.len()), (2, 2));
        for table in back.iter().chain(&over) {
            let hooked = table.chains.contains_key("forward");
            let filled = !table.sets.get("from-wl").is_none_or(|map| map.elements.is_empty());
            assert!(!hooked || filled, "a packet would meet a filter that knows nobody");
        }
        // The first step back takes the hooks away and leaves what packets under way still look up.
        assert!(!back[0].chains.contains_key("forward") && back[0].sets["from-wl"] == whole.sets["from-wl"]);
        assert!(little.sets.contains_key("ports4") && little.rules["raw-prerouting"].len() == 1);
    }
}
