//! Scope `global`: the leader assigns, a node takes over, both release.

use crate::engine::{Engine, new_id, plan, subnet};
use crate::world::{World, options};
use calico_libnetwork::driver::{Options, Scopes};
use calico_libnetwork::ipam::Ipam;
use calico_libnetwork::model::NodeName;
use serde_json::{Value, json};
use std::time::Duration;

fn node(name: &str) -> Options {
    Options {
        node: NodeName::new(name).unwrap(),
        scopes: Scopes { network: "global", connectivity: "global" },
        shared_datastore: true,
        ..options()
    }
}

/// A leader and a worker on one datastore, and a network of both.
async fn swarm() -> (World, World, String, String) {
    let leader = World::with(node("leader")).await;
    let worker = World::on(leader.store.clone(), node("worker")).await;
    let network = Engine::new(&worker).create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    (leader, worker, network.id, "10.9.0.0/24".to_owned())
}

fn of_leader(pool: &str, address: &str) -> Value {
    json!({"PoolID": pool, "Address": address, "Options": {"com.docker.network.ipam.serial": "true"}})
}

fn of_node(pool: &str, address: &str) -> Value {
    json!({"PoolID": pool, "Address": address, "Options": null})
}

async fn assigned(world: &World, pool: &str) -> String {
    let answer = world.ok("IpamDriver.RequestAddress", &of_leader(pool, "")).await;
    answer["Address"].as_str().unwrap().split('/').next().unwrap().to_owned()
}

/// Node and the beginning of the handle of who holds an address.
async fn holder(world: &World, ip: &str) -> Option<(String, String)> {
    let ipam = Ipam::new(world.store.clone(), NodeName::new("onlooker").unwrap());
    let held = ipam.lookup(ip.parse().unwrap()).await.unwrap()?;
    let handle = held.handle.clone().unwrap();
    Some((held.node().unwrap().to_owned(), handle.rsplit_once('.').unwrap().0.to_owned()))
}

fn held(node: &str, handle: &str) -> Option<(String, String)> {
    Some((node.to_owned(), handle.to_owned()))
}

/// CreateEndpoint on a node for an address that it was told.
async fn create(world: &World, network: &str, ip: &str) -> Result<Value, String> {
    let endpoint = json!({"NetworkID": network, "EndpointID": new_id(), "Options": {},
        "Interface": {"Address": format!("{ip}/32"), "AddressIPv6": "", "MacAddress": ""}});
    world.call("NetworkDriver.CreateEndpoint", &endpoint).await?;
    Ok(json!({"NetworkID": network, "EndpointID": endpoint["EndpointID"]}))
}

#[tokio::test]
async fn an_address_of_the_leader_becomes_the_nodes_and_is_free_after_both_released_it() {
    let (leader, worker, network, pool) = swarm().await;
    let (vip, ip) = (assigned(&leader, &pool).await, assigned(&leader, &pool).await);
    assert_ne!(vip, ip);
    assert_eq!(holder(&leader, &ip).await, held("leader", "libnetwork-swarm"));
    // Neither node's collector takes what the swarm holds.
    for world in [&leader, &worker] {
        assert!(world.drivers.unused_addresses(Duration::ZERO).await.unwrap().is_empty());
    }
    // The node repeats the gateway that the leader was told.
    let gateway = json!({"PoolID": pool, "Address": "169.254.1.1",
        "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    assert_eq!(worker.ok("IpamDriver.RequestAddress", &gateway).await["Address"], "169.254.1.1/32");
    worker.ok("IpamDriver.RequestAddress", &of_node(&pool, &ip)).await;
    let endpoint = create(&worker, &network, &ip).await.unwrap();
    assert_eq!(holder(&leader, &ip).await, held("worker", "libnetwork.worker"));
    assert_eq!(leader.keys("/calico/ipam/v2/handle/").await.len(), 2, "one handle for each address");

    // A leader that gives up the task early must not free what lives.
    let release = json!({"PoolID": pool, "Address": ip});
    leader.ok("IpamDriver.ReleaseAddress", &release).await;
    assert_eq!(holder(&leader, &ip).await, held("worker", "libnetwork.worker"));

    worker.ok("NetworkDriver.DeleteEndpoint", &endpoint).await;
    worker.ok("IpamDriver.ReleaseAddress", &release).await;
    leader.ok("IpamDriver.ReleaseAddress", &release).await;
    assert_eq!(holder(&leader, &ip).await, None);
    assert_eq!(holder(&leader, &vip).await, held("leader", "libnetwork-swarm"));
    leader.ok("IpamDriver.ReleaseAddress", &json!({"PoolID": pool, "Address": vip})).await;
    assert!(leader.allocated().await.is_empty() && leader.keys("/calico/ipam/v2/handle/").await.is_empty());
}

#[tokio::test]
async fn a_new_leader_repeats_every_request_and_can_release_what_the_old_one_took() {
    let (leader, worker, network, pool) = swarm().await;
    let (vip, ip) = (assigned(&leader, &pool).await, assigned(&leader, &pool).await);
    create(&worker, &network, &ip).await.unwrap();
    let next = World::on(leader.store.clone(), node("next")).await;
    for known in [&vip, &ip] {
        next.ok("IpamDriver.RequestAddress", &of_leader(&pool, known)).await;
    }
    next.ok("IpamDriver.RequestAddress", &of_leader(&pool, "10.9.0.77")).await;
    assert_eq!(holder(&next, "10.9.0.77").await, held("next", "libnetwork-swarm"));
    assert_eq!(holder(&next, &ip).await, held("worker", "libnetwork.worker"));
    next.ok("IpamDriver.ReleaseAddress", &json!({"PoolID": pool, "Address": vip})).await;
    assert_eq!(holder(&next, &vip).await, None);
    let fresh = assigned(&next, &pool).await;
    assert!(fresh != ip && fresh != "10.9.0.77", "{fresh} was handed out twice");
}

#[tokio::test]
async fn two_nodes_never_have_one_address() {
    let (leader, worker, network, pool) = swarm().await;
    let other = World::on(leader.store.clone(), node("other")).await;
    let ip = assigned(&leader, &pool).await;
    // Both were told the same address, by a swarm that lost its mind.
    for world in [&worker, &other] {
        world.ok("IpamDriver.RequestAddress", &of_node(&pool, &ip)).await;
    }
    let both = tokio::join!(create(&worker, &network, &ip), create(&other, &network, &ip));
    assert!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
    let sentence = both.0.err().or_else(|| both.1.err()).unwrap();
    assert!(sentence.contains(&ip), "{sentence}");
    let late = other.call("IpamDriver.RequestAddress", &of_node(&pool, &ip)).await;
    let second = worker.call("IpamDriver.RequestAddress", &of_node(&pool, &ip)).await;
    assert!(late.is_err() && second.is_err(), "{late:?} {second:?}");
    assert_eq!(leader.endpoints().await.len(), 1);
}

#[tokio::test]
async fn options_of_the_network_reach_the_workers() {
    let world = World::with(node("leader")).await;
    let options = json!({"com.docker.network.driver.mtu": "1400"});
    let asked = json!({"NetworkID": "lddwuxh7gce86yawyh57kxfc2", "Options": options, "IPv6Data": null,
        "IPv4Data": [{"AddressSpace": "", "Gateway": "10.9.0.1/24", "Pool": "10.9.0.0/24"}]});
    assert_eq!(world.ok("NetworkDriver.AllocateNetwork", &asked).await["Options"], options);
    world.ok("NetworkDriver.FreeNetwork", &json!({"NetworkID": "lddwuxh7gce86yawyh57kxfc2"})).await;
    world.ok("NetworkDriver.FreeNetwork", &json!({"NetworkID": "unknown"})).await;
}
