//! `policy explain` and `policy trace`: what is in force, from the task that puts it in force.

use super::session::{Failure, Session};
use super::target::{Target, targets};
use super::{print, rules};
use crate::admin::{
    DecisionReport, DirectionReport, EndpointReport, ListReport, PolicyAnswer, PolicyQuestion, TraceReport,
};
use crate::resource::{self, kind_of_word};
use clap::Subcommand;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::IpAddr;

/// What is asked about policy.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// What applies to a container, and why: labels, tiers, policies, rules in order, profiles
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
        Policy::Explain { target } => explain(&session, &target).await,
        Policy::Trace { source, destination, flow } => {
            let flow = flow.as_deref().map(Protocol::read).transpose().map_err(Failure::Usage)?;
            trace(&session, &source, &destination, flow).await
        }
    }
}

/// A protocol and its port, 0 if it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Protocol {
    number: u8,
    port: u16,
}

impl Protocol {
    fn read(text: &str) -> Result<Self, String> {
        let (name, port) = match text.split_once('/') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let number = match name.to_lowercase().as_str() {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            "icmp" => 1,
            "icmpv6" => 58,
            "udplite" => 136,
            other => other.parse::<u8>().ok().filter(|number| *number > 0).ok_or_else(|| {
                format!(
                    "{text:?} is no protocol; tcp/80, udp/53, sctp/9, icmp, icmpv6 or a number is expected"
                )
            })?,
        };
        let has_ports = matches!(number, 6 | 17 | 132);
        let port = match (has_ports, port) {
            (true, Some(port)) => port
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| format!("{port:?} is no port; a number from 1 to 65535 is expected"))?,
            (true, None) => return Err(format!("{name} needs a port, such as {name}/80")),
            (false, Some(_)) => return Err(format!("{name} has no ports")),
            (false, None) => 0,
        };
        Ok(Self { number, port })
    }

    /// A ping, in the words of an address's family.
    fn ping(address: IpAddr) -> Self {
        Self { number: if address.is_ipv4() { 1 } else { 58 }, port: 0 }
    }
}

async fn ask(session: &Session, question: PolicyQuestion) -> Result<PolicyAnswer, Failure> {
    session.daemon.policy(&question).await.map_err(|error| Failure::of(&error))
}

fn odd() -> Failure {
    Failure::Failed("the daemon answers another question than was asked".to_owned())
}

async fn trace(
    session: &Session,
    source: &str,
    destination: &str,
    flow: Option<Protocol>,
) -> Result<(), Failure> {
    let (from, to) = (targets(session, source).await?, targets(session, destination).await?);
    let pairs: Vec<(IpAddr, IpAddr)> = from
        .iter()
        .flat_map(|one| &one.addresses)
        .flat_map(|one| to.iter().flat_map(|other| &other.addresses).map(move |other| (*one, *other)))
        .filter(|(one, other)| one.is_ipv4() == other.is_ipv4())
        .collect();
    if pairs.is_empty() {
        return Err(Failure::Failed(format!(
            "{source} and {destination} have no addresses of one IP version"
        )));
    }
    let mut text = String::new();
    for (one, other) in pairs {
        let flow = flow.unwrap_or_else(|| Protocol::ping(one));
        let question =
            PolicyQuestion::Trace { source: one, destination: other, protocol: flow.number, port: flow.port };
        let PolicyAnswer::Trace(report) = ask(session, question).await? else { return Err(odd()) };
        describe_trace(&mut text, (one, other), &report);
    }
    print(text.trim_end());
    Ok(())
}

fn describe_trace(text: &mut String, (source, destination): (IpAddr, IpAddr), report: &TraceReport) {
    let word = |allowed: bool| if allowed { "allow" } else { "deny" };
    let _ = writeln!(text, "{} {source} -> {destination}", word(report.allowed));
    let sides = [("egress", &report.egress, source), ("ingress", &report.ingress, destination)];
    for (direction, decision, address) in sides {
        match decision {
            None => {
                let _ = writeln!(text, "  {direction}: {address} is no endpoint, so no policy is asked");
            }
            Some(DecisionReport { endpoint, node, allowed, reason, on_the_way }) => {
                for passed in on_the_way {
                    let _ = writeln!(text, "  {direction}: passed {passed}");
                }
                let _ = writeln!(text, "  {direction}: {} by {reason}", word(*allowed));
                let _ = writeln!(text, "    endpoint {endpoint} on node {node}");
            }
        }
    }
}

async fn explain(session: &Session, word: &str) -> Result<(), Failure> {
    let mut text = String::new();
    for Target { endpoint, word, .. } in targets(session, word).await? {
        let (interface, node) =
            endpoint.ok_or_else(|| Failure::Failed(format!("no endpoint has address {word}")))?;
        let question = PolicyQuestion::Explain { interface };
        let answer = ask(session, question).await.map_err(|failure| match failure {
            Failure::Failed(why) => Failure::Failed(format!("{why} (the endpoint is on node {node})")),
            usage @ Failure::Usage(_) => usage,
        })?;
        let PolicyAnswer::Explain(report) = answer else { return Err(odd()) };
        describe_endpoint(session, &mut text, &report).await;
    }
    print(text.trim_end());
    Ok(())
}

async fn describe_endpoint(session: &Session, text: &mut String, report: &EndpointReport) {
    let _ = writeln!(text, "endpoint {}\ninterface {}\nlabels", report.endpoint, report.interface);
    for label in &report.labels {
        let origin = label.profile.as_ref().map(|profile| format!("  (from Profile {profile})"));
        let _ = writeln!(text, "  {} = '{}'{}", label.name, label.value, origin.unwrap_or_default());
    }
    for direction in &report.directions {
        describe_direction(session, text, direction).await;
    }
    if !report.problems.is_empty() {
        let _ = writeln!(text, "problems\n  {}", report.problems.join("\n  "));
    }
}

async fn describe_direction(session: &Session, text: &mut String, direction: &DirectionReport) {
    let _ = writeln!(text, "{}", direction.direction);
    for tier in &direction.tiers {
        let _ = writeln!(text, "  tier {}{}", tier.name, order(tier.order));
        if !tier.exists {
            let _ = writeln!(text, "    there is no such Tier: it comes last");
        }
        for policy in &tier.policies {
            describe_list(session, text, policy, &direction.direction).await;
        }
        let end = if tier.denies { "Deny" } else { "Pass to what follows" };
        let _ = writeln!(text, "    what no policy of the tier decides: {end}");
        if tier.denies {
            return;
        }
    }
    for profile in &direction.profiles {
        describe_list(session, text, profile, &direction.direction).await;
    }
    let _ = writeln!(text, "  what no profile allows: Deny");
}

fn order(order: Option<f64>) -> String {
    order.map_or_else(|| ", last".to_owned(), |order| format!(", order {order}"))
}

async fn describe_list(session: &Session, text: &mut String, list: &ListReport, direction: &str) {
    let namespace = list.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let place = if list.kind == "Profile" { String::new() } else { order(list.order) };
    let _ = writeln!(text, "    {} {namespace}{}{place}", list.kind, list.name);
    if let Some(why) = &list.stand_in {
        let _ = writeln!(text, "      denies everything: {why}");
        return;
    }
    let found = match kind_of_word(&list.kind) {
        Ok(kind) => resource::find(&*session.store, kind, list.namespace.as_deref(), &list.name).await,
        Err(_) => Ok(None),
    };
    match found {
        Ok(Some(stored)) => {
            let rules = stored.field(&format!("spec.{direction}")).and_then(Value::as_array);
            let rules = rules.map(Vec::as_slice).unwrap_or_default();
            for (index, rule) in rules.iter().enumerate() {
                let _ = writeln!(text, "      {}. {}", index + 1, rules::line(rule));
            }
            if rules.is_empty() {
                let _ = writeln!(text, "      no rules");
            }
        }
        Ok(None) if list.name == "projectcalico-default-allow" => {
            let _ = writeln!(text, "      1. Allow");
        }
        Ok(None) => {
            let _ = writeln!(text, "      it is not in the datastore");
        }
        Err(error) => {
            let _ = writeln!(text, "      its rules cannot be read now: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read() {
        let of = |text| Protocol::read(text);
        assert_eq!(of("TCP/80"), Ok(Protocol { number: 6, port: 80 }));
        assert_eq!(of("icmp"), Ok(Protocol { number: 1, port: 0 }));
        assert_eq!(of("47"), Ok(Protocol { number: 47, port: 0 }));
        for (wrong, part) in [
            ("tcp", "needs a port"),
            ("tcp/0", "is no port"),
            ("tcp/70000", "is no port"),
            ("icmp/8", "has no ports"),
            ("gre", "is no protocol"),
            ("0", "is no protocol"),
            ("", "is no protocol"),
        ] {
            assert!(of(wrong).unwrap_err().contains(part), "{wrong}");
        }
    }
}
