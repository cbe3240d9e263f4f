//! What a selector says about a set of labels.

use super::ast::{Comparison, Selector};
use std::collections::BTreeMap;

impl Selector {
    /// Whether something with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_by(&|label| labels.get(label).map(String::as_str))
    }

    /// The same for labels that do not stand in one map (an endpoint inherits some from its profiles): `value_of`
    /// gives a label's value, or `None` where the label is absent. An empty value is a value.
    #[must_use]
    pub fn matches_by<'a>(&self, value_of: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(label) => value_of(label).is_some(),
            Self::Compare { label, comparison, text } => comparison.holds(value_of(label), text),
            Self::In { label, values } => value_of(label).is_some_and(|value| values.contains(value)),
            Self::NotIn { label, values } => value_of(label).is_none_or(|value| !values.contains(value)),
            Self::Not(inner) => !inner.matches_by(value_of),
            Self::And(parts) => parts.iter().all(|part| part.matches_by(value_of)),
            Self::Or(parts) => parts.iter().any(|part| part.matches_by(value_of)),
        }
    }
}

impl Comparison {
    /// Only `!=` holds for an absent label.
    fn holds(self, value: Option<&str>, text: &str) -> bool {
        let Some(value) = value else { return self == Self::NotEqual };
        match self {
            Self::Equal => value == text,
            Self::NotEqual => value != text,
            Self::Contains => value.contains(text),
            Self::StartsWith => value.starts_with(text),
            Self::EndsWith => value.ends_with(text),
        }
    }
}
