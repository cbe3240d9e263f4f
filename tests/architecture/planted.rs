//! The rules find what is planted, and nothing else.

use super::rules::{self, Layers};
use super::source::Source;
use std::path::Path;

fn table(rows: &[(&str, &[&str])]) -> Layers {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    rows.iter().map(|(module, names)| ((*module).to_owned(), set(names))).collect()
}

fn layers() -> Layers {
    table(&[("model", &[]), ("docker", &[]), ("store", &["model"]), ("driver", &["model", "store"])])
}

fn imports(path: &str, text: &str) -> Vec<String> {
    rules::imports(&[Source::new(path, text)], &layers())
}

#[test]
fn an_import_that_the_table_does_not_allow_is_found_with_its_line() {
    let found =
        imports("driver/plan.rs", "//! x\nuse crate::model::Cidr;\nuse crate::docker::DockerClient;\n");
    assert_eq!(found, ["src/driver/plan.rs:3 imports docker; driver may import: model, store"]);
}

#[test]
fn braced_imports_are_taken_apart() {
    let text =
        "use crate::{\n    model::{Cidr, docker},\n    docker::{DockerClient, self},\n    store,\n};\n";
    let found = imports("driver/mod.rs", text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("src/driver/mod.rs:3 imports docker"), "{found:?}");
}

#[test]
fn a_path_in_the_middle_of_code_counts() {
    assert_eq!(imports("driver/x.rs", "fn f() { crate :: docker::ask() }\n").len(), 1);
    assert_eq!(imports("driver/x.rs", "fn f(c: &'static str, d: crate::docker::Client<'_>) {}\n").len(), 1);
}

#[test]
fn comments_texts_and_tests_do_not_count() {
    let text = "//! [`crate::docker`]\n/* crate::docker */\nconst A: &str = \"crate::docker\";\nconst B: &str = r#\"\"crate::docker\"#;\n\
                const Q: char = '\"';\n#[cfg(test)]\nmod tests {\n    use crate::docker::X;\n}\nuse crate::store::Store;\n";
    assert_eq!(imports("driver/x.rs", text), Vec::<String>::new());
}

#[test]
fn code_after_a_test_module_counts_again() {
    let text = "#[cfg(test)]\n#[path = \"y_tests.rs\"]\nmod tests;\nuse crate::docker::X;\n";
    assert_eq!(imports("driver/x.rs", text).len(), 1);
    let text = "#[cfg(test)]\nmod tests {\n    const A: [u8; 1] = [0];\n    fn f() { if true { g() } }\n}\nuse crate::docker::X;\n";
    assert!(imports("driver/x.rs", text)[0].starts_with("src/driver/x.rs:6 "));
}

#[test]
fn ways_around_the_table_are_found() {
    assert!(imports("driver/x.rs", "use crate::*;\n")[0].contains("imports *"));
    assert!(imports("driver/x.rs", "use crate::Docker;\n")[0].contains("no module of the table"));
    assert!(imports("driver/x.rs", "use calico_libnetwork::docker::X;\n")[0].contains("imports docker"));
    for (path, text) in [
        ("driver/x.rs", "use super::super::docker::X;\n"),
        ("driver/mod.rs", "use super::docker::X;\n"),
        ("store.rs", "fn f() { super::docker::x() }\n"),
    ] {
        let found = imports(path, text);
        assert!(found.len() == 1 && found[0].contains("root by super"), "{path}: {found:?}");
    }
    assert!(imports("driver/x.rs", "mod inner { use super::super::record::R; }\n").is_empty());
    assert!(imports("driver/mod.rs", "mod inner { use super::record::R; }\n").is_empty());
}

#[test]
fn a_test_file_has_no_layer() {
    let owner = Source::new("store/mod.rs", "//! x\n#[cfg(test)]\nmod tests;\n");
    let tests = Source::new("store/tests.rs", "use crate::docker::X;\n");
    assert_eq!(owner.test_files(), ["store/tests.rs"]);
    assert!(rules::imports(&[owner.clone(), tests.clone()], &layers()).is_empty());
    assert!(rules::form(&[owner, tests]).is_empty());
    let owner = Source::new("store/block.rs", "#[cfg(test)]\n#[path = \"block_tests.rs\"]\nmod tests;\n");
    assert_eq!(owner.test_files(), ["store/block_tests.rs"]);
}

#[test]
fn a_stale_table_is_found_in_both_directions() {
    let lib = Source::new("lib.rs", "//! x\npub mod store;\npub mod model;\n");
    let sources = [
        lib,
        Source::new("model/mod.rs", "//! x\n"),
        Source::new("store.rs", "//! x\n"),
        Source::new("nft/mod.rs", "//! x\n"),
    ];
    let found = rules::staleness(&sources, &table(&[("model", &[]), ("store", &["model"]), ("gone", &[])]));
    assert_eq!(
        found,
        [
            "module nft has no row in ARCHITECTURE.md's layering table",
            "src/nft is no module of src/lib.rs",
            "the layering table has a row for gone, which does not exist",
            "the layering table lets store import model, and it never does",
        ]
    );
}

#[test]
fn a_circle_is_found() {
    assert!(rules::circles(&layers()).is_empty());
    assert_eq!(rules::circles(&table(&[("a", &["b"]), ("b", &["a"]), ("c", &[])])).len(), 2);
}

#[test]
fn impure_code_is_found() {
    let pure = ["model/".to_owned(), "driver/plan.rs".to_owned()];
    let faults = |path: &str, text: &str| {
        let innocent = ["model/mod.rs", "driver/plan.rs"].into_iter().filter(|other| *other != path);
        let mut sources: Vec<Source> = innocent.map(|path| Source::new(path, "//! x\n")).collect();
        sources.push(Source::new(path, text));
        rules::purity(&sources, &pure)
    };
    for text in [
        "async fn f() {}\n",
        "use tokio::sync::mpsc;\n",
        "fn f() { std::time::Instant::now(); }\n",
        "use std::time::SystemTime;\nfn f() { SystemTime::now(); }\n",
        "use std::{collections::BTreeMap, fs};\n",
        "fn f() { std::env::var(\"X\"); }\n",
        "fn f() { log::info!(\"x\"); }\n",
    ] {
        assert_eq!(faults("model/id.rs", text).len(), 1, "{text}");
        assert_eq!(faults("driver/plan.rs", text).len(), 1, "{text}");
        assert!(faults("driver/mod.rs", text).is_empty(), "{text}");
        assert!(
            faults("model/id.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}\n")).is_empty(),
            "{text}"
        );
    }
    assert!(
        faults("model/id.rs", "use std::time::Instant;\nfn f(now: Instant) { log::trace!(\"x\"); }\n")
            .is_empty()
    );
    let missing = rules::purity(&[], &["model/".to_owned()]);
    assert_eq!(missing, ["src/model/ is listed as pure and does not exist"]);
}

#[test]
fn long_files_and_files_without_a_word_are_found() {
    let long = format!("//! x\n{}", "fn f() {}\n".repeat(400));
    assert!(rules::form(&[Source::new("a.rs", &long)])[0].contains("has 401 lines"));
    let tested = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(400));
    assert!(rules::form(&[Source::new("a.rs", &tested)]).is_empty());
    assert!(rules::form(&[Source::new("a.rs", "fn f() {}\n")])[0].contains("//!"));
}

#[test]
fn what_is_left_for_later_is_found() {
    let text = format!("x\n// {}: later\n{}_LIST\n", concat!("TO", "DO"), concat!("TO", "DO"));
    let found = rules::leftovers("a.rs", &text);
    assert_eq!(found, [format!("a.rs:2: // {}: later", concat!("TO", "DO"))]);
}

#[test]
fn a_document_that_names_what_is_gone_is_found() {
    let sources =
        [Source::new("driver/pool.rs", "//! x\nasync fn request_pool(&self) {}\nfn parse<T>(t: T) {}\n")];
    let faults = |text: &str| rules::named_code(text, &sources);
    assert!(faults("`driver/pool.rs: request_pool, parse` and `src/driver/pool.rs`").is_empty());
    assert!(faults("`driver/{pool,plan}.rs` and `tests/x.rs`").is_empty());
    assert_eq!(
        faults("`driver/pool.rs: gone`"),
        ["`driver/pool.rs: gone`: src/driver/pool.rs has no function gone"]
    );
    assert_eq!(faults("`driver/gone.rs`").len(), 1);
}

#[test]
fn a_link_to_nothing_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let faults = |text: &str| rules::links(root, "docs/x.md", text);
    assert!(faults("[a](../Cargo.toml) [b](https://example.org/x) [c](#here)").is_empty());
    assert_eq!(faults("[a](gone.md#part)"), ["docs/x.md: nothing is at gone.md#part"]);
}

#[test]
fn the_table_is_read_from_the_document() {
    let document = "x\n<!-- layers -->\n| module | may import |\n|---|---|\n| `a`, `b` | `c` |\n| `c` | nothing |\n<!-- /layers -->\n";
    assert_eq!(rules::layers(document), table(&[("a", &["c"]), ("b", &["c"]), ("c", &[])]));
}
