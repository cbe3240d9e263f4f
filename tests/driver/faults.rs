//! Every call that the driver makes fails once, each in a world of its own. After what the engine sends then, and at most
//! two passes of the collector, nothing is left.

use crate::engine::{Engine, NetworkPlan, RunPlan, Subnet, plan, port, subnet};
use crate::host::Fate;
use crate::world::World;
use calico_libnetwork::store::faulty::{Fault, Verb};

/// Networks of both IPAMs, a container with a published port on each, and all of it removed again; whatever fails, the
/// engine goes on as it does.
async fn life(world: &World, generation: u8) {
    let engine = Engine { world, generation };
    let calico = plan(&[
        Subnet { gateway: "10.9.0.254", aux: &["10.9.0.9"], ..subnet("10.9.0.0/24") },
        subnet("fd09::/64"),
    ]);
    let docker = NetworkPlan { of_docker: vec!["172.19.0.0/16"], ..NetworkPlan::default() };
    for (network, ip) in [(calico, ""), (docker, "172.19.0.2/16")] {
        let Ok(network) = engine.create(&network).await else { continue };
        let run = RunPlan { ip, ports: vec![port(0, 80)], ..RunPlan::default() };
        if let Ok(endpoint) = engine.run_with(&network, &run).await {
            engine.stop(&endpoint).await;
        }
        engine.remove(&network).await;
    }
}

async fn assert_nothing_stays(world: &World, place: &str) {
    world.heal();
    world.collect().await;
    // A pool may be wanted by a network in the making for a while after a CreateNetwork that never came.
    world.assert_clean(place).await;
}

#[tokio::test]
async fn without_faults_nothing_stays_without_a_collector() {
    for generation in [20, 26, 28, 29] {
        let world = World::new().await;
        life(&world, generation).await;
        world.assert_clean(&format!("engine {generation}")).await;
    }
}

#[tokio::test]
async fn every_store_call_may_fail() {
    // (59, 60)
    for generation in [20, 29] {
        for (verb, faults) in [
            (Verb::Commit, &[Fault::Unavailable, Fault::AppliedThenUnavailable, Fault::Conflict][..]),
            (Verb::Get, &[Fault::Unavailable]),
            (Verb::List, &[Fault::Unavailable]),
        ] {
            let world = World::new().await;
            let before = world.store.calls(verb);
            life(&world, generation).await;
            let calls = world.store.calls(verb) - before;
            assert!(calls > 10, "{verb:?}: {calls}");
            for fault in faults {
                for nth in 1..=calls {
                    let world = World::new().await;
                    world.store.fail(verb, nth, *fault);
                    life(&world, generation).await;
                    let place = format!("engine {generation}, {fault:?} at {verb:?} {nth}");
                    assert_nothing_stays(&world, &place).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_write_that_happened_after_all_is_found_even_if_its_undo_fails_too() {
    // 31
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    // The node has a block from then on.
    let first = engine.run(&network).await.unwrap();
    engine.stop(&first).await;
    // The address, the endpoint (written, though the answer says otherwise), and the undo of it.
    world.store.fail(Verb::Commit, 2, Fault::AppliedThenUnavailable);
    world.store.fail(Verb::Commit, 3, Fault::Unavailable);
    let error = engine.run(&network).await.unwrap_err();
    assert!(error.contains("the datastore is unavailable"), "{error}");
    assert_eq!(world.endpoints().await.len(), 1);
    world.docker.add_network(&network.id);
    world.collect().await;
    assert!(world.endpoints().await.is_empty());
    let endpoint = engine.run(&network).await.unwrap();
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn every_host_call_may_fail() {
    for generation in [20, 29] {
        let world = World::new().await;
        let before = world.host.faults.calls();
        life(&world, generation).await;
        for nth in 1..=world.host.faults.calls() - before {
            for fate in [Fate::Fails, Fate::FailsAfterwards] {
                let world = World::new().await;
                world.host.faults.fail(nth, fate);
                life(&world, generation).await;
                assert_nothing_stays(&world, &format!("engine {generation}, host call {nth} {fate:?}")).await;
            }
        }
    }
}

#[tokio::test]
async fn every_firewall_call_may_fail() {
    for generation in [20, 29] {
        let world = World::new().await;
        let before = world.firewall.faults.calls();
        life(&world, generation).await;
        for nth in 1..=world.firewall.faults.calls() - before {
            for fate in [Fate::Fails, Fate::FailsAfterwards] {
                let world = World::new().await;
                world.firewall.faults.fail(nth, fate);
                life(&world, generation).await;
                assert_nothing_stays(&world, &format!("engine {generation}, firewall call {nth} {fate:?}"))
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn an_outage_in_the_middle_leaves_nothing() {
    type Toggle = fn(&World, bool);
    let outages: [(&str, Toggle); 3] = [
        ("datastore", |world, down| match down {
            true => [Verb::Commit, Verb::Get, Verb::List]
                .into_iter()
                .for_each(|verb| world.store.fail_always(verb, Fault::Unavailable)),
            false => world.store.heal(),
        }),
        ("host", |world, down| world.host.faults.fail_always(down)),
        ("firewall", |world, down| world.firewall.faults.fail_always(down)),
    ];
    for (what, toggle) in outages {
        for stage in 0..3 {
            let world = World::new().await;
            let engine = Engine::new(&world);
            let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
            if stage == 0 {
                toggle(&world, true);
                let error = engine.run(&network).await.unwrap_err();
                assert!(error.contains("a planned fault of the test"), "{error}");
                toggle(&world, false);
                engine.remove(&network).await;
            } else {
                let endpoint = engine.run(&network).await.unwrap();
                toggle(&world, true);
                engine.stop(&endpoint).await;
                toggle(&world, stage == 2);
                engine.remove(&network).await;
                toggle(&world, false);
            }
            assert_nothing_stays(&world, &format!("{what} is down at stage {stage}")).await;
        }
    }
}

#[tokio::test]
async fn a_container_that_could_not_be_removed_keeps_its_address_until_it_is() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/30")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    world.host.faults.fail_always(true);
    engine.stop(&endpoint).await;
    world.host.faults.fail_always(false);
    assert!(world.allocated().await.contains(endpoint.ip()), "its veth is still there");
    world.docker.add_network(&network.id);
    world.collect().await;
    assert!(world.allocated().await.is_empty() && world.host.endpoints().is_empty());
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn a_start_may_fail_at_every_call_and_be_tried_again() {
    for verb in [Verb::List, Verb::Commit] {
        for nth in 1..=8 {
            let mut world = World::new().await;
            let engine = Engine::new(&world);
            let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
            let run = RunPlan { ports: vec![port(0, 80)], ..RunPlan::default() };
            let endpoint = engine.run_with(&network, &run).await.unwrap();
            let (ports, links) = (world.firewall.ports(), world.host.endpoints());
            let open = world.firewall.open();
            world.docker.add_network(&network.id);
            world.docker.add_container("running", &[&endpoint.id]);
            world.store.fail(verb, nth, Fault::Unavailable);
            world.host.faults.fail(usize::try_from(nth).unwrap(), Fate::Fails);
            // As the plugin does: again and again, until it succeeds.
            let tries = world.restart_persistently().await;
            assert!(tries <= 3, "{tries}");
            world.heal();
            assert_eq!((world.firewall.ports(), world.host.endpoints()), (ports, links), "{verb:?} {nth}");
            world.collect().await;
            assert_eq!(world.firewall.open(), open, "what could not be repaired at the start is tried again");
            let engine = Engine::new(&world);
            engine.stop(&endpoint).await;
            engine.remove(&network).await;
            world.assert_clean(&format!("{verb:?} {nth}")).await;
        }
    }
}

#[tokio::test]
async fn an_endpoint_whose_link_lost_its_routes_is_programmed_again() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    let link = world.host.endpoints().remove(0);
    let calls = world.host.faults.calls();
    world.drivers.repair(&link.host).await;
    assert!(world.host.faults.calls() > calls);
    assert_eq!(world.host.endpoints(), std::slice::from_ref(&link));
    // Foreign interfaces, and endpoints that left, are none of its business.
    world.drivers.repair(&"eth0".parse().unwrap()).await;
    engine.stop(&endpoint).await;
    world.drivers.repair(&link.host).await;
    world.drivers.repair_all().await;
    assert!(world.host.endpoints().is_empty());
}
