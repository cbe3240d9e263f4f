//! A real etcd for each test, and what only a server across a connection can do: go away, come back, stall, refuse.

use super::server::{Etcd, Proxy, Weather, free_port, missing};
use calico_libnetwork::store::etcd::TlsFiles;
use calico_libnetwork::store::{EtcdOptions, EtcdStore, Event, Revision, Store, StoreError, Txn};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::time::timeout;

fn store(endpoints: &[String]) -> EtcdStore {
    EtcdStore::connect(EtcdOptions::new(endpoints.to_vec()))
}

fn put(key: &str, value: &str) -> Txn {
    Txn::new().put(key.to_owned(), value.to_owned())
}

fn why<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable { why }) => why,
        other => panic!("expected Unavailable, not {other:?}"),
    }
}

#[tokio::test]
async fn connecting_returns_at_once_and_each_call_says_what_is_wrong() {
    let port = free_port();
    let begin = Instant::now();
    let store = store(&[format!("127.0.0.1:{port}")]);
    let mut events = store.watch("/", Revision(1));
    assert!(begin.elapsed() < Duration::from_millis(100));
    for why in [
        why(store.get("/a").await),
        why(store.list("/").await),
        why(store.commit(put("/a", "x")).await),
        why(timeout(Duration::from_secs(40), events.next()).await.unwrap().unwrap()),
    ] {
        assert!(why.contains(&format!("http://127.0.0.1:{port}")), "{why}");
        assert!(why.contains("Connection refused"), "{why}");
        assert!(!why.contains("may still be applied"), "it never left: {why}");
    }
    assert!(events.next().await.is_none(), "the watch ends after an error");
    let none = why(EtcdStore::connect(EtcdOptions::new(Vec::new())).get("/a").await);
    assert!(none.contains("no endpoint is given"), "{none}");
}

#[tokio::test]
async fn a_silent_server_ends_a_call_at_its_deadline() {
    // It accepts and never says a word, as a firewall that drops packets of an open connection.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    });
    let mut options = EtcdOptions::new(vec![endpoint.clone()]);
    options.request_timeout = Duration::from_millis(500);
    let store = EtcdStore::connect(options);
    let begin = Instant::now();
    let read = why(store.get("/a").await);
    assert!(read.contains("no answer within 0.5 s") && read.contains(&endpoint), "{read}");
    let write = why(store.commit(put("/a", "x")).await);
    assert!(write.contains("may still be applied"), "{write}");
    assert!(begin.elapsed() < Duration::from_secs(3));
    silent.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_silent_is_replaced() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::to(etcd.client).await;
    let mut options = EtcdOptions::new(vec![format!("127.0.0.1:{}", proxy.port), etcd.endpoint()]);
    options.request_timeout = Duration::from_secs(1);
    let store = EtcdStore::connect(options);
    let start = store.commit(put("/w/a", "x")).await.unwrap();
    let mut events = store.watch("/w/", start);
    let first = store.commit(put("/w/b", "x")).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().revision(), first);
    proxy.set(Weather::Hole);
    assert!(why(store.get("/w/a").await).contains("no answer"));
    assert!(store.get("/w/a").await.unwrap().is_some(), "the next call goes to the next endpoint");
    let second = store.commit(put("/w/c", "x")).await.unwrap();
    // Probed after 10 s, given up 5 s later.
    let event = timeout(Duration::from_secs(30), events.next()).await.expect("the watch notices");
    assert_eq!(event.unwrap().unwrap().revision(), second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_passed_over() {
    let Some(etcd) = Etcd::start().await else { return };
    let store = store(&[format!("127.0.0.1:{}", free_port()), etcd.endpoint()]);
    let revision = store.commit(put("/a", "x")).await.unwrap();
    assert_eq!(store.get("/a").await.unwrap().unwrap().revision, revision);
    let mut events = store.watch("/", Revision(revision.0 - 1));
    assert_eq!(events.next().await.unwrap().unwrap().revision(), revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_etcd_comes_back_to_a_watch_without_a_gap_and_to_commits() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let store = etcd.store.clone();
    let start = store.commit(put("/w/start", "x")).await.unwrap();
    let mut events = store.watch("/w/", start);
    let mut acknowledged = BTreeMap::new();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut acknowledged = BTreeMap::new();
            let begin = Instant::now();
            let mut failed = 0;
            for n in 0.. {
                let key = format!("/w/{n:05}");
                match store.commit(Txn::new().create(key.clone(), "x")).await {
                    Ok(revision) => {
                        acknowledged.insert(key, revision);
                    }
                    Err(StoreError::Unavailable { .. }) => failed += 1,
                    Err(other) => panic!("{other}"),
                }
                if begin.elapsed() > Duration::from_secs(6) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (acknowledged, failed)
        })
    };
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        etcd.restart(Duration::from_millis(500)).await;
    }
    let (written, failed) = writer.await.unwrap();
    acknowledged.extend(written);
    assert!(failed > 0 && acknowledged.len() > 50, "{failed} failed, {} went well", acknowledged.len());
    let last = store.commit(put("/w/end", "x")).await.unwrap();
    let listing = store.list("/w/").await.unwrap();
    let stored: BTreeMap<_, _> =
        listing.entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect();
    for (key, revision) in &acknowledged {
        assert_eq!(stored.get(key), Some(revision), "{key} was answered");
    }
    let mut seen = BTreeMap::from([("/w/start".to_owned(), start)]);
    loop {
        let event =
            timeout(Duration::from_secs(20), events.next()).await.expect("events go on").unwrap().unwrap();
        let Event::Put(entry) = event else { panic!("nothing was deleted") };
        assert!(seen.insert(entry.key, entry.revision).is_none(), "each change is seen once");
        if entry.revision == last {
            break;
        }
    }
    assert_eq!(seen, stored, "no gap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_on_a_cluster_that_was_made_anew_ends() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let store = etcd.store.clone();
    for n in 0..10 {
        store.commit(put("/w/a", &n.to_string())).await.unwrap();
    }
    let listing = store.list("/w/").await.unwrap();
    let mut events = store.watch("/w/", Revision(listing.revision.0 - 1));
    events.next().await.unwrap().unwrap();
    etcd.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    etcd.restart(Duration::ZERO).await;
    let ended =
        timeout(Duration::from_secs(30), events.next()).await.expect("it does not wait for ever").unwrap();
    let why = why(ended);
    assert!(why.contains("not the cluster, or not the state"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_passwords_are_used_and_outlive_a_restart() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let with = |credentials: Option<(&str, &str)>| {
        let mut options = EtcdOptions::new(vec![etcd.endpoint()]);
        options.credentials = credentials.map(|(user, password)| (user.to_owned(), password.to_owned()));
        EtcdStore::connect(options)
    };
    let root = with(Some(("root", "secret")));
    root.commit(put("/a", "x")).await.expect("credentials that are not needed are no mistake");
    let mut client = etcd.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let refused = [why(with(None).get("/a").await), why(with(Some(("root", "wrong"))).get("/a").await)];
    assert!(refused[0].contains("user name is empty"), "{}", refused[0]);
    assert!(refused[1].contains("invalid user ID or password"), "{}", refused[1]);
    let store = with(Some(("root", "secret")));
    let revision = store.commit(put("/a", "y")).await.unwrap();
    let mut events = store.watch("/", revision);
    etcd.kill();
    etcd.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let next = loop {
        match store.commit(put("/a", "z")).await {
            Ok(revision) => break revision,
            Err(error) => assert!(Instant::now() < deadline, "the token is renewed: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let event = timeout(Duration::from_secs(20), events.next()).await.expect("the watch is renewed").unwrap();
    assert_eq!(event.unwrap().revision(), next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_watchers_do_not_stall_calls() {
    let Some(etcd) = Etcd::start().await else { return };
    let store = etcd.store.clone();
    let start = store.commit(put("/w/a", "x")).await.unwrap();
    let mut slow: Vec<_> = (0..8).map(|_| store.watch("/w/", start)).collect();
    store.commit(put("/w/first", "x")).await.unwrap();
    for events in &mut slow {
        events.next().await.unwrap().unwrap();
    }
    let large = bytes::Bytes::from(vec![7; 1024 * 1024]);
    for n in 0..12 {
        store.commit(Txn::new().put(format!("/w/{n:02}"), large.clone())).await.expect("commits go on");
    }
    assert_eq!(store.list("/w/").await.unwrap().entries.len(), 14);
    for events in &mut slow {
        for n in 0..12 {
            let event = timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(event.key(), format!("/w/{n:02}"));
        }
    }
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority, and a certificate of it for a server on the loopback and for a client.
fn certificates(folder: &Path) {
    let key = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("{key} -x509 -days 2 -subj /CN=ca -keyout ca.key -out ca.pem"));
    std::fs::write(
        folder.join("ext"),
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
    )
    .unwrap();
    for name in ["server", "client"] {
        openssl(folder, &format!("{key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let sign = "x509 -req -days 2 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext";
        openssl(folder, &format!("{sign} -in {name}.csr -out {name}.pem"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_works_with_certificates_on_both_sides() {
    if Command::new("openssl").arg("version").output().is_err() {
        return missing("openssl", "the program openssl is not installed");
    }
    let pem = tempfile::tempdir().unwrap();
    certificates(pem.path());
    let file = |name: &str| pem.path().join(name);
    let arguments = |_: &Path| {
        let name = |name: &str| file(name).to_string_lossy().into_owned();
        let files =
            [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
        let files = files.into_iter().flat_map(|(option, path)| [option.to_owned(), name(path)]);
        files.chain(["--client-cert-auth".to_owned()]).collect()
    };
    let ours = TlsFiles {
        ca: Some(file("ca.pem")),
        certificate: Some(file("client.pem")),
        key: Some(file("client.key")),
    };
    let Some(etcd) = Etcd::start_with(arguments, "https", |options| options.tls = ours.clone()).await else {
        return;
    };
    let revision = etcd.store.commit(put("/a", "x")).await.unwrap();
    let mut events = etcd.store.watch("/", Revision(revision.0 - 1));
    assert_eq!(events.next().await.unwrap().unwrap().revision(), revision);
    let with =
        |tls: TlsFiles| EtcdStore::connect(EtcdOptions { tls, ..EtcdOptions::new(vec![etcd.endpoint()]) });
    why(with(TlsFiles { certificate: None, key: None, ..ours.clone() }).get("/a").await);
    let stranger = why(with(TlsFiles { ca: Some(file("server.pem")), ..ours.clone() }).get("/a").await);
    assert!(stranger.contains("certificate"), "{stranger}");
    let plain = why(store(&[etcd.endpoint()]).get("/a").await);
    assert!(plain.contains("CA certificate"), "{plain}");
}
