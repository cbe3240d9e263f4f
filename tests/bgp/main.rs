//! BGP: the configuration that follows from the datastore, and BIRD with it between network namespaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a test fails by a panic, its helpers too"
)]

mod golden;
mod lab;
#[path = "../support/nsrun.rs"]
mod nsrun;
mod property;
mod routers;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;

/// Debian's BIRD 2, from the package bird2.
pub(crate) const BIRD: &str = "/usr/sbin/bird";

pub(crate) fn bird_is_there() -> bool {
    let found =
        if Path::new(BIRD).exists() { Ok(()) } else { Err(format!("no {BIRD}: install Debian's bird2")) };
    support::available("bird", found)
}

/// What BIRD says about a configuration; empty if it takes it.
pub(crate) fn refusal(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bird.conf");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(BIRD).arg("-p").arg("-c").arg(&file).output().unwrap();
    match output.status.success() {
        true => String::new(),
        false => {
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        }
    }
}
