//! `ipam check`: what is wrong with addresses, and a report of it that `ipam release` takes.

use super::super::print;
use super::super::session::{Failure, Session};
use crate::ipam::{Audit, Counts, Finding, audit};
use crate::model::{ClusterInformationSpec, Resource, key};
use crate::store::typed;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Arguments of `ipam check`.
#[derive(Debug, Args)]
pub(in super::super) struct Check {
    /// Also write a report in JSON to this file; `ipam release --from-report` takes it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Addresses that were assigned less than this ago may be on their way to an endpoint
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Also tell what passes by itself or does no harm
    #[arg(long)]
    show_all: bool,
}

/// What `-o` writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Version of the program that wrote it.
    version: String,
    /// The cluster that it is about.
    #[serde(rename = "clusterGUID")]
    pub(super) cluster_guid: Option<String>,
    /// RFC 3339 time at which it was made.
    time: String,
    /// How much was looked at.
    counts: Counts,
    /// What was found.
    pub(super) findings: Vec<Finding>,
}

pub(super) async fn run(session: &Session, arguments: Check) -> Result<(), Failure> {
    let now = SystemTime::now();
    let found = audit(&super::facts(session).await?, now, arguments.grace);
    if let Some(file) = &arguments.output {
        let report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_guid: cluster_guid(session).await?,
            time: humantime::format_rfc3339_seconds(now).to_string(),
            counts: found.counts,
            findings: found.findings.clone(),
        };
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::of(&error))?;
        std::fs::write(file, text + "\n")
            .map_err(|error| Failure::Failed(format!("write {}: {error}", file.display())))?;
    }
    print(told(&found, arguments.show_all).trim_end());
    match found.problems().count() {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 problem was found".to_owned())),
        count => Err(Failure::Failed(format!("{count} problems were found"))),
    }
}

/// The GUID of the cluster that the datastore belongs to.
pub(super) async fn cluster_guid(session: &Session) -> Result<Option<String>, Failure> {
    let key = key::resource::<ClusterInformationSpec>("default");
    let found = typed::get::<Resource<ClusterInformationSpec>>(&*session.store, &key).await;
    let found = found.map_err(|error| Failure::of(&error))?;
    Ok(found.and_then(|found| found.value.spec.cluster_guid))
}

fn told(found: &Audit, show_all: bool) -> String {
    let Counts { pools, blocks, allocated, in_use, handles, nodes } = found.counts;
    let mut text = format!(
        "{pools} pools, {blocks} blocks, {handles} handles, {nodes} nodes; {allocated} addresses are held, {in_use} are used\n"
    );
    let mut kinds: BTreeMap<_, Vec<&Finding>> = BTreeMap::new();
    for finding in found.findings.iter().filter(|finding| show_all || finding.kind.is_problem()) {
        kinds.entry(finding.kind).or_default().push(finding);
    }
    for (kind, findings) in &kinds {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}", findings.len(), kind.title());
        for finding in findings {
            let _ = writeln!(text, "  {}", finding.text);
        }
    }
    if found.problems().next().is_none() {
        text.push_str("no problem was found\n");
    }
    text
}
