//! What is wrong with which resource, said once as long as it stays wrong.

use super::update::ResourceId;
use std::collections::BTreeMap;

/// Sentences by resource.
#[derive(Debug, Default)]
pub(super) struct Problems {
    current: BTreeMap<ResourceId, Vec<String>>,
    fresh: Vec<(ResourceId, String)>,
}

impl Problems {
    /// What is wrong with a resource now. Sentences go on after the resource's name.
    pub(super) fn set(&mut self, id: &ResourceId, problems: Vec<String>) {
        let before = self.current.remove(id).unwrap_or_default();
        self.fresh.retain(|(other, problem)| other != id || problems.contains(problem));
        for problem in &problems {
            if !before.contains(problem) {
                self.fresh.push((id.clone(), problem.clone()));
            }
        }
        if !problems.is_empty() {
            self.current.insert(id.clone(), problems);
        }
    }

    /// Sentences that were not told yet, in an order that does not depend on that of the updates.
    pub(super) fn take_fresh(&mut self) -> Vec<String> {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.sort();
        fresh.dedup();
        fresh.into_iter().map(|(id, problem)| sentence(&id, &problem)).collect()
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
    fn what_was_repaired_before_it_was_told_is_not_told() {
        let mut problems = Problems::default();
        let id = ResourceId::global(ResourceKind::Tier, "t");
        problems.set(&id, vec!["is wrong".to_owned()]);
        problems.set(&id, Vec::new());
        assert!(problems.take_fresh().is_empty());
    }
}
