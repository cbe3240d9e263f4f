//! Calico's policy in the kernel, as packets meet it: the cases of Calico's own tests, each a few documents and what
//! all pairs of three containers and a machine outside may do with them, in both families.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::too_many_lines,
    reason = "a failed expectation is a failed test, and a case is read in one piece"
)]

mod cases;
mod edges;
mod fixtures;
mod lab;
mod life;
#[path = "../support/nsrun.rs"]
mod nsrun;
mod raw;
mod refusals;
mod show;
mod tuning;
