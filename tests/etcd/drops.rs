//! Packets that a network really drops, in a namespace of the test's own: nobody is told, connections stay established, and
//! the kernel sends again with longer and longer pauses.

use crate::node::{Node, allocated, pool, pools};
use crate::outages::programs;
use crate::server::{Etcd, Members, free_port};
use crate::support::netns;
use calico_libnetwork::model::key;
use calico_libnetwork::store::{EtcdOptions, EtcdStore, Event, Store, StoreError, Txn};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const V4: &str = "CalicoPoolIPv4";

/// A silent connection is probed after 6 s and given up 3 s later; the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(12);

fn nft(script: &str) {
    let done = Command::new("nft").arg(script).output().unwrap();
    assert!(done.status.success(), "nft {script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A second port of an etcd, and a packet filter before it; the etcd's own port stays as it is.
struct Way {
    port: u16,
}

impl Way {
    fn to(client: u16) -> Self {
        let port = free_port();
        let way = Self { port };
        let table = way.table();
        nft(&format!(
            "add table {table}; add chain {table} output {{ type nat hook output priority -100; }}; \
             add rule {table} output tcp dport {port} redirect to :{client}; \
             add chain {table} input {{ type filter hook input priority 0; }}"
        ));
        way
    }

    fn table(&self) -> String {
        format!("ip way{}", self.port)
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn store(&self) -> EtcdStore {
        let mut options = EtcdOptions::new(vec![self.endpoint()]);
        options.request_timeout = Duration::from_secs(2);
        EtcdStore::connect(options)
    }

    /// Drops everything in both directions: packets of a connection are known by the port that it was opened to.
    fn swallow(&self) {
        self.drop_all(&format!("ct original proto-dst {}", self.port));
    }

    /// Drops the packets of the connections that there are; new ones pass. So does a firewall that has lost its state.
    fn swallow_present(&self) {
        self.drop_all(&format!("ct original proto-src {{ {} }}", self.connected().join(", ")));
    }

    /// Drops the packets of connections that match.
    fn drop_all(&self, which: &str) {
        nft(&format!("add rule {} input meta l4proto tcp {which} drop", self.table()));
    }

    fn pass(&self) {
        nft(&format!("flush chain {} input", self.table()));
    }

    /// Local ports of the connections to it, as the kernel lists them: fields 2 and 3 are addresses, 4 is the state.
    fn connected(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let remote = format!("0100007F:{:04X}", self.port);
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = fields.filter(|fields| fields[2] == remote && fields[3] == "01");
        let port =
            |local: &str| u16::from_str_radix(local.split(':').nth(1).unwrap(), 16).unwrap().to_string();
        let ports: Vec<String> = ours.map(|fields| port(fields[1])).collect();
        assert!(!ports.is_empty(), "there is no connection to drop packets of:\n{table}");
        ports
    }
}

async fn put(store: &EtcdStore, name: &str) {
    store.commit(Txn::new().put(format!("/w/{name}"), "x")).await.unwrap();
}

async fn named(watch: &mut BoxStream<'static, Result<Event, StoreError>>) -> String {
    watch.next().await.unwrap().unwrap().key().to_owned()
}

/// A watch that has told of something which another store wrote.
async fn watched(store: &EtcdStore, writer: &EtcdStore) -> BoxStream<'static, Result<Event, StoreError>> {
    let from = store.list("/w/").await.unwrap().revision;
    let mut watch = store.watch("/w/", from);
    put(writer, "0").await;
    assert_eq!(named(&mut watch).await, "/w/0");
    watch
}

#[test]
fn a_watch_whose_connection_is_swallowed_is_noticed_and_goes_on_without_a_gap() {
    for program in programs() {
        netns::run(|| a_watch_is_swallowed(program));
    }
}

async fn a_watch_is_swallowed(program: PathBuf) {
    let Some(etcd) = Etcd::start_version(&program).await else { return };
    let way = Way::to(etcd.client);
    let store = way.store();
    let mut watch = watched(&store, &etcd.store).await;

    way.swallow_present();
    let dropped = Instant::now();
    for name in ["1", "2", "3"] {
        put(&etcd.store, name).await;
    }
    for name in ["/w/1", "/w/2", "/w/3"] {
        assert_eq!(named(&mut watch).await, name);
    }
    assert!(dropped.elapsed() < NOTICED, "it was noticed after {:?}", dropped.elapsed());
    eprintln!(
        "{}: a watch that nothing comes back to was resumed after {:?}",
        program.display(),
        dropped.elapsed()
    );
}

/// As behind a firewall that lets present connections be, and lets no new one in.
#[test]
fn a_watch_that_is_not_taken_again_while_calls_are_answered_is_given_up() {
    for program in programs() {
        netns::run(|| async move {
            let Some(etcd) = Etcd::start_version(&program).await else { return };
            let way = Way::to(etcd.client);
            let store = way.store();
            store.list("/w/").await.unwrap();
            let calls = way.connected();
            let mut watch = watched(&store, &etcd.store).await;
            let of_watch = way.connected().into_iter().find(|port| !calls.contains(port)).unwrap();
            way.drop_all(&format!("ct original proto-src {of_watch}"));
            way.drop_all(&format!("ct original proto-dst {} ct state new", way.port));
            let dropped = Instant::now();
            let error = watch.next().await.unwrap().unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            // 9 s until it is noticed, and two tries of 2 s.
            assert_within("the end of the watch", dropped, Duration::from_secs(17));
            store.get("/w/0").await.unwrap().unwrap();
        });
    }
}

#[test]
fn without_any_packet_calls_end_with_a_sentence_and_nothing_is_lost_when_they_pass_again() {
    for program in programs() {
        netns::run(|| no_packet_passes(program));
    }
}

async fn no_packet_passes(program: PathBuf) {
    let Some(etcd) = Etcd::start_version(&program).await else { return };
    pools(&etcd.store).await;
    let way = Way::to(etcd.client);
    let (store, watcher) = (way.store(), way.store());
    let mut watch = watched(&watcher, &etcd.store).await;
    let node = Node::start(&store, "docker-1").await;
    let first = node.run(&[V4]).await.unwrap();

    way.swallow();
    let dropped = Instant::now();
    let mut calls = 0;
    // Longer than a dead connection takes to be noticed.
    while dropped.elapsed() < NOTICED {
        let asked = Instant::now();
        let sentence = node.run(&[V4]).await.unwrap_err();
        assert!(sentence.contains("the datastore is unavailable: etcd at http://127.0.0.1:"), "{sentence}");
        assert!(asked.elapsed() < Duration::from_secs(8), "it hung for {:?}", asked.elapsed());
        calls += 1;
    }
    let closed = format!("{}ippools/default-ipv4-ippool", key::RESOURCE_ROOT);
    etcd.store.commit(Txn::new().remove(closed)).await.unwrap();
    pool(&etcd.store, "other", &json!({"cidr": "10.99.0.0/24", "blockSize": 28})).await;
    for name in ["1", "2"] {
        put(&etcd.store, name).await;
    }

    way.pass();
    let passed = Instant::now();
    for name in ["/w/1", "/w/2"] {
        assert_eq!(named(&mut watch).await, name);
    }
    let second = loop {
        let started = node.run(&[V4]).await;
        assert!(passed.elapsed() < NOTICED, "the new pool is not known: {started:?}");
        match started {
            Ok(container) if container.addresses[0].1.starts_with("10.99.0.") => break container,
            Ok(container) => node.stop(&container).await.unwrap(),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    eprintln!("{calls} calls failed; all was known {:?} after the first packet", passed.elapsed());
    // What the failed starts may have left is one address each, and the collector's.
    let held = BTreeSet::from_iter(allocated(&etcd.store).await);
    for container in [&first, &second] {
        assert!(held.contains(&container.addresses[0].1), "{container:?} is not in {held:?}");
    }
    assert!(held.len() <= 2 + calls, "{held:?}");
    node.stop(&first).await.unwrap();
    node.stop(&second).await.unwrap();
}

/// Three members, and a store whose ways to them can be closed; it asks the first one first.
struct Cut {
    members: Members,
    ways: Vec<Way>,
    store: EtcdStore,
    watch: BoxStream<'static, Result<Event, StoreError>>,
}

impl Cut {
    /// With a watch that has told of something, and a connection that calls share, both to the first member.
    async fn start(program: &Path) -> Option<Self> {
        let members = Members::start(program).await?;
        let ways: Vec<Way> = members.members.iter().map(|member| Way::to(member.client)).collect();
        let store = EtcdStore::connect(EtcdOptions::new(ways.iter().map(Way::endpoint).collect()));
        let watch = watched(&store, &store).await;
        assert_eq!(ways[0].connected().len(), 2);
        Some(Self { members, ways, store, watch })
    }

    /// Runs a test against each version of etcd: packets to the first member are dropped from the given time on.
    fn each<Fut: Future<Output = ()>>(test: impl Fn(Self, Instant) -> Fut + Copy + Send + 'static) {
        for program in programs() {
            netns::run(move || async move {
                let Some(cut) = Self::start(&program).await else { return };
                cut.ways[0].swallow();
                test(cut, Instant::now()).await;
            });
        }
    }

    /// Another node that is not cut off.
    fn other(&self) -> EtcdStore {
        self.members.store(&[0, 1, 2])
    }
}

/// How long a call may take that meets a member which drops packets: it is silent for 2 s.
const PASSED_OVER: Duration = Duration::from_secs(4);

/// How long one may take that does not; far less on a machine at rest.
const AT_ONCE: Duration = Duration::from_secs(2);

#[track_caller]
fn assert_within(what: &str, since: Instant, limit: Duration) {
    let took = since.elapsed();
    eprintln!("{what}: {took:?}");
    assert!(took < limit, "{what} took {took:?}");
}

async fn timed<T>(what: &str, limit: Duration, call: impl Future<Output = T>) -> T {
    let asked = Instant::now();
    let answer = call.await;
    assert_within(what, asked, limit);
    answer
}

#[test]
fn a_read_finds_a_cut_off_member_silent_and_everything_else_goes_to_another() {
    Cut::each(|mut cut, dropped| async move {
        put(&cut.other(), "1").await;
        let read = timed("a read", PASSED_OVER, cut.store.get("/w/1")).await;
        assert!(read.unwrap().is_some(), "it is behind");
        timed("a write after it", AT_ONCE, put(&cut.store, "2")).await;
        for name in ["/w/1", "/w/2"] {
            assert_eq!(named(&mut cut.watch).await, name);
        }
        assert_within("the watch", dropped, PASSED_OVER + AT_ONCE);
    });
}

#[test]
fn a_write_that_a_cut_off_member_swallows_ends_in_doubt_and_holds_up_no_other() {
    Cut::each(|mut cut, dropped| async move {
        let swallowed = cut.store.commit(Txn::new().create("/w/1", "x"));
        let later = async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            timed("a write that comes later", AT_ONCE, put(&cut.store, "2")).await;
        };
        let (swallowed, ()) = tokio::join!(swallowed, later);
        let sentence = swallowed.unwrap_err().to_string();
        assert!(sentence.contains("no answer within 5 s; the change may still be applied"), "{sentence}");
        assert_within("the write", dropped, Duration::from_secs(7));
        assert!(cut.other().get("/w/1").await.unwrap().is_none(), "it never came to etcd");
        assert_eq!(named(&mut cut.watch).await, "/w/2");
        assert_within("the watch", dropped, Duration::from_secs(7) + AT_ONCE);
    });
}

#[test]
fn an_idle_watch_on_a_cut_off_member_moves_to_another_and_calls_with_it() {
    Cut::each(|mut cut, dropped| async move {
        put(&cut.other(), "1").await;
        assert_eq!(named(&mut cut.watch).await, "/w/1");
        assert_within("the watch", dropped, NOTICED);
        timed("a write after it", AT_ONCE, put(&cut.store, "2")).await;

        // And on, with two of three gone.
        cut.ways[1].swallow();
        let dropped = Instant::now();
        let read = timed("a read", PASSED_OVER, cut.store.get("/w/2")).await;
        assert!(read.unwrap().is_some());
        put(&cut.other(), "3").await;
        for name in ["/w/2", "/w/3"] {
            assert_eq!(named(&mut cut.watch).await, name);
        }
        assert_within("the watch", dropped, PASSED_OVER + AT_ONCE);
    });
}
