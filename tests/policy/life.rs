//! What time brings: established flows, changes under traffic, endpoints that come before their policy, figures.

use crate::lab::{Documents, Lab, Probe, address, ask, endpoint, open_mesh};
use crate::nsrun::{have, in_namespace, inside, run};
use calico_libnetwork::dataplane::{Dataplane, Options, PortMap, Protocol, Timing};
use calico_libnetwork::model::IfaceName;
use calico_libnetwork::policy::{Graph, Update};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

fn isolated(test: &str, body: impl FnOnce()) {
    if have("nft", "nft") {
        in_namespace(test, body);
    }
}

fn with(key: &str, value: serde_json::Value) -> Documents {
    let mut documents = open_mesh();
    documents.insert(key.to_owned(), value);
    documents
}

fn deny_to_b() -> Documents {
    with(
        "globalnetworkpolicies/deny",
        json!({"spec": {"selector": "name == 'b'", "types": ["Ingress"], "ingress": [{"action": "Deny"}]}}),
    )
}

fn echo(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0; 1]).is_ok()
}

#[test]
fn what_is_established_goes_on_and_what_is_new_is_judged() {
    isolated("life::what_is_established_goes_on_and_what_is_new_is_judged", || {
        let mut lab = Lab::start();
        for family in [4, 6] {
            let to = address("b", family);
            let mut stream = inside("a", move || TcpStream::connect((to, 80)).unwrap());
            assert!(echo(&mut stream));
            lab.become_(&deny_to_b());
            assert!(echo(&mut stream), "IPv{family}");
            assert!(!ask("a", to, Probe::Tcp(80)), "IPv{family}");
            assert!(ask("host", to, Probe::Tcp(80)), "the host reaches its workloads: IPv{family}");
            // The interface closed ends it all the same.
            let iface = IfaceName::new("calib").unwrap();
            lab.block(lab.dataplane.remove_endpoint(&iface)).unwrap();
            assert!(!echo(&mut stream), "IPv{family}");
            lab.become_(&open_mesh());
            lab.open("b");
            assert!(ask("a", to, Probe::Tcp(80)));
        }
    });
}

#[test]
fn a_change_is_never_seen_half_made() {
    isolated("life::a_change_is_never_seen_half_made", || {
        let mut lab = Lab::start();
        // a may reach b, c may not: said in three ways, with other policies, tiers, sets and shapes.
        let allow = json!([{"action": "Allow", "source": {"selector": "name == 'a'"}}]);
        let by_label = with(
            "globalnetworkpolicies/one",
            json!({"spec": {"selector": "name == 'b'", "types": ["Ingress"], "ingress": allow}}),
        );
        let mut by_prefix = with(
            "globalnetworkpolicies/two",
            json!({"spec": {"selector": "has(name)", "types": ["Ingress"], "ingress": [
                {"action": "Allow", "source": {"nets": ["10.65.0.1/32", "192.0.2.0/24"]}},
                {"action": "Allow", "source": {"nets": ["fd65::1/128", "2001:db8::/64"]}},
            ]}}),
        );
        by_prefix.insert("tiers/first".to_owned(), json!({"spec": {"order": 1}}));
        by_prefix.insert(
            "globalnetworkpolicies/pass".to_owned(),
            json!({"spec": {"selector": "all()", "tier": "first", "types": ["Ingress"], "ingress": [
                {"action": "Deny", "source": {"selector": "name == 'c'"}}, {"action": "Pass"}]}}),
        );
        lab.become_(&by_label);
        let stop = Arc::new(AtomicBool::new(false));
        let count = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
        let threads: Vec<_> = [("a", 4), ("a", 6), ("c", 4), ("c", 6)]
            .map(|(from, family)| {
                let (stop, count) = (stop.clone(), count[usize::from(from == "c")].clone());
                std::thread::spawn(move || {
                    let to = address("b", family);
                    let mut wrong = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // Each is a new flow, and a datagram is sent but once.
                        let passed = ask(from, to, Probe::Udp(80));
                        wrong += usize::from(passed != (from == "a"));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    wrong
                })
            })
            .into_iter()
            .collect();
        for _ in 0..300 {
            lab.become_(&by_prefix);
            lab.become_(&by_label);
        }
        stop.store(true, Ordering::Relaxed);
        let wrong: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        println!("{count:?} flows of a and of c during 600 changes");
        assert_eq!(wrong, [0; 4]);
    });
}

#[test]
fn an_endpoint_waits_for_its_policy_and_stays_closed_without() {
    isolated("life::an_endpoint_waits_for_its_policy_and_stays_closed_without", || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let timing = Timing { policy: Duration::from_millis(300), ..Options::default().timing };
        let (door, worker) = Dataplane::new(Options { timing, ..Options::default() });
        runtime.spawn(worker.run(CancellationToken::new()));
        let iface = IfaceName::new("calia").unwrap();
        let addresses = [4, 6].map(|family| address("a", family));
        runtime.block_on(async {
            door.ensure().await.unwrap();
            let error = door.add_endpoint(&iface, &addresses).await.unwrap_err().to_string();
            assert!(
                error.starts_with("endpoint calia stays closed: its policy is not known after 300ms"),
                "{error}"
            );
            let opening = tokio::spawn({
                let (door, iface) = (door.clone(), iface.clone());
                async move { door.add_endpoint(&iface, &addresses).await }
            });
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!opening.is_finished());
            // Others are served meanwhile.
            door.resync().await.unwrap();
            let mut graph = Graph::new("here");
            let (key, value) = endpoint("a", &json!({}), &["open"]);
            let key = format!("/calico/resources/v3/projectcalico.org/{key}");
            graph.update(Update::from_entry(&key, Some(value.to_string().as_bytes())).unwrap());
            door.apply_policy(graph.flush()).await.unwrap();
            opening.await.unwrap().unwrap();
            let map = run("nft list map inet calico-docker from-wl");
            assert!(map.contains("\"calia\" : goto shape-from-"), "{map}");
            let known = || {
                let sets = ["sources4", "sources6"];
                sets.map(|set| run(&format!("nft list set inet calico-docker {set}")).contains("calia"))
            };
            assert_eq!(known(), [true; 2], "what it sends in a connection is asked little");
            // Its WorkloadEndpoint gone, it is closed.
            graph.update(Update::from_entry(&key, None).unwrap());
            door.apply_policy(graph.flush()).await.unwrap();
            assert!(!run("nft list map inet calico-docker from-wl").contains("calia"));
            assert_eq!(known(), [false; 2]);
            assert!(door.add_endpoint(&iface, &addresses).await.is_err());
        });
    });
}

#[test]
fn a_published_port_is_open_unless_a_policy_decides() {
    isolated("life::a_published_port_is_open_unless_a_policy_decides", || {
        let mut lab = Lab::start();
        let mut closed = open_mesh();
        closed.insert(
            "profiles/open".to_owned(),
            json!({"spec": {"ingress": [], "egress": [{"action": "Allow"}]}}),
        );
        lab.become_(&closed);
        let iface = IfaceName::new("calia").unwrap();
        let maps = [4, 6].map(|family| PortMap {
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port: 7000,
            container: SocketAddr::new(address("a", family), 80),
        });
        lab.block(lab.dataplane.publish_ports(&iface, &maps)).unwrap();
        for family in [4, 6] {
            let (host, direct) = (address("host", family), address("a", family));
            assert!(!ask("x", direct, Probe::Tcp(80)), "its profile lets nobody in");
            for from in ["x", "b", "host"] {
                assert!(ask(from, host, Probe::Tcp(7000)), "{from} by IPv{family}");
            }
        }
        let mut policy = closed.clone();
        policy.insert(
            "globalnetworkpolicies/only-b".to_owned(),
            json!({"spec": {"selector": "name == 'a'", "types": ["Ingress"],
                "ingress": [{"action": "Allow", "source": {"selector": "name == 'b'"}}]}}),
        );
        lab.become_(&policy);
        for family in [4, 6] {
            let host = address("host", family);
            assert!(!ask("x", host, Probe::Tcp(7000)), "IPv{family}");
            assert!(ask("b", host, Probe::Tcp(7000)), "IPv{family}");
        }
    });
}

/// What the kernel tells of changes to its tables.
struct Heard {
    monitor: Child,
}

impl Heard {
    const FILE: &str = "/run/heard.txt";

    /// It reads the whole ruleset first, again whenever that changes: the less is there, the sooner it listens.
    fn start() -> Self {
        let file = std::fs::File::create(Self::FILE).unwrap();
        let monitor = Command::new("nft").arg("monitor").stdout(file).spawn().unwrap();
        let heard = Self { monitor };
        let deadline = Instant::now() + Duration::from_secs(20);
        while Self::lines().is_empty() {
            assert!(Instant::now() < deadline, "nft monitor hears nothing");
            run("nft add table ip unheard; nft delete table ip unheard");
            std::thread::sleep(Duration::from_millis(20));
        }
        heard
    }

    fn lines() -> Vec<String> {
        std::fs::read_to_string(Self::FILE).unwrap().lines().map(str::to_owned).collect()
    }

    /// How many things change in the kernel meanwhile.
    fn during<T>(&self, work: impl FnOnce() -> T) -> usize {
        run("nft add table ip before");
        work();
        run("nft add table ip after; nft delete table ip before; nft delete table ip after");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = Self::lines();
            let last = |what: &str| lines.iter().rposition(|line| line == what);
            if let (Some(begin), Some(end), true) = (
                last("add table ip before"),
                last("add table ip after"),
                last("delete table ip after") > last("add table ip after"),
            ) {
                let between = lines.iter().take(end).skip(begin + 1);
                return between.filter(|line| !line.starts_with("# new generation")).count();
            }
            assert!(Instant::now() < deadline, "the end is not heard of: {lines:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

#[test]
fn a_change_costs_what_changes_and_not_what_is_there() {
    isolated("life::a_change_costs_what_changes_and_not_what_is_there", || {
        let mut lab = Lab::start();
        let heard = Heard::start();
        let mut documents = open_mesh();
        for n in 0..1000 {
            let spec = json!({"selector": "has(name)", "order": n, "types": ["Ingress"], "ingress": [
                {"action": "Deny", "protocol": "TCP", "source": {"selector": format!("group == '{n}'")},
                    "destination": {"ports": [1000 + n, 20000]}},
            ]});
            documents.insert(format!("globalnetworkpolicies/p{n:04}"), json!({"spec": spec}));
        }
        documents.insert(
            "globalnetworkpolicies/z".to_owned(),
            json!({"spec": {"selector": "has(name)", "types": ["Ingress"], "ingress": [{"action": "Allow"}]}}),
        );
        println!("1000 policies at once: {:?}", lab.become_(&documents));
        lab.expect("1000 policies", "tcp/80: all");
        let (mut labels, mut edits, mut adds) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..10 {
            let (key, mut value) = endpoint("b", &json!({"group": n.to_string()}), &["open"]);
            value["spec"]["node"] = json!("there");
            documents.insert(key.replace("here", "there"), value);
            labels.push(heard.during(|| lab.become_(&documents)));
            documents.get_mut("globalnetworkpolicies/p0500").unwrap()["spec"]["ingress"][0]["destination"]
                ["ports"] = json!([n + 1, 20000]);
            edits.push(heard.during(|| lab.become_(&documents)));
            lab.block(lab.dataplane.remove_endpoint(&IfaceName::new("calia").unwrap())).unwrap();
            adds.push(heard.during(|| lab.open("a")));
        }
        println!("changes in the kernel for a label, an edit, an endpoint: {labels:?}, {edits:?}, {adds:?}");
        let between = |all: &[usize], most| all.iter().all(|count| (1..=most).contains(count));
        // A member here and one there; a rule for each family with its set of ports; two ways in, and two sources.
        assert!(between(&labels, 4) && between(&edits, 12) && between(&adds, 6));
        let started = Instant::now();
        lab.block(lab.dataplane.resync()).unwrap();
        println!("comparing the whole table: {:?}", started.elapsed());
        println!("back to the open mesh: {:?}", lab.become_(&open_mesh()));
        let sets = run("nft list sets table inet calico-docker");
        assert!(!sets.contains("sel-") && !sets.contains("ports-"), "nothing stays behind: {sets}");
    });
}
