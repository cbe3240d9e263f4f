//! natOutgoing, as `felix/rules/nat.go` translates. Pure.

use super::NatTuning;
use super::render::{Entries, FAMILIES, Names, key, octets};
use crate::nft::{Family, Rule};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What leaves the pools: under an address that is given, from ports that are given, or as the outgoing interface has
/// it.
pub(super) fn outgoing(names: &Names, nat: &NatTuning) -> Vec<Rule> {
    let f = names.family;
    let leaving = || {
        let rule = Rule::in_chain("postrouting").family(f);
        let rule = rule.address_in(f, true, names.masq, false).address_in(f, false, names.all, true);
        let rule = if nat.spared.is_empty() { rule } else { rule.address_in(f, false, names.hosts, true) };
        match &nat.interface {
            Some(interface) => rule.oifname(interface),
            None => rule,
        }
    };
    if let (Some(address), Family::Ip) = (nat.address, f) {
        return vec![leaving().snat(f, address.octets().to_vec())];
    }
    let ported = |(first, last): (u16, u16)| {
        [TCP, UDP].map(|protocol| leaving().l4proto(protocol).masquerade_ports(first, last))
    };
    let mut rules: Vec<Rule> = nat.ports.into_iter().flat_map(ported).collect();
    rules.push(leaving().masquerade());
    rules
}

/// A container that reaches itself by a published port.
pub(super) fn hairpin(names: &Names) -> Rule {
    Rule::in_chain("postrouting")
        .family(names.family)
        .address_pair_in(names.family, names.hairpin)
        .masquerade()
}

/// Addresses of hosts that are spared.
pub(super) fn hosts(nat: &NatTuning) -> Entries {
    let of = |names: &Names| {
        let ours = nat.spared.iter().filter(|ip| ip.is_ipv4() == (names.family == Family::Ip));
        (names.hosts, ours.map(|ip| (key(octets(*ip)), None)).collect())
    };
    FAMILIES.into_iter().map(of).collect()
}
