//! A test double in front of any store: calls that fail, hang, come late, or fail after they were applied, as a
//! datastore across a network does.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use calico_libnetwork::store::faulty::{Fault, Verb};
//! use calico_libnetwork::store::{FaultyStore, MemoryStore, Store, Txn};
//!
//! let store = FaultyStore::new(MemoryStore::new());
//! store.fail(Verb::Commit, 2, Fault::AppliedThenUnavailable);
//! assert!(store.commit(Txn::new().create("a", "1")).await.is_ok());
//! assert!(store.commit(Txn::new().create("b", "2")).await.is_err());
//! assert!(store.get("b").await.unwrap().is_some(), "it was applied all the same");
//! # });
//! ```

use super::{Entry, Event, Listing, Revision, Store, StoreError, Txn};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A call of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// [`Store::get`].
    Get,
    /// [`Store::list`].
    List,
    /// [`Store::commit`].
    Commit,
    /// [`Store::watch`].
    Watch,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// [`StoreError::Unavailable`]; nothing is changed.
    Unavailable,
    /// [`StoreError::Conflict`] naming the first key; nothing is changed. For a commit: a race lost.
    Conflict,
    /// [`StoreError::Compacted`]: for a watch, which then has to list again.
    Compacted,
    /// The call is done, then [`StoreError::Unavailable`] is answered: the answer was lost on the way.
    AppliedThenUnavailable,
    /// The call is done after a pause.
    Delay(Duration),
    /// No answer ever comes, nothing is changed: a black hole on the way. The caller needs a deadline.
    Hang,
}

/// Counts calls and makes some of them fail.
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    /// Never held across an await.
    plan: Mutex<Plan>,
    /// Counts how often the open watches were cut.
    cuts: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: BTreeMap<Verb, u64>,
    once: BTreeMap<(Verb, u64), Fault>,
    always: BTreeMap<Verb, Fault>,
}

impl<S> FaultyStore<S> {
    /// No faults yet.
    #[must_use]
    pub fn new(inner: S) -> Self {
        Self { inner, plan: Mutex::default(), cuts: watch::Sender::new(0) }
    }

    /// The `nth` call of this kind from now (1 is the next one) meets the fault; the ones around it do not.
    pub fn fail(&self, verb: Verb, nth: u64, fault: Fault) {
        let mut plan = self.plan();
        let call = plan.calls.get(&verb).copied().unwrap_or_default().saturating_add(nth);
        plan.once.insert((verb, call), fault);
    }

    /// Every call of this kind meets the fault until [`Self::heal`], unless [`Self::fail`] says otherwise.
    pub fn fail_always(&self, verb: Verb, fault: Fault) {
        self.plan().always.insert(verb, fault);
    }

    /// No more faults.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.once.clear();
        plan.always.clear();
    }

    /// Ends every open watch with [`StoreError::Unavailable`], as a lost connection does.
    pub fn cut_watches(&self) {
        self.cuts.send_modify(|cuts| *cuts = cuts.wrapping_add(1));
    }

    /// How many calls of this kind there were, failed ones included.
    #[must_use]
    pub fn calls(&self, verb: Verb) -> u64 {
        self.plan().calls.get(&verb).copied().unwrap_or_default()
    }

    /// The store behind.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says what happens to it.
    fn enter(&self, verb: Verb) -> Option<Fault> {
        let mut plan = self.plan();
        let calls = plan.calls.entry(verb).or_default();
        *calls = calls.saturating_add(1);
        let call = *calls;
        plan.once.remove(&(verb, call)).or_else(|| plan.always.get(&verb).copied())
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move { meet(self.enter(Verb::Get), key, self.inner.get(key)).await }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        async move { meet(self.enter(Verb::List), prefix, self.inner.list(prefix)).await }.boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        let key = txn.guards.first().map(super::Guard::key).or_else(|| txn.ops.first().map(super::Op::key));
        let key = key.unwrap_or_default().to_owned();
        async move { meet(self.enter(Verb::Commit), &key, self.inner.commit(txn)).await }.boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        let events = self.inner.watch(prefix, from);
        let events = match self.enter(Verb::Watch) {
            Some(Fault::Delay(pause)) => {
                stream::once(tokio::time::sleep(pause)).flat_map(|()| stream::empty()).chain(events).boxed()
            }
            Some(Fault::Hang) => stream::pending().boxed(),
            Some(Fault::Conflict) => failed(StoreError::Conflict { key: prefix.to_owned() }),
            Some(Fault::Compacted) => failed(compacted(from)),
            Some(Fault::Unavailable | Fault::AppliedThenUnavailable) => failed(unavailable()),
            None => events,
        };
        cuttable(events, self.cuts.subscribe())
    }
}

/// The events until the next cut (or the store is gone), then one error.
fn cuttable(
    events: BoxStream<'static, Result<Event, StoreError>>,
    cuts: watch::Receiver<u64>,
) -> BoxStream<'static, Result<Event, StoreError>> {
    let next = |(mut events, mut cuts): (BoxStream<'static, _>, Option<watch::Receiver<u64>>)| async move {
        let mut cut = cuts.take()?;
        tokio::select! {
            biased;
            _ = cut.changed() => Some((Err(unavailable()), (events, None))),
            event = events.next() => event.map(|event| (event, (events, Some(cut)))),
        }
    };
    stream::unfold((events, Some(cuts)), next).boxed()
}

fn failed(error: StoreError) -> BoxStream<'static, Result<Event, StoreError>> {
    stream::once(async { Err(error) }).boxed()
}

/// Does the call, or what the fault says instead.
async fn meet<T>(
    fault: Option<Fault>,
    key: &str,
    call: BoxFuture<'_, Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match fault {
        None => call.await,
        Some(Fault::Unavailable) => Err(unavailable()),
        Some(Fault::Conflict) => Err(StoreError::Conflict { key: key.to_owned() }),
        Some(Fault::Compacted) => Err(compacted(Revision(0))),
        Some(Fault::AppliedThenUnavailable) => {
            call.await?;
            Err(unavailable())
        }
        Some(Fault::Delay(pause)) => {
            tokio::time::sleep(pause).await;
            call.await
        }
        Some(Fault::Hang) => std::future::pending().await,
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { why: "a planned fault of the test".to_owned() }
}

fn compacted(from: Revision) -> StoreError {
    StoreError::Compacted { from, oldest: Revision(from.0.saturating_add(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use tokio::time::Instant;

    fn store() -> FaultyStore<MemoryStore> {
        FaultyStore::new(MemoryStore::new())
    }

    fn put(key: &str) -> Txn {
        Txn::new().create(key, "x")
    }

    #[tokio::test]
    async fn the_nth_call_fails_and_the_others_do_not() {
        let store = store();
        store.commit(put("a")).await.unwrap();
        store.fail(Verb::Commit, 2, Fault::Conflict);
        store.fail(Verb::Get, 1, Fault::Unavailable);
        store.commit(put("b")).await.unwrap();
        assert!(store.commit(put("c")).await.unwrap_err().is_conflict());
        store.commit(put("c")).await.unwrap();
        assert!(matches!(store.get("a").await, Err(StoreError::Unavailable { .. })));
        assert!(store.get("a").await.unwrap().is_some());
        assert_eq!((store.calls(Verb::Commit), store.calls(Verb::Get), store.calls(Verb::List)), (4, 2, 0));
    }

    #[tokio::test]
    async fn a_lost_answer_is_an_error_although_the_change_was_made() {
        let store = store();
        store.fail(Verb::Commit, 1, Fault::AppliedThenUnavailable);
        assert!(matches!(store.commit(put("a")).await, Err(StoreError::Unavailable { .. })));
        assert!(store.inner().get("a").await.unwrap().is_some());
        store.fail(Verb::Commit, 1, Fault::AppliedThenUnavailable);
        assert!(store.commit(put("a")).await.unwrap_err().is_conflict(), "a refusal is not hidden");
    }

    #[tokio::test]
    async fn every_call_fails_until_it_is_healed() {
        let store = store();
        store.fail_always(Verb::List, Fault::Unavailable);
        for _ in 0..3 {
            assert!(store.list("").await.is_err());
        }
        store.heal();
        assert!(store.list("").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_call_is_done_late_and_a_hanging_one_never() {
        let store = store();
        let begin = Instant::now();
        store.fail(Verb::Commit, 1, Fault::Delay(Duration::from_secs(3)));
        store.commit(put("a")).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::from_secs(3));
        store.fail(Verb::Commit, 1, Fault::Hang);
        assert!(tokio::time::timeout(Duration::from_secs(60), store.commit(put("b"))).await.is_err());
        assert!(store.get("b").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn watches_are_cut_refused_and_compacted_as_planned() {
        let store = store();
        let mut events = store.watch("", Revision(0));
        store.commit(put("a")).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().key(), "a");
        store.cut_watches();
        assert!(matches!(events.next().await, Some(Err(StoreError::Unavailable { .. }))));
        assert!(events.next().await.is_none());
        store.fail(Verb::Watch, 1, Fault::Compacted);
        let mut events = store.watch("", Revision(0));
        assert!(matches!(events.next().await, Some(Err(StoreError::Compacted { .. }))));
        assert!(events.next().await.is_none());
        let mut events = store.watch("", Revision(0));
        assert_eq!(events.next().await.unwrap().unwrap().key(), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_watch_misses_nothing() {
        let store = store();
        store.fail(Verb::Watch, 1, Fault::Delay(Duration::from_secs(1)));
        let mut events = store.watch("", Revision(0));
        store.commit(put("a")).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().key(), "a");
    }
}
