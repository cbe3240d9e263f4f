//! The Go plugin (`projectcalico/libnetwork-plugin` at its last commit) as an engine and etcd know it: two v1 sockets, a
//! bare veth pair for each container, and what it writes. No Felix is beside it, so its containers have no connection.

use crate::engine::Engine;
use calico_libnetwork::store::{EtcdOptions, EtcdStore, Store, Txn};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, oneshot};

/// Where v3 resources are.
pub(crate) const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
/// The pools of the administrator, one for each IP version.
pub(crate) const POOLS: [(&str, &str); 2] = [("front-end", "10.44.0.0/24"), ("front-end-v6", "fd00:44::/64")];

const NO_POOL: &str = "The requested subnet must match the CIDR of a configured Calico IP Pool.";

/// What the node is called in Calico.
pub(crate) fn node_name(engine: &Engine) -> String {
    engine.on_host(&["hostname"]).to_lowercase()
}

/// Does something in the network namespace of the host, with its etcd.
pub(crate) fn at_etcd<T, F, Fut>(engine: &Engine, job: F) -> T
where
    T: Send,
    F: FnOnce(EtcdStore) -> Fut + Send,
    Fut: Future<Output = T>,
{
    let namespace = namespace(engine);
    std::thread::scope(|scope| {
        let entered = scope.spawn(move || inside(&namespace, || job(store())));
        entered.join().unwrap()
    })
}

fn store() -> EtcdStore {
    EtcdStore::connect(EtcdOptions::new(vec![crate::etcd::Etcd::URL.to_owned()]))
}

fn namespace(engine: &Engine) -> File {
    File::open(format!("/proc/{}/ns/net", host_pid(engine))).unwrap()
}

fn host_pid(engine: &Engine) -> String {
    std::fs::read_to_string(engine.dir().join("pid")).unwrap().trim().to_owned()
}

fn inside<T, Fut: Future<Output = T>>(namespace: &File, job: impl FnOnce() -> Fut) -> T {
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { job().await })
}

/// It serves until it is killed.
pub(crate) struct GoPlugin {
    stop: oneshot::Sender<()>,
    plugin: Arc<Mutex<Plugin>>,
    thread: JoinHandle<()>,
}

impl GoPlugin {
    /// Starts it, with a cluster as `calicoctl` of its time left it. `scope` is what the engine is told.
    pub(crate) fn start(engine: &Engine, scope: &'static str) -> Self {
        let (node, namespace) = (node_name(engine), namespace(engine));
        let folder = format!("/proc/{}/root/run/docker/plugins", host_pid(engine));
        std::fs::create_dir_all(&folder).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            inside(&namespace, || async {
                let plugin = Plugin {
                    node,
                    scope,
                    ill: false,
                    store: store(),
                    taken: [BTreeSet::new(), BTreeSet::new()],
                };
                plugin.cluster().await;
                let plugin = Arc::new(Mutex::new(plugin));
                for (name, implements) in [("calico", "NetworkDriver"), ("calico-ipam", "IpamDriver")] {
                    let listener = UnixListener::bind(format!("{folder}/{name}.sock")).unwrap();
                    tokio::spawn(serve(listener, implements, plugin.clone()));
                }
                ready.send(plugin).unwrap();
                let _ = stopped.await;
            });
        });
        let plugin = is_ready.recv().unwrap();
        Self { stop, plugin, thread }
    }

    /// From now on every call fails and does nothing, as when its etcd is away.
    pub(crate) fn fall_ill(&self) {
        self.plugin.blocking_lock().ill = true;
    }

    /// As `kill -9` of its container: its sockets stay as files that nobody listens on.
    pub(crate) fn kill(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

async fn serve(listener: UnixListener, implements: &'static str, plugin: Arc<Mutex<Plugin>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(talk(BufReader::new(stream), implements, plugin.clone()));
    }
}

/// One connection of the engine, which keeps it open.
async fn talk(mut stream: BufReader<UnixStream>, implements: &'static str, plugin: Arc<Mutex<Plugin>>) {
    while let Some((call, body)) = request(&mut stream).await {
        let answer = match call.as_str() {
            "Plugin.Activate" => Ok(json!({"Implements": [implements]})),
            call => plugin.lock().await.answer(call, &body).await,
        };
        let (status, body) = match answer {
            Ok(answer) => ("200 OK", answer),
            Err(sentence) => ("500 Internal Server Error", json!({"Err": sentence})),
        };
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/vnd.docker.plugins.v1+json\r\n");
        let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await.unwrap();
    }
}

async fn request(stream: &mut BufReader<UnixStream>) -> Option<(String, Value)> {
    let (mut call, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if let Some(path) = line.strip_prefix("POST /") {
            path.split(' ').next()?.clone_into(&mut call);
        } else if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((call, serde_json::from_slice(&body).unwrap_or_default()))
}

struct Plugin {
    node: String,
    scope: &'static str,
    ill: bool,
    store: EtcdStore,
    /// Ordinals of the first block of each pool.
    taken: [BTreeSet<u8>; 2],
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let (uid, time) = (uuid::Uuid::new_v4().to_string(), "2018-06-01T10:00:00Z");
    json!({"kind": kind, "apiVersion": "projectcalico.org/v3", "spec": spec,
        "metadata": {"name": name, "uid": uid, "creationTimestamp": time}})
}

fn text<'a>(body: &'a Value, pointer: &str) -> &'a str {
    body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn ip(arguments: &[&str]) -> String {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The word after another one in what `ip` prints.
fn word_after(printed: &str, before: &str) -> Option<String> {
    printed.split_whitespace().skip_while(|word| *word != before).nth(1).map(str::to_owned)
}

impl Plugin {
    async fn put(&self, key: &str, value: &Value) {
        self.store.commit(Txn::new().put(key, value.to_string())).await.unwrap();
    }

    async fn get(&self, key: &str) -> Option<Value> {
        let entry = self.store.get(key).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    async fn cluster(&self) {
        let information = json!({"clusterGUID": "ae534276a3fe410f8f56ebe68208b849", "clusterType": "",
            "calicoVersion": "v3.1.3", "datastoreReady": true});
        let node = json!({"bgp": {"ipv4Address": "198.51.100.1/24"}});
        for (kind, plural, name, spec) in [
            ("ClusterInformation", "clusterinformations", "default", &information),
            ("Node", "nodes", self.node.as_str(), &node),
        ] {
            self.put(&format!("{RESOURCES}{plural}/{name}"), &object(kind, name, spec)).await;
        }
        for (name, cidr) in POOLS {
            let spec = json!({"cidr": cidr, "ipipMode": "Never", "natOutgoing": true});
            self.put(&format!("{RESOURCES}ippools/{name}"), &object("IPPool", name, &spec)).await;
        }
    }

    async fn answer(&mut self, call: &str, body: &Value) -> Result<Value, String> {
        if self.ill {
            return Err("etcd cluster is unavailable or misconfigured".to_owned());
        }
        match call {
            "NetworkDriver.GetCapabilities" => Ok(json!({"Scope": self.scope})),
            "IpamDriver.GetDefaultAddressSpaces" => {
                Ok(json!({"LocalDefaultAddressSpace": "CalicoLocalAddressSpace",
                    "GlobalDefaultAddressSpace": "CalicoGlobalAddressSpace"}))
            }
            "IpamDriver.RequestPool" => request_pool(body),
            "IpamDriver.RequestAddress" => self.request_address(body).await,
            "IpamDriver.ReleaseAddress" => {
                self.release_address(text(body, "/Address")).await;
                Ok(json!({}))
            }
            "NetworkDriver.CreateNetwork" => self.annotate(body).await,
            "NetworkDriver.CreateEndpoint" => self.create_endpoint(body).await,
            "NetworkDriver.DeleteEndpoint" => {
                let key = self.endpoint_key(text(body, "/EndpointID"));
                self.store.commit(Txn::new().remove(key)).await.unwrap();
                Ok(json!({}))
            }
            "NetworkDriver.Join" => Ok(self.join(text(body, "/EndpointID")).await),
            "NetworkDriver.Leave" => {
                ip(&["link", "delete", &format!("cali{}", &text(body, "/EndpointID")[..11])]);
                Ok(json!({}))
            }
            _ => Ok(json!({})),
        }
    }

    async fn request_address(&mut self, body: &Value) -> Result<Value, String> {
        let id = text(body, "/PoolID");
        let pool = match id {
            "CalicoPoolIPv4" => 0,
            "CalicoPoolIPv6" => 1,
            name => POOLS
                .iter()
                .position(|(pool, _)| *pool == name)
                .ok_or_else(|| format!("Invalid Pool - {name}"))?,
        };
        let ordinal = (0..64).find(|ordinal| !self.taken[pool].contains(ordinal)).unwrap();
        self.taken[pool].insert(ordinal);
        self.write_block(pool).await;
        let address =
            if pool == 0 { format!("10.44.0.{ordinal}/32") } else { format!("fd00:44::{ordinal:x}/128") };
        Ok(json!({"Address": address}))
    }

    async fn release_address(&mut self, address: &str) {
        let (pool, ordinal) = match address.strip_prefix("fd00:44::") {
            Some(rest) => (1, u8::from_str_radix(rest, 16).unwrap_or(0)),
            None => (0, address.rsplit('.').next().unwrap().parse().unwrap()),
        };
        self.taken[pool].remove(&ordinal);
        self.write_block(pool).await;
    }

    /// An allocation names nobody.
    async fn write_block(&self, pool: usize) {
        let (version, cidr) = [("ipv4", "10.44.0.0/26"), ("ipv6", "fd00:44::/122")][pool];
        let taken = |ordinal: &u8| self.taken[pool].contains(ordinal);
        let allocations: Vec<Value> =
            (0..64).map(|n| if taken(&n) { json!(0) } else { Value::Null }).collect();
        let free: Vec<u8> = (0..64).filter(|n| !taken(n)).collect();
        let block = json!({"cidr": cidr, "affinity": format!("host:{}", self.node), "strictAffinity": false,
            "allocations": allocations, "unallocated": free,
            "attributes": [{"handle_id": null, "secondary": null}]});
        let name = cidr.replace('/', "-");
        self.put(&format!("/calico/ipam/v2/assignment/{version}/block/{name}"), &block).await;
        let claim = format!("/calico/ipam/v2/host/{}/{version}/block/{name}", self.node);
        self.put(&claim, &json!({"state": "confirmed"})).await;
    }

    async fn annotate(&self, body: &Value) -> Result<Value, String> {
        let of = |pointer: &str| body[pointer].as_array().cloned().unwrap_or_default();
        if of("IPv4Data").iter().any(|data| data["Gateway"] != "0.0.0.0/0") {
            return Err("Non-Calico IPAM driver is used".to_owned());
        }
        for data in of("IPv4Data").iter().chain(&of("IPv6Data")) {
            for (name, _) in POOLS.iter().filter(|(_, cidr)| data["Pool"] == *cidr) {
                let key = format!("{RESOURCES}ippools/{name}");
                let mut pool = self.get(&key).await.unwrap();
                pool["metadata"]["annotations"] =
                    json!({"org.projectcalico.label.network.ID": body["NetworkID"]});
                self.put(&key, &pool).await;
            }
        }
        Ok(json!({}))
    }

    fn endpoint_name(&self, id: &str) -> String {
        format!("{}-libnetwork-libnetwork-{id}", self.node.replace('-', "--"))
    }

    fn endpoint_key(&self, id: &str) -> String {
        format!("{RESOURCES}workloadendpoints/libnetwork/{}", self.endpoint_name(id))
    }

    async fn create_endpoint(&self, body: &Value) -> Result<Value, String> {
        let mut network = None;
        for (name, _) in POOLS {
            let pool = self.get(&format!("{RESOURCES}ippools/{name}")).await.unwrap();
            if pool["metadata"]["annotations"]["org.projectcalico.label.network.ID"] == body["NetworkID"] {
                network = network.or(Some(name));
            }
        }
        let name = network.ok_or(NO_POOL)?;
        let profile = format!("{RESOURCES}profiles/{name}");
        if self.get(&profile).await.is_none() {
            let spec = json!({
                "ingress": [{"action": "Allow", "source": {"selector": format!("has({name})")}, "destination": {}}],
                "egress": [{"action": "Allow", "source": {}, "destination": {}}]});
            self.put(&profile, &object("Profile", name, &spec)).await;
        }
        let id = text(body, "/EndpointID");
        let addresses: Vec<&str> = ["/Interface/Address", "/Interface/AddressIPv6"]
            .map(|pointer| text(body, pointer))
            .into_iter()
            .filter(|address| !address.is_empty())
            .collect();
        let spec = json!({"orchestrator": "libnetwork", "workload": "libnetwork", "node": self.node, "endpoint": id,
            "ipNetworks": addresses, "profiles": [name], "interfaceName": format!("cali{}", &id[..11])});
        let mut endpoint = object("WorkloadEndpoint", &self.endpoint_name(id), &spec);
        endpoint["metadata"]["namespace"] = json!("libnetwork");
        endpoint["metadata"]["labels"] = json!({"projectcalico.org/namespace": "libnetwork",
            "projectcalico.org/orchestrator": "libnetwork"});
        self.put(&self.endpoint_key(id), &endpoint).await;
        Ok(json!({"Interface": {}}))
    }

    async fn join(&self, id: &str) -> Value {
        let (host, temp) = (format!("cali{}", &id[..11]), format!("temp{}", &id[..11]));
        ip(&["link", "add", &host, "type", "veth", "peer", "name", &temp]);
        ip(&["link", "set", &temp, "up"]);
        ip(&["link", "set", &host, "up"]);
        let key = self.endpoint_key(id);
        let mut endpoint = self.get(&key).await.unwrap();
        endpoint["spec"]["mac"] =
            json!(word_after(&ip(&["-o", "link", "show", &temp]), "link/ether").unwrap());
        self.put(&key, &endpoint).await;
        let connected = |hop: &str| json!({"Destination": hop, "RouteType": 1, "NextHop": ""});
        let mut answer = json!({"InterfaceName": {"SrcName": temp, "DstPrefix": "cali"},
            "Gateway": "169.254.1.1", "StaticRoutes": [connected("169.254.1.1/32")]});
        let six = ip(&["-6", "-o", "address", "show", "dev", &host, "scope", "link"]);
        if let Some(hop) = word_after(&six, "inet6").as_deref().and_then(|cidr| cidr.split('/').next())
            && endpoint["spec"]["ipNetworks"].to_string().contains(':')
        {
            answer["GatewayIPv6"] = json!(hop);
            let routes = answer["StaticRoutes"].as_array_mut().unwrap();
            routes.push(connected(&format!("{hop}/128")));
        }
        answer
    }
}

fn request_pool(body: &Value) -> Result<Value, String> {
    let v6 = body["V6"] == true;
    let gateway = if v6 { "::/0" } else { "0.0.0.0/0" };
    let data = json!({"com.docker.network.gateway": gateway});
    if !text(body, "/SubPool").is_empty() {
        return Err("Calico IPAM does not support sub pool configuration".to_owned());
    }
    let (id, pool) = match text(body, "/Pool") {
        "" => (if v6 { "CalicoPoolIPv6" } else { "CalicoPoolIPv4" }, gateway),
        wanted => *POOLS.iter().find(|(_, cidr)| *cidr == wanted).ok_or(NO_POOL)?,
    };
    Ok(json!({"PoolID": id, "Pool": pool, "Data": data}))
}
