//! The collector: gives back what containers left behind that died while nobody looked.
//!
//! Engines never repeat a call that they could not deliver, and on swarm nodes a crashed engine cleans up nothing
//! (docker-protocol 2.3), so the plugin compares what it holds with the kernel and with Docker. [`find()`] decides, the
//! [`Collector`] acts; the driver does the work under its own locks.

mod adopt;
mod collect;
mod find;

pub use collect::Collector;
pub use find::{DockerView, Suspect, View, find};
