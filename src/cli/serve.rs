//! `serve`: run the daemon.

use super::EX_SOFTWARE;
use crate::app;
use crate::config::Config;
use crate::logging;
use std::process::ExitCode;

/// Worker threads: this is a control plane, and the machine belongs to the containers.
const WORKERS: usize = 2;

pub(super) fn run(config: Config) -> ExitCode {
    // dockerd and journald put times in front of each line themselves.
    let output = match logging::init(&config.log_level, false) {
        Ok(output) => output,
        Err(error) => return fail(&error),
    };
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
