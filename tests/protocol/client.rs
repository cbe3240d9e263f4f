//! A client that writes raw bytes, and a running server to write them to.

use crate::handler::Scripted;
use calico_libnetwork::server::{Options, Server};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What no test waits longer for: a bound against hanging, not a measure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server with one socket in a folder of its own.
pub(crate) struct Running {
    pub(crate) path: PathBuf,
    pub(crate) shutdown: CancellationToken,
    served: JoinHandle<()>,
    dir: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(options: Options, handler: &Arc<Scripted>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options, handler)
    }

    fn start_in(dir: tempfile::TempDir, options: Options, handler: &Arc<Scripted>) -> Self {
        let path = dir.path().join("plugins/calico.sock");
        let mut server = Server::new(options);
        server.bind(&path).unwrap();
        let shutdown = CancellationToken::new();
        let (handler, token) = (Arc::clone(handler), shutdown.clone());
        let served = tokio::spawn(async move { server.serve(handler, token).await.unwrap() });
        Self { path, shutdown, served, dir }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(&self.path).await
    }

    /// Posts on a connection of its own.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.connect().await.post(path, body).await
    }

    /// Asks the server to stop and waits; tells how long it took.
    pub(crate) async fn stop(self) -> Duration {
        let started = Instant::now();
        self.halt().await;
        started.elapsed()
    }

    /// Stops, and serves the same socket anew.
    pub(crate) async fn restart(self, options: Options, handler: &Arc<Scripted>) -> Self {
        Self::start_in(self.halt().await, options, handler)
    }

    async fn halt(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        within(self.served).await.unwrap();
        self.dir
    }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Value,
}

impl Answer {
    /// The error's sentence, which must be in both keys of an answer with status 200.
    pub(crate) fn error(&self) -> &str {
        assert_eq!(self.status, 200, "{self:?}");
        self.sentence()
    }

    pub(crate) fn sentence(&self) -> &str {
        let object = self.body.as_object().unwrap();
        assert_eq!(object.len(), 2, "{self:?}");
        assert_eq!(object["Err"], object["Error"]);
        let sentence = object["Err"].as_str().unwrap();
        assert!(!sentence.is_empty());
        sentence
    }

    /// Whether it is what every engine takes for a success.
    pub(crate) fn is_success(&self) -> bool {
        self.status == 200
            && self.content_type == "application/vnd.docker.plugins.v1.1+json"
            && self.body.as_object().is_some_and(|o| !o.contains_key("Err") && !o.contains_key("Error"))
    }
}

/// One connection.
pub(crate) struct Client(pub(crate) UnixStream);

impl Client {
    pub(crate) async fn connect(path: &Path) -> Self {
        Self(UnixStream::connect(path).await.unwrap())
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.send(post(path, body)).await;
        self.answer().await
    }

    /// Reads one answer with a Content-Length.
    pub(crate) async fn answer(&mut self) -> Answer {
        within(self.read_answer()).await
    }

    async fn read_answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = vec![0; header(&head, "content-length").parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Answer { status, content_type: header(&head, "content-type"), body }
    }

    /// Waits until the server closes the connection; what it sent until then.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is a close, too.
        let _ = within(self.0.read_to_end(&mut rest)).await;
        rest
    }
}

fn header(head: &str, name: &str) -> String {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    found.next().unwrap_or_default().to_owned()
}

/// A request as engine 20.10 sends it: empty Host, no Content-Type.
pub(crate) fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost:\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
         Accept: application/vnd.docker.plugins.v1.2+json\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("done within the test's patience")
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
