//! The plugin is killed and started again over the same datastore and kernel.

use crate::engine::{Engine, RunPlan, plan, port, subnet};
use crate::world::World;
use calico_libnetwork::model::key;
use calico_libnetwork::store::{Store, Txn};
use serde_json::json;

#[tokio::test]
async fn everything_goes_on_after_a_restart() {
    // 30, 36, 48
    let mut world = World::new().await;
    let engine = Engine::new(&world);
    let [a, b] = [
        engine.create(&plan(&[subnet("10.8.0.0/24"), subnet("fd08::/64")])).await.unwrap(),
        engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap(),
    ];
    let first =
        engine.run_with(&a, &RunPlan { ports: vec![port(0, 80)], ..RunPlan::default() }).await.unwrap();
    let sandbox = Some(first.sandbox.clone());
    let second =
        engine.run_with(&b, &RunPlan { sandbox: sandbox.clone(), ..RunPlan::default() }).await.unwrap();
    let stopped = engine.run(&b).await.unwrap();
    world.ok("NetworkDriver.Leave", &stopped.reference()).await;
    let (ports, open, pools) = (world.firewall.ports(), world.firewall.open(), world.firewall.pools());
    let links = world.host.endpoints();
    assert_eq!((ports.len(), open.len(), links.len()), (2, 2, 2));

    world.restart().await;
    assert_eq!(world.firewall.ports(), ports, "published ports");
    assert_eq!(world.firewall.open(), open, "open interfaces");
    assert_eq!(world.firewall.pools(), pools);
    assert_eq!(world.host.endpoints(), links, "the kernel is as it was");
    let engine = Engine::new(&world);
    let held = std::net::TcpListener::bind(("0.0.0.0", ports[0].host_port));
    assert!(held.is_err(), "the host port is kept from others");
    // Calls may be repeated over a restart, and hop numbers are those of before.
    let mut join = second.reference();
    join["SandboxKey"] = json!(second.sandbox);
    assert_eq!(world.ok("NetworkDriver.Join", &join).await, second.joined);
    let third = engine.run_with(&b, &RunPlan { sandbox, ..RunPlan::default() }).await.unwrap();
    assert_eq!(third.joined["Gateway"], "169.254.1.3");
    for endpoint in [&first, &second, &third, &stopped] {
        engine.stop(endpoint).await;
    }
    engine.remove(&a).await;
    engine.remove(&b).await;
    world.assert_clean("after the networks").await;
}

#[tokio::test]
async fn stale_calls_after_a_reboot_free_everything() {
    // 48
    let mut world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint =
        engine.run_with(&network, &RunPlan { ports: vec![port(0, 80)], ..RunPlan::default() }).await;
    let endpoint = endpoint.unwrap();
    world.host.kill(&endpoint.id);
    world.restart().await;
    let engine = Engine::new(&world);
    assert!(world.firewall.open().is_empty(), "an interface that is gone is not open");
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn a_document_that_cannot_be_read_keeps_nobody_down() {
    let mut world = World::new().await;
    let engine = Engine::new(&world);
    let [good, bad] = [
        engine.create(&plan(&[subnet("10.8.0.0/24")])).await.unwrap(),
        engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap(),
    ];
    let [well, ill] = [engine.run(&good).await.unwrap(), engine.run(&good).await.unwrap()];
    let name = format!("docker--1-libnetwork-libnetwork-{}", ill.id);
    let endpoint = key::namespaced::<calico_libnetwork::model::WorkloadEndpointSpec>("libnetwork", &name);
    let network = key::network(&bad.id.parse().unwrap());
    let ports = key::ports(&well.id.parse().unwrap());
    let txn = Txn::new().put(endpoint, "{").put(network, "[]").put(ports, "what");
    world.store.inner().commit(txn).await.unwrap();
    world.restart().await;
    let engine = Engine::new(&world);
    let next = engine.run(&good).await.unwrap();
    let error = engine.run(&bad).await.unwrap_err();
    assert!(error.contains("cannot be read"), "{error}");
    for endpoint in [&well, &ill, &next] {
        engine.stop(endpoint).await;
    }
    engine.remove(&good).await;
    engine.remove(&bad).await;
    world.collect().await;
    world.assert_clean("after the networks").await;
}
