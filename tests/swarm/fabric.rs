//! A router that speaks BGP with the plugins of all hosts, and is no host: what is behind it reaches containers without NAT.

use crate::across::{Group, administer};
use crate::engine::{text, wait_for};
use crate::lab::Lab;
use serde_json::json;
use std::time::Duration;

const ROUTER_AS: u32 = 65001;
/// The router's addresses in the hosts' subnets.
const ROUTER: [(&str, [&str; 2]); 3] = [
    ("one", ["198.51.100.254", "2001:db8:1::fe"]),
    ("two", ["198.51.100.254", "2001:db8:1::fe"]),
    ("three", ["203.0.113.254", "2001:db8:2::fe"]),
];
/// Longest time until sessions are up and routes in the kernels, on a busy machine.
const CONVERGED: Duration = Duration::from_secs(60);
/// Who may come in besides those whom the network lets in.
const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: fabric}
spec:
  selector: role == 'web'
  ingress:
  - {action: Allow, source: {nets: [198.51.100.254/32, 203.0.113.254/32]}}
  - {action: Allow, source: {nets: ['2001:db8:1::fe/128', '2001:db8:2::fe/128']}}
  - {action: Pass}
";

/// BIRD's configuration at the router: whoever calls from a host's subnet is a peer, and what they announce is routed.
fn router() -> String {
    let mut text = "router id 198.51.100.254;\nprotocol device { scan time 1; }\n".to_owned();
    for family in ["ipv4", "ipv6"] {
        text +=
            &format!("protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; }}\n");
    }
    let subnets = [
        ("ipv4", "198.51.100.0/24"),
        ("ipv4", "203.0.113.0/24"),
        ("ipv6", "2001:db8:1::/64"),
        ("ipv6", "2001:db8:2::/64"),
    ];
    for (n, (family, subnet)) in subnets.into_iter().enumerate() {
        text += &format!(
            "protocol bgp peers{n} {{ local as {ROUTER_AS}; neighbor range {subnet} as 64512; dynamic name \"p{n}x\";
            {family} {{ import all; export all; }}; }}\n"
        );
    }
    text
}

/// The peers of all hosts, and no mesh between these.
fn peers() -> String {
    let document = |kind: &str, name: &str, spec: serde_json::Value| json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let mut all = vec![document("BGPConfiguration", "default", json!({"nodeToNodeMeshEnabled": false}))];
    for (host, addresses) in ROUTER {
        for (n, address) in addresses.into_iter().enumerate() {
            let spec = json!({"node": host, "peerIP": address, "asNumber": ROUTER_AS});
            all.push(document("BGPPeer", &format!("{host}-{n}"), spec));
        }
    }
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n---\n")
}

/// Starts the router, and sees that it reaches every container of a group, under its own address.
pub(crate) fn reaches(lab: &Lab, group: &Group<'_>) {
    let file = lab.engine("one").dir().join("router.conf");
    std::fs::write(&file, router()).unwrap();
    let file = file.to_str().unwrap();
    lab.on("router", &["bird", "-c", file, "-s", "/run/bird.ctl", "-P", "/run/bird.pid"]);
    administer(lab, &["apply", "-f", "-"], POLICY);
    administer(lab, &["apply", "-f", "-"], &peers());
    for (container, (host, [v4, v6])) in group.containers.iter().zip(ROUTER) {
        for (url, own) in
            [(container.v4(group.network), v4), (format!("[{}]", container.v6(group.network)), v6)]
        {
            let url = format!("http://{url}/cgi-bin/who");
            // Until all have announced, the way may lead over another host.
            wait_for(&format!("{url} on {host} to be called by {own}"), CONVERGED, || {
                let done = lab.try_on("router", &["timeout", "3", "busybox", "wget", "-q", "-O", "-", &url]);
                let said = text(&done);
                said.trim().trim_start_matches("[::ffff:").trim_matches(['[', ']']) == own
            });
        }
        let own = format!("via {} ", lab.address(host));
        let way = || lab.on("router", &["ip", "route", "get", &container.v4(group.network)]);
        wait_for(&format!("{host} to be routed to itself"), CONVERGED, || way().contains(&own));
    }
    let told = administer_with(lab, "CALICO_NETWORKING_BACKEND=bird", "check");
    for session in ["Node_198_51_100_254 with one-0", "Node_2001_db8_1__fe with one-1"] {
        let up = told
            .lines()
            .any(|line| line.starts_with("BGP") && line.contains(session) && line.contains(" is up since "));
        assert!(up, "{told}");
    }
    let routes = told.lines().find(|line| line.starts_with("routes")).unwrap_or_default();
    assert!(routes.contains(" in place, 2 other nodes, vxlan.calico to 2 nodes"), "{told}");
}

/// What a command of the binary says on the first host, whatever its exit code.
fn administer_with(lab: &Lab, setting: &str, command: &str) -> String {
    let etcd = format!("ETCD_ENDPOINTS={}", lab.run("endpoints", &[]));
    let binary = format!("{}/plugin/rootfs/calico-libnetwork", env!("CARGO_MANIFEST_DIR"));
    text(&lab.try_on("one", &["env", &etcd, setting, &binary, command]))
}
