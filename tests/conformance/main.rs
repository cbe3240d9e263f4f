//! Each of the sixty statements about Calico's data has a test: `tests/conformance.md` says which, and here it is checked
//! that it does. Those about IPAM run here over a real etcd, one for the program: the same tests that `tests/ipam` runs
//! over a double alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed expectation is a failed test, and a second process of the program tells the first one by its output"
)]

#[path = "../ipam/double.rs"]
#[allow(dead_code, reason = "the model and the races use the rest")]
mod double;
mod etcd;
#[path = "../support/etcd_server.rs"]
mod etcd_server;
#[path = "../ipam/golden.rs"]
mod golden;
#[path = "../ipam/peer.rs"]
mod peer;
mod server;
#[path = "../ipam/statements.rs"]
mod statements;
#[path = "../ipam/world.rs"]
#[allow(dead_code, reason = "the model and the races use the rest")]
mod world;

use calico_libnetwork::model::{ProfileSpec, Resource};
use server::peer;
use std::collections::BTreeMap;
use std::path::Path;

const TABLE: &str = include_str!("../conformance.md");

/// Whether a line is a comment with a list of numbers, as `(2, 3)`, that has this one.
fn names(line: &str, number: &str) -> bool {
    let Some((_, comment)) = line.split_once("//") else { return false };
    let lists = comment.split('(').skip(1).filter_map(|rest| rest.split_once(')'));
    lists.flat_map(|(list, _)| list.split(", ")).any(|one| one == number)
}

/// The lines of the function whose `fn` is at a place, with what stands directly above it.
fn own_lines(text: &str, at: usize) -> impl Iterator<Item = &str> {
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let indent: String = text[start..].chars().take_while(|c| *c == ' ').collect();
    let above = text[..start].lines().rev();
    let above = above.take_while(|line| ["//", "#["].iter().any(|mark| line.trim_start().starts_with(mark)));
    above.chain(text[start..].split(&format!("\n{indent}}}")).next().unwrap().lines())
}

#[test]
fn every_statement_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: BTreeMap<u32, String> = BTreeMap::new();
    for row in TABLE.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> =
            row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [number, about, file, test] = cells[..] else { panic!("four cells are expected: {row}") };
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let name = format!("fn {test}(");
        let at = text.find(&name).unwrap_or_else(|| panic!("statement {number}: {file} has no {test}"));
        let before = text[..at].rsplit("\n}").next().unwrap();
        // The suite of the datastores lists its functions in a macro.
        let is_test =
            before.contains("test]") || before.contains("#[tokio::test") || text.matches(test).count() > 1;
        assert!(is_test, "statement {number}: {test} is no test");
        let is_said = |line: &str| test.contains(&format!("statement_{number}_")) || names(line, number);
        assert!(
            own_lines(&text, at).any(is_said),
            "statement {number}: {test} does not say that it holds it"
        );
        assert_eq!(found.insert(number.parse().unwrap(), about.to_owned()), None, "{number} stands twice");
    }
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
}

#[test]
fn statement_11_empty_sides_of_a_rule_say_nothing() {
    let of = |rule: &str| -> Resource<ProfileSpec> {
        serde_json::from_str(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{{"ingress":[{rule}]}}}}"#))
            .unwrap()
    };
    let old = of(r#"{"action":"Allow","source":{},"destination":{}}"#).spec.ingress.unwrap().remove(0);
    let new = of(r#"{"action":"Allow"}"#).spec.ingress.unwrap().remove(0);
    let sides = |side: Option<calico_libnetwork::model::EntityRule>| side.unwrap_or_default();
    assert_eq!(sides(old.source), sides(new.source));
    assert_eq!(sides(old.destination), sides(new.destination));
    assert_eq!(old.action, new.action);
}
