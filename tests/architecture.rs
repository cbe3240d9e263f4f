//! The house rules that no compiler knows: who imports whom (the table of ARCHITECTURE.md), which code is pure, how
//! long a file is, and that documents name what exists. The rules themselves are tested on planted violations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy only knows functions marked as tests"
)]

#[path = "architecture/cases.rs"]
mod cases;
#[path = "architecture/planted.rs"]
mod planted;
#[path = "architecture/rules.rs"]
mod rules;
#[path = "architecture/source.rs"]
mod source;

use rules::Layers;
use source::Source;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

fn sources() -> Vec<Source> {
    Source::all(&root().join("src"))
}

fn layers() -> Layers {
    rules::layers(&read("ARCHITECTURE.md"))
}

/// The documents, as paths below the root.
fn documents() -> Vec<String> {
    let folders = ["", "docs", "docs/adr", "plugin", "bench"];
    let in_folder = |folder: &&str| {
        let entries = std::fs::read_dir(root().join(folder)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<PathBuf>>()
    };
    let files = folders.iter().flat_map(in_folder);
    let documents = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents.map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n  {}\n", faults.join("\n  "));
}

#[test]
fn every_import_is_in_the_layering_table() {
    none(&rules::imports(&sources(), &layers()));
}

#[test]
fn the_layering_table_is_about_the_modules_that_exist() {
    none(&rules::staleness(&sources(), &layers()));
}

#[test]
fn imports_have_no_circles() {
    none(&rules::circles(&layers()));
}

#[test]
fn driver_and_server_never_ask_docker() {
    let layers = layers();
    for module in ["driver", "server", "dataplane", "ipam", "net"] {
        assert!(!layers[module].contains("docker"), "{module} must not import docker: docs/adr/0004");
    }
    assert!(!layers["dataplane"].contains("driver") && !layers["driver"].contains("dataplane"));
}

#[test]
fn pure_code_neither_waits_nor_looks_at_the_machine() {
    let document = read("ARCHITECTURE.md");
    let pure: Vec<String> = rules::marked(&document, "pure").into_iter().flat_map(rules::quoted).collect();
    for module in ["model/", "selector/", "protocol/"] {
        assert!(pure.iter().any(|entry| entry == module), "{module} is not listed as pure");
    }
    none(&rules::purity(&sources(), &pure));
}

#[test]
fn files_open_with_what_they_are_and_are_short() {
    none(&rules::form(&sources()));
}

#[test]
fn nothing_is_left_for_later() {
    let ours = ["src", "tests", "tools", "bench", "rootfs-build", "contrib"];
    let mut faults = Vec::new();
    let mut folders: Vec<PathBuf> = ours.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.extend((!path.ends_with("fixtures")).then_some(path));
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                faults.extend(rules::leftovers(&path.display().to_string(), &text));
            }
        }
    }
    none(&faults);
}

#[test]
fn documents_name_files_and_functions_that_exist() {
    let sources = sources();
    let faults =
        documents().iter().flat_map(|path| rules::named_code(&read(path), &sources)).collect::<Vec<_>>();
    none(&faults);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let faults =
        documents().iter().flat_map(|path| rules::links(root(), path, &read(path))).collect::<Vec<_>>();
    none(&faults);
}

/// Of Felix's catalogue the cases of one host, and those of failures, restarts and scale; those between them are about
/// several hosts, which `tests/routes` has.
#[test]
fn every_case_of_the_catalogue_is_shown_by_a_test_that_exists() {
    let (numbers, faults) = cases::table(root(), &read("tests/policy/README.md"));
    none(&faults);
    let wanted = (1..=97).chain(107..=117).map(|number: u32| number.to_string());
    let wanted = wanted.chain(["67b".to_owned()]).collect::<BTreeSet<_>>();
    assert_eq!(numbers, wanted);
}
