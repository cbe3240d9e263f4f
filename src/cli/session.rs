//! A command's way to the data: etcd where the settings name it, else the running daemon.

use super::EX_USAGE;
use crate::admin::{AdminClient, AdminStore};
use crate::app;
use crate::config::{Config, Datastore};
use crate::store::SharedStore;
use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The command was not given as it is to be given.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// It could not be done, for this reason and its causes.
    pub(super) fn of(error: &dyn Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What a command works with.
#[derive(Debug)]
pub(super) struct Session {
    /// Settings.
    pub(super) config: Config,
    /// The datastore.
    pub(super) store: SharedStore,
    /// The daemon.
    pub(super) daemon: AdminClient,
}

impl Session {
    fn open(config: Config) -> Result<Self, Failure> {
        let daemon = AdminClient::new(&config.places.admin_socket());
        let served: SharedStore = Arc::new(AdminStore::new(daemon.clone()));
        let store = match &config.datastore {
            Datastore::Embedded => served,
            Datastore::Etcd(_) => app::open_store(&config, &served).map_err(|error| Failure::of(&error))?,
        };
        Ok(Self { config, store, daemon })
    }

    /// The running daemon's datastore.
    pub(super) fn served(&self) -> SharedStore {
        Arc::new(AdminStore::new(self.daemon.clone()))
    }

    /// Whether a daemon runs on this host, ready or not.
    pub(super) async fn daemon_answers(&self) -> bool {
        tokio::net::UnixStream::connect(self.config.places.admin_socket()).await.is_ok()
    }
}

/// Runs a command to its end and tells how it ended.
pub(super) fn run<F, Fut>(config: Config, command: F) -> ExitCode
where
    F: FnOnce(Session) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(async { command(Session::open(config)?).await }),
        Err(error) => Err(Failure::of(&error)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            match failure {
                Failure::Usage(_) => ExitCode::from(EX_USAGE),
                Failure::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Tells the caller what is wrong.
#[expect(clippy::print_stderr, reason = "commands have no log")]
pub(super) fn complain(sentence: &dyn Display) {
    eprintln!("{sentence}");
}
