//! Runs the folders of `fixtures/`: each a story in steps, readable without this code.

use crate::lab::{Documents, Lab, endpoint, open_mesh};
use crate::nsrun::{have, in_namespace};
use calico_libnetwork::dataplane::show_table;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every fixture is one of these; a folder that is not listed fails the test below.
macro_rules! fixtures {
    ($($name:ident)*) => {
        $(#[test] fn $name() { play(concat!("fixtures::", stringify!($name)), stringify!($name)); })*
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

fixtures! {
    a_label_comes_and_goes
    a_policy_is_deleted
    a_profile_appears
    a_tier_appears_later
    a_tier_passes_and_denies_again
    equal_selectors_share_a_set
    members_of_sets_come_and_go
    namespaces_bound_policies
    staged_policies_do_nothing
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy/fixtures")
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|it| it == ending)).collect();
    files.sort();
    files
}

#[test]
fn every_folder_is_run_and_can_be_read() {
    let mut folders: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, NAMES);
    for name in folders {
        let folder = root().join(&name);
        let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(readme.starts_with("# ") && readme.contains("Case"), "{name}: a README says what is shown");
        let (inputs, expectations) = (files(&folder, "yaml"), files(&folder, "expect"));
        let stems = |paths: &[PathBuf]| -> Vec<_> {
            paths.iter().map(|it| it.file_stem().unwrap().to_owned()).collect()
        };
        assert_eq!(stems(&inputs), stems(&expectations), "{name}: each step has documents and expectations");
        assert!(!inputs.is_empty(), "{name}");
    }
}

/// The open mesh, and what a file adds to it or puts in its place.
fn documents(file: &Path) -> Documents {
    let text = std::fs::read_to_string(file).unwrap();
    let mut documents = open_mesh();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let document = Value::deserialize(document).unwrap();
        if document.is_null() {
            continue;
        }
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        let namespace = document["metadata"]["namespace"].as_str().unwrap_or("libnetwork").to_owned();
        let (key, value) = match document["kind"].as_str().unwrap() {
            "WorkloadEndpoint" => {
                let profiles: Vec<String> = serde_json::from_value(document["spec"]["profiles"].clone())
                    .unwrap_or_else(|_| vec!["open".to_owned()]);
                let profiles: Vec<&str> = profiles.iter().map(String::as_str).collect();
                let labels = document["metadata"].get("labels").cloned().unwrap_or_else(|| json!({}));
                endpoint(&name, &labels, &profiles)
            }
            "GlobalNetworkPolicy" => (format!("globalnetworkpolicies/{name}"), document),
            "StagedGlobalNetworkPolicy" => (format!("stagedglobalnetworkpolicies/{name}"), document),
            "NetworkPolicy" => (format!("networkpolicies/{namespace}/{name}"), document),
            "GlobalNetworkSet" => (format!("globalnetworksets/{name}"), document),
            "NetworkSet" => (format!("networksets/{namespace}/{name}"), document),
            "Tier" => (format!("tiers/{name}"), document),
            "Profile" => (format!("profiles/{name}"), document),
            other => panic!("{}: {other}", file.display()),
        };
        documents.insert(key, value);
    }
    documents
}

fn play(test: &str, name: &str) {
    if !have("nft", "nft") {
        return;
    }
    in_namespace(test, || {
        let mut lab = Lab::start();
        let folder = root().join(name);
        for file in files(&folder, "yaml") {
            let step = format!("{name}/{}", file.file_stem().unwrap().to_string_lossy());
            lab.become_tampered(&documents(&file), |_| ());
            // What the kernel has reads back as it was meant.
            let repairs = lab.dataplane.status().borrow().repairs;
            lab.block(lab.dataplane.resync()).unwrap();
            assert_eq!(
                lab.dataplane.status().borrow().repairs,
                repairs,
                "{step}: nothing had to be put right"
            );
            let expected = std::fs::read_to_string(file.with_extension("expect")).unwrap();
            for line in
                expected.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
            {
                match line.split_once(": ").unwrap() {
                    ("rules", text) => {
                        assert!(shown(&lab).contains(text), "{step}: {text} is not in\n{}", shown(&lab))
                    }
                    ("no rules", text) => {
                        assert!(!shown(&lab).contains(text), "{step}: {text} is in\n{}", shown(&lab))
                    }
                    ("sets", count) => {
                        let sets =
                            shown(&lab).lines().filter(|line| line.trim().starts_with("set sel-")).count();
                        assert_eq!(sets, count.parse::<usize>().unwrap(), "{step}: sets of selectors");
                    }
                    _ => lab.expect(&step, line),
                }
            }
        }
        lab.become_(&open_mesh());
        lab.expect("nothing stays behind", "tcp/80: all");
        assert!(!shown(&lab).contains("set sel-"), "{}", shown(&lab));
    });
}

/// The table, but for the endpoints' own addresses, which stand there whatever policy says.
fn shown(lab: &Lab) -> String {
    let table = lab.block(show_table(Duration::from_secs(60))).unwrap().unwrap();
    let objects = table.split_inclusive("\n\t}\n");
    objects.filter(|object| !object.contains("\tset sources")).collect()
}
