//! Many hosts: real engines of three generations as a swarm, with the plugin on each and one etcd. Every test has a lab of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test, and the skip line goes to the runner's output"
)]

#[path = "swarm/across.rs"]
mod across;
#[allow(dead_code, unused_imports, reason = "the tests of one host use the rest")]
#[path = "support/engine.rs"]
mod engine;
#[path = "swarm/fabric.rs"]
mod fabric;
#[path = "swarm/global.rs"]
mod global;
#[path = "support/lab.rs"]
mod lab;
#[path = "swarm/ledger.rs"]
mod ledger;
#[path = "swarm/managers.rs"]
mod managers;
#[path = "swarm/namesake.rs"]
mod namesake;
#[path = "swarm/services.rs"]
mod services;
#[path = "swarm/stack.rs"]
mod stack;

use engine::wait_for;
use lab::Lab;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Debian's three engines: 20.10, 26.1 and 28.5.
const ENGINES: [&str; 3] = ["one", "two=trixie", "three=forky"];
/// The same with the last one in another subnet, behind a router.
const ENGINES_OF_TWO_SUBNETS: [&str; 3] = ["one", "two=trixie", "three=forky@2"];
/// What makes the collector fast enough for a test that waits for it.
const FAST_COLLECTOR: [&str; 2] = ["CALICO_LIBNETWORK_GC_INTERVAL=1s", "CALICO_LIBNETWORK_GC_GRACE=10s"];
/// Longest time a swarm may take for what it was told, on a busy machine.
const SWARM: Duration = Duration::from_secs(90);

/// Makes a network as the documentation says: a config-only one on every node, one of scope swarm on the manager.
#[track_caller]
fn create_network(lab: &Lab, manager: &str, name: &str, options: &[&str]) {
    let config = format!("{name}-config");
    for engine in lab.engines() {
        let create = ["network", "create", "--config-only", "--ipam-driver", engine::DRIVER];
        engine.docker(&[&create, options, &[config.as_str()]].concat());
    }
    let create = ["network", "create", "--driver", engine::DRIVER, "--scope", "swarm", "--attachable"];
    lab.engine(manager).docker(&[&create[..], &["--config-from", &config, name]].concat());
}

/// Removes such a network everywhere. Nodes give theirs up a moment after its last task has left.
#[track_caller]
fn remove_network(lab: &Lab, manager: &str, name: &str) {
    works(lab.engine(manager), &["network", "rm", name]);
    for engine in lab.engines() {
        remove_config(engine, name);
    }
}

/// Removes what a network's nodes ask the plugin for.
#[track_caller]
fn remove_config(engine: &engine::Engine, network: &str) {
    works(engine, &["network", "rm", &format!("{network}-config")]);
}

/// Waits until a docker command works; fails the test with what it says last.
#[track_caller]
fn works(engine: &engine::Engine, args: &[&str]) {
    let begun = std::time::Instant::now();
    loop {
        let done = engine.try_docker(args);
        if done.status.success() {
            return;
        }
        assert!(begun.elapsed() < SWARM, "docker {}: {}", args.join(" "), engine::text(&done));
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Starts a service of the local image. `options` come before the image.
#[track_caller]
fn create_service(lab: &Lab, manager: &str, name: &str, options: &[&str]) {
    let create = ["service", "create", "--detach", "--no-resolve-image", "--name", name];
    // The server is process 1 and has no handler for SIGTERM: a stop would take ten seconds.
    let quick = ["--stop-signal", "KILL", "--restart-delay", "100ms"];
    lab.engine(manager).docker(&[&create, &quick[..], options, &[engine::IMAGE]].concat());
}

/// Waits until as many tasks run as the service should have.
#[track_caller]
fn converged(lab: &Lab, manager: &str, service: &str, replicas: usize) {
    let list =
        ["service", "ls", "--filter", &format!("name={service}"), "--format", "{{.Name}} {{.Replicas}}"];
    let wanted = format!("{service} {replicas}/{replicas}");
    wait_for(&format!("{wanted} tasks"), SWARM, || {
        lab.engine(manager).docker(&list).lines().any(|line| line.starts_with(&wanted))
    });
}

/// The running containers of a service on one host.
fn tasks(lab: &Lab, host: &str, service: &str) -> Vec<String> {
    let label = format!("label=com.docker.swarm.service.name={service}");
    let listed = lab.engine(host).docker(&["ps", "--quiet", "--no-trunc", "--filter", &label]);
    listed.lines().map(str::to_owned).collect()
}

/// All addresses of a service's running tasks on a network.
fn task_addresses(lab: &Lab, service: &str, network: &str) -> BTreeSet<IpAddr> {
    let of_host = |host: &str| {
        let engine = lab.engine(host);
        let addresses = tasks(lab, host, service).into_iter();
        addresses.map(|task| engine.container(&task).v4(network).parse().unwrap()).collect::<Vec<_>>()
    };
    lab.names().into_iter().flat_map(of_host).collect()
}

/// What a name means in a container: Docker's own answer.
fn resolve(container: &engine::Container<'_>, name: &str) -> BTreeSet<IpAddr> {
    let said = engine::text(&container.try_exec(&["nslookup", name]));
    let addresses = said.lines().filter_map(|line| line.strip_prefix("Address:"));
    addresses.filter_map(|text| text.trim().parse().ok()).collect()
}

/// Waits until a name means these addresses in a container.
#[track_caller]
fn resolves(container: &engine::Container<'_>, name: &str, wanted: &BTreeSet<IpAddr>) {
    let mut last = BTreeSet::new();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        last = resolve(container, name);
        if last == *wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{name} is {last:?} in {}, not {wanted:?}", container.name());
}
