//! The administrator's socket: the daemon's datastore and its policy graph for the same binary's other commands.
//!
//! The embedded datastore belongs to one process, and what is in force is known to that process only; so commands ask
//! the daemon. Requests and answers are JSON over HTTP/1.1 (`POST`), on a socket that only root can open.
//!
//! ```text
//! cli -> AdminStore (a Store), AdminClient -> admin.sock -> AdminServer -> the daemon's Store
//!                                                                      \-> PolicyDesk -> owner of the policy graph
//! ```
//!
//! The daemon trusts the caller, who is root, with contents and not with mistakes of form: only keys below `/calico/`
//! are served, and what is written must be guarded, so that nobody's change is lost.

mod client;
mod policy;
mod server;
mod wire;

pub use client::{AdminClient, AdminError, AdminStore};
pub use policy::{
    DecisionReport, DirectionReport, EndpointReport, LabelReport, ListReport, PolicyAnswer, PolicyDesk,
    PolicyInbox, PolicyQuestion, PolicyRequest, TierReport, TraceReport, policy_desk,
};
pub use server::{AdminParts, AdminServer};

use std::time::Duration;

/// Bytes of an answer: a list of 100 000 endpoints, each of which needs less than 1 KiB.
const MAX_ANSWER: usize = 128 << 20;
/// Bytes of a request: a network set of 200 000 prefixes.
const MAX_REQUEST: usize = 8 << 20;
/// Until when the daemon answers a request, whatever the datastore does.
const DEADLINE: Duration = Duration::from_secs(20);
