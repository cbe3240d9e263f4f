//! Under which source addresses an endpoint may send. Pure.
//!
//! Under its own; under those that are routed to it (strict reverse path, as Felix's raw PREROUTING); and under those of
//! the other endpoints of its own container: a container on several networks answers a call to any of its addresses over
//! the one interface that has its default route.
//!
//! To ask the kernel's routes is what costs most of all that a packet is asked, so a set of what is known of each open
//! interface is asked first. What is found there is marked, so that `forward` need not ask who sent it.

use super::Marks;
use super::desired::Desired;
use super::render::{Entries, key, octets};
use crate::model::IfaceName;
use crate::nft::{DataType, Family, Rule, Set, SetData, Verdict, concat, ifname};
use crate::policy::Direction;
use std::collections::BTreeMap;

/// The chain that every packet of an endpoint goes through.
pub(super) const FROM: &str = "from-endpoint";
/// The chain for packets whose source is neither known nor routed to the interface they came from.
pub(super) const SPOOFED: &str = "spoofed";

const SOURCES4: &str = "sources4";
const SOURCES6: &str = "sources6";

/// The sets of open interfaces with the addresses that are known to be theirs.
pub(super) fn sets() -> [Set; 2] {
    [(SOURCES4, DataType::Ipv4Addr), (SOURCES6, DataType::Ipv6Addr)].map(|(name, address)| Set {
        name: name.to_owned(),
        key: vec![DataType::Ifname, address],
        data: SetData::None,
        interval: false,
    })
}

/// The elements of one interface, in both sets: none if what it sends is not let in, because what is found here and
/// belongs to a connection is asked nothing more.
pub(super) fn entries(desired: &Desired, iface: &IfaceName) -> Entries {
    let mut entries = Entries::from([(SOURCES4, BTreeMap::new()), (SOURCES6, BTreeMap::new())]);
    if desired.shape_chain(iface, Direction::Egress).is_none() {
        return entries;
    }
    let known = [desired.endpoints.get(iface), desired.siblings.get(iface)];
    for ip in known.into_iter().flatten().flatten() {
        let set = if ip.is_ipv4() { SOURCES4 } else { SOURCES6 };
        let pair = concat(&[&ifname(iface.as_str()), &octets(*ip)]);
        entries.entry(set).or_default().insert(key(pair), None);
    }
    entries
}

/// A probe for duplicate addresses has no source yet; for kernels before 6 that is one without a route.
pub(super) fn rules(marks: Marks) -> Vec<Rule> {
    const NEIGHBOUR_SOLICIT: u8 = 135;
    let from = || Rule::in_chain(FROM);
    let spoofed = || Rule::in_chain(SPOOFED);
    let known = |family, set| {
        let found = from().family(family).iifname_and_source_in(family, set);
        found.set_mark(marks.both(), marks.pass).accept()
    };
    let unspecified = (vec![0; 16], vec![0xff; 16]);
    let probe = spoofed().icmpv6(NEIGHBOUR_SOLICIT).address(Family::Ip6, true, unspecified);
    vec![
        known(Family::Ip, SOURCES4),
        known(Family::Ip6, SOURCES6),
        from().set_mark(marks.both(), 0),
        from().spoofed().goto(SPOOFED),
        probe.verdict(Verdict::Return),
        spoofed().drop_because("RPF"),
    ]
}
