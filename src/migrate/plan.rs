//! What becomes of each key: two listings in, steps and obstacles out.

use crate::model::{
    Cidr, ClusterInformationSpec, IpPoolSpec, Kind, NodeSpec, Resource, WorkloadEndpointSpec, key,
};
use crate::store::{Entry, Revision};
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What Felix reports goes with its leases and is not moved.
const FELIX_ROOT: &str = "/calico/felix/";

/// Key of the one resource that says whether a datastore may be used.
pub(super) fn cluster_key() -> String {
    key::resource::<ClusterInformationSpec>("default")
}

/// A key to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) key: String,
    pub(super) value: Bytes,
    /// As it stands in the target, where it is to be replaced.
    pub(super) at: Option<Revision>,
}

/// All that is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) copies: Vec<Copy>,
    /// Keys of a stale target that the source does not have any more.
    pub(super) removals: Vec<(String, Revision)>,
    /// Keys that say the same on both sides.
    pub(super) same: usize,
    /// Nodes that the target knows already, otherwise than the source; they stay.
    pub(super) kept: Vec<String>,
    /// Why nothing may be moved, one sentence each.
    pub(super) obstacles: Vec<String>,
}

/// Compares source and target. A `stale` target is what an earlier move left behind: it may be overwritten.
pub(super) fn plan(source: &[Entry], target: &[Entry], stale: bool) -> Plan {
    let there: BTreeMap<&str, &Entry> = moved(target).map(|entry| (entry.key.as_str(), entry)).collect();
    let mut plan = Plan::default();
    for entry in moved(source) {
        let copy = |at| Copy { key: entry.key.clone(), value: entry.value.clone(), at };
        match there.get(entry.key.as_str()) {
            None => plan.copies.push(copy(None)),
            Some(other) if says_the_same(entry, other) => plan.same += 1,
            Some(other) if stale => plan.copies.push(copy(Some(other.revision))),
            Some(_) if entry.key.starts_with(&key::resources::<NodeSpec>()) => {
                plan.kept.push(entry.key.clone())
            }
            Some(_) => plan.obstacles.push(format!("{} exists there and is another one", entry.key)),
        }
    }
    if stale {
        let here: BTreeSet<&str> = moved(source).map(|entry| entry.key.as_str()).collect();
        let gone = there.values().filter(|entry| !here.contains(entry.key.as_str()));
        plan.removals = gone.map(|entry| (entry.key.clone(), entry.revision)).collect();
    } else {
        plan.obstacles.extend(overlaps(&plan.copies, &there));
    }
    // Settings and pools before what is made from them.
    plan.copies.sort_by_key(|copy| (!copy.key.starts_with(key::RESOURCE_ROOT), copy.key.clone()));
    plan
}

/// The entries that a move is about.
fn moved(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    let own = cluster_key();
    entries.iter().filter(move |entry| {
        entry.key.starts_with(key::CALICO_ROOT) && !entry.key.starts_with(FELIX_ROOT) && entry.key != own
    })
}

/// The same text, or the same JSON; two resources are the same whoever made them and when.
fn says_the_same(one: &Entry, other: &Entry) -> bool {
    if one.value == other.value {
        return true;
    }
    let read = |entry: &Entry| {
        let mut value: Value = serde_json::from_slice(&entry.value).ok()?;
        if entry.key.starts_with(key::RESOURCE_ROOT)
            && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("uid");
            metadata.remove("creationTimestamp");
        }
        Some(value)
    };
    read(one).is_some_and(|one| read(other) == Some(one))
}

/// New pools beside old ones, and new blocks beside old ones, which have an address in common.
fn overlaps(copies: &[Copy], there: &BTreeMap<&str, &Entry>) -> Vec<String> {
    let pool = |key: &str, value: &[u8]| {
        key.strip_prefix(&key::resources::<IpPoolSpec>())?;
        serde_json::from_slice::<Resource<IpPoolSpec>>(value).ok().map(|pool| pool.spec.cidr)
    };
    let old_pools: Vec<(&str, Cidr)> = there
        .values()
        .filter_map(|entry| Some((entry.key.as_str(), pool(&entry.key, &entry.value)?)))
        .collect();
    let old_blocks: Vec<Cidr> = there.keys().filter_map(|key| key::parse_block(key)).collect();
    let mut found = Vec::new();
    for copy in copies {
        let name = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(cidr) = pool(&copy.key, &copy.value)
            && let Some((key, other)) = old_pools.iter().find(|(_, other)| other.overlaps(&cidr))
        {
            found.push(format!(
                "pool {} ({cidr}) overlaps pool {} ({other}) there",
                name(&copy.key),
                name(key)
            ));
        }
        if let Some(cidr) = key::parse_block(&copy.key)
            && let Some(other) = old_blocks.iter().find(|other| other.overlaps(&cidr))
        {
            found.push(format!("block {cidr} overlaps block {other} there"));
        }
    }
    found
}

/// Nodes other than the one that stays which have endpoints: a single machine's datastore is out of their reach.
pub(super) fn other_nodes(source: &[Entry], stays: &str) -> Vec<String> {
    let prefix = key::resources::<WorkloadEndpointSpec>();
    let endpoints = source.iter().filter(|entry| entry.key.starts_with(&prefix));
    let read = endpoints.filter_map(|entry| {
        serde_json::from_slice::<Resource<WorkloadEndpointSpec>>(&entry.value).ok().map(|it| it.spec.node)
    });
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    read.filter(|node| node != stays).for_each(|node| *counts.entry(node).or_default() += 1);
    let sentence = |(node, count): (&String, &usize)| {
        format!(
            "node {node} has {count} {}s, which only a shared datastore serves",
            WorkloadEndpointSpec::KIND
        )
    };
    counts.iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str, revision: u64) -> Entry {
        Entry { key: key.to_owned(), value: value.to_owned().into(), revision: Revision(revision) }
    }

    fn resource(key: &str, value: &str) -> Entry {
        entry(&format!("{}{key}", key::RESOURCE_ROOT), value, 7)
    }

    fn keys(plan: &Plan) -> Vec<&str> {
        plan.copies.iter().map(|copy| copy.key.as_str()).collect()
    }

    #[test]
    fn an_empty_target_gets_everything_of_calicos_but_reports() {
        let source = [
            entry("/calico/felix/v2/no-region/host/a/status", "{}", 1),
            entry("/calico/ipam/v2/handle/h", "{}", 1),
            resource("clusterinformations/default", "{}"),
            resource("ippools/a", r#"{"metadata":{"name":"a"},"spec":{"cidr":"10.1.0.0/24"}}"#),
            entry("/libnetwork/v1/network/n", "{}", 1),
        ];
        let plan = plan(&source, &[], false);
        assert_eq!(
            keys(&plan),
            ["/calico/resources/v3/projectcalico.org/ippools/a", "/calico/ipam/v2/handle/h"]
        );
        assert!(plan.obstacles.is_empty());
    }

    #[test]
    fn a_resource_is_the_same_whoever_made_it_and_anything_else_stands_in_the_way() {
        let source = [
            resource("tiers/default", r#"{"metadata":{"name":"default","uid":"1"},"spec":{"order":1}}"#),
            resource("nodes/a", r#"{"metadata":{"name":"a"},"spec":{}}"#),
            resource("profiles/p", r#"{"metadata":{"name":"p"},"spec":{}}"#),
            entry("/calico/ipam/v2/handle/h", r#"{"block":{"10.1.0.0/26":1}}"#, 3),
        ];
        let target = [
            resource("tiers/default", r#"{"metadata":{"name":"default","uid":"2"},"spec":{"order":1}}"#),
            resource("nodes/a", r#"{"metadata":{"name":"a"},"spec":{"bgp":{}}}"#),
            resource("profiles/p", r#"{"metadata":{"name":"p"},"spec":{"egress":[]}}"#),
            entry("/calico/ipam/v2/handle/h", r#"{"block":{"10.1.0.0/26":2}}"#, 5),
        ];
        let refused = plan(&source, &target, false);
        assert_eq!((refused.same, refused.kept.len(), refused.obstacles.len()), (1, 1, 2), "{refused:?}");
        let stale = plan(&source, &target, true);
        assert_eq!((stale.same, stale.copies.len(), stale.obstacles.len()), (1, 3, 0));
        assert!(stale.copies.iter().any(|copy| copy.at == Some(Revision(5))));
    }

    #[test]
    fn a_stale_target_loses_what_the_source_does_not_have() {
        let target =
            [entry("/calico/ipam/v2/handle/h", "{}", 4), resource("clusterinformations/default", "{}")];
        assert_eq!(plan(&[], &target, true).removals, [("/calico/ipam/v2/handle/h".to_owned(), Revision(4))]);
        assert!(plan(&[], &target, false).removals.is_empty());
    }

    #[test]
    fn pools_and_blocks_that_share_addresses_stand_in_the_way() {
        let source = [
            resource("ippools/a", r#"{"metadata":{"name":"a"},"spec":{"cidr":"10.1.0.0/24"}}"#),
            entry("/calico/ipam/v2/assignment/ipv4/block/10.1.0.0-29", "{}", 1),
        ];
        let target = [
            resource("ippools/b", r#"{"metadata":{"name":"b"},"spec":{"cidr":"10.1.0.0/16"}}"#),
            entry("/calico/ipam/v2/assignment/ipv4/block/10.1.0.0-26", "{}", 1),
        ];
        assert_eq!(
            plan(&source, &target, false).obstacles,
            [
                "pool a (10.1.0.0/24) overlaps pool b (10.1.0.0/16) there",
                "block 10.1.0.0/29 overlaps block 10.1.0.0/26 there"
            ]
        );
    }

    #[test]
    fn other_nodes_endpoints_are_counted() {
        let endpoint = |name: &str, node: &str| {
            resource(
                &format!("workloadendpoints/libnetwork/{name}"),
                &format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"node":"{node}"}}}}"#),
            )
        };
        let source = [endpoint("a", "here"), endpoint("b", "there"), endpoint("c", "there")];
        assert_eq!(
            other_nodes(&source, "here"),
            ["node there has 2 WorkloadEndpoints, which only a shared datastore serves"]
        );
    }
}
