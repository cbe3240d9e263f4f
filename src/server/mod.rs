//! The plugin sockets: Docker's plugin protocol over HTTP/1.1 on Unix sockets, in front of a [`Handler`].
//!
//! ```text
//! socket (bind, unlink) -> connection (one task each) -> dispatch (decode, deadline, one log line) -> Handler
//! ```
//!
//! What dockerd forces on this module (moby 20.10 to 29, seen on engines):
//! - it dials 500 ms after the start and disables a plugin that does not listen, so binding comes first and on its
//!   own: [`Server::bind`] needs no handler, no runtime and no datastore; whoever connects waits in the backlog;
//! - it repeats a call with an empty body after a broken or timed-out answer, so a request once read is always
//!   answered, idle connections are never closed, and every call has a deadline that ends in an answer of ours;
//! - it keeps connections open for ever and connects without ever sending a request, so neither is an error.
//!
//! A call runs in a task of its own. Neither its deadline nor a client that went away stops it half-way; the graceful
//! stop waits for it.

mod connection;
mod dispatch;
mod patient;
mod socket;

use crate::protocol::{Request, Response};
use connection::Shared;
use dispatch::Dispatcher;
use futures::future::{BoxFuture, join_all};
pub(crate) use socket::{Listener, Socket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Module name of this module's log lines.
const TARGET: &str = "calico_libnetwork::server";

/// How long accepting and reading go on after the stop, so that a request which the engine has already written is read
/// and answered: losing it would make the engine repeat it with an empty body.
const LINGER: Duration = Duration::from_millis(50);

/// What the calls mean.
pub trait Handler: Send + Sync + 'static {
    /// Answers one call. The error is one sentence for the user who ran the docker command: no secrets. The future
    /// runs to its end even if the engine no longer waits for it, so it bounds its own waiting.
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Response, String>>;
}

/// Limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// From the head of a request to its answer. Below the engine's own 30 s, so that the answer is ours.
    pub deadline: Duration,
    /// From the first byte of a request to its last.
    pub read_timeout: Duration,
    /// How long a graceful stop waits for calls in flight; dockerd kills a plugin 10 s after SIGTERM.
    pub drain: Duration,
    /// Connections served at the same time over all sockets; more wait in the backlog.
    pub connections: usize,
    /// Bytes of a request's body; engines were seen to send less than 2 KiB.
    pub body: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5),
            drain: Duration::from_secs(5),
            connections: 256,
            body: 1024 * 1024,
        }
    }
}

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder of the socket cannot be made.
    #[error("make the folder of socket {path}")]
    Folder {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process listens on the socket.
    #[error("bind socket {0}: another process listens on it; is the plugin running twice?")]
    Busy(PathBuf),
    /// Something that is no socket has the socket's name.
    #[error("bind socket {0}: a file that is not a socket is in its place")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("bind socket {path}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// Bound sockets that wait to be served. Dropping it, served or not, removes the sockets' files.
#[derive(Debug)]
pub struct Server {
    options: Options,
    sockets: Vec<Socket>,
}

impl Server {
    /// A server without sockets.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, sockets: Vec::new() }
    }

    /// Binds one socket with mode 0600 and makes its folder if it is missing. From here on clients can connect; they
    /// wait until [`Server::serve`]. A socket file that nobody listens on is replaced.
    ///
    /// # Errors
    /// If another process listens on the path, if something else than a socket is there, or if the system refuses.
    /// Sockets bound before stay bound.
    pub fn bind(&mut self, path: impl AsRef<Path>) -> Result<(), ServerError> {
        self.sockets.push(Socket::bind(path.as_ref())?);
        Ok(())
    }

    /// Serves all sockets until `shutdown`, then stops accepting, removes the sockets' files, finishes the calls in
    /// flight for at most [`Options::drain`] and returns. Dropping the future stops everything at once.
    ///
    /// # Errors
    /// If a socket cannot be registered with the runtime; nothing is served then.
    pub async fn serve(
        self,
        handler: Arc<dyn Handler>,
        shutdown: CancellationToken,
    ) -> Result<(), ServerError> {
        let listeners = self.sockets.into_iter().map(Socket::listen).collect::<Result<Vec<_>, _>>()?;
        let abort = CancellationToken::new();
        let _stops_all = abort.clone().drop_guard();
        let dispatcher = Dispatcher::new(handler, self.options, &abort);
        let shared = Arc::new(Shared::new(dispatcher, self.options, abort));
        join_all(listeners.into_iter().map(|listener| connection::accept(listener, &shared, &shutdown)))
            .await;
        // Without a socket, too, serving goes on until it is told to stop.
        shutdown.cancelled().await;
        if tokio::time::timeout(self.options.drain, shared.drain()).await.is_err() {
            let (calls, seconds) = (shared.calls(), self.options.drain.as_secs());
            log::warn!(target: TARGET, calls; "calls are cut off, they did not end within {seconds} s of the stop");
            shared.cut_off(LINGER).await;
        }
        Ok(())
    }
}
