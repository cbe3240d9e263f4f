//! `migrate`: the embedded datastore into a real etcd, and back.

use crate::ROOT;
use crate::etcd_server::Etcd;
use crate::world::World;
use calico_libnetwork::store::{EmbeddedStore, Store, Txn};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

const CLUSTER: &str = "/calico/resources/v3/projectcalico.org/clusterinformations/default";
const HANDLE: &str = "/calico/ipam/v2/handle/libnetwork.docker-1.h";

/// What one machine has: every family of keys, and one that is nobody else's business.
fn machine() -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    let mut put = |key: &str, value: &str| drop(keys.insert(key.to_owned(), value.to_owned()));
    put(
        CLUSTER,
        r#"{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"u"},"spec":{"clusterGUID":"aaaa","datastoreReady":true}}"#,
    );
    put(
        &format!("{ROOT}/tiers/default"),
        r#"{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"u"},"spec":{"order":1000000,"defaultAction":"Deny"},"status":{}}"#,
    );
    put(
        &format!("{ROOT}/nodes/docker-1"),
        r#"{"kind":"Node","metadata":{"name":"docker-1","uid":"u"},"spec":{}}"#,
    );
    put(
        &format!("{ROOT}/ippools/a"),
        r#"{"kind":"IPPool","metadata":{"name":"a","uid":"u"},"spec":{"cidr":"10.1.0.0/24","blockSize":29}}"#,
    );
    put(
        &format!("{ROOT}/workloadendpoints/libnetwork/docker--1-libnetwork-libnetwork-e"),
        r#"{"kind":"WorkloadEndpoint","metadata":{"name":"docker--1-libnetwork-libnetwork-e","namespace":"libnetwork"},"spec":{"node":"docker-1","endpoint":"e","ipNetworks":["10.1.0.0/32"]}}"#,
    );
    put(
        "/calico/ipam/v2/assignment/ipv4/block/10.1.0.0-29",
        r#"{"cidr":"10.1.0.0/29","affinity":"host:docker-1","allocations":[0,null,null,null,null,null,null,null],"unallocated":[1,2,3,4,5,6,7],"attributes":[{"handle_id":"libnetwork.docker-1.h","secondary":{"node":"docker-1"}}],"sequenceNumber":1795222303692339349,"sequenceNumberForAllocation":{"0":1795222303692339348},"deleted":false}"#,
    );
    put("/calico/ipam/v2/host/docker-1/ipv4/block/10.1.0.0-29", r#"{"state":"confirmed","deleted":false}"#);
    put(HANDLE, r#"{"block":{"10.1.0.0/29":1},"deleted":false}"#);
    // More than one transaction holds.
    for n in 0..300 {
        put(
            &format!("{ROOT}/globalnetworksets/set-{n}"),
            &format!(
                r#"{{"metadata":{{"name":"set-{n}"}},"spec":{{"nets":["198.51.100.{}/32"]}}}}"#,
                n % 250
            ),
        );
    }
    put("/calico/felix/v2/no-region/host/docker-1/status", "{}");
    keys
}

/// A machine whose plugin is off, and its state file.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(keys: &BTreeMap<String, String>) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        let store = machine.open();
        for chunk in keys.iter().collect::<Vec<_>>().chunks(100) {
            let txn =
                chunk.iter().fold(Txn::new(), |txn, (key, value)| txn.put(key.as_str(), (*value).clone()));
            crate::block_on(store.commit(txn)).unwrap();
        }
        crate::block_on(store.commit(Txn::new().put("/libnetwork/v1/network/n", "its own"))).unwrap();
        machine
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("state.redb")
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(&self.file()).unwrap()
    }

    fn keys(&self) -> BTreeMap<String, String> {
        contents(&self.open())
    }

    fn migrate(&self, etcd: &World, arguments: &[&str]) -> Output {
        migrate(self.folder.path(), Some(&self.file()), etcd, arguments)
    }
}

fn contents(store: &dyn Store) -> BTreeMap<String, String> {
    let listing = crate::block_on(store.list("/calico/")).unwrap();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    listing.entries.iter().map(|entry| (entry.key.clone(), text(&entry.value))).collect()
}

fn migrate(run: &Path, state: Option<&Path>, etcd: &World, arguments: &[&str]) -> Output {
    let url = etcd.etcd.as_ref().map(Etcd::url).unwrap();
    let state = state.map(|file| file.parent().unwrap().display().to_string()).unwrap_or_default();
    let settings =
        [("ETCD_ENDPOINTS", url), ("NODENAME", "docker-1"), ("CALICO_LIBNETWORK_STATE_DIR", state.as_str())];
    crate::run(
        run,
        &settings[..if state.is_empty() { 2 } else { 3 }],
        &[&["migrate"], arguments].concat(),
        "",
    )
}

#[track_caller]
fn text(done: &Output, success: bool) -> String {
    let said = String::from_utf8([done.stdout.clone(), done.stderr.clone()].concat()).unwrap();
    assert_eq!(done.status.success(), success, "{said}");
    said.trim_end().to_owned()
}

fn stored(world: &World) -> BTreeMap<String, String> {
    let listing = world.block_on(async { world.store.list("/calico/").await }).unwrap();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    listing.entries.iter().map(|entry| (entry.key.clone(), text(&entry.value))).collect()
}

fn cluster(keys: &BTreeMap<String, String>) -> Value {
    serde_json::from_str(&keys[CLUSTER]).unwrap()
}

/// Everything that a move is about.
fn moved(keys: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    keys.iter()
        .filter(|(key, _)| key.as_str() != CLUSTER && !key.starts_with("/calico/felix/"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// An etcd without anything in it.
fn empty() -> Option<World> {
    let etcd = World::etcd()?;
    etcd.delete(&format!("{ROOT}/tiers/default"));
    Some(etcd)
}

#[test]
fn a_machine_moves_into_etcd_and_back_and_nothing_is_lost() {
    let Some(etcd) = empty() else { return };
    let machine = Machine::new(&machine());
    let before = machine.keys();

    let tried = text(&machine.migrate(&etcd, &["to-etcd", "--dry-run"]), true);
    assert_eq!(tried, "would copy 307 keys; 0 were there already");
    assert_eq!((stored(&etcd).len(), machine.keys()), (0, before.clone()), "nothing was changed");

    let done = text(&machine.migrate(&etcd, &["to-etcd"]), true);
    assert!(done.starts_with("copied 307 keys; 0 were there already\nNow: "), "{done}");
    assert_eq!(moved(&stored(&etcd)), moved(&before));
    assert_eq!(cluster(&stored(&etcd)), cluster(&before), "open, and the same cluster");
    let left = machine.keys();
    assert_eq!(cluster(&left)["spec"]["datastoreReady"], false, "what was left is closed");
    assert_eq!(cluster(&left)["metadata"]["annotations"]["org.projectcalico.docker.moved-to"], "aaaa");
    assert_eq!(moved(&left), moved(&before));
    assert_eq!(etcd.audit().findings, []);

    // Life goes on in etcd.
    etcd.overwrite(HANDLE, r#"{"block":{"10.1.0.0/29":2},"deleted":false}"#);
    etcd.delete(&format!("{ROOT}/globalnetworksets/set-7"));
    etcd.put(&format!("{ROOT}/globalnetworksets/new"), r#"{"metadata":{"name":"new"},"spec":{}}"#);
    let done = text(&machine.migrate(&etcd, &["to-embedded"]), true);
    assert!(
        done.starts_with("copied 2 keys; 305 were there already; 1 of an earlier move are removed"),
        "{done}"
    );
    assert_eq!(moved(&machine.keys()), moved(&stored(&etcd)));
    assert_eq!(cluster(&machine.keys()), cluster(&before), "open again, and no mark is left");
    assert_eq!(cluster(&stored(&etcd))["spec"]["datastoreReady"], false);
    let own = crate::block_on(async { machine.open().get("/libnetwork/v1/network/n").await }).unwrap();
    assert_eq!(&own.unwrap().value[..], b"its own", "the plugin's own records stay where they are");

    // And once more: what is left in etcd is old now.
    let done = text(&machine.migrate(&etcd, &["to-etcd"]), true);
    assert!(done.starts_with("copied 0 keys; 307 were there already"), "{done}");
    assert_eq!(cluster(&stored(&etcd)), cluster(&before));
}

#[test]
fn what_exists_and_differs_is_never_overwritten_and_nothing_is_moved_then() {
    let Some(etcd) = empty() else { return };
    let machine = Machine::new(&machine());
    let before = machine.keys();
    etcd.put(HANDLE, r#"{"block":{"10.1.0.8/29":1},"deleted":false}"#);
    etcd.put(&format!("{ROOT}/ippools/wide"), r#"{"metadata":{"name":"wide"},"spec":{"cidr":"10.0.0.0/8"}}"#);
    let there = stored(&etcd);
    for arguments in [&["to-etcd"][..], &["to-etcd", "--dry-run"]] {
        let refused = text(&machine.migrate(&etcd, arguments), false);
        assert!(refused.contains("nothing was moved"), "{refused}");
        assert!(refused.contains(&format!("{HANDLE} exists there and is another one")), "{refused}");
        assert!(refused.contains("pool a (10.1.0.0/24) overlaps pool wide (10.0.0.0/8) there"), "{refused}");
        assert_eq!((stored(&etcd), machine.keys()), (there.clone(), before.clone()));
    }
}

#[test]
fn a_move_that_was_interrupted_is_finished_by_the_next() {
    let Some(etcd) = empty() else { return };
    let machine = Machine::new(&machine());
    // Both were closed and a third was copied when it ended.
    let mut information = cluster(&machine.keys());
    information["spec"]["datastoreReady"] = false.into();
    etcd.put(CLUSTER, &information.to_string());
    information["metadata"]["annotations"] = serde_json::json!({"org.projectcalico.docker.moved-to": "aaaa"});
    crate::block_on(machine.open().commit(Txn::new().put(CLUSTER, information.to_string()))).unwrap();
    for (key, value) in moved(&machine.keys()).iter().take(100) {
        etcd.put(key, value);
    }
    let done = text(&machine.migrate(&etcd, &["to-etcd"]), true);
    assert!(done.starts_with("copied 207 keys; 100 were there already"), "{done}");
    assert_eq!(moved(&stored(&etcd)), moved(&machine.keys()));
    assert_eq!(cluster(&stored(&etcd))["spec"]["datastoreReady"], true);
    let abort = text(
        &crate::run(
            machine.folder.path(),
            &[("CALICO_LIBNETWORK_STATE_DIR", &machine.folder.path().display().to_string())],
            &["migrate", "abort"],
            "",
        ),
        true,
    );
    assert_eq!(abort, "the datastore can be used again");
    assert_eq!(cluster(&machine.keys())["spec"]["datastoreReady"], true);
}

#[test]
fn a_machine_joins_a_cluster_that_others_use() {
    let Some(etcd) = empty() else { return };
    let machine = Machine::new(&machine());
    etcd.put(CLUSTER, r#"{"kind":"ClusterInformation","apiVersion":"projectcalico.org/v3","metadata":{"name":"default"},"spec":{"clusterGUID":"bbbb","calicoVersion":"v3.33.0","datastoreReady":true}}"#);
    etcd.put(
        &format!("{ROOT}/nodes/docker-1"),
        r#"{"kind":"Node","metadata":{"name":"docker-1"},"spec":{"bgp":{"ipv4Address":"192.0.2.1/24"}}}"#,
    );
    etcd.put(&format!("{ROOT}/workloadendpoints/libnetwork/docker--2-libnetwork-libnetwork-x"), r#"{"kind":"WorkloadEndpoint","metadata":{"name":"docker--2-libnetwork-libnetwork-x","namespace":"libnetwork"},"spec":{"node":"docker-2","endpoint":"x"}}"#);
    let done = text(&machine.migrate(&etcd, &["to-etcd"]), true);
    assert!(done.contains("nodes/docker-1 stays as it is there"), "{done}");
    let there = stored(&etcd);
    assert_eq!(
        (&cluster(&there)["spec"]["clusterGUID"], &cluster(&there)["spec"]["datastoreReady"]),
        (&"bbbb".into(), &true.into())
    );
    // Others' containers cannot come along.
    let refused = text(&machine.migrate(&etcd, &["to-embedded"]), false);
    assert!(
        refused.contains("node docker-2 has 1 WorkloadEndpoints, which only a shared datastore serves"),
        "{refused}"
    );
    assert_eq!(stored(&etcd), there);
}

#[test]
fn a_running_daemons_data_moves_while_it_runs() {
    let Some(etcd) = empty() else { return };
    let source = World::served();
    for (key, value) in machine().iter().filter(|(key, _)| !key.ends_with("tiers/default")) {
        source.put(key, value);
    }
    let done = text(&migrate(source.host_run(), None, &etcd, &["to-etcd"]), true);
    assert!(done.starts_with("copied 307 keys"), "{done}");
    assert_eq!(moved(&stored(&etcd)), moved(&stored(&source)));
    assert_eq!(cluster(&stored(&source))["spec"]["datastoreReady"], false);
    let refused = text(&migrate(source.host_run(), None, &etcd, &["to-embedded"]), false);
    assert!(refused.contains("the plugin runs and holds its state file"), "{refused}");
    assert_eq!(source.does(&["migrate", "abort"], ""), "the datastore can be used again");
    let nowhere = source.fails(64, &["migrate", "to-etcd"], "");
    assert!(nowhere.contains("which etcd?"), "{nowhere}");
}
