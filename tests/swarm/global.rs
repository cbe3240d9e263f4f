//! Scope `global` on three engines that are all managers: the leader assigns the addresses, the nodes make them theirs.

use crate::across::{Group, administer};
use crate::engine::{Container, Ping, wait_for};
use crate::lab::Lab;
use crate::ledger::{profiles, settled_on};
use crate::{ENGINES, FAST_COLLECTOR, SWARM, converged, create_service, resolves, tasks, works};
use std::collections::BTreeSet;
use std::net::IpAddr;

const SCOPE: [&str; 2] = ["CALICO_LIBNETWORK_SCOPE=global", "CALICO_LIBNETWORK_CREATE_POOLS=true"];
const PREFIXES: [&str; 5] = [
    "--attachable",
    "--ipv6",
    "--subnet=10.77.0.0/16",
    "--subnet=fd00:77::/64",
    "--opt=com.docker.network.driver.mtu=1400",
];
const ALL: [&str; 3] = ["one", "two", "three"];

#[test]
fn a_network_of_scope_global_keeps_addresses_and_names_through_everything_a_swarm_does() {
    let Some(lab) = Lab::up(1, &ENGINES) else { return };
    lab.install(&[&FAST_COLLECTOR[..], &SCOPE].concat());
    lab.swarm(3);
    lab.engine("one").network("web", &PREFIXES);
    spreads(&lab);
    scales_and_drains(&lab);
    loses_its_leader(&lab);
    restarts_engines(&lab);
    loses_a_node(&lab);
    ends(&lab);
}

/// Waits until so many containers of these hosts, each with an address of either version, and nobody else have addresses: no node and no leader.
#[track_caller]
fn agreed(lab: &Lab, hosts: &[&str], containers: usize) {
    settled_on(lab, hosts, 2 * containers);
}

/// Every container of these hosts reaches every other, and the service's name means its tasks, on all of them.
#[track_caller]
fn reached(lab: &Lab, hosts: &[&str]) {
    let of_host = |host: &&str| {
        let tasks = tasks(lab, host, "front").into_iter();
        let tasks = tasks.map(|task| lab.engine(host).container(&task)).collect();
        Group { network: "web", containers: tasks }
    };
    let lookers = hosts.iter().map(|host| looker(lab, host)).collect();
    let mut groups: Vec<Group<'_>> = hosts.iter().map(of_host).collect();
    let address = |container: &Container<'_>| container.v4("web").parse::<IpAddr>().unwrap();
    let front = groups.iter().flat_map(|group| &group.containers).map(address).collect();
    groups.push(Group { network: "web", containers: lookers });
    let (front, groups) = (&front, &groups);
    std::thread::scope(|scope| {
        for from in groups {
            scope.spawn(move || groups.iter().for_each(|to| from.calls(to, true)));
        }
        for host in hosts {
            scope.spawn(move || {
                resolves(&looker(lab, host), "front", front);
                for other in hosts.iter().map(|other| looker(lab, other)) {
                    resolves(&looker(lab, host), other.name(), &BTreeSet::from([address(&other)]));
                }
            });
        }
    });
}

fn looker<'a>(lab: &'a Lab, host: &str) -> Container<'a> {
    lab.engine(host).container(&format!("look-{host}"))
}

fn spreads(lab: &Lab) {
    let service = ["--network", "web", "--replicas", "6", "--endpoint-mode", "dnsrr"];
    create_service(lab, "one", "front", &service);
    converged(lab, "one", "front", 6);
    for host in ALL {
        assert!(!tasks(lab, host, "front").is_empty(), "no task of front on {host}");
        lab.engine(host).run(&format!("look-{host}"), "web", &[]);
    }
    agreed(lab, &ALL, 9);
    reached(lab, &ALL);
    // The network's options reach every node by way of the leader.
    for host in ALL {
        assert_eq!(looker(lab, host).exec(&["cat", "/sys/class/net/cali0/mtu"]), "1400");
    }
}

fn scales_and_drains(lab: &Lab) {
    let manager = lab.engine("one");
    for replicas in [12, 5] {
        manager.docker(&["service", "scale", "--detach", &format!("front={replicas}")]);
        converged(lab, "one", "front", replicas);
        agreed(lab, &ALL, replicas + 3);
    }
    manager.docker(&["node", "update", "--availability", "drain", "two"]);
    wait_for("the node to be drained", SWARM, || tasks(lab, "two", "front").is_empty());
    converged(lab, "one", "front", 5);
    agreed(lab, &ALL, 5 + 3);
    reached(lab, &ALL);
    manager.docker(&["node", "update", "--availability", "active", "two"]);
}

/// The leader's host loses its power. Another leads, and assigns no address that a container has; the first comes back.
fn loses_its_leader(lab: &Lab) {
    let others = ["two", "three"];
    let ping = Ping::start(&looker(lab, "two"), &looker(lab, "three").v4("web"), 100);
    lab.run("kill", &["one"]);
    works(lab.engine("two"), &["service", "scale", "--detach", "front=8"]);
    wait_for("the tasks to run elsewhere", SWARM, || {
        others.iter().map(|host| tasks(lab, host, "front").len()).sum::<usize>() == 8
    });
    ping.lost_none();
    lab.run("start", &["one"]);
    works(lab.engine("one"), &["start", "look-one"]);
    converged(lab, "one", "front", 8);
    agreed(lab, &ALL, 8 + 3);
}

/// The new leader's engine is stopped and started, so that there is a third one; another's is killed.
fn restarts_engines(lab: &Lab) {
    let leads = |host: &&str| {
        let role = ["node", "inspect", "--format", "{{.ManagerStatus.Leader}}", *host];
        lab.engine("one").docker(&role) == "true"
    };
    let leader = *ALL.iter().find(|host| leads(host)).unwrap();
    assert_ne!(leader, "one");
    let other = if leader == "two" { "three" } else { "two" };
    for (host, end) in [(leader, "stop"), (other, "kill")] {
        lab.run("engine", &[host, end]);
        lab.run("engine", &[host, "start"]);
        works(lab.engine(host), &["start", &format!("look-{host}")]);
        converged(lab, "one", "front", 8);
        agreed(lab, &ALL, 8 + 3);
    }
    reached(lab, &ALL);
}

/// A host loses its power and is given up: what it had is free, and the others go on.
fn loses_a_node(lab: &Lab) {
    let rest = ["one", "two"];
    lab.run("kill", &["three"]);
    wait_for("the tasks to run elsewhere", SWARM, || {
        rest.iter().map(|host| tasks(lab, host, "front").len()).sum::<usize>() == 8
    });
    works(lab.engine("one"), &["node", "demote", "three"]);
    works(lab.engine("one"), &["node", "rm", "--force", "three"]);
    administer(lab, &["node", "remove", "--force", "three"], "");
    agreed(lab, &rest, 8 + 2);
    reached(lab, &rest);
}

fn ends(lab: &Lab) {
    let rest = ["one", "two"];
    works(lab.engine("one"), &["service", "rm", "front"]);
    for host in rest {
        lab.engine(host).docker(&["rm", "--force", &format!("look-{host}")]);
    }
    agreed(lab, &rest, 0);
    works(lab.engine("one"), &["network", "rm", "web"]);
    wait_for("the network's profile to go", SWARM, || profiles(lab).is_empty());
    agreed(lab, &rest, 0);
}
