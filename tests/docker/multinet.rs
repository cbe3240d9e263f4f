//! Containers on several networks: each peer is answered, whichever network has the default route.

use crate::engine::{Container, Engine, HOST_V4, HOST_V6, OUTSIDE_V4, OUTSIDE_V6, fetch, text, wait_for};
use std::time::Duration;

const FRONT: [&str; 5] = ["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"];
const BACK: [&str; 5] = ["--ipv6", "--subnet", "10.78.0.0/16", "--subnet", "fd00:78::/64"];

/// Both call each other on a network over both families, by ping and TCP.
#[track_caller]
fn meet(one: &Container<'_>, other: &Container<'_>, network: &str) {
    for (a, b) in [(one, other), (other, one)] {
        a.reaches(&b.v4(network));
        a.reaches(&b.v6(network));
    }
}

/// As [`meet`], on a network of Docker's, which has IPv4 only here.
#[track_caller]
fn meet_v4(one: &Container<'_>, other: &Container<'_>, network: &str) {
    one.reaches(&other.v4(network));
    other.reaches(&one.v4(network));
}

/// The network whose next hop a container's default route names.
fn default_device(container: &Container<'_>) -> String {
    let route = container.exec(&["ip", "route", "show", "default"]);
    let device = route.split_whitespace().skip_while(|word| *word != "dev").nth(1);
    device.unwrap_or_else(|| panic!("no default route: {route}")).to_owned()
}

/// Elements of the packet filter's sets of addresses that are allowed besides an interface's own.
fn also(engine: &Engine) -> String {
    let sets = ["rpf-also4", "rpf-also6"]
        .map(|set| engine.on_host(&["nft", "list", "set", "inet", "calico-docker", set]));
    sets.concat().lines().filter(|line| line.contains("cali") && !line.contains("table")).collect()
}

/// Waits until a container's server listens, a moment after its start was answered.
#[track_caller]
fn serves(container: &Container<'_>) {
    wait_for("the container's server", Duration::from_secs(5), || {
        container.try_exec(&fetch("127.0.0.1")).status.success()
    });
}

/// Whom the server behind a port of the host sees when the world outside calls.
#[track_caller]
fn call_port(engine: &Engine, host: &str, port: u16) -> String {
    let url = match host.contains(':') {
        true => format!("http://[{host}]:{port}/cgi-bin/who"),
        false => format!("http://{host}:{port}/cgi-bin/who"),
    };
    let call = ["busybox", "timeout", "3", "busybox", "wget", "-q", "-O", "-", &url];
    let done = engine.try_outside(&call);
    assert!(done.status.success(), "{url} is not answered: {}", text(&done));
    crate::engine::unmapped(&String::from_utf8(done.stdout).unwrap())
}

#[test]
fn a_container_on_two_networks_and_its_peers_reach_each_other_on_both() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    // The strictest host; containers inherit from the machine's first namespace, not from this one.
    for conf in ["all", "default"] {
        engine.on_host(&["sh", "-c", &format!("echo 1 >/proc/sys/net/ipv4/conf/{conf}/rp_filter")]);
    }
    engine.network("front", &FRONT);
    engine.network("back", &BACK);
    let lax = ["--sysctl", "net.ipv4.conf.all.rp_filter=2"];
    let one = engine.run("one", "front", &lax);
    let front = engine.run("peer-front", "front", &[]);
    let back = engine.run("peer-back", "back", &[]);
    meet(&one, &front, "front");
    assert_eq!(also(&engine), "", "a container on one network has no more than its own addresses");

    engine.docker(&["network", "connect", "back", one.name()]);
    let both = || {
        meet(&one, &front, "front");
        meet(&one, &back, "back");
    };
    both();
    engine.crash_plugin();
    both();
    engine.docker(&["restart", "--time", "0", one.name()]);
    serves(&one);
    both();

    // "back" has the default route: its name sorts first. Each goes once, and comes back.
    for (gone, left, peer) in [("back", "front", &front), ("front", "back", &back)] {
        engine.docker(&["network", "disconnect", gone, one.name()]);
        meet(&one, peer, left);
        assert_eq!(also(&engine), "", "after {gone} was left");
        engine.crash_plugin();
        meet(&one, peer, left);
        engine.docker(&["network", "connect", gone, one.name()]);
        both();
    }
    for container in [one, front, back] {
        container.remove();
    }
    assert_eq!(also(&engine), "");
    engine.docker(&["network", "rm", "front", "back"]);
    engine.assert_back_to(&before);
}

#[test]
fn a_container_made_on_two_networks_keeps_its_peers_while_the_plugin_dies() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    engine.network("front", &FRONT);
    engine.network("back", &BACK);
    let front = engine.run("peer-front", "front", &[]);
    let back = engine.run("peer-back", "back", &[]);
    let create = ["create", "--stop-signal", "KILL", "--name", "one", "--network", "front"];
    engine.docker(&[&create[..], &[crate::engine::IMAGE]].concat());
    engine.docker(&["network", "connect", "back", "one"]);
    engine.docker(&["start", "one"]);
    let one = engine.container("one");
    let pings = [(&front, "front"), (&back, "back")].map(|(peer, network)| {
        [one.v4(network), one.v6(network)].map(|to| crate::engine::Ping::start(peer, &to, 40))
    });
    engine.crash_plugin();
    pings.into_iter().flatten().for_each(crate::engine::Ping::lost_none);
    meet(&one, &front, "front");
    meet(&one, &back, "back");
    for container in [one, front, back] {
        container.remove();
    }
    engine.docker(&["network", "rm", "front", "back"]);
    engine.assert_back_to(&before);
}

/// The container's own kernel settings, inherited from the host's: replies leave where requests come in, so even the strict
/// check finds nothing wrong.
#[test]
fn a_container_with_strict_source_checks_is_reached_on_all_its_networks() {
    let Some(engine) = Engine::with_container_routes() else { return };
    engine.network("front", &FRONT);
    engine.network("back", &BACK);
    let peer = engine.run("peer", "front", &[]);
    let [strict, loose] = ["1", "2"].map(|value| {
        let name = format!("checks-{value}");
        let set = ["all", "default"].map(|conf| format!("net.ipv4.conf.{conf}.rp_filter={value}"));
        let one = engine.run(&name, "front", &["--sysctl", &set[0], "--sysctl", &set[1]]);
        engine.docker(&["network", "connect", "back", &name]);
        one
    });
    meet(&loose, &peer, "front");
    meet(&strict, &peer, "front");
}

/// Engines refuse an address that a route of the container covers, so prefixes of networks must not stand where they look.
#[test]
fn networks_of_one_prefix_and_a_bridge_meet_in_one_container() {
    let Some(engine) = Engine::with_container_routes() else { return };
    let before = engine.state();
    // Two on one `--subnet`, two on the default pools, and a bridge whose name sorts first.
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    engine.network("shop", &["--subnet", "10.77.0.0/16"]);
    engine.network("any1", &[]);
    engine.network("any2", &[]);
    engine.docker(&["network", "create", "a-bridge"]);
    let networks = ["web", "shop", "any1", "any2"];
    let peers = networks.map(|network| engine.run(&format!("peer-{network}"), network, &[]));
    let theirs = engine.run("peer-bridge", "a-bridge", &[]);
    engine.docker(&[
        "create",
        "--stop-signal",
        "KILL",
        "--name",
        "one",
        "--network",
        "web",
        crate::engine::IMAGE,
    ]);
    engine.docker(&["network", "connect", "any1", "one"]);
    engine.docker(&["start", "one"]);
    for network in ["a-bridge", "shop", "any2"] {
        engine.docker(&["network", "connect", network, "one"]);
    }
    let one = engine.container("one");
    serves(&one);
    assert!(!default_device(&one).starts_with("cali"), "the bridge has the default route");
    let all = || {
        for (peer, network) in peers.iter().zip(networks) {
            meet_v4(&one, peer, network);
        }
        meet_v4(&one, &theirs, "a-bridge");
    };
    all();
    for (peer, network) in peers.iter().zip(networks).take(2) {
        let seen = one.seen_by(&peer.v4(network));
        assert!(["web", "shop"].iter().any(|own| one.v4(own) == seen), "{network} sees {seen}");
    }
    engine.crash_plugin();
    all();
    engine.docker(&["network", "disconnect", "a-bridge", "one"]);
    engine.docker(&["network", "connect", "a-bridge", "one"]);
    engine.docker(&["network", "disconnect", "web", "one"]);
    meet_v4(&one, &peers[1], "shop");
    engine.docker(&["network", "connect", "web", "one"]);
    all();
    one.remove();
    theirs.remove();
    peers.into_iter().for_each(Container::remove);
    engine.docker(&["network", "rm", "web", "shop", "any1", "any2", "a-bridge"]);
    wait_for("the last bridge to be forgotten", Duration::from_secs(40), || {
        !engine.on_host(&["nft", "list", "set", "inet", "calico-docker", "docker-bridges"]).contains("br-")
    });
    engine.assert_back_to(&before);
}

/// Policy decides about what takes these ways, too.
#[test]
fn policy_holds_for_a_container_whose_default_route_is_a_bridges() {
    let Some(engine) = Engine::with_container_routes() else { return };
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    engine.network("shop", &["--subnet", "10.78.0.0/16"]);
    engine.docker(&["network", "create", "a-bridge"]);
    let (web, shop) = (engine.run("peer-web", "web", &[]), engine.run("peer-shop", "shop", &[]));
    let one = engine.run("one", "web", &[]);
    engine.docker(&["network", "connect", "a-bridge", one.name()]);
    let outsider = engine.run("outsider", "a-bridge", &[]);
    meet_v4(&one, &web, "web");
    one.does_not_reach(&shop.v4("shop"));
    shop.does_not_reach(&one.v4("web"));
    outsider.does_not_reach(&web.v4("web"));
    assert_eq!(one.seen_by(&web.v4("web")), one.v4("web"), "under its own address");
}

#[test]
fn an_internal_network_beside_a_bridge_leads_to_its_own_prefix_only() {
    let Some(engine) = Engine::with_container_routes() else { return };
    let prefix = ["--opt", "com.docker.network.container_iface_prefix=calico"];
    engine.network("web", &[&["--internal", "--subnet", "10.77.0.0/16"], &prefix[..]].concat());
    engine.docker(&["network", "create", "a-bridge"]);
    let peer = engine.run("peer", "web", &[]);
    let one = engine.run("one", "web", &[]);
    engine.docker(&["network", "connect", "a-bridge", one.name()]);
    meet_v4(&one, &peer, "web");
    assert!(!default_device(&one).starts_with("calico"), "the way out is the bridge's");
    assert!(one.exec(&["ip", "link"]).contains("calico0"), "the network's own prefix of names");
    peer.does_not_reach(OUTSIDE_V4);
    assert!(one.try_exec(&fetch(OUTSIDE_V4)).status.success(), "out by the bridge");
}

#[test]
fn nobody_sends_under_the_addresses_of_a_container_on_two_networks() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("front", &FRONT);
    engine.network("back", &BACK);
    let one = engine.run("one", "front", &[]);
    engine.docker(&["network", "connect", "back", one.name()]);
    let thief = engine.run("thief", "front", &["--cap-add", "NET_ADMIN"]);
    let peer = engine.run("peer", "back", &[]);
    let (stolen4, stolen6) = (one.v4("back"), one.v6("back"));
    thief.exec(&["ip", "address", "add", &format!("{stolen4}/32"), "dev", "lo"]);
    thief.exec(&["ip", "address", "add", &format!("{stolen6}/128"), "dev", "lo"]);
    let heard = |source: &str| {
        let listing = peer.exec(&["sh", "-c", "cat /proc/net/arp; cat /proc/net/snmp /proc/net/snmp6"]);
        let received = |name: &str| -> u64 {
            let line = listing.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        if source.contains(':') {
            received("Icmp6InEchos")
        } else {
            let mut lines = listing.lines().filter(|line| line.starts_with("Icmp:"));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let at = names.split_whitespace().position(|name| name == "InEchos").unwrap();
            values.split_whitespace().nth(at).unwrap().parse().unwrap()
        }
    };
    for (source, to) in [(&stolen4, peer.v4("back")), (&stolen6, peer.v6("back"))] {
        let before = heard(source);
        thief.try_exec(&["ping", "-c", "2", "-W", "1", "-I", source, &to]);
        assert_eq!(heard(source), before, "a packet under {source} arrived");
        one.exec(&["ping", "-c", "1", "-W", "3", "-I", source, &to]);
        assert_eq!(heard(source), before + 1, "the owner's arrives");
    }
}

#[test]
fn published_ports_follow_the_gateway_from_network_to_network() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    engine.network("front", &FRONT);
    engine.network("back", &BACK);
    let one = engine.run("one", "front", &["--publish", "8080:80"]);
    serves(&one);
    let answered = || {
        assert_eq!(call_port(&engine, HOST_V4, 8080), OUTSIDE_V4);
        assert_eq!(call_port(&engine, HOST_V6, 8080), OUTSIDE_V6);
    };
    answered();
    let target = || engine.on_host(&["nft", "list", "map", "inet", "calico-docker", "ports4"]);
    for _ in 0..2 {
        engine.docker(&["network", "connect", "back", one.name()]);
        answered();
        assert!(target().contains(&one.v4("back")), "{}", target());
        engine.crash_plugin();
        answered();
        engine.docker(&["network", "disconnect", "back", one.name()]);
        answered();
        assert!(target().contains(&one.v4("front")), "{}", target());
    }
    engine.docker(&["network", "connect", "back", one.name()]);
    engine.docker(&["network", "disconnect", "front", one.name()]);
    answered();
    engine.docker(&["network", "connect", "front", one.name()]);
    answered();
    assert!(target().contains(&one.v4("back")), "{}", target());
    one.remove();
    engine.docker(&["network", "rm", "front", "back"]);
    engine.assert_back_to(&before);
}

/// Docker gives the default route to the network whose name sorts first, so a bridge of each kind has both cases.
#[test]
fn a_container_on_a_network_of_ours_and_a_bridge_meets_its_peers_on_both_with_its_ports() {
    let Some(engine) = Engine::with_container_routes() else { return };
    let before = engine.state();
    engine.network("calico", &["--subnet", "10.77.0.0/16"]);
    let ours = engine.run("peer-calico", "calico", &[]);
    for bridge in ["a-bridge", "z-bridge"] {
        engine.docker(&["network", "create", bridge]);
        let theirs = engine.run("peer-bridge", bridge, &[]);
        for (first, second) in [("calico", bridge), (bridge, "calico")] {
            let one = engine.run("one", first, &["--publish", "8080:80"]);
            serves(&one);
            assert_eq!(call_port(&engine, HOST_V4, 8080), OUTSIDE_V4, "{first} alone");
            engine.docker(&["network", "connect", second, one.name()]);
            let holds = default_device(&one);
            assert_eq!(holds.starts_with("cali"), bridge == "z-bridge", "{first}, {second}: {holds}");
            meet_v4(&one, &ours, "calico");
            meet_v4(&one, &theirs, bridge);
            assert_eq!(call_port(&engine, HOST_V4, 8080), OUTSIDE_V4, "{first}, then {second}");
            engine.crash_plugin();
            meet_v4(&one, &ours, "calico");
            engine.docker(&["network", "disconnect", first, one.name()]);
            let (peer, left) = if second == "calico" { (&ours, "calico") } else { (&theirs, bridge) };
            meet_v4(&one, peer, left);
            assert_eq!(call_port(&engine, HOST_V4, 8080), OUTSIDE_V4, "{second} left");
            one.remove();
        }
        theirs.remove();
        engine.docker(&["network", "rm", bridge]);
    }
    ours.remove();
    engine.docker(&["network", "rm", "calico"]);
    // The plugin looks for bridges every half minute.
    wait_for("the last bridge to be forgotten", Duration::from_secs(40), || {
        !engine.on_host(&["nft", "list", "set", "inet", "calico-docker", "docker-bridges"]).contains("br-")
    });
    engine.assert_back_to(&before);
}
