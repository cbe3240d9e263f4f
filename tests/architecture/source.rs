//! Rust source as the rules see it: comments, texts and tests blanked out, line numbers kept.

use std::path::Path;

/// One file below `src/`.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Path below `src/`, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    /// The same length and lines, with comments and literals blanked out.
    pub(crate) code: Vec<char>,
}

/// A name found in code, and its line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) line: usize,
    pub(crate) name: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blank_literals(text) }
    }

    /// All files of a folder, in order.
    pub(crate) fn all(folder: &Path) -> Vec<Self> {
        let mut sources = Vec::new();
        collect(folder, folder, &mut sources);
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        sources
    }

    /// The top-level module that the file belongs to: `driver/plan.rs` to `driver`, `task.rs` to `task`.
    pub(crate) fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many modules are above the file's own: 1 for `task.rs` and `driver/mod.rs`, 2 for `driver/plan.rs`.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    /// The code without its tests.
    pub(crate) fn production(&self) -> Vec<char> {
        let mut code = self.code.clone();
        for (from, to) in self.test_items() {
            code[from..to].iter_mut().filter(|c| **c != '\n').for_each(|c| *c = ' ');
        }
        code
    }

    /// Lines outside tests.
    pub(crate) fn length(&self) -> usize {
        let lines = |text: &[char]| text.iter().filter(|c| **c == '\n').count();
        let tests: usize = self.test_items().iter().map(|(from, to)| lines(&self.code[*from..*to])).sum();
        lines(&self.code) - tests
    }

    /// Files that hold nothing but tests: `#[cfg(test)] mod tests;`, with or without `#[path = "..."]`.
    pub(crate) fn test_files(&self) -> Vec<String> {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let text: Vec<char> = self.text.chars().collect();
        let named = |(from, to): (usize, usize)| {
            let code: String = self.code[from..to].iter().collect();
            let name = code.trim_end().strip_suffix(';')?.rsplit_once("mod ")?.1.trim().to_owned();
            let text: String = text[from..to].iter().collect();
            let given = text.split_once("#[path = \"").and_then(|(_, rest)| rest.split_once('"'));
            let below = match (self.path.ends_with("/mod.rs"), self.path.strip_suffix(".rs")) {
                (false, Some(stem)) => format!("{stem}/{name}.rs"),
                _ => format!("{folder}/{name}.rs"),
            };
            Some(given.map_or(below, |(file, _)| format!("{folder}/{file}")))
        };
        self.test_items().into_iter().filter_map(named).collect()
    }

    /// Ranges of all items under `#[cfg(test)]`, attribute included.
    fn test_items(&self) -> Vec<(usize, usize)> {
        let mark: Vec<char> = "#[cfg(test)]".chars().collect();
        let starts = (0..self.code.len()).filter(|at| self.code[*at..].starts_with(&mark));
        starts.map(|from| (from, item_end(&self.code, from + mark.len()))).collect()
    }

    /// First names behind `root::` in production code: of `use root::{a, b::c}` both `a` and `b`.
    pub(crate) fn names_below(&self, root: &str) -> Vec<Found> {
        let code = self.production();
        let mut found = Vec::new();
        for at in words(&code, root) {
            let after = skip_space(&code, at + root.len());
            if !code[after..].starts_with(&[':', ':']) {
                continue;
            }
            let after = skip_space(&code, after + 2);
            let starts = if code.get(after) == Some(&'{') { members(&code, after) } else { vec![after] };
            found.extend(
                starts.into_iter().map(|at| Found { line: line_of(&code, at), name: word_at(&code, at) }),
            );
        }
        found
    }

    /// Uses of a word in production code.
    pub(crate) fn word(&self, word: &str) -> Vec<Found> {
        let code = self.production();
        let at = words(&code, word);
        at.into_iter().map(|at| Found { line: line_of(&code, at), name: word.to_owned() }).collect()
    }

    /// Chains of `super::` that reach the crate's root, where the layering could not be seen.
    pub(crate) fn supers_to_the_root(&self) -> Vec<Found> {
        let code = self.production();
        let inner = inline_modules(&code);
        let mut found = Vec::new();
        let mut end_of_last = 0;
        for at in words(&code, "super") {
            if at < end_of_last {
                continue;
            }
            let chain: Vec<char> = "super::".chars().collect();
            let mut end = at;
            let mut ups = 0;
            while code[end..].starts_with(&chain) {
                ups += 1;
                end += chain.len();
            }
            end_of_last = end;
            let depth = self.depth() + inner.iter().filter(|(from, to)| (*from..*to).contains(&at)).count();
            if ups >= depth {
                found.push(Found { line: line_of(&code, at), name: "super".to_owned() });
            }
        }
        found
    }

    /// Names of the modules that the file declares.
    pub(crate) fn declared_modules(&self) -> Vec<String> {
        words(&self.code, "mod")
            .into_iter()
            .map(|at| word_at(&self.code, skip_space(&self.code, at + 3)))
            .collect()
    }
}

fn collect(root: &Path, folder: &Path, into: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            into.push(Source::new(&name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Blanks comments, strings and character literals, lines kept.
fn blank_literals(text: &str) -> Vec<char> {
    let chars: Vec<char> = text.chars().collect();
    let mut code = chars.clone();
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        for c in code.iter_mut().take(end).skip(at).filter(|c| **c != '\n') {
            *c = ' ';
        }
        at = end.max(at + 1);
    }
    code
}

/// Where the comment or literal that begins here ends; `at` itself if none begins.
fn literal_end(chars: &[char], at: usize) -> usize {
    let find = |from: usize, what: &str| {
        let what: Vec<char> = what.chars().collect();
        (from..chars.len())
            .find(|at| chars[*at..].starts_with(&what))
            .map_or(chars.len(), |at| at + what.len())
    };
    let in_word = at > 0 && is_word(chars[at - 1]);
    match (chars[at], chars.get(at + 1)) {
        ('/', Some('/')) => find(at, "\n") - 1,
        ('/', Some('*')) => find(at + 2, "*/"),
        ('r', Some('"' | '#')) if !in_word => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            match chars.get(at + 1 + hashes) {
                Some('"') => find(at + 2 + hashes, &format!("\"{}", "#".repeat(hashes))),
                _ => at,
            }
        }
        ('"', _) => closing(chars, at, '"'),
        // A lifetime is a quote and a word without closing quote.
        ('\'', Some('\\')) => closing(chars, at, '\''),
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
}

fn closing(chars: &[char], open: usize, quote: char) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn skip_space(code: &[char], from: usize) -> usize {
    (from..code.len()).find(|at| !code[*at].is_whitespace()).unwrap_or(code.len())
}

/// Where a whole word stands.
fn words(code: &[char], word: &str) -> Vec<usize> {
    let word: Vec<char> = word.chars().collect();
    let whole = |at: &usize| {
        code[*at..].starts_with(&word)
            && (*at == 0 || !is_word(code[at - 1]))
            && code.get(at + word.len()).is_none_or(|c| !is_word(*c))
    };
    (0..code.len()).filter(whole).collect()
}

fn word_at(code: &[char], at: usize) -> String {
    let word: String = code[at..].iter().take_while(|c| is_word(**c)).collect();
    if word.is_empty() { code.get(at).map(char::to_string).unwrap_or_default() } else { word }
}

fn line_of(code: &[char], at: usize) -> usize {
    1 + code[..at].iter().filter(|c| **c == '\n').count()
}

/// Where the members of a braced group begin.
fn members(code: &[char], open: usize) -> Vec<usize> {
    let mut depth = 0;
    let mut starts = Vec::new();
    let mut expected = false;
    for (at, c) in code.iter().enumerate().skip(open) {
        match c {
            '{' => {
                depth += 1;
                expected = depth == 1;
            }
            '}' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            ',' => expected = depth == 1,
            c if expected && !c.is_whitespace() => {
                starts.push(at);
                expected = false;
            }
            _ => {}
        }
    }
    starts
}

/// The end of the item that begins here: its closing brace, or its semicolon.
fn item_end(code: &[char], from: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code.iter().enumerate().skip(from) {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && *c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Ranges of `mod name { ... }`.
fn inline_modules(code: &[char]) -> Vec<(usize, usize)> {
    let range = |at: usize| {
        let name = skip_space(code, at + 3);
        let open = skip_space(code, name + word_at(code, name).len());
        (code.get(open) == Some(&'{')).then(|| (at, item_end(code, open)))
    };
    words(code, "mod").into_iter().filter_map(range).collect()
}
