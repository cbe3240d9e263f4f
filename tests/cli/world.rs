//! Where a command's data is: behind the administrator's socket, or in a real etcd.

use calico_libnetwork::ipam::{Audit, Facts, Ipam, audit};
use calico_libnetwork::model::NodeName;
use calico_libnetwork::store::{SharedStore, Txn};
use std::future::Future;
use std::process::Output;
use std::time::{Duration, SystemTime};

use crate::etcd_server::{Etcd, runtime};
use crate::{Daemon, ROOT};

/// Data, and commands that work on it.
pub(crate) struct World {
    pub(crate) store: SharedStore,
    runtime: tokio::runtime::Runtime,
    daemon: Option<Daemon>,
    pub(crate) etcd: Option<Etcd>,
    run: tempfile::TempDir,
}

impl World {
    /// A daemon's administrator's socket over a datastore in memory.
    pub(crate) fn served() -> Self {
        let daemon = Daemon::start();
        let run = tempfile::tempdir().unwrap();
        Self { store: daemon.store.clone(), runtime: runtime(), daemon: Some(daemon), etcd: None, run }
    }

    /// An etcd, and no daemon.
    pub(crate) fn etcd() -> Option<Self> {
        let (etcd, runtime) = (Etcd::start()?, runtime());
        let store = etcd.store(&runtime);
        let run = tempfile::tempdir().unwrap();
        let world = Self { store, runtime, daemon: None, etcd: Some(etcd), run };
        world.put(&format!("{ROOT}/tiers/default"), r#"{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{"name":"default"},"spec":{"order":1000000,"defaultAction":"Deny"},"status":{}}"#);
        Some(world)
    }

    /// Does the same with both.
    pub(crate) fn both(test: impl Fn(&Self)) {
        test(&Self::served());
        if let Some(world) = Self::etcd() {
            test(&world);
        }
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Writes a key that does not exist.
    #[track_caller]
    pub(crate) fn put(&self, key: &str, value: &str) {
        self.block_on(self.store.commit(Txn::new().create(key, value.to_owned()))).unwrap();
    }

    pub(crate) fn delete(&self, key: &str) {
        self.block_on(self.store.commit(Txn::new().remove(key))).unwrap();
    }

    pub(crate) fn overwrite(&self, key: &str, value: &str) {
        self.block_on(self.store.commit(Txn::new().put(key, value.to_owned()))).unwrap();
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let found = self.block_on(async { self.store.get(key).await }).unwrap();
        found.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
    }

    #[track_caller]
    pub(crate) fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(key).unwrap_or_else(|| panic!("there is no {key}"))).unwrap()
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let found = self.block_on(async { self.store.list(prefix).await }).unwrap();
        found.entries.into_iter().map(|entry| entry.key).collect()
    }

    pub(crate) fn ipam(&self, node: &str) -> Ipam {
        Ipam::new(self.store.clone(), NodeName::new(node).unwrap())
    }

    /// What `ipam check --grace 0s` decides.
    pub(crate) fn audit(&self) -> Audit {
        let listing = self.block_on(async { self.store.list("/calico/").await }).unwrap();
        audit(&Facts::of(&listing.entries), SystemTime::now(), Duration::ZERO)
    }

    /// The host's /run of whoever runs commands here.
    pub(crate) fn host_run(&self) -> &std::path::Path {
        self.daemon.as_ref().map_or_else(|| self.run.path(), |daemon| daemon.dir.path())
    }

    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Output {
        match (&self.daemon, &self.etcd) {
            (Some(daemon), _) => daemon.run(arguments, input),
            (None, Some(etcd)) => {
                crate::run(self.run.path(), &[("ETCD_ENDPOINTS", etcd.url())], arguments, input)
            }
            (None, None) => panic!("no data"),
        }
    }

    /// What a command that must work prints.
    #[track_caller]
    pub(crate) fn does(&self, arguments: &[&str], input: &str) -> String {
        let done = self.run(arguments, input);
        let (out, complaint) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{arguments:?}: {out}{complaint}");
        out.trim_end().to_owned()
    }

    /// What a command that must fail with an exit code prints and complains of.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, arguments: &[&str], input: &str) -> String {
        let done = self.run(arguments, input);
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {said}");
        said.trim_end().to_owned()
    }
}
