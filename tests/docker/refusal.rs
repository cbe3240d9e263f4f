//! What is refused, and with which words.

use crate::engine::{DRIVER, Engine, IMAGE};

#[test]
fn a_network_that_cannot_be_is_refused_with_the_reason_and_leaves_nothing() {
    let cases: [(&[&str], &str); 5] = [
        (&["--opt", "com.docker.network.driver.mtu=abc"], "com.docker.network.driver.mtu"),
        (&["--opt", "com.docker.network.driver.mtu=10"], "com.docker.network.driver.mtu"),
        (&["--opt", "no.such.option=1"], "no.such.option"),
        (&["--ipam-opt", "no.such.option=1"], "no.such.option"),
        // Overlaps the host's own network; containers there would take its addresses.
        (&["--subnet", "198.51.100.0/24"], "198.51.100.0/24"),
    ];
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    for (options, named) in cases {
        let create = ["network", "create", "--driver", DRIVER, "--ipam-driver", DRIVER];
        let refused = engine.docker_fails(&[&create, options, &["web"]].concat());
        assert!(refused.contains(named), "{options:?}: the error does not name {named}: {refused}");
    }
    assert_eq!(engine.docker(&["network", "ls", "--quiet", "--filter", &format!("driver={DRIVER}")]), "");
    engine.assert_back_to(&before);
}

/// As with Docker's own IPAM: the range is where addresses come from, the subnet is where one may be asked for.
#[test]
fn an_address_may_be_asked_for_in_the_subnet_and_nowhere_else() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &["--subnet", "10.77.0.0/16", "--ip-range", "10.77.5.0/24"]);
    let run = |address| ["run", "--rm", "--network", "web", "--ip", address, IMAGE, "true"];
    let refused = engine.docker_fails(&run("10.78.9.9"));
    assert!(refused.contains("10.78.9.9"), "{refused}");
    engine.docker(&run("10.77.5.9"));
    engine.docker(&run("10.77.9.9"));
}

#[test]
fn a_full_network_says_how_full_it_is_and_works_again_when_one_leaves() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &["--subnet", "10.77.0.0/30"]);
    let mut containers = Vec::new();
    for number in 0..4 {
        containers.push(engine.run(&format!("c{number}"), "web", &[]));
    }
    let run = ["run", "--rm", "--network", "web", IMAGE, "true"];
    let refused = engine.docker_fails(&run);
    assert!(refused.contains("10.77.0.0/30"), "the error names no pool: {refused}");
    assert!(refused.contains('4'), "the error tells no size: {refused}");
    containers.remove(0).remove();
    engine.docker(&run);
}

#[test]
fn wrong_settings_are_named_all_at_once_in_answer_to_a_command() {
    let Some(engine) = Engine::plain(&[]) else { return };
    engine.docker(&["plugin", "create", DRIVER, &format!("{}/plugin", env!("CARGO_MANIFEST_DIR"))]);
    let wrong = ["CALICO_LIBNETWORK_VETH_MTU=huge", "LOG_LEVEL=loud"];
    engine.docker(&[&["plugin", "set", DRIVER], &wrong[..]].concat());
    engine.docker(&["plugin", "enable", DRIVER]);
    let create = ["network", "create", "--driver", DRIVER, "--ipam-driver", DRIVER, "web"];
    let refused = engine.docker_fails(&create);
    let log = engine.daemon_log();
    for name in wrong {
        assert!(refused.contains(name), "the error does not name {name}: {refused}");
        assert!(log.contains(name), "the log does not name {name}");
    }
    engine.docker(&["plugin", "disable", DRIVER]);
    engine.docker(&["plugin", "set", DRIVER, "CALICO_LIBNETWORK_VETH_MTU=", "LOG_LEVEL=info"]);
    engine.docker(&["plugin", "enable", DRIVER]);
    engine.docker(&create);
}

#[test]
fn a_host_whose_name_is_no_nodes_name_is_told_to_set_one_in_answer_to_a_command() {
    let Some(engine) = Engine::plain(&[]) else { return };
    engine.on_host(&["sh", "-c", "echo docker_1 >/proc/sys/kernel/hostname"]);
    engine.install(&[]);
    let create = ["network", "create", "--driver", DRIVER, "--ipam-driver", DRIVER, "web"];
    let refused = engine.docker_fails(&create);
    assert!(refused.contains("docker_1") && refused.contains("set NODENAME"), "{refused}");
    engine.docker(&["plugin", "disable", DRIVER]);
    engine.docker(&["plugin", "set", DRIVER, "NODENAME=docker-1"]);
    engine.docker(&["plugin", "enable", DRIVER]);
    engine.docker(&create);
}
