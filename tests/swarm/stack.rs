//! What people put together on a swarm: stacks, published ports, an overlay beside.

use crate::engine::{DRIVER, text, wait_for};
use crate::lab::Lab;
use crate::ledger::settled;
use crate::{
    ENGINES, FAST_COLLECTOR, SWARM, converged, create_network, create_service, remove_network, resolves,
    task_addresses, tasks, works,
};
use std::net::IpAddr;

/// The page `who` of a host's port, as somebody outside fetches it.
fn outside_fetches(lab: &Lab, host: &str, port: u16) -> Result<String, String> {
    let url = format!("http://{}:{port}/cgi-bin/who", lab.address(host));
    let got = lab.try_on("router", &["busybox", "timeout", "3", "busybox", "wget", "-q", "-O", "-", &url]);
    if got.status.success() { Ok(text(&got)) } else { Err(text(&got)) }
}

const STACK: &str = r#"
version: "3.8"
services:
  front:
    image: busybox:local
    networks: [web]
    stop_signal: KILL
    deploy: {replicas: 3}
    ports:
      - {target: 80, published: 8082, mode: host}
  back:
    image: busybox:local
    networks: {web: {aliases: [database]}}
    stop_signal: KILL
    deploy: {replicas: 2, endpoint_mode: dnsrr}
networks:
  web: {external: true}
"#;

#[test]
fn stacks_published_ports_and_overlays_live_beside_a_network_of_the_plugin() {
    let Some(lab) = Lab::up(1, &ENGINES) else { return };
    lab.swarm(1);
    lab.install(&FAST_COLLECTOR);
    create_network(&lab, "one", "web", &[]);
    deploys_a_stack(&lab);
    lives_beside_an_overlay(&lab);
    refuses_what_cannot_work(&lab);
    settled(&lab, 0);
    remove_network(&lab, "one", "web");
}

fn deploys_a_stack(lab: &Lab) {
    let manager = lab.engine("one");
    let file = manager.dir().join("stack.yaml");
    std::fs::write(&file, STACK).unwrap();
    let file = file.display().to_string();
    manager.docker(&["stack", "deploy", "--resolve-image", "never", "--compose-file", &file, "shop"]);
    converged(lab, "one", "shop_front", 3);
    converged(lab, "one", "shop_back", 2);
    settled(lab, 5);
    let back = task_addresses(lab, "shop_back", "web");
    for host in lab.names() {
        let front = tasks(lab, host, "shop_front");
        assert_eq!(front.len(), 1, "a port of the host can be published once");
        let front = lab.engine(host).container(&front[0]);
        for name in ["back", "database", "shop_back"] {
            resolves(&front, name, &back);
        }
        outside_fetches(lab, host, 8082).unwrap();
    }
    manager.docker(&["stack", "rm", "shop"]);
    settled(lab, 0);
}

/// One service on both, and with a port published by swarm's ingress, which is an overlay too.
fn lives_beside_an_overlay(lab: &Lab) {
    lab.engine("one").docker(&["network", "create", "--driver", "overlay", "--attachable", "over"]);
    let both = ["--network", "web", "--network", "over", "--publish", "8081:80", "--replicas", "3"];
    create_service(lab, "one", "both", &both);
    converged(lab, "one", "both", 3);
    settled(lab, 3);
    let on_overlay = task_addresses(lab, "both", "over");
    for host in lab.names() {
        for task in tasks(lab, host, "both") {
            let task = lab.engine(host).container(&task);
            for other in &on_overlay {
                task.exec(&["ping", "-c", "1", "-W", "3", &other.to_string()]);
            }
            let own: IpAddr = task.v4("web").parse().unwrap();
            assert!(task_addresses(lab, "both", "web").contains(&own));
            task.seen_by("198.51.100.254");
        }
    }
    lab.engine("one").docker(&["service", "rm", "both"]);
    settled(lab, 0);
    works(lab.engine("one"), &["network", "rm", "over"]);
}

/// Docker drops the IPAM driver of such a network silently; the plugin says what would become of it.
fn refuses_what_cannot_work(lab: &Lab) {
    let manager = lab.engine("one");
    manager.docker(&[
        "network",
        "create",
        "--driver",
        DRIVER,
        "--ipam-driver",
        DRIVER,
        "--scope",
        "swarm",
        "plain",
    ]);
    create_service(lab, "one", "doomed", &["--network", "plain"]);
    let why = ["service", "ps", "--no-trunc", "--format", "{{.Error}}", "doomed"];
    wait_for("the plugin's reason", SWARM, || {
        manager.docker(&why).contains("Docker's own IPAM would assign")
    });
    manager.docker(&["service", "rm", "doomed"]);
    works(manager, &["network", "rm", "plain"]);
}
