//! The fields of each kind (`api/pkg/apis/projectcalico/v3`), so that a misspelt one is found before it is written.

use super::kind::KindInfo;
use super::shape::Shape::{
    self, Any, Flag, Labels, List, Name, Net, Number, Object, Port, Protocol, Selector, StrictNet, Text,
    Whole, Word,
};

/// A field and its form.
type Field = (&'static str, Shape);

const ICMP: &[Field] = &[("type", Whole(0, 254)), ("code", Whole(0, 255))];
const ACCOUNTS: &[Field] = &[("names", List(&Text)), ("selector", Selector)];
const ENTITY: &[Field] = &[
    ("nets", List(&Net)),
    ("notNets", List(&Net)),
    ("selector", Selector),
    ("notSelector", Selector),
    ("namespaceSelector", Selector),
    ("ports", List(&Port)),
    ("notPorts", List(&Port)),
    ("serviceAccounts", Object(ACCOUNTS)),
    ("services", Any),
];
const RULE: &[Field] = &[
    ("action", Word(&["Allow", "Deny", "Log", "Pass"])),
    ("ipVersion", Whole(4, 6)),
    ("protocol", Protocol),
    ("notProtocol", Protocol),
    ("icmp", Object(ICMP)),
    ("notICMP", Object(ICMP)),
    ("source", Object(ENTITY)),
    ("destination", Object(ENTITY)),
    ("http", Any),
    ("metadata", Any),
];
const RULES: Shape = List(&Object(RULE));
const TYPES: Shape = List(&Word(&["Ingress", "Egress"]));
const HINTS: Shape = List(&Word(&["AssumeNeededOnEveryNode"]));
const ENCAP: Shape = Word(&["", "Never", "Always", "CrossSubnet"]);

const NETWORK_POLICY: &[Field] = &[
    ("tier", Name),
    ("order", Number),
    ("ingress", RULES),
    ("egress", RULES),
    ("selector", Selector),
    ("types", TYPES),
    ("serviceAccountSelector", Selector),
    ("performanceHints", HINTS),
];
const GLOBAL_NETWORK_POLICY: &[Field] = &[
    ("tier", Name),
    ("order", Number),
    ("ingress", RULES),
    ("egress", RULES),
    ("selector", Selector),
    ("types", TYPES),
    ("doNotTrack", Flag),
    ("preDNAT", Flag),
    ("applyOnForward", Flag),
    ("serviceAccountSelector", Selector),
    ("namespaceSelector", Selector),
    ("performanceHints", HINTS),
];
const POOL: &[Field] = &[
    ("cidr", StrictNet),
    ("vxlanMode", ENCAP),
    ("ipipMode", ENCAP),
    ("natOutgoing", Flag),
    ("disabled", Flag),
    ("disableBGPExport", Flag),
    ("blockSize", Whole(0, 128)),
    ("nodeSelector", Selector),
    ("namespaceSelector", Selector),
    ("allowedUses", List(&Word(&["Workload", "Tunnel", "LoadBalancer"]))),
    ("assignmentMode", Word(&["Automatic", "Manual"])),
];
const PROFILE: &[Field] = &[("ingress", RULES), ("egress", RULES), ("labelsToApply", Labels)];
const TIER: &[Field] = &[("order", Number), ("defaultAction", Word(&["Deny", "Pass"]))];
const SET: &[Field] = &[("nets", List(&Net))];
const RESERVATION: &[Field] = &[("reservedCIDRs", List(&Net))];

/// The form of a kind's spec. Nodes and Felix's settings have fields of which nothing here knows more than the name.
pub(super) fn spec(kind: &KindInfo) -> Option<Shape> {
    Some(Object(match kind.word {
        "NetworkPolicy" => NETWORK_POLICY,
        "GlobalNetworkPolicy" => GLOBAL_NETWORK_POLICY,
        "IPPool" => POOL,
        "Profile" => PROFILE,
        "Tier" => TIER,
        "NetworkSet" | "GlobalNetworkSet" => SET,
        "IPReservation" => RESERVATION,
        _ => return None,
    }))
}

/// The form of metadata. What Kubernetes adds is taken and means nothing.
pub(super) const METADATA: Shape = Object(&[
    ("name", Text),
    ("namespace", Name),
    ("labels", Labels),
    ("annotations", Any),
    ("resourceVersion", Text),
    ("uid", Text),
    ("creationTimestamp", Text),
    ("generateName", Text),
    ("generation", Any),
    ("selfLink", Any),
    ("managedFields", Any),
    ("ownerReferences", Any),
    ("finalizers", Any),
    ("deletionTimestamp", Any),
    ("deletionGracePeriodSeconds", Any),
]);
