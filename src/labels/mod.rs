//! Labels of containers on their way from Docker to WorkloadEndpoints, in the background.
//!
//! ```text
//! Docker's event stream --- container ID ---> ask Docker for it ---> driver: compare, write what differs
//!            \--- begins, breaks, a minute passes ---> look at all containers
//! ```
//!
//! `container` (pure) reads Docker's answers, `sync` asks and writes. Never in the way of a start: a label that must be
//! there before the first packet is a `driver-opt`.

mod container;
mod sync;

pub use sync::LabelSync;
