//! Docker's API on a Unix socket, as far as the collector asks it.

use calico_libnetwork::docker::DockerClient;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Debug, Default)]
struct State {
    containers: Vec<Value>,
    networks: Vec<Value>,
    /// What is told of one container or network alone.
    details: BTreeMap<String, Value>,
    silent: bool,
}

/// The API of an engine that has nothing at first.
pub(crate) struct FakeDocker {
    state: Arc<Mutex<State>>,
    folder: TempDir,
    server: JoinHandle<()>,
}

impl FakeDocker {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let listener = UnixListener::bind(folder.path().join("docker.sock")).unwrap();
        let server = tokio::spawn(serve(listener, state.clone()));
        Self { state, folder, server }
    }

    pub(crate) fn client(&self) -> DockerClient {
        DockerClient::new(&self.socket())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// A container with endpoints. States are those of `docker ps`.
    pub(crate) fn add_container(&self, state: &str, endpoints: &[&str]) {
        let networks: serde_json::Map<String, Value> =
            endpoints.iter().map(|id| ((*id).to_owned(), json!({"EndpointID": id}))).collect();
        self.state.lock().unwrap().containers.push(
            json!({"Id": endpoints.join("-"), "State": state, "NetworkSettings": {"Networks": networks}}),
        );
    }

    /// A running container on a network, with `driver-opt`s that its entry in the list leaves out, as Docker 20.10 does.
    pub(crate) fn add_attached(&self, network: &str, endpoint: &str, ip: &str, options: &Value) {
        let container = |options: &Value| {
            let attachment = json!({"NetworkID": network, "EndpointID": endpoint, "IPAddress": ip, "IPPrefixLen": 32,
                "DriverOpts": options});
            json!({"Id": "c1", "State": "running", "NetworkSettings": {"Networks": {"web": attachment}}})
        };
        let mut detail = container(options);
        detail["State"] = json!({"Status": "running"});
        let mut state = self.state.lock().unwrap();
        state.containers.push(container(&Value::Null));
        state.details.insert("/containers/c1/json".to_owned(), detail);
    }

    /// A container that is starting has an endpoint, and the list of containers does not say so.
    pub(crate) fn add_starting(&self, network: &str, endpoint: &str) {
        self.add_container("created", &[]);
        let attached =
            json!({"Containers": {"c1": {"EndpointID": endpoint}, "ep-1": {"EndpointID": "other"}}});
        self.state.lock().unwrap().details.insert(format!("/networks/{network}"), attached);
    }

    pub(crate) fn add_network(&self, id: &str) {
        self.state.lock().unwrap().networks.push(json!({"Id": id, "Driver": "calico:latest", "Options": {}}));
    }

    /// Docker forgets everything.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock().unwrap();
        state.containers.clear();
        state.networks.clear();
        state.details.clear();
    }

    /// An engine that is starting or stopping.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.state.lock().unwrap().silent = silent;
    }
}

impl Drop for FakeDocker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: UnixListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&state.lock().unwrap(), &request);
                async { Ok::<_, Infallible>(answer) }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

fn answer(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let no_plugins: Vec<Value> = Vec::new();
    let told = match request.uri().path_and_query().map(ToString::to_string).as_deref() {
        _ if state.silent => None,
        Some("/containers/json?all=1") => Some(Value::from(state.containers.clone())),
        Some("/networks") => Some(Value::from(state.networks.clone())),
        Some("/plugins") => Some(Value::from(no_plugins)),
        Some(path) if path.starts_with("/networks/") => {
            Some(state.details.get(path).cloned().unwrap_or_else(|| json!({"Containers": {}})))
        }
        Some(path) => state.details.get(path).cloned(),
        None => None,
    };
    let body = told.as_ref().map_or_else(|| "{\"message\":\"no\"}".to_owned(), ToString::to_string);
    let mut response = Response::new(Full::new(Bytes::from(body)));
    if told.is_none() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}
