//! Containers on several networks: each interface may send under the addresses of the others, and under no more.

use crate::engine::{Endpoint, Engine, Network, RunPlan, plan, subnet};
use crate::host::Fate;
use crate::world::World;
use calico_libnetwork::model::EndpointId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What the filter must know of these containers' endpoints, each list one container.
fn expected(containers: &[&[&Endpoint]]) -> BTreeMap<String, Vec<IpAddr>> {
    let mut all = BTreeMap::new();
    for container in containers {
        for endpoint in *container {
            let others = container.iter().filter(|other| other.id != endpoint.id);
            let ips: BTreeSet<IpAddr> = others.map(|other| other.ip().parse().unwrap()).collect();
            if !ips.is_empty() {
                all.insert(iface(endpoint), ips.into_iter().collect());
            }
        }
    }
    all
}

fn iface(endpoint: &Endpoint) -> String {
    EndpointId::new(&endpoint.id).unwrap().host_iface().to_string()
}

fn relaxed(world: &World) -> BTreeSet<String> {
    let links = world.host.endpoints().into_iter();
    links.filter(|link| link.siblings).map(|link| link.host.to_string()).collect()
}

/// Packet filter and kernel both know exactly these containers.
#[track_caller]
fn assert_known(world: &World, containers: &[&[&Endpoint]], place: &str) {
    let want = expected(containers);
    assert_eq!(world.firewall.siblings(), want, "packet filter, {place}");
    assert_eq!(relaxed(world), want.into_keys().collect(), "kernel, {place}");
}

async fn networks(engine: &Engine<'_>) -> [Network; 3] {
    let mut made = Vec::new();
    for prefix in ["10.7.0.0/24", "10.8.0.0/24", "10.9.0.0/24"] {
        made.push(engine.create(&plan(&[subnet(prefix)])).await.unwrap());
    }
    made.try_into().unwrap()
}

async fn connect(engine: &Engine<'_>, to: &Network, beside: &Endpoint) -> Result<Endpoint, String> {
    engine.run_with(to, &RunPlan { sandbox: Some(beside.sandbox.clone()), ..RunPlan::default() }).await
}

#[tokio::test]
async fn endpoints_know_each_other_from_connect_to_disconnect_and_after_a_restart() {
    let mut world = World::new().await;
    let (one, second, third, other);
    {
        let engine = Engine::new(&world);
        let [a, b, c] = networks(&engine).await;
        one = engine.run(&a).await.unwrap();
        other = engine.run(&a).await.unwrap();
        assert_known(&world, &[&[&one], &[&other]], "one network each");
        second = connect(&engine, &b, &one).await.unwrap();
        assert_known(&world, &[&[&one, &second], &[&other]], "connected");
        third = connect(&engine, &c, &one).await.unwrap();
        assert_known(&world, &[&[&one, &second, &third], &[&other]], "connected twice");
    }
    world.restart().await;
    assert_known(&world, &[&[&one, &second, &third], &[&other]], "restarted");
    let engine = Engine::new(&world);
    engine.stop(&one).await;
    assert_known(&world, &[&[&second, &third], &[&other]], "the first left");
    engine.stop(&third).await;
    assert_known(&world, &[&[&second], &[&other]], "one is left");
    world.drivers.repair_all().await;
    assert_known(&world, &[&[&second], &[&other]], "repaired");
}

#[tokio::test]
async fn a_repeated_join_and_a_repair_change_nothing() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let [a, b, _] = networks(&engine).await;
    let one = engine.run(&a).await.unwrap();
    let second = connect(&engine, &b, &one).await.unwrap();
    for endpoint in [&one, &second] {
        let mut join = endpoint.reference();
        join["SandboxKey"] = endpoint.sandbox.clone().into();
        assert_eq!(world.ok("NetworkDriver.Join", &join).await, endpoint.joined);
        assert_known(&world, &[&[&one, &second]], "joined again");
    }
    world.drivers.repair_all().await;
    assert_known(&world, &[&[&one, &second]], "repaired");
}

/// A container connects, and disconnects again; whatever fails on the way, the one that stays has its own addresses
/// only, and no address is free that another may still send under.
#[tokio::test]
async fn whatever_fails_nobody_keeps_an_address_of_one_that_is_gone() {
    for of_host in [true, false] {
        for fate in [Fate::Fails, Fate::FailsAfterwards] {
            let mut faults = 0;
            for nth in 1.. {
                let world = World::new().await;
                let engine = Engine::new(&world);
                let [a, b, c] = networks(&engine).await;
                let one = engine.run(&a).await.unwrap();
                let calls =
                    || if of_host { world.host.faults.calls() } else { world.firewall.faults.calls() };
                let begin = calls();
                if of_host {
                    world.host.faults.fail(nth, fate)
                } else {
                    world.firewall.faults.fail(nth, fate)
                }
                let connected = connect(&engine, &b, &one).await;
                if let Ok(second) = &connected {
                    engine.stop(second).await;
                }
                let reached = calls() - begin >= nth;
                world.heal();
                [&a, &b, &c].into_iter().for_each(|network| world.docker.add_network(&network.id));
                world.docker.add_container("running", &[&one.id]);
                world.collect().await;
                let place = format!("{fate:?} at call {nth} of the host ({of_host})");
                assert_known(&world, &[&[&one]], &place);
                let second = connect(&engine, &b, &one).await.unwrap();
                assert_known(&world, &[&[&one, &second]], &place);
                if !reached {
                    break;
                }
                faults += 1;
            }
            assert!(faults > 5, "only {faults} calls");
        }
    }
}
