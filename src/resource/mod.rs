//! Calico's resources as people write and read them: YAML and JSON in, checked and completed documents in the
//! datastore, documents out.
//!
//! ```text
//! read (text -> documents) -> check (sentences that name the field) -> complete (calicoctl's defaults) -> write
//! ```
//!
//! etcd and the embedded datastore take anything, so what calicoctl checks is checked here
//! (`libcalico-go/lib/validator/v3`, `libcalico-go/lib/clientv3`).

mod bgp;
mod check;
mod complete;
mod document;
mod kind;
mod label;
mod node;
mod pool;
mod read;
mod schema;
mod shape;
mod write;

pub use check::{check, doubts};
pub use document::{Document, Stored};
pub use kind::{KindInfo, kind_of_word};
pub use label::{LabelChange, Labelled, label};
pub use node::{NodeRemoved, NodeReport, nodes, remove_node};
pub use read::read;
pub use write::{Done, Verb, WriteError, Writer, find, list};
