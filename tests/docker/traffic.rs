//! Packets: between containers, host and outside, over both families, with Docker's firewall in place.

use crate::engine::{Engine, HOST_V4, HOST_V6, IMAGE, OUTSIDE_V4, OUTSIDE_V6, fetch};

#[test]
fn everybody_on_a_network_reaches_everybody_and_the_host_over_both_families() {
    let Some(mut engine) = Engine::with_plugin() else { return };
    engine.serve_on_host();
    let engine = engine;
    let before = engine.state();
    engine.network("web", &["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"]);
    let containers = ["one", "two", "three"].map(|name| engine.run(name, "web", &[]));
    for from in &containers {
        let (v4, v6) = (from.v4("web"), from.v6("web"));
        for to in &containers {
            from.reaches(&to.v4("web"));
            from.reaches(&to.v6("web"));
            assert_eq!(from.seen_by(&to.v4("web")), v4, "{} is seen as itself", from.name());
            assert_eq!(from.seen_by(&to.v6("web")), v6, "{} is seen as itself", from.name());
        }
        from.reaches(HOST_V4);
        from.reaches(HOST_V6);
        engine.on_host(&["busybox", "ping", "-c", "1", "-W", "3", &v4]);
        engine.on_host(&["busybox", "ping", "-c", "1", "-W", "3", &v6]);
        engine.seen_from_host(&v4);
        engine.seen_from_host(&v6);
    }
    for container in containers {
        container.remove();
    }
    engine.docker(&["network", "rm", "web"]);
    engine.assert_back_to(&before);
}

#[test]
fn what_leaves_the_pools_is_masqueraded_where_the_pool_asks_for_it() {
    let Some(engine) =
        Engine::with_settings(&["CALICO_IPV4POOL_CIDR=10.90.0.0/16", "CALICO_IPV6POOL_CIDR=fd00:90::/64"])
    else {
        return;
    };
    engine.network("web", &["--ipv6"]);
    let one = engine.run("one", "web", &[]);
    let two = engine.run("two", "web", &[]);
    assert_eq!(one.seen_by(OUTSIDE_V4), HOST_V4, "the IPv4 pool asks for NAT");
    assert_eq!(one.seen_by(&two.v4("web")), one.v4("web"), "no NAT inside the pool");
    one.does_not_reach(OUTSIDE_V6);
    let route = ["ip", "-6", "route", "add", "fd00:90::/64", "via", HOST_V6];
    assert!(engine.try_outside(&route).status.success());
    assert_eq!(one.seen_by(OUTSIDE_V6), one.v6("web"), "the IPv6 pool asks for no NAT");
}

#[test]
fn an_ipv6_pool_can_ask_for_nat_and_an_ipv4_pool_for_none() {
    let Some(engine) = Engine::with_settings(&[
        "CALICO_IPV4POOL_CIDR=10.90.0.0/16",
        "CALICO_IPV4POOL_NAT_OUTGOING=false",
        "CALICO_IPV6POOL_CIDR=fd00:90::/64",
        "CALICO_IPV6POOL_NAT_OUTGOING=true",
    ]) else {
        return;
    };
    engine.network("web", &["--ipv6"]);
    let one = engine.run("one", "web", &[]);
    assert_eq!(one.seen_by(OUTSIDE_V6), HOST_V6);
    one.does_not_reach(OUTSIDE_V4);
    assert!(engine.try_outside(&["ip", "route", "add", "10.90.0.0/16", "via", HOST_V4]).status.success());
    assert_eq!(one.seen_by(OUTSIDE_V4), one.v4("web"));
}

/// dockerd sets FORWARD to DROP when it is the one that switches forwarding on. Our containers must pass, Docker's own stay shut.
#[test]
fn a_dropping_forward_chain_lets_our_containers_pass_and_keeps_dockers_bridges_closed() {
    let Some(engine) = Engine::with_plugin() else { return };
    let drops = engine.on_host(&["iptables", "-S", "FORWARD"]);
    assert!(drops.contains("-P FORWARD DROP"), "this engine does not drop: {drops}");
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    let one = engine.run("one", "web", &[]);
    let two = engine.run("two", "web", &[]);
    let plain = engine.run("plain", "bridge", &[]);
    one.reaches(&two.v4("web"));
    assert_eq!(one.seen_by(OUTSIDE_V4), HOST_V4);

    let bridge = plain.v4("bridge");
    let routes: [&[&str]; 2] = [
        &["ip", "route", "add", "172.17.0.0/16", "via", HOST_V4],
        &["ip", "route", "add", "10.77.0.0/16", "via", HOST_V4],
    ];
    for route in routes {
        assert!(engine.try_outside(route).status.success());
    }
    let call = engine.try_outside(&fetch(&bridge));
    assert!(!call.status.success(), "the world outside reaches a container of docker0");
    one.does_not_reach(&bridge);
}

#[test]
fn a_network_keeps_the_names_of_docker_for_both_families() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"]);
    let one = engine.run("one", "web", &[]);
    let two = engine.run("two", "web", &["--network-alias", "db"]);
    for name in ["two", "db"] {
        let answer = one.exec(&["nslookup", name]);
        assert!(answer.contains(&two.v4("web")), "{name}: {answer}");
        assert!(answer.contains(&two.v6("web")), "{name}: {answer}");
    }
}

/// The first process of a container must find its network ready: programs that connect once and give up are common.
#[test]
fn the_first_packet_of_a_container_already_passes() {
    let Some(engine) = Engine::with_plugin() else { return };
    engine.network("web", &["--ipv6", "--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"]);
    let server = engine.run("server", "web", &[]);
    for address in [server.v4("web"), server.v6("web")] {
        for _ in 0..5 {
            let call = fetch(&address);
            engine.docker(&[&["run", "--rm", "--network", "web", IMAGE], &call[..]].concat());
        }
    }
}

#[test]
fn an_internal_network_reaches_itself_and_nobody_outside() {
    let Some(engine) = Engine::with_plugin() else { return };
    for subnets in [&[][..], &["--subnet", "10.77.0.0/16", "--subnet", "fd00:77::/64"]] {
        engine.network("web", &[&["--internal", "--ipv6"], subnets].concat());
        let (one, two) = (engine.run("one", "web", &[]), engine.run("two", "web", &[]));
        one.reaches(&two.v4("web"));
        one.reaches(&two.v6("web"));
        for family in ["-4", "-6"] {
            let routes = one.exec(&["ip", family, "route"]);
            assert!(!routes.contains("default"), "{subnets:?}: a way out: {routes}");
        }
        one.does_not_reach(OUTSIDE_V4);
        one.remove();
        two.remove();
        engine.docker(&["network", "rm", "web"]);
    }
}
