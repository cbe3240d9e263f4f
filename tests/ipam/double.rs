//! A datastore in memory that loses races, crashes and forgets to answer when a test tells it to. With a real one beside
//! it, both are asked, and the real one answers.

use crate::peer::{Peer, Revisions};
use bytes::Bytes;
use calico_libnetwork::store::{Entry, Event, Guard, Listing, Op, Revision, Store, StoreError, Txn};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::MutexGuard;

/// What befalls one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It loses a race that nobody ran.
    Conflict,
    /// It fails and changes nothing.
    Down,
    /// It is applied, and its answer is lost.
    AnswerLost,
}

type Intruder = Box<dyn FnOnce(&Double, &Txn) + Send>;

#[derive(Default)]
struct State {
    revision: u64,
    entries: BTreeMap<String, (Bytes, u64)>,
    faults: VecDeque<Fault>,
    intruders: VecDeque<Intruder>,
    /// The keys of each commit that was applied, in order.
    log: Vec<Vec<String>>,
    /// Each key or prefix that was read, in order.
    reads: Vec<String>,
    /// What a test changed itself and the real datastore has not been told yet, with its revision; empty without one.
    untold: Vec<(Txn, u64)>,
}

#[derive(Default)]
pub(crate) struct Double {
    state: Mutex<State>,
    peer: Option<Peer>,
}

impl std::fmt::Debug for Double {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Double")
    }
}

impl Double {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), peer: crate::peer() })
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        self.apply(&Txn::new().put(key, value.to_owned()));
    }

    pub(crate) fn remove(&self, key: &str) {
        self.apply(&Txn::new().remove(key));
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        state.entries.get(key).map(|(value, _)| String::from_utf8(value.to_vec()).unwrap())
    }

    pub(crate) fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(key).unwrap_or_else(|| panic!("{key} is not there"))).unwrap()
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        self.state.lock().unwrap().entries.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// Everything, at this moment.
    pub(crate) fn listing(&self) -> Listing {
        let state = self.state.lock().unwrap();
        let entry = |(key, (value, at)): (&String, &(Bytes, u64))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: Revision(*at),
        };
        Listing { entries: state.entries.iter().map(entry).collect(), revision: Revision(state.revision) }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.state.lock().unwrap().revision
    }

    /// What befalls the next commits, in order; after that nothing does.
    pub(crate) fn befall(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults = faults.into_iter().collect();
    }

    /// Lets somebody else act just before the next commit.
    pub(crate) fn intrude(&self, act: impl FnOnce(&Double, &Txn) + Send + 'static) {
        self.state.lock().unwrap().intruders.push_back(Box::new(act));
    }

    /// The keys of the commits since the last call.
    pub(crate) fn take_log(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// What was read since the last call.
    pub(crate) fn take_reads(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().reads)
    }

    pub(crate) fn apply(&self, txn: &Txn) -> Revision {
        let mut state = self.state.lock().unwrap();
        let revision = state.apply(txn);
        if self.peer.is_some() {
            state.untold.push((txn.clone(), revision.0));
        }
        revision
    }

    /// Check and change under one lock: nodes race on several threads.
    fn commit_now(&self, txn: &Txn) -> Result<Revision, StoreError> {
        let mut state = self.state.lock().unwrap();
        assert!(state.untold.is_empty(), "a test changed the datastore while it was asked");
        state.check(txn)?;
        Ok(state.apply(txn))
    }

    /// The real datastore, once it stands as the double does; nobody else asks it then.
    async fn peer(&self) -> Option<(&Peer, MutexGuard<'_, Revisions>)> {
        let peer = self.peer.as_ref()?;
        let mut revisions = peer.turn.lock().await;
        let untold = std::mem::take(&mut self.state.lock().unwrap().untold);
        peer.follow(&mut revisions, &untold).await;
        Some((peer, revisions))
    }

    async fn commit_both(&self, txn: &Txn) -> Result<Revision, StoreError> {
        let Some((peer, mut revisions)) = self.peer().await else { return self.commit_now(txn) };
        let next = self.revision() + 1;
        let answer = peer.commit(&mut revisions, txn, next).await;
        let (here, there) = (format!("{:?}", self.commit_now(txn)), format!("{answer:?}"));
        assert_eq!(here, there, "the double and the datastore differ on {txn:?}");
        answer
    }
}

impl State {
    fn apply(&mut self, txn: &Txn) -> Revision {
        let state = self;
        state.revision += 1;
        let revision = state.revision;
        for op in &txn.ops {
            match op {
                Op::Put(key, value) => drop(state.entries.insert(key.clone(), (value.clone(), revision))),
                Op::Delete(key) => drop(state.entries.remove(key)),
            }
        }
        state.log.push(txn.ops.iter().map(|op| op.key().to_owned()).collect());
        Revision(revision)
    }

    fn check(&self, txn: &Txn) -> Result<(), StoreError> {
        let mut keys: Vec<&str> = txn.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        assert!(
            keys.windows(2).all(|pair| pair[0] != pair[1]),
            "etcd refuses a key that is changed twice: {keys:?}"
        );
        assert!(txn.ops.len() <= 128 && txn.guards.len() <= 128, "etcd refuses more than 128 operations");
        let holds = |guard: &&Guard| match guard {
            Guard::Absent(key) => !self.entries.contains_key(key),
            Guard::At(key, at) => self.entries.get(key).is_some_and(|(_, revision)| *revision == at.0),
        };
        match txn.guards.iter().find(|guard| !holds(guard)) {
            Some(guard) => Err(StoreError::Conflict { key: guard.key().to_owned() }),
            None => Ok(()),
        }
    }
}

fn down() -> StoreError {
    StoreError::Unavailable { why: "the test pulled the plug".to_owned() }
}

impl Store for Double {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move {
            tokio::task::yield_now().await;
            let peer = self.peer().await;
            let answer = match &peer {
                Some((peer, revisions)) => Some(peer.get(revisions, key).await),
                None => None,
            };
            let mut state = self.state.lock().unwrap();
            state.reads.push(key.to_owned());
            let found = state.entries.get(key).map(|(value, revision)| Entry {
                key: key.to_owned(),
                value: value.clone(),
                revision: Revision(*revision),
            });
            let answer = answer.unwrap_or_else(|| found.clone());
            assert_eq!(found, answer, "the double and the datastore differ on {key}");
            Ok(answer)
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        async move {
            tokio::task::yield_now().await;
            let peer = self.peer().await;
            let answer = match &peer {
                Some((peer, revisions)) => Some(peer.list(revisions, prefix).await),
                None => None,
            };
            let mut state = self.state.lock().unwrap();
            state.reads.push(prefix.to_owned());
            let found = state.entries.iter().filter(|(key, _)| key.starts_with(prefix));
            let entry = |(key, (value, at)): (&String, &(Bytes, u64))| Entry {
                key: key.clone(),
                value: value.clone(),
                revision: Revision(*at),
            };
            let found: Vec<Entry> = found.map(entry).collect();
            let answer = answer.unwrap_or_else(|| found.clone());
            assert_eq!(found, answer, "the double and the datastore differ under {prefix}");
            Ok(Listing { entries: answer, revision: Revision(state.revision) })
        }
        .boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async move {
            tokio::task::yield_now().await;
            let (fault, intruder) = {
                let mut state = self.state.lock().unwrap();
                (state.faults.pop_front().unwrap_or(Fault::None), state.intruders.pop_front())
            };
            if let Some(intruder) = intruder {
                intruder(self, &txn);
            }
            match fault {
                Fault::Conflict => return Err(StoreError::Conflict { key: "injected".to_owned() }),
                Fault::Down => return Err(down()),
                Fault::None | Fault::AnswerLost => {}
            }
            let revision = self.commit_both(&txn).await?;
            if fault == Fault::AnswerLost { Err(down()) } else { Ok(revision) }
        }
        .boxed()
    }

    fn watch(&self, _: &str, _: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        futures::stream::pending().boxed()
    }
}
