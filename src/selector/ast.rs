//! The tree of a selector.

use std::collections::BTreeSet;

/// How a label's value is compared with one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`; true also where the label is absent.
    NotEqual,
    /// `contains`
    Contains,
    /// `starts with`
    StartsWith,
    /// `ends with`
    EndsWith,
}

/// A selector, read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selector {
    /// `all()`, and what an empty text means.
    All,
    /// `global()`: means something in a policy's namespaceSelector only; true everywhere.
    Global,
    /// `has(label)`
    Has(String),
    /// `label == "text"` and its relatives.
    Compare {
        /// Label name.
        label: String,
        /// The operator.
        comparison: Comparison,
        /// What the value is compared with.
        text: String,
    },
    /// `label in {…}`
    In {
        /// Label name.
        label: String,
        /// The values that match; may be none.
        values: BTreeSet<String>,
    },
    /// `label not in {…}`; true also where the label is absent.
    NotIn {
        /// Label name.
        label: String,
        /// The values that do not match; may be none.
        values: BTreeSet<String>,
    },
    /// `!x`
    Not(Box<Selector>),
    /// `x && y && …`, two or more.
    And(Vec<Selector>),
    /// `x || y || …`, two or more.
    Or(Vec<Selector>),
}
