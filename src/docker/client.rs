//! Requests over the engine's Unix socket, each with a deadline and a bounded answer.

use super::events::{self, ContainerEvents};
use super::types::{ContainerDetail, ContainerSummary, DockerNetwork, ManagedPlugin, NetworkAttachments};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use hyperlocal::{UnixConnector, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A busy engine answers a list late; one that hangs must not hold a background task for ever.
const DEADLINE: Duration = Duration::from_secs(20);
/// Far above the list of 10 000 containers.
const MAX_ANSWER: usize = 256 << 20;

/// Why Docker could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("ask Docker for {path} on {}: {why}", socket.display())]
pub struct DockerError {
    path: String,
    socket: PathBuf,
    /// What the engine answered with, if it answered.
    status: Option<StatusCode>,
    why: String,
}

impl DockerError {
    /// Whether the engine says that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND)
    }

    /// Whether the engine says that there is one already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status == Some(StatusCode::CONFLICT)
    }
}

/// Asks one engine.
#[derive(Debug, Clone)]
pub struct DockerClient {
    socket: PathBuf,
    client: Client<UnixConnector, Full<Bytes>>,
}

/// An answer that is no success, or none.
type Failure = (Option<StatusCode>, String);

impl DockerClient {
    /// A client of the engine behind `socket`; nothing is dialled yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        // A kept connection could have died with the last engine; one question a minute needs none.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(UnixConnector);
        Self { socket: socket.to_owned(), client }
    }

    /// All containers, running or not.
    pub async fn containers(&self) -> Result<Vec<ContainerSummary>, DockerError> {
        self.get("/containers/json?all=1").await
    }

    /// One container as it is now; the engine waits with its answer until a start that is under way is done. `None` if
    /// it is gone. The caller sets the deadline.
    pub async fn container(&self, id: &str) -> Result<Option<ContainerSummary>, DockerError> {
        match self.get::<ContainerDetail>(&format!("/containers/{id}/json")).await {
            Ok(detail) => Ok(Some(detail.summary())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// IDs of containers as they are started, renamed and attached to networks, from now on.
    pub async fn container_events(&self) -> Result<ContainerEvents, DockerError> {
        let request = self.request(Method::GET, events::PATH, Bytes::new())?;
        let answer = tokio::time::timeout(DEADLINE, self.send(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(late())).map_err(|why| self.failed(events::PATH, why))?;
        Ok(ContainerEvents::new(answer.into_body()))
    }

    /// All networks that this engine knows.
    pub async fn networks(&self) -> Result<Vec<DockerNetwork>, DockerError> {
        self.get("/networks").await
    }

    /// IDs of the endpoints that containers have on a network, also those whose start is under way and which the list of
    /// containers tells without them (moby `container/view.go`). None if there is no such network.
    pub async fn attached(&self, network: &str) -> Result<BTreeSet<String>, DockerError> {
        match self.get::<NetworkAttachments>(&format!("/networks/{network}")).await {
            Ok(attachments) => Ok(attachments.endpoint_ids()),
            Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Creates a network from what `POST /networks/create` takes.
    pub async fn create_network(&self, wanted: &impl Serialize) -> Result<(), DockerError> {
        let path = "/networks/create";
        let body = serde_json::to_vec(wanted).map_err(|e| self.failed(path, (None, e.to_string())))?;
        let request = self.request(Method::POST, path, body.into())?;
        self.ask(path, request).await.map(drop)
    }

    /// All managed plugins.
    pub async fn plugins(&self) -> Result<Vec<ManagedPlugin>, DockerError> {
        self.get("/plugins").await
    }

    /// Makes the engine list its volumes. It dials every v1 plugin socket for that, and so comes to know the names
    /// behind which this plugin answers; the volumes themselves are of no interest.
    pub async fn list_volumes(&self) -> Result<(), DockerError> {
        self.get::<serde_json::Value>("/volumes").await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DockerError> {
        let body = self.ask(path, self.request(Method::GET, path, Bytes::new())?).await?;
        let unreadable = |error| self.failed(path, (None, format!("the answer cannot be read: {error}")));
        serde_json::from_slice(&body).map_err(unreadable)
    }

    fn failed(&self, path: &str, (status, why): Failure) -> DockerError {
        DockerError { path: path.to_owned(), socket: self.socket.clone(), status, why }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, DockerError> {
        let uri: hyper::Uri = Uri::new(&self.socket, path).into();
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("Content-Type", "application/json")
            .body(body.into());
        request.map_err(|error| self.failed(path, (None, error.to_string())))
    }

    /// The whole answer to a request, within the deadline.
    async fn ask(&self, path: &str, request: Request<Full<Bytes>>) -> Result<Bytes, DockerError> {
        let whole = async {
            let body = Limited::new(self.send(request).await?.into_body(), MAX_ANSWER).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| (None, error.to_string()))
        };
        let answer = tokio::time::timeout(DEADLINE, whole).await;
        answer.unwrap_or_else(|_| Err(late())).map_err(|why| self.failed(path, why))
    }

    /// The beginning of an answer that is a success.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let answer = self.client.request(request).await.map_err(|error| {
            // hyper's own text is "client error (Connect)"; the cause says what happened.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            (None, cause.unwrap_or_else(|| error.to_string()))
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
        Err((Some(status), format!("status {status}: {}", text.unwrap_or_else(|error| error.to_string()))))
    }
}

fn late() -> Failure {
    (None, format!("no answer within {} s", DEADLINE.as_secs()))
}
