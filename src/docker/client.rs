//! GET requests over the engine's Unix socket, each with a deadline and a bounded answer.

use super::types::{ContainerSummary, DockerNetwork, ManagedPlugin};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use hyperlocal::{UnixConnector, Uri};
use serde::de::DeserializeOwned;
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
    why: String,
}

/// Asks one engine.
#[derive(Debug, Clone)]
pub struct DockerClient {
    socket: PathBuf,
    client: Client<UnixConnector, Empty<Bytes>>,
}

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

    /// All networks that this engine knows.
    pub async fn networks(&self) -> Result<Vec<DockerNetwork>, DockerError> {
        self.get("/networks").await
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
        let failed = |why: String| DockerError { path: path.to_owned(), socket: self.socket.clone(), why };
        let answer = tokio::time::timeout(DEADLINE, self.fetch(path)).await;
        let body = answer
            .map_err(|_| failed(format!("no answer within {} s", DEADLINE.as_secs())))?
            .map_err(&failed)?;
        serde_json::from_slice(&body).map_err(|error| failed(format!("the answer cannot be read: {error}")))
    }

    async fn fetch(&self, path: &str) -> Result<Bytes, String> {
        let answer = self.client.get(Uri::new(&self.socket, path).into()).await.map_err(|error| {
            // hyper's own text is "client error (Connect)"; the cause says what happened.
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        match status.is_success() {
            true => Ok(body.to_bytes()),
            false => Err(format!("status {status}: {}", String::from_utf8_lossy(&body.to_bytes()))),
        }
    }
}
