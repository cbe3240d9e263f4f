//! The canonical text of a selector, as Calico prints it.

use super::ast::{Comparison, Selector};
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Contains => "contains",
            Self::StartsWith => "starts with",
            Self::EndsWith => "ends with",
        })
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(label) => write!(f, "has({label})"),
            Self::Compare { label, comparison, text } => write!(f, "{label} {comparison} {}", Quoted(text)),
            Self::In { label, values } => write!(f, "{label} in {}", Set(values)),
            Self::NotIn { label, values } => write!(f, "{label} not in {}", Set(values)),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(parts) => group(f, parts, " && "),
            Self::Or(parts) => group(f, parts, " || "),
        }
    }
}

fn group(f: &mut Formatter<'_>, parts: &[Selector], between: &str) -> fmt::Result {
    f.write_str("(")?;
    for (place, part) in parts.iter().enumerate() {
        if place > 0 {
            f.write_str(between)?;
        }
        part.fmt(f)?;
    }
    f.write_str(")")
}

/// The language has no escapes: a text holds at most one of the two quotes, and stands in the other.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a BTreeSet<String>);

impl Display for Set<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (place, value) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(", ")?;
            }
            Quoted(value).fmt(f)?;
        }
        f.write_str("}")
    }
}
