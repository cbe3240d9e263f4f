//! Under which source addresses an endpoint may send. Pure.
//!
//! Under those that are routed to it (strict reverse path, as Felix's raw PREROUTING), and under those of the other
//! endpoints of its own container: a container on several networks answers a call to any of its addresses over the one
//! interface that has its default route.

use super::desired::Desired;
use super::render::{Entries, key, octets};
use crate::model::IfaceName;
use crate::nft::{DataType, Family, Rule, Set, SetData, Verdict, concat, ifname};
use std::collections::BTreeMap;

/// The chain that every packet of an endpoint goes through.
pub(super) const RPF: &str = "rpf";
/// The chain for packets whose source is not routed to the interface they came from: most packets never see its sets.
pub(super) const ALSO: &str = "rpf-also";

const ALSO4: &str = "rpf-also4";
const ALSO6: &str = "rpf-also6";

/// The sets of interfaces and the addresses that are allowed there besides those routed to it.
pub(super) fn sets() -> [Set; 2] {
    [(ALSO4, DataType::Ipv4Addr), (ALSO6, DataType::Ipv6Addr)].map(|(name, address)| Set {
        name: name.to_owned(),
        key: vec![DataType::Ifname, address],
        data: SetData::None,
        interval: false,
    })
}

/// The elements of one interface, in both sets.
pub(super) fn entries(desired: &Desired, iface: &IfaceName) -> Entries {
    let mut entries = Entries::from([(ALSO4, BTreeMap::new()), (ALSO6, BTreeMap::new())]);
    for ip in desired.siblings.get(iface).into_iter().flatten() {
        let set = if ip.is_ipv4() { ALSO4 } else { ALSO6 };
        let pair = concat(&[&ifname(iface.as_str()), &octets(*ip)]);
        entries.entry(set).or_default().insert(key(pair), None);
    }
    entries
}

/// A probe for duplicate addresses has no source yet; for kernels before 6 that is one without a route.
pub(super) fn rules() -> Vec<Rule> {
    const NEIGHBOUR_SOLICIT: u8 = 135;
    let also = || Rule::in_chain(ALSO);
    let unspecified = (vec![0; 16], vec![0xff; 16]);
    let probe = also().icmpv6(NEIGHBOUR_SOLICIT).address(Family::Ip6, true, unspecified);
    let of_sibling = |family, set| also().family(family).iifname_and_source_in(family, set);
    vec![
        Rule::in_chain(RPF).spoofed().goto(ALSO),
        probe.verdict(Verdict::Return),
        of_sibling(Family::Ip, ALSO4).verdict(Verdict::Return),
        of_sibling(Family::Ip6, ALSO6).verdict(Verdict::Return),
        also().drop_because("RPF"),
    ]
}
