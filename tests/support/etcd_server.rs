//! A real etcd as a child process, with a folder and ports of its own.

use calico_libnetwork::store::{EtcdOptions, EtcdStore, SharedStore};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An etcd with a folder and ports of its own; ends with the value.
pub(crate) struct Etcd {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

fn free_port(address: &str) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

impl Etcd {
    /// `None` if there is no etcd here and none is required.
    pub(crate) fn start() -> Option<Self> {
        Self::start_at("127.0.0.1")
    }

    /// The same at another address of this host, for clients that are on others.
    pub(crate) fn start_at(address: &str) -> Option<Self> {
        // Ports that were free a moment ago may be taken by now.
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("http://{address}:{}", free_port(address));
            let peer = format!("http://{address}:{}", free_port(address));
            let started = Command::new("etcd")
                .args(["--name", "test", "--log-level", "error", "--logger", "zap", "--data-dir"])
                .arg(folder.path().join("data"))
                .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("test={peer}")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let process = match started {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let required = std::env::var("REQUIRE").unwrap_or_default();
                    assert!(
                        !required.split(',').any(|name| name == "etcd"),
                        "etcd is required, and not installed"
                    );
                    eprintln!("SKIP: etcd: it is not installed");
                    return None;
                }
                started => started.unwrap(),
            };
            let mut etcd = Self { process, url, _folder: folder };
            if etcd.answers() {
                return Some(etcd);
            }
        }
        panic!("etcd does not start");
    }

    /// Whether it answers, or has ended instead.
    fn answers(&mut self) -> bool {
        let runtime = runtime();
        let store = self.store(&runtime);
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = runtime.block_on(store.get("/")) {
            assert!(Instant::now() < deadline, "etcd does not start: {error}");
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Where clients find it.
    #[allow(dead_code, reason = "one of the test programs that share this file uses it")]
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A connection that lives on a runtime.
    pub(crate) fn store(&self, runtime: &tokio::runtime::Runtime) -> SharedStore {
        let _inside = runtime.enter();
        std::sync::Arc::new(EtcdStore::connect(EtcdOptions::new(vec![self.url.clone()])))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A runtime for an etcd's connections.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
