//! Networks and containers in every form the README shows.

use crate::engine::{DRIVER, Engine, IMAGE, wait_for};
use std::time::Duration;

/// Creates a network in each form, uses it and removes it.
fn use_and_remove(engine: &Engine, forms: &[&[&str]]) {
    let before = engine.state();
    for form in forms {
        engine.docker(&[&["network", "create"], *form, &["web"]].concat());
        let one = engine.run("one", "web", &[]);
        let two = engine.run("two", "web", &[]);
        one.reaches(&two.v4("web"));
        two.reaches(&one.v4("web"));
        assert_eq!(one.seen_by(&two.v4("web")), one.v4("web"), "form {form:?}");
        one.remove();
        two.remove();
        engine.docker(&["network", "rm", "web"]);
        engine.assert_back_to(&before);
    }
}

#[test]
fn a_network_is_created_used_and_removed_under_the_plugins_name() {
    let Some(engine) = Engine::with_plugin() else { return };
    use_and_remove(&engine, &[&["--driver", DRIVER, "--ipam-driver", DRIVER]]);
}

#[test]
fn a_network_without_the_ipam_driver_has_addresses_of_dockers_own() {
    let Some(engine) = Engine::with_plugin() else { return };
    let form = ["--driver", DRIVER];
    use_and_remove(&engine, &[&form, &[&form[..], &["--subnet", "10.77.0.0/16"]].concat()]);
}

#[test]
fn the_names_of_the_go_plugin_work_as_its_readmes_have_them() {
    let Some(engine) = Engine::with_plugin() else { return };
    use_and_remove(
        &engine,
        &[&["--driver", "calico", "--ipam-driver", "calico-ipam"], &["--driver", "calico"]],
    );
}

/// The engine takes `calico` for the managed `calico:latest` until the plugin has announced the v1 names, which it can do only
/// when the API answers. A restarting engine starts its containers before that, so here `--restart` comes too early for them.
#[test]
fn containers_on_a_network_with_the_go_plugins_names_can_be_started_after_a_crash_of_the_daemon() {
    let Some(mut engine) = Engine::with_plugin() else { return };
    engine.docker(&["network", "create", "--driver", "calico", "--ipam-driver", "calico-ipam", "web"]);
    engine.run("one", "web", &[]);
    engine.kill_daemon();
    engine.start_daemon(&[]);
    wait_for("the container to start again", Duration::from_secs(15), || {
        engine.try_docker(&["start", "one"]).status.success()
    });
    let two = engine.run("two", "web", &[]);
    let format = "{{.NetworkSettings.Networks.web.IPAddress}}";
    two.reaches(&engine.docker(&["inspect", "--format", format, "one"]));
}

#[test]
fn a_subnet_and_an_ip_range_confine_the_addresses() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    engine.network("web", &["--subnet", "10.77.0.0/16", "--ip-range", "10.77.5.0/24"]);
    engine.network("shop", &["--subnet", "10.77.0.0/16", "--ip-range", "10.77.6.0/24"]);
    for number in 0..3 {
        let web = engine.run(&format!("web{number}"), "web", &[]);
        assert!(web.v4("web").starts_with("10.77.5."), "{} is outside the range", web.v4("web"));
        let shop = engine.run(&format!("shop{number}"), "shop", &[]);
        assert!(shop.v4("shop").starts_with("10.77.6."), "{} is outside the range", shop.v4("shop"));
        web.remove();
        shop.remove();
    }
    engine.docker(&["network", "rm", "web", "shop"]);
    engine.assert_back_to(&before);
}

#[test]
fn addresses_and_a_mac_that_are_asked_for_are_the_ones_the_container_has() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    engine.network("web", &["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"]);
    let given = ["--ip", "10.77.3.4", "--ip6", "fd00:77::beef", "--mac-address", "02:00:00:00:12:34"];
    let one = engine.run("one", "web", &given);
    assert_eq!(one.v4("web"), "10.77.3.4");
    assert_eq!(one.v6("web"), "fd00:77::beef");
    let link = one.exec(&["ip", "address", "show", "dev", "cali0"]);
    for part in ["inet 10.77.3.4/32", "inet6 fd00:77::beef/128", "link/ether 02:00:00:00:12:34"] {
        assert!(link.contains(part), "no {part} in {link}");
    }
    let two = engine.run("two", "web", &[]);
    two.reaches("10.77.3.4");
    two.reaches("fd00:77::beef");
    one.remove();
    two.remove();
    engine.docker(&["network", "rm", "web"]);
    engine.assert_back_to(&before);
}

#[test]
fn an_address_is_free_again_as_soon_as_its_container_is_removed() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    for _ in 0..3 {
        let one = engine.run("one", "web", &["--ip", "10.77.3.4"]);
        let refused =
            engine.docker_fails(&["run", "--rm", "--network", "web", "--ip", "10.77.3.4", IMAGE, "true"]);
        assert!(refused.contains("10.77.3.4"), "the error names no address: {refused}");
        assert_eq!(one.seen_by("10.77.3.4"), "10.77.3.4", "the first holder is not disturbed");
        one.remove();
    }
}

#[test]
fn the_mtu_of_a_network_is_that_of_its_containers() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("small", &["--opt", "com.docker.network.driver.mtu=1400"]);
    engine.network("usual", &[]);
    let mtu = ["cat", "/sys/class/net/cali0/mtu"];
    assert_eq!(engine.run("one", "small", &[]).exec(&mtu), "1400");
    assert_eq!(engine.run("two", "usual", &[]).exec(&mtu), "1500", "the host's own");
}

#[test]
fn a_container_joins_and_leaves_a_second_network_while_it_runs() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    engine.network("back", &["--subnet", "10.78.0.0/16"]);
    engine.network("front", &["--subnet", "10.77.0.0/16"]);
    let one = engine.run("one", "front", &[]);
    let front = engine.run("peer-front", "front", &[]);
    let back = engine.run("peer-back", "back", &[]);
    for _ in 0..2 {
        engine.docker(&["network", "connect", "back", one.name()]);
        one.reaches(&front.v4("front"));
        one.reaches(&back.v4("back"));
        // Docker gives the default route to the network whose name sorts first.
        back.reaches(&one.v4("back"));
        engine.docker(&["network", "disconnect", "back", one.name()]);
        one.reaches(&front.v4("front"));
        front.reaches(&one.v4("front"));
    }
    for container in [one, front, back] {
        container.remove();
    }
    engine.docker(&["network", "rm", "front", "back"]);
    engine.assert_back_to(&before);
}

#[test]
fn a_restarted_container_has_its_network_again() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    engine.network("web", &["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"]);
    let one = engine.run("one", "web", &[]);
    let two = engine.run("two", "web", &[]);
    for _ in 0..3 {
        engine.docker(&["restart", "--time", "0", one.name()]);
        one.reaches(&two.v4("web"));
        two.reaches(&one.v6("web"));
    }
    one.remove();
    two.remove();
    engine.docker(&["network", "rm", "web"]);
    engine.assert_back_to(&before);
}

/// What docker-compose does: labelled networks, containers made first, connected with aliases, then started.
#[test]
fn a_compose_project_comes_up_finds_itself_by_name_and_goes_down() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    for name in ["shop_front", "shop_back"] {
        engine.network(name, &["--label", "com.docker.compose.project=shop"]);
    }
    for (name, network) in [("shop_web_1", "shop_front"), ("shop_db_1", "shop_back")] {
        let service = name.split('_').nth(1).unwrap();
        let create = ["create", "--stop-signal", "KILL", "--name", name, "--network", network];
        engine.docker(&[&create[..], &["--network-alias", service, IMAGE]].concat());
    }
    engine.docker(&["network", "connect", "--alias", "web", "shop_back", "shop_web_1"]);
    engine.docker(&["start", "shop_db_1", "shop_web_1"]);
    engine.docker(&["exec", "shop_web_1", "ping", "-c", "1", "-W", "3", "db"]);
    engine.docker(&["exec", "shop_db_1", "ping", "-c", "1", "-W", "3", "web"]);
    engine.docker(&["rm", "--force", "shop_web_1", "shop_db_1"]);
    engine.docker(&["network", "rm", "shop_front", "shop_back"]);
    engine.assert_back_to(&before);
}

#[test]
fn uninstalling_leaves_the_host_as_it_was_before_installing() {
    let Some(engine) = Engine::plain(&[]) else { return };
    let before = engine.state();
    engine.install(&[]);
    engine.network("web", &[]);
    let one = engine.run("one", "web", &[]);
    one.remove();
    let uninstall = format!("{}/tools/uninstall.sh", env!("CARGO_MANIFEST_DIR"));
    let refused = engine.try_on_host(&[&uninstall, DRIVER]);
    assert!(!refused.status.success(), "the plugin is uninstalled although a network uses it");
    engine.docker(&["network", "rm", "web"]);
    engine.on_host(&[&uninstall, DRIVER]);
    for family in ["-4", "-6"] {
        let ours = engine.on_host(&["ip", family, "route", "show", "table", "all", "proto", "80"]);
        assert_eq!(ours, "", "routes are left");
    }
    engine.assert_back_to(&before);
    let sockets = engine.on_host(&["find", "/run/docker/plugins", "-name", "calico*"]);
    assert_eq!(sockets, "", "sockets are left");
    assert_eq!(engine.docker(&["plugin", "ls", "--quiet"]), "");
}
