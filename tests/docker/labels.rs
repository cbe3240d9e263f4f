//! Labels of containers, services and compose projects, as a user gives them, and the policy that follows them.

use crate::apply::{connects, does};
use crate::engine::{Container, Engine, IMAGE, wait_for};
use std::time::Duration;

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: only-shop}
spec:
  selector: role == 'web'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: role == 'shop'}, destination: {ports: [80]}}
  egress:
  - {action: Allow}
";

/// Time for an event to travel from Docker over the datastore; what is waited for is a state.
const SOON: Duration = Duration::from_secs(10);

/// The metadata of a container's WorkloadEndpoint.
fn metadata(container: &Container<'_>, network: &str) -> serde_json::Value {
    let id = container.endpoint(network, "EndpointID");
    let all = does(container.engine(), &["get", "wep", "-o", "json"], "");
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let own = |item: &&serde_json::Value| item["spec"]["endpoint"] == id.as_str();
    all["items"].as_array().unwrap().iter().find(own).map(|item| item["metadata"].clone()).unwrap_or_default()
}

#[track_caller]
fn waits_for_label(container: &Container<'_>, network: &str, label: &str, value: Option<&str>) {
    let what = format!("{} to have {label}={value:?}", container.name());
    wait_for(&what, SOON, || metadata(container, network)["labels"][label].as_str() == value);
}

#[test]
fn a_policy_follows_the_label_of_a_container_also_after_plugin_and_engine_died() {
    let Some(mut engine) = Engine::with_plugin() else { return };
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    assert_eq!(does(&engine, &["apply", "-f", "-"], POLICY), "created GlobalNetworkPolicy only-shop");
    let role = |name: &str| format!("org.projectcalico.label.role={name}");
    let (web, shop) = (role("web"), role("shop"));
    {
        let web = engine.run("web", "web", &["--label", &web]);
        let shop = engine.run("shop", "web", &["--label", &shop]);
        let peer = engine.run("peer", "web", &[]);
        let address = web.v4("web");
        wait_for("the labels to be in force", SOON, || {
            connects(&shop, &address, "80") && !connects(&peer, &address, "80")
        });
        let known = metadata(&web, "web");
        let id = engine.docker(&["inspect", "--format", "{{.Id}}", "web"]);
        assert_eq!(known["annotations"]["org.projectcalico.docker.container-id"], id.as_str());
        assert_eq!(known["annotations"]["org.projectcalico.docker.container-name"], "web");

        engine.docker(&["rename", "web", "front"]);
        let renamed = engine.container("front");
        wait_for("the new name", SOON, || {
            metadata(&renamed, "web")["annotations"]["org.projectcalico.docker.container-name"] == "front"
        });
        engine.crash_plugin();
        engine.docker(&["restart", "--time", "0", shop.name()]);
        waits_for_label(&shop, "web", "role", Some("shop"));
        wait_for("the label of the restarted container", SOON, || connects(&shop, &address, "80"));
        assert!(!connects(&peer, &address, "80"));
    }
    engine.kill_daemon();
    engine.start_daemon(&[]);
    for name in ["front", "shop"] {
        engine.docker(&["start", name]);
    }
    let (web, shop) = (engine.container("front"), engine.container("shop"));
    waits_for_label(&web, "web", "role", Some("web"));
    wait_for("the labels after the engine's crash", SOON, || connects(&shop, &web.v4("web"), "80"));
}

#[test]
fn labels_of_the_attachment_win_and_what_cannot_be_a_label_is_named() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    engine.network("shop", &["--subnet", "10.78.0.0/16"]);
    let one = engine.run(
        "one",
        "name=web,driver-opt=org.projectcalico.label.role=db",
        &[
            "--label",
            "org.projectcalico.label.role=web",
            "--label",
            "org.projectcalico.label.tier=front",
            "--label",
            "org.projectcalico.label.color=dark blue",
            "--label",
            "org.projectcalico.label.projectcalico.org/orchestrator=k8s",
            "--label",
            "org.projectcalico.label.network.projectcalico.org/other=",
        ],
    );
    waits_for_label(&one, "web", "tier", Some("front"));
    let labels = metadata(&one, "web")["labels"].clone();
    assert_eq!(labels["role"], "db");
    assert_eq!(labels["projectcalico.org/orchestrator"], "libnetwork");
    for forged in ["color", "network.projectcalico.org/other"] {
        assert_eq!(labels[forged], serde_json::Value::Null, "{labels}");
    }
    let log = engine.daemon_log();
    for part in ["container one: it goes without a label", "dark blue", "is reserved"] {
        assert!(log.contains(part), "{part} is not in the log");
    }
    // A network that comes later brings an endpoint, which gets them too.
    engine.docker(&["network", "connect", "shop", "one"]);
    waits_for_label(&one, "shop", "role", Some("web"));
}

#[test]
fn a_services_container_labels_reach_its_tasks_and_change_with_an_update() {
    let Some(engine) = Engine::with_settings(&[
        "CALICO_LIBNETWORK_CONFIG_NETWORKS=web-config,subnet=10.77.0.0/16,opt=com.docker.network.driver.mtu=1400",
    ]) else {
        return;
    };
    engine.docker(&["swarm", "init", "--advertise-addr", crate::engine::HOST_V4]);
    wait_for("the config-only network", SOON, || {
        engine.try_docker(&["network", "inspect", "web-config"]).status.success()
    });
    let created = ["network", "create", "--scope", "swarm", "--attachable", "--config-from", "web-config"];
    engine.docker(&[&created[..], &["--driver", crate::engine::DRIVER, "web"]].concat());
    let label = |value: &str| format!("org.projectcalico.label.role={value}");
    engine.docker(&[
        "service",
        "create",
        "--detach",
        "--name",
        "web",
        "--network",
        "web",
        "--no-resolve-image",
        "--container-label",
        &label("web"),
        IMAGE,
    ]);
    let labelled = |value: &str| {
        let all = does(&engine, &["get", "wep", "-o", "json"], "");
        let all: serde_json::Value = serde_json::from_str(&all).unwrap();
        let items = all["items"].as_array().unwrap().clone();
        items.iter().any(|item| item["metadata"]["labels"]["role"] == value)
    };
    wait_for("the task's label", Duration::from_secs(60), || labelled("web"));
    engine.docker(&["service", "update", "--detach", "--container-label-add", &label("db"), "web"]);
    wait_for("the label after the update", Duration::from_secs(60), || labelled("db") && !labelled("web"));
    let task = engine.docker(&["ps", "--quiet", "--latest"]);
    let mtu = engine.docker(&["exec", &task, "cat", "/sys/class/net/cali0/mtu"]);
    assert_eq!(mtu, "1400", "the options of the config-only network reach the task");
    engine.docker(&["service", "rm", "web"]);
    wait_for("the tasks to end", Duration::from_secs(60), || {
        engine.docker(&["ps", "--all", "--quiet"]).is_empty()
    });
}

#[test]
fn config_only_networks_are_made_kept_and_compared() {
    let Some(engine) = Engine::with_settings(&[
        "CALICO_LIBNETWORK_CONFIG_NETWORKS=one,subnet=10.77.0.0/16,ip-range=10.77.5.0/24;two,ipv6,subnet=10.78.0.0/16,subnet=fd00:78::/64",
    ]) else {
        return;
    };
    let there = |name: &str| engine.try_docker(&["network", "inspect", name]).status.success();
    wait_for("both networks", SOON, || there("one") && there("two"));
    let two = engine.docker(&["network", "inspect", "two"]);
    let two: serde_json::Value = serde_json::from_str(&two).unwrap();
    assert_eq!((&two[0]["ConfigOnly"], &two[0]["EnableIPv6"]), (&true.into(), &true.into()));
    assert_eq!(two[0]["IPAM"]["Driver"], crate::engine::DRIVER);
    let from = ["network", "create", "--driver", crate::engine::DRIVER, "--config-from", "one", "web"];
    engine.docker(&from);
    let one = engine.run("c1", "web", &[]);
    assert!(one.v4("web").starts_with("10.77.5."), "{}", one.v4("web"));
    let count = || engine.daemon_log().matches("created config-only network").count();
    let made = count();
    engine.crash_plugin();
    one.remove();
    engine.docker(&["network", "rm", "web"]);
    engine.docker(&["network", "rm", "two"]);
    engine.docker(&["network", "create", "--config-only", "--subnet", "10.99.0.0/16", "two"]);
    engine.crash_plugin();
    wait_for("the sentence about another network of the name", SOON, || {
        engine
            .daemon_log()
            .contains("network two exists and is not what CALICO_LIBNETWORK_CONFIG_NETWORKS says")
    });
    assert_eq!(count(), made, "nothing is made twice");
}
