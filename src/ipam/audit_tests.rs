use super::*;
use crate::model::{NodeName, key};
use crate::store::{Entry, Revision};
use serde_json::{Value, json};

const NOW: &str = "2026-11-21T00:51:43Z";

/// A sound cluster: one pool, two nodes, one block with one address that an endpoint has.
fn sound() -> BTreeMap<String, Value> {
    BTreeMap::from([
        (resource("ippools", "p"), json!({"metadata": {"name": "p"}, "spec": {"cidr": "10.1.0.0/24"}})),
        (resource("nodes", "a"), json!({"metadata": {"name": "a"}, "spec": {}})),
        (resource("nodes", "b"), json!({"metadata": {"name": "b"}, "spec": {}})),
        (endpoint_key("e"), endpoint("a", "10.1.0.0")),
        (block_key("10.1.0.0/30"), block("10.1.0.0/30", Some("a"), &[Some(("h", "a"))])),
        (claim_key("a", "10.1.0.0/30"), json!({"state": "confirmed"})),
        ("/calico/ipam/v2/handle/h".to_owned(), json!({"block": {"10.1.0.0/30": 1}})),
    ])
}

fn resource(plural: &str, name: &str) -> String {
    format!("{}{plural}/{name}", key::RESOURCE_ROOT)
}

fn endpoint_key(name: &str) -> String {
    resource("workloadendpoints/libnetwork", name)
}

fn endpoint(node: &str, ip: &str) -> Value {
    json!({"metadata": {"name": "e"}, "spec": {"node": node, "ipNetworks": [format!("{ip}/32")]}})
}

fn block_key(cidr: &str) -> String {
    key::block(&cidr.parse().unwrap())
}

fn claim_key(node: &str, cidr: &str) -> String {
    key::affinity(&NodeName::new(node).unwrap(), &cidr.parse().unwrap())
}

/// A block of four addresses, the first of which are held under handles on nodes, a minute and a half ago.
fn block(cidr: &str, owner: Option<&str>, held: &[Option<(&str, &str)>]) -> Value {
    let index: Vec<Value> = (0..4)
        .map(|at| match held.get(at) {
            Some(Some(_)) => json!(held[..at].iter().flatten().count()),
            _ => Value::Null,
        })
        .collect();
    let free: Vec<usize> = (0..4).filter(|at| held.get(*at).is_none_or(Option::is_none)).collect();
    let attribute = |(handle, node): &(&str, &str)| json!({"handle_id": handle, "secondary": {"node": node, "timestamp": "2026-11-21 00:50:13 +0000 UTC"}});
    let attributes: Vec<Value> = held.iter().flatten().map(attribute).collect();
    json!({
        "cidr": cidr, "affinity": owner.map(|owner| format!("host:{owner}")), "allocations": index,
        "unallocated": free, "attributes": attributes, "sequenceNumber": 9, "sequenceNumberForAllocation": {"0": 7}
    })
}

fn findings(cluster: &BTreeMap<String, Value>, grace: u64) -> Vec<Finding> {
    let entry = |(key, value): (&String, &Value)| Entry {
        key: key.clone(),
        value: value.to_string().into(),
        revision: Revision(1),
    };
    let entries: Vec<Entry> = cluster.iter().map(entry).collect();
    let now = time::parse(NOW).unwrap();
    audit(&Facts::of(&entries), now, Duration::from_secs(grace)).findings
}

/// The kinds that a change of the sound cluster leads to.
fn found(change: impl FnOnce(&mut BTreeMap<String, Value>)) -> Vec<FindingKind> {
    let mut cluster = sound();
    change(&mut cluster);
    findings(&cluster, 60).iter().map(|finding| finding.kind).collect()
}

#[test]
fn a_sound_cluster_has_no_finding() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn an_address_that_nobody_uses_is_leaked_and_how_it_is_held_is_the_proof() {
    let mut cluster = sound();
    cluster.remove(&endpoint_key("e"));
    let [leaked] = &findings(&cluster, 60)[..] else { panic!("one finding") };
    assert_eq!((leaked.kind, leaked.subject.as_str()), (FindingKind::LeakedAddress, "10.1.0.0"));
    let held = leaked.held.clone().unwrap();
    assert_eq!((held.handle.as_deref(), held.sequence_number), (Some("h"), 7));
    assert!(leaked.kind.is_problem());
}

#[test]
fn an_address_is_settling_for_as_long_as_is_granted() {
    let mut cluster = sound();
    cluster.remove(&endpoint_key("e"));
    assert_eq!(findings(&cluster, 91)[0].kind, FindingKind::Settling);
    assert_eq!(findings(&cluster, 89)[0].kind, FindingKind::LeakedAddress);
}

#[test]
fn an_address_that_a_network_keeps_is_not_leaked() {
    let kept = found(|cluster| {
        cluster.remove(&endpoint_key("e"));
        let block = cluster.get_mut(&block_key("10.1.0.0/30")).unwrap();
        block["attributes"][0]["secondary"]["network"] = "n1".into();
    });
    assert_eq!(kept, []);
}

#[test]
fn one_address_is_one_users() {
    use FindingKind::{DuplicateAddress, OutsidePools, UnallocatedAddress};
    let twice = found(|cluster| drop(cluster.insert(endpoint_key("f"), endpoint("b", "10.1.0.0"))));
    assert_eq!(twice, [DuplicateAddress]);
    let free = found(|cluster| drop(cluster.insert(endpoint_key("f"), endpoint("a", "10.1.0.2"))));
    assert_eq!(free, [UnallocatedAddress]);
    let elsewhere = found(|cluster| drop(cluster.insert(endpoint_key("f"), endpoint("a", "10.9.0.2"))));
    assert_eq!(elsewhere, [OutsidePools]);
    let dockers = found(|cluster| {
        let pool = json!({"metadata": {"name": "d", "annotations": {"org.projectcalico.docker.network": "n"}},
            "spec": {"cidr": "10.9.0.0/24", "disabled": true}});
        cluster.insert(resource("ippools", "d"), pool);
        cluster.insert(endpoint_key("f"), endpoint("a", "10.9.0.2"));
    });
    assert_eq!(dockers, [], "Docker's own IPAM holds it");
}

#[test]
fn one_address_in_two_blocks_is_two_holders() {
    let kinds = found(|cluster| {
        cluster.insert(block_key("10.1.0.0/31"), {
            let mut small = block("10.1.0.0/31", Some("b"), &[Some(("h", "a"))]);
            small["allocations"] = json!([0, null]);
            small["unallocated"] = json!([1]);
            small
        });
        cluster.insert(claim_key("b", "10.1.0.0/31"), json!({"state": "confirmed"}));
        let both = json!({"block": {"10.1.0.0/30": 1, "10.1.0.0/31": 1}});
        cluster.insert("/calico/ipam/v2/handle/h".to_owned(), both);
    });
    assert!(kinds.contains(&FindingKind::DuplicateAddress), "{kinds:?}");
}

#[test]
fn a_tunnel_is_a_user() {
    let mut cluster = sound();
    cluster.remove(&endpoint_key("e"));
    cluster.insert(
        resource("nodes", "a"),
        json!({"metadata": {"name": "a"}, "spec": {"bgp": {"ipv4IPIPTunnelAddr": "10.1.0.0"}}}),
    );
    assert_eq!(findings(&cluster, 0), []);
}

#[test]
fn handles_and_blocks_say_the_same() {
    let handle = |text: Value| {
        move |cluster: &mut BTreeMap<String, Value>| {
            drop(cluster.insert("/calico/ipam/v2/handle/h".to_owned(), text))
        }
    };
    assert_eq!(found(handle(json!({"block": {"10.1.0.0/30": 2}}))), [FindingKind::HandleCount]);
    assert_eq!(
        found(handle(json!({"block": {"10.1.0.0/30": 1, "10.1.0.4/30": 1}}))),
        [FindingKind::HandleCount]
    );
    let leaked = json!({"block": {"10.1.0.4/30": 1}});
    let other = found(|cluster| drop(cluster.insert("/calico/ipam/v2/handle/x".to_owned(), leaked)));
    assert_eq!(other, [FindingKind::LeakedHandle]);
    let gone = found(|cluster| drop(cluster.remove("/calico/ipam/v2/handle/h")));
    assert_eq!(gone, [FindingKind::MissingHandle]);
    assert!(!FindingKind::MissingHandle.is_problem(), "calicoctl does not count it either");
}

#[test]
fn blocks_and_claims_belong_together() {
    use FindingKind::{BlockWithoutClaim, ClaimWithoutBlock, UnfinishedClaim, UnknownNode, UnusedBlock};
    let unclaimed = found(|cluster| drop(cluster.remove(&claim_key("a", "10.1.0.0/30"))));
    assert_eq!(unclaimed, [BlockWithoutClaim]);
    let claim = |state: &'static str, cidr: &'static str| {
        move |cluster: &mut BTreeMap<String, Value>| {
            drop(cluster.insert(claim_key("b", cidr), json!({"state": state})))
        }
    };
    assert_eq!(found(claim("confirmed", "10.1.0.4/30")), [ClaimWithoutBlock]);
    assert_eq!(found(claim("pending", "10.1.0.4/30")), [UnfinishedClaim]);
    assert_eq!(found(claim("confirmed", "10.1.0.0/30")), [ClaimWithoutBlock], "it is another node's");
    let nobodys = |cluster: &mut BTreeMap<String, Value>| {
        drop(cluster.insert(block_key("10.1.0.4/30"), block("10.1.0.4/30", None, &[])))
    };
    assert_eq!(found(nobodys), [UnusedBlock]);
    assert_eq!(found(|cluster| drop(cluster.remove(&resource("nodes", "a")))), [UnknownNode]);
}

#[test]
fn what_cannot_be_read_is_named_and_hides_nothing_else() {
    let kinds = found(|cluster| {
        cluster.insert(resource("ippools", "q"), json!("no object"));
        cluster.insert(block_key("10.1.0.4/30"), json!({"cidr": "10.1.0.4/30", "allocations": [5]}));
        cluster.remove(&endpoint_key("e"));
    });
    use FindingKind::{DamagedBlock, LeakedAddress, Unreadable};
    assert_eq!(kinds, [DamagedBlock, LeakedAddress, Unreadable]);
}

#[test]
fn an_address_on_another_node_than_its_own_is_routed_wrong() {
    let moved = found(|cluster| drop(cluster.insert(endpoint_key("e"), endpoint("b", "10.1.0.0"))));
    assert_eq!(moved, [FindingKind::WrongNode]);
}

#[test]
fn service_addresses_of_kubernetes_are_not_leaked() {
    let kinds = found(|cluster| {
        cluster.remove(&endpoint_key("e"));
        cluster.get_mut(&block_key("10.1.0.0/30")).unwrap()["affinity"] = "virtual:load-balancer".into();
        cluster.remove(&claim_key("a", "10.1.0.0/30"));
    });
    assert_eq!(kinds, []);
}
