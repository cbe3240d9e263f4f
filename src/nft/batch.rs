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
    /// Inserts a rule into its chain, directly before another of it.
    InsertRule {
        /// What to insert.
        rule: Rule,
        /// The kernel's number for the other.
        before: u64,
    },
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
            Self::InsertRule { rule, before } => write!(f, "insert rule {rule} before rule {before}"),
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

impl Op {
    fn elements_in(&self) -> usize {
        match self {
            Self::AddElements { elements, .. } | Self::DeleteElements { elements, .. } => elements.len(),
            _ => 0,
        }
    }

    fn split(self, most: usize) -> Vec<Self> {
        match self {
            Self::AddElements { set, elements } if elements.len() > most => pieces(elements, most)
                .into_iter()
                .map(|elements| Self::AddElements { set: set.clone(), elements })
                .collect(),
            Self::DeleteElements { set, elements } if elements.len() > most => pieces(elements, most)
                .into_iter()
                .map(|elements| Self::DeleteElements { set: set.clone(), elements })
                .collect(),
            other => vec![other],
        }
    }
}

/// Pieces of about so many elements, in their order. One that ends in the start of an interval gets its end as well.
fn pieces(elements: Vec<Element>, most: usize) -> Vec<Vec<Element>> {
    let mut pieces = Vec::new();
    let mut current: Vec<Element> = Vec::new();
    for element in elements {
        if current.len() >= most && !element.key.end {
            pieces.push(std::mem::take(&mut current));
        }
        current.push(element);
    }
    pieces.push(current);
    pieces
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

    /// How many elements it adds and deletes.
    #[must_use]
    pub fn elements_in(&self) -> usize {
        self.ops.iter().map(Op::elements_in).sum()
    }

    /// The same changes in the same order, as transactions of about `most` elements; one, if it has no more. Both ends
    /// of an interval stay in one.
    #[must_use]
    pub fn split(self, most: usize) -> Vec<Self> {
        if self.ops.is_empty() {
            return Vec::new();
        }
        if self.elements_in() <= most {
            return vec![self];
        }
        let mut batches = Vec::new();
        let mut current = Self::new(self.table.clone());
        let mut room = most;
        for op in self.ops.into_iter().flat_map(|op| op.split(most)) {
            let count = op.elements_in();
            if count > room {
                batches.push(std::mem::replace(&mut current, Self::new(self.table.clone())));
                room = most;
            }
            room = room.saturating_sub(count);
            current.push(op);
        }
        batches.push(current);
        batches.retain(|batch| !batch.ops.is_empty());
        batches
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{ElementKey, Family};

    fn interval(number: u8) -> [Element; 2] {
        let key = |last, end| ElementKey { bytes: vec![10, 0, number, last], end };
        [Element { key: key(0, false), data: None }, Element { key: key(9, true), data: None }]
    }

    #[test]
    fn a_large_batch_is_split_between_intervals_and_keeps_its_order() {
        let add = |set: &str, count: u8| Op::AddElements {
            set: set.to_owned(),
            elements: (0..count).flat_map(interval).collect(),
        };
        let ops =
            vec![Op::FlushChain("a".to_owned()), add("s", 5), Op::FlushChain("b".to_owned()), add("t", 1)];
        let batch = Batch { table: TableId::new(Family::Inet, "t"), ops };
        assert_eq!(batch.clone().split(12), vec![batch.clone()]);
        let split = batch.clone().split(3);
        let sizes: Vec<usize> = split.iter().map(Batch::elements_in).collect();
        assert_eq!(sizes, [0, 4, 4, 2, 2]);
        let whole: Vec<Element> = split
            .iter()
            .flat_map(|it| &it.ops)
            .flat_map(|op| match op {
                Op::AddElements { set, elements } if set == "s" => elements.clone(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(whole, (0..5).flat_map(interval).collect::<Vec<_>>());
        let last = split.iter().flat_map(|it| &it.ops).filter(|op| matches!(op, Op::FlushChain(_)));
        assert_eq!(last.count(), 2);
        assert!(Batch::new(batch.table).split(3).is_empty());
    }
}
