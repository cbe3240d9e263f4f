//! A watch that outlives lost connections and restarts of etcd: it resumes after the last revision it has delivered.

use super::cluster::{Cluster, Place};
use super::failure::{Failure, unavailable};
use super::{LARGEST_ANSWER, from_etcd, to_etcd};
use crate::store::{Entry, Event, Revision, StoreError};
use bytes::Bytes;
use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a watch tries to resume while etcd answers nothing before it tells its owner: longer than a leader election or
/// a restart takes.
const RESUME_FOR: Duration = Duration::from_secs(15);

/// The shortest pause before a try; up to as much again is added at random, so that the nodes of a cluster do not
/// all come back in the same moment.
const PAUSE: Duration = Duration::from_millis(150);

/// Every change under `prefix` after `from`.
pub(super) fn watch(
    cluster: Arc<Cluster>,
    prefix: String,
    from: Revision,
) -> BoxStream<'static, Result<Event, StoreError>> {
    let watch = Watch {
        cluster,
        prefix,
        seen: from,
        identity: None,
        open: None,
        ready: VecDeque::new(),
        lost_since: None,
        ended: false,
    };
    stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) }).boxed()
}

struct Watch {
    cluster: Arc<Cluster>,
    prefix: String,
    /// Everything up to here is delivered or in `ready`.
    seen: Revision,
    /// The id of the etcd cluster that the revisions belong to.
    identity: Option<u64>,
    open: Option<Open>,
    ready: VecDeque<Event>,
    lost_since: Option<Instant>,
    ended: bool,
}

/// The open stream, with its connection and its member.
struct Open {
    stream: WatchStream,
    place: Place,
    _client: Client,
}

impl Open {
    /// One answer of etcd, or why there will be none.
    async fn answer(&mut self) -> Result<WatchResponse, String> {
        tokio::select! {
            answer = self.stream.message() => match answer {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => Err("etcd closed the stream".to_owned()),
                Err(error) => Err(error.to_string()),
            },
            () = self.place.passed_over() => Err("its member is silent".to_owned()),
        }
    }
}

impl Watch {
    /// The next change; `None` after an error.
    async fn next(&mut self) -> Option<Result<Event, StoreError>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Err(error) = self.advance().await {
                self.ended = true;
                self.open = None;
                return Some(Err(error));
            }
        }
    }

    /// Waits for one answer of etcd, or opens the stream. An error is final.
    async fn advance(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else {
            return self.resume().await;
        };
        let lost = match open.answer().await {
            Ok(answer) => return self.take(&answer),
            Err(lost) => lost,
        };
        log::info!("watch of {} after revision {} is resumed: {lost}", self.prefix, self.seen);
        if let Some(open) = self.open.take() {
            self.cluster.leave(&open.place);
        }
        pause().await;
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), StoreError> {
        let error = match self.connect().await {
            Ok(answer) => return self.resumed(&answer),
            Err(error) => error,
        };
        let lost_since = *self.lost_since.get_or_insert_with(Instant::now);
        if self.cluster.answers(&self.prefix).await {
            // Either it has just come back, or it answers and takes no watch. Then our owner has to know at once: what it
            // has in memory grows old, and it can ask.
            return match self.connect().await {
                Ok(answer) => self.resumed(&answer),
                Err(error) => Err(error),
            };
        }
        if lost_since.elapsed() >= RESUME_FOR {
            return Err(error);
        }
        pause().await;
        Ok(())
    }

    fn resumed(&mut self, answer: &WatchResponse) -> Result<(), StoreError> {
        self.lost_since = None;
        self.take(answer)
    }

    /// Opens the stream and waits for etcd's confirmation.
    async fn connect(&mut self) -> Result<WatchResponse, StoreError> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_progress_notify()
            .with_start_revision(to_etcd(self.seen).saturating_add(1));
        let prefix = self.prefix.clone();
        let open = move |client: Client| {
            let (prefix, options) = (prefix.clone(), options.clone());
            async move {
                let mut watch = client.watch_client().max_decoding_message_size(LARGEST_ANSWER);
                let mut stream = watch.watch(prefix, Some(options)).await?;
                let confirmed = stream.message().await?;
                let confirmed = confirmed
                    .ok_or_else(|| Failure::Doubtful("the stream of a watch was closed".to_owned()))?;
                Ok((client, stream, confirmed))
            }
            .boxed()
        };
        let ((client, stream, confirmed), place) = self.cluster.open(open).await?;
        self.open = Some(Open { stream, place, _client: client });
        Ok(confirmed)
    }

    /// Takes over one answer.
    fn take(&mut self, answer: &WatchResponse) -> Result<(), StoreError> {
        if answer.compact_revision() > 0 {
            // The compacted revision itself can still be watched from.
            let oldest = from_etcd(answer.compact_revision().saturating_sub(1));
            return Err(StoreError::Compacted { from: self.seen, oldest });
        }
        if answer.canceled() {
            let why = format!("the watch of {} is refused: {}", self.prefix, answer.cancel_reason());
            return Err(unavailable(self.cluster.name(), &why));
        }
        self.check_history(answer)?;
        for event in answer.events() {
            let Some(change) = event.kv() else { continue };
            let revision = from_etcd(change.mod_revision());
            self.seen = self.seen.max(revision);
            let Ok(key) = change.key_str() else {
                log::warn!("a key under {} is not UTF-8 and is passed over", self.prefix);
                continue;
            };
            let key = key.to_owned();
            self.ready.push_back(match event.event_type() {
                EventType::Put => {
                    Event::Put(Entry { key, value: Bytes::copy_from_slice(change.value()), revision })
                }
                EventType::Delete => Event::Delete { key, revision },
            });
        }
        // A notification of progress: nothing under the prefix changed up to there.
        if answer.events().is_empty() && !answer.created() {
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            self.seen = self.seen.max(from_etcd(revision));
        }
        Ok(())
    }

    /// A cluster that was made anew or restored from a backup counts its revisions again from a lower one: the watch
    /// would wait for them in vain.
    fn check_history(&mut self, answer: &WatchResponse) -> Result<(), StoreError> {
        let Some(header) = answer.header() else { return Ok(()) };
        let identity = *self.identity.get_or_insert_with(|| header.cluster_id());
        if identity != header.cluster_id() || (answer.created() && from_etcd(header.revision()) < self.seen) {
            let why = format!("it is not the cluster, or not the state, that revision {} is of", self.seen);
            return Err(unavailable(self.cluster.name(), &why));
        }
        Ok(())
    }
}

async fn pause() {
    let random = u64::from(uuid::Uuid::new_v4().as_fields().0);
    let most = u64::try_from(PAUSE.as_micros()).unwrap_or(u64::MAX).max(1);
    sleep(PAUSE.saturating_add(Duration::from_micros(random % most))).await;
}
