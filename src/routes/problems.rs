//! What is wrong, said once. Pure.

use std::collections::BTreeSet;

/// Sentences that were said, so that none is said twice while it holds.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// What held at the last look, said or not.
    pending: BTreeSet<String>,
    said: BTreeSet<String>,
}

impl Problems {
    /// Takes in what holds now. Gives what is to be said: what held at the last look too, since much of what is wrong
    /// while a node joins is right a moment later; and whether another look is needed.
    pub(super) fn look(&mut self, now: BTreeSet<String>) -> (Vec<String>, bool) {
        self.said.retain(|sentence| now.contains(sentence));
        let lasting: Vec<String> = self.pending.intersection(&now).cloned().collect();
        let fresh: Vec<String> =
            lasting.into_iter().filter(|sentence| self.said.insert(sentence.clone())).collect();
        self.pending = now;
        let again = self.pending.iter().any(|sentence| !self.said.contains(sentence));
        (fresh, again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_once_and_again_when_it_comes_back() {
        let mut problems = Problems::default();
        let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(problems.look(set(&["a"])), (vec![], true));
        assert_eq!(problems.look(set(&["a", "b"])), (vec!["a".to_owned()], true));
        assert_eq!(problems.look(set(&["a"])), (vec![], false));
        assert_eq!(problems.look(set(&[])), (vec![], false));
        assert_eq!(problems.look(set(&["a"])), (vec![], true));
        assert_eq!(problems.look(set(&["a"])), (vec!["a".to_owned()], false));
    }
}
