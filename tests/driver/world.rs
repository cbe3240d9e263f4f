//! A node with everything that the driver works with, and what must not be left on it.

use crate::docker::FakeDocker;
use crate::host::{TestFirewall, TestHost};
use calico_libnetwork::cluster;
use calico_libnetwork::config::DefaultPool;
use calico_libnetwork::driver::{Drivers, Options, Parts, Scopes};
use calico_libnetwork::gc::Collector;
use calico_libnetwork::ipam::{Facts, audit};
use calico_libnetwork::model::{
    AllocationBlock, EncapMode, IpPoolSpec, IpVersion, NodeName, ProfileSpec, Resource, WorkloadEndpointSpec,
    key,
};
use calico_libnetwork::protocol::{self, Request};
use calico_libnetwork::store::{FaultyStore, MemoryStore, Store, typed};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(crate) type TestStore = FaultyStore<MemoryStore>;

/// One node.
pub(crate) struct World {
    pub(crate) store: Arc<TestStore>,
    pub(crate) host: Arc<TestHost>,
    pub(crate) firewall: Arc<TestFirewall>,
    pub(crate) drivers: Arc<Drivers>,
    pub(crate) docker: FakeDocker,
    options: Options,
}

/// Settings of one machine with the embedded datastore.
pub(crate) fn options() -> Options {
    Options {
        node: NodeName::new("docker-1").unwrap(),
        scopes: Scopes { network: "local", connectivity: "global" },
        create_pools: true,
        create_profiles: true,
        shared_datastore: false,
        veth_mtu: None,
        iface_prefix: "cali".to_owned(),
        nat_outgoing: [true, false],
    }
}

fn default_pool(nat_outgoing: bool) -> DefaultPool {
    DefaultPool {
        cidr: None,
        block_size: if nat_outgoing { 26 } else { 122 },
        nat_outgoing,
        vxlan: EncapMode::Never,
        node_selector: "all()".to_owned(),
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(options()).await
    }

    /// A node with other settings.
    pub(crate) async fn with(options: Options) -> Self {
        Self::on(Arc::new(FaultyStore::new(MemoryStore::new())), options).await
    }

    /// A node on a datastore that others may share.
    pub(crate) async fn on(store: Arc<TestStore>, options: Options) -> Self {
        cluster::ensure_initialized(&*store, &options.node).await.unwrap();
        for (version, nat) in [(IpVersion::V4, true), (IpVersion::V6, false)] {
            let made = cluster::ensure_default_pool(&*store, version, &default_pool(nat), &[]).await.unwrap();
            made.unwrap();
        }
        let (host, firewall) = (Arc::new(TestHost::default()), Arc::new(TestFirewall::default()));
        let drivers = start(&store, &host, &firewall, &options).await.unwrap();
        Self { store, host, firewall, drivers, docker: FakeDocker::start(), options }
    }

    /// The plugin is killed and started again: what it held in memory is gone.
    pub(crate) async fn restart(&mut self) {
        assert_eq!(self.restart_persistently().await, 1, "the first try failed");
    }

    /// The same over faults: it is started until it succeeds. Answers how many tries that took.
    pub(crate) async fn restart_persistently(&mut self) -> usize {
        // The old process is gone first, and its sockets with it.
        let (store, host, firewall) =
            (Arc::new(FaultyStore::new(MemoryStore::new())), Arc::default(), Arc::default());
        let placeholder = start(&store, &host, &firewall, &self.options).await.unwrap();
        let old = std::mem::replace(&mut self.drivers, placeholder);
        assert_eq!(Arc::strong_count(&old), 1, "somebody still uses the old drivers");
        drop(old);
        for tries in 1..10 {
            self.firewall = Arc::new(TestFirewall::default());
            if let Ok(drivers) = start(&self.store, &self.host, &self.firewall, &self.options).await {
                self.drivers = drivers;
                return tries;
            }
        }
        panic!("the drivers never started");
    }

    /// One call of Docker, from its body to the answer's.
    pub(crate) async fn call(&self, method: &str, body: &Value) -> Result<Value, String> {
        call(&self.drivers, method, body).await
    }

    /// A call that must succeed.
    pub(crate) async fn ok(&self, method: &str, body: &Value) -> Value {
        match self.call(method, body).await {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {body}: {error}"),
        }
    }

    /// A call that must fail; its sentence.
    pub(crate) async fn refusal(&self, method: &str, body: &Value) -> String {
        match self.call(method, body).await {
            Ok(answer) => panic!("{method} {body} was answered with {answer}"),
            Err(sentence) => sentence,
        }
    }

    /// A collector that takes nothing that has not been suspect for `grace`.
    pub(crate) fn collector(&self, grace: Duration) -> Collector {
        Collector::new(self.drivers.clone(), self.host.clone(), self.docker.client(), grace)
    }

    /// Two passes of a collector without patience.
    pub(crate) async fn collect(&self) {
        let mut collector = self.collector(Duration::ZERO);
        collector.pass().await.unwrap();
        collector.pass().await.unwrap();
    }

    /// No more faults anywhere.
    pub(crate) fn heal(&self) {
        self.store.heal();
        self.host.faults.heal();
        self.firewall.faults.heal();
    }

    /// Keys below a prefix, without the prefix.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let entries = self.store.inner().list(prefix).await.unwrap().entries;
        entries.into_iter().map(|entry| entry.key.strip_prefix(prefix).unwrap().to_owned()).collect()
    }

    pub(crate) async fn endpoints(&self) -> Vec<Resource<WorkloadEndpointSpec>> {
        let found = typed::list(self.store.inner(), &key::resources::<WorkloadEndpointSpec>()).await.unwrap();
        found.into_iter().map(|endpoint| endpoint.value).collect()
    }

    /// Names and prefixes of all pools.
    pub(crate) async fn pools(&self) -> Vec<Resource<IpPoolSpec>> {
        let found = typed::list(self.store.inner(), &key::resources::<IpPoolSpec>()).await.unwrap();
        found.into_iter().map(|pool| pool.value).collect()
    }

    pub(crate) async fn profiles(&self) -> Vec<Resource<ProfileSpec>> {
        let found = typed::list(self.store.inner(), &key::resources::<ProfileSpec>()).await.unwrap();
        found.into_iter().map(|profile| profile.value).collect()
    }

    /// Every address that is allocated.
    pub(crate) async fn allocated(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for entry in self.store.inner().list(key::BLOCK_ROOT).await.unwrap().entries {
            let block: AllocationBlock = serde_json::from_slice(&entry.value).unwrap();
            let held = block.allocations.iter().enumerate().filter(|(_, held)| held.is_some());
            found.extend(held.map(|(ordinal, _)| nth(block.cidr.base(), ordinal)));
        }
        found
    }

    /// What there is beyond a node without networks; nothing, if all is well.
    pub(crate) async fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        left.extend(self.endpoints().await.iter().map(|endpoint| format!("endpoint {}", endpoint.name())));
        left.extend(self.keys(key::HANDLE_ROOT).await.iter().map(|handle| format!("handle {handle}")));
        left.extend(self.allocated().await.iter().map(|ip| format!("address {ip}")));
        left.extend(self.keys(key::LOCAL_ROOT).await.iter().map(|local| format!("record {local}")));
        left.extend(self.profiles().await.iter().map(|profile| format!("profile {}", profile.name())));
        let pools = self.pools().await;
        let made = pools.iter().filter(|pool| !pool.name().starts_with("default-"));
        left.extend(made.map(|pool| format!("pool {} ({})", pool.name(), pool.spec.cidr)));
        left.extend(self.host.endpoints().iter().map(|link| format!("interface {}", link.host)));
        left.extend(self.firewall.open().keys().map(|iface| format!("open {iface}")));
        left.extend(self.firewall.ports().iter().map(|port| format!("published {port:?}")));
        left.extend(self.audit().await);
        let known: BTreeSet<_> = self.firewall.pools().iter().map(|pool| pool.cidr).collect();
        let there: BTreeSet<_> = pools.iter().map(|pool| pool.spec.cidr).collect();
        left.extend(
            known.symmetric_difference(&there).map(|cidr| format!("NAT and datastore differ in {cidr}")),
        );
        left
    }

    /// (60) What `ipam check` finds wrong with the node's addresses.
    pub(crate) async fn audit(&self) -> Vec<String> {
        let entries = self.store.inner().list(key::CALICO_ROOT).await.unwrap().entries;
        let found = audit(&Facts::of(&entries), SystemTime::now(), Duration::ZERO);
        found.problems().map(|problem| format!("ipam check: {}", problem.text)).collect()
    }

    pub(crate) async fn assert_clean(&self, place: &str) {
        let left = self.leftovers().await;
        assert!(left.is_empty(), "{place}: {left:#?}");
    }
}

/// One call of Docker to any drivers.
pub(crate) async fn call(drivers: &Drivers, method: &str, body: &Value) -> Result<Value, String> {
    let request = decode(method, body.to_string().as_bytes())?;
    let answer = drivers.handle(request).await.map_err(|error| error.to_string())?;
    let answer = serde_json::to_value(&answer).unwrap();
    assert!(answer.is_object(), "{method} was answered with {answer}");
    Ok(answer)
}

pub(crate) fn decode(method: &str, body: &[u8]) -> Result<Request, String> {
    protocol::decode(&format!("/{method}"), body).map_err(|error| error.to_string())
}

async fn start(
    store: &Arc<TestStore>,
    host: &Arc<TestHost>,
    firewall: &Arc<TestFirewall>,
    options: &Options,
) -> Result<Arc<Drivers>, String> {
    let parts =
        Parts { store: store.clone(), local: store.clone(), host: host.clone(), firewall: firewall.clone() };
    Drivers::start(parts, options.clone()).await.map(Arc::new).map_err(|error| error.to_string())
}

fn nth(base: std::net::IpAddr, ordinal: usize) -> String {
    let ordinal = u32::try_from(ordinal).unwrap();
    match base {
        std::net::IpAddr::V4(v4) => std::net::Ipv4Addr::from_bits(v4.to_bits() + ordinal).to_string(),
        std::net::IpAddr::V6(v6) => {
            std::net::Ipv6Addr::from_bits(v6.to_bits() + u128::from(ordinal)).to_string()
        }
    }
}
