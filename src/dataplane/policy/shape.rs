//! What is asked about the packets of endpoints, as chains that endpoints share. Pure.
//!
//! The order is Felix's (`felix/rules/endpoints.go`): what is established passes, what is invalid does not, no endpoint
//! may wrap its packets up to carry them past the rules; then the tiers, the profiles, and the end.

use super::super::tuning::VXLAN_PORT;
use super::super::{Marks, forward};
use super::list;
use crate::nft::Rule;
use crate::policy::{Direction, EndOfTier, Shape, ShapeId, ShapeTier};

const UDP: u8 = 17;
const IPIP: u8 = 4;
/// `NF_CT_STATE_INVALID_BIT` of `include/uapi/linux/netfilter/nf_conntrack_common.h`.
const INVALID: u32 = 1;
/// `IPS_DST_NAT` of the same file.
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// The chain of a shape. `vxlan` is the UDP port of the nodes' VXLAN, where it is not the usual one.
///
/// Who publishes a port wants it reached, and says so outside of policy. So a new connection whose destination was
/// translated is accepted where nothing else has decided: no tier that has a policy for the endpoint comes this far
/// (unless it passes), and a profile that denies has done so before.
pub(super) fn render(id: &ShapeId, shape: &Shape, marks: Marks, vxlan: Option<u16>) -> Vec<Rule> {
    let name = id.chain(shape.direction);
    let rule = || Rule::in_chain(&name);
    let mut rules = vec![
        rule().ct_state(forward::ESTABLISHED_OR_RELATED).goto(forward::KNOWN),
        rule().ct_state(INVALID).drop_because("invalid connection state"),
        rule().set_mark(marks.both(), 0),
    ];
    if shape.direction == Direction::Egress {
        let ports = [VXLAN_PORT].into_iter().chain(vxlan);
        rules.extend(ports.map(|port| rule().dport(UDP, port).drop_because("VXLAN from a workload")));
        rules.push(rule().l4proto(IPIP).drop_because("IPIP from a workload"));
    }
    for tier in &shape.tiers {
        ask_tier(&mut rules, &name, tier, marks);
    }
    for profile in &shape.profiles {
        rules.push(rule().jump(&profile.chain()));
        rules.push(rule().marked(marks.accept).verdict(crate::nft::Verdict::Return));
    }
    if shape.direction == Direction::Ingress {
        let published = rule().ct_status(DESTINATION_TRANSLATED).counter();
        let accepted = published.set_mark(0, marks.accept).verdict(crate::nft::Verdict::Return);
        rules.push(accepted.comment("published port"));
    }
    rules.push(rule().drop_because("no profile matched"));
    rules
}

fn ask_tier(rules: &mut Vec<Rule>, chain: &str, tier: &ShapeTier, marks: Marks) {
    let rule = || Rule::in_chain(chain);
    rules.push(rule().set_mark(marks.pass, 0));
    for policy in &tier.policies {
        rules.push(rule().unmarked(marks.pass).jump(&policy.chain()));
        rules.push(rule().marked(marks.accept).verdict(crate::nft::Verdict::Return));
    }
    if tier.end == EndOfTier::Deny {
        let why = list::comment(&format!("end of tier {}", tier.name));
        rules.push(rule().unmarked(marks.pass).drop_because(&why));
    }
}
