//! What a flush hands to the renderer.

use super::members::Element;
use super::resolved::{Direction, RuleList, RuleListId, SetId, SetKind};
use super::update::ResourceId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// What changed since the last flush.
///
/// A renderer puts into one transaction, in this order: new sets and members, rule lists, new shapes, endpoints
/// that went, endpoints that came or changed, removed shapes, removed rule lists, removed sets. Whatever is
/// mentioned then exists, and nothing is deleted that is still mentioned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Sets that are new or have other members.
    pub sets: BTreeMap<SetId, SetChange>,
    /// Rule lists that are new or have other rules.
    pub rule_lists: BTreeMap<RuleListId, Arc<RuleList>>,
    /// Shapes that are new; a shape never changes.
    pub shapes: BTreeMap<ShapeId, Arc<Shape>>,
    /// Local interfaces that are new or have another shape.
    pub endpoints: BTreeMap<Arc<str>, EndpointShapes>,
    /// Local interfaces without endpoint now.
    pub removed_endpoints: BTreeSet<Arc<str>>,
    /// Shapes that no endpoint has now.
    pub removed_shapes: BTreeSet<ShapeId>,
    /// Rule lists that no shape mentions now.
    pub removed_rule_lists: BTreeSet<RuleListId>,
    /// Sets that no rule mentions now.
    pub removed_sets: BTreeSet<SetId>,
    /// Sentences about resources, each once as long as it stays true.
    pub problems: Vec<String>,
}

impl Changes {
    /// Whether there is nothing for a renderer to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
            && self.rule_lists.is_empty()
            && self.shapes.is_empty()
            && self.endpoints.is_empty()
            && self.removed_endpoints.is_empty()
            && self.removed_shapes.is_empty()
            && self.removed_rule_lists.is_empty()
            && self.removed_sets.is_empty()
    }
}

/// What changed about one set. It has a half for each family ([`Element::version`]).
///
/// Prefixes of one set never overlap once the change is applied as a whole; what is removed must therefore go into
/// the transaction before what is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetChange {
    /// What its members look like.
    pub kind: SetKind,
    /// Whether the set itself is new; then nothing is removed.
    pub new: bool,
    /// Members that came, sorted.
    pub added: Vec<Element>,
    /// Members that went, sorted.
    pub removed: Vec<Element>,
}

/// Name of a shape: 38 characters of `[A-Za-z0-9_-]`, the same for the same content, also after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShapeId(pub(super) Arc<str>);

impl ShapeId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the chain that asks what the shape says.
    #[must_use]
    pub fn chain(&self, direction: Direction) -> String {
        match direction {
            Direction::Egress => format!("shape-from-{self}"),
            Direction::Ingress => format!("shape-to-{self}"),
        }
    }
}

impl fmt::Display for ShapeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is asked about an endpoint's traffic of one direction, in order: the tiers, then the profiles, then the
/// packet is denied. Endpoints for which the same is asked share one shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// The direction.
    pub direction: Direction,
    /// The tiers that have a policy for the endpoint and the direction.
    pub tiers: Vec<ShapeTier>,
    /// Rule lists of the profiles.
    pub profiles: Vec<RuleListId>,
}

/// One tier of a shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShapeTier {
    /// Its name.
    pub name: Arc<str>,
    /// Rule lists of its policies, in order; never empty.
    pub policies: Vec<RuleListId>,
    /// What happens to a packet about which none of them decided.
    pub end: EndOfTier,
}

/// What happens at the end of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndOfTier {
    /// The packet is denied.
    Deny,
    /// The next tier is asked, after the last one the profiles.
    Pass,
}

/// One local endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointShapes {
    /// The endpoint that has the interface.
    pub endpoint: ResourceId,
    /// What is asked about traffic to it.
    pub ingress: ShapeId,
    /// What is asked about traffic from it.
    pub egress: ShapeId,
}

impl EndpointShapes {
    /// The shape for a direction.
    #[must_use]
    pub fn shape(&self, direction: Direction) -> &ShapeId {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}
