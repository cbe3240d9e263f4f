//! Block IPAM against a datastore double: Calico's conformance statements, the states that Calico's own client
//! left in etcd, and a model that is followed through races and crashes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy's leave for tests ends at the helpers of an integration test"
)]

mod concurrency;
mod double;
mod golden;
mod lagging;
mod model;
mod peer;
mod statements;
mod world;

/// No real datastore here: `tests/conformance` has one for the same statements.
fn peer() -> Option<peer::Peer> {
    None
}
