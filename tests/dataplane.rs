//! The host's packet filter against the kernel: a host with two containers of ours, a container on Docker's bridge, and
//! a machine outside, each a network namespace inside the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::too_many_lines
)]

#[path = "support/nsrun.rs"]
mod nsrun;

use calico_libnetwork::dataplane::{
    Dataplane, DataplaneError, ForwardAccept, HostAction, LegacyTools, Options, PoolNat, PortMap, Protocol,
    Timing, Tuning, felix_programming,
};
use calico_libnetwork::model::IfaceName;
use calico_libnetwork::policy::{Changes, Graph, Update};
use nsrun::{have, in_namespace, inside, run, try_run};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const EXT: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const C1: [&str; 2] = ["10.65.0.1", "fd65::1"];
const C2: [&str; 2] = ["10.65.0.2", "fd65::2"];
const D1: [&str; 2] = ["172.17.0.2", "fd17::2"];
const PORT: u16 = 80;

/// A test in its own namespaces; `nft` is how it looks at, and meddles with, what the dataplane does.
fn isolated(test: &str, body: impl FnOnce()) {
    if have("nft", "nft") {
        in_namespace(test, body);
    }
}

fn lines(script: &str) {
    script.lines().map(str::trim).filter(|l| !l.is_empty()).for_each(|line| drop(run(line)));
}

/// A link from the host to a namespace.
fn namespace(name: &str, host_end: &str) {
    lines(&format!(
        "ip netns add {name}
        ip link add {host_end} type veth peer name eth0 netns {name}
        nsenter --net=/run/netns/{name} ip link set lo up
        nsenter --net=/run/netns/{name} sysctl -qw net.ipv6.conf.eth0.accept_dad=0
        nsenter --net=/run/netns/{name} ip link set eth0 up
        sysctl -qw net.ipv6.conf.{host_end}.accept_dad=0"
    ));
}

fn container(name: &str, iface: &str, [v4, v6]: [&str; 2]) {
    namespace(name, iface);
    lines(&format!(
        "ip link set {iface} address ee:ee:ee:ee:ee:ee
        sysctl -qw net.ipv4.conf.{iface}.route_localnet=1
        sysctl -qw net.ipv4.conf.{iface}.rp_filter=0
        sysctl -qw net.ipv4.conf.{iface}.proxy_arp=1
        ip link set {iface} up
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

/// Host, outside machine, two containers, Docker's bridge with a container; no firewall yet.
fn topology() {
    lines(
        "sysctl -qw net.ipv4.ip_forward=1
        sysctl -qw net.ipv6.conf.all.forwarding=1
        sysctl -qw net.ipv4.conf.all.rp_filter=0",
    );
    namespace("ext", "uplink");
    lines(
        "ip link set uplink up
        ip addr add 192.0.2.1/24 dev uplink
        ip addr add 2001:db8::1/64 dev uplink nodad
        ip route add default via 192.0.2.2
        ip route add default via 2001:db8::2
        nsenter --net=/run/netns/ext ip addr add 192.0.2.2/24 dev eth0
        nsenter --net=/run/netns/ext ip addr add 2001:db8::2/64 dev eth0 nodad
        nsenter --net=/run/netns/ext ip route add default via 192.0.2.1
        nsenter --net=/run/netns/ext ip route add default via 2001:db8::1",
    );
    container("c1", "cali1", C1);
    container("c2", "cali2", C2);
    namespace("d1", "vethd1");
    lines(
        "ip link add docker0 type bridge
        sysctl -qw net.ipv6.conf.docker0.accept_dad=0
        ip link set docker0 up
        ip link set vethd1 master docker0
        ip link set vethd1 up
        ip addr add 172.17.0.1/16 dev docker0
        ip addr add fd17::1/64 dev docker0 nodad
        nsenter --net=/run/netns/d1 ip addr add 172.17.0.2/16 dev eth0
        nsenter --net=/run/netns/d1 ip addr add fd17::2/64 dev eth0 nodad
        nsenter --net=/run/netns/d1 ip route add default via 172.17.0.1
        nsenter --net=/run/netns/d1 ip route add default via fd17::1",
    );
    for namespace in ["c1", "c2", "d1", "ext"] {
        inside(namespace, || {
            serve("[::]:80");
            serve("[::]:81");
        });
    }
}

/// Answers each TCP connection with the client's address. The thread lives until the test's process ends.
fn serve(at: &str) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let Ok(peer) = stream.peer_addr() else { continue };
            let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
        }
    });
}

/// Echoes UDP and remembers who sent.
fn serve_udp(namespace: &str, at: &str) -> Arc<Mutex<Vec<IpAddr>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (at, senders) = (at.to_owned(), seen.clone());
    inside(namespace, move || {
        let socket = UdpSocket::bind(at).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
                senders.lock().unwrap().push(peer.ip().to_canonical());
                let _ = socket.send_to(&buffer[..len], peer);
            }
        });
    });
    seen
}

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Under which address the server at `to` saw a client here; `None` if there is no way.
fn connect(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn ask(from: &str, ip: &str, port: u16) -> Option<String> {
    let to = address(ip, port);
    if from == "host" { connect(to) } else { inside(from, move || connect(to)) }
}

/// Both families: a client in `from` reaches `to`, or does not.
///
/// A way that should be there gets a few seconds: machines that run tests are busy.
fn reaches(from: &str, to: [&str; 2], want: bool) {
    for ip in to {
        let mut seen = ask(from, ip, PORT);
        for _ in 0..4 {
            if want && seen.is_none() {
                seen = ask(from, ip, PORT);
            }
        }
        assert_eq!(seen.is_some(), want, "{from} to {ip}: {seen:?}\n{}", try_run("nft list ruleset").1);
    }
}

struct Lab {
    runtime: tokio::runtime::Runtime,
    dataplane: Dataplane,
    stop: CancellationToken,
}

fn options() -> Options {
    Options {
        timing: Timing { guard: Duration::from_millis(500), ..Options::default().timing },
        legacy: LegacyTools { ..Options::default().legacy },
        ..Options::default()
    }
}

/// The addresses that [`topology`] routes to an interface.
fn routed(iface: &str) -> Vec<IpAddr> {
    let addresses: &[&str] = match iface {
        "cali1" => &C1,
        "cali2" => &C2,
        "cali3" => &["10.65.0.3", "fd65::3"],
        _ => &[],
    };
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn iface(name: &str) -> IfaceName {
    IfaceName::new(name).unwrap()
}

fn pool(cidr: &str, nat_outgoing: bool) -> PoolNat {
    PoolNat { cidr: cidr.parse().unwrap(), nat_outgoing }
}

/// The policy of endpoints that may all do everything: what a graph of the whole datastore would tell at first.
fn open<'a>(ifaces: impl IntoIterator<Item = &'a str>) -> Changes {
    let mut graph = Graph::new("lab");
    for iface in ifaces {
        let key = format!(
            "/calico/resources/v3/projectcalico.org/workloadendpoints/libnetwork/lab-libnetwork-libnetwork-{}",
            iface.replace('-', "--")
        );
        let spec = format!(
            r#"{{"spec":{{"node":"lab","orchestrator":"libnetwork","workload":"libnetwork","endpoint":"{iface}",
            "interfaceName":"{iface}","ipNetworks":["10.65.0.1/32"],"profiles":["projectcalico-default-allow"]}}}}"#
        );
        graph.update(Update::from_entry(&key, Some(spec.as_bytes())).unwrap());
    }
    let changes = graph.flush();
    assert!(changes.problems.is_empty(), "{:?}", changes.problems);
    changes
}

impl Lab {
    /// A dataplane at work, as a process would start one: all is told, then it is put in force.
    fn start(options: Options) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (dataplane, worker) = Dataplane::new(options);
        let stop = CancellationToken::new();
        runtime.spawn(worker.run(stop.clone()));
        let lab = Self { runtime, dataplane, stop };
        lab.block(async {
            let d = &lab.dataplane;
            d.set_pools(&[pool("10.65.0.0/16", true), pool("fd65::/32", true)]).await.unwrap();
            d.set_docker_bridges(&[iface("docker0")]).await.unwrap();
            d.apply_policy(open(["cali1", "cali2", "cali3", "cali-new"])).await.unwrap();
            d.add_endpoint(&iface("cali1"), &routed("cali1")).await.unwrap();
            d.add_endpoint(&iface("cali2"), &routed("cali2")).await.unwrap();
            d.ensure().await.unwrap();
        });
        lab
    }

    fn block<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Waits until something holds.
    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            let status = self.dataplane.status().borrow().clone();
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "{what}; {status:?}\n{}",
                try_run("nft list ruleset").1
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn repairs(&self) -> u64 {
        self.dataplane.status().borrow().repairs
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Ruleset of engine 20.10: unpublished containers are kept apart by the policy alone.
fn docker_20(iptables: &str, address: &str, subnet: &str) {
    for rule in [
        "-P FORWARD DROP",
        "-N DOCKER",
        "-N DOCKER-USER",
        "-N DOCKER-ISOLATION-STAGE-1",
        "-N DOCKER-ISOLATION-STAGE-2",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
        "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -o docker0 -j DOCKER",
        "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
        "-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
        "-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
        "-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
        "-A DOCKER-ISOLATION-STAGE-2 -j RETURN",
        "-A DOCKER-USER -j RETURN",
        &format!("-A DOCKER -d {address} ! -i docker0 -o docker0 -p tcp --dport 81 -j ACCEPT"),
        &format!("-t nat -A POSTROUTING -s {subnet} ! -o docker0 -j MASQUERADE"),
    ] {
        run(&format!("{iptables} {rule}"));
    }
}

/// Ruleset of engine 28: each bridge drops what is not published.
fn docker_28(iptables: &str, address: &str, subnet: &str) {
    for rule in [
        "-P FORWARD DROP",
        "-N DOCKER",
        "-N DOCKER-BRIDGE",
        "-N DOCKER-CT",
        "-N DOCKER-FORWARD",
        "-N DOCKER-USER",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A DOCKER-FORWARD -j DOCKER-CT",
        "-A DOCKER-FORWARD -j DOCKER-BRIDGE",
        "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
        "-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A DOCKER-BRIDGE -o docker0 -j DOCKER",
        &format!("-A DOCKER -d {address} ! -i docker0 -o docker0 -p tcp --dport 81 -j ACCEPT"),
        "-A DOCKER ! -i docker0 -o docker0 -j DROP",
        &format!("-t nat -A POSTROUTING -s {subnet} ! -o docker0 -j MASQUERADE"),
    ] {
        run(&format!("{iptables} {rule}"));
    }
}

/// What shall hold whatever Docker's rules look like, once FORWARD is guarded.
fn all_pairs() {
    reaches("c1", C2, true);
    reaches("c2", C1, true);
    reaches("c1", EXT, true);
    reaches("ext", C1, true);
    reaches("host", C1, true);
    reaches("d1", C1, true);
    reaches("c1", D1, false);
    reaches("ext", D1, false);
    for ip in D1 {
        assert!(ask("c1", ip, 81).is_some(), "Docker publishes port 81 of {ip}");
    }
}

/// Rules of engine 29 with `firewall-backend: nftables`, in the order and at the priorities of its own: for docker0, a
/// bridge with NAT, and d1, of which port 81 is published as 8081 of the host. It leaves FORWARD of iptables alone
/// (moby `daemon/libnetwork/drivers/bridge/internal/nftabler`).
fn docker_29_nftables() {
    for (family, place, prefix) in [("ip", 0, "172.17.0.0/16"), ("ip6", 1, "fd17::/64")] {
        let (container, loopback) = (D1[place], ["127.0.0.0/8", "::1"][place]);
        let target = address(container, 81);
        let script = format!(
            "table {family} docker-bridges {{
              map to-bridge {{ type ifname : verdict; elements = {{ docker0 : jump into-docker0 }} }}
              map from-bridge {{ type ifname : verdict; elements = {{ docker0 : jump out-of-docker0 }} }}
              map sent-from {{ type ifname : verdict; elements = {{ docker0 : jump masquerade-docker0 }} }}
              chain into-docker0 {{
                ct state established,related counter accept
                iifname docker0 counter accept
                {family} daddr {container} tcp dport 81 counter accept
                counter drop
              }}
              chain out-of-docker0 {{ ct state established,related counter accept; counter accept; }}
              chain masquerade-docker0 {{ oifname != docker0 {family} saddr {prefix} counter masquerade; }}
              chain ports {{ iifname != docker0 tcp dport 8081 counter dnat to {target}; }}
              chain forward {{
                type filter hook forward priority filter; policy accept;
                oifname vmap @to-bridge
                iifname vmap @from-bridge
              }}
              chain postrouting {{ type nat hook postrouting priority srcnat; policy accept; iifname vmap @sent-from; }}
              chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; fib daddr type local counter jump ports; }}
              chain output {{
                type nat hook output priority -100; policy accept;
                {family} daddr != {loopback} fib daddr type local counter jump ports
              }}
              chain raw {{
                type filter hook prerouting priority raw; policy accept;
                {family} daddr {container} iifname != docker0 counter drop
              }}
            }}"
        );
        std::fs::write("/run/docker.nft", script).unwrap();
        run("nft -f /run/docker.nft");
    }
}

#[test]
fn packets_pass_an_engine_with_the_nftables_backend_and_its_bridge_stays_closed() {
    isolated("packets_pass_an_engine_with_the_nftables_backend_and_its_bridge_stays_closed", || {
        topology();
        docker_29_nftables();
        let before = run("nft -s list table ip docker-bridges; nft -s list table ip6 docker-bridges");
        let lab = Lab::start(options());
        for (from, to, open) in [
            ("c1", C2, true),
            ("c2", C1, true),
            ("c1", EXT, true),
            ("ext", C1, true),
            ("host", C1, true),
            ("d1", C1, true),
            ("d1", EXT, true),
            ("c1", D1, false),
            ("ext", D1, false),
            ("host", D1, true),
        ] {
            reaches(from, to, open);
        }
        // Docker's bridge: a published port by the host's address, for everybody; and under which address it calls ours.
        let ports = [map(None, 8080, address(C1[0], PORT)), map(Some("::"), 8080, address(C1[1], PORT))];
        lab.block(lab.dataplane.publish_ports(&iface("cali1"), &ports)).unwrap();
        for (family, host) in HOST.into_iter().enumerate() {
            assert_eq!(ask("c1", D1[family], 81), None, "Docker lets nobody past its published port");
            assert!(ask("c1", host, 8081).is_some() && ask("ext", host, 8081).is_some());
            // Ours: clients are seen as who they are, but for Docker's, which it masquerades.
            assert_eq!(ask("ext", host, 8080).as_deref(), Some(EXT[family]));
            assert_eq!(ask("c2", host, 8080).as_deref(), Some(C2[family]));
            for from in ["host", "c1", "d1"] {
                assert!(ask(from, host, 8080).is_some(), "{from} to {host}");
            }
            // natOutgoing.
            assert_eq!(ask("c1", EXT[family], PORT).as_deref(), Some(HOST[family]));
            assert_eq!(ask("c1", C2[family], PORT).as_deref(), Some(C1[family]));
        }
        assert!(ask("host", "127.0.0.1", 8080).is_some());
        // The engine had the other backend before, and its FORWARD drops: ours pass, and Docker's own do not get out.
        if have("iptables-nft", "iptables") {
            run("iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP");
            lab.eventually("FORWARD lets ours pass", || {
                ask("c1", C2[0], PORT).is_some() && ask("c1", C2[1], PORT).is_some()
            });
            reaches("ext", C1, true);
            reaches("c1", EXT, true);
            reaches("d1", EXT, false);
            reaches("d1", C1, false);
            run("iptables-nft -P FORWARD ACCEPT; ip6tables-nft -P FORWARD ACCEPT");
            reaches("d1", C1, true);
        }
        // What is closed here stays closed whatever Docker accepts.
        lab.block(lab.dataplane.remove_endpoint(&iface("cali2"))).unwrap();
        for ip in C2 {
            for from in ["c1", "d1", "ext"] {
                assert!(ask(from, ip, PORT).is_none(), "{from} to {ip}");
            }
        }
        lab.block(lab.dataplane.resync()).unwrap();
        assert_eq!(lab.repairs(), 1, "only the first time, when there was no table");
        let after = run("nft -s list table ip docker-bridges; nft -s list table ip6 docker-bridges");
        assert_eq!(before, after, "Docker's tables are its own");
    });
}

/// One flow of UDP all the time.
struct Talk(UdpSocket);

impl Talk {
    fn start(from: &str, to: &'static str) -> Self {
        let server = inside("c2", move || UdpSocket::bind(address(to, 0)).unwrap());
        let at = server.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut question = [0; 8];
            while let Ok((_, from)) = server.recv_from(&mut question) {
                let _ = server.send_to(&question, from);
            }
        });
        let any: IpAddr = if at.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        let client = inside(from, move || UdpSocket::bind(SocketAddr::new(any, 0)).unwrap());
        client.connect(at).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        Self(client)
    }

    /// Whether any of a few questions is answered.
    fn answers(&self) -> bool {
        let number = || u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap();
        (0..5).any(|_| {
            let question = number().to_ne_bytes();
            let mut answer = [0; 8];
            self.0.send(&question).is_ok() && self.0.recv(&mut answer).is_ok() && answer == question
        })
    }
}

/// What belongs to a connection that passed once is asked by DOCKER-USER, but by no other rule of Docker's.
fn known_connections_pass_early(lab: &Lab, tool: &str) {
    let rule = |side: &str| format!("-A FORWARD -{side} cali+ -m mark --mark 0x30000/0x30000 -j ACCEPT");
    let early = [rule("i"), rule("o")];
    // Those that are directly before the jump to Docker's, and how many there are at all.
    let place = || {
        let text = run(&format!("{tool} -S FORWARD"));
        let lines: Vec<&str> = text.lines().collect();
        let jump = |line: &&str| {
            line.ends_with("-j DOCKER-ISOLATION-STAGE-1") || line.ends_with("-j DOCKER-FORWARD")
        };
        let dockers = lines.iter().position(jump).unwrap();
        let user = lines.iter().position(|line| line.ends_with("-j DOCKER-USER")).unwrap();
        let all = lines.iter().filter(|line| early.iter().any(|rule| rule == *line)).count();
        (user < dockers - 2 && lines[dockers - 2..dockers] == early, all)
    };
    lab.eventually("the early rules", || place() == (true, 2));
    for rule in &early {
        run(&format!("{tool} {}", rule.replacen("-A", "-C", 1)));
    }
    // An engine that makes a network puts its own first again.
    let jump = ["DOCKER-ISOLATION-STAGE-1", "DOCKER-FORWARD"]
        .into_iter()
        .find(|chain| try_run(&format!("{tool} -C FORWARD -j {chain}")).0)
        .unwrap();
    for chain in [jump, "DOCKER-USER"] {
        run(&format!("{tool} -D FORWARD -j {chain}"));
        run(&format!("{tool} -I FORWARD -j {chain}"));
    }
    lab.eventually("the early rules are where they were", || place() == (true, 2));
    let family = usize::from(tool.starts_with("ip6"));
    // One flow all the time, from one port.
    let talk = Talk::start("c1", C2[family]);
    assert!(talk.answers(), "c1 to {}", C2[family]);
    let counted = || {
        let text = run(&format!("{tool} -nvxL FORWARD"));
        let first = text.lines().find(|line| line.contains("0x30000/0x30000")).unwrap();
        first.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = counted();
    assert!(talk.answers() && counted() > before, "it passes by the early rules");
    run(&format!("{tool} -I DOCKER-USER -i cali1 -j DROP"));
    assert!(!talk.answers(), "DOCKER-USER stops what is under way");
    run(&format!("{tool} -D DOCKER-USER 1"));
    assert!(talk.answers());
}

fn forward_drop(flavour: &str, docker: fn(&str, &str, &str)) {
    let (v4, v6) = (format!("iptables-{flavour}"), format!("ip6tables-{flavour}"));
    topology();
    docker(&v4, D1[0], "172.17.0.0/16");
    docker(&v6, D1[1], "fd17::/64");
    reaches("c1", C2, false);
    let lab = Lab::start(options());
    lab.eventually("FORWARD lets ours pass", || {
        ask("c1", C2[0], PORT).is_some() && ask("c1", C2[1], PORT).is_some()
    });
    all_pairs();
    for tool in [&v4, &v6] {
        let text = run(&format!("{tool} -S FORWARD"));
        let ours: Vec<&str> = text.lines().rev().take(2).collect();
        assert_eq!(
            ours,
            [
                "-A FORWARD -o cali+ -m mark --mark 0x10000/0x10000 -m comment --comment calico-docker -j ACCEPT",
                "-A FORWARD -i cali+ -m mark --mark 0x10000/0x10000 -m comment --comment calico-docker -j ACCEPT",
            ]
        );
        run(&format!(
            "{tool} -C FORWARD -i cali+ -m mark --mark 0x10000/0x10000 -m comment --comment calico-docker -j ACCEPT"
        ));
        run(&format!("{tool} -L -n -v"));
        run(&format!("{tool}-save"));
        if flavour == "nft" {
            known_connections_pass_early(&lab, tool);
        }
    }
    // Docker, or an administrator, flushes and makes its rules anew.
    for tool in [&v4, &v6] {
        run(&format!("{tool} -F FORWARD"));
    }
    lab.eventually("the rules come back", || {
        ask("c1", C2[0], PORT).is_some() && ask("c1", C2[1], PORT).is_some()
    });
    // Without our table nothing may pass.
    run("nft delete table inet calico-docker");
    lab.eventually("the table comes back", || run("nft list tables").contains("calico-docker"));
    lab.block(lab.dataplane.remove_all()).unwrap();
    assert!(!run("nft list tables").contains("calico-docker"));
    for tool in [&v4, &v6] {
        assert!(!run(&format!("{tool} -S")).contains("cali"));
    }
    reaches("c1", C2, false);
}

#[test]
fn packets_pass_an_engine_20_forward_drop_and_its_bridge_stays_closed() {
    isolated("packets_pass_an_engine_20_forward_drop_and_its_bridge_stays_closed", || {
        if have("iptables-nft", "iptables") {
            forward_drop("nft", docker_20);
        }
    });
}

#[test]
fn packets_pass_an_engine_28_forward_drop_and_its_bridge_stays_closed() {
    isolated("packets_pass_an_engine_28_forward_drop_and_its_bridge_stays_closed", || {
        if have("iptables-nft", "iptables") {
            forward_drop("nft", docker_28);
        }
    });
}

#[test]
fn packets_pass_a_forward_drop_of_the_old_iptables() {
    isolated("packets_pass_a_forward_drop_of_the_old_iptables", || {
        if have("iptables-legacy", "iptables-legacy") && try_run("iptables-legacy -S").0 {
            forward_drop("legacy", docker_20);
        }
    });
}

#[test]
fn the_old_iptables_without_its_tool_is_told_as_a_warning() {
    isolated("the_old_iptables_without_its_tool_is_told_as_a_warning", || {
        if !have("iptables-legacy", "iptables-legacy") || !try_run("iptables-legacy -P FORWARD DROP").0 {
            return;
        }
        let mut options = options();
        options.legacy.iptables = "/nowhere/iptables-legacy".into();
        let lab = Lab::start(options);
        let status = lab.dataplane.status().borrow().clone();
        assert!(status.in_force);
        assert_eq!(
            status.warnings,
            [
                "the old iptables filters forwarded packets on this host, and there is no /nowhere/iptables-legacy to let ours pass"
            ]
        );
    });
}

#[test]
fn forward_chains_without_docker_and_drop_are_left_alone() {
    isolated("forward_chains_without_docker_and_drop_are_left_alone", || {
        if !have("iptables-nft", "iptables") {
            return;
        }
        run("iptables-nft -A FORWARD -s 203.0.113.1 -j DROP");
        let lab = Lab::start(options());
        assert!(!run("iptables-nft -S").contains("cali"));
        run("iptables-nft -P FORWARD DROP");
        lab.eventually("the policy is noticed", || run("iptables-nft -S").contains("-i cali+"));
        drop(lab);
        let lab = Lab::start(Options { forward_accept: ForwardAccept::Never, ..options() });
        run("iptables-nft -F FORWARD");
        lab.block(lab.dataplane.resync()).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert!(!run("iptables-nft -S").contains("cali"));
        // As a process leaves it that ended beside Felix: by it everything would pass.
        run("iptables-nft -A FORWARD -i cali+ -m comment --comment calico-docker -j ACCEPT");
        lab.eventually("what lets everything pass is gone", || !run("iptables-nft -S").contains("cali"));
    });
}

#[test]
fn the_old_iptables_lets_pass_what_felix_decides_about() {
    isolated("the_old_iptables_lets_pass_what_felix_decides_about", || {
        if !have("iptables-legacy", "iptables-legacy") || !try_run("iptables-legacy -P FORWARD DROP").0 {
            return;
        }
        let lab = Lab::start(options());
        let rules = || {
            let listing = run("iptables-legacy -S FORWARD");
            let of = |marked: bool| {
                listing
                    .lines()
                    .filter(|line| line.contains("cali+") && line.contains("--mark") == marked)
                    .count()
            };
            (of(true), of(false))
        };
        lab.eventually("our packets pass", || rules() == (2, 0));
        felix(["ip", "ip6"], &["cali1"]);
        lab.block(lab.dataplane.stand_back()).unwrap();
        assert_eq!(rules(), (0, 2));
        // Felix moves to the old iptables, where it sees to FORWARD itself.
        lines(
            "iptables-legacy -N cali-FORWARD
            iptables-legacy -I FORWARD -j cali-FORWARD
            nft delete table ip calico
            nft delete table ip6 calico",
        );
        lab.eventually("FORWARD is Felix's", || rules() == (0, 0));
        lab.block(lab.dataplane.take_over()).unwrap();
        assert_eq!(rules(), (2, 0));
    });
}

#[test]
fn traffic_leaves_under_the_hosts_address_as_the_pool_says() {
    isolated("traffic_leaves_under_the_hosts_address_as_the_pool_says", || {
        topology();
        let lab = Lab::start(options());
        for (family, ext) in EXT.into_iter().enumerate() {
            assert_eq!(ask("c1", ext, PORT).as_deref(), Some(HOST[family]));
            assert_eq!(ask("c1", C2[family], PORT).as_deref(), Some(C1[family]));
        }
        let set = |pools: &[PoolNat]| lab.block(lab.dataplane.set_pools(pools)).unwrap();
        set(&[pool("10.65.0.0/16", false), pool("fd65::/32", false)]);
        for (family, ext) in EXT.into_iter().enumerate() {
            assert_eq!(ask("c1", ext, PORT).as_deref(), Some(C1[family]));
        }
        // Outside, but in another pool; the pools overlap and adjoin.
        set(&[
            pool("10.65.0.0/16", true),
            pool("10.65.0.0/24", true),
            pool("10.66.0.0/16", true),
            pool("192.0.2.0/24", false),
            pool("fd65::/32", true),
            pool("2001:db8::/64", false),
        ]);
        for (family, ext) in EXT.into_iter().enumerate() {
            assert_eq!(ask("c1", ext, PORT).as_deref(), Some(C1[family]));
        }
        set(&[]);
        lab.block(lab.dataplane.resync()).unwrap();
        assert_eq!(lab.repairs(), 1, "only the first time, when there was no table");
    });
}

#[test]
fn spoofed_sources_and_unknown_interfaces_are_dropped() {
    isolated("spoofed_sources_and_unknown_interfaces_are_dropped", || {
        topology();
        let lab = Lab::start(options());
        let seen = serve_udp("ext", "[::]:90");
        for (spoofed, own, to) in [
            ("10.65.0.2", C1[0], address(EXT[0], 90)),
            ("10.65.7.7", C1[0], address(EXT[0], 90)),
            ("fd65::2", C1[1], address(EXT[1], 90)),
        ] {
            let nodad = if to.is_ipv6() { "nodad" } else { "" };
            run(&format!("nsenter --net=/run/netns/c1 ip addr add {spoofed} dev eth0 {nodad}"));
            let send = move |source: String| {
                inside("c1", move || {
                    let socket = UdpSocket::bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
                    socket.send_to(b"x", to).unwrap();
                });
            };
            send(spoofed.to_owned());
            send(own.to_owned());
            lab.eventually("the honest packet arrives", || !seen.lock().unwrap().is_empty());
            run(&format!("nsenter --net=/run/netns/c1 ip addr del {spoofed} dev eth0"));
            let senders: Vec<IpAddr> = std::mem::take(&mut *seen.lock().unwrap());
            let host = if to.is_ipv6() { HOST[1] } else { HOST[0] };
            assert_eq!(senders, [host.parse::<IpAddr>().unwrap()], "spoofed {spoofed}");
        }
        // The kernel's own multicast reports from the unspecified address may be counted as well.
        let text = run("nft list chain inet calico-docker rpf-also");
        let dropped =
            text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse::<u32>();
        assert!(dropped.unwrap() >= 3, "{text}");

        reaches("c1", C2, true);
        lab.block(lab.dataplane.remove_endpoint(&iface("cali2"))).unwrap();
        reaches("c1", C2, false);
        reaches("c2", C1, false);
        reaches("c2", EXT, false);
        assert!(ask("c2", HOST[0], PORT).is_none());
        lab.block(lab.dataplane.add_endpoint(&iface("cali2"), &routed("cali2"))).unwrap();
        reaches("c1", C2, true);
        let error = lab.block(lab.dataplane.add_endpoint(&iface("eth0"), &[])).unwrap_err();
        assert!(matches!(error, DataplaneError::ForeignInterface(_)));
    });
}

/// Sends a UDP packet from a namespace under a source address that is put there for it.
fn send_as(namespace: &str, source: &str, to: SocketAddr) {
    let nodad = if to.is_ipv6() { "nodad" } else { "" };
    run(&format!("nsenter --net=/run/netns/{namespace} ip addr replace {source} dev lo {nodad}"));
    let from = SocketAddr::new(source.parse().unwrap(), 0);
    inside(namespace, move || {
        UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap();
    });
    run(&format!("nsenter --net=/run/netns/{namespace} ip addr del {source} dev lo"));
}

#[test]
fn a_container_sends_under_the_addresses_of_its_other_endpoints_and_nobody_else_does() {
    isolated("a_container_sends_under_the_addresses_of_its_other_endpoints_and_nobody_else_does", || {
        const SECOND: [&str; 2] = ["10.65.0.3", "fd65::3"];
        topology();
        lines(
            "ip link add cali3 address ee:ee:ee:ee:ee:ee type veth peer name eth1 netns c1
            sysctl -qw net.ipv6.conf.cali3.accept_dad=0
            sysctl -qw net.ipv4.conf.cali3.rp_filter=0
            ip link set cali3 up
            nsenter --net=/run/netns/c1 sysctl -qw net.ipv6.conf.eth1.accept_dad=0
            nsenter --net=/run/netns/c1 ip link set eth1 up
            nsenter --net=/run/netns/c1 ip addr add 10.65.0.3/32 dev eth1
            nsenter --net=/run/netns/c1 ip addr add fd65::3/128 dev eth1 nodad
            ip route add 10.65.0.3/32 dev cali3
            ip route add fd65::3/128 dev cali3",
        );
        let lab = Lab::start(options());
        let (c1, c3) = (iface("cali1"), iface("cali3"));
        lab.block(lab.dataplane.add_endpoint(&c3, &routed("cali3"))).unwrap();
        reaches("c2", C1, true);
        reaches("c2", SECOND, false);
        let siblings = |of: &IfaceName, ips: [&str; 2]| {
            let ips = ips.map(|ip| ip.parse().unwrap());
            lab.block(lab.dataplane.set_siblings(of, &ips)).unwrap();
        };
        siblings(&c1, SECOND);
        siblings(&c3, C1);
        let allowed = || {
            reaches("c2", SECOND, true);
            reaches("c2", C1, true);
            reaches("c1", C2, true);
        };
        allowed();

        // Elsewhere the same addresses are spoofed, and so are others here.
        let seen = serve_udp("ext", "[::]:90");
        for (family, ext) in EXT.into_iter().enumerate() {
            let to = address(ext, 90);
            let unknown = ["10.65.7.7", "fd65::7"][family];
            for (from, source) in [("c2", SECOND[family]), ("c1", C2[family]), ("c1", unknown)] {
                send_as(from, source, to);
            }
            for honest in ["c1", "c2"] {
                let source = if honest == "c1" { C1 } else { C2 }[family].parse().unwrap();
                inside(honest, move || {
                    UdpSocket::bind(SocketAddr::new(source, 0)).unwrap().send_to(b"x", to).unwrap();
                });
            }
            lab.eventually("the honest packets arrive", || seen.lock().unwrap().len() >= 2);
            assert_eq!(std::mem::take(&mut *seen.lock().unwrap()).len(), 2, "{ext}: a spoofed one arrived");
        }

        run("nft flush set inet calico-docker rpf-also4");
        lab.eventually("what others flushed comes back", || lab.repairs() == 2);
        allowed();
        // A new process knows them before it adopts the kernel's state.
        siblings(&c1, SECOND);
        lab.block(lab.dataplane.resync()).unwrap();
        assert_eq!(lab.repairs(), 2, "nothing had to be changed");

        lab.block(lab.dataplane.set_siblings(&c1, &[])).unwrap();
        reaches("c2", SECOND, false);
        siblings(&c1, SECOND);
        reaches("c2", SECOND, true);
        lab.block(async {
            lab.dataplane.remove_endpoint(&c1).await.unwrap();
            lab.dataplane.add_endpoint(&c1, &routed("cali1")).await.unwrap();
        });
        reaches("c2", SECOND, false);
        reaches("c2", C1, true);
    });
}

#[test]
fn what_listens_on_the_hosts_localhost_is_out_of_a_containers_reach() {
    isolated("what_listens_on_the_hosts_localhost_is_out_of_a_containers_reach", || {
        topology();
        serve("127.0.0.1:82");
        lines(
            "ip link set lo up
            nsenter --net=/run/netns/c1 ip addr del 127.0.0.1/8 dev lo
            nsenter --net=/run/netns/c1 sysctl -qw net.ipv4.conf.eth0.route_localnet=1
            nsenter --net=/run/netns/c1 sysctl -qw net.ipv4.conf.all.rp_filter=0",
        );
        assert!(ask("c1", "127.0.0.1", 82).is_some(), "the test proves nothing");
        let lab = Lab::start(options());
        assert!(ask("c1", "127.0.0.1", 82).is_none());
        assert!(ask("host", "127.0.0.1", 82).is_some());
        let ports = [map(Some("127.0.0.1"), 8080, address(C1[0], PORT))];
        lab.block(lab.dataplane.publish_ports(&iface("cali1"), &ports)).unwrap();
        assert!(ask("host", "127.0.0.1", 8080).is_some(), "published ports on localhost work as before");
    });
}

#[test]
fn an_established_connection_ends_with_its_endpoint() {
    isolated("an_established_connection_ends_with_its_endpoint", || {
        topology();
        let lab = Lab::start(options());
        let listener = inside("c2", || TcpListener::bind("0.0.0.0:91").unwrap());
        let mut client = inside("c1", || TcpStream::connect(address(C2[0], 91)).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
        let mut buffer = [0; 8];
        client.write_all(b"one").unwrap();
        assert_eq!(server.read(&mut buffer).unwrap(), 3);
        lab.block(lab.dataplane.remove_endpoint(&iface("cali1"))).unwrap();
        client.write_all(b"two").unwrap();
        assert!(server.read(&mut buffer).is_err());
    });
}

#[test]
fn the_host_is_reached_as_the_setting_says() {
    isolated("the_host_is_reached_as_the_setting_says", || {
        topology();
        serve("[::]:80");
        for (action, open) in
            [(HostAction::Return, true), (HostAction::Drop, false), (HostAction::Accept, true)]
        {
            let lab = Lab::start(Options {
                tuning: Tuning { host_action: action, ..Tuning::default() },
                ..options()
            });
            reaches("c1", HOST, open);
            reaches("host", C1, true);
            lab.block(lab.dataplane.remove_endpoint(&iface("cali1"))).unwrap();
            reaches("c1", HOST, false);
        }
    });
}

#[test]
fn workloads_cannot_wrap_their_packets_up() {
    isolated("workloads_cannot_wrap_their_packets_up", || {
        topology();
        let lab = Lab::start(options());
        let wrapped = serve_udp("ext", "[::]:4789");
        let plain = serve_udp("ext", "[::]:4790");
        inside("c1", || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"x", address(EXT[0], 4789)).unwrap();
            socket.send_to(b"x", address(EXT[0], 4790)).unwrap();
        });
        lab.eventually("plain UDP arrives", || !plain.lock().unwrap().is_empty());
        assert!(wrapped.lock().unwrap().is_empty());
    });
}

fn map(host_ip: Option<&str>, host_port: u16, container: SocketAddr) -> PortMap {
    PortMap { protocol: Protocol::Tcp, host_ip: host_ip.map(|ip| ip.parse().unwrap()), host_port, container }
}

#[test]
fn published_ports_are_reached_by_everyone_and_end_with_revoke() {
    isolated("published_ports_are_reached_by_everyone_and_end_with_revoke", || {
        topology();
        if have("iptables-nft", "iptables") {
            docker_20("iptables-nft", D1[0], "172.17.0.0/16");
            docker_20("ip6tables-nft", D1[1], "fd17::/64");
        }
        let lab = Lab::start(options());
        let ports = [map(None, 8080, address(C1[0], PORT)), map(Some("::"), 8080, address(C1[1], PORT))];
        lab.block(lab.dataplane.publish_ports(&iface("cali1"), &ports)).unwrap();
        for (family, host) in HOST.into_iter().enumerate() {
            // Remote, and a neighbour on this host: the container sees who it is.
            assert_eq!(ask("ext", host, 8080).as_deref(), Some(EXT[family]));
            assert_eq!(ask("c2", host, 8080).as_deref(), Some(C2[family]));
            // Host-local, hairpin.
            assert!(ask("host", host, 8080).is_some());
            assert!(ask("c1", host, 8080).is_some(), "hairpin to {host}");
            assert!(ask("d1", host, 8080).is_some(), "Docker's container to {host}");
        }
        assert!(ask("host", "127.0.0.1", 8080).is_some());
        serve("[::1]:8080");
        assert_eq!(
            ask("host", "::1", 8080).as_deref(),
            Some("::1"),
            "the host's own, because it cannot leave"
        );
        assert!(ask("host", "172.17.0.1", 8080).is_some());
        assert!(ask("ext", "172.17.0.1", 8080).is_some());
        assert!(ask("ext", HOST[0], 8081).is_none());

        let taken = lab.block(
            lab.dataplane.publish_ports(&iface("cali2"), &[map(Some(HOST[0]), 8080, address(C2[0], PORT))]),
        );
        let text = taken.unwrap_err().to_string();
        assert_eq!(text, "port 8080/tcp of the host is already published for endpoint cali1");

        lab.block(lab.dataplane.revoke_ports(&iface("cali1"))).unwrap();
        for host in HOST {
            for from in ["ext", "c1", "c2", "host"] {
                assert!(ask(from, host, 8080).is_none(), "{from} to {host} after revoke");
            }
        }
    });
}

#[test]
fn ports_of_one_host_address_udp_and_ranges_work() {
    isolated("ports_of_one_host_address_udp_and_ranges_work", || {
        topology();
        let lab = Lab::start(options());
        let c1 = iface("cali1");
        serve_udp("c1", "[::]:90");
        let mut ports: Vec<PortMap> =
            (0..20).map(|n| map(Some(HOST[0]), 9000 + n, address(C1[0], 80 + n % 2))).collect();
        ports.push(map(Some("127.0.0.1"), 9100, address(C1[0], PORT)));
        ports.push(PortMap { protocol: Protocol::Udp, ..map(Some(HOST[0]), 9000, address(C1[0], 90)) });
        ports.push(PortMap { protocol: Protocol::Udp, ..map(Some(HOST[1]), 9000, address(C1[1], 90)) });
        ports.push(PortMap { protocol: Protocol::Sctp, ..map(None, 9000, address(C1[0], 90)) });
        lab.block(lab.dataplane.publish_ports(&c1, &ports)).unwrap();
        for port in [9000, 9001, 9019] {
            assert!(ask("ext", HOST[0], port).is_some());
            assert!(ask("ext", "172.17.0.1", port).is_none(), "published on one address only");
        }
        assert!(ask("host", "127.0.0.1", 9100).is_some());
        assert!(ask("ext", HOST[0], 9100).is_none());
        for host in HOST {
            let echoed = inside("ext", move || {
                let socket = UdpSocket::bind("[::]:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let to = if host.contains(':') {
                    address(host, 9000)
                } else {
                    address(&format!("::ffff:{host}"), 9000)
                };
                socket.send_to(b"hello", to).unwrap();
                socket.recv(&mut [0; 8]).is_ok()
            });
            assert!(echoed, "UDP to {host}");
        }
        // Publishing anew replaces; the end of the endpoint takes back.
        lab.block(lab.dataplane.publish_ports(&c1, &[map(None, 9000, address(C1[0], 81))])).unwrap();
        assert!(ask("ext", HOST[0], 9001).is_none());
        assert!(ask("ext", HOST[0], 9000).is_some());
        lab.block(lab.dataplane.remove_endpoint(&c1)).unwrap();
        let text = run("nft list table inet calico-docker");
        assert!(!text.contains("9000"), "{text}");
        lab.block(lab.dataplane.resync()).unwrap();
        assert_eq!(lab.repairs(), 1);
    });
}

#[test]
fn what_others_change_in_our_table_is_repaired_at_once() {
    isolated("what_others_change_in_our_table_is_repaired_at_once", || {
        topology();
        let lab = Lab::start(options());
        lab.block(lab.dataplane.publish_ports(&iface("cali1"), &[map(None, 8080, address(C1[0], PORT))]))
            .unwrap();
        // Handles and counters aside.
        let listing = || run("nft -s list table inet calico-docker");
        let want = listing();
        let chain = |kind: &str| {
            let start = want.find(&format!("chain {kind}-")).unwrap() + "chain ".len();
            want[start..].split(' ').next().unwrap().to_owned()
        };
        run("nft add table ip bystander");
        run("nft add chain ip bystander c");
        let strokes = [
            "nft flush ruleset",
            "nft delete table inet calico-docker",
            "nft 'delete element inet calico-docker from-wl { \"cali1\" }'",
            &format!(
                "nft 'add element inet calico-docker to-wl {{ \"cali9\" : goto {} }}'",
                chain("shape-to")
            ),
            &format!("nft flush chain inet calico-docker {}", chain("shape-from")),
            &format!("nft flush chain inet calico-docker {}", chain("prof-in")),
            &format!("nft 'insert rule inet calico-docker {} drop'", chain("prof-out")),
            "nft 'add element inet calico-docker pool-masq4 { 203.0.113.0/24 }'",
            "nft flush set inet calico-docker pool-all6",
            "nft flush chain inet calico-docker wl-accept",
            "nft flush table inet calico-docker",
            "nft insert rule inet calico-docker forward accept",
            "nft add chain inet calico-docker extra",
            "nft 'add set inet calico-docker extra { type mark; }'",
            "nft 'add chain inet calico-docker forward { policy drop; }'",
            "nft 'add table inet calico-docker { flags dormant; }'",
            "nft flush map inet calico-docker ports4",
        ];
        for stroke in strokes {
            let before = lab.repairs();
            let started = Instant::now();
            run(stroke);
            lab.eventually(stroke, || lab.repairs() > before && listing() == want);
            println!("{:?} after {stroke}", started.elapsed());
        }
        reaches("c1", C2, true);
        assert!(ask("ext", HOST[0], 8080).is_some());
        assert!(!run("nft list tables").contains("bystander"), "nft flush ruleset took it, not we");
        assert_eq!(lab.repairs(), 1 + strokes.len() as u64, "one repair each, and none for our own");
    });
}

#[test]
fn verbs_find_their_way_when_the_table_is_gone() {
    isolated("verbs_find_their_way_when_the_table_is_gone", || {
        let lab = Lab::start(Options {
            timing: Timing { settle: Duration::from_secs(60), ..options().timing },
            ..options()
        });
        let d = &lab.dataplane;
        run("nft delete table inet calico-docker");
        lab.block(d.add_endpoint(&iface("cali3"), &routed("cali3"))).unwrap();
        run("nft 'delete element inet calico-docker from-wl { \"cali3\" }'");
        lab.block(d.remove_endpoint(&iface("cali3"))).unwrap();
        run("nft 'add element inet calico-docker from-wl { \"cali3\" : drop }'");
        lab.block(d.add_endpoint(&iface("cali3"), &routed("cali3"))).unwrap();
        assert!(run("nft list map inet calico-docker from-wl").contains("\"cali3\" : goto shape-from-"));
        // Again and again is the same.
        lab.block(async {
            d.add_endpoint(&iface("cali3"), &routed("cali3")).await.unwrap();
            d.revoke_ports(&iface("cali3")).await.unwrap();
            d.remove_endpoint(&iface("cali3")).await.unwrap();
            d.remove_endpoint(&iface("cali3")).await.unwrap();
            d.remove_all().await.unwrap();
            d.remove_all().await.unwrap();
            d.ensure().await.unwrap();
            d.ensure().await.unwrap();
        });
        assert!(run("nft list map inet calico-docker from-wl").contains("cali2"));
    });
}

#[test]
fn a_change_that_the_kernel_refuses_is_told_undone_and_tried_again() {
    isolated("a_change_that_the_kernel_refuses_is_told_undone_and_tried_again", || {
        topology();
        let lab = Lab::start(options());
        lab.block(lab.dataplane.remove_endpoint(&iface("cali2"))).unwrap();
        // A table that another process owns can be changed by nobody else, and vanishes with the process.
        let mut owner =
            Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let script = b"delete table inet calico-docker\nadd table inet calico-docker { flags owner; }\n";
        owner.stdin.as_mut().unwrap().write_all(script).unwrap();
        lab.eventually("the loss is noticed", || !lab.dataplane.status().borrow().in_force);
        let error =
            lab.block(lab.dataplane.add_endpoint(&iface("cali2"), &routed("cali2"))).unwrap_err().to_string();
        let want = "put the packet filter in force: table inet calico-docker: ";
        assert!(error.starts_with(want) && error.contains("Operation not permitted"), "{error}");
        let pools = lab.block(lab.dataplane.set_pools(&[pool("10.99.0.0/16", true)]));
        assert!(pools.is_err());
        assert!(lab.dataplane.status().borrow().error.is_some());
        drop(owner.stdin.take());
        owner.wait().unwrap();
        lab.eventually("it is tried again", || lab.dataplane.status().borrow().in_force);
        let text = run("nft list table inet calico-docker");
        assert!(
            text.contains("\"cali1\"") && !text.contains("\"cali2\""),
            "what failed left nothing: {text}"
        );
        assert!(text.contains("10.99.0.0/16"), "facts are kept: {text}");
    });
}

#[test]
fn the_worker_ends_with_its_doors() {
    isolated("the_worker_ends_with_its_doors", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (door, worker) = Dataplane::new(options());
            let task = tokio::spawn(worker.run(CancellationToken::new()));
            door.ensure().await.unwrap();
            drop(door);
            tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
            let (door, worker) = Dataplane::new(options());
            drop(worker);
            assert!(matches!(door.ensure().await, Err(DataplaneError::Stopped)));
        });
        assert!(run("nft list tables").contains("inet calico-docker"), "the kernel keeps what it has");
    });
}

/// Echoes from c1 to c2 every two milliseconds; counts what came back and what did not.
struct Stream {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(usize, usize)>,
    echoed: Arc<AtomicUsize>,
}

impl Stream {
    fn start() -> Self {
        serve_udp("c2", "[::]:90");
        let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (stop.clone(), echoed.clone());
        let socket = inside("c1", || UdpSocket::bind("0.0.0.0:0").unwrap());
        let thread = std::thread::spawn(move || {
            socket.connect(address(C2[0], 90)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut lost = 0;
            while !until.load(Ordering::Relaxed) {
                socket.send(b"x").unwrap();
                match socket.recv(&mut [0; 8]) {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => lost += 1,
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            (count.load(Ordering::Relaxed), lost)
        });
        let stream = Self { stop, thread, echoed };
        stream.await_more();
        stream
    }

    fn await_more(&self) {
        let goal = self.echoed.load(Ordering::Relaxed) + 10;
        let started = Instant::now();
        while self.echoed.load(Ordering::Relaxed) < goal {
            assert!(started.elapsed() < Duration::from_secs(5), "the stream stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_restarted_process_adopts_the_kernels_state_without_losing_a_packet() {
    isolated("a_restarted_process_adopts_the_kernels_state_without_losing_a_packet", || {
        topology();
        let lab = Lab::start(options());
        let stream = Stream::start();
        drop(lab);
        stream.await_more();
        let again = Lab::start(options());
        assert_eq!(again.repairs(), 0, "nothing had to be changed");
        stream.await_more();
        drop(again);
        // A new version has other rules, and does not know a chain and a set of the old one.
        for round in 0..20 {
            let action = if round % 2 == 0 { HostAction::Drop } else { HostAction::Return };
            let next = Lab::start(Options {
                tuning: Tuning { host_action: action, ..Tuning::default() },
                ..options()
            });
            assert_eq!(next.repairs(), 1);
            stream.await_more();
            drop(next);
            lines(
                "nft add chain inet calico-docker extra
                nft 'add map inet calico-docker extra { type ifname : verdict; }'
                nft 'add element inet calico-docker extra { \"cali1\" : jump extra }'
                nft insert rule inet calico-docker forward iifname vmap @extra",
            );
            stream.await_more();
        }
        let (echoed, lost) = stream.end();
        assert_eq!(lost, 0, "of {echoed}");
    });
}

#[test]
fn foreign_tables_are_never_touched_and_remove_all_leaves_nothing() {
    isolated("foreign_tables_are_never_touched_and_remove_all_leaves_nothing", || {
        lines(
            "nft add table inet calico-docker2
            nft add table ip calico-docker
            nft 'add chain ip calico-docker forward { type filter hook forward priority 0; policy accept; }'
            nft add rule ip calico-docker forward counter accept
            nft add table inet firewalld",
        );
        if have("iptables-nft", "iptables") {
            docker_20("iptables-nft", D1[0], "172.17.0.0/16");
        }
        let before = run("nft list ruleset");
        let lab = Lab::start(options());
        assert_ne!(run("nft list ruleset"), before);
        lab.block(lab.dataplane.remove_all()).unwrap();
        assert_eq!(run("nft list ruleset"), before);
        run("nft add table inet other");
        std::thread::sleep(Duration::from_millis(100));
        assert!(!run("nft list tables").contains("inet calico-docker\n"), "what was removed stays removed");
    });
}

/// What Felix leaves in the kernel once it knows these endpoints: its filter lets them talk to everybody and drops what
/// comes from, or goes to, any other workload.
fn felix(tables: [&str; 2], endpoints: &[&str]) {
    let quoted: Vec<String> = endpoints.iter().map(|iface| format!("\"{iface}\"")).collect();
    let (known, mut chains) = (quoted.join(", "), String::new());
    for iface in endpoints {
        chains.push_str(&format!("chain filter-cali-tw-{iface} {{ }}; chain filter-cali-fw-{iface} {{ }};"));
    }
    for family in tables {
        let table = format!(
            "table {family} calico {{ {chains}
                chain filter-cali-FORWARD {{
                    iifname \"cali*\" iifname != {{ {known} }} drop; oifname \"cali*\" oifname != {{ {known} }} drop; }}
                chain filter-FORWARD {{ type filter hook forward priority 0; policy accept; jump filter-cali-FORWARD; }}
            }}"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), table.replace(';', "\n")).unwrap();
        let loaded = try_run(&format!("nft -f {}", file.path().display()));
        assert!(loaded.0, "{}", loaded.1);
    }
}

#[test]
fn signs_of_felix_are_found() {
    isolated("signs_of_felix_are_found", || {
        let lab = Lab::start(options());
        let look = || lab.block(felix_programming(&options())).unwrap();
        assert!(look().signs.is_empty());
        run("nft add table ip calico");
        assert!(look().signs.is_empty(), "a table that filters nothing protects nobody");
        run("nft delete table ip calico");
        felix(["ip", "ip6"], &["cali1"]);
        assert_eq!(look().signs, ["nft table ip calico", "nft table ip6 calico"]);
        assert!(look().knows(&iface("cali1"), true) && !look().knows(&iface("cali2"), false));
        if have("iptables-nft", "iptables") {
            run("iptables-nft -N cali-FORWARD");
            assert_eq!(look().signs.len(), 2, "nothing leads to it");
            lines(
                "iptables-nft -I FORWARD -j cali-FORWARD
                iptables-nft -N cali-tw-cali2
                iptables-nft -N cali-fw-cali2",
            );
            assert_eq!(look().signs[2], "chain cali-FORWARD in table ip filter");
            assert!(look().knows(&iface("cali2"), false) && !look().knows(&iface("cali2"), true));
        }
    });
}

#[test]
fn felix_comes_and_goes_without_a_packet_lost_or_let_through() {
    isolated("felix_comes_and_goes_without_a_packet_lost_or_let_through", || {
        topology();
        let closed = ["10.65.0.3", "fd65::3"];
        container("c3", "cali3", closed);
        let lab = Lab::start(options());
        // Docker's policy. What Felix accepts of a connection bears no mark when it comes there, or comes there first.
        let forward = || run("iptables-nft -S FORWARD; ip6tables-nft -S FORWARD");
        let passing = |marked: bool| {
            forward()
                .lines()
                .filter(|line| line.contains("cali+") && line.contains("--mark") == marked)
                .count()
        };
        let docker = have("iptables-nft", "iptables");
        if docker {
            run("iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP");
            lab.eventually("our packets pass", || passing(true) == 4);
        }
        let stream = Stream::start();
        let let_through = serve_udp("c2", "[::]:91");
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let socket = inside("c3", || UdpSocket::bind("0.0.0.0:0").unwrap());
        let knocking = std::thread::spawn(move || {
            let mut knocks = 0;
            while !until.load(Ordering::Relaxed) {
                socket.send_to(b"x", address(C2[0], 91)).unwrap();
                knocks += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            knocks
        });
        for _ in 0..20 {
            felix(["ip", "ip6"], &["cali1", "cali2"]);
            stream.await_more();
            lab.block(lab.dataplane.stand_back()).unwrap();
            stream.await_more();
            let table = run("nft list table inet calico-docker");
            assert!(!table.contains("from-wl") && table.contains("nat-prerouting"), "{table}");
            assert!(!docker || (passing(true), passing(false)) == (0, 4), "{}", forward());
            lab.block(lab.dataplane.take_over()).unwrap();
            stream.await_more();
            assert!(!docker || (passing(true), passing(false)) == (4, 0), "{}", forward());
            lines(
                "nft delete table ip calico
                nft delete table ip6 calico",
            );
        }
        stop.store(true, Ordering::Relaxed);
        assert!(knocking.join().unwrap() > 100);
        let (echoed, lost) = stream.end();
        assert_eq!(lost, 0, "of {echoed}");
        assert_eq!(*let_through.lock().unwrap(), Vec::<IpAddr>::new());
    });
}

#[test]
fn what_is_told_beside_felix_is_in_force_after_it() {
    isolated("what_is_told_beside_felix_is_in_force_after_it", || {
        topology();
        let lab = Lab::start(options());
        felix(["ip", "ip6"], &["cali1", "cali2", "cali3"]);
        lab.block(lab.dataplane.stand_back()).unwrap();
        let port = map(None, 8080, address(C1[0], PORT));
        lab.block(async {
            lab.dataplane.publish_ports(&iface("cali1"), &[port]).await.unwrap();
            lab.dataplane.add_endpoint(&iface("cali-late"), &[]).await.unwrap();
            lab.dataplane.add_endpoint(&iface("cali3"), &routed("cali3")).await.unwrap();
            lab.dataplane.remove_endpoint(&iface("cali-late")).await.unwrap();
        });
        assert!(ask("ext", HOST[0], 8080).is_some(), "published ports are ours alone");
        // Pools, policy, FelixConfiguration and a comparison change nothing in the kernel, and nothing is refused.
        let listed = || run("nft list ruleset");
        let (before, status) = (listed(), lab.dataplane.status());
        let (commits, refusals) = (status.borrow().commits, status.borrow().refusals);
        lab.block(async {
            let dataplane = &lab.dataplane;
            dataplane.set_pools(&[pool("10.65.0.0/16", true)]).await.unwrap();
            dataplane.apply_policy(open(["cali1", "cali2", "cali3", "cali4"])).await.unwrap();
            let tuning = Tuning { host_action: HostAction::Drop, ..Tuning::default() };
            dataplane.tune(tuning).await.unwrap();
            dataplane.resync().await.unwrap();
        });
        assert_eq!(listed(), before);
        assert_eq!((status.borrow().commits, status.borrow().refusals), (commits, refusals));
        assert!(!before.contains("DefaultEndpointToHostAction"));
        run("nft delete table inet calico-docker");
        lab.eventually("the ports come back", || run("nft list ruleset").contains("8080"));
        lab.block(lab.dataplane.take_over()).unwrap();
        lines(
            "nft delete table ip calico
            nft delete table ip6 calico",
        );
        let table = run("nft list table inet calico-docker");
        assert!(table.contains("\"cali3\"") && !table.contains("cali-late"), "{table}");
        assert!(table.contains("DefaultEndpointToHostAction") && table.contains("10.65.0.0/16"), "{table}");
        assert!(ask("ext", HOST[0], 8080).is_some());
        reaches("c1", C2, true);
    });
}

#[test]
fn felix_in_iptables_has_forward_to_itself() {
    isolated("felix_in_iptables_has_forward_to_itself", || {
        if !have("iptables-nft", "iptables") {
            return;
        }
        run("iptables-nft -P FORWARD DROP");
        let lab = Lab::start(options());
        let ours = || run("iptables-nft -S FORWARD").contains("calico-docker");
        assert!(ours());
        lab.block(lab.dataplane.stand_back()).unwrap();
        assert!(ours(), "Felix with tables of its own leaves FORWARD alone");
        lab.block(lab.dataplane.take_over()).unwrap();
        lines(
            "iptables-nft -N cali-FORWARD
            iptables-nft -I FORWARD -j cali-FORWARD",
        );
        lab.block(lab.dataplane.stand_back()).unwrap();
        assert!(!ours());
        lab.block(lab.dataplane.take_over()).unwrap();
        assert!(ours());
    });
}

#[test]
fn adding_an_endpoint_is_quick_with_thousands_there() {
    isolated("adding_an_endpoint_is_quick_with_thousands_there", || {
        let lab = Lab::start(options());
        lab.block(async {
            for total in [3_usize, 1000, 10_000] {
                let names: Vec<String> = (0..total).map(|n| format!("cali{n}x")).collect();
                lab.dataplane.apply_policy(open(names.iter().map(String::as_str))).await.unwrap();
                for n in 0..total {
                    lab.dataplane.add_endpoint(&iface(&format!("cali{n}x")), &[]).await.unwrap();
                }
                let mut times = Vec::new();
                for _ in 0..50 {
                    let started = Instant::now();
                    lab.dataplane.add_endpoint(&iface("cali-new"), &routed("cali3")).await.unwrap();
                    times.push(started.elapsed());
                    lab.dataplane.remove_endpoint(&iface("cali-new")).await.unwrap();
                }
                times.sort();
                println!(
                    "with {total} endpoints: adding one takes {:?} (median), {:?} (worst)",
                    times[25], times[49]
                );
                assert!(times[25] < Duration::from_millis(50));
            }
            let started = Instant::now();
            lab.dataplane.resync().await.unwrap();
            println!("comparing the table with 10000 endpoints takes {:?}", started.elapsed());
        });
    });
}
