//! What can go wrong with a state file, and the sentence that a person can act on.

use crate::store::StoreError;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Why a state file cannot be used.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such file.
    Absent,
    /// It does not hold what was written to it.
    Damaged(String),
    /// A version of this program that is newer than this one wrote it.
    Newer(u64),
    /// Another process has it open.
    Busy,
    /// The operating system said no.
    Io(String),
}

impl Failure {
    /// The error for callers of the store.
    pub(super) fn of(self, path: &Path) -> StoreError {
        let path = path.display();
        let why = match self {
            Self::Damaged(what) => {
                let why = format!(
                    "it is damaged ({what}): restore it from a copy, or move it away to start with an empty datastore"
                );
                return StoreError::Corrupt { key: format!("state file {path}"), why };
            }
            Self::Absent => {
                format!("state file {path} is gone: put it back, or restart to start with an empty datastore")
            }
            Self::Newer(format) => format!(
                "state file {path} has format {format}, written by a newer version; this one knows up to format {}: \
                 upgrade, or move the file away to start with an empty datastore",
                super::file::FORMAT
            ),
            Self::Busy => format!("state file {path} is used by another process: stop that one first"),
            Self::Io(what) => format!("state file {path}: {what}"),
        };
        StoreError::Unavailable { why }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Damaged(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        use redb::Error;
        match error {
            Error::Io(error) => error.into(),
            Error::DatabaseAlreadyOpen => Self::Busy,
            Error::UpgradeRequired(version) => {
                Self::Damaged(format!("redb file format {version} is not known"))
            }
            Error::Corrupted(_)
            | Error::TableTypeMismatch { .. }
            | Error::TableIsMultimap(_)
            | Error::TypeDefinitionChanged { .. }
            | Error::TableDoesNotExist(_) => Self::Damaged(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}

/// Does something with redb, which asserts where it meets what it thinks impossible: a panic becomes an error.
pub(super) fn guarded<T>(
    on_panic: impl FnOnce(String) -> Failure,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    // What the work leaves behind on a panic is closed by the caller and not used again.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(on_panic(format!("redb gave up: {}", text.unwrap_or_else(|| "no reason given".to_owned()))))
    })
}
