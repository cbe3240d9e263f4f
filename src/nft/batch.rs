//! A batch: changes of one table that the kernel makes all at once or not at all.

use super::{Chain, Element, Rule, Set, TableId};
use std::fmt;

/// One change. The order inside a batch matters to the kernel: what is referred to must be added before, and a chain
/// or set can only be deleted when nothing refers to it any more, also inside one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Adds the table; nothing happens if it exists.
    AddTable,
    /// Deletes the table with all that is in it; it must exist.
    DeleteTable,
    /// Adds a chain; nothing happens if it exists in the same form.
    AddChain(Chain),
    /// Deletes a chain with its rules.
    DeleteChain(String),
    /// Deletes all rules of a chain.
    FlushChain(String),
    /// Appends a rule to its chain.
    AddRule(Rule),
    /// Deletes a rule by its handle.
    DeleteRule {
        /// Its chain.
        chain: String,
        /// The kernel's number for it.
        handle: u64,
    },
    /// Adds a set or map.
    AddSet(Set),
    /// Deletes a set or map.
    DeleteSet(String),
    /// Adds elements; one that is there already is no error, a key that is there with another value is.
    AddElements {
        /// The set.
        set: String,
        /// What to add.
        elements: Vec<Element>,
    },
    /// Deletes elements; they must exist.
    DeleteElements {
        /// The set.
        set: String,
        /// What to delete.
        elements: Vec<Element>,
    },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        match self {
            Self::AddTable => f.write_str("add the table"),
            Self::DeleteTable => f.write_str("delete the table"),
            Self::AddChain(chain) => write!(f, "add chain {}", chain.name),
            Self::DeleteChain(name) => write!(f, "delete chain {name}"),
            Self::FlushChain(name) => write!(f, "flush chain {name}"),
            Self::AddRule(rule) => write!(f, "add rule {rule}"),
            Self::DeleteRule { chain, handle } => write!(f, "delete rule {handle} of chain {chain}"),
            Self::AddSet(set) => write!(f, "add set {}", set.name),
            Self::DeleteSet(name) => write!(f, "delete set {name}"),
            Self::AddElements { set, elements } => {
                write!(f, "add {} element{} to set {set}", elements.len(), plural(elements.len()))
            }
            Self::DeleteElements { set, elements } => {
                write!(f, "delete {} element{} of set {set}", elements.len(), plural(elements.len()))
            }
        }
    }
}

/// Changes of one table, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The table.
    pub table: TableId,
    /// The changes.
    pub ops: Vec<Op>,
}

impl Batch {
    /// No changes yet.
    #[must_use]
    pub fn new(table: TableId) -> Self {
        Self { table, ops: Vec::new() }
    }

    /// One more change.
    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Adds and deletes of elements, if there are any. Deletes come first: an interval may only be added when what it
    /// overlaps is gone.
    pub fn elements(&mut self, set: &str, delete: Vec<Element>, add: Vec<Element>) {
        if !delete.is_empty() {
            self.push(Op::DeleteElements { set: set.to_owned(), elements: delete });
        }
        if !add.is_empty() {
            self.push(Op::AddElements { set: set.to_owned(), elements: add });
        }
    }
}
