//! Who may do what, and what `check` says when it is not enough.

use crate::node::{Node, pools};
use crate::server::{Etcd, free_port, missing};
use calico_libnetwork::model::key;
use calico_libnetwork::store::etcd::TlsFiles;
use calico_libnetwork::store::{EtcdOptions, EtcdStore, Store, StoreError, Txn};
use etcd_client::{Permission, PermissionType};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

const V4: &str = "CalicoPoolIPv4";

fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Whether certificates can be made here.
fn has_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    if !found {
        missing("openssl", "the program openssl is not installed");
    }
    found
}

/// An authority `CA.pem`, and a certificate of it for the loopback that ends after so many days.
fn authority(folder: &Path, ca: &str, server: &str, extension: &str, days: i32) {
    let key = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("{key} -x509 -days 20 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"));
    std::fs::write(folder.join("ext"), format!("subjectAltName={extension}\nextendedKeyUsage=serverAuth\n"))
        .unwrap();
    openssl(folder, &format!("{key} -subj /CN={server} -keyout {server}.key -out {server}.csr"));
    let sign = format!("x509 -req -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -extfile ext -days {days}");
    openssl(folder, &format!("{sign} -in {server}.csr -out {server}.pem"));
}

/// What is wrong with the only endpoint.
async fn wrong(endpoint: String, adjust: impl FnOnce(&mut EtcdOptions)) -> String {
    let mut options = EtcdOptions::new(vec![endpoint]);
    adjust(&mut options);
    let states = EtcdStore::connect(options).examine().await.unwrap();
    states[0].found.clone().unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_plain_troubles_apart() {
    let nobody = wrong(format!("http://127.0.0.1:{}", free_port()), |_| {}).await;
    assert!(nobody.starts_with("nothing listens there"), "{nobody}");
    let nameless = wrong("http://etcd.invalid:2379".to_owned(), |_| {}).await;
    assert!(nameless.starts_with("its name is not known"), "{nameless}");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let silence = wrong(endpoint, |options| options.request_timeout = Duration::from_secs(1)).await;
    assert!(silence.starts_with("no answer within 1 s"), "{silence}");

    let Some(etcd) = Etcd::start().await else { return };
    let states = etcd.store.examine().await.unwrap();
    assert!(states[0].found.as_ref().unwrap().starts_with("3."), "{states:?}");
    etcd.store.examine_access(key::IPAM_ROOT).await.unwrap();
    assert_eq!(etcd.store.list("").await.unwrap().entries, [], "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_troubles_with_tls_apart() {
    if !has_openssl() {
        return;
    }
    let pem = tempfile::tempdir().unwrap();
    let folder = pem.path();
    authority(folder, "ca", "good", "IP:127.0.0.1", 2);
    authority(folder, "otherca", "other", "IP:127.0.0.1", 2);
    std::fs::create_dir(folder.join("late")).unwrap();
    authority(&folder.join("late"), "ca", "server", "IP:127.0.0.1", -1);
    std::fs::create_dir(folder.join("named")).unwrap();
    authority(&folder.join("named"), "ca", "server", "DNS:elsewhere", 2);
    let file = |name: &str| folder.join(name);
    let tls = |ca: &str| TlsFiles { ca: Some(file(ca)), ..TlsFiles::default() };
    let serving = |name: &'static str, more: &'static [&'static str]| {
        move |_: &Path| -> Vec<String> {
            let of = |end: &str| folder.join(format!("{name}.{end}")).display().to_string();
            let files = ["--cert-file".to_owned(), of("pem"), "--key-file".to_owned(), of("key")];
            files
                .into_iter()
                .chain(
                    more.iter().map(|word| word.replace("CA", &folder.join("ca.pem").display().to_string())),
                )
                .collect()
        }
    };

    let good = tls("ca.pem");
    let Some(etcd) =
        Etcd::start_with(serving("good", &[]), "https", |options| options.tls = good.clone()).await
    else {
        return;
    };
    assert!(etcd.store.examine().await.unwrap()[0].found.is_ok());
    let stranger = wrong(etcd.endpoint(), |options| options.tls = tls("otherca.pem")).await;
    assert!(stranger.starts_with("its certificate is not of the CA"), "{stranger}");
    let plain = wrong(etcd.endpoint().replace("https", "http"), |_| {}).await;
    assert!(plain.starts_with("it speaks TLS"), "{plain}");
    let without = wrong(etcd.endpoint(), |_| {}).await;
    assert!(without.contains("CA certificate"), "{without}");
    drop(etcd);

    // A server whose certificate is bad never gets a good client: it is asked whether it listens, and no more.
    for (name, ca, sentence) in [
        ("late/server", "late/ca.pem", "its certificate has expired"),
        ("named/server", "named/ca.pem", "its certificate is for another name"),
    ] {
        let (listening, port) = tls_server(folder, name).await;
        let said = wrong(format!("https://127.0.0.1:{port}"), |options| options.tls = tls(ca)).await;
        assert!(said.starts_with(sentence), "{said}");
        drop(listening);
    }

    let Some(etcd) = Etcd::start().await else { return };
    let reverse = wrong(etcd.endpoint().replace("http", "https"), |options| options.tls = good).await;
    assert!(reverse.starts_with("it does not speak TLS"), "{reverse}");
}

/// A process that ends with the value.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that can do nothing but greet.
async fn tls_server(folder: &Path, name: &str) -> (Process, u16) {
    let port = free_port();
    let process = Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}"), "-alpn", "h2"])
        .args(["-cert", &format!("{name}.pem"), "-key", &format!("{name}.key")])
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(process);
    let deadline = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "openssl does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (process, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_a_missing_client_certificate() {
    if !has_openssl() {
        return;
    }
    let pem = tempfile::tempdir().unwrap();
    let folder = pem.path();
    authority(folder, "ca", "server", "IP:127.0.0.1", 2);
    let port = free_port();
    let url = format!("https://127.0.0.1:{port}");
    let name = |name: &str| folder.join(name).display().to_string();
    let data = name("data");
    let peer = format!("http://127.0.0.1:{}", free_port());
    let child = Command::new("etcd")
        .args(["--name", "t", "--data-dir", &data, "--logger", "zap", "--log-level", "error"])
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("t={peer}"), "--client-cert-auth"])
        .args(["--cert-file", &name("server.pem"), "--key-file", &name("server.key")])
        .args(["--trusted-ca-file", &name("ca.pem")])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    let Ok(child) = child else { return missing("etcd", "the program etcd is not installed") };
    let _process = Process(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    let said = loop {
        let tls = TlsFiles { ca: Some(folder.join("ca.pem")), ..TlsFiles::default() };
        let said = wrong(url.clone(), |options| options.tls = tls).await;
        if !said.starts_with("nothing listens") {
            break said;
        }
        assert!(Instant::now() < deadline, "etcd does not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(said.contains("ETCD_CERT_FILE and ETCD_KEY_FILE"), "{said}");
}

/// Switches authentication on: root, and a user `calico` who may read and write below `/calico/` but for one key.
async fn with_users(etcd: &Etcd, denied: Option<&str>) {
    let mut client = etcd.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("calico").await.unwrap();
    let ranges = match denied {
        None => vec![("/calico/".to_owned(), "/calico0".to_owned())],
        Some(key) => {
            vec![("/calico/".to_owned(), key.to_owned()), (format!("{key}\0"), "/calico0".to_owned())]
        }
    };
    for (from, to) in ranges {
        let permission = Permission::new(PermissionType::Readwrite, from).with_range_end(to);
        client.role_grant_permission("calico", permission).await.unwrap();
    }
    client.user_add("calico", "word", None).await.unwrap();
    client.user_grant_role("calico", "calico").await.unwrap();
    client.role_add("nothing").await.unwrap();
    client.user_add("guest", "word", None).await.unwrap();
    client.user_grant_role("guest", "nothing").await.unwrap();
    client.auth_enable().await.unwrap();
}

fn as_user(etcd: &Etcd, user: &str, password: &str) -> EtcdStore {
    let mut options = EtcdOptions::new(vec![etcd.endpoint()]);
    options.credentials = Some((user.to_owned(), password.to_owned()));
    EtcdStore::connect(options)
}

fn why(error: StoreError) -> String {
    match error {
        StoreError::Unavailable { why } => why,
        other => panic!("expected Unavailable, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_troubles_with_users_apart() {
    let Some(etcd) = Etcd::start().await else { return };
    with_users(&etcd, None).await;
    let anonymous = wrong(etcd.endpoint(), |_| {}).await;
    assert!(anonymous.starts_with("it wants to know who we are"), "{anonymous}");
    let password = Some(("calico".to_owned(), "wrong".to_owned()));
    let refused = wrong(etcd.endpoint(), |options| options.credentials = password).await;
    assert!(refused.starts_with("it refuses ETCD_USERNAME with ETCD_PASSWORD"), "{refused}");
    let guest = Some(("guest".to_owned(), "word".to_owned()));
    let powerless = wrong(etcd.endpoint(), |options| options.credentials = guest).await;
    assert!(powerless.starts_with("the user of ETCD_USERNAME may not do this"), "{powerless}");

    let store = as_user(&etcd, "calico", "word");
    assert!(store.examine().await.unwrap()[0].found.is_ok());
    store.examine_access(key::RESOURCE_ROOT).await.unwrap();
    let outside = why(store.examine_access("/elsewhere/").await.unwrap_err());
    assert!(outside.contains("may not do this"), "{outside}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_that_is_denied_stops_what_needs_it_and_nothing_else() {
    let Some(etcd) = Etcd::start().await else { return };
    pools(&etcd.store).await;
    // The order matters: with permission for all of it the node gets ready, then one key is closed.
    let config = key::IPAM_CONFIG;
    with_users(&etcd, None).await;
    let store = as_user(&etcd, "calico", "word");
    let node = Node::start(&store, "docker-1").await;
    let container = node.run(&[V4]).await.unwrap();
    let root = etcd_client::ConnectOptions::new().with_user("root", "secret");
    let mut client = etcd_client::Client::connect([etcd.endpoint()], Some(root)).await.unwrap();
    client
        .role_revoke_permission(
            "calico",
            "/calico/",
            Some(etcd_client::RoleRevokePermissionOptions::new().with_range_end("/calico0")),
        )
        .await
        .unwrap();
    for (from, to) in
        [("/calico/".to_owned(), config.to_owned()), (format!("{config}\0"), "/calico0".to_owned())]
    {
        let permission = Permission::new(PermissionType::Readwrite, from).with_range_end(to);
        client.role_grant_permission("calico", permission).await.unwrap();
    }
    // An open watch goes on; the next one is refused, and then each request asks for the key.
    let deadline = Instant::now() + Duration::from_secs(60);
    let fresh = Node::start_without_waiting(&store, "docker-2").await;
    let sentence = loop {
        match fresh.request(V4).await {
            Err(sentence) => break sentence,
            Ok(_) => assert!(Instant::now() < deadline, "it is not denied"),
        }
    };
    assert!(sentence.contains("may not do this"), "{sentence}");
    store.commit(Txn::new().put("/calico/other", "1")).await.expect("other keys are as before");
    node.stop(&container).await.expect("what is known already goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_is_renewed() {
    if !has_openssl() {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    openssl(keys.path(), "genrsa -out jwt.key 2048");
    openssl(keys.path(), "rsa -in jwt.key -pubout -out jwt.pub");
    let name = |name: &str| keys.path().join(name).display().to_string();
    let token =
        format!("jwt,pub-key={},priv-key={},sign-method=RS256,ttl=2s", name("jwt.pub"), name("jwt.key"));
    let Some(etcd) =
        Etcd::start_with(|_| vec!["--auth-token".to_owned(), token.clone()], "http", |_| {}).await
    else {
        return;
    };
    pools(&etcd.store).await;
    with_users(&etcd, None).await;
    let store = as_user(&etcd, "calico", "word");
    let node = Node::start(&store, "docker-1").await;
    let mut containers = vec![node.run(&[V4]).await.unwrap()];
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        containers.push(node.run(&[V4]).await.expect("the token is renewed within the call"));
    }
    for container in &containers {
        node.stop(container).await.unwrap();
    }
}
