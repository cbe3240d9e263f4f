//! The rules, over sources and the documents; each answers with sentences, none if all is well.

use super::source::{Found, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Lines that a file may have outside its tests.
const MOST_LINES: usize = 400;
/// What code that decides never does: wait, read a clock, touch the machine.
const IMPURE_WORDS: [&str; 3] = ["async", "await", "tokio"];
const IMPURE_STD: [&str; 5] = ["env", "fs", "os", "process", "thread"];
const CLOCKS: [&str; 2] = ["Instant", "SystemTime"];
const LOUD: [&str; 4] = ["error", "warn", "info", "debug"];

/// Module to the modules that it may import.
pub(crate) type Layers = BTreeMap<String, BTreeSet<String>>;

/// The lines of a document between `<!-- name -->` and `<!-- /name -->`.
pub(crate) fn marked<'a>(document: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let inside = document.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    let (inside, _) = inside.unwrap_or_else(|| panic!("ARCHITECTURE.md has no {open} ... {close}"));
    inside.lines().filter(|line| !line.trim().is_empty()).collect()
}

/// The layering table: each row's first cell names modules, its second what they may import; both between backquotes.
pub(crate) fn layers(document: &str) -> Layers {
    let mut layers = Layers::new();
    for row in marked(document, "layers").into_iter().skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let (modules, imports) = (quoted(cells[0]), quoted(cells[1]));
        for module in modules {
            let twice = layers.insert(module.clone(), imports.iter().cloned().collect());
            assert!(twice.is_none(), "{module} stands twice in the layering table");
        }
    }
    layers
}

/// Everything between backquotes.
pub(crate) fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Test-only files have no layer.
fn production(sources: &[Source]) -> Vec<&Source> {
    let tests: BTreeSet<String> = sources.iter().flat_map(Source::test_files).collect();
    sources.iter().filter(|source| !tests.contains(&source.path)).collect()
}

/// Each file imports only what its module may, and by a path that shows it.
pub(crate) fn imports(sources: &[Source], layers: &Layers) -> Vec<String> {
    let mut faults = Vec::new();
    for source in production(sources) {
        let module = source.module();
        let Some(allowed) = layers.get(module) else { continue };
        for Found { line, name } in own_paths(source) {
            if !layers.contains_key(&name) {
                faults.push(format!(
                    "src/{}:{line} imports {name}, which is no module of the table",
                    source.path
                ));
            } else if name != module && !allowed.contains(&name) {
                let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
                faults.push(format!(
                    "src/{}:{line} imports {name}; {module} may import: {}",
                    source.path,
                    allowed.join(", ")
                ));
            }
        }
        let hidden = source.supers_to_the_root();
        faults.extend(hidden.iter().map(|found| {
            format!("src/{}:{} reaches the crate's root by super; write crate::", source.path, found.line)
        }));
    }
    faults
}

/// Modules of ours that a file names.
fn own_paths(source: &Source) -> Vec<Found> {
    [source.names_below("crate"), source.names_below("calico_libnetwork")].concat()
}

/// The table, the folder and `lib.rs` know the same modules, and no row allows what nobody does.
pub(crate) fn staleness(sources: &[Source], layers: &Layers) -> Vec<String> {
    let there: BTreeSet<&str> =
        sources.iter().map(Source::module).filter(|module| *module != "lib").collect();
    let declared: Vec<String> =
        sources.iter().filter(|source| source.path == "lib.rs").flat_map(Source::declared_modules).collect();
    let mut faults = Vec::new();
    for module in &there {
        if !layers.contains_key(*module) {
            faults.push(format!("module {module} has no row in ARCHITECTURE.md's layering table"));
        }
        if *module != "main" && !declared.iter().any(|name| name == module) {
            faults.push(format!("src/{module} is no module of src/lib.rs"));
        }
    }
    let used: BTreeSet<(String, String)> = production(sources)
        .into_iter()
        .flat_map(|source| {
            own_paths(source).into_iter().map(|found| (source.module().to_owned(), found.name))
        })
        .collect();
    for (module, allowed) in layers {
        if !there.contains(module.as_str()) {
            faults.push(format!("the layering table has a row for {module}, which does not exist"));
            continue;
        }
        let idle = allowed.iter().filter(|name| !used.contains(&(module.clone(), (*name).clone())));
        faults.extend(
            idle.map(|name| format!("the layering table lets {module} import {name}, and it never does")),
        );
    }
    faults
}

/// The table has no circles.
pub(crate) fn circles(layers: &Layers) -> Vec<String> {
    let mut left = layers.clone();
    loop {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, needs)| needs.iter().all(|need| !left.contains_key(need)))
            .map(|(m, _)| m.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|module| drop(left.remove(module)));
    }
    left.keys().map(|module| format!("{module} is in, or above, a circle of imports")).collect()
}

/// Pure files neither wait nor look at the machine. An entry that ends with `/` is a whole folder.
pub(crate) fn purity(sources: &[Source], pure: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for entry in pure {
        let belongs =
            |path: &str| if entry.ends_with('/') { path.starts_with(entry.as_str()) } else { path == entry };
        let files: Vec<&Source> =
            production(sources).into_iter().filter(|source| belongs(&source.path)).collect();
        if files.is_empty() {
            faults.push(format!("src/{entry} is listed as pure and does not exist"));
        }
        for source in files {
            let mut found: Vec<Found> = IMPURE_WORDS.iter().flat_map(|word| source.word(word)).collect();
            found.extend(
                source.names_below("std").into_iter().filter(|f| IMPURE_STD.contains(&f.name.as_str())),
            );
            for clock in CLOCKS {
                found.extend(source.names_below(clock).into_iter().filter(|found| found.name == "now"));
            }
            found.extend(source.names_below("log").into_iter().filter(|f| LOUD.contains(&f.name.as_str())));
            let fault = |f: &Found| format!("src/{}:{} is pure and uses {}", source.path, f.line, f.name);
            faults.extend(found.iter().map(fault));
        }
    }
    faults
}

/// Every file opens with what it is, and is no longer than a person reads at once.
pub(crate) fn form(sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in production(sources) {
        if !source.text.starts_with("//!") {
            faults.push(format!("src/{} does not open with a //! line", source.path));
        }
        let length = source.length();
        if length > MOST_LINES {
            faults.push(format!(
                "src/{} has {length} lines without its tests; {MOST_LINES} is the most",
                source.path
            ));
        }
    }
    faults
}

/// Nothing is left for later.
pub(crate) fn leftovers(path: &str, text: &str) -> Vec<String> {
    const MARKS: [&str; 4] =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("ST", "UB")];
    let is_mark = |word: &str| MARKS.contains(&word);
    let lines = text.lines().enumerate();
    let marked =
        lines.filter(|(_, line)| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_mark));
    marked.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim())).collect()
}

/// Every `file.rs: function` that a document names in a code span exists.
pub(crate) fn named_code(document: &str, sources: &[Source]) -> Vec<String> {
    let mut faults = Vec::new();
    for span in document.lines().flat_map(quoted) {
        let (path, functions) = match span.split_once(": ") {
            Some((path, functions)) => (path, functions),
            None => (span.as_str(), ""),
        };
        if !path.ends_with(".rs") || path.contains(['{', '*', ' ']) || path.starts_with("tests/") {
            continue;
        }
        let path = path.strip_prefix("src/").unwrap_or(path);
        let Some(source) = sources.iter().find(|source| source.path == path) else {
            faults.push(format!("`{span}`: there is no src/{path}"));
            continue;
        };
        for function in functions.split(", ").filter(|name| !name.is_empty()) {
            let code: String = source.production().into_iter().collect();
            if !code.contains(&format!("fn {function}(")) && !code.contains(&format!("fn {function}<")) {
                faults.push(format!("`{span}`: src/{path} has no function {function}"));
            }
        }
    }
    faults
}

/// Every relative link of a document leads to a file.
pub(crate) fn links(root: &Path, path: &str, document: &str) -> Vec<String> {
    let folder = root.join(path).parent().unwrap().to_owned();
    let targets =
        document.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '<']));
    let broken = local.filter(|target| !folder.join(target.split('#').next().unwrap()).exists());
    broken.map(|target| format!("{path}: nothing is at {target}")).collect()
}
