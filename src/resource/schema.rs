//! The fields of each kind (`api/pkg/apis/projectcalico/v3`), so that a misspelt one is found before it is written.

use super::kind::KindInfo;
use super::shape::Shape::{
    self, Address, Any, AsNumber, Community, Duration, Flag, Labels, List, Name, Net, Number, Object, Port,
    PortName, Protocol, Selector, StrictNet, Text, Whole, Word,
};

/// A field and its form.
type Field = (&'static str, Shape);

const ICMP: &[Field] = &[("type", Whole(0, 254)), ("code", Whole(0, 255))];
const HTTP: &[Field] =
    &[("methods", List(&Text)), ("paths", List(&Object(&[("exact", Text), ("prefix", Text)])))];
const SERVICE: &[Field] = &[("name", Name), ("namespace", Name)];
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
    ("services", Object(SERVICE)),
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
    ("http", Object(HTTP)),
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

const HOST_PORT: &[Field] = &[("name", PortName), ("protocol", Protocol), ("port", Whole(1, 65535))];
const HOST_ENDPOINT: &[Field] = &[
    ("node", Name),
    ("interfaceName", Text),
    ("expectedIPs", List(&Address)),
    ("profiles", List(&Name)),
    ("ports", List(&Object(HOST_PORT))),
];
const IPAM: &[Field] = &[
    ("strictAffinity", Flag),
    ("autoAllocateBlocks", Flag),
    ("maxBlocksPerHost", Whole(0, 4_294_967_295)),
    ("kubeVirtVMAddressPersistence", Word(&["Enabled", "Disabled"])),
    ("ipCooldownSeconds", Whole(0, 4_294_967_295)),
];
const CIDRS: Shape = List(&Object(&[("cidr", Net)]));
const NAMED_COMMUNITY: &[Field] = &[("name", Name), ("value", Community)];
const ADVERTISEMENT: &[Field] = &[("cidr", Net), ("communities", List(&Text))];
const BGP_CONFIGURATION: &[Field] = &[
    ("logSeverityScreen", Word(&["Debug", "Info", "Warning", "Error", "Fatal"])),
    ("nodeToNodeMeshEnabled", Flag),
    ("asNumber", AsNumber),
    ("serviceLoadBalancerIPs", CIDRS),
    ("serviceExternalIPs", CIDRS),
    ("serviceClusterIPs", CIDRS),
    ("serviceLoadBalancerAggregation", Word(&["Enabled", "Disabled"])),
    ("communities", List(&Object(NAMED_COMMUNITY))),
    ("prefixAdvertisements", List(&Object(ADVERTISEMENT))),
    ("listenPort", Whole(1, 65535)),
    ("nodeMeshPassword", Any),
    ("nodeMeshMaxRestartTime", Duration),
    ("bindMode", Word(&["None", "NodeIP"])),
    ("ignoredInterfaces", List(&Text)),
    ("localWorkloadPeeringIPV4", Text),
    ("localWorkloadPeeringIPV6", Text),
    ("programClusterRoutes", Word(&["Enabled", "Disabled"])),
    ("ipv4NormalRoutePriority", Whole(1, 2_147_483_646)),
    ("ipv6NormalRoutePriority", Whole(1, 2_147_483_646)),
];
const BGP_PEER: &[Field] = &[
    ("node", Name),
    ("nodeSelector", Selector),
    ("peerIP", Text),
    ("asNumber", AsNumber),
    ("localASNumber", AsNumber),
    ("peerSelector", Selector),
    ("localWorkloadSelector", Selector),
    ("keepOriginalNextHop", Flag),
    ("nextHopMode", Word(&["Auto", "Self", "Keep"])),
    ("reversePeering", Word(&["Auto", "Manual"])),
    ("password", Any),
    ("sourceAddress", Word(&["UseNodeIP", "None"])),
    ("maxRestartTime", Duration),
    ("keepaliveTime", Duration),
    ("numAllowedLocalASNumbers", Whole(0, 2_147_483_647)),
    ("ttlSecurity", Whole(1, 255)),
    ("filters", List(&Name)),
    ("reachableBy", Text),
];
const LENGTHS: &[Field] = &[("min", Whole(0, 128)), ("max", Whole(0, 128))];
const OPERATION: &[Field] = &[
    ("addCommunity", Object(&[("value", Community)])),
    ("prependASPath", Object(&[("prefix", List(&AsNumber))])),
    ("setPriority", Object(&[("value", Whole(1, 2_147_483_646))])),
];
const FILTER_RULE: &[Field] = &[
    ("cidr", StrictNet),
    ("prefixLength", Object(LENGTHS)),
    ("source", Word(&["", "RemotePeers"])),
    ("interface", Text),
    ("matchOperator", Word(&["Equal", "NotEqual", "In", "NotIn"])),
    ("peerType", Word(&["", "eBGP", "iBGP"])),
    ("communities", Object(&[("values", List(&Community))])),
    ("asPathPrefix", List(&AsNumber)),
    ("priority", Whole(1, 2_147_483_646)),
    ("action", Word(&["Accept", "Reject"])),
    ("operations", List(&Object(OPERATION))),
];
const FILTER_RULES: Shape = List(&Object(FILTER_RULE));
const BGP_FILTER: &[Field] = &[
    ("exportV4", FILTER_RULES),
    ("importV4", FILTER_RULES),
    ("exportV6", FILTER_RULES),
    ("importV6", FILTER_RULES),
];

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
        "HostEndpoint" => HOST_ENDPOINT,
        "IPAMConfiguration" => IPAM,
        "BGPConfiguration" => BGP_CONFIGURATION,
        "BGPPeer" => BGP_PEER,
        "BGPFilter" => BGP_FILTER,
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
