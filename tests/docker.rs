//! The whole product on a real Docker Engine, as a user has it. Every test has an engine and a host of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test, and the skip line goes to the runner's output"
)]

#[path = "docker/apply.rs"]
mod apply;
#[path = "docker/crash.rs"]
mod crash;
#[path = "support/engine.rs"]
mod engine;
#[path = "docker/etcd.rs"]
mod etcd;
#[path = "docker/felix.rs"]
mod felix;
#[path = "docker/global.rs"]
mod global;
#[path = "docker/go_plugin.rs"]
mod go_plugin;
#[path = "support/go_plugin.rs"]
mod go_plugin_engine;
#[path = "support/lab.rs"]
#[allow(dead_code, reason = "tests of many hosts use more of it")]
mod lab;
#[path = "docker/labels.rs"]
mod labels;
#[path = "docker/migrate.rs"]
mod migrate;
#[path = "docker/multinet.rs"]
mod multinet;
#[path = "docker/network.rs"]
mod network;
#[path = "docker/policy.rs"]
mod policy;
#[path = "docker/refusal.rs"]
mod refusal;
#[path = "docker/scale.rs"]
mod scale;
#[path = "docker/traffic.rs"]
mod traffic;
#[path = "docker/versions.rs"]
mod versions;

use engine::{Engine, HOST_V4, OUTSIDE_V4};

/// Proves the ground the other tests stand on, without the plugin.
#[test]
fn an_engine_of_the_tests_own_runs_containers_and_leaves_nothing() {
    let Some(engine) = Engine::plain(&[]) else { return };
    let dir = engine.dir().to_owned();
    let before = engine.state();
    engine.docker(&["network", "create", "web"]);
    let one = engine.run("one", "web", &[]);
    let two = engine.run("two", "web", &[]);
    assert_eq!(one.seen_by(&two.v4("web")), one.v4("web"));
    assert_eq!(one.seen_by(OUTSIDE_V4), HOST_V4, "Docker's bridge masquerades");
    assert!(!before.difference(&engine.state()).is_empty(), "a running container shows in the host's state");
    one.remove();
    two.remove();
    engine.docker(&["network", "rm", "web"]);
    engine.assert_back_to(&before);
    drop(engine);
    assert!(!dir.exists());
}
