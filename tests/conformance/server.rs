//! One etcd for all tests of the program. Nothing is run at a program's end, so a shell waits for that: the pipe to it
//! breaks then, also when the program is killed, and the shell ends etcd and removes its folder.

use crate::peer::Peer;
use calico_libnetwork::store::{EtcdOptions, EtcdStore, Store};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Arguments: the folder, then the command. The folder goes once etcd has let go of it.
const GUARD: &str = r#"folder=$1; shift
"$@" </dev/null & etcd=$!
while kill -0 $etcd 2>/dev/null && read -r _; do :; done
kill -KILL $etcd 2>/dev/null; wait $etcd
rm -rf "$folder""#;

struct Server {
    url: String,
    _guard: Child,
}

fn free_url() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

fn start() -> Option<Server> {
    if !std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("etcd").is_file()))
    {
        let required = std::env::var("REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "etcd"), "etcd is required, and not installed");
        eprintln!("SKIP: etcd: it is not installed; the statements are tried over the double alone");
        return None;
    }
    // Ports that were free a moment ago may be taken by now.
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap().keep();
        let (url, peer) = (free_url(), free_url());
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&folder)
            .args(["etcd", "--name", "test", "--log-level", "error", "--logger", "zap", "--data-dir"])
            .arg(folder.join("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It makes the folder after it has got its ports: what answers is not another one.
        if answers(&url) && folder.join("data/member/wal").is_dir() {
            return Some(Server { url, _guard: guard });
        }
        drop(guard.stdin.take());
        guard.wait().unwrap();
    }
    panic!("etcd does not start");
}

/// Whether etcd answers there within the time that it takes to start.
fn answers(url: &str) -> bool {
    // A runtime of its own, on a thread of its own: the caller may be on one.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let store = EtcdStore::connect(EtcdOptions::new(vec![url.to_owned()]));
                let deadline = Instant::now() + Duration::from_secs(30);
                while store.get("/").await.is_err() {
                    if Instant::now() > deadline {
                        return false;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                true
            })
        });
        asked.join().unwrap()
    })
}

/// The real datastore of one world, in a part of its own of the program's etcd; none where there is no etcd.
pub(crate) fn peer() -> Option<Peer> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    static WORLDS: AtomicU64 = AtomicU64::new(0);
    let server = SERVER.get_or_init(start).as_ref()?;
    let store = EtcdStore::connect(EtcdOptions::new(vec![server.url.clone()]));
    let number = WORLDS.fetch_add(1, Ordering::Relaxed);
    Some(Peer::new(Arc::new(store), format!("/world-{number}")))
}
