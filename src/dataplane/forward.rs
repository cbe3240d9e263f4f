//! What a forwarded packet is asked, by its interfaces. Pure.

use super::Marks;
use super::render::{BRIDGES, CALI, FROM_WL, TO_WL};
use crate::nft::Rule;

/// Where packets go that belong to a connection which was let pass: they get both marks, and with that pass FORWARD
/// before Docker's own rules ([`super::guard`]).
pub(super) const KNOWN: &str = "wl-known";
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED)` of
/// `include/uapi/linux/netfilter/nf_conntrack_common.h`.
pub(super) const ESTABLISHED_OR_RELATED: u32 = 6;

/// Packets of endpoints need the consent of both ends. What goes out to one of Docker's bridges is not marked: Docker
/// up to 27 keeps unpublished containers apart by the DROP policy of FORWARD alone, and our mark would override it. Most
/// packets go to another endpoint, and are spared that question.
///
/// Most packets of all belong to connections between open endpoints: what [`super::sources`] has found to come from one
/// is asked that first. The shape that the maps lead to would say the same.
///
/// The kernel follows each way through the chains whenever a rule or a map that leads on changes (`nft_chain_validate` in
/// `net/netfilter/nf_tables_api.c`), so only one way leads to each dispatch from here.
///
/// The mark is asked for after each dispatch, because a packet that is under way while a batch switches may meet a map
/// that leads to a new shape whose rules it does not see yet.
pub(super) fn rules(marks: Marks) -> Vec<Rule> {
    let forward = || Rule::in_chain("forward");
    let (sent, received) = (|| Rule::in_chain("forward-from"), || Rule::in_chain("forward-to"));
    let (from, to) = (|| Rule::in_chain("from-dispatch"), || Rule::in_chain("to-dispatch"));
    let (unknown, undecided) = ("unknown workload interface", "no rule accepted");
    let questions = [
        forward().marked(marks.pass).ct_state(ESTABLISHED_OR_RELATED).goto(KNOWN),
        forward().iifname(CALI).jump("forward-from"),
        forward().oifname(CALI).goto("forward-to"),
        forward().iifname(CALI).goto("wl-accept"),
        sent().jump("from-dispatch"),
        sent().unmarked(marks.accept).drop_because(undecided),
        received().jump("to-dispatch"),
        received().unmarked(marks.accept).drop_because(undecided),
        received().goto("wl-accept"),
        from().iifname_vmap(FROM_WL),
        from().drop_because(unknown),
        to().oifname_vmap(TO_WL),
        to().drop_because(unknown),
    ];
    let answers = [("wl-accept", marks.accept), (KNOWN, marks.both())].map(|(chain, mark)| {
        let accept = || Rule::in_chain(chain);
        [
            accept().oifname(CALI).set_mark(marks.both(), mark).accept(),
            accept().oifname_in(BRIDGES).set_mark(marks.both(), 0).accept(),
            accept().set_mark(marks.both(), mark).accept(),
        ]
    });
    questions.into_iter().chain(answers.into_iter().flatten()).collect()
}
