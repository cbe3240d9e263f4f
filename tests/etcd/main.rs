//! The plugin's driver and IPAM over a real etcd: what they cost on the wire, and what they do when etcd, the way to it
//! or what stands in it is not as it should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy's leave for tests ends at the helpers of an integration test"
)]

#[path = "../support/etcd.rs"]
mod server;

#[path = "../driver/host.rs"]
#[allow(dead_code, reason = "the driver's tests use the rest")]
mod host;

#[path = "../support/mod.rs"]
mod support;

mod access;
mod cost;
mod damage;
mod drops;
mod node;
mod outages;
