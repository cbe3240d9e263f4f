//! A host with containers a, b and c and a machine x outside, each a network namespace, and the dataplane following a
//! policy graph, whose documents a test writes.

use crate::nsrun::{inside, run, try_run};
use calico_libnetwork::dataplane::{Dataplane, DataplaneError, Options};
use calico_libnetwork::model::IfaceName;
use calico_libnetwork::policy::{Changes, Graph, Update};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "x"];
const ROOT: &str = "/calico/resources/v3/projectcalico.org/";

pub(crate) type Documents = BTreeMap<String, Value>;

pub(crate) fn address(name: &str, family: u8) -> IpAddr {
    let text = match (name, family) {
        ("a", 4) => "10.65.0.1",
        ("b", 4) => "10.65.0.2",
        ("c", 4) => "10.65.0.3",
        ("x", 4) => "192.0.2.2",
        ("host", 4) => "192.0.2.1",
        ("a", _) => "fd65::1",
        ("b", _) => "fd65::2",
        ("c", _) => "fd65::3",
        ("x", _) => "2001:db8::2",
        _ => "2001:db8::1",
    };
    text.parse().unwrap()
}

/// Ports on which everybody answers, by TCP and UDP.
pub(crate) const PORTS: [u16; 8] = [80, 81, 90, 443, 1500, 8001, 8002, 8003];

fn lines(script: &str) {
    script.lines().map(str::trim).filter(|l| !l.is_empty()).for_each(|line| drop(run(line)));
}

fn namespace(name: &str, host_end: &str) {
    lines(&format!(
        "ip netns add {name}
        ip link add {host_end} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {name}
        nsenter --net=/run/netns/{name} ip link set lo up
        nsenter --net=/run/netns/{name} sysctl -qw net.ipv6.conf.eth0.accept_dad=0
        nsenter --net=/run/netns/{name} sysctl -qw net.ipv4.ping_group_range='0 0'
        nsenter --net=/run/netns/{name} ip link set eth0 up
        sysctl -qw net.ipv6.conf.{host_end}.accept_dad=0
        ip link set {host_end} up"
    ));
}

fn container(name: &str) {
    let iface = format!("cali{name}");
    namespace(name, &iface);
    let (v4, v6) = (address(name, 4), address(name, 6));
    lines(&format!(
        "sysctl -qw net.ipv4.conf.{iface}.rp_filter=0
        ip route add {v4}/32 dev {iface}
        ip route add {v6}/128 dev {iface}
        nsenter --net=/run/netns/{name} ip addr add {v4}/32 dev eth0
        nsenter --net=/run/netns/{name} ip addr add {v6}/128 dev eth0 nodad
        nsenter --net=/run/netns/{name} ip route add 169.254.1.1 dev eth0
        nsenter --net=/run/netns/{name} ip route add default via 169.254.1.1
        nsenter --net=/run/netns/{name} ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0
        nsenter --net=/run/netns/{name} ip route add default via fe80::ecee:eeff:feee:eeee dev eth0"
    ));
}

fn topology() {
    lines(
        "sysctl -qw net.ipv4.ip_forward=1
        sysctl -qw net.ipv6.conf.all.forwarding=1
        sysctl -qw net.ipv4.conf.all.rp_filter=0",
    );
    namespace("x", "uplink");
    lines(
        "ip addr add 192.0.2.1/24 dev uplink
        ip addr add 2001:db8::1/64 dev uplink nodad
        nsenter --net=/run/netns/x ip addr add 192.0.2.2/24 dev eth0
        nsenter --net=/run/netns/x ip addr add 2001:db8::2/64 dev eth0 nodad
        nsenter --net=/run/netns/x ip route add default via 192.0.2.1
        nsenter --net=/run/netns/x ip route add default via 2001:db8::1",
    );
    ["a", "b", "c"].into_iter().for_each(container);
    for name in NAMES {
        inside(name, || PORTS.into_iter().for_each(serve));
    }
    PORTS.into_iter().for_each(serve);
}

/// Echoes by TCP and UDP; the threads live until the test's process ends.
fn serve(port: u16) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..len]);
                }
            });
        }
    });
    let socket = UdpSocket::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], peer);
        }
    });
}

/// One new connection, one datagram, or one echo request: whether an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Tcp(u16),
    Udp(u16),
    /// TCP to the first port from the second.
    TcpFrom(u16, u16),
    Ping,
}

impl Probe {
    fn parse(text: &str) -> Self {
        match text.split('/').collect::<Vec<_>>().as_slice() {
            ["ping"] => Self::Ping,
            ["tcp", port] => Self::Tcp(port.parse().unwrap()),
            ["udp", port] => Self::Udp(port.parse().unwrap()),
            ["tcp", port, from] => Self::TcpFrom(port.parse().unwrap(), from.parse().unwrap()),
            _ => panic!("no probe: {text}"),
        }
    }

    fn at(self, to: IpAddr) -> bool {
        const PATIENCE: Duration = Duration::from_millis(300);
        match self {
            Self::Tcp(port) => TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE).is_ok(),
            Self::Udp(port) => {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect((to, port)).is_ok()
                    && socket.send(b"x").is_ok()
                    && socket.recv(&mut [0; 8]).is_ok()
            }
            Self::TcpFrom(port, from) => {
                let socket = Socket::new(Domain::for_address((to, 0).into()), Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                // No final exchange: the port is free again at once.
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
                socket.bind(&SocketAddr::new(any.ip(), from).into()).unwrap();
                socket.connect_timeout(&SocketAddr::new(to, port).into(), PATIENCE).is_ok()
            }
            Self::Ping => {
                let (protocol, request) =
                    if to.is_ipv4() { (Protocol::ICMPV4, 8) } else { (Protocol::ICMPV6, 128) };
                let domain = Domain::for_address((to, 0).into());
                // The kernel fills in identifier and checksum, and gives only the answer to this.
                let socket: UdpSocket = Socket::new(domain, Type::DGRAM, Some(protocol)).unwrap().into();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect((to, 0)).is_ok()
                    && socket.send(&[request, 0, 0, 0, 0, 0, 0, 1]).is_ok()
                    && socket.recv(&mut [0; 64]).is_ok()
            }
        }
    }
}

/// Asks from a namespace.
pub(crate) fn ask(from: &str, to: IpAddr, probe: Probe) -> bool {
    if from == "host" { probe.at(to) } else { inside(from, move || probe.at(to)) }
}

pub(crate) struct Lab {
    runtime: tokio::runtime::Runtime,
    pub(crate) dataplane: Dataplane,
    graph: Graph,
    stop: CancellationToken,
    now: Documents,
}

/// A container's WorkloadEndpoint: labels `name` and those given, profiles, a port `web` of its own number.
pub(crate) fn endpoint(name: &str, labels: &Value, profiles: &[&str]) -> (String, Value) {
    let mut all = json!({
        "name": name,
        "projectcalico.org/namespace": "libnetwork",
        "projectcalico.org/orchestrator": "libnetwork",
    });
    all.as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
    let number = u16::from(name.as_bytes()[0] - b'a') + 1;
    let spec = json!({
        "node": "here", "interfaceName": format!("cali{name}"), "profiles": profiles,
        "ipNetworks": [address(name, 4), address(name, 6)],
        "ports": [
            {"name": "web", "protocol": "TCP", "port": 8000 + number},
            {"name": "dns", "protocol": "UDP", "port": 8000 + number},
            {"name": "client", "protocol": "TCP", "port": 9000 + number},
        ],
    });
    (
        format!("workloadendpoints/libnetwork/here-libnetwork-libnetwork-{name}"),
        json!({"metadata": {"labels": all}, "spec": spec}),
    )
}

/// Three endpoints under a profile that allows everything, and the default tier.
pub(crate) fn open_mesh() -> Documents {
    let allow = json!([{"action": "Allow"}]);
    let mut documents: Documents =
        ["a", "b", "c"].into_iter().map(|name| endpoint(name, &json!({}), &["open"])).collect();
    documents.insert("profiles/open".to_owned(), json!({"spec": {"ingress": allow, "egress": allow}}));
    documents.insert("tiers/default".to_owned(), json!({"spec": {"order": 1_000_000}}));
    documents
}

impl Lab {
    pub(crate) fn start() -> Self {
        Self::start_with(Options::default())
    }

    pub(crate) fn start_with(options: Options) -> Self {
        topology();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (dataplane, worker) = Dataplane::new(options);
        let stop = CancellationToken::new();
        runtime.spawn(worker.run(stop.clone()));
        let mut lab = Self { runtime, dataplane, graph: Graph::new("here"), stop, now: Documents::new() };
        lab.begin(&open_mesh());
        lab
    }

    fn begin(&mut self, documents: &Documents) {
        self.become_(documents);
        for name in ["a", "b", "c"] {
            self.open(name);
        }
        self.block(self.dataplane.ensure()).unwrap();
    }

    /// Opens the interface of an endpoint.
    pub(crate) fn open(&self, name: &'static str) {
        let iface = IfaceName::new(&format!("cali{name}")).unwrap();
        let addresses = [4, 6].map(|family| address(name, family));
        self.block(self.dataplane.add_endpoint(&iface, &addresses)).unwrap();
    }

    /// Another process takes the place of the one that ran, and finds its table in the kernel and these documents.
    pub(crate) fn restart(&mut self, documents: &Documents) {
        self.stop.cancel();
        let (dataplane, worker) = Dataplane::new(Options::default());
        self.stop = CancellationToken::new();
        (self.dataplane, self.graph, self.now) = (dataplane, Graph::new("here"), Documents::new());
        self.runtime.spawn(worker.run(self.stop.clone()));
        self.begin(documents);
    }

    pub(crate) fn block<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Makes the datastore hold exactly these documents, in one change of the packet filter. Gives how long that took, from the
    /// documents to the kernel.
    pub(crate) fn become_(&mut self, documents: &Documents) -> Duration {
        self.become_tampered(documents, |_| ())
    }

    /// The same; on its way the change is tampered with.
    pub(crate) fn become_tampered(
        &mut self,
        documents: &Documents,
        tamper: impl FnOnce(&mut Changes),
    ) -> Duration {
        let started = Instant::now();
        let mut changes = self.changes_to(documents);
        tamper(&mut changes);
        self.runtime.block_on(self.dataplane.apply_policy(changes)).unwrap();
        started.elapsed()
    }

    /// Tells that the datastore holds exactly these documents, and does not wait until that is in force.
    pub(crate) fn begin_to_become(
        &mut self,
        documents: &Documents,
    ) -> tokio::task::JoinHandle<Result<(), DataplaneError>> {
        let changes = self.changes_to(documents);
        let outcome = self.block(self.dataplane.tell_policy(changes)).unwrap();
        self.runtime.spawn(outcome)
    }

    fn changes_to(&mut self, documents: &Documents) -> Changes {
        let gone: Vec<String> =
            self.now.keys().filter(|key| !documents.contains_key(*key)).cloned().collect();
        let changed: Vec<(&String, String)> = documents
            .iter()
            .filter(|(key, value)| self.now.get(*key) != Some(value))
            .map(|(key, value)| (key, value.to_string()))
            .collect();
        for (key, value) in changed {
            // What is none of policy's kinds, as staged ones, is not told.
            if let Some(update) = Update::from_entry(&format!("{ROOT}{key}"), Some(value.as_bytes())) {
                self.graph.update(update);
            }
        }
        for key in gone {
            if let Some(update) = Update::from_entry(&format!("{ROOT}{key}"), None) {
                self.graph.update(update);
            }
        }
        self.now.clone_from(documents);
        self.graph.flush()
    }

    /// One line of expectation: `[4 |6 ]PROBE: all|none [-a>b|+a>b]...`. Every pair is tried at once, so that nothing
    /// passes by accident; those that shall work get several tries on a busy machine.
    pub(crate) fn expect(&self, case: &str, line: &str) {
        let (head, want) = line.split_once(": ").unwrap();
        let (families, probe) = match head.split_once(' ') {
            Some((family, probe)) => (vec![family.parse::<u8>().unwrap()], probe),
            None => (vec![4, 6], head),
        };
        let probe = Probe::parse(probe);
        let pairs = || NAMES.iter().flat_map(|from| NAMES.iter().map(move |to| format!("{from}>{to}")));
        let real = |pair: &String| pair[..1] != pair[2..];
        let mut words = want.split(' ');
        let mut allowed: BTreeSet<String> = match words.next() {
            Some("all") => pairs().filter(real).collect(),
            Some("none") => BTreeSet::new(),
            other => panic!("{other:?}"),
        };
        for word in words {
            let changed = pairs().filter(real).filter(|pair| {
                let pattern = &word[1..];
                let fits = |at: usize| pattern[at..=at] == *"*" || pattern[at..=at] == pair[at..=at];
                fits(0) && fits(2)
            });
            for pair in changed {
                if word.starts_with('-') {
                    allowed.remove(&pair)
                } else {
                    allowed.insert(pair)
                };
            }
        }
        let asked: Vec<_> = families
            .iter()
            .flat_map(|family| pairs().filter(real).map(move |pair| (*family, pair)))
            .map(|(family, pair)| {
                let want = allowed.contains(&pair);
                let to = address(&pair[2..], family);
                let from = pair[..1].to_owned();
                let thread =
                    std::thread::spawn(move || (0..if want { 5 } else { 1 }).any(|_| ask(&from, to, probe)));
                (family, pair, want, thread)
            })
            .collect();
        let mut wrong = Vec::new();
        for (family, pair, want, thread) in asked {
            if thread.join().unwrap() != want {
                wrong.push(format!("IPv{family} {pair} should {}", if want { "pass" } else { "not pass" }));
            }
        }
        assert!(
            wrong.is_empty(),
            "{case}: {line}: {wrong:?}\n{}",
            try_run("nft list table inet calico-docker").1
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
