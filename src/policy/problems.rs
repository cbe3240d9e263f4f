//! What is wrong with which resource, said once as long as it stays wrong.

use super::update::ResourceId;
use std::collections::{BTreeMap, BTreeSet};

/// How many sentences one resource gets.
const ENOUGH: usize = 10;

/// Sentences by resource.
#[derive(Debug, Default)]
pub(super) struct Problems {
    current: BTreeMap<ResourceId, Vec<String>>,
    fresh: BTreeMap<ResourceId, BTreeSet<String>>,
}

impl Problems {
    /// What is wrong with a resource now. Sentences go on after the resource's name.
    pub(super) fn set(&mut self, id: &ResourceId, mut problems: Vec<String>) {
        let more = problems.len().saturating_sub(ENOUGH);
        if more > 0 {
            problems.truncate(ENOUGH);
            problems.push(format!("has {more} more problems of this sort"));
        }
        let before = self.current.remove(id).unwrap_or_default();
        let untold = self.fresh.remove(id).unwrap_or_default();
        let fresh = problems.iter().filter(|it| untold.contains(*it) || !before.contains(it)).cloned();
        let fresh: BTreeSet<String> = fresh.collect();
        if !fresh.is_empty() {
            self.fresh.insert(id.clone(), fresh);
        }
        if !problems.is_empty() {
            self.current.insert(id.clone(), problems);
        }
    }

    /// Sentences that were not told yet, in an order that does not depend on that of the updates.
    pub(super) fn take_fresh(&mut self) -> Vec<String> {
        let fresh = std::mem::take(&mut self.fresh);
        fresh.iter().flat_map(|(id, list)| list.iter().map(move |problem| sentence(id, problem))).collect()
    }

    /// Everything that is wrong now.
    pub(super) fn all(&self) -> impl Iterator<Item = String> + '_ {
        self.current.iter().flat_map(|(id, list)| list.iter().map(move |problem| sentence(id, problem)))
    }
}

fn sentence(id: &ResourceId, problem: &str) -> String {
    format!("{id} {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::update::ResourceKind;

    #[test]
    fn a_problem_is_told_once_until_it_is_gone_and_back() {
        let mut problems = Problems::default();
        let id = ResourceId::global(ResourceKind::Tier, "t");
        let wrong = || vec!["is wrong".to_owned()];
        problems.set(&id, wrong());
        problems.set(&id, wrong());
        assert_eq!(problems.take_fresh(), ["Tier t is wrong"]);
        problems.set(&id, wrong());
        assert!(problems.take_fresh().is_empty());
        assert_eq!(problems.all().collect::<Vec<_>>(), ["Tier t is wrong"]);
        problems.set(&id, Vec::new());
        assert_eq!(problems.all().count(), 0);
        problems.set(&id, wrong());
        assert_eq!(problems.take_fresh(), ["Tier t is wrong"]);
    }

    #[test]
    fn a_resource_full_of_problems_does_not_fill_the_log() {
        let mut problems = Problems::default();
        let id = ResourceId::global(ResourceKind::Tier, "t");
        problems.set(&id, (0..1000).map(|it| format!("is wrong at {it}")).collect());
        let told = problems.take_fresh();
        assert_eq!(told.len(), ENOUGH + 1);
        assert!(told.contains(&"Tier t has 990 more problems of this sort".to_owned()));
    }

    #[test]
    fn what_was_repaired_before_it_was_told_is_not_told() {
        let mut problems = Problems::default();
        let id = ResourceId::global(ResourceKind::Tier, "t");
        problems.set(&id, vec!["is wrong".to_owned()]);
        problems.set(&id, Vec::new());
        assert!(problems.take_fresh().is_empty());
    }
}
