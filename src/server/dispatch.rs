//! From an HTTP request to its answer: the one place where calls get a deadline, are logged, and fail.

use super::{Handler, Options, TARGET};
use crate::logging;
use crate::protocol::{self, DecodeError, Failure, Request, Response};
use bytes::Bytes;
use futures::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the engine sends in `Accept` since 1.13; it does not check the answer's type.
const JSON: HeaderValue = HeaderValue::from_static("application/vnd.docker.plugins.v1.1+json");

type Reply = hyper::Response<Full<Bytes>>;

/// Answers requests.
pub(super) struct Dispatcher {
    handler: Arc<dyn Handler>,
    options: Options,
    calls: TaskTracker,
    cut_off: CancellationToken,
    count: AtomicU64,
}

impl Dispatcher {
    /// `abort` ends all calls at once.
    pub(super) fn new(handler: Arc<dyn Handler>, options: Options, abort: &CancellationToken) -> Self {
        let cut_off = abort.child_token();
        Self { handler, options, calls: TaskTracker::new(), cut_off, count: AtomicU64::new(0) }
    }

    /// Ends all calls; those that are waited for are answered with an error.
    pub(super) fn cut_off(&self) {
        self.cut_off.cancel();
    }

    /// Waits for all calls, also those that were answered at their deadline.
    pub(super) async fn drain(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// Calls that have not ended.
    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Answers one request; never fails and takes no longer than the deadline.
    pub(super) async fn answer(&self, request: hyper::Request<Incoming>) -> Reply {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        logging::with_request(number, self.answer_numbered(number, request)).await
    }

    async fn answer_numbered(&self, number: u64, request: hyper::Request<Incoming>) -> Reply {
        let deadline = Instant::now() + self.options.deadline;
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        // The body is read in any case: an answer that overtakes its request breaks the connection.
        let body = timeout(self.options.read_timeout, read(body, self.options.body)).await;
        if let Err(unknown @ DecodeError::UnknownMethod(_)) = protocol::decode(path, b"") {
            return refusal(StatusCode::NOT_FOUND, "request", &unknown.to_string());
        }
        if head.method != Method::POST {
            let sentence = format!("{path} is called with POST, not with {}", head.method);
            return refusal(StatusCode::OK, path, &sentence);
        }
        let body = match body {
            Ok(Ok(body)) => body,
            Ok(Err(why)) => return refusal(StatusCode::OK, path, &why),
            Err(_) => {
                let why = format!("the request's body did not come within {:?}", self.options.read_timeout);
                return refusal(StatusCode::OK, path, &why);
            }
        };
        match protocol::decode(path, &body) {
            Ok(call) => self.call(number, call, deadline).await,
            Err(error) => refusal(StatusCode::OK, path, &error.to_string()),
        }
    }

    /// Runs the call in a task of its own and waits for it until the deadline.
    async fn call(&self, number: u64, call: Request, deadline: Instant) -> Reply {
        let method = call.method();
        let run = run(Arc::clone(&self.handler), call, deadline);
        let run = self.cut_off.clone().run_until_cancelled_owned(logging::with_request(number, run));
        match timeout_at(deadline, self.calls.spawn(run)).await {
            Ok(Ok(Some(Ok(response)))) => success(method, &response),
            Ok(Ok(Some(Err(sentence)))) => failure(StatusCode::OK, &sentence),
            // The server is going away.
            Ok(Ok(None) | Err(_)) => failure(
                StatusCode::OK,
                &format!("{method} was cut off, the plugin stops; try again when it is back"),
            ),
            Err(_) => {
                let limit = self.options.deadline;
                log::warn!(target: TARGET, "{method} is not done after {limit:?}, it goes on unawaited");
                failure(StatusCode::OK, &overdue(method, limit))
            }
        }
    }
}

fn overdue(method: &str, limit: Duration) -> String {
    format!(
        "{method} is not done after {limit:?} and goes on in the background; the plugin's log tells what it waits for"
    )
}

/// Runs one call to its end and writes its one line.
async fn run(handler: Arc<dyn Handler>, call: Request, deadline: Instant) -> Result<Response, String> {
    let started = Instant::now();
    let method = call.method();
    let (network, endpoint) = call.subject();
    let (network, endpoint) = (network.map(short), endpoint.map(short));
    // A handler may panic before it has made its future, too.
    let result = AssertUnwindSafe(async { handler.handle(call).await }).catch_unwind().await;
    let ms = started.elapsed().as_millis();
    let late = (Instant::now() >= deadline).then_some(true);
    match result {
        Ok(Ok(response)) => {
            log::info!(target: TARGET, network, endpoint, ms, late; "{method} done");
            Ok(response)
        }
        Ok(Err(sentence)) => {
            log::warn!(target: TARGET, network, endpoint, ms, late, err = sentence.as_str(); "{method} failed");
            Err(sentence)
        }
        Err(panic) => {
            let err = panic_text(panic.as_ref());
            log::error!(target: TARGET, network, endpoint, ms, late, err; "{method} panicked");
            Err(format!("{method} failed inside the plugin: a bug; the plugin's log has the place"))
        }
    }
}

/// The first twelve characters, as Docker prints IDs.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}

/// Reads a body whole. What is beyond the limit is read too, and dropped: closing a Unix socket with unread bytes
/// resets it, and the client would lose the answer.
async fn read(mut body: Incoming, limit: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut fits = true;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the request's body cannot be read: {error}"))?;
        if let Some(data) = frame.data_ref() {
            fits = fits && bytes.len() + data.len() <= limit;
            if fits {
                bytes.extend_from_slice(data);
            }
        }
    }
    if fits { Ok(bytes) } else { Err(format!("the request's body is larger than {limit} bytes")) }
}

/// Answers, and logs, a request that never became a call.
fn refusal(status: StatusCode, what: &str, sentence: &str) -> Reply {
    log::warn!(target: TARGET, err = sentence; "{what} refused");
    failure(status, sentence)
}

fn success(method: &str, response: &Response) -> Reply {
    match serde_json::to_vec(response) {
        Ok(body) => reply(StatusCode::OK, body),
        Err(error) => failure(StatusCode::OK, &format!("the answer of {method} cannot be written: {error}")),
    }
}

/// The engine reads `Err` or `Error` by the interface, and both only from status 200; 404 means "not implemented".
fn failure(status: StatusCode, sentence: &str) -> Reply {
    // Two strings always serialise.
    reply(status, serde_json::to_vec(&Failure::new(sentence)).unwrap_or_default())
}

fn reply(status: StatusCode, body: Vec<u8>) -> Reply {
    let mut reply = hyper::Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}
