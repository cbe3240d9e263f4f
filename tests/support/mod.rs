//! What integration tests share.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "the same file is a module of several test binaries")]

pub mod netns;

/// Whether a test may run. Without what it needs it prints `SKIP: <what>` and passes, unless the environment variable
/// `REQUIRE` (a comma list) names it: then it fails.
#[must_use]
pub fn available(what: &str, found: Result<(), String>) -> bool {
    let Err(why) = found else { return true };
    let required = std::env::var("REQUIRE").unwrap_or_default().split(',').any(|name| name.trim() == what);
    assert!(!required, "{what} is required by REQUIRE, and it is missing: {why}");
    eprintln!("SKIP: {what}: {why}");
    false
}
