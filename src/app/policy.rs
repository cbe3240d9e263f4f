//! Policy from the datastore to the packet filter.
//!
//! ```text
//! list, then watch -> Update -> Graph -> Changes -> dataplane
//!            the administrator's questions -+
//! ```
//!
//! While the datastore is away the last state stays in force. After a gap everything is listed again, and what is no
//! longer there is deleted.

use crate::admin::PolicyInbox;
use crate::dataplane::{Dataplane, DataplaneError};
use crate::model::{NodeName, ORCHESTRATOR, WorkloadEndpointSpec, endpoint_name_prefix, key};
use crate::policy::{Graph, Update};
use crate::store::{Event, Revision, SharedStore, StoreError};
use crate::task::Backoff;
use futures::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Two changes of the packet filter are at least this far apart, so that a datastore in which much happens costs no
/// more than this often; what happens in between goes in together. A new endpoint of this node does not wait.
const APART: Duration = Duration::from_millis(10);
/// Most events that go in together, so that a storm of them cannot hold up what came first.
const MOST: usize = 10_000;
/// How long a change is waited for before the next ones are told: one with very many members of sets takes longer, and
/// what does not depend on it overtakes it.
const PATIENCE: Duration = Duration::from_millis(200);
/// Most changes that are not waited for.
const MOST_BEHIND: usize = 100;
/// Pauses after a watch broke or a list failed.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The owner of this node's policy graph.
pub(super) struct PolicyFeed {
    store: SharedStore,
    dataplane: Dataplane,
    graph: Graph,
    /// Keys that the graph was told of.
    known: BTreeSet<String>,
    /// Up to where it has been told.
    revision: Revision,
    /// Keys of this node's endpoints begin with this.
    own_endpoints: String,
    applied: Instant,
    /// Changes that were told and are not waited for.
    behind: JoinSet<()>,
}

impl PolicyFeed {
    /// Reads everything and tells the dataplane, for it to know all before it puts anything in force.
    ///
    /// # Errors
    /// The datastore cannot be read.
    pub(super) async fn start(
        store: SharedStore,
        dataplane: Dataplane,
        node: &NodeName,
    ) -> Result<Self, StoreError> {
        let mut feed = Self {
            store,
            dataplane,
            graph: Graph::new(node.as_str()),
            known: BTreeSet::new(),
            revision: Revision::default(),
            own_endpoints: key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, &endpoint_name_prefix(node)),
            applied: Instant::now(),
            behind: JoinSet::new(),
        };
        feed.list().await?;
        Ok(feed)
    }

    /// Follows the datastore, and answers questions, for ever.
    pub(super) async fn run(mut self, mut inbox: PolicyInbox) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.follow(&mut backoff, &mut inbox).await {
                Ok(()) => log::debug!("policy is listed again: the watch ended"),
                Err(StoreError::Compacted { .. }) => log::debug!("policy is listed again"),
                Err(error) => log::warn!("policy stays as it is for a moment: {error}"),
            }
            loop {
                self.pause(&mut backoff, &mut inbox).await;
                match self.list().await {
                    Ok(()) => break,
                    Err(error) => log::warn!("policy stays as it is: {error}"),
                }
            }
        }
    }

    /// Pauses; questions are answered meanwhile.
    async fn pause(&self, backoff: &mut Backoff, inbox: &mut PolicyInbox) {
        let pause = backoff.pause();
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return,
                request = inbox.next() => request.answer(&self.graph),
            }
        }
    }

    async fn follow(&mut self, backoff: &mut Backoff, inbox: &mut PolicyInbox) -> Result<(), StoreError> {
        let mut events = self.store.watch(key::RESOURCE_ROOT, self.revision);
        loop {
            let first = tokio::select! {
                biased;
                event = events.next() => event,
                request = inbox.next() => {
                    request.answer(&self.graph);
                    continue;
                }
            };
            let Some(first) = first else { return Ok(()) };
            let mut urgent = self.take(first?);
            let (mut taken, due) = (1, self.applied + APART);
            while !urgent && taken < MOST {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(due) => break,
                    event = events.next() => match event {
                        Some(event) => urgent = self.take(event?),
                        None => break,
                    },
                }
                taken += 1;
            }
            while taken < MOST
                && let Some(Some(event)) = events.next().now_or_never()
            {
                self.take(event?);
                taken += 1;
            }
            self.apply().await;
            backoff.reset();
        }
    }

    /// Tells the graph of a change. Says whether somebody waits for it: a container that is being started.
    fn take(&mut self, event: Event) -> bool {
        self.revision = self.revision.max(event.revision());
        match event {
            Event::Put(entry) => {
                let Some(update) = Update::from_entry(&entry.key, Some(&entry.value)) else { return false };
                self.graph.update(update);
                let own = entry.key.starts_with(&self.own_endpoints);
                self.known.insert(entry.key) && own
            }
            Event::Delete { key, .. } => {
                self.delete(&key);
                false
            }
        }
    }

    fn delete(&mut self, key: &str) {
        self.known.remove(key);
        if let Some(update) = Update::from_entry(key, None) {
            self.graph.update(update);
        }
    }

    async fn list(&mut self) -> Result<(), StoreError> {
        let listing = self.store.list(key::RESOURCE_ROOT).await?;
        let there: BTreeSet<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
        let gone: Vec<String> =
            self.known.iter().filter(|key| !there.contains(key.as_str())).cloned().collect();
        for key in gone {
            self.delete(&key);
        }
        for entry in listing.entries {
            self.take(Event::Put(entry));
        }
        self.revision = listing.revision;
        self.apply().await;
        Ok(())
    }

    async fn apply(&mut self) {
        self.applied = Instant::now();
        let changes = self.graph.flush();
        for problem in &changes.problems {
            log::warn!("{problem}");
        }
        if changes.is_empty() {
            return;
        }
        let outcome = match self.dataplane.tell_policy(changes).await {
            Ok(outcome) => outcome,
            Err(error) => return report(Err(error)),
        };
        let mut outcome = Box::pin(outcome);
        match tokio::time::timeout(PATIENCE, &mut outcome).await {
            Ok(outcome) => report(outcome),
            Err(_) => drop(self.behind.spawn(async { report(outcome.await) })),
        }
        while self.behind.try_join_next().is_some() {}
        while self.behind.len() >= MOST_BEHIND {
            self.behind.join_next().await;
        }
    }
}

fn report(outcome: Result<(), DataplaneError>) {
    if let Err(error) = outcome {
        log::error!("policy is not in force as it is wanted: {error}");
    }
}
