//! Whatever text comes as a selector: reading it ends in order, and what is read is printed in a form that means the
//! same and that printing leaves alone.

#![no_main]

use calico_libnetwork::selector::Selector;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

fuzz_target!(|text: &str| {
    let Ok(selector) = Selector::parse(text) else { return };
    let canonical = selector.to_string();
    let again = Selector::parse(&canonical).unwrap_or_else(|error| panic!("{text:?} is printed as {canonical:?}: {error}"));
    assert_eq!(again, selector, "{text:?} is printed as {canonical:?}");
    assert_eq!(again.to_string(), canonical);
    for labels in labelled(text) {
        let opposite = Selector::Not(Box::new(selector.clone()));
        assert_ne!(opposite.matches(&labels), selector.matches(&labels), "{text:?} about {labels:?}");
    }
});

/// Things that may match: no label at all, and every word of the text as a label with every other as its value.
fn labelled(text: &str) -> Vec<BTreeMap<String, String>> {
    const MOST: usize = 8;
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || "'\"(){},!=&|".contains(c)).collect();
    let words = || words.iter().copied().filter(|word| !word.is_empty()).take(MOST);
    let all_with = |value: &str| words().map(|label| (label.to_owned(), value.to_owned())).collect();
    std::iter::once(BTreeMap::new()).chain(words().map(all_with)).collect()
}
