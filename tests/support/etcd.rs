//! A real etcd for each test: one member or three, and what can be done to them.

#![allow(dead_code, reason = "each test binary uses its own part")]

use calico_libnetwork::store::{EtcdOptions, EtcdStore, Store};
use etcd_client::{Client, GetOptions};
use std::io;
use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Whether a missing prerequisite must fail the test.
pub(crate) fn missing(what: &str, why: &str) {
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == what), "{what} is required, but {why}");
    eprintln!("SKIP: {what}: {why}");
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The program of Debian's package that is installed.
pub(crate) const INSTALLED: &str = "etcd";

/// etcd 3.5 of a newer Debian, unpacked and not installed (`tools/etcd-package.sh`).
pub(crate) fn newer() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/etcd-package.sh");
    let made = Command::new(script).arg("trixie").stderr(Stdio::null()).output().ok()?;
    let path = PathBuf::from(String::from_utf8(made.stdout).ok()?.trim());
    (made.status.success() && path.is_file()).then_some(path)
}

/// An etcd process with a folder and ports of its own; ends with the value.
pub(crate) struct Etcd {
    pub(crate) store: EtcdStore,
    pub(crate) folder: TempDir,
    pub(crate) client: u16,
    program: PathBuf,
    process: Option<Child>,
    peer: u16,
    scheme: &'static str,
    arguments: Vec<String>,
}

impl Etcd {
    /// Starts an etcd and waits until it answers; `None` if there is no etcd here and none is required.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(|_| Vec::new(), "http", |_| {}).await
    }

    /// Starts an etcd with more arguments, which may need its folder, and a store with other options.
    pub(crate) async fn start_with(
        arguments: impl Fn(&Path) -> Vec<String>,
        scheme: &'static str,
        adjust: impl Fn(&mut EtcdOptions),
    ) -> Option<Self> {
        Self::start_program(Path::new(INSTALLED), arguments, scheme, adjust).await
    }

    /// Starts an etcd of another version.
    pub(crate) async fn start_version(program: &Path) -> Option<Self> {
        Self::start_program(program, |_| Vec::new(), "http", |_| {}).await
    }

    /// Starts an etcd of another version, with all of that.
    pub(crate) async fn start_program(
        program: &Path,
        arguments: impl Fn(&Path) -> Vec<String>,
        scheme: &'static str,
        adjust: impl Fn(&mut EtcdOptions),
    ) -> Option<Self> {
        // Ports that were free a moment ago may be taken by now.
        for _ in 0..5 {
            let folder = tempfile::tempdir().unwrap();
            let arguments = arguments(folder.path());
            let (client, peer) = (free_port(), free_port());
            let mut options = EtcdOptions::new(vec![format!("127.0.0.1:{client}")]);
            adjust(&mut options);
            let store = EtcdStore::connect(options);
            let program = program.to_owned();
            let mut etcd = Self { store, folder, client, program, process: None, peer, scheme, arguments };
            match etcd.spawn() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing("etcd", "the program etcd is not installed");
                    return None;
                }
                started => started.unwrap(),
            }
            if etcd.wait().await {
                return Some(etcd);
            }
        }
        panic!("etcd does not start");
    }

    pub(crate) fn spawn(&mut self) -> io::Result<()> {
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let client = self.endpoint();
        let child = Command::new(&self.program)
            .args(["--name", "test", "--log-level", "error", "--logger", "zap", "--data-dir"])
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.process = Some(child);
        Ok(())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Whether it answers, or has ended instead.
    pub(crate) async fn wait(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self.store.get("/").await {
            assert!(Instant::now() < deadline, "etcd does not start: {error}");
            if self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some()) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        true
    }

    /// Kills it and starts it again on the same data.
    pub(crate) async fn restart(&mut self, pause: Duration) {
        self.kill();
        tokio::time::sleep(pause).await;
        self.spawn().unwrap();
        assert!(self.wait().await, "etcd comes back");
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client)
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.endpoint()], None).await.unwrap()
    }

    /// Forgets all history up to now.
    pub(crate) async fn compact(&self) {
        let mut client = self.client().await;
        let now = client.get("/", Some(GetOptions::new().with_count_only())).await.unwrap();
        client.compact(now.header().unwrap().revision(), None).await.unwrap();
    }

    /// How many reads and writes it has served, by its own count of calls on the wire.
    pub(crate) async fn served(&self) -> Served {
        let text = http_get(self.client, "/metrics").await;
        let count = |method: &str| {
            let wanted = format!("grpc_method=\"{method}\",grpc_service=\"etcdserverpb.KV\"");
            let lines = text
                .lines()
                .filter(|line| line.starts_with("grpc_server_handled_total") && line.contains(&wanted));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        Served { reads: count("Range"), writes: count("Txn") + count("Put") + count("DeleteRange") }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Calls on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

impl Served {
    pub(crate) fn since(self, before: Self) -> Self {
        Self { reads: self.reads - before.reads, writes: self.writes - before.writes }
    }
}

async fn http_get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// What a [`Proxy`] does with what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Everything passes.
    Fair,
    /// Nothing passes, and nobody is told: packets are dropped.
    Hole,
    /// Everything passes after a pause.
    Slow(Duration),
}

/// Passes bytes between a port of its own and another.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    weather: tokio::sync::watch::Sender<Weather>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let weather = tokio::sync::watch::Sender::new(Weather::Fair);
        let source = weather.clone();
        let task = tokio::spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let weather = source.subscribe();
                links.spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    tokio::join!(pass(near_in, far_out, weather.clone()), pass(far_in, near_out, weather));
                });
            }
        });
        Self { port, weather, task }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut weather: tokio::sync::watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Fair => {}
            Weather::Slow(pause) => tokio::time::sleep(pause).await,
            // A connection that has lost bytes never recovers; its ends find out by themselves.
            Weather::Hole => std::future::pending().await,
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Three members.
pub(crate) struct Members {
    pub(crate) members: Vec<Member>,
    folder: TempDir,
    program: PathBuf,
}

/// One of them.
pub(crate) struct Member {
    pub(crate) client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Members {
    /// Starts three members and waits until they answer.
    pub(crate) async fn start(program: &Path) -> Option<Self> {
        for _ in 0..5 {
            let members: Vec<Member> =
                (0..3).map(|_| Member { client: free_port(), peer: free_port(), process: None }).collect();
            let folder = tempfile::tempdir().unwrap();
            let mut cluster = Self { members, folder, program: program.to_owned() };
            for index in 0..3 {
                match cluster.spawn(index) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        missing("etcd", "the program etcd is not installed");
                        return None;
                    }
                    started => started.unwrap(),
                }
            }
            if cluster.wait().await {
                return Some(cluster);
            }
        }
        panic!("three members do not start");
    }

    pub(crate) fn spawn(&mut self, index: usize) -> io::Result<()> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<String> =
            self.members.iter().enumerate().map(|(n, member)| format!("m{n}={}", url(member.peer))).collect();
        let member = &mut self.members[index];
        let (client, peer) = (url(member.client), url(member.peer));
        let child = Command::new(&self.program)
            .args(["--name", &format!("m{index}"), "--log-level", "error", "--logger", "zap", "--data-dir"])
            .arg(self.folder.path().join(format!("m{index}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(",")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        member.process = Some(child);
        Ok(())
    }

    async fn wait(&mut self) -> bool {
        let store = self.store(&[0, 1, 2]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = store.get("/").await {
            assert!(Instant::now() < deadline, "three members do not start: {error}");
            let ended = |member: &mut Member| {
                member.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
            };
            if self.members.iter_mut().any(ended) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        true
    }

    /// A store that knows these members, in this order.
    pub(crate) fn store(&self, members: &[usize]) -> EtcdStore {
        let endpoint = |index: &usize| format!("http://127.0.0.1:{}", self.members[*index].client);
        EtcdStore::connect(EtcdOptions::new(members.iter().map(endpoint).collect()))
    }

    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// The member that leads.
    pub(crate) async fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            for (index, member) in self.members.iter().enumerate() {
                let url = format!("http://127.0.0.1:{}", member.client);
                let Ok(mut client) = Client::connect([url], None).await else { continue };
                let Ok(status) = client.status().await else { continue };
                let own = status.header().unwrap().member_id();
                if status.leader() == own && own != 0 {
                    return index;
                }
            }
            assert!(Instant::now() < deadline, "no leader is elected");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}
