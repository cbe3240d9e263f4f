//! Scope `global` on a swarm: the leader assigns addresses, the nodes make them theirs. Two engines, one etcd.

use crate::apply::does;
use crate::engine::{Engine, IMAGE, wait_for};
use crate::lab::Lab;
use std::collections::BTreeSet;
use std::time::Duration;

/// A swarm starts and ends tasks in its own time.
const LONG: Duration = Duration::from_secs(120);

/// What the plugin on a host tells of an address.
fn holder(engine: &Engine, ip: &str) -> String {
    does(engine, &["ipam", "show", "--ip", ip], "")
}

/// IPv4 addresses of the running containers of an engine on the network.
fn addresses(engine: &Engine, network: &str) -> BTreeSet<String> {
    let ids = engine.docker(&["ps", "--quiet", "--filter", &format!("network={network}")]);
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    let of = |id: &str| {
        let done = engine.try_docker(&["inspect", "--format", &format, id]);
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    ids.lines().map(of).filter(|ip| !ip.is_empty()).collect()
}

/// The "IPS IN USE" of the pool around a prefix.
fn in_use(engine: &Engine, prefix: &str) -> u32 {
    let shown = does(engine, &["ipam", "show"], "");
    let row = shown.lines().find(|line| line.contains(prefix)).map(str::to_owned);
    row.map_or(0, |row| row.split_whitespace().rev().nth(1).unwrap().parse().unwrap())
}

#[test]
fn addresses_of_the_leader_become_those_of_the_nodes_and_all_come_back() {
    let Some(lab) = Lab::up(1, &["m1", "w1"]) else { return };
    lab.install(&["CALICO_LIBNETWORK_SCOPE=global", "CALICO_LIBNETWORK_CREATE_POOLS=true"]);
    lab.swarm(1);
    let (m1, w1) = (lab.engine("m1"), lab.engine("w1"));
    m1.network("web", &["--subnet", "10.77.0.0/16", "--attachable"]);
    let create = ["service", "create", "--detach", "--no-resolve-image", "--network", "web"];
    let service = |name: &str, mode: &str| {
        m1.docker(
            &[&create[..], &["--name", name, "--endpoint-mode", mode, "--replicas", "4", IMAGE]].concat(),
        );
    };
    service("tasks", "dnsrr");
    service("virtual", "vip");
    wait_for("all tasks to run on both nodes", LONG, || {
        let (one, other) = (addresses(m1, "web"), addresses(w1, "web"));
        one.len() + other.len() == 8 && !one.is_empty() && !other.is_empty()
    });
    let (on_m1, on_w1) = (addresses(m1, "web"), addresses(w1, "web"));
    assert!(on_m1.is_disjoint(&on_w1), "{on_m1:?} {on_w1:?}");
    for (engine, node, ips) in [(w1, "m1", &on_m1), (m1, "w1", &on_w1)] {
        for ip in ips {
            let told = holder(engine, ip);
            assert!(told.contains(&format!("handle: libnetwork.{node}.")), "{ip}: {told}");
            assert!(told.contains(&format!("WorkloadEndpoint {node}-libnetwork-")), "{ip}: {told}");
        }
    }
    // Eight tasks and the virtual IP of one service, which nobody answers for.
    assert_eq!(in_use(m1, "10.77.0.0/16"), 9);

    // An attachable container with an address of its own, from the leader to the node.
    let named = ["run", "--detach", "--name", "named", "--network", "web", "--ip", "10.77.9.9", IMAGE];
    w1.docker(&named);
    assert!(holder(m1, "10.77.9.9").contains("handle: libnetwork.w1."));
    let taken = ["run", "--rm", "--network", "web", "--ip", "10.77.9.9", IMAGE, "true"];
    m1.docker_fails(&taken);
    assert!(holder(m1, "10.77.9.9").contains("handle: libnetwork.w1."), "it stays who has it");
    w1.docker(&["rm", "--force", "named"]);

    m1.docker(&["service", "scale", "--detach", "tasks=1"]);
    wait_for("three tasks to give back their addresses", LONG, || in_use(m1, "10.77.0.0/16") == 6);
    w1.crash_plugin();
    m1.crash_plugin();
    m1.docker(&["service", "scale", "--detach", "tasks=5"]);
    wait_for("tasks after the plugins' crash", LONG, || {
        addresses(m1, "web").len() + addresses(w1, "web").len() == 9
    });
    let all: BTreeSet<String> = addresses(m1, "web").union(&addresses(w1, "web")).cloned().collect();
    assert_eq!(all.len(), 9, "{all:?}");
    m1.docker(&["service", "rm", "tasks", "virtual"]);
    wait_for("all addresses to be free", LONG, || in_use(m1, "10.77.0.0/16") == 0);
    // Docker never ends the attachment of a `docker run` that failed, and keeps the network for it, until its engine is restarted.
    lab.run("engine", &["m1", "stop"]);
    lab.run("engine", &["m1", "start"]);
    wait_for("the network to go", LONG, || m1.try_docker(&["network", "rm", "web"]).status.success());
    let check = ["env", "CALICO_LIBNETWORK_SCOPE=global", crate::apply::BINARY, "check"];
    let said = crate::engine::text(&m1.try_on_host(&check));
    assert!(said.contains("dnsrr"), "{said}");
}
