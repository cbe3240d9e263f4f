//! Endpoints and sandboxes.

use crate::engine::{Engine, NetworkPlan, RunPlan, new_id, plan, subnet};
use crate::host::Fate;
use crate::world::{World, decode};
use calico_libnetwork::store::faulty::Verb;
use serde_json::{Value, json};

fn create(network: &str, id: &str, interface: &Value) -> Value {
    json!({"NetworkID": network, "EndpointID": id, "Interface": interface, "Options": {}})
}

#[tokio::test]
async fn the_answer_holds_a_mac_only_if_none_was_asked_for() {
    // 28
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap();
    for (number, (mac, answered)) in [("", true), ("02:11:22:33:44:55", false)].into_iter().enumerate() {
        let interface = json!({"Address": format!("10.9.0.{}/32", number + 1), "MacAddress": mac,
            "AddressIPv6": format!("fd09::{}/128", number + 1)});
        let answer =
            world.ok("NetworkDriver.CreateEndpoint", &create(&network.id, &new_id(), &interface)).await;
        let answer = answer["Interface"].as_object().unwrap();
        assert_eq!(answer.contains_key("MacAddress"), answered);
        assert_eq!(
            answer.len(),
            usize::from(answered),
            "the engine refuses what it chose itself: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_mac_that_no_interface_can_have_is_refused() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    for mac in ["01:00:5e:00:00:01", "00:00:00:00:00:00", "02:11", "nonsense"] {
        let error = engine.run_with(&network, &RunPlan { mac, ..RunPlan::default() }).await.unwrap_err();
        assert!(error.contains(mac), "{error}");
    }
    engine.remove(&network).await;
    world.assert_clean("after refusals").await;
}

#[tokio::test]
async fn every_call_of_a_start_can_be_repeated() {
    // 29
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let id = new_id();
    let body = create(&network.id, &id, &json!({"Address": "10.9.0.7/32"}));
    let first = world.ok("NetworkDriver.CreateEndpoint", &body).await;
    assert_eq!(world.ok("NetworkDriver.CreateEndpoint", &body).await, first);
    let join = json!({"NetworkID": network.id, "EndpointID": id, "SandboxKey": "/run/docker/netns/1", "Options": {}});
    let first = world.ok("NetworkDriver.Join", &join).await;
    assert_eq!(world.ok("NetworkDriver.Join", &join).await, first);
    assert_eq!((world.host.endpoints().len(), world.endpoints().await.len()), (1, 1));
    assert_eq!(
        world.ok("NetworkDriver.CreateEndpoint", &body).await["Interface"].as_object().unwrap().len(),
        1
    );
    let other = create(&network.id, &id, &json!({"Address": "10.9.0.8/32"}));
    assert!(
        world.refusal("NetworkDriver.CreateEndpoint", &other).await.contains("exists with other addresses")
    );
}

#[tokio::test]
async fn what_is_gone_can_be_removed_again() {
    // 38, defect 14
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    let reference = endpoint.reference();
    for method in
        ["RevokeExternalConnectivity", "Leave", "Leave", "DeleteEndpoint", "DeleteEndpoint", "Leave"]
    {
        assert_eq!(world.ok(&format!("NetworkDriver.{method}"), &reference).await, json!({}), "{method}");
    }
    engine.stop(&endpoint).await;
    // DeleteEndpoint without Leave, Leave without Join.
    let endpoint = engine.run(&network).await.unwrap();
    world.ok("NetworkDriver.DeleteEndpoint", &endpoint.reference()).await;
    assert!(world.host.endpoints().is_empty());
    engine.stop(&endpoint).await;
    let id = new_id();
    world
        .ok("NetworkDriver.CreateEndpoint", &create(&network.id, &id, &json!({"Address": "192.168.0.9/32"})))
        .await;
    let reference = json!({"NetworkID": network.id, "EndpointID": id});
    world.ok("NetworkDriver.Leave", &reference).await;
    world.ok("NetworkDriver.DeleteEndpoint", &reference).await;
    world
        .ok("IpamDriver.ReleaseAddress", &json!({"PoolID": "CalicoPoolIPv4", "Address": "192.168.0.9"}))
        .await;
    engine.remove(&network).await;
    world.assert_clean("after everything").await;
}

#[tokio::test]
async fn a_failed_create_needs_no_delete() {
    // 31
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let options = json!({"k1": "v1"}).as_object().unwrap().clone();
    let error = engine.run_with(&network, &RunPlan { options, ..RunPlan::default() }).await.unwrap_err();
    assert!(error.contains("driver-opt k1"), "{error}");
    engine.remove(&network).await;
    world.assert_clean("after a refusal").await;
}

#[tokio::test]
async fn unknown_networks_and_endpoints_are_named() {
    let world = World::new().await;
    let body = create("gone", "e1", &json!({"Address": "10.9.0.7/32"}));
    assert!(world.refusal("NetworkDriver.CreateEndpoint", &body).await.contains("network gone is not known"));
    let join = json!({"NetworkID": "gone", "EndpointID": "e1", "SandboxKey": "s", "Options": {}});
    assert!(world.refusal("NetworkDriver.Join", &join).await.contains("endpoint e1 is not known"));
    let ports = json!({"NetworkID": "gone", "EndpointID": "e1",
        "Options": {"com.docker.network.portmap": [crate::engine::port(0, 80)]}});
    assert!(
        world
            .refusal("NetworkDriver.ProgramExternalConnectivity", &ports)
            .await
            .contains("endpoint e1 is not known")
    );
}

#[tokio::test]
async fn bodies_without_meaning_change_nothing() {
    // 7, 8
    let world = World::new().await;
    let methods = [
        "IpamDriver.RequestPool",
        "IpamDriver.ReleasePool",
        "IpamDriver.RequestAddress",
        "IpamDriver.ReleaseAddress",
        "NetworkDriver.CreateNetwork",
        "NetworkDriver.DeleteNetwork",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.DeleteEndpoint",
        "NetworkDriver.Join",
        "NetworkDriver.Leave",
        "NetworkDriver.ProgramExternalConnectivity",
        "NetworkDriver.RevokeExternalConnectivity",
    ];
    let writes = world.store.calls(Verb::Commit);
    for method in methods {
        assert!(decode(method, b"").unwrap_err().contains("without arguments"), "{method}");
        assert!(decode(method, b"[]").is_err(), "{method}");
        // An object with nothing in it is refused, or is a release of nothing; RequestPool means any pool by it.
        let answer = world.call(method, &json!({})).await;
        let releases = method.starts_with("IpamDriver.Release");
        assert_eq!(answer.is_ok(), releases || method.ends_with("RequestPool"), "{method}: {answer:?}");
    }
    for id in ["../../etc", "", "a b", &"x".repeat(200)] {
        let body = json!({"NetworkID": id, "EndpointID": id});
        assert!(world.call("NetworkDriver.DeleteEndpoint", &body).await.is_err(), "{id}");
        assert!(world.call("NetworkDriver.DeleteNetwork", &body).await.is_err(), "{id}");
    }
    assert_eq!(world.store.calls(Verb::Commit), writes);
    world.assert_clean("after nonsense").await;
}

#[tokio::test]
async fn join_gives_what_the_endpoint_has_addresses_for() {
    // 32, 33, defect 7
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")])).await.unwrap();
    let both = engine.run(&network).await.unwrap();
    assert_eq!(both.joined["Gateway"], "169.254.1.1");
    assert_eq!(both.joined["GatewayIPv6"], "fe80::1");
    assert_eq!(both.joined["StaticRoutes"].as_array().unwrap().len(), 2);
    let name = both.joined["InterfaceName"]["SrcName"].as_str().unwrap();
    let link = world.host.endpoints().remove(0);
    assert!(name.len() <= 15 && link.temp.as_str() == name);
    assert_eq!((link.mtu, link.gateway_v6.unwrap().to_string()), (1400, "fe80::1".to_owned()));
    // A container with IPv6 disabled in it gets no IPv6 address from engines 28 and later.
    let id = new_id();
    world
        .ok("NetworkDriver.CreateEndpoint", &create(&network.id, &id, &json!({"Address": "10.9.0.7/32"})))
        .await;
    let join = json!({"NetworkID": network.id, "EndpointID": id, "SandboxKey": "/nowhere", "Options": {}});
    let answer = world.ok("NetworkDriver.Join", &join).await;
    assert!(answer.get("GatewayIPv6").is_none() && !answer.to_string().contains("fe80"), "{answer}");
}

#[tokio::test]
async fn an_internal_network_has_no_gateway() {
    // 25
    let world = World::new().await;
    let engine = Engine::new(&world);
    let internal = NetworkPlan { internal: true, ..plan(&[subnet("10.9.0.0/24"), subnet("fd09::/64")]) };
    let network = engine.create(&internal).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    assert!(endpoint.joined.get("Gateway").is_none() && endpoint.joined.get("GatewayIPv6").is_none());
    let routes = endpoint.joined["StaticRoutes"].to_string();
    assert!(routes.contains("10.9.0.0/24") && routes.contains("fd09::"), "{routes}");
}

#[tokio::test]
async fn endpoints_of_one_container_have_gateways_of_their_own() {
    // 33, 34
    let world = World::new().await;
    let engine = Engine::new(&world);
    let mut networks = Vec::new();
    for prefix in ["10.7.0.0/24", "10.8.0.0/24", "10.9.0.0/24"] {
        networks.push(engine.create(&plan(&[subnet(prefix)])).await.unwrap());
    }
    let sandbox = Some("/run/docker/netns/one".to_owned());
    let mut endpoints = Vec::new();
    for network in &networks {
        let connect = RunPlan { sandbox: sandbox.clone(), ..RunPlan::default() };
        endpoints.push(engine.run_with(network, &connect).await.unwrap());
    }
    let gateways: Vec<_> = endpoints.iter().map(|endpoint| endpoint.joined["Gateway"].clone()).collect();
    assert_eq!(gateways, ["169.254.1.1", "169.254.1.2", "169.254.1.3"]);
    engine.stop(&endpoints[1]).await;
    let again = engine.run_with(&networks[1], &RunPlan { sandbox, ..RunPlan::default() }).await.unwrap();
    assert_eq!(again.joined["Gateway"], "169.254.1.2");
    let alone = engine.run(&networks[1]).await.unwrap();
    assert_eq!(alone.joined["Gateway"], "169.254.1.1");
    for endpoint in [&endpoints[0], &again, &endpoints[2], &alone] {
        engine.stop(endpoint).await;
    }
    for network in &networks {
        engine.remove(network).await;
    }
    world.assert_clean("after the networks").await;
}

#[tokio::test]
async fn an_endpoint_can_move_to_another_sandbox() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    let mut join = endpoint.reference();
    join["SandboxKey"] = json!(format!("/{}/netns/abc", "deep/".repeat(60)));
    let answer = world.ok("NetworkDriver.Join", &join).await;
    assert_eq!(world.ok("NetworkDriver.Join", &join).await, answer);
    let links = world.host.endpoints();
    assert!(links.len() == 1 && links[0].alias.ends_with("/netns/abc") && links[0].alias.len() < 256);
    engine.stop(&endpoint).await;
    engine.remove(&network).await;
    world.assert_clean("after the network").await;
}

#[tokio::test]
async fn a_repeated_join_that_fails_leaves_the_container_its_interface() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let endpoint = engine.run(&network).await.unwrap();
    let mut join = endpoint.reference();
    join["SandboxKey"] = json!(endpoint.sandbox);
    world.firewall.faults.fail(1, Fate::Fails);
    assert!(world.call("NetworkDriver.Join", &join).await.is_err());
    assert_eq!(world.host.endpoints().len(), 1);
    assert_eq!(world.ok("NetworkDriver.Join", &join).await, endpoint.joined);
}

#[tokio::test]
async fn the_workload_endpoint_is_final_when_it_is_created() {
    // (47) defect 6, D10
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let id = new_id();
    world
        .ok("NetworkDriver.CreateEndpoint", &create(&network.id, &id, &json!({"Address": "10.9.0.7/32"})))
        .await;
    let before = world.endpoints().await;
    let writes = world.store.calls(Verb::Commit);
    let join = json!({"NetworkID": network.id, "EndpointID": id, "SandboxKey": "/nowhere", "Options": {}});
    world.ok("NetworkDriver.Join", &join).await;
    assert_eq!(world.endpoints().await, before);
    assert_eq!(world.store.calls(Verb::Commit), writes);
    let spec = &before[0].spec;
    assert_eq!(before[0].name(), format!("docker--1-libnetwork-libnetwork-{id}"));
    assert_eq!(
        (spec.node.as_str(), spec.interface_name.as_str()),
        ("docker-1", format!("cali{}", &id[..11]).as_str())
    );
}

#[tokio::test]
async fn a_start_costs_two_writes_and_one_look_at_the_links() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("10.9.0.0/24")])).await.unwrap();
    let first = engine.run(&network).await.unwrap();
    let (writes, looks) = (world.store.calls(Verb::Commit), world.host.link_lists());
    let second = engine.run(&network).await.unwrap();
    assert_eq!(world.store.calls(Verb::Commit) - writes, 2, "address and endpoint");
    assert_eq!(world.host.link_lists(), looks, "the uplink's MTU is remembered");
    let writes = world.store.calls(Verb::Commit);
    engine.stop(&second).await;
    assert_eq!(world.store.calls(Verb::Commit) - writes, 2, "endpoint and address");
    engine.stop(&first).await;
    assert_eq!(world.host.flushed().len(), 2, "flows of the old owners are forgotten");
}

#[tokio::test]
async fn labels_are_there_before_the_first_packet() {
    // (50) defect 9
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let with =
        |options: Value| RunPlan { options: options.as_object().unwrap().clone(), ..RunPlan::default() };
    let labelled = with(json!({"org.projectcalico.label.role": "db"}));
    engine.run_with(&network, &labelled).await.unwrap();
    assert_eq!(world.endpoints().await[0].metadata.labels.as_ref().unwrap()["role"], "db");
    let forged = with(json!({"org.projectcalico.label.projectcalico.org/namespace": "x"}));
    assert!(engine.run_with(&network, &forged).await.unwrap_err().contains("reserved"));
}

#[tokio::test]
async fn an_interface_name_reaches_the_engine() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    let network = engine.create(&plan(&[subnet("")])).await.unwrap();
    let plain = engine.run(&network).await.unwrap();
    assert!(plain.joined["InterfaceName"].get("DstName").is_none());
    let named = |name: &str| RunPlan {
        options: json!({"com.docker.network.endpoint.ifname": name}).as_object().unwrap().clone(),
        ..RunPlan::default()
    };
    let endpoint = engine.run_with(&network, &named("eth7")).await.unwrap();
    assert_eq!(endpoint.joined["InterfaceName"]["DstName"], "eth7");
    assert!(engine.run_with(&network, &named("much-too-long-a-name")).await.is_err());
}
