//! `serve`: run the daemon.

use super::EX_SOFTWARE;
use crate::app::{self, AppError};
use crate::config::{Config, ConfigError, Environment, Strings};
use crate::logging;
use std::path::Path;
use std::process::ExitCode;

/// Worker threads: this is a control plane, and the machine belongs to the containers.
const WORKERS: usize = 2;

/// Settings that cannot be used: a plain daemon ends, a managed plugin stays up and says so.
pub(super) fn refuse(error: &ConfigError) -> ExitCode {
    let code = super::refuse(error);
    match Environment.get("CALICO_LIBNETWORK_SOCKET").filter(|path| !path.is_empty()) {
        Some(socket) => explain(Path::new(&socket), error),
        None => code,
    }
}

fn explain(socket: &Path, error: &dyn std::error::Error) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(app::explain(socket, error))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

pub(super) fn run(config: Config) -> ExitCode {
    // dockerd and journald put times in front of each line themselves.
    let output = match logging::init(&config.log_level, false) {
        Ok(output) => output,
        Err(error) => return fail(&error),
    };
    // A host's name that no node can have is put right as a setting is.
    if let (Some(socket), Err(error)) = (&config.places.socket, app::node_name(&config)) {
        let error = AppError::NodeName(error);
        log::error!("{error}");
        return explain(socket, &error);
    }
    // The sockets come before everything else: dockerd dials 500 ms after it started the process.
    let server = match app::bind(&config) {
        Ok(server) => server,
        Err(error) => {
            log::error!("{error}");
            return ExitCode::from(EX_SOFTWARE);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(app::run(config, server)),
        Err(error) => return fail(&error),
    };
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(EX_SOFTWARE)
        }
    };
    drop(output);
    code
}

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EX_SOFTWARE)
}
