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
mod rule;
mod schema;
mod shape;
mod write;
mod yaml;

pub use check::{check, doubts};
pub use document::{Document, Stored};
pub use kind::{KindInfo, kind_of_word};
pub use label::{LabelChange, Labelled, label};
pub use node::{NodeRemoved, NodeReport, nodes, remove_node};
pub use read::read;
pub use write::{Done, Verb, WriteError, Writer, find, list};
pub use yaml::yaml;

/// What is wrong with a document, for the tests of its checks.
#[cfg(test)]
fn problems(kind: &str, name: &str, spec: &str) -> Vec<String> {
    let text =
        format!("kind: {kind}\napiVersion: projectcalico.org/v3\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    check(&read(&text).unwrap()[0])
}
