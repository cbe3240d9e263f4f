//! Keeps the Node resource in step with the host: when addresses change, when somebody edits it, and now and then.

use super::policy::FIRST_PAUSE;
use crate::cluster::{ClusterError, NodeKeeper, Published, is_uplink_address};
use crate::model::{NodeSpec, key};
use crate::net::{Host, HostEvent};
use crate::store::{Event, SharedStore, StoreError};
use crate::task::Backoff;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Addresses come in bursts; one answer for each.
const SETTLE: Duration = Duration::from_millis(200);
/// What no event tells (a name of `can-reach=` that moved) is seen this late; calico/node polls as often.
const EVERY: Duration = Duration::from_secs(60);
/// Of two hosts with one name each takes the Node back this often, so that both know and the datastore is at rest.
const TAKE_BACK: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The task's state.
pub(super) struct NodeTask {
    keeper: NodeKeeper,
    store: SharedStore,
    host: Arc<dyn Host>,
    /// Whether other nodes read what is published: then what is wrong matters.
    shared: bool,
    said: Vec<String>,
    taken_at: Option<Instant>,
}

impl NodeTask {
    /// The task after the first [`NodeKeeper::publish`], whose outcome it is told.
    pub(super) fn new(keeper: NodeKeeper, store: SharedStore, host: Arc<dyn Host>, shared: bool) -> Self {
        Self { keeper, store, host, shared, said: Vec::new(), taken_at: None }
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.follow(&mut backoff).await {
                Ok(()) => log::debug!("the Node is looked at again: a watch ended"),
                Err(ClusterError::Store(StoreError::Compacted { .. })) => {}
                Err(error) => log::warn!("{error}"),
            }
            backoff.pause().await;
        }
    }

    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), ClusterError> {
        let mut host = self.host.monitor().await?;
        let prefix = key::resources::<NodeSpec>();
        let listing = self.store.list(&prefix).await?;
        let mut nodes = self.store.watch(&prefix, listing.revision);
        loop {
            self.publish().await?;
            backoff.reset();
            if !self.changed(&mut host, &mut nodes).await? {
                return Ok(());
            }
        }
    }

    /// Waits for a reason to look again; false where one of the streams ended.
    async fn changed(
        &self,
        host: &mut BoxStream<'static, HostEvent>,
        nodes: &mut BoxStream<'static, Result<Event, StoreError>>,
    ) -> Result<bool, ClusterError> {
        let own = self.keeper.key();
        let every = tokio::time::sleep(EVERY);
        tokio::pin!(every);
        loop {
            tokio::select! {
                () = &mut every => return Ok(true),
                event = host.next() => match event {
                    None => return Ok(false),
                    Some(event) if matters(&event) => {
                        tokio::time::sleep(SETTLE).await;
                        return Ok(true);
                    }
                    Some(_) => {}
                },
                event = nodes.next() => match event {
                    None => return Ok(false),
                    Some(Err(error)) => return Err(error.into()),
                    // With nothing wrong other Nodes do not matter: whoever takes our address is told so there.
                    Some(Ok(event)) if event.key() == own || !self.said.is_empty() => return Ok(true),
                    Some(Ok(_)) => {}
                },
            }
        }
    }

    /// Looks, writes what differs, and says what is wrong once.
    async fn publish(&mut self) -> Result<(), ClusterError> {
        let taken = self.keeper.other_machine().await?;
        if let Some(other) = &taken
            && self.taken_at.is_some_and(|at| at.elapsed() < TAKE_BACK)
        {
            self.say(&[duplicate(other)]);
            return Ok(());
        }
        let published = self.keeper.publish().await?;
        let mut problems = published.problems.clone();
        if let Some(other) = &taken {
            problems.push(duplicate(other));
        }
        if let Some(other) = &published.asked_by {
            problems.push(asked(other));
        }
        if taken.is_some() || self.taken_at.is_none() {
            self.taken_at = Some(Instant::now());
        }
        note(&published);
        self.say(&problems);
        Ok(())
    }

    fn say(&mut self, problems: &[String]) {
        for problem in problems.iter().filter(|problem| !self.said.contains(problem)) {
            if self.shared { log::warn!("{problem}") } else { log::debug!("{problem}") }
        }
        self.said = problems.to_vec();
    }
}

fn duplicate(other: &str) -> String {
    format!(
        "another host (machine {other}) runs under this node's name: each takes the other's addresses and routes; set \
         NODENAME to a name of its own on one of them"
    )
}

fn asked(other: &str) -> String {
    format!(
        "another host (machine {other}) was started under this node's name and is told that this one lives; set NODENAME to a \
         name of its own there"
    )
}

/// Logs what other nodes see from now on.
pub(super) fn note(published: &Published) {
    if published.written {
        let [v4, v6] = published.addresses.each_ref().map(|text| text.as_deref().unwrap_or("none"));
        log::info!("this node is published with the IPv4 address {v4} and the IPv6 address {v6}");
    }
}

fn matters(event: &HostEvent) -> bool {
    match event {
        HostEvent::Address(change) => is_uplink_address(change.address),
        HostEvent::Link(change) => !change.link.is_veth(),
        HostEvent::Resync => true,
        HostEvent::Route(_) | HostEvent::Neighbour(_) | HostEvent::Setting(_) => false,
    }
}
