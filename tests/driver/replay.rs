//! The calls of real engines in their order, against our drivers.
//!
//! What the capturing plugin answered and the engine sent back (pool IDs, prefixes, addresses) is replaced by what ours
//! answered. Options that ours does not have are refused by name, and the call is sent again without them, as a user
//! would do. Host ports become "any": real sockets hold them.

use crate::engine::new_id;
use crate::world::{World, decode};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Default)]
struct Replay {
    /// The capturing plugin's pool IDs, to ours.
    pools: BTreeMap<String, String>,
    /// Its prefixes, to ours.
    prefixes: BTreeMap<String, Value>,
    /// Its addresses without prefix length, to ours with it.
    addresses: BTreeMap<String, String>,
    refused: Vec<String>,
    calls: usize,
}

fn lines(name: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/docker-captures");
    let text = std::fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["method"].is_string()).collect()
}

fn plain(text: &str) -> &str {
    text.split('/').next().unwrap()
}

impl Replay {
    fn address(&self, text: &str) -> String {
        self.addresses.get(plain(text)).cloned().unwrap_or_else(|| text.to_owned())
    }

    /// The body as the engine would have sent it to our plugin.
    fn translate(&self, method: &str, body: &Value) -> Value {
        let mut body = body.clone();
        if let Some(pool) = body["PoolID"].as_str() {
            body["PoolID"] = json!(self.pools.get(pool).map_or(pool, String::as_str));
        }
        if method == "IpamDriver.ReleaseAddress" {
            body["Address"] = json!(plain(&self.address(body["Address"].as_str().unwrap_or_default())));
        }
        for list in ["IPv4Data", "IPv6Data"] {
            for data in body.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                self.translate_data(data);
            }
        }
        for field in ["Address", "AddressIPv6"] {
            if let Some(text) = body["Interface"][field].as_str().filter(|text| !text.is_empty()) {
                body["Interface"][field] = json!(self.address(text));
            }
        }
        for key in ["com.docker.network.portmap"] {
            for port in body["Options"].get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
                port["HostPort"] = json!(0);
                port["HostPortEnd"] = json!(0);
            }
        }
        body
    }

    fn translate_data(&self, data: &mut Value) {
        if !data["AddressSpace"].as_str().unwrap().starts_with("Proto") {
            return;
        }
        data["AddressSpace"] = json!("CalicoAddressSpace");
        if let Some(prefix) = data["Pool"].as_str().and_then(|pool| self.prefixes.get(pool)) {
            data["Pool"] = prefix.clone();
        }
        if let Some(gateway) = data["Gateway"].as_str() {
            data["Gateway"] = json!(self.address(gateway));
        }
    }

    fn learn(&mut self, method: &str, captured: &Value, answer: &Value) {
        match method {
            "IpamDriver.RequestPool" => {
                let Some(id) = captured["PoolID"].as_str() else { return };
                self.pools.insert(id.to_owned(), answer["PoolID"].as_str().unwrap().to_owned());
                self.prefixes.insert(captured["Pool"].as_str().unwrap().to_owned(), answer["Pool"].clone());
            }
            "IpamDriver.RequestAddress" => {
                let Some(address) = captured["Address"].as_str() else { return };
                let ours = answer["Address"].as_str().unwrap().to_owned();
                self.addresses.insert(plain(address).to_owned(), ours);
            }
            _ => {}
        }
    }

    async fn play(&mut self, world: &World, line: &Value) {
        let method = line["method"].as_str().unwrap();
        self.calls += 1;
        let needs_none = ["Activate", "GetCapabilities", "GetDefaultAddressSpaces"];
        if needs_none.iter().any(|name| method.ends_with(name)) {
            world.drivers.handle(decode(method, b"").unwrap()).await.unwrap();
            return;
        }
        if line["clen"] == 0 {
            // The retry of a call whose answer was lost: refused before it reaches the drivers.
            assert!(decode(method, b"").is_err(), "{method}");
            return;
        }
        let mut body = self.translate(method, &line["req"]);
        loop {
            match world.call(method, &body).await {
                Ok(answer) => return self.learn(method, &line["resp"], &answer),
                Err(sentence) => {
                    let without = without_option(&body, &sentence);
                    body = without.unwrap_or_else(|| panic!("{} {method} {body}: {sentence}", line["n"]));
                    self.refused.push(sentence);
                }
            }
        }
    }
}

/// The body without the option that the sentence names; `None` if it names none.
fn without_option(body: &Value, sentence: &str) -> Option<Value> {
    let mut body = body.clone();
    let named = |options: &Map<String, Value>| {
        options
            .keys()
            .find(|key| {
                sentence.contains(&format!("opt {key} ")) || sentence.starts_with(&format!("option {key} "))
            })
            .cloned()
    };
    for path in ["/Options/com.docker.network.generic", "/Options"] {
        let Some(options) = body.pointer_mut(path).and_then(Value::as_object_mut) else { continue };
        if let Some(key) = named(options) {
            options.remove(&key);
            return Some(body);
        }
    }
    None
}

async fn replay(name: &str) -> (World, Replay) {
    let world = World::new().await;
    let mut replay = Replay::default();
    for line in lines(name) {
        replay.play(&world, &line).await;
    }
    assert!(replay.calls > 50, "{name}: {}", replay.calls);
    (world, replay)
}

/// Captures in which everything was removed at the end.
const WHOLE: [&str; 8] = [
    "suite1-lifecycle-engine20",
    "suite1-lifecycle-engine26",
    "suite1-lifecycle-engine28",
    "suite1-lifecycle-engine29",
    "suite2-multinet-engine20",
    "suite2-multinet-engine26",
    "suite2-multinet-engine28",
    "suite2-multinet-engine29",
];

/// Captures with crashes, lost answers and faults of the capturing plugin, after which an engine forgets things, and
/// those of single swarm nodes.
const BROKEN: [&str; 10] = [
    "suite3-faults-engine20",
    "suite3-faults-engine29",
    "suite5-daemonrestart-v1plugin-engine20",
    "suite5-daemonrestart-v1plugin-engine29",
    "swarm-s20m1",
    "swarm-s20w1",
    "swarm-s29m1",
    "swarm-s29m2",
    "swarm-s29m3",
    "swarm-s29w1",
];

#[tokio::test]
async fn a_capture_that_removed_everything_leaves_nothing() {
    for name in WHOLE {
        let (world, replay) = replay(name).await;
        world.assert_clean(name).await;
        for sentence in &replay.refused {
            assert!(
                ["opt pool ", "option foo ", "opt k1 ", "opt x.y "]
                    .iter()
                    .any(|option| sentence.contains(option)),
                "{name}: {sentence}"
            );
        }
    }
}

#[tokio::test]
async fn what_an_engine_forgets_in_a_capture_is_collected() {
    for name in BROKEN {
        let (world, _) = replay(name).await;
        world.collect().await;
        // What a swarm's leader asked for is the next leader's to give back; no node's collector takes it.
        let handles = world.keys(calico_libnetwork::model::key::HANDLE_ROOT).await;
        if !handles.is_empty() && handles.iter().all(|handle| handle.starts_with("libnetwork-swarm.")) {
            for address in world.allocated().await {
                let release = json!({"PoolID": "CalicoPoolIPv4", "Address": address});
                world.ok("IpamDriver.ReleaseAddress", &release).await;
            }
            world.collect().await;
        }
        world.assert_clean(name).await;
    }
}

#[tokio::test]
async fn a_capture_goes_on_over_restarts_at_every_call() {
    // 30
    let name = "suite2-multinet-engine29";
    let mut world = World::new().await;
    let mut replay = Replay::default();
    for line in lines(name) {
        replay.play(&world, &line).await;
        world.restart().await;
    }
    world.collect().await;
    world.assert_clean(name).await;
}

#[tokio::test]
async fn an_option_that_no_sentence_names_is_not_taken_away() {
    let body = json!({"NetworkID": new_id(), "Options": {"com.docker.network.generic": {"foo": "bar"}}});
    assert_eq!(without_option(&body, "the datastore is unavailable"), None);
    let without = without_option(&body, "option foo is not one of this driver's").unwrap();
    assert_eq!(without["Options"]["com.docker.network.generic"], json!({}));
}
