//! `policy explain` and `policy show`: what is in force, from the task that puts it in force and from the kernel.

use super::counters::Counters;
use super::session::{Failure, Session};
use super::target::{Target, targets};
use super::trace::{Protocol, trace};
use super::{print, rules};
use crate::admin::{DirectionReport, EndpointReport, ListReport, PolicyAnswer, PolicyQuestion};
use crate::dataplane;
use crate::resource::{self, kind_of_word};
use clap::Subcommand;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

/// Longest that the kernel may take for one answer.
pub(super) const KERNEL: Duration = Duration::from_secs(10);
/// Comments of the rules of a shape that drop before any tier is asked.
const BEFORE_POLICY: [&str; 3] =
    ["invalid connection state", "VXLAN from a workload", "IPIP from a workload"];

/// What is asked about policy.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Our table of the kernel's packet filter, with counters, as `nft list table` prints it
    Show,
    /// What applies to a container, and why: labels, tiers, policies, rules in order with what they have counted, profiles
    Explain {
        /// A container, an endpoint's ID, an interface of the host or an address
        target: String,
    },
    /// Whether a new connection is allowed, and which rule decides
    Trace {
        /// Where it comes from: a container, an endpoint's ID, an interface of the host or an address
        source: String,
        /// Where it goes, in the same words
        destination: String,
        /// tcp/80, udp/53, sctp/9, icmp, icmpv6 or the number of a protocol; a ping if it is left out
        flow: Option<String>,
    },
}

pub(super) async fn run(session: Session, question: Policy) -> Result<(), Failure> {
    match question {
        Policy::Show => show().await,
        Policy::Explain { target } => explain(&session, &target).await,
        Policy::Trace { source, destination, flow } => {
            let flow = flow.as_deref().map(Protocol::read).transpose().map_err(Failure::Usage)?;
            trace(&session, &source, &destination, flow).await
        }
    }
}

pub(super) async fn ask(session: &Session, question: PolicyQuestion) -> Result<PolicyAnswer, Failure> {
    session.daemon.policy(&question).await.map_err(|error| Failure::of(&error))
}

pub(super) fn odd() -> Failure {
    Failure::Failed("the daemon answers another question than was asked".to_owned())
}

async fn show() -> Result<(), Failure> {
    let table = dataplane::show_table(KERNEL).await.map_err(|error| Failure::of(&error))?;
    let missing = || Failure::Failed("the kernel has no table of this plugin; does it run?".to_owned());
    print(table.ok_or_else(missing)?.trim_end());
    Ok(())
}

async fn explain(session: &Session, word: &str) -> Result<(), Failure> {
    let mut text = String::new();
    let counts = dataplane::rule_counts(KERNEL).await.map_err(|error| error.to_string());
    let page = Page { session, counters: Counters::new(counts) };
    for Target { endpoint, word, .. } in targets(session, word).await? {
        let (interface, node) =
            endpoint.ok_or_else(|| Failure::Failed(format!("no endpoint has address {word}")))?;
        let question = PolicyQuestion::Explain { interface };
        let answer = ask(session, question).await.map_err(|failure| match failure {
            Failure::Failed(why) => Failure::Failed(format!("{why} (the endpoint is on node {node})")),
            usage @ Failure::Usage(_) => usage,
        })?;
        let PolicyAnswer::Explain(report) = answer else { return Err(odd()) };
        page.endpoint(&mut text, &report).await;
    }
    if let Some(why) = page.counters.failure() {
        let _ = writeln!(text, "no counters: {why}");
    }
    print(text.trim_end());
    Ok(())
}

/// What is written down, and from what.
struct Page<'a> {
    session: &'a Session,
    counters: Counters,
}

impl Page<'_> {
    async fn endpoint(&self, text: &mut String, report: &EndpointReport) {
        let _ = writeln!(text, "endpoint {}\ninterface {}\nlabels", report.endpoint, report.interface);
        for label in &report.labels {
            let origin = label.profile.as_ref().map(|profile| format!("  (from Profile {profile})"));
            let _ = writeln!(text, "  {} = '{}'{}", label.name, label.value, origin.unwrap_or_default());
        }
        for direction in &report.directions {
            self.direction(text, direction).await;
        }
        if !report.problems.is_empty() {
            let _ = writeln!(text, "problems\n  {}", report.problems.join("\n  "));
        }
    }

    async fn direction(&self, text: &mut String, direction: &DirectionReport) {
        let _ = writeln!(text, "{}", direction.direction);
        for what in BEFORE_POLICY {
            let count = self.counters.of_comment(&direction.chain, what);
            if !count.is_empty() {
                let _ = writeln!(text, "  {what}: Deny{count}");
            }
        }
        for tier in &direction.tiers {
            let _ = writeln!(text, "  tier {}{}", tier.name, order(tier.order));
            if !tier.exists {
                let _ = writeln!(text, "    there is no such Tier: it comes last");
            }
            for policy in &tier.policies {
                self.list(text, policy, &direction.direction).await;
            }
            let end = if tier.denies { "Deny" } else { "Pass to what follows" };
            let count = self.counters.of_comment(&direction.chain, &format!("end of tier {}", tier.name));
            let _ = writeln!(text, "    what no policy of the tier decides: {end}{count}");
            if tier.denies && !tier.passes {
                return;
            }
            if tier.denies {
                let _ = writeln!(text, "    what a Pass rule of the tier takes: to what follows");
            }
        }
        for profile in &direction.profiles {
            self.list(text, profile, &direction.direction).await;
        }
        if direction.direction == "ingress" {
            let count = self.counters.of_comment(&direction.chain, "published port");
            let _ = writeln!(text, "  what came by a published port and no profile denies: Allow{count}");
        }
        let count = self.counters.of_comment(&direction.chain, "no profile matched");
        let _ = writeln!(text, "  what no profile allows: Deny{count}");
    }

    async fn list(&self, text: &mut String, list: &ListReport, direction: &str) {
        let namespace = list.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let place = if list.kind == "Profile" { String::new() } else { order(list.order) };
        let _ = writeln!(text, "    {} {namespace}{}{place}", list.kind, list.name);
        if let Some(why) = &list.stand_in {
            let _ = writeln!(text, "      denies everything: {why}");
            return;
        }
        if let Some(why) = self.counters.refusal(&list.chain) {
            let _ = writeln!(text, "      denies everything, for the kernel does not take its rules: {why}");
        }
        let found = match kind_of_word(&list.kind) {
            Ok(kind) => {
                resource::find(&*self.session.store, kind, list.namespace.as_deref(), &list.name).await
            }
            Err(_) => Ok(None),
        };
        match found {
            Ok(Some(stored)) => {
                let rules = stored.field(&format!("spec.{direction}")).and_then(Value::as_array);
                let rules = rules.map(Vec::as_slice).unwrap_or_default();
                for (index, rule) in rules.iter().enumerate() {
                    let count = self.counters.of_rule(&list.chain, index);
                    let _ = writeln!(text, "      {}. {}{count}", index + 1, rules::line(rule));
                }
                if rules.is_empty() {
                    let _ = writeln!(text, "      no rules");
                }
            }
            Ok(None) if list.name == "projectcalico-default-allow" => {
                let _ = writeln!(text, "      1. Allow{}", self.counters.of_rule(&list.chain, 0));
            }
            Ok(None) => {
                let _ = writeln!(text, "      it is not in the datastore");
            }
            Err(error) => {
                let _ = writeln!(text, "      its rules cannot be read now: {error}");
            }
        }
    }
}

fn order(order: Option<f64>) -> String {
    order.map_or_else(|| ", last".to_owned(), |order| format!(", order {order}"))
}
