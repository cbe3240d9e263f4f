//! Routes between nodes on the real kernel: several hosts on one machine, each a network namespace with its own worker
//! over one datastore, joined by switches and a router; and containers that call each other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a test fails by a panic, its helpers too"
)]

mod change;
mod direct;
#[allow(dead_code, reason = "the test programs that share this file use it all")]
#[path = "../support/etcd_server.rs"]
mod etcd_server;
mod faults;
mod figures;
mod joins;
mod lab;
#[allow(dead_code, reason = "the test programs that share this file use it all")]
#[path = "../support/nsrun.rs"]
mod nsrun;
mod odd;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod vxlan;
