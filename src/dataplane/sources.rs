//! Under which source addresses an endpoint may send. Pure.
//!
//! Under its own; under those that are routed to it (strict reverse path, as Felix's raw PREROUTING); and under those of
//! the other endpoints of its own container: a container on several networks answers a call to any of its addresses over
//! the one interface that has its default route.
//!
//! To ask the kernel's routes is what costs most of all that a packet is asked. So a set of what is known of each open
//! interface is asked first, and the routes only about the first packet of a connection: in a chain of NAT, through
//! which the kernel sends no others. What is found in the set is marked, so that `forward` need not ask who sent it.

use super::Marks;
use super::desired::Desired;
use super::render::{Entries, key, octets};
use crate::model::IfaceName;
use crate::nft::{DataType, Family, Rule, Set, SetData, Verdict, concat, ifname};
use crate::policy::Direction;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The chain that every packet of an endpoint goes through.
pub(super) const FROM: &str = "from-endpoint";
/// The chain that asks the routes.
pub(super) const ROUTED: &str = "rpf";
/// The chain for packets whose source is not routed to the interface they came from.
pub(super) const ALSO: &str = "rpf-also";

const ALSO4: &str = "rpf-also4";
const ALSO6: &str = "rpf-also6";
const SOURCES4: &str = "sources4";
const SOURCES6: &str = "sources6";

/// The sets of open interfaces with the addresses that are known to be theirs, and of interfaces with the addresses that
/// are allowed there besides those routed to it.
pub(super) fn sets() -> [Set; 4] {
    let (v4, v6) = (DataType::Ipv4Addr, DataType::Ipv6Addr);
    [(SOURCES4, v4), (SOURCES6, v6), (ALSO4, v4), (ALSO6, v6)].map(|(name, address)| Set {
        name: name.to_owned(),
        key: vec![DataType::Ifname, address],
        data: SetData::None,
        interval: false,
    })
}

/// The elements of one interface, in all sets. Its sources are not known if what it sends is not let in: what is found
/// among them and belongs to a connection is asked nothing more.
pub(super) fn entries(desired: &Desired, iface: &IfaceName) -> Entries {
    let mut entries: Entries =
        [SOURCES4, SOURCES6, ALSO4, ALSO6].into_iter().map(|set| (set, BTreeMap::new())).collect();
    let mut add = |ip: &IpAddr, [v4, v6]: [&'static str; 2]| {
        let pair = concat(&[&ifname(iface.as_str()), &octets(*ip)]);
        entries.entry(if ip.is_ipv4() { v4 } else { v6 }).or_default().insert(key(pair), None);
    };
    let open = desired.shape_chain(iface, Direction::Egress).is_some();
    let own = desired.endpoints.get(iface).into_iter().flatten();
    let siblings = desired.siblings.get(iface).into_iter().flatten();
    let known = own.chain(siblings.clone()).filter(|_| open);
    known.for_each(|ip| add(ip, [SOURCES4, SOURCES6]));
    siblings.for_each(|ip| add(ip, [ALSO4, ALSO6]));
    entries
}

/// A probe for duplicate addresses has no source yet; for kernels before 6 that is one without a route.
pub(super) fn rules(marks: Marks) -> Vec<Rule> {
    const NEIGHBOUR_SOLICIT: u8 = 135;
    let (from, also) = (|| Rule::in_chain(FROM), || Rule::in_chain(ALSO));
    let in_set = |rule: Rule, family, set| rule.family(family).iifname_and_source_in(family, set);
    let known = |family, set| in_set(from(), family, set).set_mark(marks.both(), marks.pass).accept();
    let unspecified = (vec![0; 16], vec![0xff; 16]);
    let probe = also().icmpv6(NEIGHBOUR_SOLICIT).address(Family::Ip6, true, unspecified);
    vec![
        known(Family::Ip, SOURCES4),
        known(Family::Ip6, SOURCES6),
        from().set_mark(marks.both(), 0),
        from().goto(ROUTED),
        Rule::in_chain(ROUTED).spoofed().goto(ALSO),
        probe.verdict(Verdict::Return),
        in_set(also(), Family::Ip, ALSO4).verdict(Verdict::Return),
        in_set(also(), Family::Ip6, ALSO6).verdict(Verdict::Return),
        also().drop_because("RPF"),
    ]
}

/// What begins destination NAT: the routes are asked about the first packet of a connection also if its source is known.
/// What the kernel tracks no connection of does not come here; it is no less its sender's own.
pub(super) fn first_packet(marks: Marks) -> Rule {
    Rule::in_chain("nat-prerouting").marked(marks.pass).jump(ROUTED)
}
