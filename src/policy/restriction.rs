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

/// Demands by label name.
pub(super) type Demands = BTreeMap<String, Demand>;

/// Where an index should look for what a selector matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The selector matches nothing.
    Nowhere,
    /// Among items that meet any of these demands.
    Among(Demands),
    /// Anywhere.
    Anywhere,
}

impl Place {
    /// A guess at how much there is to look at.
    fn size(&self) -> usize {
        /// A label alone says less than many values of it.
        const ALL_VALUES: usize = 10_000;
        let one = |demand: &Demand| match demand {
            Demand::OneOf(values) => values.len(),
            Demand::Present => ALL_VALUES,
        };
        match self {
            Self::Nowhere => 0,
            Self::Among(demands) => demands.values().map(one).sum(),
            Self::Anywhere => usize::MAX,
        }
    }

    /// What lies in either place.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nowhere, place) | (place, Self::Nowhere) => place,
            (Self::Anywhere, _) | (_, Self::Anywhere) => Self::Anywhere,
            (Self::Among(mut any), Self::Among(more)) => {
                for (label, demand) in more {
                    let joined = match any.remove(&label) {
                        Some(known) => weaker(known, demand),
                        None => demand,
                    };
                    any.insert(label, joined);
                }
                Self::Among(any)
            }
        }
    }
}

/// What holds if either demand does.
fn weaker(one: Demand, other: Demand) -> Demand {
    match (one, other) {
        (Demand::OneOf(mut values), Demand::OneOf(more)) => {
            values.extend(more);
            Demand::OneOf(values)
        }
        _ => Demand::Present,
    }
}

/// The narrowest place: of parts that must all match any one's place will do, of alternatives it takes all.
pub(super) fn place(selector: &Selector) -> Place {
    let whole = demanded(selector);
    let parts = match selector {
        Selector::Or(parts) => parts.iter().map(place).reduce(Place::or),
        Selector::And(parts) => parts.iter().map(place).min_by_key(Place::size),
        _ => None,
    };
    match parts {
        Some(parts) if parts.size() < whole.size() => parts,
        _ => whole,
    }
}

/// The narrowest place that one label's demand gives.
fn demanded(selector: &Selector) -> Place {
    let Some(demands) = demands(selector) else { return Place::Nowhere };
    let places = demands.into_iter().map(|(label, demand)| match demand {
        Demand::OneOf(values) if values.is_empty() => Place::Nowhere,
        demand => Place::Among(Demands::from([(label, demand)])),
    });
    places.min_by_key(Place::size).unwrap_or(Place::Anywhere)
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
        if let Some(same) = other.remove(&label) {
            common.insert(label, weaker(demand, same));
        }
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
        Place::Among(Demands::from([one_of(label, values)]))
    }

    fn one_of(label: &str, values: &[&str]) -> (String, Demand) {
        (label.to_owned(), Demand::OneOf(values.iter().map(|v| (*v).to_owned()).collect()))
    }

    fn label(name: &str) -> Place {
        Place::Among(Demands::from([(name.to_owned(), Demand::Present)]))
    }

    #[test]
    fn the_narrowest_demand_is_the_place() {
        assert_eq!(place_of("a == 'x'"), values("a", &["x"]));
        assert_eq!(place_of("a in {'x', 'y'} && b == 'z'"), values("b", &["z"]));
        assert_eq!(place_of("has(a) && !has(b)"), label("a"));
        assert_eq!(place_of("a == 'x' || a == 'y'"), values("a", &["x", "y"]));
        assert_eq!(place_of("a == 'x' || has(a)"), label("a"));
        assert_eq!(place_of("a starts with 'x'"), label("a"));
        assert_eq!(place_of("has(a) && a in {'x', 'y'}"), values("a", &["x", "y"]));
    }

    #[test]
    fn a_selector_that_absent_labels_can_match_is_anywhere() {
        for text in ["all()", "a != 'x'", "a not in {'x'}", "!has(a)", "!a == 'x'", "a == 'x' || !has(b)"] {
            assert_eq!(place_of(text), Place::Anywhere, "{text}");
        }
    }

    #[test]
    fn alternatives_are_among_each_of_their_labels() {
        let both = Place::Among(Demands::from([one_of("a", &["x"]), one_of("b", &["y"])]));
        assert_eq!(place_of("a == 'x' || b == 'y'"), both);
        assert_eq!(place_of("(a == 'x' || b == 'y') && has(c)"), both);
        assert_eq!(place_of("(a == 'x' || b == 'y') && c == 'z'"), values("c", &["z"]));
        assert_eq!(place_of("a == 'x' || b == 'y' || a == 'x'"), both);
        let wide = Place::Among(Demands::from([("a".to_owned(), Demand::Present), one_of("b", &["y"])]));
        assert_eq!(place_of("a == 'x' || b == 'y' || has(a)"), wide);
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
