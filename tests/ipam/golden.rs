//! The states that Calico's own Go client left in etcd, step by step: ours are the same.

use crate::world::{World, cidr, handle, ip, owner, wanted};
use calico_libnetwork::ipam::block::Block;
use calico_libnetwork::ipam::{AutoAssign, Expect, Released};
use calico_libnetwork::model::{BlockAffinity, IpamConfig, IpamHandle, key};
use serde_json::Value;
use std::collections::BTreeMap;

const GOLDEN: &str = include_str!("../fixtures/calico-etcd-golden.txt");

/// What a step changed: a key to its new value, or to nothing if it was deleted.
type Changes = BTreeMap<String, Option<String>>;

/// One step: its title and what it changed.
fn steps() -> Vec<(&'static str, Changes)> {
    let mut steps = Vec::new();
    let mut lines = GOLDEN.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("#### ") {
            steps.push((title, Changes::new()));
        }
        let Some((_, changes)) = steps.last_mut() else { continue };
        if let Some(key) = line.strip_prefix("+ ").or_else(|| line.strip_prefix("~ ")) {
            let value = lines.next().unwrap().trim_start().to_owned();
            changes.insert(key.to_owned(), Some(value));
        } else if let Some(key) = line.strip_prefix("- /") {
            changes.insert(format!("/{key}"), None);
        }
    }
    steps
}

/// The changes that concern IPAM, as JSON without times, and with sequence numbers as distances from the block's.
fn comparable(changes: &Changes) -> BTreeMap<String, Option<Value>> {
    let ours = changes.iter().filter(|(key, _)| key.starts_with("/calico/ipam/"));
    ours.map(|(key, value)| (key.clone(), value.as_ref().map(|text| without_times(text)))).collect()
}

fn without_times(text: &str) -> Value {
    let mut json: Value = serde_json::from_str(text).unwrap();
    if json.get("affinity_claim_time").is_some() {
        json["affinity_claim_time"] = "a time".into();
    }
    for attribute in json.get_mut("attributes").and_then(Value::as_array_mut).into_iter().flatten() {
        if attribute.get("releasedAt").is_some() {
            attribute["releasedAt"] = "a time".into();
        }
        if attribute.pointer("/secondary/timestamp").is_some() {
            attribute["secondary"]["timestamp"] = "a time".into();
        }
    }
    if let Some(sequence) = json.get("sequenceNumber").and_then(Value::as_u64) {
        json["sequenceNumber"] = 0.into();
        for (_, number) in json["sequenceNumberForAllocation"].as_object_mut().into_iter().flatten() {
            *number = (sequence - number.as_u64().unwrap()).into();
        }
    }
    json
}

fn snapshot(world: &World) -> BTreeMap<String, String> {
    let keys = world.store.keys("/calico/");
    keys.into_iter().map(|key| (key.clone(), world.store.text(&key).unwrap())).collect()
}

fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Changes {
    let mut changes = Changes::new();
    for (key, value) in after {
        if before.get(key) != Some(value) {
            changes.insert(key.clone(), Some(value.clone()));
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        changes.insert(key.clone(), None);
    }
    changes
}

fn restore(world: &World, state: &BTreeMap<String, String>) {
    for key in world.store.keys("/calico/") {
        world.store.remove(&key);
    }
    for (key, value) in state {
        world.store.put(key, value);
    }
}

async fn auto(world: &World, node: &str, name: &str, within: &str) {
    let within = cidr(within);
    let request = AutoAssign { version: within.version(), within: Some(within), ..wanted(name) };
    world.ipam(node).auto_assign(&request).await.unwrap();
}

async fn assign(world: &World, node: &str, name: &str, text: &str) {
    world.ipam(node).assign(ip(text), None, &owner(name)).await.unwrap();
}

async fn release(world: &World, text: &str, name: Option<&str>) -> Released {
    let expect = Expect { handle: name.map(handle), ..Expect::default() };
    world.ipam("docker-1").release(ip(text), &expect).await.unwrap()
}

/// Does what the client did in a step; false if it is not a step of IPAM, or one that we never do.
async fn act(world: &World, title: &str) -> bool {
    match title {
        "AutoAssign #1 docker-1" => auto(world, "docker-1", "libnetwork.docker-1.h1", "10.10.0.128/29").await,
        "AutoAssign #2 docker-1" => auto(world, "docker-1", "libnetwork.docker-1.h2", "10.10.0.0/24").await,
        "AutoAssign v6 docker-2" => {
            auto(world, "docker-2", "libnetwork.docker-2.h3", "fd80:24e2:f998:72d6::4c0/122").await;
        }
        "Release ip0" => drop(release(world, "10.10.0.128", Some("libnetwork.docker-1.h1")).await),
        "Release ip0 again (no-op)" => {
            assert_eq!(release(world, "10.10.0.128", None).await, Released::NotAllocated);
        }
        "AssignIP ordinal 5" => assign(world, "docker-1", "libnetwork.docker-1.h5", "10.10.0.133").await,
        "AssignIP borrow by docker-2" => {
            assign(world, "docker-2", "libnetwork.docker-2.h6", "10.10.0.134").await
        }
        "AssignIP in fresh block by docker-2" => {
            assign(world, "docker-2", "libnetwork.docker-2.h7", "10.10.0.250").await;
        }
        "ReleaseByHandle h7" => {
            let freed = world.ipam("docker-2").release_by_handle(&handle("libnetwork.docker-2.h7")).await;
            assert_eq!(freed.unwrap(), [ip("10.10.0.250")]);
        }
        "tiny exhausted; last borrowed by docker-2" => {
            auto(world, "docker-1", "t0", "10.20.0.0/31").await;
            auto(world, "docker-1", "t1", "10.20.0.0/31").await;
            auto(world, "docker-1", "t2", "10.20.0.0/30").await;
            auto(world, "docker-2", "t3", "10.20.0.0/30").await;
        }
        "tiny over-exhausted" => {
            let request = AutoAssign { pool: Some(cidr("10.20.0.0/30")), ..wanted("t4") };
            world.ipam("docker-2").auto_assign(&request).await.unwrap_err();
        }
        "ReleaseHostAffinities docker-1" => world.ipam("docker-1").release_node().await.unwrap(),
        "release t0 t1 (non affine)" => {
            release(world, "10.20.0.0", Some("t0")).await;
            release(world, "10.20.0.1", Some("t1")).await;
        }
        "release h2 under cooldown" => {
            drop(release(world, "10.10.0.129", Some("libnetwork.docker-1.h2")).await)
        }
        "node docker-2 deleted" => world.ipam("docker-2").release_node().await.unwrap(),
        _ => return false,
    }
    true
}

#[tokio::test]
async fn each_step_of_calicos_client_has_the_same_outcome_here() {
    let world = World::empty();
    let mut state: BTreeMap<String, String> = BTreeMap::new();
    let mut done = Vec::new();
    for (title, changes) in steps() {
        restore(&world, &state);
        if act(&world, title).await {
            let ours = difference(&state, &snapshot(&world));
            assert_eq!(comparable(&ours), comparable(&changes), "step {title}");
            done.push(title);
        }
        for (key, value) in changes {
            match value {
                Some(value) => drop(state.insert(key, value)),
                None => drop(state.remove(&key)),
            }
        }
    }
    assert_eq!(done.len(), 15, "every step of IPAM was done: {done:?}");
}

#[test]
fn everything_that_calicos_client_wrote_for_ipam_can_be_read() {
    let now = World::empty().now();
    let mut read = BTreeMap::<&str, u32>::new();
    for (title, changes) in steps() {
        for (path, value) in changes {
            let Some(text) = value.filter(|_| path.starts_with("/calico/ipam/")) else { continue };
            let kind = if let Some(cidr) = key::parse_block(&path) {
                let block = Block::open(serde_json::from_str(&text).unwrap()).unwrap();
                assert_eq!((block.cidr(), block.violations(now)), (cidr, Vec::new()), "{title}");
                assert_eq!(serde_json::to_string(block.document()).unwrap(), text);
                "block"
            } else if key::parse_affinity(&path).is_some() {
                let claim = BlockAffinity::decode(text.as_bytes()).unwrap();
                assert_eq!(serde_json::to_string(&claim).unwrap(), text);
                "affinity"
            } else if key::parse_handle(&path).is_some() {
                let handle: IpamHandle = serde_json::from_str(&text).unwrap();
                assert_eq!(serde_json::to_string(&handle).unwrap(), text);
                "handle"
            } else {
                assert_eq!(path, key::IPAM_CONFIG);
                serde_json::from_str::<IpamConfig>(&text).unwrap();
                "config"
            };
            *read.entry(kind).or_default() += 1;
        }
    }
    assert_eq!(read, BTreeMap::from([("affinity", 5), ("block", 16), ("config", 2), ("handle", 10)]));
}
