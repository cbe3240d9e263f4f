//! Who has which address: as the engines say, and as etcd says. After everything that happens to a swarm both must agree.

use crate::engine::{DRIVER, Engine, text};
use crate::lab::Lab;
use calico_libnetwork::store::{EtcdOptions, EtcdStore, Store as _};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Longest time until what an engine forgot is collected: the grace period of `FAST_COLLECTOR` and several passes.
const SETTLED: Duration = Duration::from_secs(60);
const BLOCKS: &str = "/calico/ipam/v2/assignment/";
const ENDPOINTS: &str = "/calico/resources/v3/projectcalico.org/workloadendpoints/";
const PROFILES: &str = "/calico/resources/v3/projectcalico.org/profiles/";

/// Address to node.
type Held = BTreeMap<IpAddr, String>;

/// All addresses of running containers on networks of the plugin. One that two containers have fails the test.
#[track_caller]
fn running(lab: &Lab, hosts: &[&str]) -> Held {
    let mut held = Held::new();
    for host in hosts {
        for address in addresses(lab.engine(host)) {
            let before = held.insert(address, (*host).to_owned());
            assert_eq!(before, None, "{address} is on two containers, one on {host}");
        }
    }
    held
}

fn addresses(engine: &Engine) -> Vec<IpAddr> {
    let ours =
        engine.docker(&["network", "ls", "--no-trunc", "--quiet", "--filter", &format!("driver={DRIVER}")]);
    let containers = engine.docker(&["ps", "--quiet"]);
    if containers.is_empty() {
        return Vec::new();
    }
    let format =
        "{{range .NetworkSettings.Networks}}{{.NetworkID}} {{.IPAddress}} {{.GlobalIPv6Address}}\n{{end}}";
    let ids: Vec<&str> = containers.lines().collect();
    // A container that ends meanwhile is left out, and the command fails for it alone.
    let said = engine.try_docker(&[&["inspect", "--format", format], &ids[..]].concat());
    let text = String::from_utf8(said.stdout).unwrap();
    let of_ours = text.lines().filter(|line| ours.lines().any(|id| line.starts_with(id)));
    of_ours.flat_map(|line| line.split(' ').skip(1)).filter_map(|word| word.parse().ok()).collect()
}

/// What etcd holds: allocations of endpoints, and endpoints.
#[derive(Debug, Default)]
struct Stored {
    allocated: Held,
    endpoints: Held,
    /// What a leader has assigned (scope `global`), and no node has made its own.
    for_swarm: Held,
}

fn stored(lab: &Lab) -> Stored {
    let mut stored = Stored::default();
    for (_, block) in list(lab, BLOCKS) {
        read_block(&block, "libnetwork.", &mut stored.allocated);
        read_block(&block, "libnetwork-swarm.", &mut stored.for_swarm);
    }
    for (_, endpoint) in list(lab, ENDPOINTS) {
        read_endpoint(&endpoint, &mut stored.endpoints);
    }
    stored
}

/// The documents below a key of the lab's etcd, each with the rest of its key.
fn list(lab: &Lab, prefix: &'static str) -> Vec<(String, Value)> {
    let urls: Vec<String> = lab.run("endpoints", &[]).split(',').map(str::to_owned).collect();
    let namespace = File::open(lab.network_namespace("router")).unwrap();
    let read = move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listing = runtime
            .block_on(async { EtcdStore::connect(EtcdOptions::new(urls)).list(prefix).await.unwrap() });
        let document = |entry: calico_libnetwork::store::Entry| {
            (entry.key[prefix.len()..].to_owned(), serde_json::from_slice(&entry.value).unwrap())
        };
        listing.entries.into_iter().map(document).collect()
    };
    std::thread::spawn(read).join().unwrap()
}

/// The block's allocations whose handles begin so; tunnels have addresses too.
fn read_block(block: &Value, handles: &str, held: &mut Held) {
    let base: IpAddr = block["cidr"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    for (ordinal, allocation) in block["allocations"].as_array().unwrap().iter().enumerate() {
        let Some(index) = allocation.as_u64() else { continue };
        let attribute = &block["attributes"][usize::try_from(index).unwrap()];
        if attribute["handle_id"].as_str().is_some_and(|handle| handle.starts_with(handles)) {
            let node = attribute["secondary"]["node"].as_str().unwrap().to_owned();
            held.insert(nth(base, ordinal), node);
        }
    }
}

fn read_endpoint(endpoint: &Value, held: &mut Held) {
    let node = endpoint["spec"]["node"].as_str().unwrap();
    for network in endpoint["spec"]["ipNetworks"].as_array().unwrap() {
        let address: IpAddr = network.as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        let before = held.insert(address, node.to_owned());
        assert_eq!(before, None, "two endpoints have {address}");
    }
}

fn nth(base: IpAddr, ordinal: usize) -> IpAddr {
    match base {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) + u32::try_from(ordinal).unwrap()).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + u128::try_from(ordinal).unwrap()).into(),
    }
}

/// What `ipam check` finds wrong; nothing if all agrees.
fn findings(lab: &Lab) -> Option<String> {
    let etcd = format!("ETCD_ENDPOINTS={}", lab.run("endpoints", &[]));
    let binary = format!("{}/plugin/rootfs/calico-libnetwork", env!("CARGO_MANIFEST_DIR"));
    let done = lab.try_on("router", &["env", &etcd, &binary, "ipam", "check"]);
    (!done.status.success()).then(|| text(&done))
}

/// Waits until so many addresses are on running containers, and exactly these are allocated, each to the node that runs the
/// container, and have endpoints, and `ipam check` finds handles, blocks and claims in order. Fails the test with the
/// difference.
#[track_caller]
pub(crate) fn settled(lab: &Lab, count: usize) {
    settled_on(lab, &lab.names(), count);
}

/// The same where only these hosts are on.
#[track_caller]
pub(crate) fn settled_on(lab: &Lab, hosts: &[&str], count: usize) {
    let begun = Instant::now();
    loop {
        let (stored, running) = (stored(lab), running(lab, hosts));
        let counted = running.len() == count
            && stored.allocated == running
            && stored.endpoints == running
            && stored.for_swarm.is_empty();
        let findings = if counted { findings(lab) } else { None };
        if counted && findings.is_none() {
            return;
        }
        assert!(
            begun.elapsed() < SETTLED,
            "{count} addresses are expected, on engines and in etcd alike.\nrunning: {running:?}\n{stored:?}\n{findings:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Names of the profiles in etcd.
pub(crate) fn profiles(lab: &Lab) -> Vec<String> {
    list(lab, PROFILES).into_iter().map(|(name, _)| name).collect()
}

/// No address is on two running containers, whatever etcd says.
#[track_caller]
pub(crate) fn without_duplicates(lab: &Lab) {
    running(lab, &lab.names());
}
