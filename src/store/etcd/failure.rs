//! What etcd and the way to it answer when something is wrong, and what that means for a call.

use super::meaning::explained;
use crate::store::StoreError;
use etcd_client::Error;
use std::error::Error as _;
use tonic::Code;

/// What a caller has to know about a change whose answer was lost.
pub(super) const DOUBT: &str = "; the change may still be applied";

/// Whether a call may be sent again when its answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It only reads.
    Harmless,
    /// It may have changed something.
    Never,
}

/// What a failed call means.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request never reached etcd, or was turned away before it was looked at: another member may take it.
    NotSent(String),
    /// The request may have been carried out.
    Doubtful(String),
    /// etcd has understood it and says no; another member would say the same.
    Refused(String),
    /// The request is wrong in itself.
    Invalid(String),
}

impl Failure {
    /// What was said.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::NotSent(text) | Self::Doubtful(text) | Self::Refused(text) | Self::Invalid(text) => text,
        }
    }

    /// Whether it is this member's, or the way's to it: etcd itself has not answered.
    pub(super) fn is_of_this_member(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Doubtful(_))
    }

    /// Whether another member may be asked.
    pub(super) fn leaves_it_to_others(&self, repeat: Repeat) -> bool {
        match self {
            Self::NotSent(_) => true,
            Self::Doubtful(_) => repeat == Repeat::Harmless,
            Self::Refused(_) | Self::Invalid(_) => false,
        }
    }

    /// The same, and what it means for a change.
    pub(super) fn doubting(self, repeat: Repeat) -> Self {
        match self {
            Self::Doubtful(what) if repeat == Repeat::Never => Self::Doubtful(what + DOUBT),
            other => other,
        }
    }

    /// The error for callers of the store; `cluster` names the endpoints.
    pub(super) fn of(self, cluster: &str) -> StoreError {
        match self {
            Self::NotSent(what) | Self::Refused(what) | Self::Doubtful(what) => unavailable(cluster, &what),
            Self::Invalid(why) => StoreError::Invalid { why },
        }
    }
}

/// The one form of sentence about etcd.
pub(super) fn unavailable(cluster: &str, what: &str) -> StoreError {
    StoreError::Unavailable { why: format!("etcd at {cluster}: {what}") }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Error::GRpcStatus(status) = error else {
            return Self::NotSent(explained(error.to_string()));
        };
        let text = explained(chain(&status));
        if never_connected(&status) {
            return Self::NotSent(text);
        }
        // Texts: etcd's api/v3rpc/rpctypes/error.go, the same from 3.3 to 3.6.
        match status.code() {
            Code::Unavailable if status.message() == "etcdserver: no leader" => {
                Self::NotSent("it has no leader: too few members are up".to_owned())
            }
            // Users or roles were changed since we authenticated; a new connection authenticates anew.
            Code::InvalidArgument if status.message().contains("revision of auth store is old") => {
                Self::NotSent(text)
            }
            Code::InvalidArgument if is_malformed(status.message()) => Self::Invalid(text),
            Code::ResourceExhausted if status.message().contains("database space exceeded") => Self::Refused(
                "its space quota is used up: compact and defragment it, then disarm the alarm".to_owned(),
            ),
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unimplemented => Self::Refused(text),
            _ => Self::Doubtful(text),
        }
    }
}

fn is_malformed(message: &str) -> bool {
    ["duplicate key", "too many operations", "key is not provided", "request is too large"]
        .iter()
        .any(|known| message.contains(known))
}

fn never_connected(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The texts of an error and of what caused it, each once: the last one is what a person needs.
fn chain(status: &tonic::Status) -> String {
    let mut texts = vec![status.message().to_owned()];
    let mut source = status.source();
    while let Some(error) = source {
        let text = error.to_string();
        if text != "transport error" && !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        source = error.source();
    }
    texts.join(": ")
}
