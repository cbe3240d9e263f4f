//! Requests of this process queue up per IP version, and whoever is first serves all that wait.
//!
//! Twenty containers that start at once want an address of the same block each. Racing, they would write the block
//! twenty times and lose most of the races to one another; queued, the first request is served alone and the next
//! nineteen together, with one compare-and-swap. Races with other nodes are still decided by the store.
//!
//! ```text
//! request -> waiting (bounded) -> [turn] releases, one write a block
//!                                        assignments by name, one after another
//!                                        automatic ones, one write a block for each choice of pools
//! ```
//!
//! A batch runs in a task of its own: a caller that gives up does not take the others down, and an address that nobody
//! waits for any more is released again. [`Queues::drain`] waits for those tasks.

use super::engine::Engine;
use super::error::IpamError;
use super::pools::Wanted;
use super::release::ReleaseRequest;
use super::{Expect, Owner, Released};
use crate::model::{Cidr, IpVersion};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Requests in one transaction at most: block and handles must stay below etcd's default of 128 operations.
const MAX_BATCH: usize = 100;

/// Requests that may wait, of one version. dockerd starts containers by the dozen, not by the thousand.
const MAX_WAITING: usize = 1000;

/// How long one batch may take: longer than any caller's own deadline, so that a datastore which never answers holds
/// the queue up for so long and not for ever.
const BATCH_DEADLINE: Duration = Duration::from_secs(30);

type Reply<T> = oneshot::Sender<Result<T, IpamError>>;

/// One request.
pub(super) enum Job {
    /// Any address.
    Auto(Wanted, Owner, Reply<IpAddr>),
    /// This address.
    Assign(IpAddr, Option<Cidr>, Owner, Reply<()>),
    /// This address back.
    Release(ReleaseRequest, Reply<Released>),
}

impl Job {
    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool {
        !match self {
            Self::Auto(_, _, reply) => reply.is_closed(),
            Self::Assign(_, _, _, reply) => reply.is_closed(),
            Self::Release(_, reply) => reply.is_closed(),
        }
    }
}

/// The requests of one version.
struct Queue {
    /// Guards the jobs that nobody serves yet; held to push or take, never over an await.
    waiting: Mutex<Vec<Job>>,
    /// Held by the batch that is being served.
    turn: tokio::sync::Mutex<()>,
}

/// The queues of both versions, and the tasks that serve them.
pub(super) struct Queues {
    engine: Arc<Engine>,
    v4: Queue,
    v6: Queue,
    tasks: TaskTracker,
}

impl Queues {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        let queue = || Queue { waiting: Mutex::new(Vec::new()), turn: tokio::sync::Mutex::new(()) };
        Self { engine, v4: queue(), v6: queue(), tasks: TaskTracker::new() }
    }

    /// Waits until every batch under way is done, and refuses new requests.
    pub(super) async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Queues a request and waits for its answer.
    pub(super) async fn submit<T>(
        self: &Arc<Self>,
        version: IpVersion,
        job: impl FnOnce(Reply<T>) -> Job,
    ) -> Result<T, IpamError> {
        if self.tasks.is_closed() {
            return Err(IpamError::Unfinished("the plugin is stopping"));
        }
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.queue(version).waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= MAX_WAITING {
                return Err(IpamError::Busy);
            }
            waiting.push(job(reply));
        }
        let queues = self.clone();
        // One task a request: whichever comes first serves what waits, the others find nothing and end.
        self.tasks.spawn(async move { queues.serve(version).await });
        answer.await.unwrap_or(Err(IpamError::Unfinished("the datastore did not answer in time")))
    }

    fn queue(&self, version: IpVersion) -> &Queue {
        match version {
            IpVersion::V4 => &self.v4,
            IpVersion::V6 => &self.v6,
        }
    }

    async fn serve(&self, version: IpVersion) {
        let queue = self.queue(version);
        let _turn = queue.turn.lock().await;
        let batch: Vec<Job> = {
            let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let count = waiting.len().min(MAX_BATCH);
            waiting.drain(..count).collect()
        };
        if !batch.is_empty() && tokio::time::timeout(BATCH_DEADLINE, self.serve_batch(batch)).await.is_err() {
            log::warn!("a batch of {version} address requests was given up after {BATCH_DEADLINE:?}");
        }
    }

    /// Releases come first: what they free can be assigned in the same batch.
    async fn serve_batch(&self, batch: Vec<Job>) {
        let mut releases = Vec::new();
        let mut assigns = Vec::new();
        let mut autos: BTreeMap<Wanted, Vec<(Owner, Reply<IpAddr>)>> = BTreeMap::new();
        for job in batch.into_iter().filter(Job::is_wanted) {
            match job {
                Job::Auto(wanted, owner, reply) => autos.entry(wanted).or_default().push((owner, reply)),
                Job::Assign(ip, within, owner, reply) => assigns.push((ip, within, owner, reply)),
                Job::Release(request, reply) => releases.push((request, reply)),
            }
        }
        self.serve_releases(releases).await;
        let mut abandoned = Vec::new();
        for (ip, within, owner, reply) in assigns {
            let done = self.engine.assign(ip, within, &owner).await;
            if reply.send(done).is_err_and(|unsent| unsent.is_ok()) {
                abandoned.push((ip, expect_owner(&owner)));
            }
        }
        for (wanted, requests) in autos {
            abandoned.extend(self.serve_autos(wanted, requests).await);
        }
        self.take_back(abandoned).await;
    }

    async fn serve_releases(&self, releases: Vec<(ReleaseRequest, Reply<Released>)>) {
        if releases.is_empty() {
            return;
        }
        let (requests, replies): (Vec<ReleaseRequest>, Vec<_>) = releases.into_iter().unzip();
        for (done, reply) in self.engine.release(&requests).await.into_iter().zip(replies) {
            // Whoever gave up waiting for a release has nothing to undo.
            let _ = reply.send(done);
        }
    }

    /// Returns the addresses that nobody waits for any more.
    async fn serve_autos(
        &self,
        wanted: Wanted,
        requests: Vec<(Owner, Reply<IpAddr>)>,
    ) -> Vec<ReleaseRequest> {
        let (owners, replies): (Vec<Owner>, Vec<_>) = requests.into_iter().unzip();
        let assigned = self.engine.auto_assign(wanted, &owners).await;
        let missing =
            assigned.error.unwrap_or(IpamError::Unfinished("fewer addresses came than were asked for"));
        let mut ips = assigned.ips.into_iter();
        let mut abandoned = Vec::new();
        for (owner, reply) in owners.iter().zip(replies) {
            let answer = ips.next().ok_or_else(|| missing.clone());
            if let Err(Ok(ip)) = reply.send(answer) {
                abandoned.push((ip, expect_owner(owner)));
            }
        }
        abandoned
    }

    async fn take_back(&self, abandoned: Vec<ReleaseRequest>) {
        for done in self.engine.release(&abandoned).await {
            if let Err(error) = done {
                log::warn!("an address that nobody waits for any more stays assigned: {error}");
            }
        }
    }
}

fn expect_owner(owner: &Owner) -> Expect {
    Expect { handle: Some(owner.handle.clone()), ..Expect::default() }
}
