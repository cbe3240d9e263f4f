//! From Calico's resources to what each endpoint of this node is subject to.
//!
//! Pure: no I/O, no clock. One task owns a [`Graph`], feeds it [`Update`]s as the datastore tells of them, and takes
//! [`Changes`] out of it: only what differs from last time, and only what endpoints of this node need.
//!
//! ```text
//! Update -> items (labels, addresses) -> label index -> members of sets ----------------------+
//!        -> policies, tiers, profiles -> label index -> endpoint -> shape -> rule list -> set -+-> Changes
//! ```
//!
//! An endpoint needs a shape for each direction, a shape needs rule lists, a rule list needs sets; each is counted
//! and shared. Semantics are Calico's, with the source file beside each rule of them.

mod changes;
mod compile;
mod entity;
mod evaluate;
mod explain;
mod graph;
mod hash;
mod inherit;
mod item;
mod label_index;
mod locals;
mod members;
mod parts;
mod policies;
#[expect(clippy::module_inception, reason = "the noun of this file is one policy")]
mod policy;
mod problems;
mod resolved;
mod restriction;
mod sets;
mod tables;
mod update;

pub use changes::{Changes, EndOfTier, EndpointShapes, SetChange, Shape, ShapeId, ShapeTier};
pub use evaluate::{Decision, Flow, Reason, RuleRef, Trace};
pub use explain::{DirectionExplanation, Explanation, ListExplanation, StandIn, TierExplanation};
pub use graph::Graph;
pub use hash::unique_id;
pub use inherit::LabelOrigin;
pub use members::{Element, PortMember};
pub use resolved::{
    Action, Direction, IcmpMatch, PortMatch, PortRange, ResolvedRule, RuleList, RuleListId, SetId, SetKind,
    SideMatch,
};
pub use update::{Document, LabelMap, ResourceId, ResourceKind, Update};

#[cfg(test)]
mod tests;
