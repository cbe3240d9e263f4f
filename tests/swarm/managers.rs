//! Three managers and three members of etcd, and one after the other is lost.

use crate::engine::{DRIVER, IMAGE, Ping, wait_for};
use crate::lab::Lab;
use crate::ledger::settled;
use crate::{
    ENGINES, FAST_COLLECTOR, SWARM, converged, create_network, create_service, remove_config, tasks, works,
};

#[test]
fn addresses_and_tasks_outlive_leaders_hosts_and_members_of_etcd() {
    let Some(lab) = Lab::up(3, &ENGINES) else { return };
    lab.swarm(3);
    lab.install(&FAST_COLLECTOR);
    create_network(&lab, "one", "web", &["--ipv6"]);
    create_service(&lab, "one", "front", &["--network", "web", "--replicas", "6"]);
    converged(&lab, "one", "front", 6);
    settled(&lab, 12);
    loses_its_leader(&lab);
    loses_etcd(&lab);
    is_cut_off(&lab);
    lab.engine("one").docker(&["service", "rm", "front"]);
    settled(&lab, 0);
    works(lab.engine("one"), &["network", "rm", "web"]);
    for host in ["two", "three"] {
        remove_config(lab.engine(host), "web");
    }
}

fn running_on(lab: &Lab, hosts: &[&str]) -> usize {
    hosts.iter().map(|host| tasks(lab, host, "front").len()).sum()
}

/// The leader's host loses its power; the others go on, also with a network that it never knew.
fn loses_its_leader(lab: &Lab) {
    lab.run("kill", &["one"]);
    let others = ["two", "three"];
    works(lab.engine("two"), &["service", "scale", "--detach", "front=8"]);
    wait_for("the tasks to run elsewhere", SWARM, || running_on(lab, &others) == 8);
    for host in others {
        lab.engine(host).docker(&[
            "network",
            "create",
            "--config-only",
            "--ipam-driver",
            DRIVER,
            "shop-config",
        ]);
    }
    let create =
        ["network", "create", "--driver", DRIVER, "--scope", "swarm", "--config-from", "shop-config", "shop"];
    lab.engine("three").docker(&create);
    create_service(lab, "two", "shop", &["--network", "shop", "--replicas", "2"]);
    converged(lab, "two", "shop", 2);
    lab.run("start", &["one"]);
    works(lab.engine("one"), &["service", "rm", "shop"]);
    settled(lab, 16);
    works(lab.engine("two"), &["network", "rm", "shop"]);
    for host in others {
        works(lab.engine(host), &["network", "rm", "shop-config"]);
    }
}

/// With two of three members etcd serves, with one it does not: new containers are refused with a reason, and run when etcd is
/// back; what runs goes on.
fn loses_etcd(lab: &Lab) {
    let engine = lab.engine("two");
    let (near, far) = (engine.run("near", "web", &[]), engine.run("far", "web", &[]));
    lab.run("partition", &["etcd1"]);
    let run = ["run", "--rm", "--network", "web", IMAGE, "true"];
    works(engine, &run);
    lab.run("kill", &["etcd2"]);
    let ping = Ping::start(&near, &far.v4("web"), 30);
    let why = engine.docker_fails(&run);
    assert!(why.contains("datastore"), "the error does not name the datastore: {why}");
    ping.lost_none();
    lab.run("heal", &["etcd1"]);
    works(engine, &run);
    lab.run("start", &["etcd2"]);
    near.remove();
    far.remove();
    // Docker never ends the attachment of a `docker run` that failed, and keeps the network for it, until its engine is restarted.
    lab.run("engine", &["two", "stop"]);
    lab.run("engine", &["two", "start"]);
    settled(lab, 16);
}

/// A host that is cut off keeps its containers and their addresses; what swarm starts elsewhere has others.
fn is_cut_off(lab: &Lab) {
    lab.engine("one").docker(&["service", "scale", "--detach", "front=9"]);
    converged(lab, "one", "front", 9);
    lab.run("partition", &["three"]);
    let stay = tasks(lab, "three", "front").len();
    assert!(stay > 0);
    wait_for("the tasks to run elsewhere", SWARM, || running_on(lab, &["one", "two"]) == 9);
    assert_eq!(tasks(lab, "three", "front").len(), stay, "the cut-off host's tasks go on");
    crate::ledger::without_duplicates(lab);
    lab.run("heal", &["three"]);
    wait_for("the surplus tasks to end", SWARM, || running_on(lab, &["one", "two", "three"]) == 9);
    settled(lab, 18);
}
