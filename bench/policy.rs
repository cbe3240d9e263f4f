//! Figures of the packet filter, in namespaces of their own: `make bench-policy`. Every figure stands beside its peer of
//! the same run; read the ratios.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::too_many_lines,
    missing_docs,
    reason = "a figure that cannot be taken ends the run"
)]

use calico_libnetwork::dataplane::{Dataplane, Options};
use calico_libnetwork::model::IfaceName;
use calico_libnetwork::policy::{Graph, Update};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use traffic::{Link, inside};

mod traffic;

const MARK: &str = "CALICO_BENCH_INSIDE";
const ROOT: &str = "/calico/resources/v3/projectcalico.org/";
/// Packets of one measurement, each of a flow of its own.
const FLOWS: u16 = 5000;
/// Measurements of each kind; the least counts, because others only add.
const ROUNDS: usize = 10;
/// Turns of traffic for each kind of link.
const TRAFFIC_ROUNDS: usize = 300;

fn main() {
    if std::env::var_os(MARK).is_none() {
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(std::env::current_exe().unwrap())
            .args(std::env::args().skip(1))
            .env(MARK, "1")
            .status()
            .unwrap();
        assert!(status.success(), "the figures need root, namespaces and nft: {status}");
        return;
    }
    run("mount -t tmpfs none /run && mkdir -p /run/netns && ip link set lo up");
    run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
    println!("kernel {}, {} cores\n", run("uname -r").trim(), std::thread::available_parallelism().unwrap());
    // `cargo bench --bench policy -- changes` takes only these figures.
    let asked: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    let parts: [(&str, fn()); 4] =
        [("packets", packets), ("changes", changes), ("large", large), ("throughput", throughput)];
    for (_, take) in parts.iter().filter(|(name, _)| asked.is_empty() || asked.iter().any(|it| it == name)) {
        take();
    }
}

fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn namespace(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// A routed container behind `iface`, as the plugin makes them.
fn container(name: &str, iface: &str, address: &str) {
    run(&format!("ip netns add {name}"));
    run(&format!("ip link add {iface} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {name}"));
    run(&format!("ip link set {iface} up && ip route add {address} dev {iface}"));
    for line in [
        "ip link set lo up".to_owned(),
        "ip link set eth0 up".to_owned(),
        format!("ip addr add {address}/32 dev eth0"),
        "ip route add 169.254.1.1 dev eth0".to_owned(),
        "ip route add default via 169.254.1.1".to_owned(),
        "ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0".to_owned(),
    ] {
        run(&format!("nsenter --net=/run/netns/{name} {line}"));
    }
}

struct Host {
    runtime: Runtime,
    door: Dataplane,
    graph: Graph,
    stop: CancellationToken,
}

impl Host {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (door, worker) = Dataplane::new(Options::default());
        let stop = CancellationToken::new();
        runtime.spawn(worker.run(stop.clone()));
        Self { runtime, door, graph: Graph::new("here"), stop }
    }

    fn put(&mut self, key: &str, value: &Value) {
        let text = value.to_string();
        self.graph.update(Update::from_entry(&format!("{ROOT}{key}"), Some(text.as_bytes())).unwrap());
    }

    fn open_profile(&mut self) {
        let allow = json!([{"action": "Allow"}]);
        self.put("profiles/open", &json!({"spec": {"ingress": allow, "egress": allow}}));
        self.put("tiers/default", &json!({"spec": {"order": 1_000_000}}));
    }

    fn endpoint(&mut self, node: &str, iface: &str, address: &str, labels: &Value) {
        let spec =
            json!({"node": node, "interfaceName": iface, "profiles": ["open"], "ipNetworks": [address]});
        let key = format!("workloadendpoints/libnetwork/{node}-libnetwork-libnetwork-{iface}");
        self.put(&key, &json!({"metadata": {"labels": labels}, "spec": spec}));
    }

    fn commit(&mut self) {
        let changes = self.graph.flush();
        self.runtime.block_on(self.door.apply_policy(changes)).unwrap();
    }

    fn open(&self, iface: &str, address: &str) {
        let (iface, address) = (IfaceName::new(iface).unwrap(), address.parse().unwrap());
        self.runtime.block_on(self.door.add_endpoint(&iface, &[address])).unwrap();
    }

    fn end(self) {
        self.runtime.block_on(self.door.remove_all()).unwrap();
        self.stop.cancel();
    }
}

fn host_address(number: u32) -> String {
    std::net::Ipv4Addr::from_bits(0x0A42_0000 + number).to_string()
}

// --- what a packet costs ---

/// Nanoseconds for the first packet of a flow, from the container's send to its arrival: the kernel does all of it in
/// the sender's call.
fn cost(base: u16) -> f64 {
    inside(namespace("a"), move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let started = Instant::now();
        for port in 0..FLOWS {
            socket.send_to(b"x", ("10.65.0.2", base + port)).unwrap();
        }
        started.elapsed().as_nanos() as f64 / f64::from(FLOWS)
    })
}

fn least(mut measure: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| measure()).fold(f64::INFINITY, f64::min)
}

/// A ruleset as it would be without maps: one rule for each endpoint, ours the last.
fn linear(count: usize) {
    let mut text = String::from(
        "table inet linear {\n chain forward { type filter hook forward priority -10; policy drop;\n ct state established,related accept\n",
    );
    for number in 0..count {
        text.push_str(&format!("iifname \"cali{number:05}\" accept\n"));
    }
    text.push_str("iifname \"calia\" accept\n}\n}\n");
    std::fs::write("/run/linear.nft", text).unwrap();
    run("nft -f /run/linear.nft");
}

/// The two that this filter stands between.
fn filtered() {
    if !std::path::Path::new("/run/netns/a").exists() {
        container("a", "calia", "10.65.0.1");
        container("b", "calib", "10.65.0.2");
    }
}

fn packets() {
    filtered();
    // Whoever receives throws away: no answers.
    run(
        "nsenter --net=/run/netns/b sh -c \"nft add table inet t && nft add chain inet t i '{ type filter hook input priority 0; policy drop; }'\"",
    );
    let _warm = (cost(1000), cost(1000));
    // Connections are tracked in each case, as they are on every host with Docker.
    run(
        "nft add table inet track && nft add chain inet track forward '{ type filter hook forward priority 0; }' && nft add rule inet track forward ct state new counter",
    );
    println!("| first packet of a flow between two containers | ns | to no rules |\n|---|---|---|");
    let none = least(|| cost(1000));
    println!("| no rules | {none:.0} | 1.00 |");
    let mut host = Host::start();
    host.open_profile();
    let (mut number, mut ours) = (0, Vec::new());
    host.endpoint("here", "calia", "10.65.0.1", &json!({}));
    host.endpoint("here", "calib", "10.65.0.2", &json!({}));
    host.commit();
    host.runtime.block_on(host.door.ensure()).unwrap();
    [("calia", "10.65.0.1"), ("calib", "10.65.0.2")]
        .iter()
        .for_each(|(iface, address)| host.open(iface, address));
    for count in [3_u32, 1000, 10_000] {
        let first = number;
        while number + 2 < count {
            host.endpoint("here", &format!("cali{number:05}"), &host_address(number), &json!({}));
            number += 1;
        }
        host.commit();
        (first..number).for_each(|number| host.open(&format!("cali{number:05}"), &host_address(number)));
        let cost = least(|| cost(7000));
        println!("| this filter, {count} endpoints | {cost:.0} | {:.2} |", cost / none);
        ours.push(cost);
    }
    host.end();
    for count in [1000, 10_000] {
        linear(count);
        let cost = least(|| cost(13_000));
        println!("| one rule for each of {count} endpoints | {cost:.0} | {:.2} |", cost / none);
        run("nft delete table inet linear");
    }
    println!("\n10 000 endpoints against 3: {:.2}\n", ours[2] / ours[0]);
    run("nft delete table inet track; nsenter --net=/run/netns/b nft delete table inet t");
}

// --- what a change costs ---

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn policy(number: u32, port: u32) -> Value {
    json!({"spec": {"selector": format!("group == 'g{}'", number % 100), "order": number, "types": ["Ingress"], "ingress": [
        {"action": "Allow", "protocol": "TCP", "source": {"selector": format!("role == 'r{}'", number % 200)},
            "destination": {"ports": [port, 20_000]}},
        {"action": "Allow", "protocol": "UDP", "source": {"selector": format!("group == 'g{}'", number % 50)}},
    ]}})
}

fn labels(number: u32, role: u32) -> Value {
    json!({"group": format!("g{}", number % 100), "role": format!("r{role}")})
}

fn changes() {
    const ENDPOINTS: u32 = 10_000;
    const LOCAL: u32 = 500;
    const POLICIES: u32 = 1000;
    let before = resident();
    let documents: Vec<(String, Vec<u8>)> = (0..ENDPOINTS)
        .map(|number| {
            let node = if number < LOCAL { "here" } else { "there" };
            let iface = format!("cali{number:05}");
            let spec = json!({"node": node, "interfaceName": iface, "profiles": ["open"], "ipNetworks": [host_address(number)]});
            let key = format!("{ROOT}workloadendpoints/libnetwork/{node}-libnetwork-libnetwork-{iface}");
            (key, json!({"metadata": {"labels": labels(number, number % 200)}, "spec": spec}).to_string().into_bytes())
        })
        .chain((0..POLICIES).map(|number| {
            let key = format!("{ROOT}globalnetworkpolicies/p{number:04}");
            (key, policy(number, 1000 + number).to_string().into_bytes())
        }))
        .collect();
    let mut host = Host::start();
    host.open_profile();
    for number in 0..LOCAL {
        host.open(&format!("cali{number:05}"), &host_address(number));
    }
    let started = Instant::now();
    for (key, value) in &documents {
        host.graph.update(Update::from_entry(key, Some(value)).unwrap());
    }
    let read = started.elapsed();
    let changes = host.graph.flush();
    let decided = started.elapsed();
    host.runtime.block_on(host.door.apply_policy(changes)).unwrap();
    let told = started.elapsed();
    host.runtime.block_on(host.door.ensure()).unwrap();
    let start = started.elapsed();
    drop(documents);
    let started = Instant::now();
    host.runtime.block_on(host.door.resync()).unwrap();
    let compared = started.elapsed();
    let mut labelled = Vec::new();
    let mut edited = Vec::new();
    let mut added = Vec::new();
    for turn in 0..50_u32 {
        let started = Instant::now();
        let number = 5000 + turn;
        host.endpoint(
            "there",
            &format!("cali{number:05}"),
            &host_address(number),
            &labels(number, (number + 1) % 200),
        );
        host.commit();
        labelled.push(started.elapsed());
        let started = Instant::now();
        host.put(&format!("globalnetworkpolicies/p{:04}", 300 + turn), &policy(300 + turn, 7));
        host.commit();
        edited.push(started.elapsed());
        let started = Instant::now();
        let number = ENDPOINTS + turn;
        host.endpoint("here", &format!("cali{number:05}"), &host_address(number), &labels(number, 3));
        host.commit();
        host.open(&format!("cali{number:05}"), &host_address(number));
        added.push(started.elapsed());
    }
    println!(
        "| with {ENDPOINTS} endpoints, {LOCAL} of them here, and {POLICIES} policies | median | worst of 50 | target |\n|---|---|---|---|"
    );
    for (what, mut times) in
        [("one label", labelled), ("one policy edited", edited), ("one endpoint added here", added)]
    {
        times.sort();
        println!("| {what}, from event to kernel | {:.2?} | {:.2?} | 10 ms |", times[25], times[49]);
    }
    println!("| full start | {start:.2?} | | 1 s |");
    println!(
        "| of it: documents read, decided, told, in the kernel | {read:.2?}, {:.2?}, {:.2?}, {:.2?} | | - |",
        decided - read,
        told - decided,
        start - told
    );
    println!("| comparing all with the kernel | {compared:.2?} | | - |");
    println!("| resident memory of that state | {:.1} MiB | | - |\n", resident() - before);
    host.end();
}

// --- what a set of a million members costs ---

fn network_set(number: u32) -> Value {
    let address = |n| std::net::Ipv4Addr::from_bits(0x6400_0000 + number * 200_000 + n * 2).to_string();
    let nets: Vec<String> = (0..100_000_u32).map(address).collect();
    json!({"metadata": {"labels": {"role": "x"}}, "spec": {"nets": nets}})
}

fn large() {
    let mut host = Host::start();
    host.open_profile();
    host.endpoint("here", "calia", "10.65.0.1", &json!({}));
    host.commit();
    host.runtime.block_on(host.door.ensure()).unwrap();
    let documents: Vec<(String, Value)> =
        (0..10).map(|number| (format!("globalnetworksets/s{number}"), network_set(number))).collect();
    let started = Instant::now();
    for (key, document) in &documents {
        host.put(key, document);
    }
    let ingress = json!([{"action": "Allow", "source": {"selector": "role == 'x'"}}]);
    let spec = json!({"selector": "all()", "types": ["Ingress"], "ingress": ingress});
    host.put("globalnetworkpolicies/large", &json!({"spec": spec}));
    let changes = host.graph.flush();
    let decided = started.elapsed();
    let filling = host.runtime.spawn({
        let door = host.door.clone();
        async move { door.apply_policy(changes).await.map(|()| started.elapsed()) }
    });
    // Meanwhile a container comes and goes.
    let mut waits = Vec::new();
    let iface = IfaceName::new("calia").unwrap();
    while !filling.is_finished() {
        let asked = Instant::now();
        host.open("calia", "10.65.0.1");
        host.runtime.block_on(host.door.remove_endpoint(&iface)).unwrap();
        waits.push(asked.elapsed() / 2);
        std::thread::sleep(Duration::from_millis(20));
    }
    let there = host.runtime.block_on(filling).unwrap().unwrap();
    let timed = |host: &mut Host, change: &dyn Fn(&mut Host)| {
        let started = Instant::now();
        change(host);
        started.elapsed()
    };
    let more = timed(&mut host, &|host| {
        host.put(
            "globalnetworksets/more",
            &json!({"metadata": {"labels": {"role": "x"}}, "spec": {"nets": ["192.0.2.1"]}}),
        );
        host.commit();
    });
    let compared = timed(&mut host, &|host| host.runtime.block_on(host.door.resync()).unwrap());
    let memory = resident();
    let gone = timed(&mut host, &|host| {
        host.graph.update(Update::from_entry(&format!("{ROOT}globalnetworkpolicies/large"), None).unwrap());
        host.commit();
    });
    let after = timed(&mut host, &|host| host.open("calia", "10.65.0.1"));
    waits.sort();
    println!("| a set of a million members | |\n|---|---|");
    println!("| documents read, decided | {decided:.2?} |");
    println!("| in force, after the documents | {there:.2?} |");
    println!(
        "| an endpoint opened or closed meanwhile, of {}: median, worst | {:.2?}, {:.2?} |",
        waits.len() * 2,
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    println!(
        "| a member more | {more:.2?} |\n| comparing the table | {compared:.2?} |\n| its policy deleted; an endpoint opened then | {gone:.2?}; {after:.2?} |"
    );
    println!("| resident memory | {memory:.0} MiB |\n");
    host.end();
}

// --- what gets through ---

fn throughput() {
    filtered();
    // Routed veth pairs without any rule, and Docker's kind of network: one bridge.
    container("c", "bare-c", "10.67.0.1");
    container("d", "bare-d", "10.67.0.2");
    run("ip link add bridge0 type bridge && ip link set bridge0 up");
    for (name, address) in [("e", "10.68.0.1"), ("f", "10.68.0.2")] {
        run(&format!("ip netns add {name} && ip link add br-{name} type veth peer name eth0 netns {name}"));
        run(&format!("ip link set br-{name} master bridge0 up"));
        run(&format!("nsenter --net=/run/netns/{name} ip link set eth0 up"));
        run(&format!("nsenter --net=/run/netns/{name} ip addr add {address}/24 dev eth0"));
    }
    let mut host = Host::start();
    host.open_profile();
    host.endpoint("here", "calia", "10.65.0.1", &json!({}));
    host.endpoint("here", "calib", "10.65.0.2", &json!({}));
    host.commit();
    [("calia", "10.65.0.1"), ("calib", "10.65.0.2")]
        .iter()
        .for_each(|(iface, address)| host.open(iface, address));
    host.runtime.block_on(host.door.ensure()).unwrap();
    let link = |what: &str, from: &str, to: &str, address: &str| Link {
        what: what.to_owned(),
        from: namespace(from),
        to: namespace(to),
        address: address.parse().unwrap(),
    };
    let links = [
        link("this filter", "a", "b", "10.65.0.2"),
        link("bare routed veth", "c", "d", "10.67.0.2"),
        link("bridge", "e", "f", "10.68.0.2"),
    ];
    traffic::compare("two containers of one host", &links, TRAFFIC_ROUNDS);
    host.end();
}
