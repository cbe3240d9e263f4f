//! Measurements, run by `bench/routes.sh` and printed as tables: read the ratios. They assert nothing about time.

use crate::lab::{Container, Host, Lab};
use crate::support::netns;
use calico_libnetwork::model::IpVersion::V4;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Length of one round of each kind; kinds alternate.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 25;
const PORT: u16 = 4001;

/// Takes what comes, in the calling thread's namespace; ends with its sender.
fn sink(address: IpAddr) {
    let listener = TcpListener::bind(SocketAddr::new(address, PORT)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                // The first byte says whether each message is to be answered.
                let Ok(1) = stream.read(&mut buffer[..1]) else { return };
                let answer = buffer[0] == 1;
                while let Ok(length) = stream.read(&mut buffer) {
                    if length == 0 || (answer && stream.write_all(&buffer[..1]).is_err()) {
                        return;
                    }
                }
            });
        }
    });
}

/// Bytes, or messages that were answered, in one round.
fn round(from: IpAddr, to: IpAddr, answered: bool) -> f64 {
    let to = SocketAddr::new(to, PORT);
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream.write_all(&[u8::from(answered)]).unwrap();
    let data = vec![7; if answered { 1 } else { 1 << 17 }];
    let (start, mut done) = (Instant::now(), 0.0);
    while start.elapsed() < ROUND {
        stream.write_all(&data).unwrap();
        if answered {
            stream.read_exact(&mut [0]).unwrap();
            done += 1.0;
        } else {
            done += 131_072.0;
        }
    }
    done / start.elapsed().as_secs_f64()
}

fn best(measure: impl Fn() -> f64, into: &mut f64) {
    *into = into.max(measure());
}

/// Both measures of both kinds, alternating.
fn compare(hosts: (&Host, &Host), containers: (&Container, &Container), what: &str) {
    let (a, b) = hosts;
    let (one, two) = containers;
    let (host_from, host_to) = (a.v4, b.v4);
    let (from, to) = (one.address(V4), two.address(V4));
    for answered in [false, true] {
        let (mut between_hosts, mut between_containers) = (0.0, 0.0);
        for _ in 0..ROUNDS {
            best(|| a.ns.enter(move || round(host_from, host_to, answered)), &mut between_hosts);
            best(|| one.enter(move || round(from, to, answered)), &mut between_containers);
        }
        let (unit, by) = if answered { ("round trips/s", 1.0) } else { ("Gbit/s", 8e-9) };
        println!(
            "| {what}, {unit} | {:.1} | {:.1} | {:.2} |",
            between_hosts * by,
            between_containers * by,
            between_containers / between_hosts
        );
    }
}

#[test]
#[ignore = "a measurement: bench/routes.sh"]
fn throughput_between_hosts() {
    netns::run(|| async {
        println!("| best of {ROUNDS} | host to host | container to container | ratio |\n|---|---|---|---|");
        let lab = Lab::new().await;
        lab.pools("Never").await;
        let (a, b) = (lab.host("a", 0, 1).await, lab.host("b", 0, 2).await);
        let (one, two) = (a.container(&lab, 1).await, b.container(&lab, 2).await);
        let (host, container) = (b.v4, two.address(V4));
        b.ns.enter(move || sink(host));
        two.enter(move || sink(container));
        for (mode, device) in [("Never", "dev eth0"), ("Always", "dev vxlan.calico")] {
            lab.pools(mode).await;
            a.until_route(&two.block(V4), device).await;
            b.until_route(&one.block(V4), device).await;
            let what = if mode == "Never" { "direct" } else { "VXLAN" };
            compare((&a, &b), (&one, &two), what);
        }
    });
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// A block of 64 addresses, all in use, the last by another node.
fn full_block(cidr: &str, owner: &str, borrower: &str) -> String {
    let holders: Vec<_> = (0..64)
        .map(|n| json!({"handle_id": format!("h{n}"), "secondary": {"node": if n == 63 { borrower } else { owner }}}))
        .collect();
    let document = json!({"cidr": cidr, "affinity": format!("host:{owner}"), "unallocated": [],
        "allocations": (0..64).collect::<Vec<_>>(), "attributes": holders});
    document.to_string()
}

#[test]
#[ignore = "a measurement: bench/routes.sh"]
fn a_hundred_nodes_and_ten_thousand_endpoints() {
    netns::run(|| async {
        let lab = Lab::new().await;
        lab.pool("big", "10.0.0.0/8", 26, json!({"vxlanMode": "Always"})).await;
        for n in 1..=100_u8 {
            let spec = json!({"bgp": {"ipv4Address": format!("192.0.2.{n}/24")}, "ipv4VXLANTunnelAddr": format!("10.200.0.{n}")});
            lab.put("Node", "nodes", &format!("n{n}"), spec).await;
        }
        for n in 0..160 {
            let cidr = format!("10.1.{}.{}/26", n / 4, n % 4 * 64);
            let key = calico_libnetwork::model::key::block(&cidr.parse().unwrap());
            lab.raw(
                &key,
                &full_block(&cidr, &format!("n{}", n % 100 + 1), &format!("n{}", (n + 7) % 100 + 1)),
            )
            .await;
        }
        let (memory, start) = (resident(), Instant::now());
        let a = lab.host("a", 0, 250).await;
        a.until("all routes", |routes| {
            routes.iter().filter(|route| route.contains("vxlan.calico")).count() == 320
        })
        .await;
        println!("| 100 nodes, 160 blocks with 10240 endpoints | |\n|---|---|");
        println!("| routes of a host | {} |", a.routes().len());
        println!("| from the worker's start to the last route | {} ms |", start.elapsed().as_millis());
        println!("| memory that it took | {:.1} MiB |", resident() - memory);
        let (mut longest, before) = (Duration::ZERO, a.faults.as_ref().unwrap().calls().len());
        for n in 0..10 {
            let cidr = format!("10.2.{n}.0/26");
            let key = calico_libnetwork::model::key::block(&cidr.parse().unwrap());
            let calls = a.faults.as_ref().unwrap().calls().len();
            let begin = Instant::now();
            lab.raw(&key, &full_block(&cidr, "n5", "n5")).await;
            while a.faults.as_ref().unwrap().calls().len() == calls {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            longest = longest.max(begin.elapsed());
        }
        println!(
            "| a new block, event to kernel, longest of 10 (10 ms of it wait for more) | {:.1} ms |",
            longest.as_secs_f64() * 1e3
        );
        let calls = a.faults.as_ref().unwrap().calls().len() - before;
        println!("| calls to the kernel for each of them | {:.1} |", calls as f64 / 10.0);
    });
}
