//! Questions about policy, and their answers from the graph.

use crate::policy::{
    Action, Decision, DirectionExplanation, EndOfTier, Explanation, Flow, Graph, LabelOrigin,
    ListExplanation, ResourceId, StandIn, TierExplanation, Trace,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for the owner of the graph: as many as commands are served at the same time.
const WAITING: usize = 8;

/// A question about what is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyQuestion {
    /// What applies to the endpoint behind an interface of this node.
    Explain {
        /// Host side of its veth.
        interface: String,
    },
    /// What is wrong with any resource that matters to policy.
    Problems,
    /// What is decided about a new flow.
    Trace {
        /// Where it comes from.
        source: IpAddr,
        /// Where it goes.
        destination: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// Destination port; 0 where the protocol has none.
        port: u16,
        /// Whether it came by a published port, so that its destination was translated.
        published: bool,
    },
}

/// The answer to a question of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicyAnswer {
    /// What applies to an endpoint.
    Explain(EndpointReport),
    /// Sentences.
    Problems(Vec<String>),
    /// What is decided about a flow.
    Trace(TraceReport),
}

/// What applies to an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// Namespace and name.
    pub endpoint: String,
    /// Host side of its veth.
    pub interface: String,
    /// Its labels, sorted by name.
    pub labels: Vec<LabelReport>,
    /// Egress, then ingress.
    pub directions: Vec<DirectionReport>,
    /// What is wrong with any resource that matters to policy.
    pub problems: Vec<String>,
}

/// One label of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelReport {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
    /// The profile that gives it; `None` for the endpoint's own.
    pub profile: Option<String>,
}

/// What is asked about one direction, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectionReport {
    /// `ingress` or `egress`.
    pub direction: String,
    /// Name of the kernel's chain that asks all of this.
    pub chain: String,
    /// Tiers that have a policy for the endpoint.
    pub tiers: Vec<TierReport>,
    /// Profiles, asked if no tier decides.
    pub profiles: Vec<ListReport>,
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierReport {
    /// Name.
    pub name: String,
    /// Order; `None` is last.
    pub order: Option<f64>,
    /// Whether there is a Tier of that name.
    pub exists: bool,
    /// Whether what its policies do not decide is denied; else the next tier is asked.
    pub denies: bool,
    /// Whether its policies have a Pass rule for this direction, by which the next tier is asked though this one denies.
    #[serde(default)]
    pub passes: bool,
    /// Its policies, in order.
    pub policies: Vec<ListReport>,
}

/// The rules of one policy or profile for one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListReport {
    /// Kind, e.g. `GlobalNetworkPolicy`.
    pub kind: String,
    /// Namespace, for namespaced kinds.
    pub namespace: Option<String>,
    /// Name in the key.
    pub name: String,
    /// A policy's order; `None` is last.
    pub order: Option<f64>,
    /// Name of the kernel's chain that holds its rules.
    pub chain: String,
    /// Why it denies everything, if the rules are not its own.
    pub stand_in: Option<String>,
}

/// What is decided about a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    /// Whether policy lets it through on both sides.
    pub allowed: bool,
    /// The source's egress; `None` if the source is no workload.
    pub egress: Option<DecisionReport>,
    /// The destination's ingress; `None` if the destination is no workload.
    pub ingress: Option<DecisionReport>,
}

/// What one endpoint's policy decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionReport {
    /// Namespace and name.
    pub endpoint: String,
    /// The node that decides.
    pub node: String,
    /// Whether the flow is allowed.
    pub allowed: bool,
    /// The rule that decides, or what else does.
    pub reason: String,
    /// Log and Pass rules that matched before.
    pub on_the_way: Vec<String>,
}

/// Where questions are handed in.
#[derive(Debug, Clone)]
pub struct PolicyDesk(mpsc::Sender<PolicyRequest>);

/// Where the owner of the graph takes them out.
#[derive(Debug)]
pub struct PolicyInbox(mpsc::Receiver<PolicyRequest>);

/// A question somebody waits with.
#[derive(Debug)]
pub struct PolicyRequest {
    question: PolicyQuestion,
    answer: oneshot::Sender<Result<PolicyAnswer, String>>,
}

/// A desk and its inbox.
#[must_use]
pub fn policy_desk() -> (PolicyDesk, PolicyInbox) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (PolicyDesk(sender), PolicyInbox(receiver))
}

impl PolicyDesk {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// A sentence: there is no such endpoint, or the daemon stops.
    pub async fn ask(&self, question: PolicyQuestion) -> Result<PolicyAnswer, String> {
        let (answer, wait) = oneshot::channel();
        let stops = || "the daemon stops".to_owned();
        self.0.send(PolicyRequest { question, answer }).await.map_err(|_| stops())?;
        wait.await.unwrap_or_else(|_| Err(stops()))
    }
}

impl PolicyInbox {
    /// The next question; waits for ever when nobody can ask any more.
    pub async fn next(&mut self) -> PolicyRequest {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

impl PolicyRequest {
    /// Answers from the graph as of its last flush.
    pub fn answer(self, graph: &Graph) {
        let answer = answer(&self.question, graph);
        // Whoever asked may have gone.
        self.answer.send(answer).ok();
    }
}

fn answer(question: &PolicyQuestion, graph: &Graph) -> Result<PolicyAnswer, String> {
    match question {
        PolicyQuestion::Explain { interface } => {
            let found = graph.explain(interface).ok_or_else(|| {
                format!("no endpoint of this node has interface {interface}, or another endpoint has it")
            })?;
            Ok(PolicyAnswer::Explain(endpoint(&found, graph.problems())))
        }
        PolicyQuestion::Problems => Ok(PolicyAnswer::Problems(graph.problems())),
        PolicyQuestion::Trace { source, destination, protocol, port, published } => {
            let flow = Flow { published: *published, ..Flow::new(*source, *destination, *protocol, *port) };
            Ok(PolicyAnswer::Trace(trace(&graph.trace(&flow))))
        }
    }
}

fn name(id: &ResourceId) -> String {
    match &id.namespace {
        Some(namespace) => format!("{namespace}/{}", id.name),
        None => id.name.to_string(),
    }
}

fn endpoint(found: &Explanation, problems: Vec<String>) -> EndpointReport {
    let label = |(label, value, origin): &(String, String, LabelOrigin)| LabelReport {
        name: label.clone(),
        value: value.clone(),
        profile: match origin {
            LabelOrigin::Own => None,
            LabelOrigin::Profile(profile) => Some(profile.to_string()),
        },
    };
    EndpointReport {
        endpoint: name(&found.endpoint),
        interface: found.interface.to_string(),
        labels: found.labels.iter().map(label).collect(),
        directions: found.directions.iter().map(direction).collect(),
        problems,
    }
}

fn direction(found: &DirectionExplanation) -> DirectionReport {
    DirectionReport {
        direction: found.direction.to_string(),
        chain: found.shape.chain(found.direction),
        tiers: found.tiers.iter().map(tier).collect(),
        profiles: found.profiles.iter().map(list).collect(),
    }
}

fn tier(found: &TierExplanation) -> TierReport {
    TierReport {
        name: found.name.to_string(),
        order: found.order,
        exists: found.exists,
        denies: found.end == EndOfTier::Deny,
        passes: found
            .policies
            .iter()
            .any(|policy| policy.rules.rules.iter().any(|rule| rule.action == Action::Pass)),
        policies: found.policies.iter().map(list).collect(),
    }
}

fn list(found: &ListExplanation) -> ListReport {
    let owner = &found.id.owner;
    ListReport {
        kind: owner.kind.word().to_owned(),
        namespace: owner.namespace.as_ref().map(ToString::to_string),
        name: owner.name.to_string(),
        order: found.order,
        chain: found.id.chain(),
        stand_in: found.stand_in.map(|why| {
            match why {
                StandIn::Missing => "there is no such profile, or it cannot be read",
                StandIn::Unreadable => "it cannot be read",
            }
            .to_owned()
        }),
    }
}

fn trace(found: &Trace) -> TraceReport {
    TraceReport {
        allowed: found.allowed(),
        egress: found.egress.as_ref().map(decision),
        ingress: found.ingress.as_ref().map(decision),
    }
}

fn decision(found: &Decision) -> DecisionReport {
    let passed = found
        .on_the_way
        .iter()
        .map(|rule| format!("{} rule {}: {:?}", rule.list, rule.index + 1, rule.action));
    DecisionReport {
        endpoint: name(&found.endpoint),
        node: found.node.clone(),
        allowed: found.allowed,
        reason: found.reason.to_string(),
        on_the_way: passed.collect(),
    }
}
