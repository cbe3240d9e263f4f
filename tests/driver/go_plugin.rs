//! What the Go plugin left: a pool that names its network, a profile that forgot its label, addresses of nobody.

use crate::engine::{Endpoint, Engine, Network, plan, subnet};
use crate::world::World;
use calico_libnetwork::protocol::{CreateEndpoint, CreateNetwork, Request};
use calico_libnetwork::store::{Store, Txn};
use serde_json::{Value, json};

async fn edit(world: &World, key: &str, change: impl FnOnce(&mut Value)) {
    let entry = world.store.inner().get(key).await.unwrap().unwrap();
    let mut value: Value = serde_json::from_slice(&entry.value).unwrap();
    change(&mut value);
    world.store.inner().commit(Txn::new().put(key, value.to_string())).await.unwrap();
}

async fn only_key(world: &World, prefix: &str) -> String {
    let keys = world.keys(prefix).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    format!("{prefix}{}", keys[0])
}

/// Makes the datastore look as if the Go plugin had made these networks of one pool, and their endpoints.
async fn as_the_go_plugin_left_it(world: &World, networks: &[&str]) {
    let resources = "/calico/resources/v3/projectcalico.org/";
    let pool = "docker-10-9-0-0-24";
    for network in networks {
        edit(world, &format!("{resources}ippools/{pool}"), |pool| {
            pool["metadata"]["annotations"] = json!({"org.projectcalico.label.network.ID": network});
        })
        .await;
    }
    let endpoints = format!("{resources}workloadendpoints/");
    for endpoint in world.keys(&endpoints).await {
        edit(world, &format!("{endpoints}{endpoint}"), |endpoint| {
            endpoint["metadata"].as_object_mut().unwrap().remove("annotations");
            endpoint["spec"]["profiles"] = json!([pool]);
        })
        .await;
    }
    let block = only_key(world, "/calico/ipam/v2/assignment/ipv4/block/").await;
    edit(world, &block, |block| {
        block["attributes"] = json!([{"handle_id": null, "secondary": null}]);
        let allocations = block["allocations"].as_array_mut().unwrap();
        allocations.iter_mut().filter(|index| !index.is_null()).for_each(|index| *index = json!(0));
    })
    .await;
    let old = json!({"kind": "Profile", "apiVersion": "projectcalico.org/v3", "metadata": {"name": pool}, "spec": {
        "ingress": [{"action": "Allow", "source": {"selector": format!("has({pool})")}, "destination": {}}],
        "egress": [{"action": "Allow", "source": {}, "destination": {}}]}});
    let mut txn = Txn::new().put(format!("{resources}profiles/{pool}"), old.to_string());
    for prefix in ["/calico/ipam/v2/handle/", "/libnetwork/v1/network/"] {
        txn = world.keys(prefix).await.iter().fold(txn, |txn, key| txn.remove(format!("{prefix}{key}")));
    }
    for network in networks {
        txn = txn.remove(format!("{resources}profiles/network-{network}"));
    }
    world.store.inner().commit(txn).await.unwrap();
}

/// A network on that pool, with a running container.
async fn lived_in(world: &World) -> (Network, Endpoint) {
    let engine = Engine::new(world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    (network, endpoint)
}

fn calls(network: &str, endpoint: &crate::engine::Endpoint) -> (CreateNetwork, CreateEndpoint) {
    let network = json!({"NetworkID": network, "Options": {"com.docker.network.generic": {}}, "IPv6Data": [],
        "IPv4Data": [{"AddressSpace": "CalicoGlobalAddressSpace", "Pool": "10.9.0.0/24", "Gateway": "0.0.0.0/0"}]});
    let created = json!({"NetworkID": endpoint.network, "EndpointID": endpoint.id, "Options": {},
        "Interface": {"Address": format!("{}/32", endpoint.ip()), "MacAddress": ""}});
    (serde_json::from_value(network).unwrap(), serde_json::from_value(created).unwrap())
}

/// The engine keeps the pool ID that the Go plugin answered: the pool's name.
fn with_its_pool_id(mut network: Network, mut endpoint: Endpoint) -> (Network, Endpoint) {
    let name = || "docker-10-9-0-0-24".to_owned();
    network.pools.iter_mut().for_each(|(id, _)| *id = name());
    endpoint.addresses.iter_mut().for_each(|(id, _)| *id = name());
    (network, endpoint)
}

#[tokio::test]
async fn addresses_are_requested_and_released_by_the_name_of_a_pool_and_refused_when_it_is_gone() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let ask = |address: &str| json!({"PoolID": "docker-10-9-0-0-24", "Address": address});
    let any = world.ok("IpamDriver.RequestAddress", &ask("")).await["Address"].clone();
    assert!(any.as_str().unwrap().starts_with("10.9.0."), "{any}");
    world.ok("IpamDriver.RequestAddress", &ask("10.9.0.77")).await;
    let sentence = world.refusal("IpamDriver.RequestAddress", &ask("10.8.0.77")).await;
    assert!(sentence.contains("10.8.0.77 is not inside 10.9.0.0/24"), "{sentence}");
    for address in [any.as_str().unwrap().trim_end_matches("/32"), "10.9.0.77"] {
        world.ok("IpamDriver.ReleaseAddress", &ask(address)).await;
    }
    assert!(world.allocated().await.is_empty());
    engine.remove(&network).await;
    let sentence = world.refusal("IpamDriver.RequestAddress", &ask("")).await;
    assert!(sentence.contains("no pool docker-10-9-0-0-24 any more"), "{sentence}");
}

#[tokio::test]
async fn its_network_its_profile_and_its_living_endpoint_are_taken_over_and_given_back() {
    let mut world = World::new().await;
    let (network, endpoint) = lived_in(&world).await;
    as_the_go_plugin_left_it(&world, &[&network.id]).await;
    world.restart().await;
    let (create_network, create_endpoint) = calls(&network.id, &endpoint);
    world.drivers.adopt_network(&create_network).await.unwrap();
    let profiles = world.profiles().await;
    assert_eq!(profiles.len(), 1, "the Go plugin's profile is the network's");
    assert_eq!(
        profiles[0].spec.labels_to_apply.clone().unwrap().keys().collect::<Vec<_>>(),
        ["docker-10-9-0-0-24"]
    );
    for _ in 0..2 {
        world.drivers.adopt_endpoint(&create_endpoint).await.unwrap();
    }
    assert_eq!(world.firewall.open().len(), 1, "its interface is open");
    let handles = world.keys("/calico/ipam/v2/handle/").await;
    assert!(handles.len() == 1 && handles[0].starts_with("libnetwork.docker-1."), "{handles:?}");
    assert!(world.drivers.unused_addresses(std::time::Duration::ZERO).await.unwrap().is_empty());

    let engine = Engine::new(&world);
    let (network, endpoint) = with_its_pool_id(network, endpoint);
    let beside = engine.run(&network).await.unwrap();
    for wep in world.endpoints().await {
        assert_eq!(wep.spec.profiles, ["docker-10-9-0-0-24"], "old and new know each other");
    }
    let mut forged = endpoint.reference();
    forged["EndpointID"] = json!(crate::engine::new_id());
    forged["Interface"] = json!({"Address": "10.9.0.200/32"});
    forged["Options"] = json!({"org.projectcalico.label.docker-10-9-0-0-24": ""});
    let sentence = world.refusal("NetworkDriver.CreateEndpoint", &forged).await;
    assert!(sentence.contains("reserved"), "{sentence}");
    engine.stop(&beside).await;
    engine.stop(&endpoint).await;
    assert!(world.allocated().await.is_empty() && world.endpoints().await.is_empty());
    assert!(world.host.endpoints().is_empty() && world.firewall.open().is_empty());
}

async fn profile_names(world: &World) -> Vec<String> {
    world.profiles().await.iter().map(|profile| profile.name().to_owned()).collect()
}

/// The pool names the network that was made last. The ones before have its profile, too, and so have all their containers.
#[tokio::test]
async fn two_of_its_networks_on_one_pool_keep_the_pools_profile_and_a_new_one_gets_its_own() {
    let mut world = World::new().await;
    let pool = "docker-10-9-0-0-24";
    let both = [lived_in(&world).await, lived_in(&world).await];
    let (networks, endpoints): (Vec<Network>, Vec<Endpoint>) = both.into_iter().unzip();
    let ids: Vec<&str> = networks.iter().map(|network| network.id.as_str()).collect();
    as_the_go_plugin_left_it(&world, &ids).await;
    world.restart().await;
    for (id, endpoint) in ids.iter().zip(&endpoints) {
        let (create_network, create_endpoint) = calls(id, endpoint);
        world.drivers.adopt_network(&create_network).await.unwrap();
        assert!(world.drivers.adopt_endpoint(&create_endpoint).await.unwrap());
    }
    assert_eq!(profile_names(&world).await, [pool], "it is both networks'");

    let engine = Engine::new(&world);
    for (network, endpoint) in networks.iter().zip(&endpoints) {
        let (network, _) = with_its_pool_id(network.clone(), endpoint.clone());
        engine.run(&network).await.unwrap();
    }
    let all = world.endpoints().await;
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|wep| wep.spec.profiles == [pool]), "old and new know each other");

    // An engine that repeats its call changes nothing.
    let (again, _) = calls(ids[0], &endpoints[0]);
    world.drivers.handle(Request::CreateNetwork(again)).await.unwrap();
    assert_eq!(profile_names(&world).await, [pool]);

    // A network that is made now is nobody else's, also if this plugin's state is lost.
    let new = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let its_own = format!("network-{}", new.id);
    assert_eq!(profile_names(&world).await, [pool, its_own.as_str()]);
    let endpoint = engine.run(&new).await.unwrap();
    let record = format!("/libnetwork/v1/network/{}", new.id);
    world.store.inner().commit(Txn::new().remove(record)).await.unwrap();
    let (lost, _) = calls(&new.id, &endpoint);
    world.drivers.adopt_network(&lost).await.unwrap();
    engine.run(&new).await.unwrap();
    let of_new = world.endpoints().await.into_iter().filter(|wep| wep.spec.profiles == [its_own.as_str()]);
    assert_eq!(of_new.count(), 2);
}

#[tokio::test]
async fn its_dead_endpoint_is_collected_and_an_address_of_nobody_known_is_left() {
    let mut world = World::new().await;
    let (network, endpoint) = lived_in(&world).await;
    as_the_go_plugin_left_it(&world, &[&network.id]).await;
    // Another node's Go plugin has one in the same block.
    let block = only_key(&world, "/calico/ipam/v2/assignment/ipv4/block/").await;
    edit(&world, &block, |block| {
        block["allocations"][9] = json!(0);
        let free = block["unallocated"].as_array_mut().unwrap();
        free.retain(|ordinal| ordinal != 9);
    })
    .await;
    world.host.kill(&endpoint.id);
    world.restart().await;
    world.docker.add_network(&network.id);
    world.collect().await;
    assert!(world.endpoints().await.is_empty());
    let left = world.allocated().await;
    assert!(left.len() == 1 && !left.contains(endpoint.ip()), "{left:?}");
}
