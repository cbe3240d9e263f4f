//! Nodes that join and that are lost, as processes of their own over etcd: how soon all others reach a container there, and route
//! there no more. The samples are printed; `docs/operations.md` has a run of them.
//!
//! ```text
//! the test's own namespace: etcd, bridge   172.16.0.254, fd16::fe
//!      |        |        |        |
//!     h1       h2       h3       h4 ...    172.16.0.N, fd16::N
//!      |        |        |        |
//!     w1       w2       w3       w4        one container each
//! ```

use crate::etcd_server::{Etcd, runtime};
use crate::nsrun::{have, in_namespace, inside, run};
use crate::support::netns::Echo;
use calico_libnetwork::store::Txn;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// For what must happen, on a machine that may be very busy.
const PATIENCE: Duration = Duration::from_secs(30);
const OLD: std::ops::RangeInclusive<u8> = 1..=3;
const NEW: std::ops::RangeInclusive<u8> = 4..=13;
const PORT: u16 = 7000;
const NETWORK: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const POOLS: [(&str, &str, bool); 2] = [("four", "10.1.0.0/16", false), ("six", "fd00:1::/64", true)];

/// A host with the plugin as a plain daemon, and a container's namespace beside it.
struct Host {
    number: u8,
    url: String,
    process: Child,
    _echo: Echo,
}

impl Host {
    fn start(number: u8, url: &str) -> Self {
        let folder = folder(number);
        std::fs::create_dir_all(folder.join("state")).unwrap();
        run(&format!(
            "ip netns add h{number} && ip netns add w{number} &&
            ip link add p{number} type veth peer name eth0 netns h{number} && ip link set p{number} master br0 up"
        ));
        let quiet = "sysctl -qw net.ipv6.conf.default.accept_dad=0 && ip link set lo up";
        run(&format!(
            "nsenter --net=/run/netns/w{number} sh -c '{quiet}' && nsenter --net=/run/netns/h{number} sh -c '{quiet} &&
            sysctl -qw net.ipv6.conf.eth0.accept_dad=0 && ip link set eth0 up && ip addr add 172.16.0.{number}/24 dev eth0 && ip addr add fd16::{number}/64 dev eth0 nodad'"
        ));
        let echo = inside(&format!("w{number}"), || Echo::start(Ipv6Addr::UNSPECIFIED.into(), PORT));
        let log = File::create(folder.join("log")).unwrap();
        let process = command(number, url, "serve")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let host = Self { number, url: url.to_owned(), process, _echo: echo };
        let begun = Instant::now();
        while !host.log().contains(" ready") {
            assert!(begun.elapsed() < PATIENCE, "{}", host.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        host
    }

    fn log(&self) -> String {
        std::fs::read_to_string(folder(self.number).join("log")).unwrap()
    }

    /// One call of Docker.
    fn call(&self, method: &str, body: &Value) -> Value {
        let mut stream = UnixStream::connect(folder(self.number).join("calico.sock")).unwrap();
        let body = body.to_string();
        let head = format!("POST /{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let answer: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert!(answer["Err"].as_str().unwrap_or_default().is_empty(), "{method}: {answer}");
        answer
    }

    /// `docker network create` and `docker run`, up to the addresses.
    fn addresses(&self) -> Vec<String> {
        let space = "CalicoAddressSpace";
        let pools = POOLS.map(|(_, prefix, v6)| {
            let body = json!({"AddressSpace": space, "Pool": prefix, "SubPool": "", "Options": {}, "V6": v6});
            self.call("IpamDriver.RequestPool", &body)
        });
        let data = |pool: &Value| json!([{"AddressSpace": space, "Pool": pool["Pool"], "Gateway": pool["Data"]["com.docker.network.gateway"]}]);
        let options = json!({"com.docker.network.enable_ipv6": true, "com.docker.network.generic": {}});
        let network = json!({"NetworkID": NETWORK, "Options": options, "IPv4Data": data(&pools[0]), "IPv6Data": data(&pools[1])});
        self.call("NetworkDriver.CreateNetwork", &network);
        let address = |pool: &Value| {
            let body = json!({"PoolID": pool["PoolID"], "Address": "", "Options": null});
            self.call("IpamDriver.RequestAddress", &body)["Address"].as_str().unwrap().to_owned()
        };
        pools.iter().map(address).collect()
    }

    /// The rest of it. Returns when Join was answered.
    fn join(&self, addresses: &[String]) -> Instant {
        let endpoint = format!("{:0>64}", self.number);
        let interface = json!({"Address": addresses[0], "AddressIPv6": addresses[1], "MacAddress": ""});
        let mut body = json!({"NetworkID": NETWORK, "EndpointID": endpoint, "Options": {}});
        body["Interface"] = interface;
        self.call("NetworkDriver.CreateEndpoint", &body);
        body["SandboxKey"] = json!(format!("/run/netns/w{}", self.number));
        let joined = self.call("NetworkDriver.Join", &body);
        let answered = Instant::now();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (link, gateway) = (text(&joined["InterfaceName"]["SrcName"]), text(&joined["Gateway"]));
        let n = self.number;
        run(&format!(
            "nsenter --net=/run/netns/h{n} ip link set {link} netns w{n} name eth0 &&
            nsenter --net=/run/netns/w{n} sh -c 'ip link set eth0 up && ip addr add {} dev eth0 && ip addr add {} dev eth0 nodad &&
            ip route add {gateway} dev eth0 && ip route add default via {gateway} && ip route add default via {} dev eth0'",
            addresses[0],
            addresses[1],
            text(&joined["GatewayIPv6"])
        ));
        answered
    }

    /// Its routes to other hosts' containers, both families.
    fn routes(&self) -> Vec<String> {
        let list = "ip -4 route show proto 80; ip -6 route show proto 80";
        let said = run(&format!("nsenter --net=/run/netns/h{} sh -c '{list}'", self.number));
        let mut routes: Vec<String> = said.lines().map(|line| line.trim().to_owned()).collect();
        routes.sort();
        routes
    }

    /// As a machine that loses its power.
    fn lose(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        run(&format!("ip link del p{n} && ip netns del h{n} && ip netns del w{n}", n = self.number));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- h{} at {}\n{}", self.number, self.url, self.log());
        }
        let _ = self.process.kill();
    }
}

fn folder(number: u8) -> PathBuf {
    format!("/run/h{number}").into()
}

/// The binary on a host, with its settings.
fn command(number: u8, url: &str, verb: &str) -> Command {
    let folder = folder(number);
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/h{number}"));
    command.arg(env!("CARGO_BIN_EXE_calico-libnetwork")).arg(verb).env_remove("CALICO_TEST_INSIDE");
    command.env("NODENAME", format!("h{number}")).env("ETCD_ENDPOINTS", url).env("NO_DEFAULT_POOLS", "true");
    command.env("CALICO_LIBNETWORK_HOST_RUN", &folder).env("CALICO_LIBNETWORK_V1_SOCKETS", "false");
    command.env("CALICO_LIBNETWORK_STATE_DIR", folder.join("state"));
    command.env("CALICO_LIBNETWORK_SOCKET", folder.join("calico.sock"));
    command
}

/// Asks from a container until it is answered, and says when that was.
fn first_answer(number: u8, from: IpAddr, to: IpAddr) -> JoinHandle<Instant> {
    let ask = move || {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let begun = Instant::now();
        loop {
            let asked = socket.send_to(b"?", SocketAddr::new(to, PORT));
            if asked.and_then(|_| socket.recv_from(&mut [0; 64])).is_ok() {
                return Instant::now();
            }
            assert!(begun.elapsed() < PATIENCE, "w{number} does not reach {to}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    std::thread::spawn(move || inside(&format!("w{number}"), ask))
}

/// Asks from a container again and again until told to stop, and says how many questions had no answer.
fn stream(number: u8, from: IpAddr, to: IpAddr, stop: Arc<AtomicBool>) -> JoinHandle<(u32, u32)> {
    let ask = move || {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let (mut sent, mut lost) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            sent += 1;
            let asked = socket.send_to(b"?", SocketAddr::new(to, PORT));
            lost += u32::from(asked.and_then(|_| socket.recv_from(&mut [0; 64])).is_err());
            std::thread::sleep(Duration::from_millis(5));
        }
        (sent, lost)
    };
    std::thread::spawn(move || inside(&format!("w{number}"), ask))
}

fn plain(addresses: &[String]) -> Vec<IpAddr> {
    addresses.iter().map(|text| text.split('/').next().unwrap().parse().unwrap()).collect()
}

/// Least, median and most of what was measured, as a row of a table.
fn row(what: &str, samples: &mut [Duration]) {
    samples.sort_unstable();
    let [least, median, most] = [0, samples.len() / 2, samples.len() - 1].map(|n| samples[n].as_millis());
    println!("| {what} | {} | {least} ms | {median} ms | {most} ms |", samples.len());
}

#[test]
fn a_container_of_a_new_node_is_reached_by_all_and_a_lost_node_is_routed_no_more_and_nothing_else_changes() {
    in_namespace(
        "joins::a_container_of_a_new_node_is_reached_by_all_and_a_lost_node_is_routed_no_more_and_nothing_else_changes",
        || {
            if !have("nsenter", "netns") {
                return;
            }
            run("sysctl -qw net.ipv6.conf.default.accept_dad=0 && ip link add br0 address 02:00:00:00:00:fe type bridge mcast_snooping 0 &&
                ip link set br0 up && ip addr add 172.16.0.254/24 dev br0 && ip addr add fd16::fe/64 dev br0 nodad");
            let Some(etcd) = Etcd::start_at("172.16.0.254") else { return };
            pools(&etcd);
            let old: Vec<(Host, Vec<IpAddr>)> = OLD
                .map(|number| {
                    let host = Host::start(number, etcd.url());
                    let addresses = host.addresses();
                    host.join(&addresses);
                    (host, plain(&addresses))
                })
                .collect();
            let new = join(&old, &etcd);
            lose(&old, new, &etcd);
        },
    );
}

fn pools(etcd: &Etcd) {
    let runtime = runtime();
    let store = etcd.store(&runtime);
    for (name, cidr, _) in POOLS {
        let document = json!({"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": {"cidr": cidr}});
        let key = format!("/calico/resources/v3/projectcalico.org/ippools/{name}");
        runtime.block_on(store.commit(Txn::new().put(key, document.to_string()))).unwrap();
    }
}

/// One node after the other joins; each is asked by all old ones over IPv4 and IPv6 from before its container is there.
fn join(old: &[(Host, Vec<IpAddr>)], etcd: &Etcd) -> Vec<Host> {
    let (mut slowest, mut new) = (Vec::new(), Vec::new());
    for number in NEW {
        let host = Host::start(number, etcd.url());
        let addresses = host.addresses();
        let to = plain(&addresses);
        let asking: Vec<_> = old
            .iter()
            .flat_map(|(host, from)| {
                from.iter().zip(&to).map(|(from, to)| first_answer(host.number, *from, *to))
            })
            .collect();
        let joined = host.join(&addresses);
        let answers = asking.into_iter().map(|asked| asked.join().unwrap());
        slowest.push(answers.map(|at| at.saturating_duration_since(joined)).max().unwrap());
        new.push(host);
    }
    row(
        "a container of a new node, from Join's answer until three nodes reach it over IPv4 and IPv6",
        &mut slowest,
    );
    new
}

/// One node after the other loses its power and is removed.
fn lose(old: &[(Host, Vec<IpAddr>)], new: Vec<Host>, etcd: &Etcd) {
    let stop = Arc::new(AtomicBool::new(false));
    let pairs = old.iter().zip(old.iter().cycle().skip(1));
    let streams: Vec<_> = pairs
        .flat_map(|((host, from), (_, to))| from.iter().zip(to).map(|(from, to)| (host.number, *from, *to)))
        .map(|(number, from, to)| stream(number, from, to, stop.clone()))
        .collect();
    let mut samples = Vec::new();
    for host in new {
        let number = host.number;
        let leads_there = |route: &String| {
            route.contains(&format!("via 172.16.0.{number} "))
                || route.contains(&format!("via fd16::{number} "))
        };
        let before: Vec<Vec<String>> = old.iter().map(|(host, _)| host.routes()).collect();
        assert!(
            before.iter().all(|routes| routes.iter().filter(|route| leads_there(route)).count() == 2),
            "{before:?}"
        );
        host.lose();
        let removed = command(1, etcd.url(), "node")
            .args(["remove", "--force", &format!("h{number}")])
            .output()
            .unwrap();
        assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        let begun = Instant::now();
        for ((host, _), before) in old.iter().zip(before) {
            while host.routes().iter().any(leads_there) {
                assert!(begun.elapsed() < PATIENCE, "{:?}", host.routes());
            }
            let rest: Vec<String> = before.into_iter().filter(|route| !leads_there(route)).collect();
            assert_eq!(host.routes(), rest, "nothing but the lost node's routes goes");
        }
        samples.push(begun.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for stream in streams {
        let (sent, lost) = stream.join().unwrap();
        assert!(lost == 0 && sent > 0, "{lost} of {sent} questions between the others had no answer");
    }
    row("a lost node, from the return of `node remove` until none of three routes to it", &mut samples);
}
