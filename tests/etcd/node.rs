//! A node over an etcd: the driver as the daemon builds it, a host and a packet filter in memory.

use crate::host::{TestFirewall, TestHost};
use calico_libnetwork::app::replicate;
use calico_libnetwork::cluster;
use calico_libnetwork::driver::{Drivers, Options, Parts, Scopes};
use calico_libnetwork::ipam;
use calico_libnetwork::model::{AllocationBlock, NodeName, key};
use calico_libnetwork::protocol;
use calico_libnetwork::store::{EtcdStore, MemoryStore, ReplicaStore, SharedStore, Store, Txn};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A new ID of 64 hex digits. The number comes first: interface names have eleven of them.
fn new_id() -> String {
    format!("{:08x}{}", NEXT.fetch_add(1, Ordering::Relaxed), "ab".repeat(28))
}

/// One node.
pub(crate) struct Node {
    pub(crate) drivers: Arc<Drivers>,
    pub(crate) network: String,
}

/// A container as its engine remembers it.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    endpoint: String,
    /// PoolID and address.
    pub(crate) addresses: Vec<(String, String)>,
}

/// A pool, as an operator makes one.
pub(crate) async fn pool(store: &dyn Store, name: &str, spec: &Value) {
    let document = json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec});
    let key = format!("{}ippools/{name}", key::RESOURCE_ROOT);
    store.commit(Txn::new().put(key, document.to_string())).await.unwrap();
}

/// A pool for each IP version.
pub(crate) async fn pools(store: &dyn Store) {
    pool(store, "default-ipv4-ippool", &json!({"cidr": "10.40.0.0/16", "blockSize": 26})).await;
    pool(store, "default-ipv6-ippool", &json!({"cidr": "fd40::/112", "blockSize": 122})).await;
}

impl Node {
    /// Starts a node that knows everything it is to know, with one dual-stack network.
    pub(crate) async fn start(store: &EtcdStore, name: &str) -> Self {
        let replica = Self::replica(store, name);
        replica.in_step().await;
        Self::start_on(replica, name).await
    }

    /// The same, though what is to be kept in memory cannot be read.
    pub(crate) async fn start_without_waiting(store: &EtcdStore, name: &str) -> Self {
        Self::start_on(Self::replica(store, name), name).await
    }

    fn replica(store: &EtcdStore, name: &str) -> Arc<ReplicaStore> {
        replicate(Arc::new(store.clone()), &NodeName::new(name).unwrap())
    }

    async fn start_on(replica: Arc<ReplicaStore>, name: &str) -> Self {
        let node = NodeName::new(name).unwrap();
        cluster::ensure_initialized(&*replica, &node).await.unwrap();
        let drivers = Self::drivers(replica, node).await;
        let mut made = Self { drivers, network: String::new() };
        made.network = made.create_network().await;
        made
    }

    async fn drivers(store: SharedStore, node: NodeName) -> Arc<Drivers> {
        let options = Options {
            node,
            scopes: Scopes { network: "local", connectivity: "global" },
            create_pools: false,
            create_profiles: true,
            shared_datastore: true,
            veth_mtu: None,
            iface_prefix: "cali".to_owned(),
            nat_outgoing: [true, false],
        };
        let parts = Parts {
            store,
            local: Arc::new(MemoryStore::new()),
            host: Arc::new(TestHost::default()),
            firewall: Arc::new(TestFirewall::default()),
        };
        Arc::new(Drivers::start(parts, options).await.unwrap())
    }

    pub(crate) async fn call(&self, method: &str, body: &Value) -> Result<Value, String> {
        let request = protocol::decode(&format!("/{method}"), body.to_string().as_bytes())
            .map_err(|error| error.to_string())?;
        let answer = self.drivers.handle(request).await.map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(&answer).unwrap())
    }

    async fn create_network(&self) -> String {
        let id = new_id();
        let v4 =
            json!([{"AddressSpace": "CalicoAddressSpace", "Pool": "0.0.0.0/0", "Gateway": "169.254.1.1/32"}]);
        let v6 = json!([{"AddressSpace": "CalicoAddressSpace", "Pool": "::/0", "Gateway": "fe80::1/128"}]);
        let body = json!({"NetworkID": id, "IPv4Data": v4, "IPv6Data": v6,
            "Options": {"com.docker.network.enable_ipv6": true, "com.docker.network.generic": {}}});
        self.call("NetworkDriver.CreateNetwork", &body).await.unwrap();
        id
    }

    pub(crate) async fn request(&self, pool: &str) -> Result<String, String> {
        let body = json!({"PoolID": pool, "Address": "", "Options": {}});
        let answer = self.call("IpamDriver.RequestAddress", &body).await?;
        Ok(answer["Address"].as_str().unwrap().split('/').next().unwrap().to_owned())
    }

    pub(crate) async fn release(&self, pool: &str, address: &str) -> Result<(), String> {
        let body = json!({"PoolID": pool, "Address": address});
        self.call("IpamDriver.ReleaseAddress", &body).await.map(drop)
    }

    /// `docker run`, with an address of each of these pools. A failure is followed by what an engine sends then.
    pub(crate) async fn run(&self, pools: &[&str]) -> Result<Container, String> {
        let mut container = Container { endpoint: new_id(), addresses: vec![] };
        let started = self.run_inner(pools, &mut container).await;
        if started.is_err() {
            let body = json!({"NetworkID": self.network, "EndpointID": container.endpoint});
            drop(self.call("NetworkDriver.DeleteEndpoint", &body).await);
            for (pool, address) in &container.addresses {
                drop(self.release(pool, address).await);
            }
        }
        started.map(|()| container)
    }

    async fn run_inner(&self, pools: &[&str], container: &mut Container) -> Result<(), String> {
        let mut interface = json!({"Address": "", "AddressIPv6": "", "MacAddress": ""});
        for pool in pools {
            let address = self.request(pool).await?;
            let (field, bits) = if address.contains(':') { ("AddressIPv6", 128) } else { ("Address", 32) };
            interface[field] = json!(format!("{address}/{bits}"));
            container.addresses.push(((*pool).to_owned(), address));
        }
        let body = json!({"NetworkID": self.network, "EndpointID": container.endpoint, "Interface": interface,
            "Options": {}});
        self.call("NetworkDriver.CreateEndpoint", &body).await?;
        let body = json!({"NetworkID": self.network, "EndpointID": container.endpoint,
            "SandboxKey": format!("/run/docker/netns/{}", &container.endpoint[..12]), "Options": {}});
        self.call("NetworkDriver.Join", &body).await.map(drop)
    }

    /// `docker stop`.
    pub(crate) async fn stop(&self, container: &Container) -> Result<(), String> {
        let body = json!({"NetworkID": self.network, "EndpointID": container.endpoint});
        self.call("NetworkDriver.Leave", &body).await?;
        self.call("NetworkDriver.DeleteEndpoint", &body).await?;
        for (pool, address) in &container.addresses {
            self.release(pool, address).await?;
        }
        Ok(())
    }
}

/// Every address that is allocated, and a panic if one is twice.
pub(crate) async fn allocated(store: &EtcdStore) -> Vec<String> {
    let mut found = Vec::new();
    for entry in store.list(key::BLOCK_ROOT).await.unwrap().entries {
        let block: AllocationBlock = serde_json::from_slice(&entry.value).unwrap();
        let block = ipam::block::Block::open(block).unwrap();
        found.extend(block.allocations().map(|allocation| allocation.ip.to_string()));
    }
    found
}
