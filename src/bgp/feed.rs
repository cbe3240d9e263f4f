//! Follows what matters to BGP in the datastore.

use super::world::World;
use crate::model::NodeName;
use crate::store::{Event, SharedStore, StoreError};
use crate::task::Backoff;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A burst of changes is answered once, this long after its first.
const SETTLE: Duration = Duration::from_millis(100);
/// Pauses after a watch broke or a list failed.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Events = SelectAll<BoxStream<'static, Result<Event, StoreError>>>;

/// The follower.
pub(super) struct Feed {
    store: SharedStore,
    world: World,
    /// Absent while the datastore is away, and at the start.
    events: Option<Events>,
    /// When the world is listed anew.
    list_at: Instant,
    backoff: Backoff,
    /// Since when the world has changed without anybody having been told.
    changed_at: Option<Instant>,
}

impl Feed {
    /// A follower that has not looked yet.
    pub(super) fn new(store: SharedStore, node: NodeName) -> Self {
        Self {
            store,
            world: World::new(node),
            events: None,
            list_at: Instant::now(),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            changed_at: None,
        }
    }

    /// What was read last.
    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// Waits for the world to have changed; cancel-safe. Trouble with the datastore is logged, and the world stays as it
    /// is for so long.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(events) = &mut self.events else {
                sleep_until(self.list_at).await;
                self.list().await;
                continue;
            };
            let event = match self.changed_at {
                None => events.next().await,
                Some(since) => tokio::select! {
                    biased;
                    () = sleep_until(since + SETTLE) => {
                        self.changed_at = None;
                        return;
                    }
                    event = events.next() => event,
                },
            };
            match event {
                Some(Ok(event)) => self.take(&event),
                Some(Err(StoreError::Compacted { .. })) | None => self.list_again(),
                Some(Err(error)) => {
                    log::warn!("BGP stays as it is for a moment: {error}");
                    self.list_again();
                }
            }
        }
    }

    fn list_again(&mut self) {
        self.events = None;
        self.list_at = Instant::now() + self.backoff.next(uuid::Uuid::new_v4().as_fields().0);
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Put(entry) => self.world.update(&entry.key, Some(&entry.value)),
            Event::Delete { key, .. } => self.world.update(key, None),
        }
        self.backoff.reset();
        self.changed_at.get_or_insert_with(Instant::now);
    }

    async fn list(&mut self) {
        let node = self.world.node.clone();
        let mut world = World::new(node.clone());
        let mut events = Events::new();
        for prefix in World::prefixes(&node) {
            match self.store.list(&prefix).await {
                Ok(listing) => {
                    for entry in &listing.entries {
                        world.update(&entry.key, Some(&entry.value));
                    }
                    events.push(self.store.watch(&prefix, listing.revision));
                }
                Err(error) => {
                    log::warn!("BGP stays as it is: {error}");
                    self.list_again();
                    return;
                }
            }
        }
        self.world = world;
        self.events = Some(events);
        self.changed_at.get_or_insert_with(Instant::now);
    }
}
