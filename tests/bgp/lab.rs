//! Hosts with the real plugin and BIRD, a fabric router of its own AS, and a client behind it, as network namespaces.
//!
//! ```text
//!   client c  10.200.0.2, fd20::2
//!      |
//!   fabric (the test's own namespace), AS 65001, plain BIRD          172.16.0.254, fd16::fe
//!      |           |            |
//!     h1          h2           h3: BIRD as calico/node runs it, AS 64512
//!   172.16.0.1   .0.2         .0.3
//! ```

use crate::nsrun::{inside, run, try_run};
use crate::support::netns::{Echo, probe_udp};
use calico_libnetwork::store::{EmbeddedStore, Store, Txn};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// For what must happen, on a machine that may be very busy.
const PATIENCE: Duration = Duration::from_secs(60);
const ROOT: &str = "/calico/resources/v3/projectcalico.org";
const PORT: u16 = 7000;
const NETWORK: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

pub(crate) fn lines(script: &str) {
    script.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| drop(run(line)));
}

/// Waits until a condition holds; `what` says what was waited for.
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    loop {
        match holds() {
            Ok(()) => return,
            Err(seen) => assert!(start.elapsed() < PATIENCE, "{what}, but: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn contains(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(text.to_owned()) }
}

/// The fabric's namespace, with the client behind it and a link for each host.
pub(crate) fn topology(hosts: &[u8]) {
    lines(
        "sysctl -qw net.ipv4.ip_forward=1
        sysctl -qw net.ipv6.conf.all.forwarding=1
        sysctl -qw net.ipv6.conf.default.accept_dad=0
        ip link add br0 type bridge
        ip addr add 172.16.0.254/24 dev br0
        ip addr add fd16::fe/64 dev br0 nodad
        ip link set br0 up
        ip netns add c
        ip link add c0 type veth peer name eth0 netns c
        ip addr add 10.200.0.1/24 dev c0
        ip addr add fd20::1/64 dev c0 nodad
        ip link set c0 up
        nsenter --net=/run/netns/c ip link set eth0 up
        nsenter --net=/run/netns/c ip addr add 10.200.0.2/24 dev eth0
        nsenter --net=/run/netns/c ip addr add fd20::2/64 dev eth0 nodad
        nsenter --net=/run/netns/c ip route add default via 10.200.0.1
        nsenter --net=/run/netns/c ip route add default via fd20::1",
    );
    for n in hosts {
        lines(&format!(
            "ip netns add h{n}
            ip link add p{n} type veth peer name eth0 netns h{n}
            ip link set p{n} master br0 up
            nsenter --net=/run/netns/h{n} sysctl -qw net.ipv6.conf.default.accept_dad=0
            nsenter --net=/run/netns/h{n} ip link set lo up
            nsenter --net=/run/netns/h{n} ip link set eth0 up
            nsenter --net=/run/netns/h{n} ip addr add 172.16.0.{n}/24 dev eth0
            nsenter --net=/run/netns/h{n} ip addr add fd16::{n}/64 dev eth0 nodad
            nsenter --net=/run/netns/h{n} ip route add default via 172.16.0.254
            nsenter --net=/run/netns/h{n} ip route add default via fd16::fe"
        ));
    }
}

/// A plain BIRD in a namespace (empty: the fabric's).
pub(crate) struct Router {
    child: Child,
}

impl Router {
    pub(crate) fn start(namespace: &str, name: &str, text: &str) -> Self {
        let file = format!("/run/{name}.conf");
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(format!("/run/{name}.log")).unwrap();
        let mut command = match namespace {
            "" => Command::new(crate::BIRD),
            namespace => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg(crate::BIRD);
                command
            }
        };
        command.args(["-f", "-R", "-c", &file, "-s", &format!("/run/{name}.ctl")]).stderr(log);
        Self { child: command.spawn().unwrap() }
    }

    /// As a machine that loses power.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// One container.
pub(crate) struct Container {
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    _echoes: Vec<Echo>,
}

/// A host with the plugin as a plain daemon and an embedded datastore.
pub(crate) struct Host {
    pub(crate) name: String,
    child: Child,
    /// Besides those of all hosts.
    settings: Settings,
}

/// Settings by name.
type Settings = &'static [(&'static str, &'static str)];

impl Host {
    pub(crate) fn folder(name: &str) -> PathBuf {
        PathBuf::from("/run").join(name)
    }

    /// Writes what the datastore is to say, and starts the plugin. A document stands below Calico's resources, or where a
    /// path that begins with `/` says.
    pub(crate) fn start(name: &str, documents: &[(String, Value)]) -> Self {
        Self::start_with(name, documents, &[])
    }

    /// The same with more settings.
    pub(crate) fn start_with(name: &str, documents: &[(String, Value)], settings: Settings) -> Self {
        let folder = Self::folder(name);
        std::fs::create_dir_all(folder.join("state")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = EmbeddedStore::open(&folder.join("state/state.redb")).unwrap();
            for (path, document) in documents {
                let value = document.to_string().into_bytes();
                let key = if path.starts_with('/') { path.clone() } else { format!("{ROOT}/{path}") };
                store.commit(Txn::new().create(key, value)).await.unwrap();
            }
        });
        let host = Self { child: Self::spawn(name, "bird", settings), name: name.to_owned(), settings };
        host.wait_ready();
        host
    }

    fn command(name: &str, verb: &str, backend: &str) -> Command {
        let folder = Self::folder(name);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{name}"))
            .arg(env!("CARGO_BIN_EXE_calico-libnetwork"))
            .arg(verb);
        command
            .env_remove("CALICO_TEST_INSIDE")
            .env("NODENAME", name)
            .env("CALICO_NETWORKING_BACKEND", backend)
            .env("NO_DEFAULT_POOLS", "true");
        command
            .env("CALICO_LIBNETWORK_HOST_RUN", &folder)
            .env("CALICO_LIBNETWORK_STATE_DIR", folder.join("state"));
        command.env("CALICO_LIBNETWORK_SOCKET", folder.join("calico.sock"));
        command.env("CALICO_LIBNETWORK_V1_SOCKETS", "false").env("CALICO_LIBNETWORK_BIRD", crate::BIRD);
        command
    }

    fn spawn(name: &str, backend: &str, settings: Settings) -> Child {
        let path = Self::folder(name).join("log");
        let log = std::fs::File::options().create(true).append(true).open(path).unwrap();
        Self::command(name, "serve", backend)
            .envs(settings.iter().copied())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(Self::folder(&self.name).join("log")).unwrap()
    }

    /// Waits for a sentence of the log to have been said so many times.
    pub(crate) fn wait_log(&self, part: &str, times: usize) {
        wait(&format!("{} is to log {part:?} {times} times", self.name), || {
            let log = self.log();
            if log.matches(part).count() >= times { Ok(()) } else { Err(log) }
        });
    }

    /// Waits for a sentence since BIRD was started last.
    pub(crate) fn wait_told(&self, part: &str) {
        wait(&format!("{} is to log {part:?}", self.name), || {
            let log = self.log();
            let since = log.rfind("BIRD runs").unwrap_or_default();
            contains(&log[since..], part)
        });
    }

    fn wait_ready(&self) {
        self.wait_log("BIRD runs", 1);
    }

    /// `kill -9`, without the BIRD that it started.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        run(&format!("kill {}", self.child.id()));
        self.child.wait().unwrap().code()
    }

    /// Starts the plugin again.
    pub(crate) fn again(&mut self) {
        self.again_with("bird");
    }

    /// Starts the plugin again, with another setting of who makes routes.
    pub(crate) fn again_with(&mut self, backend: &str) {
        self.child = Self::spawn(&self.name, backend, self.settings);
    }

    /// `apply`, of one document.
    pub(crate) fn apply(&self, document: &Value) {
        let file = Self::folder(&self.name).join("document.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let output = Self::command(&self.name, "apply", "bird").arg("-f").arg(&file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{document}: {}", String::from_utf8_lossy(&said));
    }

    pub(crate) fn check(&self) -> String {
        let output = Self::command(&self.name, "check", "bird").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `cleanup` says where the plugin's BIRD is gone; it must work.
    pub(crate) fn clean_up_without_bird(&self) -> String {
        let mut command = Self::command(&self.name, "cleanup", "bird");
        let output = command.env("CALICO_LIBNETWORK_BIRD", "/nonexistent/bird").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    /// The process of BIRD, by its command line, which names this host's socket.
    pub(crate) fn bird(&self) -> Option<String> {
        let wanted = format!("{}/calico-libnetwork/bird.ctl", Self::folder(&self.name).display());
        let processes = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        processes.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(crate::BIRD.as_bytes()) && String::from_utf8_lossy(&line).contains(&wanted)
        })
    }

    /// The routes to a prefix, in this host's namespace.
    pub(crate) fn routes(&self, prefix: &str) -> String {
        routes(&self.name, prefix)
    }

    /// One call of Docker.
    fn call(&self, method: &str, body: &Value) -> Value {
        let mut stream = UnixStream::connect(Self::folder(&self.name).join("calico.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST /{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (_, answer) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method}: {text}"));
        let answer: Value =
            serde_json::from_str(answer).unwrap_or_else(|error| panic!("{method}: {error}: {text}"));
        assert!(answer["Err"].as_str().unwrap_or_default().is_empty(), "{method} {body}: {answer}");
        answer
    }

    /// `docker network create` and `docker run`, with a namespace as the container: it answers at [`PORT`].
    pub(crate) fn container(&self) -> Container {
        self.container_at(["", ""])
    }

    /// The same with addresses that are asked for (`--ip`, `--ip6`).
    pub(crate) fn container_at(&self, wanted: [&str; 2]) -> Container {
        let mut pools = Vec::new();
        for (prefix, v6) in [("10.1.0.0/16", false), ("fd00:1::/64", true)] {
            let body = json!({"AddressSpace": "CalicoAddressSpace", "Pool": prefix, "SubPool": "", "Options": {}, "V6": v6});
            pools.push(self.call("IpamDriver.RequestPool", &body));
        }
        let data = |answer: &Value| json!([{"AddressSpace": "CalicoAddressSpace", "Pool": answer["Pool"], "Gateway": answer["Data"]["com.docker.network.gateway"]}]);
        let options = json!({"com.docker.network.enable_ipv6": true, "com.docker.network.generic": {}});
        self.call(
            "NetworkDriver.CreateNetwork",
            &json!({"NetworkID": NETWORK, "Options": options, "IPv4Data": data(&pools[0]), "IPv6Data": data(&pools[1])}),
        );
        let addresses: Vec<String> = pools
            .iter()
            .zip(wanted)
            .map(|(pool, wanted)| {
                let body = json!({"PoolID": pool["PoolID"], "Address": wanted, "Options": null});
                self.call("IpamDriver.RequestAddress", &body)["Address"].as_str().unwrap().to_owned()
            })
            .collect();
        let endpoint = format!("{:0<64}", self.name.replace('h', "e"));
        let interface = json!({"Address": addresses[0], "AddressIPv6": addresses[1], "MacAddress": ""});
        let ids = json!({"NetworkID": NETWORK, "EndpointID": endpoint});
        let mut create = ids.clone();
        create["Interface"] = interface;
        create["Options"] = json!({});
        self.call("NetworkDriver.CreateEndpoint", &create);
        let mut join = ids;
        join["SandboxKey"] = json!(format!("/run/netns/w{}", self.name));
        join["Options"] = json!({});
        let joined = self.call("NetworkDriver.Join", &join);
        self.attach(&joined, &addresses)
    }

    fn attach(&self, joined: &Value, addresses: &[String]) -> Container {
        let (host, namespace) = (&self.name, format!("w{}", self.name));
        let link = joined["InterfaceName"]["SrcName"].as_str().unwrap();
        let (gateway, gateway6) =
            (joined["Gateway"].as_str().unwrap(), joined["GatewayIPv6"].as_str().unwrap());
        lines(&format!(
            "ip netns add {namespace}
            nsenter --net=/run/netns/{host} ip link set {link} netns {namespace} name eth0
            nsenter --net=/run/netns/{namespace} sysctl -qw net.ipv6.conf.eth0.accept_dad=0
            nsenter --net=/run/netns/{namespace} ip link set lo up
            nsenter --net=/run/netns/{namespace} ip link set eth0 up
            nsenter --net=/run/netns/{namespace} ip addr add {} dev eth0
            nsenter --net=/run/netns/{namespace} ip addr add {} dev eth0 nodad
            nsenter --net=/run/netns/{namespace} ip route add {gateway} dev eth0
            nsenter --net=/run/netns/{namespace} ip route add default via {gateway}
            nsenter --net=/run/netns/{namespace} ip route add default via {gateway6} dev eth0",
            addresses[0], addresses[1]
        ));
        let plain = |text: &str| text.split('/').next().unwrap().parse::<IpAddr>().unwrap();
        let (v4, v6) = (plain(&addresses[0]), plain(&addresses[1]));
        let echoes = inside(&namespace, move || vec![Echo::start(v4, PORT), Echo::start(v6, PORT)]);
        Container { v4, v6, _echoes: echoes }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The namespace takes all processes with it; this is for the log of a test that failed.
        if std::thread::panicking() {
            println!("--- {}\n{}", self.name, self.log());
        }
        let _ = self.child.kill();
    }
}

/// The routes to a prefix, in one namespace.
pub(crate) fn routes(namespace: &str, prefix: &str) -> String {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    try_run(&format!("nsenter --net=/run/netns/{namespace} ip {family} route show {prefix}")).1
}

/// Waits for a route with something in it.
pub(crate) fn wait_route(namespace: &str, prefix: &str, part: &str) {
    wait(&format!("{namespace} is to route {prefix} {part}"), || contains(&routes(namespace, prefix), part));
}

/// Waits for the check of a host to say something.
pub(crate) fn wait_check(host: &Host, part: &str) {
    wait(&format!("check of {} is to say {part:?}", host.name), || contains(&host.check(), part));
}

/// Asks a container from an address in a namespace; the answer is the address that the container saw.
pub(crate) fn reach(namespace: &str, from: IpAddr, to: IpAddr) {
    wait(&format!("{from} in {namespace} is to reach {to}"), || {
        let seen = inside(namespace, move || probe_udp(from, SocketAddr::new(to, PORT)));
        match seen {
            Ok(seen) if seen == from => Ok(()),
            Ok(seen) => Err(format!("it was seen as {seen}: there is NAT in between")),
            Err(error) => Err(format!("{error}; routes: {}", run("ip route; ip -6 route"))),
        }
    });
}

/// Asks a container again and again, until told to stop.
pub(crate) struct Stream {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<(usize, usize)>,
}

impl Stream {
    pub(crate) fn start(namespace: &str, from: IpAddr, to: IpAddr) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let namespace = namespace.to_owned();
        let ask = move || {
            inside(&namespace, move || {
                let socket = std::net::UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                let (mut sent, mut lost) = (0, 0);
                while stopped.try_recv().is_err() {
                    sent += 1;
                    let asked = socket.send_to(b"?", SocketAddr::new(to, PORT));
                    if asked.and_then(|_| socket.recv_from(&mut [0; 64])).is_err() {
                        lost += 1;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                (sent, lost)
            })
        };
        Self { stop, thread: std::thread::spawn(ask) }
    }

    /// How many were sent, and how many were not answered.
    pub(crate) fn finish(self) -> (usize, usize) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap()
    }
}
