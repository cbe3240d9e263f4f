//! The daemon as a process on a host of its own: its addresses change, and Felix of calico/node comes and goes. Felix is
//! played by what it leaves in the kernel: its filter, its chain for each endpoint and direction, its routes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by a panic, its helpers too"
)]

#[path = "support/etcd_server.rs"]
mod etcd_server;
#[path = "support/nsrun.rs"]
mod nsrun;

use calico_libnetwork::store::{SharedStore, Txn};
use etcd_server::Etcd;
use nsrun::{have, in_namespace, inside, run, try_run};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// For what must happen, on a machine that may be very busy.
const PATIENCE: Duration = Duration::from_secs(30);
const NETWORK: &str = "1111111111111111111111111111111111111111111111111111111111111111";

struct Daemon {
    process: Child,
    pool: String,
}

struct Container {
    id: String,
    iface: String,
    ip: String,
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        let rules = || try_run("nft list ruleset; ip route; cat /run/log").1;
        assert!(started.elapsed() < PATIENCE, "{what}\n{}", rules());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One call of Docker.
fn call(method: &str, body: &Value) -> Value {
    Call::begin(method, body).end()
}

/// A call of which the last byte is still to come.
struct Call {
    method: String,
    stream: UnixStream,
    last: u8,
}

impl Call {
    fn begin(method: &str, body: &Value) -> Self {
        let mut stream = UnixStream::connect("/run/docker/plugins/calico.sock").unwrap();
        let body = body.to_string();
        let head = format!(
            "POST /{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut bytes = format!("{head}{body}").into_bytes();
        let last = bytes.pop().unwrap();
        stream.write_all(&bytes).unwrap();
        Self { method: method.to_owned(), stream, last }
    }

    fn end(mut self) -> Value {
        self.stream.write_all(&[self.last]).unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).unwrap();
        let start = answer.find("\r\n\r\n").unwrap();
        let answer: Value = serde_json::from_str(answer[start..].trim()).unwrap();
        assert!(answer.get("Err").is_none_or(|err| err == ""), "{}: {answer}", self.method);
        answer
    }
}

impl Daemon {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more settings.
    fn start_with(settings: &[(&str, &str)]) -> Self {
        run("mkdir -p /run/lib /run/state /run/docker/plugins");
        let log = std::fs::File::create("/run/log").unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_calico-libnetwork"))
            .arg("serve")
            .env_remove("CALICO_TEST_INSIDE")
            .envs([
                ("NODENAME", "lab"),
                ("LOG_LEVEL", "debug"),
                ("CALICO_LIBNETWORK_HOST_VAR_LIB", "/run/lib"),
                ("CALICO_LIBNETWORK_STATE_DIR", "/run/state"),
                ("CALICO_LIBNETWORK_GC_INTERVAL", "0s"),
            ])
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually("the daemon is ready", || said(" ready"));
        let pool = json!({"AddressSpace": "CalicoAddressSpace", "Pool": "10.66.0.0/24", "SubPool": "", "Options": {}, "V6": false});
        let pool = call("IpamDriver.RequestPool", &pool);
        let id = pool["PoolID"].as_str().unwrap().to_owned();
        let data = json!([{"AddressSpace": "CalicoAddressSpace", "Pool": "10.66.0.0/24", "Gateway": "10.66.0.0/24"}]);
        let network = json!({"NetworkID": NETWORK, "Options": {}, "IPv4Data": data, "IPv6Data": []});
        call("NetworkDriver.CreateNetwork", &network);
        Self { process, pool: id }
    }

    /// `docker run`, up to Join.
    fn create(&self, number: u8) -> Container {
        self.create_at(number, "")
    }

    /// The same with `--ip`.
    fn create_at(&self, number: u8, ip: &str) -> Container {
        let id = format!("{number:x}").repeat(64);
        let address =
            call("IpamDriver.RequestAddress", &json!({"PoolID": self.pool, "Address": ip, "Options": null}));
        let address = address["Address"].as_str().unwrap().to_owned();
        let interface = json!({"Address": address, "AddressIPv6": "", "MacAddress": ""});
        let endpoint = json!({"NetworkID": NETWORK, "EndpointID": id, "Interface": interface, "Options": {}});
        call("NetworkDriver.CreateEndpoint", &endpoint);
        let ip = address.split('/').next().unwrap().to_owned();
        Container { iface: format!("cali{}", &id[..11]), ip, id }
    }

    /// `docker rm --force`.
    fn remove(&self, container: &Container) {
        let endpoint = json!({"NetworkID": NETWORK, "EndpointID": container.id});
        call("NetworkDriver.Leave", &endpoint);
        call("NetworkDriver.DeleteEndpoint", &endpoint);
        call("IpamDriver.ReleaseAddress", &json!({"PoolID": self.pool, "Address": container.ip}));
    }

    fn join(&self, number: u8) -> Container {
        let container = self.create(number);
        container.join();
        container
    }

    /// Containers `c1` and `c2`.
    fn two_that_run(&self) -> (Container, Container) {
        let (one, two) = (self.join(1), self.join(2));
        one.run("c1");
        two.run("c2");
        (one, two)
    }

    /// The same, the first of which calls the second all the time.
    fn two_that_talk(&self) -> (Container, Container, Stream) {
        let (one, two) = self.two_that_run();
        let stream = Stream::start(&two);
        (one, two, stream)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Container {
    fn join(&self) {
        self.begin_join().end();
    }

    fn begin_join(&self) -> Call {
        self.begin_join_in(&self.id[..12])
    }

    fn begin_join_in(&self, sandbox: &str) -> Call {
        let sandbox = format!("/run/docker/netns/{sandbox}");
        let join = json!({"NetworkID": NETWORK, "EndpointID": self.id, "SandboxKey": sandbox, "Options": {}});
        Call::begin("NetworkDriver.Join", &join)
    }

    /// What runc and the engine do with the container's end.
    fn run(&self, namespace: &str) {
        let (temp, ip) = (format!("temp{}", &self.id[..11]), &self.ip);
        for line in [
            format!("ip netns add {namespace}"),
            format!("ip link set {temp} netns {namespace} name eth0"),
            format!("ip -n {namespace} link set lo up"),
            format!("ip -n {namespace} addr add {ip}/32 dev eth0"),
            format!("ip -n {namespace} link set eth0 up"),
            format!("ip -n {namespace} route add 169.254.1.1 dev eth0"),
            format!("ip -n {namespace} route add default via 169.254.1.1"),
        ] {
            run(&line);
        }
    }
}

/// The administrator's tool, with a document on its standard input.
fn tool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calico-libnetwork"))
        .args(arguments)
        .env_remove("CALICO_TEST_INSIDE")
        .envs([("NODENAME", "lab"), ("CALICO_LIBNETWORK_STATE_DIR", "/run/state")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{arguments:?}: {text}");
    text
}

fn said(words: &str) -> bool {
    std::fs::read_to_string("/run/log").unwrap_or_default().contains(words)
}

/// Felix programs the given endpoints, and drops what belongs to any other workload; in one transaction, as it does.
fn felix(known: &[&Container]) {
    let mut script = String::new();
    for family in ["ip", "ip6"] {
        let _ =
            writeln!(script, "table {family} calico\ndelete table {family} calico\ntable {family} calico {{");
        for container in known {
            let iface = &container.iface;
            let _ =
                writeln!(script, "chain filter-cali-tw-{iface} {{\n}}\nchain filter-cali-fw-{iface} {{\n}}");
        }
        let names: Vec<String> = known.iter().map(|container| format!("\"{}\"", container.iface)).collect();
        let names = names.join(", ");
        let _ = writeln!(
            script,
            "chain filter-cali-FORWARD {{
            iifname \"cali*\" iifname != {{ {names} }} drop\noifname \"cali*\" oifname != {{ {names} }} drop\n}}
            chain filter-FORWARD {{\ntype filter hook forward priority 0; policy accept;\njump filter-cali-FORWARD\n}}\n}}"
        );
    }
    std::fs::write("/run/felix.nft", script).unwrap();
    run("nft -f /run/felix.nft");
}

/// Echoes from `c1` to a port of `c2` every two milliseconds.
struct Stream {
    stop: Arc<AtomicBool>,
    echoed: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<usize>,
}

impl Stream {
    fn start(to: &Container) -> Self {
        let (stop, echoed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let at: SocketAddr = format!("{}:90", to.ip).parse().unwrap();
        inside("c2", move || {
            let socket = UdpSocket::bind(at).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 8];
                while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..len], peer);
                }
            });
        });
        let socket = inside("c1", || UdpSocket::bind("0.0.0.0:0").unwrap());
        let (until, count) = (stop.clone(), echoed.clone());
        let thread = std::thread::spawn(move || {
            socket.connect(at).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut lost = 0;
            while !until.load(Ordering::Relaxed) {
                socket.send(b"x").unwrap();
                match socket.recv(&mut [0; 8]) {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    // Before the first echo the links come up.
                    Err(_) => lost += usize::from(count.load(Ordering::Relaxed) > 0),
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            lost
        });
        let stream = Self { stop, echoed, thread };
        stream.more();
        stream
    }

    fn more(&self) {
        let goal = self.echoed.load(Ordering::Relaxed) + 10;
        eventually("the stream goes on", || self.echoed.load(Ordering::Relaxed) >= goal);
    }

    fn lost(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn ours_filters() -> bool {
    run("nft list table inet calico-docker").contains("chain forward")
}

#[test]
fn felix_comes_programs_a_new_container_and_goes() {
    in_namespace("felix_comes_programs_a_new_container_and_goes", || {
        if !have("nft", "nft") {
            return;
        }
        let daemon = Daemon::start();
        let (one, two, stream) = daemon.two_that_talk();
        assert!(ours_filters());

        // Felix comes, and knows both.
        felix(&[&one, &two]);
        eventually("the plugin stands back", || !ours_filters());
        assert!(said("this plugin stands back: Felix filters here (nft table ip calico"));
        stream.more();

        // A container starts: Join waits until Felix has seen to it. Its routes are there before, as Felix makes them only
        // when its interface has a carrier.
        let three = daemon.create(3);
        let routed = |how: &str| run("ip route").contains(&format!("{} dev {} {how}", three.ip, three.iface));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                eventually("the pair is made and routed", || routed("proto 80"));
                std::thread::sleep(Duration::from_millis(300));
                assert!(!said("Join done network=111111111111 endpoint=333333333333"), "it waits");
                felix(&[&one, &two, &three]);
            });
            three.join();
        });
        assert!(!said("has not programmed"));
        // iproute2 leaves the protocol of Felix's routes, boot, out.
        run(&format!("ip route replace {}/32 dev {} proto 3 scope link metric 1024", three.ip, three.iface));
        stream.more();
        assert!(routed("scope link"), "Felix's route stays");
        stream.more();

        // Felix's rules vanish: ours are back, and what Felix routed is ours.
        run("nft delete table ip calico; nft delete table ip6 calico");
        eventually("the plugin takes over", ours_filters);
        eventually("its routes are ours", || routed("proto 80"));
        three.run("c3");
        assert!(run("nft list map inet calico-docker to-wl").contains("cali33333333333"));
        stream.more();
        assert_eq!(stream.lost(), 0);
    });
}

#[test]
fn a_felix_that_knows_no_endpoint_does_not_get_the_host() {
    in_namespace("a_felix_that_knows_no_endpoint_does_not_get_the_host", || {
        if !have("nft", "nft") {
            return;
        }
        let daemon = Daemon::start();
        let (one, two) = (daemon.join(1), daemon.join(2));
        felix(&[&one]);
        let words = format!("has not programmed {} yet", two.iface);
        eventually("the reason is said", || said(&words));
        assert!(ours_filters());
        felix(&[&one, &two]);
        eventually("the plugin stands back", || !ours_filters());
        // A restart of the plugin finds Felix there, and leaves it alone.
        drop(daemon);
        let again = Daemon::start();
        assert!(said("this plugin stands back") && !ours_filters());
        drop(again);
    });
}

/// What `docker network ls` is answered, and how often was asked.
struct Engine {
    networks: Arc<Mutex<Value>>,
    asked: Arc<AtomicUsize>,
}

impl Engine {
    /// Listens where Docker does; everything else that it is asked it does not know.
    fn start() -> Self {
        let engine = Self { networks: Arc::new(Mutex::new(json!([]))), asked: Arc::default() };
        let (networks, asked) = (engine.networks.clone(), engine.asked.clone());
        let listener = UnixListener::bind("/run/docker.sock").unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut head) = (stream.unwrap(), Vec::new());
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                let (status, body) = match String::from_utf8_lossy(&head).contains("/networks ") {
                    true => {
                        let listed = networks.lock().unwrap().to_string();
                        asked.fetch_add(1, Ordering::SeqCst);
                        ("200 OK", listed)
                    }
                    false => ("404 Not Found", "{}".to_owned()),
                };
                let length = body.len();
                // Whoever asked may have gone.
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                );
            }
        });
        engine
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[test]
fn a_bridge_of_dockers_is_known_as_soon_as_its_link_comes_and_the_engine_tells_of_it() {
    in_namespace("a_bridge_of_dockers_is_known_as_soon_as_its_link_comes_and_the_engine_tells_of_it", || {
        // Less than the half minute after which names are looked up anyway.
        const SOON: Duration = Duration::from_secs(20);
        if !have("nft", "nft") {
            return;
        }
        run("mkdir -p /run/lib");
        let engine = Engine::start();
        let _daemon = Daemon::start();
        let known = |name: &str| run("nft list set inet calico-docker docker-bridges").contains(name);
        let soon = |what: &str, holds: &dyn Fn() -> bool| {
            let started = Instant::now();
            eventually(what, holds);
            assert!(started.elapsed() < SOON, "{what} took {:?}", started.elapsed());
        };
        eventually("the first look", || engine.asked() > 0);
        run("ip link add br-0123456789ab type bridge");
        soon("a bridge with a name of Docker's", &|| known("br-0123456789ab"));
        // The engine makes the bridge first and lists the network afterwards.
        let before = engine.asked();
        run("ip link add lan type bridge");
        eventually("the look at once", || engine.asked() > before);
        assert!(!known("\"lan\""));
        *engine.networks.lock().unwrap() = json!([{"Id": "ba".repeat(32), "Name": "x", "Driver": "bridge",
                "Options": {"com.docker.network.bridge.name": "lan"}}]);
        soon("a bridge with a name of the user's", &|| known("\"lan\""));
        // The other way round when it goes.
        run("ip link del br-0123456789ab; ip link del lan");
        *engine.networks.lock().unwrap() = json!([]);
        soon("both are forgotten", &|| !known("br-0123456789ab") && !known("\"lan\""));
    });
}

/// The page of figures.
fn figures() -> String {
    run(&format!(
        "env -u CALICO_TEST_INSIDE NODENAME=lab CALICO_LIBNETWORK_STATE_DIR=/run/state {} metrics",
        env!("CARGO_BIN_EXE_calico-libnetwork")
    ))
}

#[test]
fn the_page_counts_addresses_by_pool_and_what_was_denied_by_endpoint() {
    in_namespace("the_page_counts_addresses_by_pool_and_what_was_denied_by_endpoint", || {
        if !have("nft", "nft") {
            return;
        }
        let daemon = Daemon::start();
        let counts = |state: &str, count: u32| {
            let end = format!("cidr=\"10.66.0.0/24\",state=\"{state}\"}} {count}");
            let page = figures();
            let line = page.lines().any(|line| {
                line.starts_with("calico_libnetwork_ipam_pool_addresses{pool=") && line.ends_with(&end)
            });
            assert!(line, "{end}\n{page}");
        };
        counts("held", 0);
        counts("free", 256);
        let (one, two) = (daemon.join(1), daemon.join(2));
        counts("held", 2);
        counts("free", 254);
        one.run("c1");
        two.run("c2");
        let ip = &two.ip;
        // VXLAN from a container is denied whoever gets it, and by the rule that says so.
        let denied = || {
            let page = figures();
            let chain = page.lines().find_map(|line| {
                let line = line
                    .strip_prefix("calico_libnetwork_endpoint_info{interface=\"cali11111111111\",chain=\"")?;
                line.strip_suffix("\"} 1").filter(|chain| chain.starts_with("shape-from-"))
            });
            let start = format!("calico_libnetwork_denied_packets_total{{chain=\"{}\",", chain.unwrap());
            let counts = page.lines().filter(|line| line.starts_with(&start));
            counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
        };
        assert_eq!(denied(), 0);
        let target = format!("{ip}:4789");
        inside("c1", move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..3 {
                socket.send_to(b"x", &target).unwrap();
            }
        });
        eventually("all three are counted", || denied() == 3);
        let explained = run(&format!(
            "env -u CALICO_TEST_INSIDE NODENAME=lab CALICO_LIBNETWORK_STATE_DIR=/run/state {} policy explain cali11111111111",
            env!("CARGO_BIN_EXE_calico-libnetwork")
        ));
        assert!(explained.contains("  VXLAN from a workload: Deny  [3 packets, "), "{explained}");
    });
}

#[test]
fn the_node_follows_the_addresses_of_the_host() {
    in_namespace("the_node_follows_the_addresses_of_the_host", || {
        let published = |address: &str| {
            let words = format!("this node is published with the IPv4 address {address} and");
            eventually(&words, || said(&words));
        };
        let _daemon = Daemon::start();
        published("none");
        run(
            "ip link add eth0 type veth peer name far0; ip link set eth0 up; ip addr add 192.0.2.7/24 dev eth0",
        );
        published("192.0.2.7/24");
        run("ip addr add 198.51.100.7/25 dev eth0; ip addr del 192.0.2.7/24 dev eth0");
        published("198.51.100.7/25");
    });
}

#[test]
fn what_others_route_to_a_container_goes_after_the_grace_and_what_they_route_elsewhere_stays() {
    in_namespace(
        "what_others_route_to_a_container_goes_after_the_grace_and_what_they_route_elsewhere_stays",
        || {
            const GRACE: Duration = Duration::from_secs(10);
            let daemon = Daemon::start();
            run(
                "ip link add up0 type veth peer name far0; ip link set far0 up; ip link set up0 up; ip addr add 192.0.2.7/24 dev up0",
            );
            run("ip route add 10.8.0.0/24 via 192.0.2.8; ip -6 route add fd00:8::/64 dev up0");
            let joined = Instant::now();
            let (_, two, stream) = daemon.two_that_talk();
            let iface = &two.iface;
            let routes =
                || ["", "-6"].map(|family| run(&format!("ip {family} route show table all dev {iface}")));
            let add = || {
                run(&format!("ip route add 10.9.0.0/24 via {} dev {iface} onlink", two.ip));
                run(&format!("ip route add {}/32 dev {iface}", two.ip));
                run(&format!("ip -6 route add fd00:9::/64 dev {iface}"));
            };
            // The kernel makes the last of its own when the link has had its carrier for a moment.
            eventually("the interface has its link-local routes", || routes()[1].lines().count() >= 4);
            let before = routes();
            add();
            eventually("what others route to a container goes", || routes() == before);
            assert!(joined.elapsed() >= GRACE, "after {:?}", joined.elapsed());
            let words = format!("route 10.9.0.0/24 via {} dev {iface} (protocol 3) is taken away", two.ip);
            assert!(said(&words));
            assert!(said(&format!("route fd00:9::/64 dev {iface} (protocol 3) is taken away")));
            // An interface that has been there for longer has no grace; nor is the next look unasked waited for.
            let added = Instant::now();
            add();
            eventually("it goes at once", || routes() == before);
            assert!(added.elapsed() < GRACE, "after {:?}", added.elapsed());

            // Who wants to keep it may.
            let configuration = |removes: bool| {
                json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
                    "metadata": {"name": "default"}, "spec": {"removeExternalRoutes": removes}})
            };
            tool(&["apply", "-f", "-"], &configuration(false).to_string());
            std::thread::sleep(Duration::from_secs(1));
            add();
            std::thread::sleep(Duration::from_secs(3));
            assert_eq!(run("ip route").matches(iface).count(), 3, "{:#?}", routes());
            tool(&["apply", "-f", "-"], &configuration(true).to_string());
            eventually("it goes when it is not wanted any more", || routes() == before);
            assert!(run("ip route").contains("10.8.0.0/24 via 192.0.2.8 dev up0"));
            assert!(run("ip -6 route").contains("fd00:8::/64 dev up0"));
            stream.more();
            assert_eq!(stream.lost(), 0);
        },
    );
}

#[test]
fn calls_that_are_under_way_at_the_stop_are_carried_out() {
    in_namespace("calls_that_are_under_way_at_the_stop_are_carried_out", || {
        if !have("nft", "nft") {
            return;
        }
        let mut daemon = Daemon::start();
        let (goes, comes) = (daemon.join(1), daemon.create(2));
        let deletion = Call::begin(
            "NetworkDriver.DeleteEndpoint",
            &json!({"NetworkID": NETWORK, "EndpointID": goes.id}),
        );
        let join = comes.begin_join();
        run(&format!("kill -TERM {}", daemon.process.id()));
        eventually("the daemon stops", || said("app stopping"));
        // Long enough for every task that does not wait for the calls.
        std::thread::sleep(Duration::from_millis(300));
        deletion.end();
        join.end();
        assert!(daemon.process.wait().unwrap().success());
        let elements = run("nft list map inet calico-docker to-wl");
        assert!(elements.contains(&comes.iface) && !elements.contains(&goes.iface), "{elements}");
    });
}

#[test]
fn routes_to_a_container_that_somebody_took_away_come_back() {
    in_namespace("routes_to_a_container_that_somebody_took_away_come_back", || {
        if !have("nft", "nft") {
            return;
        }
        let daemon = Daemon::start();
        let (one, two, stream) = daemon.two_that_talk();
        let routes =
            |iface: &str| ["", "-6"].map(|family| run(&format!("ip {family} route show dev {iface}")));
        let (first, second) = (routes(&one.iface), routes(&two.iface));
        assert!(second[0].contains(&two.ip));
        for round in 0..5 {
            run(&format!("ip route del {} dev {}", two.ip, two.iface));
            run("ip route flush proto 80");
            run("ip -6 route flush proto 80");
            eventually(&format!("they are back, round {round}"), || {
                (routes(&one.iface), routes(&two.iface)) == (first.clone(), second.clone())
            });
        }
        stream.more();
        // Who is set down stays down: that may be somebody's wish.
        run(&format!("ip link set {} down", two.iface));
        std::thread::sleep(Duration::from_secs(1));
        assert!(run(&format!("ip link show {}", two.iface)).contains("state DOWN"));
    });
}

/// With its last address the kernel takes an interface's IPv4 routes and neighbours, and tells of the address alone.
#[test]
fn addresses_of_an_interface_that_somebody_took_away_come_back_with_what_went_with_them() {
    in_namespace(
        "addresses_of_an_interface_that_somebody_took_away_come_back_with_what_went_with_them",
        || {
            if !have("nft", "nft") {
                return;
            }
            let daemon = Daemon::start();
            let (front, back) = (daemon.create(1), daemon.create(2));
            for endpoint in [&front, &back] {
                endpoint.begin_join_in("both").end();
            }
            front.run("c1");
            let has = || {
                ["addr show", "route show", "neigh show nud permanent"]
                    .map(|what| run(&format!("ip -4 {what} dev {}", front.iface)))
            };
            let before = has();
            assert!(before[0].contains("169.254.1.255"), "{before:?}");
            assert!(before[1..].iter().all(|listing| listing.contains(&front.ip)), "{before:?}");
            for round in 0..3 {
                run(&format!("ip addr flush dev {}", front.iface));
                eventually(&format!("all is back, round {round}"), || has() == before);
            }
        },
    );
}

/// As `sysctl --system` does with files that say so, or udev for each new interface.
#[test]
fn settings_that_somebody_changed_under_a_container_come_back() {
    in_namespace("settings_that_somebody_changed_under_a_container_come_back", || {
        if !have("nft", "nft") {
            return;
        }
        let daemon = Daemon::start();
        let (_one, two, stream) = daemon.two_that_talk();
        let conf = |name: &str| format!("/proc/sys/net/{}", name.replace("IF", &two.iface));
        let has = |name: &str, value: &str| std::fs::read_to_string(conf(name)).unwrap().trim() == value;
        let back = |name: &str, value: &str| eventually(&format!("{name} is {value}"), || has(name, value));
        for (name, wrong, right) in [
            ("ipv4/conf/IF/forwarding", "0", "1"),
            ("ipv4/conf/IF/proxy_arp", "0", "1"),
            ("ipv4/conf/IF/rp_filter", "1", "0"),
            ("ipv6/conf/IF/forwarding", "0", "1"),
            ("ipv6/conf/IF/proxy_ndp", "0", "1"),
            ("ipv4/ip_forward", "0", "1"),
            ("ipv6/conf/all/forwarding", "0", "1"),
        ] {
            assert!(has(name, right), "{name}");
            for _ in 0..3 {
                std::fs::write(conf(name), wrong).unwrap();
                back(name, right);
            }
            back("ipv4/conf/IF/forwarding", "1");
            back("ipv6/conf/IF/forwarding", "1");
            stream.more();
        }
        for version in ["IPv4", "IPv6"] {
            assert!(said(&format!("{version} forwarding was turned off on this host; it is on again")));
        }
    });
}

#[test]
fn an_interface_that_was_renamed_away_and_back_works_again() {
    in_namespace("an_interface_that_was_renamed_away_and_back_works_again", || {
        if !have("nft", "nft") {
            return;
        }
        let daemon = Daemon::start();
        let (one, two, stream) = daemon.two_that_talk();
        // The host answers for every address but the asker's own, which would look taken to whoever probes it.
        let answered = |ip: &str| {
            let asked =
                try_run(&format!("nsenter --net=/run/netns/c1 busybox arping -c 2 -w 2 -I eth0 {ip}")).1;
            assert!(asked.contains("Sent"), "{asked}");
            !asked.contains("Received 0")
        };
        assert!(answered(&two.ip) && !answered(&one.ip));
        let iface = &two.iface;
        // Set down first, it loses its routes and neighbours under the other name.
        for line in [
            format!("ip link set {iface} down; ip link set {iface} name away; ip link set away up"),
            format!("ip link set away down; ip link set away name {iface}; ip link set {iface} up"),
        ] {
            run(&line);
        }
        stream.more();
        assert!(run("ip route").contains(&format!("{} dev {iface} proto 80", two.ip)));
        let neighbour = || run("ip neigh show nud permanent").contains(&format!("{} dev {iface}", two.ip));
        eventually("its neighbour is back", neighbour);
        // Since Linux 6.2 it can stay up meanwhile.
        let (renamed, why) = try_run(&format!("ip link set {iface} name away"));
        if renamed {
            run(&format!("ip link set away name {iface}"));
        } else {
            assert!(why.contains("busy"), "{why}");
        }
        stream.more();
        stream.lost();
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story is read in one piece")]
fn a_flow_ends_with_the_owner_of_its_address_and_reaches_no_later_one() {
    const CLOSED: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-udp}
spec:
  selector: all()
  types: [Ingress]
  ingress: [{action: Deny, protocol: UDP}]
";
    in_namespace("a_flow_ends_with_the_owner_of_its_address_and_reaches_no_later_one", || {
        if !have("nft", "nft") {
            return;
        }
        let daemon = Daemon::start();
        let (one, two, old) = (daemon.join(1), daemon.join(2), daemon.join(3));
        one.run("c1");
        two.run("c2");
        old.run("c3");
        let others = Stream::start(&two);
        let at: SocketAddr = format!("{}:90", old.ip).parse().unwrap();
        let listen = |namespace| {
            inside(namespace, move || {
                let socket = UdpSocket::bind(at).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                socket
            })
        };
        let dial = || {
            inside("c1", move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                socket.connect(at).unwrap();
                socket
            })
        };
        let server = listen("c3");
        let echoes = |client: &UdpSocket| {
            client.send(b"old").unwrap();
            let Ok((_, peer)) = server.recv_from(&mut [0; 8]) else { return false };
            server.send_to(b"old", peer).unwrap();
            client.recv(&mut [0; 8]).is_ok()
        };
        let client = dial();
        eventually("the flow is established", || echoes(&client));
        tool(&["apply", "-f", "-"], CLOSED);
        eventually("no new flow passes", || !echoes(&dial()));
        assert!(echoes(&client), "what is established goes on");

        // The flow goes on all the time while its address gets another owner.
        let stop = Arc::new(AtomicBool::new(false));
        let sender = std::thread::spawn({
            let (stop, client) = (stop.clone(), client.try_clone().unwrap());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    // Between the owners the host says that there is no way.
                    let _ = client.send(b"old");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        daemon.remove(&old);
        let new = daemon.create_at(4, &old.ip);
        new.join();
        assert_eq!(new.ip, old.ip);
        new.run("c4");
        let server = listen("c4");
        assert!(server.recv(&mut [0; 8]).is_err(), "a flow of the old owner reaches the new one");
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        tool(&["delete", "gnp", "no-udp"], "");
        let mut heard = [0; 8];
        eventually("the new owner is reached by what is allowed", || {
            let _ = client.send(b"new");
            server.recv(&mut heard).is_ok()
        });
        assert_eq!(&heard[..3], b"new", "a packet of the old flow had come through");
        assert_eq!(others.lost(), 0, "flows of other addresses go on");
    });
}

#[test]
fn cleanup_leaves_routes_between_nodes_to_felix() {
    in_namespace("cleanup_leaves_routes_between_nodes_to_felix", || {
        if !have("nft", "nft") {
            return;
        }
        for line in [
            "ip link add br0 type bridge",
            "ip addr add 192.0.2.1/24 dev br0",
            "ip link set br0 up",
            "ip link add vxlan.calico type vxlan id 4096 dstport 4789",
            "ip route add 10.7.0.0/26 via 192.0.2.7 proto 80 metric 1024",
            "ip route add blackhole 10.7.1.0/26 proto 80 metric 1024",
        ] {
            run(line);
        }
        let there = || {
            let routes = run("ip route");
            let device = try_run("ip link show vxlan.calico").0;
            [routes.contains("10.7.0.0/26"), routes.contains("10.7.1.0/26"), device]
        };
        run(
            "nft 'table ip calico { chain filter-cali-FORWARD { }; chain filter-FORWARD { type filter hook forward priority 0; jump filter-cali-FORWARD; }; }'",
        );
        let told = tool(&["cleanup"], "");
        let sentence = "nft table ip calico: Felix of calico/node programs this host; routes between nodes are its own and stay";
        assert!(told.contains(sentence), "{told}");
        assert_eq!(there(), [true; 3]);
        run("nft delete table ip calico");
        assert_eq!(tool(&["cleanup"], "").trim(), "");
        assert_eq!(there(), [false; 3]);
    });
}

/// A policy that lets one UDP port of everybody through and nothing else, and says it another way in each round.
fn flap(name: &str, port: u16, round: u32) -> Txn {
    let key = format!("/calico/resources/v3/projectcalico.org/globalnetworkpolicies/{name}");
    let allow = json!({"action": "Allow", "protocol": "UDP", "destination": {"ports": [port]}});
    let spell = json!({"action": "Deny", "protocol": "TCP", "destination": {"ports": [1 + round % 60_000]}});
    let ingress = if round.is_multiple_of(2) { json!([allow, spell]) } else { json!([spell, allow]) };
    let policy = json!({
        "kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name},
        "spec": {"tier": "default", "order": 1, "selector": "all()", "types": ["Ingress"], "ingress": ingress},
    });
    Txn::new().put(key, policy.to_string())
}

const POLICIES: u32 = 16;

fn flap_name(number: u32) -> String {
    format!("default.flap-{number}")
}

/// All of them flap as often as the datastore takes it; each gives how often it did.
fn flapping(runtime: &Runtime, store: &SharedStore, until: Instant) -> Vec<JoinHandle<u32>> {
    let flaps = (0..POLICIES).map(|number| {
        let store = store.clone();
        runtime.spawn(async move {
            let mut round = 0;
            while Instant::now() < until {
                store.commit(flap(&flap_name(number), 90, round)).await.unwrap();
                round += 1;
            }
            round
        })
    });
    flaps.collect()
}

#[test]
fn policies_that_flap_neither_open_nor_close_an_endpoint_nor_hold_up_calls() {
    in_namespace("policies_that_flap_neither_open_nor_close_an_endpoint_nor_hold_up_calls", || {
        if !have("nft", "nft") {
            return;
        }
        let Some(etcd) = Etcd::start() else { return };
        let daemon =
            Daemon::start_with(&[("ETCD_ENDPOINTS", etcd.url()), ("CALICO_LIBNETWORK_CREATE_POOLS", "true")]);
        let (_, two) = daemon.two_that_run();
        let runtime = etcd_server::runtime();
        let store = etcd.store(&runtime);
        runtime.block_on(store.commit(flap(&flap_name(0), 90, 0))).unwrap();
        let stream = Stream::start(&two);
        let at: SocketAddr = format!("{}:91", two.ip).parse().unwrap();
        let other = inside("c2", move || UdpSocket::bind(at).unwrap());
        other.set_nonblocking(true).unwrap();
        let socket = inside("c1", || UdpSocket::bind("0.0.0.0:0").unwrap());
        let reached = || {
            socket.send_to(b"x", at).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let mut any = false;
            while other.recv(&mut [0; 8]).is_ok() {
                any = true;
            }
            any
        };
        eventually("the policy is in force", || !reached());

        // As many changes as etcd takes, for a few seconds.
        let begun = Instant::now();
        let until = begun + Duration::from_secs(5);
        let flaps = flapping(&runtime, &store, until);
        let (mut calls, mut slowest) = (0, Duration::ZERO);
        while Instant::now() < until {
            assert!(!reached(), "a port that no policy opens is reached");
            let asked = Instant::now();
            let third = daemon.join(3);
            assert!(figures().contains("calico_libnetwork_"));
            daemon.remove(&third);
            slowest = slowest.max(asked.elapsed());
            calls += 1;
        }
        let changes: u32 = flaps.into_iter().map(|flap| runtime.block_on(flap).unwrap()).sum();
        println!(
            "{changes} changes in {:?}; {calls} endpoints came and went, at most in {slowest:?}",
            begun.elapsed()
        );
        assert!(calls > 0 && !reached());
        assert_eq!(stream.lost(), 0);

        // What was said last holds.
        for number in 0..POLICIES {
            runtime.block_on(store.commit(flap(&flap_name(number), 91, 0))).unwrap();
        }
        eventually("the last word is in force", reached);
    });
}
