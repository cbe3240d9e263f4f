//! Follows what matters to BGP in the datastore.

use super::world::World;
use crate::model::NodeName;
use crate::store::{Event, SharedStore, StoreError};
use crate::task::Backoff;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A burst of changes is answered once, this long after its first.
const SETTLE: Duration = Duration::from_millis(100);
/// Pauses after a watch broke or a list failed.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

type Events = SelectAll<BoxStream<'static, Result<Event, StoreError>>>;
type Listed = Result<(World, Events), StoreError>;

/// The follower.
pub(super) struct Feed {
    store: SharedStore,
    world: World,
    /// Absent while the datastore is away, and at the start.
    events: Option<Events>,
    /// When the world is listed anew.
    list_at: Instant,
    /// A listing under way: it goes on when [`Feed::changed`] is called again, however often that was given up.
    listing: Option<BoxFuture<'static, Listed>>,
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
            listing: None,
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
        if self.listing.is_none() {
            sleep_until(self.list_at).await;
        }
        let begin = || list(self.store.clone(), self.world.node.clone()).boxed();
        let listed = self.listing.get_or_insert_with(begin).await;
        self.listing = None;
        match listed {
            Ok((world, events)) => {
                self.world = world;
                self.events = Some(events);
                self.changed_at.get_or_insert_with(Instant::now);
            }
            Err(error) => {
                log::warn!("BGP stays as it is: {error}");
                self.list_again();
            }
        }
    }
}

async fn list(store: SharedStore, node: NodeName) -> Listed {
    let prefixes = World::prefixes(&node);
    let mut world = World::new(node);
    let mut events = Events::new();
    for prefix in prefixes {
        let listing = store.list(&prefix).await?;
        for entry in &listing.entries {
            world.update(&entry.key, Some(&entry.value));
        }
        events.push(store.watch(&prefix, listing.revision));
    }
    Ok((world, events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Fault, Verb};
    use crate::store::{FaultyStore, MemoryStore, Store, Txn};
    use std::sync::Arc;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn a_slow_listing_ends_although_its_owner_looks_elsewhere_meanwhile() {
        let store = FaultyStore::new(MemoryStore::new());
        let node = r#"{"metadata":{"name":"n1"},"spec":{}}"#;
        let key = "/calico/resources/v3/projectcalico.org/nodes/n1";
        store.commit(Txn::new().create(key, node)).await.unwrap();
        store.fail_always(Verb::List, Fault::Delay(Duration::from_secs(1)));
        let mut feed = Feed::new(Arc::new(store), NodeName::new("n1").unwrap());
        let mut looks = 0;
        while timeout(Duration::from_secs(2), feed.changed()).await.is_err() {
            looks += 1;
            assert!(looks < 100, "it is begun again and again");
        }
        assert!(looks > 1 && feed.world().nodes.contains_key("n1"), "{looks}");
    }
}
