//! What engines of different versions do differently.

use crate::engine::{DRIVER, Engine, HOST_V4, HOST_V6, OUTSIDE_V4};

const DUAL: [&str; 5] = ["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"];

/// A life of the plugin, with everything that an engine of another version could do otherwise: the order of its calls, when a
/// container's namespace exists, which firewall it sets up.
fn lives(engine: &Engine) {
    let before = engine.state();
    engine.network("web", &DUAL);
    let given = ["--ip", "10.77.3.4", "--mac-address", "02:00:00:00:12:34", "--publish", "8080:80"];
    let one = engine.run("one", "web", &given);
    let two = engine.run("two", "web", &[]);
    assert_eq!(one.v4("web"), "10.77.3.4");
    assert!(one.exec(&["ip", "link", "show", "dev", "cali0"]).contains("02:00:00:00:12:34"));
    for (from, to) in [(&one, &two), (&two, &one)] {
        assert_eq!(from.seen_by(&to.v4("web")), from.v4("web"));
        assert_eq!(from.seen_by(&to.v6("web")), from.v6("web"));
    }
    assert_eq!(two.seen_by(OUTSIDE_V4), HOST_V4);
    two.exec(&["ping", "-c", "1", "-W", "3", HOST_V6]);
    engine.seen_from_host(&one.v6("web"));
    let page = format!("http://{HOST_V4}:8080/cgi-bin/who");
    let call = engine.try_outside(&["busybox", "timeout", "3", "busybox", "wget", "-q", "-O", "-", &page]);
    assert!(call.status.success(), "the published port is not reached: {}", crate::engine::text(&call));

    engine.crash_plugin();
    engine.docker(&["restart", "--time", "0", one.name()]);
    one.reaches(&two.v4("web"));
    two.reaches(&one.v6("web"));

    engine.network("inner", &["--internal"]);
    engine.docker(&["network", "connect", "inner", two.name()]);
    let three = engine.run("three", "inner", &[]);
    two.reaches(&three.v4("inner"));
    three.does_not_reach(OUTSIDE_V4);
    for container in [one, two, three] {
        container.remove();
    }
    engine.docker(&["network", "rm", "web", "inner"]);
    let v1 = ["network", "create", "--driver", "calico", "--ipam-driver", "calico-ipam", "v1"];
    engine.docker(&v1);
    engine.run("old", "v1", &[]).remove();
    engine.docker(&["network", "rm", "v1"]);
    engine.assert_back_to(&before);
}

#[test]
fn the_plugin_lives_on_the_engine_of_debian_13() {
    let Some(engine) = Engine::of_debian("trixie") else { return };
    assert_eq!(engine.major(), 26);
    lives(&engine);
}

#[test]
fn the_plugin_lives_on_the_engine_of_debian_14() {
    let Some(engine) = Engine::of_debian("forky") else { return };
    assert!(engine.major() >= 28);
    lives(&engine);
}

/// Docker has networks without IPv4 since 28.0; older ones refuse the option by themselves.
#[test]
fn a_network_of_ipv6_alone_works_where_docker_has_it() {
    let Some(engine) = Engine::with_plugin() else { return };
    let create =
        ["network", "create", "--driver", DRIVER, "--ipam-driver", DRIVER, "--ipv6", "--ipv4=false", "six"];
    if engine.major() < 28 {
        assert!(engine.docker_fails(&create).contains("--ipv4"));
        return;
    }
    let before = engine.state();
    engine.docker(&create);
    let one = engine.run("one", "six", &[]);
    let two = engine.run("two", "six", &[]);
    assert_eq!(one.endpoint("six", "IPAddress"), "");
    assert_eq!(one.seen_by(&two.v6("six")), one.v6("six"));
    one.exec(&["ping", "-c", "1", "-W", "3", HOST_V6]);
    assert_eq!(one.exec(&["ip", "-4", "address", "show", "dev", "cali0"]), "");
    one.remove();
    two.remove();
    engine.docker(&["network", "rm", "six"]);
    engine.assert_back_to(&before);
}

#[test]
fn a_container_without_ipv6_has_ipv4_on_a_network_of_both() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &DUAL);
    let one = engine.run("one", "web", &["--sysctl", "net.ipv6.conf.all.disable_ipv6=1"]);
    let two = engine.run("two", "web", &[]);
    one.reaches(&two.v4("web"));
    two.reaches(&one.v4("web"));
    assert_eq!(one.exec(&["ip", "-6", "address", "show"]), "");
}

/// Docker 28 and newer ask whether a network has a gateway address at all; older ones show the one of the container's side.
#[test]
fn no_address_of_a_subnet_is_spent_on_a_gateway() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &DUAL);
    let gateways = engine.docker(&[
        "network",
        "inspect",
        "--format",
        "{{range .IPAM.Config}}{{.Gateway}}{{end}}",
        "web",
    ]);
    assert!(!gateways.contains("10.77.") && !gateways.contains("fd00:77:"), "{gateways}");
    if engine.major() >= 28 {
        assert_eq!(gateways, "");
        assert!(engine.daemon_log().contains("GwAllocCheck"));
    }
}
