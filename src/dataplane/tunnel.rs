//! What leaves through a VXLAN device under an address of this host that the device has not. Pure.
//!
//! A process that is bound to the host's address on another interface, or that answers under it, would be answered past
//! the tunnel, if at all: other nodes know only the tunnel address to be behind it. So it speaks under that
//! (`felix/rules/static.go`, `StaticNATPostroutingChains`).

use crate::nft::Rule;

/// The VXLAN devices of IPv4 and IPv6.
const DEVICES: [&str; 2] = ["vxlan.calico", "vxlan-v6.calico"];

/// The rules, at the end of source NAT.
pub(super) fn rules(chain: &str) -> Vec<Rule> {
    let rule = |device| Rule::in_chain(chain).oifname(device).from_this_host_elsewhere().masquerade();
    DEVICES.map(rule).to_vec()
}
