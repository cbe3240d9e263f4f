//! The daemon's end of the socket.

use super::policy::{PolicyDesk, PolicyQuestion};
use super::wire::{self, Answer, WireError};
use super::{DEADLINE, MAX_REQUEST};
use crate::metrics::{METRICS_PATH, MetricsPage, metrics_reply};
use crate::server::{Listener, ServerError, Socket};
use crate::store::{SharedStore, Txn};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Commands served at the same time: more than one administrator runs, few enough to hold their answers in memory.
const CONNECTIONS: usize = 8;
/// From connecting to the end of a request's head.
const HEAD: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, as it does when file descriptors run out.
const PAUSE: Duration = Duration::from_millis(200);

type Reply = hyper::Response<Full<Bytes>>;

/// What requests are answered from.
#[derive(Debug, Clone)]
pub struct AdminParts {
    /// The daemon's datastore.
    pub store: SharedStore,
    /// The owner of the policy graph.
    pub policy: PolicyDesk,
    /// Figures, for `GET /metrics`.
    pub metrics: MetricsPage,
}

/// A bound socket. Dropping it removes its file.
#[derive(Debug)]
pub struct AdminServer(Socket);

impl AdminServer {
    /// Binds the socket with mode 0600 and makes its folder, with mode 0700, if it is missing.
    ///
    /// # Errors
    /// If another process listens on the path, if something else than a socket is there, or if the system refuses.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        Socket::bind(path).map(Self)
    }

    /// Serves until `shutdown`; then requests that were begun are answered. Until there are `parts`, requests are told
    /// that the daemon starts.
    ///
    /// # Errors
    /// If the socket cannot be registered with the runtime.
    pub async fn serve(
        self,
        parts: watch::Receiver<Option<AdminParts>>,
        shutdown: CancellationToken,
    ) -> Result<(), ServerError> {
        let listener = self.0.listen()?;
        let connections = TaskTracker::new();
        // Also when this future is dropped nobody is served any longer.
        let abort = CancellationToken::new();
        let _ends_all = abort.clone().drop_guard();
        let served = Served { parts, connections: &connections, shutdown: &shutdown, abort: &abort };
        shutdown.run_until_cancelled(served.accept(&listener)).await;
        drop(listener);
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

struct Served<'a> {
    parts: watch::Receiver<Option<AdminParts>>,
    connections: &'a TaskTracker,
    shutdown: &'a CancellationToken,
    abort: &'a CancellationToken,
}

impl Served<'_> {
    async fn accept(&self, listener: &Listener) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.listener.accept().await {
                Ok((stream, _)) => {
                    let (parts, shutdown) = (self.parts.clone(), self.shutdown.clone());
                    let task = async move {
                        converse(stream, &parts, &shutdown).await;
                        drop(slot);
                    };
                    self.connections.spawn(self.abort.clone().run_until_cancelled_owned(task));
                }
                Err(error) => {
                    log::warn!("accept a command on the administrator's socket: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn converse(
    stream: UnixStream,
    parts: &watch::Receiver<Option<AdminParts>>,
    shutdown: &CancellationToken,
) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request, parts).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        log::debug!("a command's connection ended: {error}");
    }
}

/// Answers one request within the deadline.
async fn answer(request: hyper::Request<Incoming>, parts: &watch::Receiver<Option<AdminParts>>) -> Reply {
    let path = request.uri().path().to_owned();
    match tokio::time::timeout(DEADLINE, routed(request, parts)).await {
        Ok(reply) => reply,
        Err(_) => {
            let why = format!("{path} is not done after {} s; it may still come to pass", DEADLINE.as_secs());
            failure(StatusCode::GATEWAY_TIMEOUT, WireError::Unavailable { why })
        }
    }
}

async fn routed(request: hyper::Request<Incoming>, parts: &watch::Receiver<Option<AdminParts>>) -> Reply {
    let (head, body) = request.into_parts();
    if head.method == Method::GET && head.uri.path() == METRICS_PATH {
        let page = parts.borrow().as_ref().map(|parts| parts.metrics.clone());
        return match page {
            Some(page) => metrics_reply(&page).await,
            None => starting(),
        };
    }
    if head.method != Method::POST {
        let why = format!("{} is not served; requests are made with POST", head.method);
        return failure(StatusCode::METHOD_NOT_ALLOWED, WireError::Refused { why });
    }
    let body = match Limited::new(body, MAX_REQUEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let why = format!("the request cannot be read: {error}");
            return failure(StatusCode::BAD_REQUEST, WireError::Refused { why });
        }
    };
    let Some(parts) = parts.borrow().clone() else {
        return starting();
    };
    match head.uri.path() {
        wire::GET => reply(get(&parts, &body).await),
        wire::LIST => reply(list(&parts, &body).await),
        wire::COMMIT => reply(commit(&parts, &body).await),
        wire::POLICY => reply(policy(&parts, &body).await),
        other => {
            let why = format!("{other} is not served");
            failure(StatusCode::NOT_FOUND, WireError::Refused { why })
        }
    }
}

fn starting() -> Reply {
    let why = "the daemon has just been started and is not ready yet".to_owned();
    failure(StatusCode::SERVICE_UNAVAILABLE, WireError::Unavailable { why })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    serde_json::from_slice(body)
        .map_err(|error| WireError::Refused { why: format!("the request cannot be read: {error}") })
}

async fn get(parts: &AdminParts, body: &[u8]) -> Result<Option<wire::WireEntry>, WireError> {
    let wire::KeyRequest { key } = read(body)?;
    wire::served(&key)?;
    let found = parts.store.get(&key).await?;
    Ok(found.as_ref().map(wire::WireEntry::from))
}

async fn list(parts: &AdminParts, body: &[u8]) -> Result<wire::WireListing, WireError> {
    let wire::PrefixRequest { prefix } = read(body)?;
    wire::served(&prefix)?;
    Ok((&parts.store.list(&prefix).await?).into())
}

async fn commit(parts: &AdminParts, body: &[u8]) -> Result<wire::WireRevision, WireError> {
    let txn = Txn::from(read::<wire::WireTxn>(body)?);
    wire::acceptable(&txn)?;
    let changed: Vec<String> = txn.ops.iter().map(|op| op.key().to_owned()).collect();
    let revision = parts.store.commit(txn).await?;
    log::info!("the administrator changed {}", changed.join(", "));
    Ok(wire::WireRevision { revision: revision.0 })
}

async fn policy(parts: &AdminParts, body: &[u8]) -> Result<super::PolicyAnswer, WireError> {
    let question: PolicyQuestion = read(body)?;
    parts.policy.ask(question).await.map_err(|why| WireError::Refused { why })
}

fn reply<T: Serialize>(result: Result<T, WireError>) -> Reply {
    match result {
        Ok(found) => write(StatusCode::OK, &Answer::Ok(found)),
        Err(error) => failure(status(&error), error),
    }
}

fn status(error: &WireError) -> StatusCode {
    match error {
        WireError::Conflict { .. } => StatusCode::CONFLICT,
        WireError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        WireError::Corrupt { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        WireError::Invalid { .. } | WireError::Refused { .. } => StatusCode::BAD_REQUEST,
    }
}

fn failure(status: StatusCode, error: WireError) -> Reply {
    write(status, &Answer::<()>::Error(error))
}

fn write<T: Serialize>(status: StatusCode, answer: &Answer<T>) -> Reply {
    // Maps with text keys, lists, texts and numbers always serialise.
    let mut reply = hyper::Response::new(Full::from(serde_json::to_vec(answer).unwrap_or_default()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
