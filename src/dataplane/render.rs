//! Desired state into the objects of `table inet calico-docker`. Pure.
//!
//! | hook, priority | chain | what it does |
//! |---|---|---|
//! | prerouting -300 | `raw-prerouting` | clears our mark bits; `from-endpoint` asks who sent it, `rpf` drops spoofed sources ([`super::sources`]) |
//! | prerouting -105, output -105 | `nat-prerouting`, `nat-output` | `rpf` for the first packet of a connection; published ports |
//! | forward -10 | `forward` | `forward-from` and `forward-to` ask the dispatch maps, `wl-accept` and `wl-known` mark and accept |
//! | input -10 | `input` | no VXLAN from strangers ([`super::tunnel`]); `wl-to-host` |
//! | postrouting 110 | `postrouting` | masquerade |
//!
//! The maps `from-wl` and `to-wl` hold one element per endpoint, which goes to a *shape*: a chain shared by all
//! endpoints to which the same rules apply ([`super::policy`]). A shape accepts by setting the accept mark and
//! returning, and drops otherwise. An endpoint whose policy is not known has no elements: it is closed.

use super::desired::{Desired, Part};
use super::{HostAction, NatTuning, Options, PortMap, forward, nat, sources, tunnel};
use crate::model::{Cidr, IfaceName, IpVersion};
use crate::nft::{
    BaseChain, Chain, ChainKind, Data, DataType, ElementKey, Family, Hook, Rule, Set, SetContents, SetData,
    Table, TableId, Verdict, concat, ifname, interval_elements,
};
use crate::policy::Direction;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Elements by set.
pub(super) type Entries = BTreeMap<&'static str, BTreeMap<ElementKey, Option<Data>>>;

pub(super) const CALI: &str = "cali*";
/// What a container's neighbour and multicast listener discovery needs of its host: MLD 130 to 132, router and
/// neighbour solicitation and advertisement (`felix/rules/static.go`, `filterWorkloadToHostChain`).
const ICMPV6_TO_HOST: [u8; 6] = [130, 131, 132, 133, 135, 136];

/// The bridges that every engine may have, named before they exist.
const DOCKER_BRIDGES: [&str; 2] = ["docker0", "docker_gwbridge"];

pub(super) const FROM_WL: &str = "from-wl";
pub(super) const TO_WL: &str = "to-wl";
pub(super) const BRIDGES: &str = "docker-bridges";
const ICMPV6: &str = "icmpv6-to-host";

/// Names of what exists once for each family.
pub(super) struct Names {
    pub(super) family: Family,
    pub(super) masq: &'static str,
    pub(super) all: &'static str,
    pub(super) ports: &'static str,
    pub(super) ports_at: &'static str,
    pub(super) hairpin: &'static str,
    pub(super) hosts: &'static str,
    pub(super) vxlan: &'static str,
    address: DataType,
}

const NAMES4: Names = Names {
    family: Family::Ip,
    masq: "pool-masq4",
    all: "pool-all4",
    ports: "ports4",
    ports_at: "ports4-at",
    hairpin: "hairpin4",
    hosts: "hosts4",
    vxlan: "vxlan-peers4",
    address: DataType::Ipv4Addr,
};

const NAMES6: Names = Names {
    family: Family::Ip6,
    masq: "pool-masq6",
    all: "pool-all6",
    ports: "ports6",
    ports_at: "ports6-at",
    hairpin: "hairpin6",
    hosts: "hosts6",
    vxlan: "vxlan-peers6",
    address: DataType::Ipv6Addr,
};

pub(super) const FAMILIES: [&Names; 2] = [&NAMES4, &NAMES6];

/// The maps from interfaces to shapes.
pub(super) const DISPATCH: [&str; 2] = [FROM_WL, TO_WL];

/// Our table.
pub(super) fn table_id() -> TableId {
    TableId::new(Family::Inet, "calico-docker")
}

/// The maps of published ports: name, family, and whether their keys begin with an address of the host.
pub(super) fn port_maps() -> [(&'static str, Family, bool); 4] {
    [
        (NAMES4.ports, NAMES4.family, false),
        (NAMES4.ports_at, NAMES4.family, true),
        (NAMES6.ports, NAMES6.family, false),
        (NAMES6.ports_at, NAMES6.family, true),
    ]
}

/// The table as it should be, without the elements of these sets of selectors.
pub(super) fn table(desired: &Desired, options: &Options, unread: &BTreeSet<String>) -> Table {
    let mut table = Table::default();
    for set in sets() {
        table.sets.insert(set.name.clone(), SetContents { set, elements: BTreeMap::new() });
    }
    for entries in all_entries(desired).into_iter().chain([nat::hosts(&options.tuning.nat)]) {
        for (set, elements) in entries {
            if let Some(contents) = table.sets.get_mut(set) {
                contents.elements.extend(elements);
            }
        }
    }
    for (name, base) in chains().into_iter().chain(tunnel::chain(desired)) {
        table.chains.insert(name.to_owned(), Chain { name: name.to_owned(), base });
        table.rules.insert(name.to_owned(), Vec::new());
    }
    for rule in rules(desired, options) {
        table.rules.entry(rule.chain.clone()).or_default().push(rule);
    }
    desired.policy.extend(&mut table, options.marks, unread);
    table
}

fn all_entries(desired: &Desired) -> Vec<Entries> {
    let mut all = vec![
        entries(desired, &Part::Pools),
        entries(desired, &Part::Bridges),
        entries(desired, &Part::Ports),
        entries(desired, &Part::Vxlan),
        BTreeMap::from([(ICMPV6, ICMPV6_TO_HOST.iter().map(|t| (key(vec![*t]), None)).collect())]),
    ];
    all.extend(desired.endpoints.keys().map(|iface| entries(desired, &Part::Endpoint(iface.clone()))));
    all
}

/// The elements of several parts.
pub(super) fn entries_of(desired: &Desired, parts: &[Part]) -> Entries {
    let mut all = Entries::new();
    for (set, elements) in parts.iter().flat_map(|part| entries(desired, part)) {
        all.entry(set).or_default().extend(elements);
    }
    all
}

/// The elements of one part. Sets that the part can fill are there even if they are empty.
pub(super) fn entries(desired: &Desired, part: &Part) -> Entries {
    match part {
        Part::Pools => pools(desired),
        Part::Bridges => {
            let told = desired.bridges.iter().map(IfaceName::as_str);
            let names = told.chain(DOCKER_BRIDGES).map(|name| (key(ifname(name)), None));
            BTreeMap::from([(BRIDGES, names.collect())])
        }
        Part::Ports => ports(desired),
        Part::Vxlan => tunnel::peers(desired),
        Part::Endpoint(iface) => {
            let entry = |direction| {
                let shape = desired.shape_chain(iface, direction);
                let goto = |shape| (key(ifname(iface.as_str())), Some(Data::Verdict(Verdict::Goto(shape))));
                shape.map(goto).into_iter().collect()
            };
            let mut entries =
                BTreeMap::from([(FROM_WL, entry(Direction::Egress)), (TO_WL, entry(Direction::Ingress))]);
            entries.extend(sources::entries(desired, iface));
            entries
        }
    }
}

pub(super) fn key(bytes: Vec<u8>) -> ElementKey {
    ElementKey { bytes, end: false }
}

fn pools(desired: &Desired) -> Entries {
    let mut entries = Entries::new();
    for (names, version) in [(&NAMES4, IpVersion::V4), (&NAMES6, IpVersion::V6)] {
        let of_family = || desired.pools.iter().filter(move |pool| pool.cidr.version() == version);
        entries.insert(names.all, intervals(of_family().map(|pool| pool.cidr)));
        entries.insert(
            names.masq,
            intervals(of_family().filter(|pool| pool.nat_outgoing).map(|pool| pool.cidr)),
        );
    }
    entries
}

pub(super) fn intervals(cidrs: impl Iterator<Item = Cidr>) -> BTreeMap<ElementKey, Option<Data>> {
    let elements = interval_elements(cidrs.map(|cidr| (cidr.base(), cidr.prefix_len())));
    elements.into_iter().map(|element| (element.key, element.data)).collect()
}

fn ports(desired: &Desired) -> Entries {
    let mut entries = Entries::new();
    for names in FAMILIES {
        for set in [names.ports, names.ports_at, names.hairpin] {
            entries.insert(set, BTreeMap::new());
        }
    }
    for port in desired.ports.values().flatten() {
        let names = if port.container.is_ipv4() { &NAMES4 } else { &NAMES6 };
        for (set, key, data) in port_entries(names, port) {
            entries.entry(set).or_default().insert(key, data);
        }
    }
    entries
}

fn port_entries(names: &Names, map: &PortMap) -> [(&'static str, ElementKey, Option<Data>); 2] {
    let container = octets(map.container.ip());
    let protocol = [map.protocol.number()];
    let host_port = map.host_port.to_be_bytes();
    let (set, from) = match map.particular_host() {
        Some(host) => (names.ports_at, concat(&[&octets(host), &protocol, &host_port])),
        None => (names.ports, concat(&[&protocol, &host_port])),
    };
    let to = Data::Value(concat(&[&container, &map.container.port().to_be_bytes()]));
    [(set, key(from), Some(to)), (names.hairpin, key(concat(&[&container, &container])), None)]
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn sets() -> Vec<Set> {
    let set = |name: &str, key: &[DataType], data: SetData, interval: bool| Set {
        name: name.to_owned(),
        key: key.to_vec(),
        data,
        interval,
    };
    let mut all = vec![
        set(FROM_WL, &[DataType::Ifname], SetData::Verdict, false),
        set(TO_WL, &[DataType::Ifname], SetData::Verdict, false),
        set(BRIDGES, &[DataType::Ifname], SetData::None, false),
        set(ICMPV6, &[DataType::Icmpv6Type], SetData::None, false),
    ];
    all.extend(sources::sets());
    for names in FAMILIES {
        let (address, protocol, port) = (names.address, DataType::InetProto, DataType::InetService);
        let target = SetData::Value(vec![address, port]);
        all.push(set(names.masq, &[address], SetData::None, true));
        all.push(set(names.all, &[address], SetData::None, true));
        all.push(set(names.ports, &[protocol, port], target.clone(), false));
        all.push(set(names.ports_at, &[address, protocol, port], target, false));
        all.push(set(names.hairpin, &[address, address], SetData::None, false));
        all.push(set(names.hosts, &[address], SetData::None, false));
        all.push(set(names.vxlan, &[address], SetData::None, true));
    }
    all
}

/// All chains. Those of the filter kind run before the `filter` priority 0 of iptables and Docker, so that the mark is
/// set when their rules look at it. Destination NAT runs just before Docker's (-100), source NAT after it (100): what
/// Docker has translated is left alone.
fn chains() -> Vec<(&'static str, Option<BaseChain>)> {
    let base = |kind, hook, priority| Some(BaseChain { kind, hook, priority, drop: false });
    vec![
        ("raw-prerouting", base(ChainKind::Filter, Hook::Prerouting, -300)),
        ("nat-prerouting", base(ChainKind::Nat, Hook::Prerouting, -105)),
        ("nat-output", base(ChainKind::Nat, Hook::Output, -105)),
        ("forward", base(ChainKind::Filter, Hook::Forward, -10)),
        ("input", base(ChainKind::Filter, Hook::Input, -10)),
        ("postrouting", base(ChainKind::Nat, Hook::Postrouting, 110)),
        (sources::FROM, None),
        (sources::ROUTED, None),
        (sources::ALSO, None),
        ("forward-from", None),
        ("forward-to", None),
        ("wl-accept", None),
        (forward::KNOWN, None),
        ("wl-to-host", None),
        ("from-dispatch", None),
        ("to-dispatch", None),
    ]
}

fn rules(desired: &Desired, options: &Options) -> Vec<Rule> {
    [
        prerouting(options),
        tunnel::untracked(desired),
        tunnel::guard(desired),
        sources::rules(options.marks),
        vec![sources::first_packet(options.marks)],
        published(),
        forward::rules(options.marks),
        input(options),
        postrouting(&options.tuning.nat),
    ]
    .concat()
}

/// Nobody outside may bring our marks along, and no endpoint may send under another's address. Nor may one reach what
/// listens on the host's 127.0.0.0/8: `route_localnet` is on for endpoints, and a container may send raw packets.
fn prerouting(options: &Options) -> Vec<Rule> {
    let raw = || Rule::in_chain("raw-prerouting");
    vec![
        raw().iifname(CALI).goto(sources::FROM),
        raw().set_mark(options.marks.both(), 0),
        keep_off_localhost(Rule::in_chain(sources::FROM)),
    ]
}

/// For packets that came from an endpoint.
fn keep_off_localhost(rule: Rule) -> Rule {
    rule.family(Family::Ip).address(Family::Ip, false, localhost()).drop_because("localhost of the host")
}

/// All that prerouting does beside Felix.
pub(super) fn prerouting_beside() -> Rule {
    keep_off_localhost(Rule::in_chain("raw-prerouting").iifname(CALI))
}

/// Ports of one address of the host come before ports of all its addresses. From elsewhere nothing for 127.0.0.0/8
/// counts: `route_localnet` is on for endpoints, and ports published on localhost are the host's own. IPv6 has no
/// `route_localnet`: a connection to `::1` could not leave, so it stays with whoever listens there.
pub(super) fn published() -> Vec<Rule> {
    let outside = Rule::in_chain("nat-prerouting").family(Family::Ip);
    let local = Rule::in_chain("nat-output").family(Family::Ip6);
    let mut localhost6 = vec![0; 15];
    localhost6.push(1);
    let mut rules = vec![
        outside.address(Family::Ip, false, localhost()).verdict(Verdict::Return),
        local.address(Family::Ip6, false, (localhost6, vec![0xff; 16])).verdict(Verdict::Return),
    ];
    for chain in ["nat-prerouting", "nat-output"] {
        for names in FAMILIES {
            let rule = || Rule::in_chain(chain).family(names.family);
            rules.push(rule().dnat_by_port(names.family, true, names.ports_at));
            rules.push(rule().to_this_host().dnat_by_port(names.family, false, names.ports));
        }
    }
    rules
}

fn input(options: &Options) -> Vec<Rule> {
    let host = || Rule::in_chain("wl-to-host");
    let mut rules = vec![
        Rule::in_chain("input").iifname(CALI).goto("wl-to-host"),
        host().icmpv6_in(ICMPV6).accept(),
        host().jump("from-dispatch"),
        host().unmarked(options.marks.accept).drop_because("no rule accepted"),
    ];
    match options.tuning.host_action {
        HostAction::Drop => rules.push(host().drop_because("DefaultEndpointToHostAction")),
        HostAction::Accept => rules.push(host().accept()),
        HostAction::Return => {}
    }
    rules
}

/// natOutgoing; and two cases of published ports in which the reply would not find its way back: the client is the
/// container itself, or the host under its localhost address.
fn postrouting(nat: &NatTuning) -> Vec<Rule> {
    let mut rules = Vec::new();
    for names in FAMILIES {
        rules.extend(nat::outgoing(names, nat));
        rules.push(nat::hairpin(names));
    }
    rules.push(from_localhost());
    rules.extend(tunnel::rules("postrouting"));
    rules
}

pub(super) fn from_localhost() -> Rule {
    let rule = Rule::in_chain("postrouting").oifname(CALI).family(Family::Ip);
    rule.address(Family::Ip, true, localhost()).masquerade()
}

/// 127.0.0.0/8 as address and mask.
fn localhost() -> (Vec<u8>, Vec<u8>) {
    (vec![127, 0, 0, 0], vec![0xff, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{PoolNat, Protocol, policy};
    use crate::nft::Expr;

    fn full() -> Table {
        let mut desired = Desired::default();
        desired
            .endpoints
            .insert(IfaceName::new("cali1").unwrap(), BTreeSet::from(["10.0.0.1".parse().unwrap()]));
        desired.bridges.insert(IfaceName::new("br-0123456789ab").unwrap());
        policy::switch(&mut desired, &policy::sample::changes(), Options::default().marks);
        desired.pools = vec![PoolNat { cidr: "10.0.0.0/8".parse().unwrap(), nat_outgoing: true }];
        let map = |host_ip: Option<&str>, to: &str| PortMap {
            protocol: Protocol::Udp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 53,
            container: to.parse().unwrap(),
        };
        let ports = vec![map(None, "10.0.0.1:53"), map(Some("fd00::1:1"), "[fd00::1]:53")];
        desired.ports.insert(IfaceName::new("cali1").unwrap(), ports);
        table(&desired, &Options::default(), &BTreeSet::new())
    }

    #[test]
    fn everything_that_is_referred_to_exists() {
        let table = full();
        let target = |verdict: &Verdict| match verdict {
            Verdict::Jump(chain) | Verdict::Goto(chain) => {
                assert!(table.chains.contains_key(chain), "{chain}")
            }
            _ => {}
        };
        for rule in table.rules.values().flatten() {
            assert!(table.chains.contains_key(&rule.chain), "{}", rule.chain);
            for expr in &rule.exprs {
                match expr {
                    Expr::Verdict(verdict) => target(verdict),
                    Expr::Lookup { set, .. }
                    | Expr::MapLookup { map: set, .. }
                    | Expr::VerdictLookup { map: set, .. } => {
                        assert!(table.sets.contains_key(set), "{set}");
                    }
                    _ => {}
                }
            }
        }
        for data in table.sets.values().flat_map(|contents| contents.elements.values()).flatten() {
            if let Data::Verdict(verdict) = data {
                target(verdict);
            }
        }
    }

    #[test]
    fn each_fact_stands_in_its_set() {
        let table = full();
        let count = |set: &str| table.sets[set].elements.len();
        assert_eq!((count(FROM_WL), count(TO_WL), count(BRIDGES)), (1, 1, 3));
        assert_eq!((count("pool-masq4"), count("pool-all4"), count("pool-all6")), (2, 2, 0));
        assert_eq!((count("ports4"), count("ports4-at"), count("hairpin4")), (1, 0, 1));
        assert_eq!((count("ports6"), count("ports6-at"), count("hairpin6")), (0, 1, 1));
    }

    #[test]
    fn an_endpoint_that_is_not_there_has_no_elements_but_names_its_sets() {
        let part = Part::Endpoint(IfaceName::new("cali9").unwrap());
        let entries = entries(&Desired::default(), &part);
        let named: Vec<_> = entries.keys().copied().collect();
        assert_eq!(named, [FROM_WL, "rpf-also4", "rpf-also6", "sources4", "sources6", TO_WL]);
        assert!(entries.values().all(BTreeMap::is_empty));
    }
}
