//! Felix of calico/node beside the managed plugin: played by its table and routes, in the forms that the plugin knows it by.

use crate::apply::does;
use crate::engine::{Container, Engine, IMAGE, Ping, wait_for};
use crate::etcd::Etcd;
use crate::policy::two_of_a_network_and_a_stranger;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

/// Time for the plugin to see that Felix came or went; what is waited for is a state.
const SEEN: Duration = Duration::from_secs(20);

fn iface(container: &Container<'_>, network: &str) -> String {
    format!("cali{}", &container.endpoint(network, "EndpointID")[..11])
}

/// What Felix's chain in Docker's FORWARD does with packets of endpoints that its policy allows.
const ACCEPT: [&str; 5] = ["FORWARD", "-i", "cali+", "-j", "ACCEPT"];

fn accept(engine: &Engine, verb: &str) {
    engine.on_host(&[&["iptables", "-w", verb], &ACCEPT[..]].concat());
}

/// Felix programs these endpoints, and drops what belongs to any other; in one transaction, as it does.
fn program(engine: &Engine, ifaces: &BTreeSet<String>) {
    let mut script = String::new();
    let names: Vec<String> = ifaces.iter().map(|iface| format!("\"{iface}\"")).collect();
    let names = names.join(", ");
    for family in ["ip", "ip6"] {
        let _ = write!(
            script,
            "add table {family} calico; delete table {family} calico; add table {family} calico; "
        );
        for (iface, direction) in ifaces.iter().flat_map(|iface| [(iface, "tw"), (iface, "fw")]) {
            let _ = write!(script, "add chain {family} calico filter-cali-{direction}-{iface}; ");
        }
        let (chain, base) =
            (format!("{family} calico filter-cali-FORWARD"), format!("{family} calico filter-FORWARD"));
        let _ = write!(
            script,
            "add chain {chain}; add chain {base} {{ type filter hook forward priority 0; }}; "
        );
        let _ = write!(script, "add rule {base} jump filter-cali-FORWARD; ");
        let _ = write!(script, "add rule {chain} iifname \"cali*\" iifname != {{ {names} }} drop; ");
        let _ = write!(script, "add rule {chain} oifname \"cali*\" oifname != {{ {names} }} drop; ");
    }
    engine.on_host(&["nft", &script]);
}

fn plugin_filters(engine: &Engine) -> bool {
    engine.try_on_host(&["nft", "list", "chain", "inet", "calico-docker", "forward"]).status.success()
}

/// The interface of the endpoint that is not known yet, once the plugin has made it.
fn newcomer(engine: &Engine, known: &BTreeSet<String>) -> String {
    let mut found = None;
    wait_for("the veth pair of a new container", Duration::from_secs(20), || {
        let all = does(engine, &["get", "wep", "-o", "json"], "");
        let all: serde_json::Value = serde_json::from_str(&all).unwrap();
        let endpoints = all["items"].as_array().unwrap().iter();
        found = endpoints
            .map(|item| item["spec"]["interfaceName"].as_str().unwrap().to_owned())
            .find(|iface| !known.contains(iface));
        found
            .as_ref()
            .is_some_and(|iface| engine.try_on_host(&["ip", "link", "show", iface]).status.success())
    });
    found.unwrap()
}

#[test]
fn felix_takes_the_host_and_gives_it_back_and_containers_notice_nothing() {
    let Some(engine) = Engine::with_plugin() else { return };
    let [one, two, shop] = two_of_a_network_and_a_stranger(&engine);
    let ping = Ping::start(&one, &two.v4("web"), 60);

    accept(&engine, "-I");
    let mut known = BTreeSet::from([iface(&one, "web"), iface(&two, "web"), iface(&shop, "shop")]);
    program(&engine, &known);
    wait_for("the plugin to stand back", SEEN, || !plugin_filters(&engine));
    assert!(
        engine.daemon_log().contains("this plugin stands back: Felix filters here"),
        "the reason is not in the log"
    );

    // A container starts as soon as Felix has programmed it, and not before.
    let run = ["run", "--detach", "--stop-signal", "KILL", "--name", "three", "--network", "web", IMAGE];
    let mut starting = engine.docker_command(&run).spawn().unwrap();
    let newcomer = newcomer(&engine, &known);
    assert!(starting.try_wait().unwrap().is_none(), "it started without Felix");
    known.insert(newcomer);
    program(&engine, &known);
    assert!(starting.wait().unwrap().success());
    let three = engine.container("three");
    one.reaches(&three.v4("web"));

    engine.on_host(&["nft", "delete table ip calico; delete table ip6 calico"]);
    wait_for("the plugin to take over", SEEN, || plugin_filters(&engine));
    // Only now: while neither this rule nor the plugin accepts packets, Docker's policy of FORWARD drops them.
    accept(&engine, "-D");
    one.reaches(&three.v4("web"));
    shop.does_not_reach(&three.v4("web"));
    ping.lost_none();
}

#[test]
fn a_felix_that_only_a_heartbeat_tells_of_has_the_host_as_long_as_its_lease() {
    let Some(engine) = crate::etcd::engine() else { return };
    let etcd = Etcd::start(&engine);
    engine.install(&[
        &format!("ETCD_ENDPOINTS={}", Etcd::URL),
        "CALICO_LIBNETWORK_CREATE_POOLS=true",
        "NODENAME=docker-1",
    ]);
    let [one, two, shop] = two_of_a_network_and_a_stranger(&engine);
    let region = "/calico/felix/v2/region-Europe/host/docker-1";
    let heart = etcd.beat(&format!("{region}/status"), &format!("{region}/last_reported_status"), 6);

    let ping = Ping::start(&one, &two.v4("web"), 60);
    accept(&engine, "-I");
    let known = BTreeSet::from([iface(&one, "web"), iface(&two, "web"), iface(&shop, "shop")]);
    program(&engine, &known);
    wait_for("the plugin to stand back", SEEN, || !plugin_filters(&engine));
    let alive = "this plugin stands back: Felix filters here (nft table ip calico, its status in the datastore is fresh)";
    assert!(engine.daemon_log().contains(alive), "the reason is not in the log");
    ping.lost_none();

    // It is alive, so what it does not program is its own affair. Without a sign of life 30 s are enough.
    let three = engine.run("three", "web", &[]);
    std::thread::sleep(Duration::from_secs(45));
    assert!(!plugin_filters(&engine), "the plugin took the host from a Felix that is alive");

    let ping = Ping::start(&one, &two.v4("web"), 250);
    heart.stop();
    wait_for("the plugin to take over", Duration::from_secs(6) + SEEN, || plugin_filters(&engine));
    assert_eq!(etcd.value(&format!("{region}/status")), "", "the plugin took over before the lease ended");
    let gone = format!("this plugin takes over: Felix does not program {}", iface(&three, "web"));
    assert!(engine.daemon_log().contains(&gone), "the reason is not in the log");
    shop.does_not_reach(&two.v4("web"));
    ping.lost_none();

    // What Felix left drops packets of what it does not know; its last report without a lease is no sign of life.
    engine.on_host(&["nft", "delete table ip calico; delete table ip6 calico"]);
    accept(&engine, "-D");
    one.reaches(&three.v4("web"));
    shop.does_not_reach(&three.v4("web"));
    let left = etcd.value(&format!("{region}/last_reported_status"));
    assert!(left.contains("first_update"), "{left}");
}
