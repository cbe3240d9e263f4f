//! What can go wrong between us and nf_tables.

use std::io;
use std::time::Duration;

/// Why a batch was not committed or a table not read.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The kernel refused one operation; nothing of the batch was done.
    #[error("{operation}: the kernel refused: {why}{}", .hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
    Refused {
        /// The operation, as a sentence with names.
        operation: String,
        /// Its place in the batch, from 0; `None` if it is not about one.
        index: Option<usize>,
        /// The kernel's error number as an error.
        why: io::Error,
        /// The kernel's own explanation (extended acknowledgement), where it gave one.
        hint: Option<String>,
    },
    /// Somebody changed the ruleset between the dump and the commit that relied on it: read again.
    #[error("the ruleset changed while it was being compared")]
    Stale,
    /// No answer in time.
    #[error("{operation}: no answer from the kernel within {within:?}")]
    Timeout {
        /// What was waited for.
        operation: String,
        /// The deadline.
        within: Duration,
    },
    /// The netlink socket failed.
    #[error("{operation}: {source}")]
    Socket {
        /// What was attempted.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel sent a message that lacks what such a message has.
    #[error("nf_tables sent {what}, which cannot be read")]
    Malformed {
        /// What is missing or wrong.
        what: &'static str,
    },
    /// A dump was interrupted by changes again and again.
    #[error("the ruleset changes faster than it can be read")]
    Unsteady,
}

impl NftError {
    /// Whether what was to be read or deleted does not exist (ENOENT).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { why, .. } if why.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn socket(operation: &str, source: io::Error) -> Self {
        Self::Socket { operation: operation.to_owned(), source }
    }
}
