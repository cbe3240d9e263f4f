//! What the driver writes beside what Calico's own client wrote for the same thing.

use crate::engine::Engine;
use crate::world::World;
use calico_libnetwork::model::{is_resource_name, parse_endpoint_name};
use calico_libnetwork::store::Store;
use serde_json::{Value, json};

const GOLDEN: &str = include_str!("../fixtures/calico-etcd-golden.txt");
const ROOT: &str = "/calico/resources/v3/projectcalico.org/";
const ENDPOINT: &str = "736ccfa7cd61ced93b67f7465ddb79633ea6d1f718a8ca7d9d19226f5d3521b0";

/// A resource as the client first stored it, without what differs from run to run.
fn golden(key: &str) -> Value {
    let mut lines = GOLDEN.lines();
    lines
        .find(|line| *line == format!("+ {ROOT}{key}"))
        .unwrap_or_else(|| panic!("{key} is not in the file"));
    comparable(serde_json::from_str(lines.next().unwrap().trim()).unwrap())
}

fn comparable(mut value: Value) -> Value {
    for field in ["uid", "creationTimestamp"] {
        let metadata = value["metadata"].as_object_mut().unwrap();
        assert!(metadata.remove(field).is_some_and(|it| it.is_string()), "{field} is stored");
        assert!(!metadata.contains_key("resourceVersion"));
    }
    value
}

async fn stored(world: &World, key: &str) -> Value {
    let entry = world.store.inner().get(&format!("{ROOT}{key}")).await.unwrap();
    serde_json::from_slice(&entry.unwrap_or_else(|| panic!("there is no {key}")).value).unwrap()
}

/// The network and the endpoint of the file.
async fn with_endpoint() -> World {
    let world = World::new().await;
    let network = json!({
        "NetworkID": "7c1c0a5d7c1c0a5d", "IPv4Data": [pool("10.10.0.0/24")],
        "IPv6Data": [pool("fd80:24e2:f998:72d6::/112")],
        "Options": {"com.docker.network.generic": {"org.projectcalico.profile": "front-end"}}
    });
    for (subnet, v6) in [("10.10.0.0/24", false), ("fd80:24e2:f998:72d6::/112", true)] {
        let request = json!({"AddressSpace": "CalicoGlobalAddressSpace", "Pool": subnet, "SubPool": "", "Options": {}, "V6": v6});
        let answer = world.ok("IpamDriver.RequestPool", &request).await;
        let address = if v6 { "fd80:24e2:f998:72d6::1" } else { "10.10.0.8" };
        let request = json!({"PoolID": answer["PoolID"], "Address": address, "Options": {}});
        world.ok("IpamDriver.RequestAddress", &request).await;
    }
    world.ok("NetworkDriver.CreateNetwork", &network).await;
    let endpoint = json!({
        "NetworkID": "7c1c0a5d7c1c0a5d", "EndpointID": ENDPOINT,
        "Interface": {"Address": "10.10.0.8/24", "AddressIPv6": "fd80:24e2:f998:72d6::1/112", "MacAddress": "ee:ee:ee:ee:ee:ee"},
        "Options": {"org.projectcalico.label.role": "web"}
    });
    world.ok("NetworkDriver.CreateEndpoint", &endpoint).await;
    world
}

fn pool(subnet: &str) -> Value {
    json!({"AddressSpace": "CalicoGlobalAddressSpace", "Pool": subnet, "Gateway": ""})
}

/// (43, 44, 45)
#[tokio::test]
async fn an_endpoint_is_written_as_calicos_client_writes_it() {
    let world = with_endpoint().await;
    let key = format!("workloadendpoints/libnetwork/docker--1-libnetwork-libnetwork-{ENDPOINT}");
    let mut ours = comparable(stored(&world, &key).await);
    // What only this plugin needs stands in annotations.
    ours["metadata"].as_object_mut().unwrap().remove("annotations");
    assert_eq!(ours, golden(&key));
}

/// (46) The first segment of the name is the host that Felix compares with its own, the third the workload
/// (`ConvertWorkloadEndpointV3KeyToV1Key`).
#[tokio::test]
async fn felix_finds_the_endpoint_under_its_node_and_network() {
    let world = with_endpoint().await;
    let endpoint = world.endpoints().await.remove(0);
    let (node, id) = parse_endpoint_name(endpoint.name()).unwrap();
    let segments: Vec<String> =
        endpoint.name().replace("--", "\0").split('-').map(|part| part.replace('\0', "-")).collect();
    assert_eq!(segments, ["docker-1", "libnetwork", "libnetwork", ENDPOINT]);
    assert_eq!((node.as_str(), id.as_str()), (endpoint.spec.node.as_str(), endpoint.spec.endpoint.as_str()));
    let workload = format!("{}/{}", endpoint.metadata.namespace.unwrap(), segments[2]).replace('/', "%2f");
    assert_eq!(
        format!(
            "/calico/v1/host/{}/workload/{}/{workload}/endpoint/{}",
            segments[0], segments[1], segments[3]
        ),
        format!("/calico/v1/host/docker-1/workload/libnetwork/libnetwork%2flibnetwork/endpoint/{ENDPOINT}")
    );
    // What Felix's validation asks for beyond the form of the names.
    assert!(endpoint.spec.interface_name.starts_with("cali") && endpoint.spec.interface_name.len() <= 15);
    assert!(!endpoint.spec.ip_networks.is_empty());
}

/// (49) The rules are the client's; only the label is one that no user can set.
#[tokio::test]
async fn a_profile_is_written_as_calicos_client_writes_it() {
    let world = with_endpoint().await;
    let mut ours = comparable(stored(&world, "profiles/front-end").await);
    ours["metadata"].as_object_mut().unwrap().remove("annotations");
    let text = ours.to_string().replace("network.projectcalico.org/front-end", "front-end");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), golden("profiles/front-end"));
}

/// Pools, tiers: fields and defaults are the client's.
#[tokio::test]
async fn pools_and_tiers_are_written_as_calicos_client_writes_them() {
    let world = with_endpoint().await;
    let pools = world.pools().await;
    let pool = pools.iter().find(|pool| pool.spec.cidr.to_string() == "10.10.0.0/24").unwrap();
    let mut ours = comparable(stored(&world, &format!("ippools/{}", pool.name())).await);
    // The file's pool was made by hand, with a name, a note and small blocks; one that `--subnet` makes serves only who
    // asks for it.
    let mut golden = golden("ippools/front-end");
    assert_eq!((&ours["spec"]["blockSize"], &ours["spec"]["assignmentMode"]), (&json!(26), &json!("Manual")));
    for value in [&mut ours, &mut golden] {
        value["metadata"] = Value::Null;
        value["spec"]["blockSize"] = Value::Null;
        value["spec"]["assignmentMode"] = Value::Null;
    }
    assert_eq!(ours, golden);
    for tier in ["default", "kube-admin", "kube-baseline"] {
        let key = format!("tiers/{tier}");
        assert_eq!(comparable(stored(&world, &key).await), self::golden(&key));
    }
    let cluster = stored(&world, "clusterinformations/default").await;
    let guid = cluster["spec"]["clusterGUID"].as_str().unwrap();
    assert!(guid.len() == 32 && guid.bytes().all(|b| b.is_ascii_hexdigit()), "{guid}");
    assert_eq!(
        cluster["spec"]["datastoreReady"],
        self::golden("clusterinformations/default")["spec"]["datastoreReady"]
    );
}

/// (48)
#[tokio::test]
async fn profiles_have_names_that_calico_takes() {
    let world = World::new().await;
    let engine = Engine::new(&world);
    for _ in 0..3 {
        engine.create(&crate::engine::plan(&[crate::engine::subnet("")])).await.unwrap();
    }
    for profile in world.profiles().await {
        assert!(is_resource_name(profile.name()), "{}", profile.name());
    }
    let refused = json!({"NetworkID": "aaaa1111", "IPv4Data": [pool("0.0.0.0/0")], "IPv6Data": [],
        "Options": {"com.docker.network.generic": {"org.projectcalico.profile": "Front_End"}}});
    let why = world.refusal("NetworkDriver.CreateNetwork", &refused).await;
    assert!(why.contains("Front_End"), "{why}");
}
