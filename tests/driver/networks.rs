//! Pools, addresses and networks.

use crate::engine::{Engine, NetworkPlan, RunPlan, Subnet, any_v6, new_id, plan, subnet};
use crate::world::{World, options};
use calico_libnetwork::model::{AllocationBlock, key};
use calico_libnetwork::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn pool(address_space: &str, pool: &str, sub_pool: &str, options: &Value, v6: bool) -> Value {
    json!({"AddressSpace": address_space, "Pool": pool, "SubPool": sub_pool, "Options": options, "V6": v6})
}

fn address(pool: &str, address: &str) -> Value {
    json!({"PoolID": pool, "Address": address, "Options": null})
}

fn gateway(pool: &str, address: &str) -> Value {
    json!({"PoolID": pool, "Address": address, "Options": {"RequestAddressType": "com.docker.network.gateway"}})
}

#[tokio::test]
async fn the_same_subnet_has_the_same_pool_id_on_every_node() {
    // 12
    let first = World::new().await;
    let mut other = options();
    other.node = "docker-2".parse().unwrap();
    let second = World::on(first.store.clone(), other).await;
    for (prefix, v6) in [("10.9.0.0/24", false), ("fd09::/64", true)] {
        let body = pool("CalicoAddressSpace", prefix, "", &json!({}), v6);
        let id = first.ok("IpamDriver.RequestPool", &body).await["PoolID"].clone();
        assert_eq!(id, prefix);
        assert_eq!(first.ok("IpamDriver.RequestPool", &body).await["PoolID"], id);
        assert_eq!(second.ok("IpamDriver.RequestPool", &body).await["PoolID"], id);
    }
}

#[tokio::test]
async fn without_a_subnet_the_pool_overlaps_nothing_that_an_engine_compares_it_with() {
    // 13
    let world = World::new().await;
    for (v6, prefix, gateway) in [(false, "0.0.0.0/0", "169.254.1.1/32"), (true, "::/0", "fe80::1/128")] {
        let answer = world.ok("IpamDriver.RequestPool", &pool("x", "", "", &json!({}), v6)).await;
        assert_eq!(answer["Pool"], prefix);
        assert_eq!(answer["Data"]["com.docker.network.gateway"], gateway);
    }
}

#[tokio::test]
async fn an_ipv6_subnet_needs_no_flag_and_strays_of_swarm_leaders_are_taken() {
    // 14, 22
    let world = World::new().await;
    let strays =
        json!({"RequestAddressType": "com.docker.network.gateway", "com.docker.network.ipam.serial": "true"});
    for options in [&strays, &json!(null), &json!({})] {
        let answer = world.ok("IpamDriver.RequestPool", &pool("x", "fd09::/64", "", options, false)).await;
        assert_eq!(answer["Pool"], "fd09::/64");
    }
    let body = pool("x", "10.9.0.0/24", "", &json!({"pool": "web"}), false);
    let refused = world.refusal("IpamDriver.RequestPool", &body);
    assert!(refused.await.contains("ipam-opt pool"));
}

#[tokio::test]
async fn a_range_confines_addresses_that_nobody_named() {
    // 15
    let world = World::new().await;
    let engine = Engine::new(&world);
    let range = Subnet { range: "10.9.0.128/28", ..subnet("10.9.0.0/24") };
    let network = engine.create(&plan(&[range])).await.unwrap();
    let mut endpoints = Vec::new();
    for _ in 0..16 {
        endpoints.push(engine.run(&network).await.unwrap());
    }
    for endpoint in &endpoints {
        let last: u8 = endpoint.ip().strip_prefix("10.9.0.").unwrap().parse().unwrap();
        assert!((128..144).contains(&last), "{}", endpoint.ip());
    }
    let full = engine.run(&network).await.unwrap_err();
    assert!(full.contains("10.9.0.128/28") && full.contains("16 of 16 used"), "{full}");
    let named = RunPlan { ip: "10.9.0.7", ..RunPlan::default() };
    endpoints.push(engine.run_with(&network, &named).await.unwrap());
    for endpoint in &endpoints {
        engine.stop(endpoint).await;
    }
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn an_address_outside_the_network_is_refused_by_name() {
    // 15
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let outside = RunPlan { ip: "10.8.0.7", ..RunPlan::default() };
    let error = engine.run_with(&network, &outside).await.unwrap_err();
    assert_eq!(error, "10.8.0.7 is not inside 10.9.0.0/24");
    // An engine that asked nobody for the address.
    let body = json!({"NetworkID": network.id, "EndpointID": new_id(), "Options": {},
        "Interface": {"Address": "192.168.0.5/32", "AddressIPv6": "", "MacAddress": ""}});
    let error = world.refusal("NetworkDriver.CreateEndpoint", &body).await;
    assert_eq!(error, "192.168.0.5 is not inside the network's 10.9.0.0/24");
    assert!(engine.create(&plan(&[Subnet { range: "10.7.0.0/28", ..subnet("10.9.0.0/24") }])).await.is_err());
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn a_gateway_costs_no_address_however_often_it_is_asked_for() {
    // 16
    let world = World::new().await;
    world.ok("IpamDriver.RequestPool", &pool("x", "10.9.0.0/24", "", &json!({}), false)).await;
    for _ in 0..3 {
        let answer = world.ok("IpamDriver.RequestAddress", &gateway("10.9.0.0/24", "")).await;
        assert_eq!(answer["Address"], "169.254.1.1/32");
        let answer = world.ok("IpamDriver.RequestAddress", &gateway("10.9.0.0/24", "10.9.0.254")).await;
        assert_eq!(answer["Address"], "10.9.0.254/24");
    }
    let outside = world.refusal("IpamDriver.RequestAddress", &gateway("10.9.0.0/24", "10.8.0.1")).await;
    assert!(outside.contains("10.8.0.1") && outside.contains("10.9.0.0/24"), "{outside}");
    assert!(world.allocated().await.is_empty());
}

#[tokio::test]
async fn an_explicit_address_is_given_once_and_again_only_before_it_is_used() {
    // 18
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    for _ in 0..2 {
        let answer = world.ok("IpamDriver.RequestAddress", &address("10.9.0.0/24", "10.9.0.7")).await;
        assert_eq!(answer["Address"], "10.9.0.7/32");
    }
    let named = RunPlan { ip: "10.9.0.7", ..RunPlan::default() };
    let endpoint = engine.run_with(&network, &named).await.unwrap();
    let error = engine.run_with(&network, &named).await.unwrap_err();
    assert!(error.contains("10.9.0.7 is already in use by endpoint"), "{error}");
    assert!(error.contains(&endpoint.id[..12]), "{error}");
    engine.stop(&endpoint).await;
    let again = engine.run_with(&network, &named).await.unwrap();
    engine.stop(&again).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn an_address_of_another_node_is_nobody_elses() {
    // 18, 20
    let first = World::new().await;
    let mut other = options();
    other.node = "docker-2".parse().unwrap();
    let second = World::on(first.store.clone(), other).await;
    let network = Engine::new(&first).create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint = Engine::new(&first).run(&network).await.unwrap();
    let body = address("10.9.0.0/24", endpoint.ip());
    let error = second.refusal("IpamDriver.RequestAddress", &body).await;
    assert!(error.contains("already in use on node docker-1"), "{error}");
    second.ok("IpamDriver.ReleaseAddress", &body).await;
    assert!(first.allocated().await.contains(endpoint.ip()));
    let mut collector = second.collector(std::time::Duration::ZERO);
    collector.pass().await.unwrap();
    collector.pass().await.unwrap();
    assert!(first.allocated().await.contains(endpoint.ip()), "another node's collector took it");
    assert_eq!(first.endpoints().await.len(), 1);
}

#[tokio::test]
async fn auxiliary_addresses_are_never_handed_out() {
    // 19
    let world = World::new().await;
    let engine = Engine::new(&world);
    let tiny = Subnet { aux: &["10.9.0.1", "10.9.0.2"], ..subnet("10.9.0.0/29") };
    let network = engine.create(&plan(&[tiny])).await.unwrap();
    let mut seen = BTreeSet::new();
    let mut endpoints = Vec::new();
    while let Ok(endpoint) = engine.run(&network).await {
        seen.insert(endpoint.ip().to_owned());
        endpoints.push(endpoint);
    }
    assert_eq!(seen.len(), 6);
    assert!(!seen.contains("10.9.0.1") && !seen.contains("10.9.0.2"));
    let error =
        engine.run_with(&network, &RunPlan { ip: "10.9.0.1", ..RunPlan::default() }).await.unwrap_err();
    assert!(error.contains("10.9.0.1 is already in use"), "{error}");
    world.docker.add_network(&network.id);
    endpoints.iter().for_each(|endpoint| world.docker.add_container("running", &[&endpoint.id]));
    world.collect().await;
    assert_eq!(world.allocated().await.len(), 8, "the collector took an auxiliary address");
    assert_eq!(world.audit().await, Vec::<String>::new(), "a network keeps them");
    for endpoint in &endpoints {
        engine.stop(endpoint).await;
    }
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn releases_of_what_is_not_there_succeed() {
    // 20, 21
    let world = World::new().await;
    for (pool, ip) in [
        ("10.9.0.0/24", "10.9.0.7"),
        ("CalicoPoolIPv4", "169.254.1.1"),
        ("CalicoPoolIPv6", "fe80::1"),
        ("LocalDefault/172.17.0.0/16", "172.17.0.2"),
        ("", ""),
        ("CalicoPoolIPv4", "nonsense"),
    ] {
        assert_eq!(world.ok("IpamDriver.ReleaseAddress", &address(pool, ip)).await, json!({}));
        assert_eq!(world.ok("IpamDriver.ReleasePool", &json!({"PoolID": pool})).await, json!({}));
    }
}

#[tokio::test]
async fn a_live_endpoint_keeps_address_and_pool_against_late_releases() {
    // 20, 21
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    world.ok("IpamDriver.ReleaseAddress", &address("10.9.0.0/24", endpoint.ip())).await;
    world.ok("IpamDriver.ReleasePool", &json!({"PoolID": "10.9.0.0/24"})).await;
    assert!(world.allocated().await.contains(endpoint.ip()));
    assert!(world.pools().await.iter().any(|pool| pool.spec.cidr.to_string() == "10.9.0.0/24"));
    engine.stop(&endpoint).await;
    // Once more, late: somebody else may have the address by now.
    let next = engine.run(&network).await.unwrap();
    engine.stop(&endpoint).await;
    assert!(world.allocated().await.contains(next.ip()));
    engine.stop(&next).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn an_address_that_no_endpoint_takes_is_reclaimed() {
    // 23
    let world = World::new().await;
    world.ok("IpamDriver.RequestAddress", &address("CalicoPoolIPv4", "")).await;
    assert_eq!(world.allocated().await.len(), 1);
    let mut patient = world.collector(std::time::Duration::from_secs(60));
    patient.pass().await.unwrap();
    patient.pass().await.unwrap();
    assert_eq!(world.allocated().await.len(), 1, "it was on its way");
    world.collect().await;
    world.assert_clean("after the collector").await;
}

#[tokio::test]
async fn an_endpoint_whose_address_was_collected_takes_it_again() {
    let world = World::new().await;
    let network = Engine::new(&world).create(&plan(&[subnet("")])).await.unwrap();
    let answer = world.ok("IpamDriver.RequestAddress", &address("CalicoPoolIPv4", "")).await;
    let ip = answer["Address"].as_str().unwrap().to_owned();
    world.docker.add_network(&network.id);
    world.collect().await;
    assert!(world.allocated().await.is_empty());
    let body = json!({"NetworkID": network.id, "EndpointID": new_id(), "Options": {},
        "Interface": {"Address": ip, "AddressIPv6": "", "MacAddress": ""}});
    world.ok("NetworkDriver.CreateEndpoint", &body).await;
    assert_eq!(world.allocated().await.len(), 1);
}

#[tokio::test]
async fn create_network_can_be_repeated_and_comes_in_all_forms() {
    // 24, 25
    let world = World::new().await;
    let v4 = json!({"AddressSpace": "CalicoAddressSpace", "Pool": "0.0.0.0/0"});
    let v6 = json!({"AddressSpace": "CalicoAddressSpace", "Pool": "::/0", "AuxAddresses": {}});
    for (id, ipv4, ipv6) in [
        (new_id(), json!([v4]), json!([])),
        ("pib0f9vh4r0s1zzbx0l3sy1ge".to_owned(), json!([v4]), json!(null)),
        (new_id(), json!([]), json!([v6])),
        (new_id(), json!([v4]), json!([v6])),
    ] {
        let body = json!({"NetworkID": id, "Options": {"com.docker.network.generic": {}}, "IPv4Data": ipv4, "IPv6Data": ipv6});
        for _ in 0..2 {
            assert_eq!(world.ok("NetworkDriver.CreateNetwork", &body).await, json!({}));
        }
        for _ in 0..2 {
            assert_eq!(world.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": id})).await, json!({}));
        }
        world.assert_clean("after the network").await;
    }
    let nothing = json!({"NetworkID": new_id(), "Options": {}, "IPv4Data": [], "IPv6Data": []});
    assert!(
        world
            .refusal("NetworkDriver.CreateNetwork", &nothing)
            .await
            .contains("needs an IPv4 or an IPv6 prefix")
    );
    world.assert_clean("after a refusal").await;
}

#[tokio::test]
async fn options_are_taken_or_refused_by_name() {
    // 26
    let world = World::new().await;
    let engine = Engine::new(&world);
    let with = |options: Value| NetworkPlan { options, ..plan(&[subnet("")]) };
    for (options, word) in [
        (json!({"parent": "eth0"}), "parent"),
        (json!({"com.docker.network.driver.mtu": "12"}), "mtu=12"),
        (json!({"com.docker.network.container_iface_prefix": "no/slash"}), "no/slash"),
        (json!({"org.projectcalico.profile": "Web_1"}), "Web_1"),
    ] {
        let error = engine.create(&with(options)).await.unwrap_err();
        assert!(error.contains(word), "{error}");
        world.assert_clean(word).await;
    }
    let taken =
        json!({"com.docker.network.driver.mtu": "9000", "com.docker.network.container_iface_prefix": "eth"});
    let network = engine.create(&with(taken)).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    assert_eq!(endpoint.joined["InterfaceName"]["DstPrefix"], "eth");
    assert_eq!(world.host.endpoints()[0].mtu, 9000);
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn delete_network_cleans_up_what_the_engine_has_forgotten() {
    // 27
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap();
    for _ in 0..3 {
        engine.run(&network).await.unwrap();
    }
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
    world.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": "neverseen"})).await;
}

#[tokio::test]
async fn several_networks_share_one_pool() {
    // defect 3
    let world = World::new().await;
    let engine = Engine::new(&world);
    let first = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let second = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let inside = engine.create(&plan(&[subnet("10.9.0.64/26")])).await.unwrap();
    let mut endpoints = Vec::new();
    for network in [&first, &second, &inside, &first, &second, &inside] {
        endpoints.push(engine.run(network).await.unwrap());
    }
    let addresses: BTreeSet<_> = endpoints.iter().map(crate::engine::Endpoint::ip).collect();
    assert_eq!(addresses.len(), 6);
    let profiles: BTreeSet<_> =
        world.endpoints().await.into_iter().flat_map(|endpoint| endpoint.spec.profiles).collect();
    assert_eq!(profiles.len(), 3, "networks on one pool are kept apart by their profiles");
    for endpoint in &endpoints {
        engine.stop(endpoint).await;
    }
    engine.remove(&first).await;
    let still = engine.run(&second).await.unwrap();
    engine.stop(&still).await;
    engine.remove(&second).await;
    assert!(engine.run(&inside).await.is_ok(), "the pool was taken from under the last network");
    engine.remove(&inside).await;
    world.assert_clean("after the networks").await;
}

#[tokio::test]
async fn a_network_without_a_subnet_serves_from_every_pool() {
    // defect 4
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet(""), any_v6()])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    assert!(endpoint.ip().starts_with("192.168."), "{}", endpoint.ip());
    assert!(endpoint.addresses[1].1.starts_with("fd80:24e2:f998:72d6:"), "{:?}", endpoint.addresses);
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn an_ipv6_only_network_gives_ipv6_only() {
    // 56
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("fd09::/64")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    assert_eq!(endpoint.joined.get("Gateway"), None);
    assert_eq!(endpoint.joined["GatewayIPv6"], "fe80::1");
    assert_eq!(endpoint.joined["StaticRoutes"], json!([{"Destination": "fe80::1/128", "RouteType": 1}]));
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn every_allocation_says_whose_it_is() {
    // defect 1
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    for _ in 0..2 {
        engine.run(&network).await.unwrap();
    }
    let mut handles = BTreeSet::new();
    for entry in world.store.inner().list(key::BLOCK_ROOT).await.unwrap().entries {
        let block: AllocationBlock = serde_json::from_slice(&entry.value).unwrap();
        for held in block.allocations.iter().flatten() {
            let attribute = serde_json::to_value(&block.attributes[*held]).unwrap();
            assert_eq!(attribute["secondary"]["node"], "docker-1");
            assert_eq!(attribute["secondary"]["container"], "c1");
            assert!(
                handles.insert(attribute["handle_id"].as_str().unwrap().to_owned()),
                "a handle is shared"
            );
        }
    }
    assert_eq!(handles.len(), 2);
    assert!(handles.iter().all(|handle| handle.starts_with("libnetwork.docker-1.")), "{handles:?}");
}

#[tokio::test]
async fn a_network_has_a_profile_that_lets_its_own_endpoints_in() {
    // (51) defects 2, 5
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap();
    let [profile] = &world.profiles().await[..] else { panic!("one profile is expected") };
    assert_eq!(profile.name(), format!("network-{}", network.id));
    let label = format!("network.projectcalico.org/{}", &network.id[..32]);
    assert!(profile.spec.labels_to_apply.as_ref().unwrap().contains_key(&label));
    engine.run(&network).await.unwrap();
    assert_eq!(world.endpoints().await[0].spec.profiles, [profile.name()]);
}

#[tokio::test]
async fn a_profile_of_the_users_choice_is_shared_and_stays() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let shared = NetworkPlan { options: json!({"org.projectcalico.profile": "web"}), ..plan(&[subnet("")]) };
    let [a, b] = [engine.create(&shared).await.unwrap(), engine.create(&shared).await.unwrap()];
    assert_eq!(world.profiles().await.len(), 1);
    engine.remove(&a).await;
    engine.remove(&b).await;
    assert_eq!(world.profiles().await[0].name(), "web", "other hosts may use it, and only its user knows");
}

#[tokio::test]
async fn a_swarm_networks_profile_goes_with_its_last_node() {
    let mut settings = options();
    settings.shared_datastore = true;
    let first = World::with(settings.clone()).await;
    settings.node = "docker-2".parse().unwrap();
    let second = World::on(first.store.clone(), settings).await;
    let id = "pib0f9vh4r0s1zzbx0l3sy1ge";
    let body = json!({"NetworkID": id, "Options": {}, "IPv6Data": [],
        "IPv4Data": [{"AddressSpace": "CalicoAddressSpace", "Pool": "0.0.0.0/0"}]});
    first.ok("NetworkDriver.CreateNetwork", &body).await;
    second.ok("NetworkDriver.CreateNetwork", &body).await;
    first.ok("NetworkDriver.DeleteNetwork", &json!({"NetworkID": id})).await;
    assert_eq!(first.profiles().await.len(), 1, "the other node's containers would be cut off");
}

#[tokio::test]
async fn networks_of_dockers_own_ipam_work_on_one_machine() {
    // D8b
    let world = World::new().await;
    let engine = Engine::new(&world);
    let own = NetworkPlan { of_docker: vec!["172.19.0.0/16", "fd19::/64"], ..NetworkPlan::default() };
    let network = engine.create(&own).await.unwrap();
    let made: Vec<_> =
        world.pools().await.into_iter().filter(|pool| !pool.name().starts_with("default")).collect();
    assert_eq!(made.len(), 2);
    assert!(made.iter().all(|pool| pool.spec.disabled && pool.spec.nat_outgoing));
    let run = RunPlan { ip: "172.19.0.2/16", ip6: "fd19::2/64", ..RunPlan::default() };
    let endpoint = engine.run_with(&network, &run).await.unwrap();
    assert!(world.allocated().await.is_empty(), "these addresses are Docker's");
    assert_eq!(world.endpoints().await[0].spec.ip_networks, ["172.19.0.2/32", "fd19::2/128"]);
    let routes = endpoint.joined["StaticRoutes"].to_string();
    assert!(routes.contains("fd19::/65") && !routes.contains("172.19"), "{routes}");
    let overlapping = NetworkPlan { of_docker: vec!["172.19.0.0/24"], ..NetworkPlan::default() };
    let error = engine.create(&overlapping).await.unwrap_err();
    assert!(error.contains("172.19.0.0/24") && error.contains("172.19.0.0/16"), "{error}");
    world.docker.add_network(&network.id);
    world.docker.add_container("running", &[&endpoint.id]);
    world.collect().await;
    assert_eq!(world.pools().await.len(), 4);
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn two_prefixes_of_one_version_are_two_pools() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let own = NetworkPlan { of_docker: vec!["172.19.0.0/24", "172.20.0.0/24"], ..NetworkPlan::default() };
    let network = engine.create(&own).await.unwrap();
    assert_eq!(world.pools().await.len(), 4);
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn dockers_own_ipam_is_refused_where_other_nodes_share_the_datastore() {
    // D8b
    let mut settings = options();
    settings.shared_datastore = true;
    let world = World::with(settings).await;
    let own = NetworkPlan { of_docker: vec!["172.19.0.0/16"], ..NetworkPlan::default() };
    let error = Engine::new(&world).create(&own).await.unwrap_err();
    assert!(error.contains("--ipam-driver"), "{error}");
    world.assert_clean("after the refusal").await;
}

#[tokio::test]
async fn a_pool_keeps_out_of_other_pools_and_of_the_hosts_routes() {
    let world = World::new().await;
    world.host.add_route("10.20.0.0/16", "eth1");
    let engine = Engine::new(&world);
    for (wanted, words) in [
        ("10.20.5.0/24", ["10.20.0.0/16", "eth1"]),
        ("192.0.0.0/8", ["192.168.0.0/16", "default-ipv4-ippool"]),
        ("169.254.7.0/24", ["link-local", "169.254.0.0/16"]),
        ("fe80::/64", ["link-local", "fe80::/10"]),
    ] {
        let error = engine.create(&plan(&[subnet(wanted)])).await.unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        world.assert_clean(wanted).await;
    }
}

#[tokio::test]
async fn where_pools_are_the_operators_a_subnet_needs_one() {
    let mut settings = options();
    settings.create_pools = false;
    let world = World::with(settings).await;
    let engine = Engine::new(&world);
    let error = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap_err();
    assert!(error.contains("10.9.0.0/24") && error.contains("default-ipv4-ippool 192.168.0.0/16"), "{error}");
    let network = engine.create(&plan(&[subnet("192.168.7.0/24")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    assert!(endpoint.ip().starts_with("192.168.7."), "{}", endpoint.ip());
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn a_given_gateway_has_no_effect_and_takes_nothing_from_others() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let other =
        engine.create(&plan(&[Subnet { aux: &["10.9.0.9"], ..subnet("10.9.0.0/24") }])).await.unwrap();
    let given = |gateway| Subnet { gateway, ..subnet("10.9.0.0/24") };
    // An address that a container of the first network has is the second one's gateway.
    let holder = engine.run_with(&other, &RunPlan { ip: "10.9.0.254", ..RunPlan::default() }).await.unwrap();
    let network = engine.create(&plan(&[given("10.9.0.254")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    assert_eq!(endpoint.joined["Gateway"], "169.254.1.1");
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    assert!(world.allocated().await.contains("10.9.0.254"));
    // The first one's auxiliary address is the third one's gateway.
    let third = engine.create(&plan(&[given("10.9.0.9")])).await.unwrap();
    engine.remove(&third).await;
    assert!(world.allocated().await.contains("10.9.0.9"));
    engine.stop(&holder).await;
    engine.remove(&other).await;
    world.assert_clean("after the networks").await;
}

#[tokio::test]
async fn swarm_calls_that_need_no_state_are_answered() {
    // 37, 40, 41
    let world = World::new().await;
    let body = json!({"NetworkID": "pib0", "Options": {"a": "b"}, "IPv4Data": [], "IPv6Data": null});
    assert_eq!(world.ok("NetworkDriver.AllocateNetwork", &body).await, json!({"Options": {"a": "b"}}));
    world.ok("NetworkDriver.FreeNetwork", &json!({"NetworkID": "pib0"})).await;
    for data in [
        json!({"Address": "10.99.0.6", "BindAddress": "10.99.0.6", "Self": true}),
        json!({"Address": "10.99.0.7"}),
    ] {
        let body = json!({"DiscoveryType": 1, "DiscoveryData": data});
        world.ok("NetworkDriver.DiscoverNew", &body).await;
        world.ok("NetworkDriver.DiscoverDelete", &body).await;
    }
    let unknown = json!({"NetworkID": "n", "EndpointID": "e"});
    assert_eq!(world.ok("NetworkDriver.EndpointOperInfo", &unknown).await, json!({"Value": {}}));
    world.assert_clean("after calls without state").await;
}
