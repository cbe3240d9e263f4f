//! Policy between networks, as a user meets it without having written any.

use crate::engine::{Container, Engine, HOST_V4, IMAGE, text, wait_for};
use std::time::Duration;

/// Two containers on a network and one on another.
pub(crate) fn two_of_a_network_and_a_stranger(engine: &Engine) -> [Container<'_>; 3] {
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    engine.network("shop", &["--subnet", "10.78.0.0/16"]);
    [("one", "web"), ("two", "web"), ("shop", "shop")].map(|(name, network)| engine.run(name, network, &[]))
}

#[test]
fn a_network_is_closed_to_other_networks_and_open_within() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    engine.network("web", &["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"]);
    engine.network("shop", &["--ipv6", "--subnet", "10.78.0.0/16", "--subnet", "fd00:78::/64"]);
    let web = ["web1", "web2"].map(|name| engine.run(name, "web", &[]));
    let shop = engine.run("shop1", "shop", &[]);
    for address in [web[1].v4("web"), web[1].v6("web")] {
        web[0].reaches(&address);
        shop.does_not_reach(&address);
        // The host's own traffic is not policed.
        engine.seen_from_host(&address);
        // Not even the first packet of the first process.
        let first = ["run", "--rm", "--network", "shop", IMAGE, "ping", "-c", "1", "-W", "1", &address];
        assert!(!engine.try_docker(&first).status.success(), "a new container of shop reaches {address}");
    }
    for address in [shop.v4("shop"), shop.v6("shop")] {
        web[0].does_not_reach(&address);
    }
    let [one, two] = web;
    for container in [one, two, shop] {
        container.remove();
    }
    engine.docker(&["network", "rm", "web", "shop"]);
    engine.assert_back_to(&before);
}

#[test]
fn isolation_survives_a_crash_of_the_plugin_and_of_the_table() {
    let Some(engine) = Engine::with_plugin() else { return };
    let [one, two, shop] = two_of_a_network_and_a_stranger(&engine);
    engine.crash_plugin();
    one.reaches(&two.v4("web"));
    shop.does_not_reach(&two.v4("web"));
    engine.on_host(&["nft", "delete", "table", "inet", "calico-docker"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    one.reaches(&two.v4("web"));
    shop.does_not_reach(&two.v4("web"));

    // As nftables.service does it when it is restarted: everybody's tables go, the administrator's own come anew.
    engine.on_host(&["nft", "flush ruleset; add table inet mine; add chain inet mine own { counter; }"]);
    wait_for("the table to be there again", Duration::from_secs(5), || {
        engine.try_on_host(&["nft", "list", "table", "inet", "calico-docker"]).status.success()
    });
    one.reaches(&two.v4("web"));
    shop.does_not_reach(&two.v4("web"));
    let mine = engine.on_host(&["nft", "list", "table", "inet", "mine"]);
    assert!(mine.contains("chain own"), "{mine}");
}

#[test]
fn a_published_port_is_open_to_other_networks_and_the_world() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    engine.network("shop", &["--subnet", "10.78.0.0/16"]);
    let web = engine.run("web1", "web", &["--publish", "8080:80"]);
    let shop = engine.run("shop1", "shop", &[]);
    shop.does_not_reach(&web.v4("web"));
    let url = format!("http://{HOST_V4}:8080/cgi-bin/who");
    let call = ["busybox", "timeout", "3", "busybox", "wget", "-q", "-O", "-", &url];
    let outside = engine.try_outside(&call);
    assert!(outside.status.success(), "outside does not reach the published port: {}", text(&outside));
    shop.exec(&call);
}
