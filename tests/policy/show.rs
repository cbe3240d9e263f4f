//! `policy show` against `nft`: what it prints, `nft` prints too, and what it prints, `nft` loads.

use crate::lab::{Documents, Lab, Probe, address, ask, endpoint, open_mesh};
use crate::nsrun::{have, in_namespace, inside, run};
use calico_libnetwork::dataplane::{PortMap, Protocol, published_ports, rule_counts, show_table};
use calico_libnetwork::model::IfaceName;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);

/// A policy with everything that rules can say.
fn everything() -> Documents {
    let tcp = |from: serde_json::Value, to: serde_json::Value| json!({"action": "Allow", "protocol": "TCP", "source": from, "destination": to});
    let rules = json!([
        {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8}},
        {"action": "Deny", "protocol": "ICMP", "icmp": {"type": 3, "code": 1}},
        {"action": "Deny", "protocol": "ICMPv6", "notICMP": {"type": 1, "code": 3}},
        {"action": "Log", "protocol": "TCP", "destination": {"ports": [80, "1000:2000", "web"], "selector": "role == 'web'"}},
        tcp(json!({"nets": ["10.0.0.0/8"]}), json!({"ports": ["1:1023"]})),
        tcp(json!({"nets": ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/24"]}), json!({"ports": [80, 443]})),
        tcp(json!({"notNets": ["fd00::/8"]}), json!({"notPorts": [22]})),
        tcp(json!({"notNets": ["fd00::/8", "fe80::/10"]}), json!({"notPorts": [22, "100:200"]})),
        tcp(json!({"selector": "all()"}), json!({"ports": ["web", 80, "9000:9100"]})),
        tcp(json!({"notSelector": "role == 'web'", "ports": ["web"]}), json!({"notPorts": ["web"]})),
        {"action": "Allow", "protocol": "UDP", "destination": {"ports": [53]}},
        {"action": "Allow", "protocol": "SCTP", "destination": {"ports": [9]}},
        {"action": "Allow", "protocol": 47},
        {"action": "Deny", "notProtocol": "UDP", "ipVersion": 6, "source": {"nets": ["2001:db8::7/128"]}},
        {"action": "Pass"},
    ]);
    let mut documents = open_mesh();
    let spec = json!({"selector": "name == 'a'", "tier": "first", "types": ["Ingress", "Egress"], "ingress": rules, "egress": rules});
    documents.insert("tiers/first".to_owned(), json!({"spec": {"order": 1}}));
    documents.insert("globalnetworkpolicies/all-kinds".to_owned(), json!({"spec": spec}));
    let nets = json!(["192.0.2.0/25", "198.51.100.1/32", "198.51.100.2/31", "2001:db8::/64"]);
    documents.insert(
        "globalnetworksets/s".to_owned(),
        json!({"metadata": {"labels": {"role": "web"}}, "spec": {"nets": nets}}),
    );
    let (key, value) = endpoint("b", &json!({"role": "web"}), &["open"]);
    documents.insert(key, value);
    documents
}

/// The blocks of a table by their first line; elements in one order, counters at zero.
fn blocks(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut head = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "}") {
        if line.ends_with('{') && !line.contains('=') {
            head = line.to_owned();
            blocks.insert(head.clone(), Vec::new());
        } else {
            let block = blocks.get_mut(&head).unwrap();
            match block.last_mut().filter(|last| last.starts_with("elements") && !last.ends_with('}')) {
                Some(open) => *open = format!("{open} {line}"),
                None => block.push(line.to_owned()),
            }
        }
    }
    for line in blocks.values_mut().flatten() {
        if let Some(inner) = line.strip_prefix("elements = {").and_then(|rest| rest.strip_suffix('}')) {
            let mut elements: Vec<String> = inner.split(',').map(|it| it.trim().to_owned()).collect();
            elements.sort();
            *line = format!("elements = {{ {} }}", elements.join(", "));
        }
        let words: Vec<&str> = line.split(' ').collect();
        let mut plain = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let counted = at > 0 && matches!(words[at - 1], "packets" | "bytes");
            plain.push(if counted { "0" } else { word });
        }
        *line = plain.join(" ");
    }
    blocks
}

fn shown(lab: &Lab) -> String {
    lab.block(show_table(WITHIN)).unwrap().unwrap()
}

#[test]
fn the_table_is_printed_as_nft_prints_it_and_nft_loads_it() {
    const NAME: &str = "show::the_table_is_printed_as_nft_prints_it_and_nft_loads_it";
    if !have("nft", "nft") {
        return;
    }
    in_namespace(NAME, || {
        let mut lab = Lab::start();
        lab.become_(&everything());
        let iface = IfaceName::new("calia").unwrap();
        let map = |host_ip: Option<&str>, port, to: &str| PortMap {
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: port,
            container: to.parse().unwrap(),
        };
        let maps = [
            map(None, 7000, "10.65.0.1:80"),
            map(Some("192.0.2.1"), 7001, "10.65.0.1:81"),
            map(None, 7000, "[fd65::1]:80"),
        ];
        lab.block(lab.dataplane.publish_ports(&iface, &maps)).unwrap();
        let mut read = lab.block(published_ports(WITHIN)).unwrap();
        read.sort();
        let mut wanted = maps.to_vec();
        wanted.sort();
        assert_eq!(read, wanted);
        let ours = shown(&lab);
        let theirs = run("nft list table inet calico-docker");
        let (printed, listed) = (blocks(&ours), blocks(&theirs));
        // nft 1.0.6 lists "not this type together with this code" as if it were "neither this type nor this code"; that
        // it is loaded again as it was is shown below.
        let plain = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|line| !line.contains("rule 3 of ")).cloned().collect()
        };
        for (head, lines) in &listed {
            assert_eq!(printed.get(head).map(|it| plain(it)), Some(plain(lines)), "{head}");
        }
        assert_eq!(printed.len(), listed.len());
        std::fs::write("/run/shown.nft", &ours).unwrap();
        run("ip netns add fresh");
        run("nsenter --net=/run/netns/fresh nft --file /run/shown.nft");
        let loaded = run("nsenter --net=/run/netns/fresh nft list table inet calico-docker");
        let loaded = blocks(&loaded);
        for (head, lines) in &listed {
            assert_eq!(loaded.get(head).map(|it| plain(it)), Some(plain(lines)), "{head}");
        }
        let again = inside("fresh", || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(show_table(WITHIN)).unwrap().unwrap()
        });
        let negated = |text: &str| text.lines().filter(|line| line.contains("@th,0,16 != 0x103")).count();
        assert_eq!((negated(&ours), negated(&again)), (2, 2), "{again}");
    });
}

#[test]
fn what_a_rule_has_matched_is_counted() {
    if !have("nft", "nft") {
        return;
    }
    in_namespace("show::what_a_rule_has_matched_is_counted", || {
        let mut lab = Lab::start();
        let mut documents = open_mesh();
        documents.insert(
            "globalnetworkpolicies/to-a".to_owned(),
            json!({"spec": {"selector": "name == 'a'", "types": ["Ingress"], "ingress": [
                {"action": "Allow", "protocol": "UDP", "source": {"selector": "name == 'b'"}},
                {"action": "Deny", "protocol": "UDP", "source": {"selector": "name == 'c'"}}]}}),
        );
        lab.become_(&documents);
        let a = |family| address("a", family);
        for family in [4, 6] {
            assert!(ask("b", a(family), Probe::Udp(80)));
            assert!(!ask("c", a(family), Probe::Udp(80)));
            assert!(!ask("x", a(family), Probe::Udp(80)));
        }
        let counts = lab.block(rule_counts(WITHIN)).unwrap();
        let of = |what: &str| -> u64 {
            counts.iter().filter(|count| count.what.starts_with(what)).map(|count| count.packets).sum()
        };
        assert_eq!(of("rule 1 of GlobalNetworkPolicy to-a ingress"), 2, "{counts:?}");
        assert_eq!(of("rule 2 of GlobalNetworkPolicy to-a ingress"), 2, "{counts:?}");
        assert_eq!(of("end of tier default"), 2, "{counts:?}");
        let dropped: u64 = counts.iter().filter(|count| count.drops).map(|count| count.packets).sum();
        assert_eq!(dropped, 4, "{counts:?}");
    });
}
