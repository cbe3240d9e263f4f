//! The plugin's binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    calico_libnetwork::cli::run()
}
