//! Configurations by folder: `tests/fixtures/bgp/NAME/input.json` is what the datastore says, `README.md` why the case is
//! there, `bird.conf` the expected file, `problems.txt` the expected sentences. `UPDATE_GOLDEN=1` writes the last two.

use crate::{bird_is_there, refusal};
use calico_libnetwork::bgp::{Setup, World, render};
use calico_libnetwork::model::{NodeName, RouterId};
use serde_json::Value;
use std::path::{Path, PathBuf};

const PLURALS: [(&str, &str); 5] = [
    ("Node", "nodes"),
    ("BGPConfiguration", "bgpconfigurations"),
    ("BGPPeer", "bgppeers"),
    ("BGPFilter", "bgpfilters"),
    ("IPPool", "ippools"),
];

/// The world of an input: `node`, `routerId`, `blackholes`, `blocks` and `resources`.
fn world(input: &Value) -> (World, Setup) {
    let node = NodeName::new(input["node"].as_str().unwrap()).unwrap();
    let mut world = World::new(node.clone());
    for block in input["blocks"].as_array().unwrap() {
        let text = block.as_str().unwrap();
        let family = if text.contains(':') { "ipv6" } else { "ipv4" };
        let key = format!("/calico/ipam/v2/host/{node}/{family}/block/{}", text.replace('/', "-"));
        world.update(&key, Some(br#"{"state":"confirmed","deleted":false}"#));
    }
    for resource in input["resources"].as_array().unwrap() {
        let kind = resource["kind"].as_str().unwrap();
        let (_, plural) = PLURALS.iter().find(|(name, _)| *name == kind).unwrap();
        let name = resource["metadata"]["name"].as_str().unwrap();
        let key = format!("/calico/resources/v3/projectcalico.org/{plural}/{name}");
        world.update(&key, Some(resource.to_string().as_bytes()));
    }
    let router_id = RouterId::parse(input["routerId"].as_str().unwrap_or_default()).unwrap();
    (world, Setup { router_id, blackholes: input["blackholes"].as_bool().unwrap_or_default() })
}

fn compare(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, text).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(text, expected, "{} is not what comes out; UPDATE_GOLDEN=1 writes it", file.display());
}

#[test]
fn configurations_are_as_they_are_expected_and_bird_takes_them() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bgp");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 8, "{folders:?}");
    let bird = bird_is_there();
    for folder in folders {
        assert!(folder.join("README.md").exists(), "{} does not say why it is there", folder.display());
        let input: Value =
            serde_json::from_slice(&std::fs::read(folder.join("input.json")).unwrap()).unwrap();
        let (world, setup) = world(&input);
        let (text, problems) = match render(&world, setup) {
            Ok(rendering) => (rendering.text, rendering.problems),
            Err(why) => (String::new(), vec![why]),
        };
        compare(&folder.join("bird.conf"), &text);
        let problems: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        compare(&folder.join("problems.txt"), &problems);
        if bird && !text.is_empty() {
            assert_eq!(refusal(&text), "", "BIRD refuses {}", folder.display());
        }
    }
}
