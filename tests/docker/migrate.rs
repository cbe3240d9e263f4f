//! One machine outgrows its own datastore: its data moves into etcd, and back, while its containers run.

use crate::engine::{DRIVER, Engine, Ping, text, wait_for};
use crate::etcd::Etcd;
use std::time::Duration;

/// The same binary that the plugin runs, on the host.
const BINARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugin/rootfs/calico-libnetwork");

/// Runs a command of the binary that must work, with settings; what it prints.
#[track_caller]
fn does(engine: &Engine, settings: &[&str], arguments: &[&str]) -> String {
    let done = engine.try_on_host(&[&["env"], settings, &[BINARY], arguments].concat());
    assert!(done.status.success(), "{arguments:?}: {}", text(&done));
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

/// Switches the plugin off, does something, and on again with another setting.
fn switch(engine: &Engine, setting: &str, meanwhile: impl FnOnce()) {
    engine.docker(&["plugin", "disable", "--force", DRIVER]);
    meanwhile();
    engine.docker(&["plugin", "set", DRIVER, setting]);
    engine.docker(&["plugin", "enable", DRIVER]);
}

#[test]
fn a_running_network_outgrows_its_machine_and_comes_back() {
    let Some(engine) = Engine::with_plugin() else { return };
    if !crate::engine::has("etcd") {
        return;
    }
    let etcd = Etcd::start(&engine);
    let endpoints = format!("ETCD_ENDPOINTS={}", Etcd::URL);
    let before = engine.state();
    engine.network("web", &["--ipv6"]);
    let (one, two) = (engine.run("one", "web", &[]), engine.run("two", "web", &[]));
    let addresses = [one.v4("web"), one.v6("web"), two.v4("web"), two.v6("web")];
    let ping = Ping::start(&one, &two.v4("web"), 100);

    let tried = does(&engine, &[&endpoints], &["migrate", "to-etcd", "--dry-run"]);
    assert!(tried.starts_with("would copy "), "{tried}");
    let moved = does(&engine, &[&endpoints], &["migrate", "to-etcd"]);
    assert!(moved.starts_with("copied "), "{moved}");
    switch(&engine, &endpoints, || {});
    ping.lost_none();

    // The network goes on, and who comes now gets an address that nobody has.
    let three = engine.run("three", "web", &[]);
    assert!(!addresses.contains(&three.v4("web")) && !addresses.contains(&three.v6("web")));
    three.reaches(&one.v4("web"));
    one.reaches(&three.v6("web"));
    assert_eq!([one.v4("web"), one.v6("web"), two.v4("web"), two.v6("web")], addresses);
    let held = does(&engine, &[&endpoints], &["ipam", "show", "--ip", &three.v4("web")]);
    assert!(held.contains("used by: WorkloadEndpoint"), "{held}");
    let checked = does(&engine, &[&endpoints], &["ipam", "check", "--grace", "0s"]);
    assert!(checked.ends_with("no problem was found"), "{checked}");
    two.remove();

    let ping = Ping::start(&one, &three.v4("web"), 100);
    let root = engine.docker(&["info", "--format", "{{.DockerRootDir}}"]);
    let id = engine.docker(&["plugin", "inspect", "--format", "{{.Id}}", DRIVER]);
    let state = format!("CALICO_LIBNETWORK_STATE_DIR={}/plugins/{}/propagated-mount", root.trim(), id.trim());
    switch(&engine, "ETCD_ENDPOINTS=", || {
        let back = does(&engine, &[&endpoints, &state], &["migrate", "to-embedded"]);
        assert!(
            back.contains("of an earlier move are removed"),
            "the endpoint that went is gone here, too: {back}"
        );
    });
    ping.lost_none();
    etcd.kill();
    let four = engine.run("four", "web", &[]);
    assert!(![one.v4("web"), three.v4("web")].contains(&four.v4("web")), "an address was given twice");
    four.reaches(&three.v4("web"));
    let checked = does(&engine, &[], &["ipam", "check", "--grace", "0s"]);
    assert!(checked.ends_with("no problem was found"), "{checked}");
    for container in [one, three, four] {
        container.remove();
    }
    engine.docker(&["network", "rm", "web"]);
    wait_for("every address to be given back", Duration::from_secs(5), || {
        does(&engine, &[], &["ipam", "check"]).contains("0 addresses are held, 0 are used")
    });
    engine.assert_back_to(&before);
}
