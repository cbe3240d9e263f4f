//! VXLAN between nodes, on the way in and out of this host. Pure.
//!
//! | chain | rule | why |
//! |---|---|---|
//! | `input` | a packet of our VXLAN network from who is no node is dropped | whoever sends one speaks under any container's address |
//! | `raw-prerouting`, `raw-output` | packets of our network are not tracked | each flow inside would be tracked twice |
//! | `postrouting` | what leaves through the device under another address of this host gets the device's | below |
//!
//! The network's number is asked for as well as the port: Docker's overlays have the port, too, and other numbers
//! (`felix/rules/static.go`, `filterInputChain`, asks for the port alone).
//!
//! A process that is bound to the host's address on another interface, or that answers under it, would be answered past
//! the tunnel, if at all: other nodes know only the tunnel address to be behind it. So it speaks under that
//! (`felix/rules/static.go`, `StaticNATPostroutingChains`).

use super::desired::Desired;
use super::render::{Entries, FAMILIES, Names, intervals};
use crate::model::{Cidr, IpVersion};
use crate::nft::{BaseChain, ChainKind, Family, Hook, Rule};
use std::collections::BTreeSet;

/// The VXLAN devices of IPv4 and IPv6.
const DEVICES: [&str; 2] = ["vxlan.calico", "vxlan-v6.calico"];
/// What this host itself sends, before it is tracked; there only while there is VXLAN.
pub(super) const RAW_OUTPUT: &str = "raw-output";
const RAW: i32 = -300;
const UDP: u8 = 17;

/// The VXLAN network of one IP version that this host takes part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanNetwork {
    /// UDP port of all nodes.
    pub port: u16,
    /// Number of the network, 24 bits.
    pub vni: u32,
    /// Who may send: the addresses of the other nodes.
    pub peers: BTreeSet<Cidr>,
}

/// The VXLAN networks of both IP versions, where there are any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VxlanNetworks {
    /// Of IPv4.
    pub v4: Option<VxlanNetwork>,
    /// Of IPv6.
    pub v6: Option<VxlanNetwork>,
}

impl VxlanNetworks {
    fn of(&self, version: IpVersion) -> Option<&VxlanNetwork> {
        match version {
            IpVersion::V4 => self.v4.as_ref(),
            IpVersion::V6 => self.v6.as_ref(),
        }
    }

    /// Whether both are asked for by the same rules: only who may send differs, if anything does.
    pub(super) fn same_rules(&self, other: &Self) -> bool {
        let plain = |networks: &Self| {
            [IpVersion::V4, IpVersion::V6].map(|version| networks.of(version).map(|it| (it.port, it.vni)))
        };
        plain(self) == plain(other)
    }
}

fn version_of(names: &Names) -> IpVersion {
    if names.family == Family::Ip { IpVersion::V4 } else { IpVersion::V6 }
}

/// Who may send.
pub(super) fn peers(desired: &Desired) -> Entries {
    let of = |names: &Names| {
        let network = desired.vxlan.of(version_of(names));
        (names.vxlan, intervals(network.into_iter().flat_map(|network| network.peers.iter().copied())))
    };
    FAMILIES.into_iter().map(of).collect()
}

/// The chain that only VXLAN needs.
pub(super) fn chain(desired: &Desired) -> Option<(&'static str, Option<BaseChain>)> {
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Output, priority: RAW, drop: false };
    (desired.vxlan != VxlanNetworks::default()).then_some((RAW_OUTPUT, Some(base)))
}

/// The rules of one chain for packets of our networks.
fn for_each(desired: &Desired, chain: &str, act: impl Fn(Rule, &Names) -> Rule) -> Vec<Rule> {
    let of = |names: &&Names| {
        let network = desired.vxlan.of(version_of(names))?;
        let packet = Rule::in_chain(chain).family(names.family).dport(UDP, network.port).vni(network.vni);
        Some(act(packet, names))
    };
    FAMILIES.iter().filter_map(of).collect()
}

/// What begins `input`.
pub(super) fn guard(desired: &Desired) -> Vec<Rule> {
    for_each(desired, "input", |packet, names| {
        packet.address_in(names.family, true, names.vxlan, true).drop_because("VXLAN from no node")
    })
}

/// What ends the raw chains.
pub(super) fn untracked(desired: &Desired) -> Vec<Rule> {
    let of = |chain| for_each(desired, chain, |packet, _| packet.notrack());
    ["raw-prerouting", RAW_OUTPUT].into_iter().flat_map(of).collect()
}

/// The rules at the end of source NAT.
pub(super) fn rules(chain: &str) -> Vec<Rule> {
    let rule = |device| Rule::in_chain(chain).oifname(device).from_this_host_elsewhere().masquerade();
    DEVICES.map(rule).to_vec()
}
