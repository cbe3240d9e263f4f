//! What a selector demands of a label before it can match at all, so that an index need not ask every selector
//! about every item (Calico: `libcalico-go/lib/selector/parser/ast.go`, LabelRestrictions).

use crate::selector::{Comparison, Selector};
use std::collections::{BTreeMap, BTreeSet};

/// A demand on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Demand {
    /// The label must be there.
    Present,
    /// The label must have one of these values; with none of them the selector never matches.
    OneOf(BTreeSet<String>),
}

/// Demands by label name; all of them hold for whatever the selector matches.
type Demands = BTreeMap<String, Demand>;

/// Where an index should look for what a selector matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Among items whose label has one of the values.
    Values(String, BTreeSet<String>),
    /// Among items that have the label.
    Label(String),
    /// Anywhere.
    Anywhere,
    /// The selector matches nothing.
    Nowhere,
}

/// The narrowest place: the fewest values of one label, else a label, else anywhere.
pub(super) fn place(selector: &Selector) -> Place {
    let Some(demands) = demands(selector) else { return Place::Nowhere };
    let rank = |demand: &Demand| match demand {
        Demand::OneOf(values) => values.len(),
        Demand::Present => usize::MAX,
    };
    match demands.into_iter().min_by_key(|(_, demand)| rank(demand)) {
        None => Place::Anywhere,
        Some((label, Demand::Present)) => Place::Label(label),
        Some((_, Demand::OneOf(values))) if values.is_empty() => Place::Nowhere,
        Some((label, Demand::OneOf(values))) => Place::Values(label, values),
    }
}

/// Every label name that the selector's answer can depend on.
pub(super) fn mentions(selector: &Selector) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect_mentions(selector, &mut names);
    names
}

fn collect_mentions(selector: &Selector, into: &mut BTreeSet<String>) {
    match selector {
        Selector::All | Selector::Global => {}
        Selector::Has(label)
        | Selector::Compare { label, .. }
        | Selector::In { label, .. }
        | Selector::NotIn { label, .. } => {
            into.insert(label.clone());
        }
        Selector::Not(inner) => collect_mentions(inner, into),
        Selector::And(parts) | Selector::Or(parts) => {
            for part in parts {
                collect_mentions(part, into);
            }
        }
    }
}

/// The demands of a selector; `None` if nothing can match it.
fn demands(selector: &Selector) -> Option<Demands> {
    let one = |label: &String, demand| Some(Demands::from([(label.clone(), demand)]));
    match selector {
        Selector::All | Selector::Global | Selector::NotIn { .. } | Selector::Not(_) => Some(Demands::new()),
        Selector::Has(label) => one(label, Demand::Present),
        Selector::Compare { label, comparison, text } => match comparison {
            Comparison::Equal => one(label, Demand::OneOf([text.clone()].into())),
            Comparison::NotEqual => Some(Demands::new()),
            Comparison::Contains | Comparison::StartsWith | Comparison::EndsWith => {
                one(label, Demand::Present)
            }
        },
        Selector::In { values, .. } if values.is_empty() => None,
        Selector::In { label, values } => one(label, Demand::OneOf(values.clone())),
        Selector::And(parts) => {
            parts.iter().try_fold(Demands::new(), |all, part| Some(both(all, demands(part)?)))
        }
        Selector::Or(parts) => parts.iter().filter_map(demands).reduce(either),
    }
}

/// What both demand together.
fn both(mut all: Demands, more: Demands) -> Demands {
    for (label, demand) in more {
        let joined = match (all.remove(&label), demand) {
            (Some(Demand::OneOf(a)), Demand::OneOf(b)) => {
                Demand::OneOf(a.intersection(&b).cloned().collect())
            }
            (Some(Demand::OneOf(values)), Demand::Present) => Demand::OneOf(values),
            (_, demand) => demand,
        };
        all.insert(label, joined);
    }
    all
}

/// What holds whichever of the two matches.
fn either(one: Demands, mut other: Demands) -> Demands {
    let mut common = Demands::new();
    for (label, demand) in one {
        let joined = match (demand, other.remove(&label)) {
            (_, None) => continue,
            (Demand::OneOf(a), Some(Demand::OneOf(b))) => Demand::OneOf(a.union(&b).cloned().collect()),
            _ => Demand::Present,
        };
        common.insert(label, joined);
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(text: &str) -> Place {
        place(&Selector::parse(text).unwrap())
    }

    fn values(label: &str, values: &[&str]) -> Place {
        Place::Values(label.to_owned(), values.iter().map(|v| (*v).to_owned()).collect())
    }

    #[test]
    fn the_narrowest_demand_is_the_place() {
        assert_eq!(place_of("a == 'x'"), values("a", &["x"]));
        assert_eq!(place_of("a in {'x', 'y'} && b == 'z'"), values("b", &["z"]));
        assert_eq!(place_of("has(a) && !has(b)"), Place::Label("a".to_owned()));
        assert_eq!(place_of("a == 'x' || a == 'y'"), values("a", &["x", "y"]));
        assert_eq!(place_of("a == 'x' || has(a)"), Place::Label("a".to_owned()));
        assert_eq!(place_of("a starts with 'x'"), Place::Label("a".to_owned()));
        assert_eq!(place_of("has(a) && a in {'x', 'y'}"), values("a", &["x", "y"]));
    }

    #[test]
    fn a_selector_that_absent_labels_can_match_is_anywhere() {
        for text in ["all()", "a != 'x'", "a not in {'x'}", "!has(a)", "!a == 'x'", "a == 'x' || b == 'y'"] {
            assert_eq!(place_of(text), Place::Anywhere, "{text}");
        }
    }

    #[test]
    fn contradictions_are_nowhere() {
        for text in ["a in {}", "a == 'x' && a == 'y'", "a in {} && has(b)", "a in {} || b in {}"] {
            assert_eq!(place_of(text), Place::Nowhere, "{text}");
        }
        assert_eq!(place_of("a in {} || b == 'x'"), values("b", &["x"]));
    }

    #[test]
    fn every_label_name_is_mentioned() {
        let selector =
            Selector::parse("a == '1' && (!has(b) || c in {'2'}) && d not in {'3'} && all()").unwrap();
        assert_eq!(mentions(&selector).into_iter().collect::<String>(), "abcd");
    }
}
