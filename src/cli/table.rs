//! Tables with calicoctl's columns.

use crate::resource::{KindInfo, Stored};
use serde_json::Value;

/// A column: its heading, and where its values are; with `?` a flag that is false when absent, with `-` a dash then.
type Column = (&'static str, &'static str);

const POOL: &[Column] = &[("NAME", "@name"), ("CIDR", "spec.cidr"), ("SELECTOR", "spec.nodeSelector")];
const POOL_WIDE: &[Column] = &[
    ("NAME", "@name"),
    ("CIDR", "spec.cidr"),
    ("NAT", "spec.natOutgoing?"),
    ("IPIPMODE", "spec.ipipMode"),
    ("VXLANMODE", "spec.vxlanMode"),
    ("DISABLED", "spec.disabled?"),
    ("DISABLEBGPEXPORT", "spec.disableBGPExport?"),
    ("SELECTOR", "spec.nodeSelector"),
];
const POLICY: &[Column] =
    &[("NAME", "@name"), ("TIER", "spec.tier"), ("ORDER", "spec.order"), ("SELECTOR", "spec.selector")];
const ENDPOINT: &[Column] = &[
    ("WORKLOAD", "spec.workload"),
    ("NODE", "spec.node"),
    ("NETWORKS", "spec.ipNetworks"),
    ("INTERFACE", "spec.interfaceName"),
];
const ENDPOINT_WIDE: &[Column] = &[
    ("NAME", "@name"),
    ("WORKLOAD", "spec.workload"),
    ("NODE", "spec.node"),
    ("NETWORKS", "spec.ipNetworks"),
    ("INTERFACE", "spec.interfaceName"),
    ("PROFILES", "spec.profiles"),
];
const NODE_WIDE: &[Column] = &[
    ("NAME", "@name"),
    ("ASN", "spec.bgp.asNumber"),
    ("IPV4", "spec.bgp.ipv4Address"),
    ("IPV6", "spec.bgp.ipv6Address"),
];
const TIER: &[Column] =
    &[("NAME", "@name"), ("ORDER", "spec.order"), ("DEFAULTACTION", "spec.defaultAction")];
const PROFILE_WIDE: &[Column] = &[("NAME", "@name"), ("LABELS", "spec.labelsToApply")];
const SET_WIDE: &[Column] = &[("NAME", "@name"), ("NETS", "spec.nets")];
const RESERVATION_WIDE: &[Column] = &[("NAME", "@name"), ("RESERVEDCIDRS", "spec.reservedCIDRs")];
const FELIX_WIDE: &[Column] = &[("NAME", "@name"), ("LOGSEVERITY", "spec.logSeverityScreen")];
const HOST_ENDPOINT: &[Column] = &[("NAME", "@name"), ("NODE", "spec.node")];
const HOST_ENDPOINT_WIDE: &[Column] = &[
    ("NAME", "@name"),
    ("NODE", "spec.node"),
    ("INTERFACE", "spec.interfaceName"),
    ("IPS", "spec.expectedIPs"),
    ("PROFILES", "spec.profiles"),
];
const BGP_CONFIGURATION: &[Column] = &[
    ("NAME", "@name"),
    ("LOGSEVERITY", "spec.logSeverityScreen"),
    ("MESHENABLED", "spec.nodeToNodeMeshEnabled-"),
    ("ASNUMBER", "spec.asNumber-"),
];
const BGP_PEER: &[Column] =
    &[("NAME", "@name"), ("PEERIP", "spec.peerIP"), ("NODE", "@peers"), ("ASN", "spec.asNumber")];
const CLUSTER_WIDE: &[Column] = &[
    ("NAME", "@name"),
    ("GUID", "spec.clusterGUID"),
    ("TYPE", "spec.clusterType"),
    ("VERSION", "spec.calicoVersion"),
    ("READY", "spec.datastoreReady-"),
];
const IPAM: &[Column] = &[
    ("NAME", "@name"),
    ("STRICTAFFINITY", "spec.strictAffinity?"),
    ("AUTOALLOCATEBLOCKS", "spec.autoAllocateBlocks?"),
    ("MAXBLOCKSPERHOST", "spec.maxBlocksPerHost-"),
];
const NAME: &[Column] = &[("NAME", "@name")];
const NAMESPACE: Column = ("NAMESPACE", "@namespace");

fn columns(kind: &KindInfo, wide: bool) -> Vec<Column> {
    let columns = match (kind.word, wide) {
        ("IPPool", false) => POOL,
        ("IPPool", true) => POOL_WIDE,
        ("GlobalNetworkPolicy" | "NetworkPolicy", _) => POLICY,
        ("WorkloadEndpoint", false) => ENDPOINT,
        ("WorkloadEndpoint", true) => ENDPOINT_WIDE,
        ("Node", true) => NODE_WIDE,
        ("Tier", _) => TIER,
        ("Profile", true) => PROFILE_WIDE,
        ("NetworkSet" | "GlobalNetworkSet", true) => SET_WIDE,
        ("IPReservation", true) => RESERVATION_WIDE,
        ("FelixConfiguration", true) => FELIX_WIDE,
        ("HostEndpoint", false) => HOST_ENDPOINT,
        ("HostEndpoint", true) => HOST_ENDPOINT_WIDE,
        ("BGPConfiguration", _) => BGP_CONFIGURATION,
        ("BGPPeer", _) => BGP_PEER,
        ("ClusterInformation", true) => CLUSTER_WIDE,
        ("IPAMConfiguration", _) => IPAM,
        _ => NAME,
    };
    kind.namespaced.then_some(NAMESPACE).into_iter().chain(columns.iter().copied()).collect()
}

/// All resources, one a line, under headings.
pub(super) fn table(kind: &KindInfo, found: &[Stored], wide: bool) -> String {
    let columns = columns(kind, wide);
    let headings = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    let rows = found.iter().map(|stored| columns.iter().map(|(_, path)| cell(stored, path)).collect());
    align(&std::iter::once(headings).chain(rows).collect::<Vec<_>>())
}

fn cell(stored: &Stored, path: &str) -> String {
    match path {
        "@name" => stored.name.clone(),
        "@namespace" => stored.namespace.clone().unwrap_or_default(),
        // Which nodes a peer is for.
        "@peers" => ["spec.node", "spec.nodeSelector"]
            .iter()
            .find_map(|path| stored.field(path).map(text).filter(|text| !text.is_empty()))
            .unwrap_or_else(|| "(global)".to_owned()),
        path => match (path.strip_suffix('?'), path.strip_suffix('-')) {
            (Some(flag), _) => stored.field(flag).and_then(Value::as_bool).unwrap_or_default().to_string(),
            (None, Some(path)) => stored.field(path).map_or_else(|| "-".to_owned(), text),
            (None, None) => stored.field(path).map(text).unwrap_or_default(),
        },
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(map) => {
            let pairs = map.iter().map(|(name, value)| format!("{name}={}", text(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// Rows of cells with columns below each other.
pub(super) fn align(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
