//! The table of `tests/policy/README.md`: which test shows which case of Felix's catalogue.

use crate::rules::quoted;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The folder of the document, from which it names files.
const FOLDER: &str = "tests/policy";

/// Where names are looked for that a row gives without a file: where it found the last one.
enum Place {
    File(PathBuf),
    Fixtures,
}

/// The numbers that the rows of the table give, and every name that nothing bears.
pub(crate) fn table(root: &Path, document: &str) -> (BTreeSet<String>, Vec<String>) {
    let rows = document.lines().skip_while(|line| *line != "| cases | shown by |").skip(2);
    let (mut numbers, mut faults) = (BTreeSet::new(), Vec::new());
    for row in rows.take_while(|line| line.starts_with("| ")) {
        let Some((cases, shown)) = row.trim_matches(['|', ' ']).split_once(" | ") else {
            faults.push(format!("two cells are expected: {row}"));
            continue;
        };
        numbers.extend(cases.split(", ").flat_map(expanded));
        let mut place = None;
        for name in quoted(shown) {
            faults.extend(fault(root, &name, &mut place).map(|why| format!("case {cases}: `{name}`: {why}")));
        }
    }
    (numbers, faults)
}

/// `3 to 5` is 3, 4 and 5; `67b` stands for itself.
fn expanded(cases: &str) -> Vec<String> {
    let range = cases.split_once(" to ").map(|(first, last)| (first.parse::<u32>(), last.parse::<u32>()));
    match range {
        Some((Ok(first), Ok(last))) => (first..=last).map(|number| number.to_string()).collect(),
        _ => vec![cases.to_owned()],
    }
}

/// What is wrong with a name. `FILE: TEST` and `MODULE::TEST` say where the names after them are, too; a word before any
/// file is no name.
fn fault(root: &Path, name: &str, place: &mut Option<Place>) -> Option<String> {
    let folder = root.join(FOLDER);
    if let Some((file, test)) = name.split_once(": ") {
        return fault_of_test(place.insert(Place::File(root.join(file))), &folder, test);
    }
    if let Some((module, test)) = name.split_once("::") {
        return fault_of_test(
            place.insert(Place::File(folder.join(module).with_extension("rs"))),
            &folder,
            test,
        );
    }
    if name.ends_with(".rs") {
        let there = root.join(name).is_file() || folder.join(name).is_file();
        return (!there).then(|| "there is no such file".to_owned());
    }
    match (name.strip_prefix("fixtures/"), place) {
        (Some(fixture), place) => fault_of_test(place.insert(Place::Fixtures), &folder, fixture),
        (None, Some(place)) => fault_of_test(place, &folder, name),
        (None, None) => None,
    }
}

/// Exactly one test, or story, bears a name; `...` in it stands for the rest.
fn fault_of_test(place: &Place, folder: &Path, name: &str) -> Option<String> {
    let names = match place {
        Place::File(file) => match std::fs::read_to_string(file) {
            Ok(text) => tests(&text),
            Err(error) => return Some(format!("{}: {error}", file.display())),
        },
        Place::Fixtures => {
            let entries = std::fs::read_dir(folder.join("fixtures")).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    };
    match names.iter().filter(|known| matches(known, name)).count() {
        1 => None,
        0 => Some("there is no such test".to_owned()),
        several => Some(format!("{several} tests are called so")),
    }
}

/// The test functions in a text.
fn tests(text: &str) -> Vec<String> {
    let (mut names, mut is_test) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        let mark = line.strip_prefix("#[").and_then(|rest| rest.split([']', '(']).next());
        is_test |= mark.is_some_and(|mark| mark == "test" || mark.ends_with("::test"));
        let Some((before, rest)) = line.split_once("fn ") else { continue };
        if std::mem::take(&mut is_test)
            && ["", "async ", "pub(crate) ", "pub(crate) async "].contains(&before)
        {
            names.extend(rest.split(['(', '<']).next().map(str::to_owned));
        }
    }
    names
}

fn matches(known: &str, name: &str) -> bool {
    let mut parts = name.split("...");
    let Some(rest) = parts.next().and_then(|first| known.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    let found = parts.into_iter().try_fold(rest, |rest, part| Some(rest.split_once(part)?.1));
    found.is_some_and(|rest| rest.ends_with(last))
}

#[test]
fn a_case_without_its_test_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let of = |shown: &str| {
        table(root, &format!("x\n| cases | shown by |\n|---|---|\n| 3 to 5, 67b | {shown} |\n"))
    };
    let (numbers, faults) = of("`tests/architecture.rs: every_import_...`, `nothing_is_left_for_later`; `x`");
    assert_eq!(numbers, ["3", "4", "5", "67b"].map(str::to_owned).into());
    assert_eq!(faults, ["case 3 to 5, 67b: `x`: there is no such test"]);
    assert!(of("`x` everywhere, `src/lib.rs`, `cases.rs`").1.is_empty());
    for gone in [
        "`tests/gone.rs`",
        "`tests/gone.rs: test`",
        "`gone::test`",
        "`fixtures/gone`",
        "`cases::gone`",
        "`tests/architecture.rs: ...`",
        "`tests/architecture.rs: read`",
    ] {
        assert_eq!(of(gone).1.len(), 1, "{gone}");
    }
}

#[test]
fn an_abbreviated_name_is_its_beginning_middle_and_end() {
    for name in ["abc_def", "abc...", "...def", "a...c_...f", "..._...", "..."] {
        assert!(matches("abc_def", name), "{name}");
    }
    for name in ["abc", "bc...", "...de", "a...x...f", "abc_def...f", ""] {
        assert!(!matches("abc_def", name), "{name}");
    }
}
