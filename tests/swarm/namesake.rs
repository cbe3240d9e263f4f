//! A host that takes the node name of another: it is kept from everything, and nobody else notices.

use crate::across::administer;
use crate::engine::{Container, DRIVER, Engine, IMAGE, Ping, wait_for};
use crate::lab::Lab;
use crate::ledger::settled;
use crate::{ENGINES, FAST_COLLECTOR};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// Packets that outlast all that happens: ten a second.
const PACKETS: u32 = 400;
/// Twice the grace period of the fast collector.
const COLLECTED: Duration = Duration::from_secs(20);

#[test]
fn a_host_with_the_node_name_of_another_is_told_so_and_disturbs_nobody() {
    let Some(lab) = Lab::up(1, &ENGINES) else { return };
    lab.install(&FAST_COLLECTOR);
    let profile = ["--opt", "org.projectcalico.profile=web"];
    lab.engines().for_each(|engine| engine.network("web", &profile));
    let containers: Vec<Container<'_>> =
        lab.names().iter().map(|host| lab.engine(host).run(&format!("c-{host}"), "web", &[])).collect();
    let [one, two, three] = &containers[..] else { panic!("three hosts") };
    all_reach_all(&containers);
    settled(&lab, 3);

    let nodes = nodes(&lab);
    let pings = [(one, two), (two, three), (three, one)].map(|(a, b)| Ping::start(a, &b.v4("web"), PACKETS));
    let misnamed = lab.engine("three");
    rename(misnamed, "two");
    let sentence = "another host (machine ";
    let why = misnamed.docker_fails(&["run", "--rm", "--network", "web", IMAGE, "true"]);
    assert!(
        why.contains(sentence) && why.contains("runs under this node's name") && why.contains("NODENAME"),
        "{why}"
    );
    assert!(misnamed.daemon_log().contains("runs under this node's name"));
    wait_for("the first to be told", Duration::from_secs(10), || {
        lab.engine("two").daemon_log().contains("was started under this node's name")
    });
    // Long enough for a collector that took the other's containers for leaks.
    std::thread::sleep(COLLECTED);
    assert_eq!(self::nodes(&lab), nodes, "nobody's Node has changed");
    settled(&lab, 3);
    lab.engine("two").run("next", "web", &[]).remove();

    rename(misnamed, "three");
    let late = misnamed.run("late", "web", &[]);
    one.reaches(&late.v4("web"));
    late.reaches(&two.v4("web"));
    pings.into_iter().for_each(Ping::lost_none);
    settled(&lab, 4);
    late.remove();
    containers.into_iter().for_each(Container::remove);
    settled(&lab, 0);
    assert_eq!(self::nodes(&lab), nodes);
}

fn all_reach_all(containers: &[Container<'_>]) {
    for from in containers {
        containers.iter().filter(|to| to.name() != from.name()).for_each(|to| from.reaches(&to.v4("web")));
    }
}

/// Gives the plugin another node name.
fn rename(engine: &Engine, name: &str) {
    engine.docker(&["plugin", "disable", "--force", DRIVER]);
    engine.docker(&["plugin", "set", DRIVER, &format!("NODENAME={name}")]);
    engine.docker(&["plugin", "enable", DRIVER]);
}

/// Name and addresses of every Node.
fn nodes(lab: &Lab) -> BTreeSet<String> {
    let list: Value = serde_json::from_str(&administer(lab, &["get", "node", "-o", "json"], "")).unwrap();
    let text = |node: &Value| format!("{} {}", node["metadata"]["name"], node["spec"]["bgp"]);
    list["items"].as_array().unwrap().iter().map(text).collect()
}
