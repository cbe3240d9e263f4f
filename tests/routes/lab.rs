//! Hosts, switches, a router, containers.
//!
//! ```text
//! switch one (bridge) --- a, b          192.0.2.0/24, 2001:db8:1::/64
//!      router
//! switch two (bridge) --- c             198.51.100.0/24, 2001:db8:2::/64
//! ```

use crate::support::netns::{Echo, Ip, Namespace, Nic, probe_tcp, probe_udp};
use calico_libnetwork::dataplane::{Dataplane, Options, VxlanNetwork, VxlanNetworks};
use calico_libnetwork::ipam::{AutoAssign, Ipam, Owner};
use calico_libnetwork::model::{Cidr, HandleId, IfaceName, IpVersion, MacAddress, NodeName};
use calico_libnetwork::net::faulty::FaultyHost;
use calico_libnetwork::net::{EndpointLink, Host as _, KernelHost};
use calico_libnetwork::routes::{Network, Parts, Worker};
use calico_libnetwork::store::{MemoryStore, SharedStore, Store, Txn};
use rtnetlink::LinkUnspec;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const ROOT: &str = "/calico/resources/v3/projectcalico.org/";
/// For what must happen, on a machine that may be very busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 4000;

/// What routes through the tunnels of IPv4 and IPv6 contain.
pub(crate) const TUNNELS: [&str; 2] = ["dev vxlan.calico", "dev vxlan-v6.calico"];
/// The same of direct ones.
pub(crate) const UPLINK: [&str; 2] = ["dev eth0", "dev eth0"];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// While its link-local address is in doubt a router asks no neighbour for what it forwards: here nobody doubts.
pub(crate) fn no_doubt(name: &str) {
    crate::support::netns::set_sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0");
}

/// Two switches in the test's own namespace, and the router between them.
pub(crate) struct Lab {
    pub(crate) store: Arc<MemoryStore>,
    _router: Namespace,
}

/// Prefixes of the two subnets.
const SUBNETS: [(&str, &str); 2] = [("192.0.2.", "2001:db8:1::"), ("198.51.100.", "2001:db8:2::")];

/// Plugs one end of a new pair into a switch and gives the other to a namespace.
async fn plug(switch: &str, end: &str, namespace: &Namespace, name: &'static str) {
    let net = Ip::open();
    let port = format!("p-{end}");
    net.veth(&port, end).await;
    let (bridge, index) = (net.index(switch).await.unwrap(), net.index(&port).await.unwrap());
    net.handle
        .link()
        .set(LinkUnspec::new_with_index(index).controller(bridge).build())
        .execute()
        .await
        .unwrap();
    net.up(&port).await;
    namespace.take(end, name).await;
}

impl Lab {
    pub(crate) async fn new() -> Self {
        let (net, router) = (Ip::open(), Namespace::new());
        for (n, name) in ["eth0", "eth1"].into_iter().enumerate() {
            net.bridge(&format!("sw{n}")).await;
            net.up(&format!("sw{n}")).await;
            plug(&format!("sw{n}"), &format!("router{n}"), &router, name).await;
            let (v4, v6) = SUBNETS[n];
            let addresses = [(ip(&format!("{v4}254")), 24), (ip(&format!("{v6}fe")), 64)];
            router.enter_async(move || async move {
                let net = Ip::open();
                for (address, len) in addresses {
                    net.address(name, address, len).await;
                }
                no_doubt(name);
                net.up(name).await;
            });
        }
        router.enter(|| {
            crate::support::netns::set_sysctl("ipv4/ip_forward", "1");
            crate::support::netns::set_sysctl("ipv6/conf/all/forwarding", "1");
        });
        Self { store: Arc::new(MemoryStore::new()), _router: router }
    }

    pub(crate) fn shared(&self) -> SharedStore {
        self.store.clone()
    }

    pub(crate) async fn put(&self, kind: &str, plural: &str, name: &str, spec: Value) {
        let document = json!({"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
            "spec": spec});
        self.raw(&format!("{ROOT}{plural}/{name}"), &document.to_string()).await;
    }

    pub(crate) async fn raw(&self, key: &str, value: &str) {
        self.store.commit(Txn::new().put(key, value.to_owned())).await.unwrap();
    }

    pub(crate) async fn delete(&self, plural: &str, name: &str) {
        self.store.commit(Txn::new().remove(format!("{ROOT}{plural}/{name}"))).await.unwrap();
    }

    /// A pool of each family with small blocks.
    pub(crate) async fn pools(&self, vxlan: &str) {
        for (name, cidr, size) in [("four", "10.65.0.0/16", 29), ("six", "fd65::/112", 125)] {
            self.pool(name, cidr, size, json!({"vxlanMode": vxlan})).await;
        }
    }

    pub(crate) async fn pool(&self, name: &str, cidr: &str, size: u8, more: Value) {
        let mut spec = json!({"cidr": cidr, "blockSize": size, "natOutgoing": true});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.put("IPPool", "ippools", name, spec).await;
    }

    /// The Node resource with both addresses.
    pub(crate) async fn node(&self, name: &str, v4: &str, v6: &str) {
        self.put("Node", "nodes", name, json!({"bgp": {"ipv4Address": v4, "ipv6Address": v6}})).await;
    }

    pub(crate) async fn spec_of(&self, plural: &str, name: &str) -> Value {
        let entry = self.store.get(&format!("{ROOT}{plural}/{name}")).await.unwrap();
        let document: Option<Value> = entry.map(|entry| serde_json::from_slice(&entry.value).unwrap());
        document.map(|document| document["spec"].clone()).unwrap_or_default()
    }

    /// A host on a switch, with its Node resource and its worker.
    pub(crate) async fn host(&self, name: &str, switch: usize, number: u8) -> Host {
        let host = self.bare_host(name, switch, number).await;
        self.node(name, &format!("{}/24", host.v4), &format!("{}/64", host.v6)).await;
        host.work(self.shared())
    }

    /// A host without Node and worker.
    pub(crate) async fn bare_host(&self, name: &str, switch: usize, number: u8) -> Host {
        let ns = Arc::new(Namespace::new());
        let (base4, base6) = SUBNETS[switch];
        let (v4, v6) = (ip(&format!("{base4}{number}")), ip(&format!("{base6}{number:x}")));
        let gateways = [ip(&format!("{base4}254")), ip(&format!("{base6}fe"))];
        plug(&format!("sw{switch}"), &format!("h-{name}"), &ns, "eth0").await;
        ns.enter_async(move || async move {
            let net = Ip::open();
            net.address("eth0", v4, 24).await;
            net.address("eth0", v6, 64).await;
            no_doubt("eth0");
            net.up("eth0").await;
            for (any, gateway) in [ip("0.0.0.0"), ip("::")].into_iter().zip(gateways) {
                net.route(any, 0, Some(gateway), "eth0").await;
            }
            KernelHost::open("/proc/sys/net").await.unwrap().enable_forwarding().await.unwrap();
        });
        let (active, switch) = watch::channel(true);
        Host {
            name: NodeName::new(name).unwrap(),
            ns,
            v4,
            v6,
            worker: None,
            faults: None,
            active,
            switch,
            networks: None,
        }
    }
}

/// A machine with its own worker.
pub(crate) struct Host {
    pub(crate) name: NodeName,
    pub(crate) ns: Arc<Namespace>,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    worker: Option<(CancellationToken, JoinHandle<()>)>,
    /// Through which the worker sees the kernel, if it was started so.
    pub(crate) faults: Option<Arc<FaultyHost>>,
    pub(crate) active: watch::Sender<bool>,
    switch: watch::Receiver<bool>,
    networks: Option<Networks>,
}

/// The VXLAN networks of a worker.
type Networks = watch::Receiver<[Option<Network>; 2]>;

impl Host {
    /// Starts its worker.
    pub(crate) fn work(self, store: SharedStore) -> Self {
        self.work_over_faults(store, &[])
    }

    /// Starts its worker over a kernel that fails when it is told to.
    pub(crate) fn work_over_faults(mut self, store: SharedStore, faults: &'static [usize]) -> Self {
        let (node, active) = (self.name.clone(), self.switch.clone());
        let stop = CancellationToken::new();
        let token = stop.clone();
        let (kernel, networks, thread) = self.ns.enter(move || {
            let (tell, told) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    let kernel = Arc::new(KernelHost::open("/proc/sys/net").await.unwrap());
                    let faulty = Arc::new(FaultyHost::over(kernel));
                    faults.iter().for_each(|n| faulty.fail_call(*n));
                    let ipam = Ipam::new(store.clone(), node.clone());
                    let host = faulty.clone();
                    let worker = Worker::new(Parts { store, host, ipam, node, bird: false, active });
                    tell.send((faulty, worker.networks())).unwrap();
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = worker.run() => {}
                    }
                });
            });
            let (kernel, networks) = told.recv().unwrap();
            (kernel, networks, thread)
        });
        self.faults = Some(kernel);
        self.networks = Some(networks);
        self.worker = Some((stop, thread));
        self
    }

    /// Ends its worker.
    pub(crate) fn stop(&mut self) {
        if let Some((stop, thread)) = self.worker.take() {
            stop.cancel();
            thread.join().unwrap();
        }
        self.faults = None;
    }

    /// Output of `ip` here, by words.
    pub(crate) fn ip(&self, words: &str) -> String {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        self.ns.enter(move || {
            let program = if words[0] == "fdb" { "bridge" } else { "ip" };
            let output = Command::new(program).args(&words).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let gone = ["does not exist", "No such device"].iter().any(|text| said.contains(text));
            assert!(output.status.success() || gone, "{words:?}: {said}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// Our routes, as `ip` prints them, both families.
    pub(crate) fn routes(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for family in ["-4", "-6"] {
            let text = self.ip(&format!("{family} route show proto 80"));
            all.extend(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        all.retain(|line| !line.contains("dev cali") && !line.starts_with("169.254."));
        all.sort();
        all
    }

    /// Waits until a condition on the routes holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        loop {
            let routes = self.routes();
            if holds(&routes) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{}: not so: {what}; routes: {routes:#?}", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a route to a prefix is there that contains a text.
    pub(crate) async fn until_route(&self, to: &str, contains: &str) {
        let begins = format!("{to} ");
        let found = |line: &String| {
            let plain = line.strip_prefix("blackhole ").unwrap_or(line);
            plain.starts_with(&begins) && line.contains(contains)
        };
        self.until(&format!("{to} {contains}"), |routes| routes.iter().any(found)).await;
    }

    /// Waits until the routes to a container's blocks are there, of IPv4 and of IPv6, that contain these texts.
    pub(crate) async fn until_routes(&self, to: &Container, contain: [&str; 2]) {
        for (version, contains) in [IpVersion::V4, IpVersion::V6].into_iter().zip(contain) {
            self.until_route(&to.block(version), contains).await;
        }
    }

    /// A container with addresses that IPAM chooses, one of each family.
    pub(crate) async fn container(&self, lab: &Lab, number: u8) -> Container {
        let ipam = Ipam::new(lab.shared(), self.name.clone());
        let mut addresses = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let request = AutoAssign { version, pool: None, within: None, owner: owner(&self.name, number) };
            addresses.push(ipam.auto_assign(&request).await.unwrap());
        }
        self.container_at(addresses, number)
    }

    /// A container with an address of another node's block.
    pub(crate) async fn borrower(&self, lab: &Lab, number: u8, addresses: Vec<IpAddr>) -> Container {
        let ipam = Ipam::new(lab.shared(), self.name.clone());
        for address in &addresses {
            ipam.assign(*address, None, &owner(&self.name, number)).await.unwrap();
        }
        self.container_at(addresses, number)
    }

    pub(crate) fn container_at(&self, addresses: Vec<IpAddr>, number: u8) -> Container {
        let endpoint = EndpointLink {
            host: IfaceName::new(&format!("cali{number:011}")).unwrap(),
            temp: IfaceName::new(&format!("temp{number:011}")).unwrap(),
            mac: MacAddress([2, 0, 0, 0, 0, number]),
            mtu: 1400,
            alias: format!("calico-libnetwork:{number}"),
            addresses: addresses.clone(),
            gateway_v6: Some("fe80::1".parse().unwrap()),
            siblings: false,
        };
        let ns = Arc::new(Namespace::new());
        let inner = ns.clone();
        self.ns.enter_async(move || async move {
            let kernel = KernelHost::open("/proc/sys/net").await.unwrap();
            kernel.ensure_endpoint(&endpoint).await.unwrap();
            inner.take(endpoint.temp.as_str(), "eth0").await;
        });
        let nic = Nic {
            name: "eth0",
            addresses: addresses.clone(),
            next_hops: vec![ip("169.254.1.1"), ip("fe80::1")],
            default: true,
        };
        ns.enter_async(move || async move { nic.configure().await });
        let echoes = {
            let addresses = addresses.clone();
            ns.enter(move || addresses.into_iter().map(|address| Echo::start(address, PORT)).collect())
        };
        Container { addresses, ns, _echoes: echoes }
    }

    /// Puts our packet filter and NAT in force here, with what the worker knows of VXLAN, until what is returned is
    /// dropped.
    pub(crate) fn filter(&self) -> Filter {
        let stop = CancellationToken::new();
        let token = stop.clone();
        let networks = self.networks.clone().unwrap();
        let thread = self.ns.enter(move || {
            let (tell, told) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    let (dataplane, worker) = Dataplane::new(Options::default());
                    let stopped = token.clone();
                    let ensured = async move {
                        let mut networks = networks;
                        dataplane.set_vxlan(vxlan(&networks.borrow_and_update())).await.unwrap();
                        dataplane.ensure().await.unwrap();
                        tell.send(()).unwrap();
                        while let Some(Ok(())) = stopped.run_until_cancelled(networks.changed()).await {
                            let now = vxlan(&networks.borrow_and_update());
                            dataplane.set_vxlan(now).await.unwrap();
                        }
                    };
                    tokio::join!(ensured, worker.run(token));
                });
            });
            told.recv().unwrap();
            thread
        });
        Filter { stop, thread: Some(thread) }
    }

    /// Asks a container from one address of the host: the source that it saw.
    pub(crate) fn asks_under(&self, from: IpAddr, to: &Container) -> std::io::Result<IpAddr> {
        let to = SocketAddr::new(to.address(IpVersion::of(from)), PORT);
        self.ns.enter(move || probe_udp(from, to))
    }

    /// Asks a container from the host itself: the source that it saw.
    pub(crate) fn asks(&self, to: &Container, version: IpVersion) -> std::io::Result<IpAddr> {
        let to = SocketAddr::new(to.address(version), PORT);
        let any = if to.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
        self.ns.enter(move || probe_udp(any, to))
    }
}

fn vxlan([v4, v6]: &[Option<Network>; 2]) -> VxlanNetworks {
    let of = |network: &Option<Network>| {
        let Network { port, vni, senders } = network.clone()?;
        Some(VxlanNetwork { port, vni, peers: senders })
    };
    VxlanNetworks { v4: of(v4), v6: of(v6) }
}

/// Our packet filter on a host.
pub(crate) struct Filter {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn owner(node: &NodeName, number: u8) -> Owner {
    let id = uuid::Uuid::new_v4().simple().to_string();
    Owner {
        handle: HandleId::new(&format!("libnetwork.{node}.{number}.{id}")).unwrap(),
        attributes: BTreeMap::new(),
    }
}

/// A container that answers.
pub(crate) struct Container {
    pub(crate) addresses: Vec<IpAddr>,
    ns: Arc<Namespace>,
    _echoes: Vec<Echo>,
}

impl Container {
    pub(crate) fn address(&self, version: IpVersion) -> IpAddr {
        *self.addresses.iter().find(|ip| IpVersion::of(**ip) == version).unwrap()
    }

    /// Runs something in it.
    pub(crate) fn enter<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.ns.enter(job)
    }

    pub(crate) fn block(&self, version: IpVersion) -> String {
        Cidr::masking(self.address(version), if version == IpVersion::V4 { 29 } else { 125 }).to_string()
    }

    /// Asks another container by UDP and TCP: whether it saw this one's own address each time.
    pub(crate) fn reaches(&self, other: &Self, version: IpVersion) -> bool {
        let (from, to) = (self.address(version), SocketAddr::new(other.address(version), PORT));
        let seen = self.ns.enter(move || [probe_udp(from, to), probe_tcp(from, to)]);
        seen.iter().all(|seen| seen.as_ref().is_ok_and(|seen| *seen == from))
    }
}

/// Every container reaches every other, in both families.
pub(crate) fn all_reach_all(containers: &[&Container]) {
    for (n, from) in containers.iter().enumerate() {
        for (m, to) in containers.iter().enumerate().filter(|(m, _)| *m != n) {
            for version in [IpVersion::V4, IpVersion::V6] {
                assert!(from.reaches(to, version), "{version}: container {n} does not reach {m}");
            }
        }
    }
}
