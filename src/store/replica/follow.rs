//! Keeps one region in step: list, then watch; again after every gap.

use super::region::Part;
use crate::store::{Event, SharedStore, StoreError};
use crate::task::Backoff;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep_until;

/// Pauses before everything is listed again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Most events that are taken over at once.
const BATCH: usize = 256;

/// Follows for ever.
pub(super) async fn follow(store: SharedStore, part: Arc<Part>) -> Infallible {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut said = String::new();
    loop {
        let ended = round(&store, &part, &mut backoff).await;
        part.lose();
        let root = &part.region().root;
        match ended {
            StoreError::Compacted { .. } => log::debug!("{root} is listed again"),
            error if error.to_string() == said => log::debug!("{root} is still not followed: {error}"),
            error => {
                said = error.to_string();
                log::warn!("{root} is read for each request until it can be followed again: {error}");
            }
        }
        backoff.pause().await;
    }
}

/// From a list to the end of the watch.
async fn round(store: &SharedStore, part: &Part, backoff: &mut Backoff) -> StoreError {
    part.restart();
    let mut listings = Vec::new();
    for prefix in &part.region().kept {
        match store.list(prefix).await {
            Ok(listing) => listings.push(listing),
            Err(error) => return error,
        }
    }
    let from = listings.iter().map(|listing| listing.revision).min().unwrap_or_default();
    let mut events = Events { stream: store.watch(&part.region().root, from), ahead: None };
    let mut follower = part.begin(listings);
    log::debug!("{} is followed from revision {from}", part.region().root);
    loop {
        let first = tokio::select! {
            event = events.next() => event,
            () = overdue(part) => {
                return unavailable("the datastore does not tell of changes in time");
            }
        };
        let (ready, ended) = events.ready(first);
        if !ready.is_empty() {
            part.apply(&mut follower, ready);
            backoff.reset();
        }
        if let Some(error) = ended {
            return error;
        }
    }
}

/// A watch that can be looked ahead in.
struct Events {
    stream: BoxStream<'static, Result<Event, StoreError>>,
    ahead: Option<Result<Event, StoreError>>,
}

impl Events {
    async fn next(&mut self) -> Option<Result<Event, StoreError>> {
        match self.ahead.take() {
            Some(event) => Some(event),
            None => self.stream.next().await,
        }
    }

    /// What is there already, from `first` on, and why there is no more, if so. A revision is never split: its changes
    /// come together, and a watcher that has seen one of them would not be told of the others.
    fn ready(&mut self, first: Option<Result<Event, StoreError>>) -> (Vec<Event>, Option<StoreError>) {
        let mut ready: Vec<Event> = Vec::new();
        let mut next = first;
        loop {
            match next {
                Some(Ok(event)) => {
                    let begins = ready.last().is_none_or(|last| last.revision() != event.revision());
                    if ready.len() >= BATCH && begins {
                        self.ahead = Some(Ok(event));
                        return (ready, None);
                    }
                    ready.push(event);
                }
                Some(Err(error)) => return (ready, Some(error)),
                None => return (ready, Some(unavailable("the watch ended"))),
            }
            match self.stream.next().now_or_never() {
                Some(event) => next = event,
                None => return (ready, None),
            }
        }
    }
}

/// Waits until a change of our own is too late.
async fn overdue(part: &Part) {
    loop {
        match part.overdue_at() {
            Some(due) => {
                sleep_until(due).await;
                if part.overdue_at().is_some_and(|still| still <= due) {
                    return;
                }
            }
            None => part.written.notified().await,
        }
    }
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable { why: why.to_owned() }
}
