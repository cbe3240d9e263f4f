//! Plugin and daemon are killed, restarted and switched off under running containers.

use crate::engine::{Container, DRIVER, Engine, IMAGE, Ping, wait_for};
use std::time::Duration;

const DUAL: [&str; 5] = ["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"];

/// Two containers on a dual-stack network.
fn pair(engine: &Engine) -> (Container<'_>, Container<'_>) {
    engine.network("web", &DUAL);
    (engine.run("one", "web", &["--ip", "10.77.3.1"]), engine.run("two", "web", &["--ip", "10.77.3.2"]))
}

/// Everything works for old and new containers, and all goes away.
fn works_and_goes(engine: &Engine, before: &crate::engine::HostState) {
    let new = engine.run("new", "web", &["--ip", "10.77.3.3"]);
    for address in ["10.77.3.1", "10.77.3.2"] {
        new.reaches(address);
    }
    engine.docker(&["rm", "--force", "one", "two", "new"]);
    // The addresses were given back.
    for address in ["10.77.3.1", "10.77.3.2", "10.77.3.3"] {
        engine.docker(&["run", "--rm", "--network", "web", "--ip", address, IMAGE, "true"]);
    }
    engine.docker(&["network", "rm", "web"]);
    engine.assert_back_to(before);
}

#[test]
fn a_killed_plugin_comes_back_and_no_packet_is_lost() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    let (one, two) = pair(&engine);
    let pings = [Ping::start(&one, &two.v4("web"), 50), Ping::start(&one, &two.v6("web"), 50)];
    for _ in 0..2 {
        engine.crash_plugin();
    }
    pings.into_iter().for_each(Ping::lost_none);
    works_and_goes(&engine, &before);
}

#[test]
fn a_plugin_killed_while_containers_start_and_stop_leaves_nothing() {
    let collecting = ["CALICO_LIBNETWORK_GC_INTERVAL=1s", "CALICO_LIBNETWORK_GC_GRACE=10s"];
    let Some(engine) = Engine::with_settings(&collecting) else { return };
    let before = engine.state();
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    for number in 0..5 {
        let name = format!("c{number}");
        let run = ["run", "--detach", "--name", &name, "--network", "web", IMAGE];
        let mut start = engine.docker_command(&run).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 * number));
        engine.crash_plugin();
        let started = start.wait().unwrap().success();
        if started {
            engine.docker(&["exec", &name, "ping", "-c", "1", "-W", "3", crate::engine::HOST_V4]);
        }
        engine.docker(&["rm", "--force", &name]);
    }
    engine.docker(&["network", "rm", "web"]);
    // An address whose answer died with the plugin is nobody's, and its pool goes with it: the collector finds both after its grace.
    engine.assert_back_within(&before, Duration::from_secs(10 + 10));
}

#[test]
fn a_plugin_switched_off_and_on_again_keeps_networks_and_traffic() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    let (one, two) = pair(&engine);
    let ping = Ping::start(&one, &two.v4("web"), 40);
    engine.docker(&["plugin", "disable", "--force", DRIVER]);
    one.reaches(&two.v6("web"));
    engine.docker(&["plugin", "enable", DRIVER]);
    ping.lost_none();
    works_and_goes(&engine, &before);
}

#[test]
fn a_plugin_upgraded_in_place_keeps_networks_state_and_traffic() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    let (one, two) = pair(&engine);
    let ping = Ping::start(&one, &two.v4("web"), 60);
    engine.on_host(&["sh", concat!(env!("CARGO_MANIFEST_DIR"), "/tools/upgrade.sh"), DRIVER]);
    ping.lost_none();
    works_and_goes(&engine, &before);
}

#[test]
fn a_plugin_removed_with_its_state_takes_up_networks_and_running_containers_again() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    let (one, two) = pair(&engine);
    engine.docker(&["plugin", "disable", "--force", DRIVER]);
    engine.docker(&["plugin", "rm", "--force", DRIVER]);
    engine.install(&[]);
    wait_for("the containers to reach each other again", Duration::from_secs(15), || {
        one.try_exec(&["ping", "-c", "1", "-W", "1", &two.v4("web")]).status.success()
    });
    let three = engine.run("three", "web", &[]);
    assert!(![one.v4("web"), two.v4("web")].contains(&three.v4("web")), "an address is in use twice");
    three.reaches(&one.v6("web"));
    three.remove();
    works_and_goes(&engine, &before);
}

#[test]
fn a_daemon_killed_and_started_again_has_its_networks_and_no_stale_endpoint() {
    let Some(mut engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    pair(&engine);
    engine.kill_daemon();
    engine.start_daemon(&[]);
    engine.docker(&["start", "one", "two"]);
    works_and_goes(&engine, &before);
}

#[test]
fn a_daemon_stopped_and_started_again_starts_its_containers() {
    let Some(mut engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    pair(&engine);
    engine.docker(&["update", "--restart", "always", "one", "two"]);
    engine.stop_daemon();
    engine.start_daemon(&[]);
    wait_for("the containers to run again", Duration::from_secs(15), || {
        engine.docker(&["ps", "--quiet", "--filter", "status=running"]).lines().count() == 2
    });
    works_and_goes(&engine, &before);
}

#[test]
fn live_restore_keeps_traffic_through_a_restart_and_a_crash_of_the_daemon() {
    let Some(mut engine) = Engine::plain(&["--live-restore"]) else { return };
    engine.install(&[]);
    let before = engine.state();
    let ping = {
        let (one, two) = pair(&engine);
        Ping::start(&one, &two.v4("web"), 80)
    };
    engine.stop_daemon();
    engine.start_daemon(&["--live-restore"]);
    engine.kill_daemon();
    engine.start_daemon(&["--live-restore"]);
    ping.lost_none();
    works_and_goes(&engine, &before);
}

/// The engine forgets an endpoint whether or not the plugin heard of its end; only our own collector can give the address back.
#[test]
fn addresses_of_containers_that_ended_while_the_plugin_was_off_are_given_back() {
    let Some(engine) =
        Engine::with_settings(&["CALICO_LIBNETWORK_GC_INTERVAL=1s", "CALICO_LIBNETWORK_GC_GRACE=10s"])
    else {
        return;
    };
    let before = engine.state();
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    engine.run("one", "web", &["--ip", "10.77.3.1"]);
    engine.docker(&["plugin", "disable", "--force", DRIVER]);
    engine.docker(&["rm", "--force", "one"]);
    engine.docker(&["plugin", "enable", DRIVER]);
    let again = ["run", "--rm", "--network", "web", "--ip", "10.77.3.1", IMAGE, "true"];
    wait_for("the address to be given back", Duration::from_secs(40), || {
        engine.try_docker(&again).status.success()
    });
    engine.docker(&["network", "rm", "web"]);
    engine.assert_back_to(&before);
}
