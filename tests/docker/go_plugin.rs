//! A host of the Go plugin's becomes one of this plugin's, under running containers.

use crate::apply::{BINARY, said};
use crate::engine::{Container, Engine, wait_for};
use crate::etcd::Etcd;
use crate::go_plugin_engine::{GoPlugin, POOLS, RESOURCES, at_etcd};
use calico_libnetwork::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const V1: [&str; 6] = ["network", "create", "--driver", "calico", "--ipam-driver", "calico-ipam"];
const PREFIXES: [&str; 5] = ["--ipv6", "--subnet", POOLS[0].1, "--subnet", POOLS[1].1];
/// For the adoption, which the first pass of the collector does, and for what is given back after its grace.
const SOON: Duration = Duration::from_secs(30);

#[track_caller]
fn does(engine: &Engine, arguments: &[&str]) -> String {
    let endpoints = format!("ETCD_ENDPOINTS={}", Etcd::URL);
    said(arguments, engine.try_on_host(&[&["env", &endpoints, BINARY], arguments].concat()))
}

fn stored(engine: &Engine, key: String) -> Value {
    let entry = at_etcd(engine, |store| async move { store.get(&key).await.unwrap().unwrap() });
    serde_json::from_slice(&entry.value).unwrap()
}

fn profile(engine: &Engine) -> Value {
    stored(engine, format!("{RESOURCES}profiles/{}", POOLS[0].0))
}

/// Profiles of all endpoints, as a set of lists.
fn profiles_of_endpoints(engine: &Engine) -> BTreeSet<String> {
    let listed = does(engine, &["get", "wep", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let items = listed["items"].as_array().unwrap();
    items.iter().map(|item| item["spec"]["profiles"].to_string()).collect()
}

fn reach_each_other(one: &Container<'_>, two: &Container<'_>, network: &str) {
    for (from, to) in [(one, two), (two, one)] {
        from.reaches(&to.v4(network));
        from.reaches(&to.v6(network));
    }
}

/// What the Go plugin and its users leave: two running containers, one that goes while nobody serves, and a network
/// without `--subnet`, on which it could start none.
fn live_with_the_go_plugin(engine: &Engine, scope: &'static str) {
    let go_plugin = GoPlugin::start(engine, scope);
    engine.docker(&[&V1[..], &PREFIXES, &["front"]].concat());
    engine.docker(&[&V1[..], &["any"]].concat());
    assert_eq!(engine.docker(&["network", "inspect", "--format", "{{.Scope}}", "front"]), scope);
    for name in ["one", "two", "gone"] {
        engine.run(name, "front", &[]);
    }
    let refused = engine.docker_fails(&["run", "--rm", "--network", "any", crate::engine::IMAGE, "true"]);
    assert!(refused.contains("must match the CIDR"), "{refused}");
    go_plugin.fall_ill();
    engine.docker(&["rm", "--force", "gone"]);
    go_plugin.kill();
    assert!(profile(engine)["spec"].get("labelsToApply").is_none());
}

fn taken_over(engine: &Engine) {
    let (one, two) = (engine.container("one"), engine.container("two"));
    wait_for("the Go plugin's containers to be taken over", SOON, || {
        let ping = |address: &str| one.try_exec(&["ping", "-c", "1", "-W", "1", address]).status.success();
        ping(&two.v4("front")) && ping(&two.v6("front"))
    });
    reach_each_other(&one, &two, "front");
    let profile = profile(engine);
    assert_eq!(profile["spec"]["labelsToApply"], json!({"front-end": ""}));
    assert_eq!(profile["spec"]["ingress"][0]["source"]["selector"], "has(front-end)", "its rules stay");

    let three = engine.run("three", "front", &[]);
    let four = engine.run("four", "front", &["--ip", "10.44.0.77"]);
    for old in [&one, &two] {
        reach_each_other(old, &three, "front");
        reach_each_other(old, &four, "front");
    }
    assert_eq!(four.v4("front"), "10.44.0.77");
    assert_eq!(profiles_of_endpoints(engine), BTreeSet::from([r#"["front-end"]"#.to_owned()]));
    let any = engine.run("any", "any", &[]);
    any.does_not_reach(&one.v4("front"));
}

/// Everything goes away with its containers, and what was the administrator's stays.
fn given_back(engine: &Engine) {
    let address = engine.container("one").v4("front");
    engine.docker(&["rm", "--force", "one"]);
    // At once, and not when the collector finds it.
    engine.run("five", "front", &["--ip", &address]).reaches(&engine.container("two").v4("front"));
    engine.docker(&["rm", "--force", "two", "three", "four", "five", "any"]);
    wait_for("every address to be given back", SOON, || {
        does(engine, &["ipam", "check", "--grace", "0s"]).contains("0 addresses are held, 0 are used")
    });
    assert_eq!(profiles_of_endpoints(engine), BTreeSet::new());
    let links = engine.on_host(&["ip", "-brief", "link"]);
    assert!(!links.contains("cali") && !links.contains("temp"), "{links}");
    engine.docker(&["network", "rm", "front", "any"]);
    assert_eq!(profile(engine)["spec"]["labelsToApply"], json!({"front-end": ""}));
    let pools = does(engine, &["get", "ippool"]);
    assert!(POOLS.iter().all(|(_, cidr)| pools.contains(cidr)), "{pools}");
}

fn install(engine: &Engine) {
    let etcd = format!("ETCD_ENDPOINTS={}", Etcd::URL);
    engine.install(&[&etcd, "CALICO_LIBNETWORK_GC_INTERVAL=1s", "CALICO_LIBNETWORK_GC_GRACE=10s"]);
}

#[test]
fn networks_and_containers_of_the_go_plugin_are_taken_over_and_given_back() {
    let Some(engine) = crate::etcd::engine() else { return };
    let etcd = Etcd::start(&engine);
    live_with_the_go_plugin(&engine, "local");
    install(&engine);
    taken_over(&engine);
    given_back(&engine);
    etcd.kill();
}

/// As the Go plugin's users had it: its networks were `global`, and engines up to 20.10 keep those in etcd.
#[test]
fn networks_in_a_cluster_store_are_taken_over_and_outlive_a_restart_of_the_engine() {
    let Some(mut engine) = crate::etcd::engine() else { return };
    if engine.major() > 20 {
        println!("SKIP: cluster-store (this engine has none)");
        return;
    }
    engine.stop_daemon();
    let store = format!("--cluster-store=etcd://{}", Etcd::URL.trim_start_matches("http://"));
    let options = [store.as_str(), "--cluster-advertise=198.51.100.1:2376"];
    Etcd::start_with(&engine, &["--enable-v2"]).leave_running();
    engine.start_daemon(&options);
    live_with_the_go_plugin(&engine, "global");
    install(&engine);
    taken_over(&engine);
    engine.stop_daemon();
    engine.start_daemon(&options);
    wait_for("a container to start again", SOON, || engine.try_docker(&["start", "one"]).status.success());
    engine.docker(&["start", "two", "three", "four", "any"]);
    reach_each_other(&engine.container("one"), &engine.container("three"), "front");
    given_back(&engine);
}
