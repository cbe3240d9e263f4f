//! The collector against a small Docker API.

use crate::engine::{Engine, plan, subnet};
use crate::world::World;
use calico_libnetwork::ipam::Expect;
use calico_libnetwork::store::{Store as _, Txn};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn what_a_crashed_engine_leaves_is_collected() {
    // 49
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap();
    for _ in 0..3 {
        engine.run(&network).await.unwrap();
    }
    world.collect().await;
    world.assert_clean("Docker has nothing any more").await;
}

#[tokio::test]
async fn nothing_is_collected_that_docker_has() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let idle = engine.create(&plan(&[subnet("10.8.0.0/24")])).await.unwrap();
    let [running, starting, veth_lost] = [
        engine.run(&network).await.unwrap(),
        engine.run(&network).await.unwrap(),
        engine.run(&network).await.unwrap(),
    ];
    world.docker.add_network(&network.id);
    world.docker.add_network(&idle.id);
    world.docker.add_container("running", &[&running.id]);
    world.docker.add_container("created", &[&starting.id]);
    world.docker.add_container("running", &[&veth_lost.id]);
    world.host.kill(&veth_lost.id);
    world.collect().await;
    assert_eq!((world.endpoints().await.len(), world.allocated().await.len()), (3, 3));
    assert_eq!(world.keys("/libnetwork/v1/network/").await.len(), 2);
    // The container dies, its engine does not say so.
    world.host.kill(&running.id);
    world.docker.clear();
    world.docker.add_network(&network.id);
    world.docker.add_container("exited", &[&running.id]);
    world.docker.add_container("running", &[&starting.id]);
    world.docker.add_container("running", &[&veth_lost.id]);
    world.collect().await;
    assert_eq!(world.endpoints().await.len(), 2);
    assert!(!world.allocated().await.contains(running.ip()));
    assert_eq!(
        world.keys("/libnetwork/v1/network/").await,
        std::slice::from_ref(&network.id),
        "the idle one is gone"
    );
}

#[tokio::test]
async fn where_docker_is_silent_the_kernel_tells() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let [dead, alive] = [engine.run(&network).await.unwrap(), engine.run(&network).await.unwrap()];
    world.host.kill(&dead.id);
    world.docker.be_silent(true);
    world.collect().await;
    let left: Vec<_> = world.endpoints().await.into_iter().map(|endpoint| endpoint.spec.endpoint).collect();
    assert_eq!(left, std::slice::from_ref(&alive.id));
    engine.stop(&alive).await;
    world.collect().await;
    assert_eq!(world.keys("/libnetwork/v1/network/").await.len(), 1, "only Docker knows its networks");
    world.docker.be_silent(false);
    world.collect().await;
    world.assert_clean("Docker has nothing").await;
}

#[tokio::test]
async fn a_suspect_has_the_grace_period_to_explain_itself() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    let grace = Duration::from_millis(200);
    let mut collector = world.collector(grace);
    collector.pass().await.unwrap();
    collector.pass().await.unwrap();
    assert_eq!(world.endpoints().await.len(), 1, "suspect for a moment only");
    world.docker.add_container("running", &[&endpoint.id]);
    world.docker.add_network(&network.id);
    tokio::time::sleep(grace).await;
    collector.pass().await.unwrap();
    world.docker.clear();
    collector.pass().await.unwrap();
    assert_eq!(world.endpoints().await.len(), 1, "the suspicion had ended and began anew");
    tokio::time::sleep(grace * 2).await;
    collector.pass().await.unwrap();
    assert!(world.endpoints().await.is_empty());
}

#[tokio::test]
async fn an_endpoint_that_was_joined_since_it_was_looked_at_stays() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    world.ok("NetworkDriver.Leave", &endpoint.reference()).await;
    let seen = world.drivers.local_endpoints().remove(0);
    let mut join = endpoint.reference();
    join["SandboxKey"] = serde_json::json!("/run/docker/netns/other");
    world.ok("NetworkDriver.Join", &join).await;
    world.drivers.collect_endpoint(&seen).await.unwrap();
    assert_eq!((world.endpoints().await.len(), world.host.endpoints().len()), (1, 1));
}

#[tokio::test]
async fn an_endpoint_that_was_lost_is_taken_up_again_with_the_labels_of_its_attachment() {
    const ENDPOINTS: &str = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
    let mut world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    let lost = world.keys(ENDPOINTS).await.remove(0);
    world.store.inner().commit(Txn::new().remove(format!("{ENDPOINTS}{lost}"))).await.unwrap();
    world.restart().await;
    assert!(world.endpoints().await.is_empty());

    world.docker.add_network(&network.id);
    let options = json!({"org.projectcalico.label.role": "db"});
    world.docker.add_attached(&network.id, &endpoint.id, endpoint.ip(), &options);
    world.collector(Duration::from_secs(60)).pass().await.unwrap();
    let found = world.endpoints().await.remove(0);
    assert_eq!(found.spec.endpoint, endpoint.id);
    assert_eq!(found.metadata.labels.unwrap_or_default().get("role").map(String::as_str), Some("db"));
}

/// As `calicoctl delete node` does to a node that lives.
#[tokio::test]
async fn an_endpoint_that_somebody_deleted_from_the_datastore_is_written_again() {
    const ENDPOINTS: &str = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    world.docker.add_network(&network.id);
    let options = json!({"org.projectcalico.label.role": "db"});
    world.docker.add_attached(&network.id, &endpoint.id, endpoint.ip(), &options);
    let mut collector = world.collector(Duration::from_secs(60));
    collector.pass().await.unwrap();
    let before = world.allocated().await;

    let deleted = world.keys(ENDPOINTS).await.remove(0);
    world.store.inner().commit(Txn::new().remove(format!("{ENDPOINTS}{deleted}"))).await.unwrap();
    let ip = endpoint.ip().parse().unwrap();
    world.drivers.ipam().release(ip, &Expect::default()).await.unwrap();
    assert!(world.allocated().await.is_empty());
    collector.pass().await.unwrap();
    assert!(world.endpoints().await.is_empty(), "a call may be under way");
    collector.pass().await.unwrap();
    let found = world.endpoints().await.remove(0);
    assert_eq!(found.spec.endpoint, endpoint.id);
    assert_eq!(found.metadata.labels.unwrap_or_default().get("role").map(String::as_str), Some("db"));
    assert_eq!(world.allocated().await, before);

    // What is there stays as it is, and Docker's next calls find all of it.
    collector.pass().await.unwrap();
    world.ok("NetworkDriver.Leave", &endpoint.reference()).await;
    world.ok("NetworkDriver.DeleteEndpoint", &endpoint.reference()).await;
    assert!(world.endpoints().await.is_empty() && world.host.endpoints().is_empty());
}

#[tokio::test]
async fn a_container_whose_start_takes_longer_than_the_grace_keeps_its_endpoint() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let starting = engine.run(&network).await.unwrap();
    world.docker.add_network(&network.id);
    world.docker.add_starting(&network.id, &starting.id);
    world.collect().await;
    assert_eq!((world.endpoints().await.len(), world.allocated().await.len()), (1, 1));
    world.docker.clear();
    world.collect().await;
    world.assert_clean("the start was given up").await;
}
