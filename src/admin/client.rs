//! The commands' end of the socket.

use super::policy::{PolicyAnswer, PolicyQuestion};
use super::wire::{self, Answer};
use super::{DEADLINE, MAX_ANSWER, MAX_REQUEST};
use crate::metrics::METRICS_PATH;
use crate::store::{Entry, Event, Listing, Revision, Store, StoreError, Txn};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use hyperlocal::{UnixConnector, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than the daemon's own deadline, so that its sentence comes first.
const PATIENCE: Duration = DEADLINE.saturating_add(Duration::from_secs(5));

/// Why the daemon could not be asked, or refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdminError {
    /// Nobody answers, or not in time, or not what was asked.
    #[error("ask the daemon over {}: {why}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What happened, and what helps.
        why: String,
    },
    /// The daemon answers with a reason.
    #[error("{0}")]
    Refused(String),
}

/// Asks one daemon.
#[derive(Debug, Clone)]
pub struct AdminClient {
    socket: PathBuf,
    client: Client<UnixConnector, Full<Bytes>>,
}

impl AdminClient {
    /// A client of the daemon behind `socket`; nothing is dialled yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), client: Client::builder(TokioExecutor::new()).build(UnixConnector) }
    }

    /// Asks the owner of the policy graph.
    ///
    /// # Errors
    /// The daemon cannot be asked, or knows nothing of the endpoint.
    pub async fn policy(&self, question: &PolicyQuestion) -> Result<PolicyAnswer, AdminError> {
        match self.call(wire::POLICY, question).await? {
            Answer::Ok(answer) => Ok(answer),
            Answer::Error(error) => Err(AdminError::Refused(StoreError::from(error).to_string())),
        }
    }

    /// The daemon's figures, as Prometheus reads them.
    ///
    /// # Errors
    /// The daemon cannot be asked.
    pub async fn metrics(&self) -> Result<String, AdminError> {
        let failed = |why: String| AdminError::Unreachable { socket: self.socket.clone(), why };
        let request = hyper::Request::get(hyper::Uri::from(Uri::new(&self.socket, METRICS_PATH)))
            .body(Full::default())
            .map_err(|error| failed(error.to_string()))?;
        let body = tokio::time::timeout(PATIENCE, self.exchange(request)).await;
        let body = body
            .map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?
            .map_err(&failed)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<Answer<A>, AdminError> {
        let failed = |why: String| AdminError::Unreachable { socket: self.socket.clone(), why };
        let body = serde_json::to_vec(question).map_err(|error| failed(error.to_string()))?;
        if body.len() > MAX_REQUEST {
            // The daemon would stop reading, and its reason would be lost with the connection.
            let why =
                format!("{} bytes are too much for one request; {MAX_REQUEST} are the most", body.len());
            return Err(AdminError::Refused(why));
        }
        let answer = tokio::time::timeout(PATIENCE, self.fetch(path, body)).await;
        let body = answer
            .map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?
            .map_err(&failed)?;
        serde_json::from_slice(&body).map_err(|error| {
            failed(format!("the answer cannot be read: {error}; are command and daemon of the same version?"))
        })
    }

    async fn fetch(&self, path: &str, body: Vec<u8>) -> Result<Bytes, String> {
        let request = hyper::Request::post(hyper::Uri::from(Uri::new(&self.socket, path)))
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        self.exchange(request).await
    }

    async fn exchange(&self, request: hyper::Request<Full<Bytes>>) -> Result<Bytes, String> {
        let answer = self.client.request(request).await.map_err(|error| explained(&error))?;
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<A, StoreError> {
        match self.call(path, question).await {
            Ok(Answer::Ok(answer)) => Ok(answer),
            Ok(Answer::Error(error)) => Err(error.into()),
            Err(error) => Err(StoreError::Unavailable { why: error.to_string() }),
        }
    }
}

/// hyper's own text is "client error (Connect)"; the cause says what happened.
fn explained(error: &(dyn Error + 'static)) -> String {
    let (mut io, mut cause) = (None, Some(error));
    while let Some(error) = cause {
        io = error.downcast_ref::<std::io::Error>().or(io);
        cause = error.source();
    }
    match io.map(std::io::Error::kind) {
        Some(ErrorKind::NotFound) => "there is no such socket; does the plugin run?".to_owned(),
        Some(ErrorKind::ConnectionRefused) => "nobody listens; does the plugin run?".to_owned(),
        Some(ErrorKind::PermissionDenied) => "permission denied; only root may ask".to_owned(),
        _ => io.map_or_else(|| error.to_string(), ToString::to_string),
    }
}

/// The daemon's datastore, as far as it is served: keys below `/calico/`.
#[derive(Debug, Clone)]
pub struct AdminStore(AdminClient);

impl AdminStore {
    /// The datastore of the daemon behind a client.
    #[must_use]
    pub fn new(client: AdminClient) -> Self {
        Self(client)
    }
}

impl Store for AdminStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move {
            let question = wire::KeyRequest { key: key.to_owned() };
            let found: Option<wire::WireEntry> = self.0.ask(wire::GET, &question).await?;
            Ok(found.map(Entry::from))
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        async move {
            let question = wire::PrefixRequest { prefix: prefix.to_owned() };
            let found: wire::WireListing = self.0.ask(wire::LIST, &question).await?;
            Ok(found.into())
        }
        .boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async move {
            wire::acceptable(&txn).map_err(StoreError::from)?;
            let done: wire::WireRevision = self.0.ask(wire::COMMIT, &wire::WireTxn::from(&txn)).await?;
            Ok(Revision(done.revision))
        }
        .boxed()
    }

    /// Commands end before anything changes: this one stream ends with an error at once.
    fn watch(&self, prefix: &str, _: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        let why = format!("{prefix} cannot be watched over the daemon's socket");
        futures::stream::once(async { Err(StoreError::Invalid { why }) }).boxed()
    }
}
