//! What applies to one endpoint and why, for people.

use super::changes::{EndOfTier, EndpointShapes, ShapeId};
use super::graph::{DIRECTIONS, Graph};
use super::inherit::LabelOrigin;
use super::resolved::{Direction, RuleList, RuleListId};
use super::update::{ResourceId, ResourceKind};
use std::sync::Arc;

/// Everything that applies to one endpoint, as of the last flush.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The endpoint.
    pub endpoint: ResourceId,
    /// Its interface on this node.
    pub interface: Arc<str>,
    /// Its labels, sorted by name, each with its value and where it comes from.
    pub labels: Vec<(String, String, LabelOrigin)>,
    /// Egress, then ingress.
    pub directions: Vec<DirectionExplanation>,
}

/// What is asked about one direction, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectionExplanation {
    /// The direction.
    pub direction: Direction,
    /// What is asked, by the name that all endpoints share for which it is the same.
    pub shape: ShapeId,
    /// The tiers that have a policy for the endpoint.
    pub tiers: Vec<TierExplanation>,
    /// The profiles, which are asked if no tier decides.
    pub profiles: Vec<ListExplanation>,
}

/// One tier.
#[derive(Debug, Clone, PartialEq)]
pub struct TierExplanation {
    /// Its name.
    pub name: Arc<str>,
    /// Its order; `None` if it has none.
    pub order: Option<f64>,
    /// Whether there is a Tier of that name; one that is missing comes last and denies.
    pub exists: bool,
    /// What happens to what its policies do not decide.
    pub end: EndOfTier,
    /// Its policies.
    pub policies: Vec<ListExplanation>,
}

/// One policy or profile.
#[derive(Debug, Clone, PartialEq)]
pub struct ListExplanation {
    /// Its rules' name.
    pub id: RuleListId,
    /// A policy's order; `None` if it has none.
    pub order: Option<f64>,
    /// Why the rules are not those of the resource.
    pub stand_in: Option<StandIn>,
    /// Its rules.
    pub rules: Arc<RuleList>,
}

/// Why rules that deny everything stand where a resource's own should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandIn {
    /// There is no such profile, or it cannot be read.
    Missing,
    /// The policy cannot be read.
    Unreadable,
}

impl Graph {
    /// What applies to the endpoint that has an interface of this node, as of the last flush.
    #[must_use]
    pub fn explain(&self, interface: &str) -> Option<Explanation> {
        let shapes = self.locals.told(interface)?;
        let (id, number) = self.locals.owner(interface)?;
        let (_, item) = self.items.get(&number)?;
        let labels = self.policies.labels(number)?;
        let label = |(label, value): (&String, &String)| {
            (label.clone(), value.clone(), self.inheritance.origin(item, label))
        };
        Some(Explanation {
            endpoint: id.clone(),
            interface: Arc::clone(self.locals.interface(number)?),
            labels: labels.iter().map(label).collect(),
            directions: DIRECTIONS.iter().filter_map(|it| self.explain_direction(shapes, *it)).collect(),
        })
    }

    fn explain_direction(
        &self,
        shapes: &EndpointShapes,
        direction: Direction,
    ) -> Option<DirectionExplanation> {
        let shape = self.shapes.get(shapes.shape(direction))?;
        let tiers = shape.tiers.iter().map(|tier| {
            let found = self.policies.tier(&tier.name);
            TierExplanation {
                name: Arc::clone(&tier.name),
                order: found.and_then(|tier| tier.order.number()),
                exists: found.is_some(),
                end: tier.end,
                policies: self.explain_lists(&tier.policies),
            }
        });
        Some(DirectionExplanation {
            direction,
            shape: shapes.shape(direction).clone(),
            tiers: tiers.collect(),
            profiles: self.explain_lists(&shape.profiles),
        })
    }

    fn explain_lists(&self, lists: &[RuleListId]) -> Vec<ListExplanation> {
        lists.iter().filter_map(|id| self.explain_list(id)).collect()
    }

    fn explain_list(&self, id: &RuleListId) -> Option<ListExplanation> {
        let policy = self.policies.get(&id.owner);
        let missing = id.owner.kind == ResourceKind::Profile && !self.profiles.contains_key(&id.owner.name);
        let unreadable = policy.is_some_and(|policy| policy.stand_in);
        Some(ListExplanation {
            id: id.clone(),
            order: policy.and_then(|policy| policy.order.number()),
            stand_in: match (missing, unreadable) {
                (true, _) => Some(StandIn::Missing),
                (_, true) => Some(StandIn::Unreadable),
                _ => None,
            },
            rules: Arc::clone(self.lists.get(id)?),
        })
    }
}
