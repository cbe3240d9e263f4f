//! What a forwarded packet is asked, by its interfaces. Pure.

use super::Marks;
use super::render::{BRIDGES, CALI, FROM_WL, TO_WL};
use crate::nft::Rule;

/// Packets of endpoints need the consent of both ends. What goes out to one of Docker's bridges is not marked: Docker
/// up to 27 keeps unpublished containers apart by the DROP policy of FORWARD alone, and our mark would override it. Most
/// packets go to another endpoint, and are spared that question.
/// The mark is asked for after each dispatch, because a packet that is under way while a batch switches may meet a map
/// that leads to a new shape whose rules it does not see yet.
pub(super) fn rules(marks: Marks) -> Vec<Rule> {
    let forward = || Rule::in_chain("forward");
    let (sent, received) = (|| Rule::in_chain("forward-from"), || Rule::in_chain("forward-to"));
    let accept = || Rule::in_chain("wl-accept");
    let (from, to) = (|| Rule::in_chain("from-dispatch"), || Rule::in_chain("to-dispatch"));
    let (unknown, undecided) = ("unknown workload interface", "no rule accepted");
    vec![
        forward().iifname(CALI).goto("forward-from"),
        forward().oifname(CALI).goto("forward-to"),
        sent().jump("from-dispatch"),
        sent().unmarked(marks.accept).drop_because(undecided),
        sent().oifname(CALI).goto("forward-to"),
        sent().goto("wl-accept"),
        received().jump("to-dispatch"),
        received().unmarked(marks.accept).drop_because(undecided),
        received().goto("wl-accept"),
        accept().oifname(CALI).set_mark(marks.both(), marks.accept).accept(),
        accept().oifname_in(BRIDGES).set_mark(marks.both(), 0).accept(),
        accept().set_mark(marks.both(), marks.accept).accept(),
        from().iifname_vmap(FROM_WL),
        from().drop_because(unknown),
        to().oifname_vmap(TO_WL),
        to().drop_because(unknown),
    ]
}
