//! Sets that are too large to be read while somebody waits.
//!
//! For each piece of a list the kernel walks the set from its begin (`nft_rbtree_walk`, `nft_rhash_walk` in
//! `net/netfilter`), so reading grows with the square of the set: with a million members it takes more than a minute. So
//! a large set is not compared with the rest of the table. It is as it should be for as long as only this worker changes
//! it, and who else does is heard of. Where that is not known (a new process found the set there, notifications were
//! lost, somebody changed it), it is read beside the work, on a socket of its own, and what differs is put right then.

use super::policy::elements;
use super::worker::Worker;
use super::{DataplaneError, delta, render};
use crate::nft::{Batch, Element, ElementKey, NftError, Op, Socket};
use crate::policy;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Members from which on a set is large. Reading three times as many takes about a second in an unoptimized build.
const LARGE: usize = 30_000;

/// What is known of the sets in the kernel.
#[derive(Debug, Default)]
pub(super) struct Large {
    /// Those that were right when last looked at, and that nobody else has changed since.
    sure: BTreeSet<String>,
    /// Those of which a change of ours may be there in part. They are compared at once, whatever that takes.
    torn: BTreeSet<String>,
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    set: String,
    /// Whether nobody else has changed the set since it began.
    undisturbed: bool,
    outcome: JoinHandle<Result<Difference, NftError>>,
}

/// What a set is not as its members ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Of these something is missing.
    missing: Vec<policy::Element>,
    /// These belong to no member.
    extra: BTreeSet<ElementKey>,
}

impl Large {
    /// A change of ours is in force.
    pub(super) fn committed(&mut self, batch: &Batch) {
        for op in &batch.ops {
            match op {
                Op::AddSet(set) => drop(self.sure.insert(set.name.clone())),
                Op::DeleteSet(name) => drop((self.sure.remove(name), self.torn.remove(name))),
                Op::DeleteTable => {
                    self.sure.clear();
                    self.torn.clear();
                }
                _ => {}
            }
        }
    }

    /// These changes of ours, which belong together with others before them, did not come about.
    pub(super) fn failed<'a>(&mut self, batches: impl IntoIterator<Item = &'a Batch>) {
        let ops = batches.into_iter().flat_map(|batch| &batch.ops);
        self.torn(ops.filter_map(|op| match op {
            Op::AddElements { set, .. } | Op::DeleteElements { set, .. } => Some(set.clone()),
            _ => None,
        }));
    }

    /// In these sets is not all that is desired.
    pub(super) fn torn(&mut self, sets: impl IntoIterator<Item = String>) {
        for set in sets {
            self.sure.remove(&set);
            self.torn.insert(set);
        }
    }

    /// Which of these sets are not known to be right.
    pub(super) fn unsure(&self, sets: &BTreeSet<String>) -> BTreeSet<String> {
        sets - &self.sure
    }

    /// Whether there is a set in which is not all that is desired.
    pub(super) fn is_torn(&self) -> bool {
        !self.torn.is_empty()
    }

    /// Somebody else changed this set, or, if it is not known which, any.
    pub(super) fn disturbed(&mut self, set: Option<&str>) {
        match set {
            Some(set) => drop(self.sure.remove(set)),
            None => self.sure.clear(),
        }
        if let Some(reading) = &mut self.reading
            && set.is_none_or(|set| set == reading.set)
        {
            reading.undisturbed = false;
        }
    }

    /// All sets were compared and are right, except those that were not read.
    pub(super) fn compared<'a>(&mut self, sets: impl Iterator<Item = &'a String>, unread: &BTreeSet<String>) {
        self.torn.retain(|set| unread.contains(set));
        self.sure.extend(sets.filter(|set| !unread.contains(*set)).cloned());
    }

    /// When a set was read: which, whether nobody else has changed it, and how it differs. Safe to cancel.
    pub(super) async fn read(&mut self) -> (String, bool, Result<Difference, NftError>) {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let outcome = (&mut reading.outcome).await;
        let (set, undisturbed) = (std::mem::take(&mut reading.set), reading.undisturbed);
        self.reading = None;
        // It neither panics nor is cancelled.
        (set, undisturbed, outcome.unwrap_or(Err(NftError::Unsteady)))
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.outcome.abort();
        }
    }
}

impl Worker {
    /// The sets that need not be read together with the rest.
    pub(super) fn large_sets(&self) -> BTreeSet<String> {
        &self.desired.policy.larger_than(LARGE) - &self.large.torn
    }

    /// Begins to read one of these sets, unless all are known to be right.
    pub(super) fn read_large(&mut self, there: &BTreeSet<String>) {
        if self.large.reading.is_some() || !self.active || self.standing {
            return;
        }
        let unsure = self.large.unsure(there).into_iter();
        let Some((set, members)) =
            unsure.filter_map(|set| self.desired.policy.members(&set).map(|members| (set, members))).next()
        else {
            return;
        };
        log::info!("set {set} has {} members; it is compared while other work goes on", members.len());
        let outcome = tokio::spawn(read(set.clone(), members, self.options.timing.deadline));
        self.large.reading = Some(Reading { set, undisturbed: true, outcome });
    }

    /// Puts a set right of which it was read how it differs from what was desired when that began.
    pub(super) async fn fix_large(
        &mut self,
        (set, undisturbed, outcome): (String, bool, Result<Difference, NftError>),
    ) {
        let outcome = match outcome {
            Ok(difference) => self.settle(&set, &difference).await,
            Err(source) => Err(DataplaneError::Kernel { attempt: "read a large set", source }),
        };
        match outcome {
            Ok(right) => {
                if right && undisturbed {
                    self.large.sure.insert(set);
                }
                self.read_large(&self.large_sets());
            }
            // The next comparison begins again.
            Err(error) if self.desired.policy.members(&set).is_some() => log::warn!("set {set}: {error}"),
            Err(_) => {}
        }
    }

    /// What has changed about the set since was committed then: only what is still desired is added, and only what is
    /// still not is deleted. Says whether the set is right then; if it is no longer wanted there, nothing is done.
    async fn settle(&mut self, set: &str, difference: &Difference) -> Result<bool, DataplaneError> {
        let wanted = self.active && !self.standing && self.large_sets().contains(set);
        let Some(members) = self.desired.policy.members(set).filter(|_| wanted) else {
            return Ok(false);
        };
        let batch = difference.batch(set, &members);
        if batch.ops.is_empty() {
            return Ok(true);
        }
        let elements = batch.elements_in();
        for piece in delta::pieces(batch) {
            let outcome = self.commit(&piece).await;
            outcome.map_err(|source| DataplaneError::Kernel { attempt: "put a large set right", source })?;
        }
        log::info!("table {} put right: {elements} elements of set {set}", render::table_id());
        self.status.send_modify(|status| status.repairs += 1);
        Ok(true)
    }
}

/// Others may change the table meanwhile; see [`Socket::elements_meanwhile`].
async fn read(
    set: String,
    members: Vec<policy::Element>,
    deadline: Duration,
) -> Result<Difference, NftError> {
    let (have, _) = Socket::open(deadline)?.elements_meanwhile(&render::table_id(), &set).await?;
    let compare = move || Difference::between(&members, have.into_iter().map(|e| e.key).collect());
    tokio::task::spawn_blocking(compare).await.map_err(|_| NftError::Unsteady)
}

impl Difference {
    /// Between the members of a set and its elements.
    fn between(members: &[policy::Element], mut have: BTreeSet<ElementKey>) -> Self {
        let mut missing = Vec::new();
        for member in members {
            // All of them are taken out, also if one is not there.
            let absent = keys(member).filter(|key| !have.remove(key)).count();
            if absent > 0 {
                missing.push(*member);
            }
        }
        Self { missing, extra: have }
    }

    /// What it takes to make it right, as far as these members are desired now.
    fn batch(&self, set: &str, members: &[policy::Element]) -> Batch {
        let desired: BTreeSet<&policy::Element> = members.iter().collect();
        let mut extra = self.extra.clone();
        if !extra.is_empty() {
            members.iter().flat_map(keys).for_each(|key| {
                extra.remove(&key);
            });
        }
        let missing = self.missing.iter().filter(|member| desired.contains(member));
        let mut add: Vec<Element> = missing.flat_map(elements).collect();
        add.sort_unstable();
        let delete = extra.into_iter().map(|key| Element { key, data: None }).collect();
        let mut batch = Batch::new(render::table_id());
        batch.elements(set, delete, add);
        batch
    }
}

fn keys(member: &policy::Element) -> impl Iterator<Item = ElementKey> {
    elements(member).into_iter().map(|element| element.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{DataType, Set, SetData};

    fn net(text: &str) -> policy::Element {
        policy::Element::Net(text.parse().unwrap())
    }

    fn key(last: u8, end: bool) -> ElementKey {
        ElementKey { bytes: vec![10, 0, 0, last], end }
    }

    fn elements_of(batch: &Batch) -> Vec<(bool, Vec<ElementKey>)> {
        let keys = |elements: &[Element]| elements.iter().map(|e| e.key.clone()).collect();
        let of = |op: &Op| match op {
            Op::AddElements { elements, .. } => (true, keys(elements)),
            Op::DeleteElements { elements, .. } => (false, keys(elements)),
            other => panic!("{other}"),
        };
        batch.ops.iter().map(of).collect()
    }

    #[test]
    fn a_member_of_which_half_is_missing_is_added_whole_and_what_belongs_to_none_goes() {
        let members = [net("10.0.0.1/32"), net("10.0.0.2/32"), net("10.0.0.8/29")];
        let have = [key(1, false), key(2, true), key(2, false), key(9, false), key(10, true)];
        let found = Difference::between(&members, have.into());
        let want = Difference {
            missing: vec![members[1], members[2]],
            extra: BTreeSet::from([key(9, false), key(10, true)]),
        };
        assert_eq!(found, want);
        let add = vec![key(2, false), key(3, true), key(8, false), key(16, true)];
        let batch = found.batch("s", &members);
        let delete = vec![key(9, false), key(10, true)];
        assert_eq!(elements_of(&batch), [(false, delete), (true, add)]);
    }

    #[test]
    fn what_changed_since_it_was_read_is_left_as_it_is_now() {
        let (old, new) = (net("10.0.0.1/32"), net("10.0.0.9/32"));
        // The first was removed before the list came to it, the second was added.
        let found = Difference::between(&[old], BTreeSet::from([key(9, false), key(10, true)]));
        assert!(found.batch("s", &[new]).ops.is_empty());
    }

    #[test]
    fn a_set_is_known_to_be_right_until_others_change_it_or_a_change_of_ours_stops_half_way() {
        let batch = |ops| Batch { table: render::table_id(), ops };
        let set =
            Set { name: "s".to_owned(), key: vec![DataType::Ipv4Addr], data: SetData::None, interval: true };
        let added = batch(vec![Op::AddSet(set)]);
        let filled = batch(vec![Op::AddElements { set: "s".to_owned(), elements: Vec::new() }]);
        let known = |large: &Large| (large.sure.contains("s"), large.torn.contains("s"));
        let mut large = Large::default();
        large.committed(&added);
        assert_eq!(known(&large), (true, false));
        large.disturbed(Some("other"));
        assert_eq!(known(&large), (true, false));
        large.disturbed(Some("s"));
        assert_eq!(known(&large), (false, false));
        large.compared([&"s".to_owned()].into_iter(), &BTreeSet::from(["s".to_owned()]));
        assert_eq!(known(&large), (false, false));
        large.compared([&"s".to_owned()].into_iter(), &BTreeSet::new());
        assert_eq!(known(&large), (true, false));
        large.disturbed(None);
        large.committed(&added);
        large.failed([&filled]);
        assert_eq!(known(&large), (false, true));
        large.committed(&filled);
        assert_eq!(known(&large), (false, true));
        large.compared([&"s".to_owned()].into_iter(), &BTreeSet::new());
        assert_eq!(known(&large), (true, false));
        large.failed([&filled]);
        large.committed(&batch(vec![Op::DeleteSet("s".to_owned())]));
        assert_eq!(known(&large), (false, false));
    }
}
