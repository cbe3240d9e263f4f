//! Calls that come at the same time.

use crate::engine::{Engine, RunPlan, plan, subnet};
use crate::world::World;
use futures::future::join_all;
use serde_json::json;
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_containers_start_at_once_with_addresses_of_their_own() {
    // 10, 17
    let world = World::new().await;
    let engine = Engine::new(&world);
    let networks = [
        engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap(),
        engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap(),
    ];
    let starts = (0..50).map(|number| engine.run(&networks[number % 2]));
    let endpoints: Vec<_> = join_all(starts).await.into_iter().map(Result::unwrap).collect();
    let addresses: Vec<_> = endpoints.iter().flat_map(|e| &e.addresses).map(|(_, ip)| ip).collect();
    assert_eq!(addresses.len(), 75);
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 75);
    assert_eq!(world.host.endpoints().len(), 50);
    join_all(endpoints.iter().map(|endpoint| engine.stop(endpoint))).await;
    join_all(networks.iter().map(|network| engine.remove(network))).await;
    world.assert_clean("after fifty containers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_containers_that_ask_for_one_address_at_once_do_not_both_get_it() {
    // 18
    for round in 0..20 {
        let world = World::new().await;
        let engine = Engine::new(&world);
        let [a, b] = [
            engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap(),
            engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap(),
        ];
        let named = RunPlan { ip: "10.9.0.7", ..RunPlan::default() };
        let (first, second) = tokio::join!(engine.run_with(&a, &named), engine.run_with(&b, &named));
        let (winner, error) = match (first, second) {
            (Ok(winner), Err(error)) | (Err(error), Ok(winner)) => (winner, error),
            both => panic!("round {round}: {both:?}"),
        };
        assert!(error.contains("10.9.0.7 is already in use"), "{error}");
        assert!(
            world.allocated().await.contains("10.9.0.7"),
            "the loser's release took the winner's address"
        );
        assert_eq!(world.endpoints().await.len(), 1);
        engine.stop(&winner).await;
        engine.remove(&a).await;
        engine.remove(&b).await;
        world.assert_clean("after the networks").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_call_twice_at_once_is_one_endpoint() {
    // 29
    let world = World::new().await;
    let network = Engine::new(&world).create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let create = json!({"NetworkID": network.id, "EndpointID": crate::engine::new_id(), "Options": {},
        "Interface": {"Address": "10.9.0.7/32"}});
    let calls = (0..10).map(|_| world.call("NetworkDriver.CreateEndpoint", &create));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!((world.endpoints().await.len(), world.allocated().await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_on_one_prefix_come_and_go_at_once() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let lives = (0..10).map(|_| async {
        for _ in 0..5 {
            let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
            let endpoint = engine.run(&network).await.unwrap();
            engine.stop(&endpoint).await;
            engine.remove(&network).await;
        }
    });
    join_all(lives).await;
    world.collect().await;
    world.assert_clean("after fifty networks").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_without_patience_takes_nothing_from_containers_that_run() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    // Docker cannot be asked: the kernel alone tells what lives.
    world.docker.be_silent(true);
    let endpoints: Vec<_> = join_all((0..10).map(|_| engine.run(&network))).await;
    let endpoints: Vec<_> = endpoints.into_iter().map(Result::unwrap).collect();
    world.collect().await;
    assert_eq!((world.endpoints().await.len(), world.allocated().await.len()), (10, 10));
    join_all(endpoints.iter().map(|endpoint| engine.stop(endpoint))).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}
