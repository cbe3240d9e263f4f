//! Accepts connections and serves each in a task of its own.

use super::dispatch::Dispatcher;
use super::patient::{Patient, Phase};
use super::socket::Listener;
use super::{LINGER, Options, TARGET};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What hyper may buffer of a request's head; engines send less than 300 bytes.
const HEAD_BYTES: usize = 64 * 1024;

/// First and longest pause after an accept that failed, as it does when file descriptors run out.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What all connections of a server share.
pub(super) struct Shared {
    dispatcher: Dispatcher,
    options: Options,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    /// Idle connections end now, busy ones after their answer.
    close: CancellationToken,
    /// Everything ends now.
    abort: CancellationToken,
}

impl Shared {
    pub(super) fn new(dispatcher: Dispatcher, options: Options, abort: CancellationToken) -> Self {
        Self {
            dispatcher,
            options,
            slots: Arc::new(Semaphore::new(options.connections)),
            connections: TaskTracker::new(),
            close: CancellationToken::new(),
            abort,
        }
    }

    /// Ends idle connections and waits for the others and for all calls, also those that nobody waits for any more.
    pub(super) async fn drain(&self) {
        self.close.cancel();
        self.connections.close();
        self.connections.wait().await;
        self.dispatcher.drain().await;
    }

    /// Ends all calls and gives their connections a moment to say so: a call without an answer would be repeated with
    /// an empty body.
    pub(super) async fn cut_off(&self, moment: Duration) {
        self.dispatcher.cut_off();
        // Whoever does not read its answer in time loses it.
        tokio::time::timeout(moment, self.connections.wait()).await.ok();
    }

    /// Calls that have not ended.
    pub(super) fn calls(&self) -> usize {
        self.dispatcher.calls()
    }

    fn start(self: &Arc<Self>, stream: UnixStream, slot: OwnedSemaphorePermit) {
        let (shared, abort) = (Arc::clone(self), self.abort.clone());
        let task = async move {
            serve(stream, &shared).await;
            drop(slot);
        };
        self.connections.spawn(abort.run_until_cancelled_owned(task));
    }
}

/// Accepts until `shutdown`, then removes the socket's file, serves whoever has connected already, and closes the
/// socket.
pub(super) async fn accept(listener: Listener, shared: &Arc<Shared>, shutdown: &CancellationToken) {
    shutdown.run_until_cancelled(accept_all(&listener.listener, shared)).await;
    // The file first: nobody new finds the way in while those in the backlog are served.
    drop(listener.file);
    tokio::time::timeout(LINGER, accept_all(&listener.listener, shared)).await.ok();
}

async fn accept_all(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut pause = PAUSES.0;
    loop {
        let Some(slot) = free_slot(shared).await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                pause = PAUSES.0;
                shared.start(stream, slot);
            }
            Err(error) => {
                log::error!(target: TARGET, err:% = error; "accept a connection");
                tokio::time::sleep(pause).await;
                pause = PAUSES.1.min(pause * 2);
            }
        }
    }
}

/// Waits for a slot; `None` cannot come, the semaphore is never closed.
async fn free_slot(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    if shared.slots.available_permits() == 0 {
        let limit = shared.options.connections;
        log::warn!(target: TARGET, limit; "all connections are in use, new ones wait");
    }
    Arc::clone(&shared.slots).acquire_owned().await.ok()
}

async fn serve(stream: UnixStream, shared: &Shared) {
    let phase = Arc::new(Phase::default());
    let stream = TokioIo::new(Patient::new(stream, Arc::clone(&phase), shared.options.read_timeout));
    let service = service_fn(|request| {
        let phase = Arc::clone(&phase);
        async move {
            phase.turn();
            let answer = shared.dispatcher.answer(request).await;
            phase.turn();
            Ok::<_, Infallible>(answer)
        }
    });
    // A client that closes its writing half after the request (`nc -U`) still wants the answer.
    let connection = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(stream, service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shared.close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Nothing was lost that a call could miss: a client that talks garbage or leaves is its own affair.
        log::debug!(target: TARGET, err:% = error; "connection ended");
    }
}
