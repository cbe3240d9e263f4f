//! Services on networks whose addresses each node assigns itself: one swarm through all that happens to it.

use crate::engine::{DRIVER, wait_for};
use crate::lab::Lab;
use crate::ledger::{profiles, settled};
use crate::{
    ENGINES, FAST_COLLECTOR, SWARM, converged, create_network, create_service, remove_config, resolves,
    task_addresses, tasks, works,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A swarm with one manager, which works too.
struct Swarm {
    lab: Lab,
}

const MANAGER: &str = ENGINES[0];

impl Swarm {
    #[track_caller]
    fn manager(&self, args: &[&str]) -> String {
        self.lab.engine(MANAGER).docker(args)
    }

    /// Waits for a rolling update or the like to end.
    #[track_caller]
    fn updated(&self, service: &str) {
        let ask = ["service", "inspect", "--format", "{{.UpdateStatus.State}}", service];
        wait_for("the update to complete", SWARM, || self.manager(&ask) == "completed");
    }

    #[track_caller]
    fn scale(&self, service: &str, replicas: usize) {
        self.manager(&["service", "scale", "--detach", &format!("{service}={replicas}")]);
        converged(&self.lab, MANAGER, service, replicas);
    }

    #[track_caller]
    fn availability(&self, host: &str, availability: &str) {
        self.manager(&["node", "update", "--availability", availability, host]);
    }

    /// An attachable container on each host sees the service under its name, from all hosts alike.
    #[track_caller]
    fn names_mean(&self, service: &str, addresses: &BTreeSet<IpAddr>) {
        for host in self.lab.names() {
            let looker = self.lab.engine(host).container(&format!("look-{host}"));
            resolves(&looker, service, addresses);
            resolves(&looker, &format!("tasks.{service}"), addresses);
        }
    }
}

#[test]
fn services_keep_their_addresses_and_names_through_everything_a_swarm_does() {
    let Some(lab) = Lab::up(1, &ENGINES) else { return };
    lab.swarm(1);
    let swarm = Swarm { lab };
    waits_for_the_plugin(&swarm);
    names(&swarm);
    moves(&swarm);
    daemons(&swarm);
    dies(&swarm);
    ends(&swarm);
}

/// A node without the plugin gets no task, and swarm says why.
fn waits_for_the_plugin(swarm: &Swarm) {
    swarm.lab.install_on(&FAST_COLLECTOR, &["one", "two"]);
    create_network(&swarm.lab, MANAGER, "web", &["--subnet", "192.168.77.0/24"]);
    let only = ["--network", "web", "--constraint", "node.hostname==three"];
    create_service(&swarm.lab, MANAGER, "lonely", &only);
    let why = ["service", "ps", "--no-trunc", "--format", "{{.Error}}", "lonely"];
    wait_for("swarm to miss the plugin", SWARM, || swarm.manager(&why).contains("missing plugin on 1 node"));
    swarm.lab.install_on(&FAST_COLLECTOR, &["three"]);
    converged(&swarm.lab, MANAGER, "lonely", 1);
    settled(&swarm.lab, 1);
    swarm.manager(&["service", "rm", "lonely"]);
}

/// Both endpoint modes, attachable containers, names across nodes.
fn names(swarm: &Swarm) {
    let lab = &swarm.lab;
    create_service(lab, MANAGER, "front", &["--network", "web", "--replicas", "6"]);
    create_service(
        lab,
        MANAGER,
        "back",
        &["--network", "web", "--replicas", "3", "--endpoint-mode", "dnsrr"],
    );
    converged(lab, MANAGER, "front", 6);
    converged(lab, MANAGER, "back", 3);
    for host in lab.names() {
        assert!(!tasks(lab, host, "front").is_empty(), "no task of front on {host}");
        lab.engine(host).run(&format!("look-{host}"), "web", &["--network-alias", "looker"]);
    }
    settled(lab, 12);
    swarm.names_mean("front", &task_addresses(lab, "front", "web"));
    swarm.names_mean("back", &task_addresses(lab, "back", "web"));
    let lookers = lab
        .names()
        .into_iter()
        .map(|host| lab.engine(host).container(&format!("look-{host}")).v4("web").parse().unwrap());
    let lookers: BTreeSet<IpAddr> = lookers.collect();
    for host in lab.names() {
        let looker = lab.engine(host).container(&format!("look-{host}"));
        resolves(&looker, "looker", &lookers);
        resolves(&looker, "look-three", &BTreeSet::from([three(lab)]));
    }
}

fn three(lab: &Lab) -> IpAddr {
    lab.engine("three").container("look-three").v4("web").parse().unwrap()
}

/// Scaled, rolled, drained.
fn moves(swarm: &Swarm) {
    let lab = &swarm.lab;
    swarm.scale("front", 12);
    settled(lab, 18);
    swarm.scale("front", 4);
    settled(lab, 10);
    swarm.manager(&[
        "service",
        "update",
        "--detach",
        "--update-order",
        "start-first",
        "--update-parallelism",
        "2",
        "--env-add",
        "A=b",
        "--no-resolve-image",
        "front",
    ]);
    swarm.updated("front");
    settled(lab, 10);
    swarm.availability("two", "drain");
    wait_for("the node to be drained", SWARM, || {
        ["front", "back"].iter().all(|service| tasks(lab, "two", service).is_empty())
    });
    converged(lab, MANAGER, "front", 4);
    settled(lab, 10);
    swarm.names_mean("front", &task_addresses(lab, "front", "web"));
    swarm.availability("two", "active");
}

/// The engine asks a manager for the attachment, for at most 20 s: less than a manager that was killed can need to come back.
fn start_looker(lab: &Lab, host: &str) {
    wait_for(&format!("look-{host} to start"), SWARM, || {
        lab.engine(host).try_docker(&["start", &format!("look-{host}")]).status.success()
    });
}

/// Every daemon is restarted, with tasks on it; the manager's and one worker's are killed besides.
fn daemons(swarm: &Swarm) {
    let lab = &swarm.lab;
    for host in lab.names() {
        lab.run("engine", &[host, "stop"]);
        lab.run("engine", &[host, "start"]);
        start_looker(lab, host);
        converged(lab, MANAGER, "front", 4);
        converged(lab, MANAGER, "back", 3);
        settled(lab, 10);
    }
    for host in ["one", "three"] {
        lab.run("engine", &[host, "kill"]);
        lab.run("engine", &[host, "start"]);
        start_looker(lab, host);
        converged(lab, MANAGER, "front", 4);
        converged(lab, MANAGER, "back", 3);
        settled(lab, 10);
    }
    swarm.names_mean("front", &task_addresses(lab, "front", "web"));
}

/// A host loses its power. Its tasks run elsewhere; its addresses stay its own until it is back and gives them up.
fn dies(swarm: &Swarm) {
    let lab = &swarm.lab;
    swarm.availability("two", "drain");
    swarm.scale("front", 6);
    let on_three = tasks(lab, "three", "front").len();
    assert!(on_three > 0);
    swarm.availability("two", "active");
    lab.run("kill", &["three"]);
    wait_for("the tasks to run elsewhere", SWARM, || {
        ["one", "two"].iter().map(|host| tasks(lab, host, "front").len()).sum::<usize>() == 6
    });
    let alone = lab.engine("one").run("late", "web", &[]);
    alone.v4("web");
    alone.remove();
    lab.run("start", &["three"]);
    lab.engine("three").docker(&["start", "look-three"]);
    converged(lab, MANAGER, "front", 6);
    converged(lab, MANAGER, "back", 3);
    settled(lab, 12);
}

/// Nothing is left when everything is removed.
fn ends(swarm: &Swarm) {
    let lab = &swarm.lab;
    swarm.manager(&["service", "rm", "front", "back"]);
    for host in lab.names() {
        lab.engine(host).docker(&["rm", "--force", &format!("look-{host}")]);
    }
    settled(lab, 0);
    works(lab.engine(MANAGER), &["network", "rm", "web"]);
    for host in ["two", "three"] {
        remove_config(lab.engine(host), "web");
    }
    // Engines of this age count who uses a configuration, and count wrong when they are killed.
    let kept = lab.engine(MANAGER).docker_fails(&["network", "rm", "web-config"]);
    assert!(kept.contains("is in use"), "{kept}");
    wait_for("the network's profile to go", SWARM, || profiles(lab).is_empty());
    settled(lab, 0);
    for engine in lab.engines() {
        let plugin = ["plugin", "inspect", "--format", "{{.Enabled}}", DRIVER];
        assert_eq!(engine.docker(&plugin), "true");
        assert!(engine.on_host(&["ip", "-brief", "link"]).lines().all(|link| !link.starts_with("cali")));
    }
}
