//! Figures about the running daemon in Prometheus's text format: what is counted, how it is written down, and who may
//! read it.
//!
//! ```text
//! Calls (counted where things happen) -+
//! whatever the composition root asks ---+-> MetricsPage -> admin.sock, a TCP port
//! ```

mod calls;
mod listen;
mod page;
mod text;

pub use calls::Calls;
pub use listen::{METRICS_PATH, metrics_reply, serve_metrics};
pub use page::MetricsPage;
pub use text::Exposition;
