//! `ipam release`: gives back what nobody uses, and proves before each release that it is still what was seen.

use super::super::print;
use super::super::session::{Failure, Session, complain};
use super::check::{Report, cluster_guid};
use crate::ipam::{Audit, Expect, Facts, Finding, FindingKind, Held, Ipam, Released, audit};
use crate::model::HandleId;
use clap::Args;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// As `ipam check`: an address that was assigned so recently may be on its way to its endpoint.
const GRACE: Duration = Duration::from_secs(60);

/// Arguments of `ipam release`.
#[derive(Debug, Args)]
pub(in super::super) struct Release {
    /// An address that nobody uses; may be given more than once
    #[arg(long, required_unless_present = "from_report")]
    ip: Vec<IpAddr>,
    /// A report of `ipam check -o`: what was leaked then and still is, unchanged, is given back
    #[arg(long, value_name = "FILE", conflicts_with = "ip")]
    from_report: Vec<PathBuf>,
    /// Also an address that was assigned less than a minute ago, and a report of another cluster
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(session: &Session, arguments: Release) -> Result<(), Failure> {
    let facts = super::facts(session).await?;
    let grace = if arguments.force { Duration::ZERO } else { GRACE };
    let now = audit(&facts, SystemTime::now(), grace);
    let (wanted, refused) = if arguments.from_report.is_empty() {
        named(&arguments.ip, &facts, &now)
    } else {
        let mut reported = Vec::new();
        for file in &arguments.from_report {
            reported.extend(read(session, file, arguments.force).await?);
        }
        unchanged(&reported, &now)
    };
    let mut failed: Vec<String> = refused;
    let ipam = super::ipam(session)?;
    for finding in &wanted {
        match give_back(&ipam, finding).await {
            Ok(sentence) => print(&sentence),
            Err(why) => failed.push(why),
        }
    }
    if wanted.is_empty() && failed.is_empty() {
        print("there is nothing to give back");
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Failed(failed.join("\n"))) }
}

/// The addresses that were named and are leaked; why the others are not released.
fn named(ips: &[IpAddr], facts: &Facts, now: &Audit) -> (Vec<Finding>, Vec<String>) {
    let (mut wanted, mut refused) = (Vec::new(), Vec::new());
    for ip in ips {
        let of = |kind: FindingKind| {
            now.findings.iter().find(|finding| finding.kind == kind && finding.subject == ip.to_string())
        };
        match (facts.users(*ip), of(FindingKind::LeakedAddress), of(FindingKind::Settling)) {
            ([user, ..], _, _) => refused.push(format!("{ip} is not released: {} uses it", user.title)),
            ([], Some(leaked), _) => wanted.push(leaked.clone()),
            ([], None, Some(young)) => {
                refused.push(format!(
                    "{ip} is not released: {}; its endpoint may be about to be made (--force)",
                    young.text
                ));
            }
            ([], None, None) => {
                refused.push(format!("{ip} is not released: nobody holds it, or a network keeps it"));
            }
        }
    }
    (wanted, refused)
}

/// The findings of a report that concern this cluster.
async fn read(session: &Session, file: &Path, force: bool) -> Result<Vec<Finding>, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", file.display()));
    let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let report: Report = serde_json::from_slice(&text)
        .map_err(|error| failed(format!("this is no report of `ipam check`: {error}")))?;
    let here = cluster_guid(session).await?;
    if report.cluster_guid != here && !force {
        let name = |guid: &Option<String>| guid.clone().unwrap_or_else(|| "unknown".to_owned());
        let (there, here) = (name(&report.cluster_guid), name(&here));
        return Err(failed(format!("it is a report of cluster {there}, and this is cluster {here}")));
    }
    Ok(report.findings)
}

/// What was reported and still is, word for word; what changed since is left alone and told.
fn unchanged(reported: &[Finding], now: &Audit) -> (Vec<Finding>, Vec<String>) {
    let mut wanted: Vec<Finding> = Vec::new();
    for finding in reported.iter().filter(|finding| can_be_given_back(finding.kind)) {
        let same = |other: &&Finding| {
            other.kind == finding.kind
                && other.subject == finding.subject
                && assignment(other.held.as_ref()) == assignment(finding.held.as_ref())
        };
        match now.findings.iter().find(same) {
            Some(same) if !wanted.contains(same) => wanted.push(same.clone()),
            Some(_) => {}
            None => complain(&format!("{} is left alone: it is not any more as reported", finding.subject)),
        }
    }
    (wanted, Vec::new())
}

/// What makes an assignment the very same.
fn assignment(held: Option<&Held>) -> Option<(IpAddr, Option<&str>, u64)> {
    held.map(|held| (held.ip, held.handle.as_deref(), held.sequence_number))
}

fn can_be_given_back(kind: FindingKind) -> bool {
    matches!(kind, FindingKind::LeakedAddress | FindingKind::LeakedHandle | FindingKind::HandleCount)
}

async fn give_back(ipam: &Ipam, finding: &Finding) -> Result<String, String> {
    match &finding.held {
        Some(held) => address(ipam, held).await,
        None => handle(ipam, &finding.subject).await,
    }
}

async fn address(ipam: &Ipam, held: &Held) -> Result<String, String> {
    let handle = held.handle.as_deref().map(HandleId::new).transpose().map_err(|error| error.to_string())?;
    let expect = Expect { handle, sequence: Some(held.sequence_number), node: None };
    match ipam.release(held.ip, &expect).await {
        Ok(Released::Freed(_)) => Ok(format!("released {}", held.ip)),
        Ok(Released::NotAllocated) => Ok(format!("{} was released by someone else", held.ip)),
        Err(error) => Err(error.to_string()),
    }
}

async fn handle(ipam: &Ipam, id: &str) -> Result<String, String> {
    let id = HandleId::new(id).map_err(|error| error.to_string())?;
    match ipam.repair_handle(&id).await.map_err(|error| error.to_string())? {
        true => Ok(format!("put handle {id} right")),
        false => Ok(format!("handle {id} was put right by someone else")),
    }
}
