//! `node`: the cluster's nodes, and taking one away that never comes back.

use super::session::{Failure, Session};
use super::{print, table};
use crate::app::node_name;
use crate::driver;
use crate::model::NodeName;
use crate::resource::{self, NodeRemoved, NodeReport};
use clap::Subcommand;
use serde_json::Value;
use std::fmt::Write as _;

/// What is asked or done about nodes.
#[derive(Debug, Subcommand)]
pub(super) enum Nodes {
    /// All nodes with their addresses, and how many endpoints, blocks and addresses each has
    List,
    /// One node with its endpoints and blocks
    Show {
        /// Its name
        name: String,
    },
    /// Give back everything a node has that never comes back: endpoints, addresses, blocks, its Node
    Remove {
        /// Its name
        name: String,
        /// Although it looks alive: its containers lose their network
        #[arg(long)]
        force: bool,
    },
}

pub(super) async fn run(session: Session, question: Nodes) -> Result<(), Failure> {
    match question {
        Nodes::List => list(&session).await,
        Nodes::Show { name } => show(&session, &name).await,
        Nodes::Remove { name, force } => remove(&session, &name, force).await,
    }
}

fn text<'a>(node: &'a NodeReport, path: &str) -> &'a str {
    node.resource.as_ref().and_then(|it| it.pointer(path)).and_then(Value::as_str).unwrap_or_default()
}

async fn list(session: &Session) -> Result<(), Failure> {
    let nodes = resource::nodes(&*session.store).await.map_err(|error| Failure::of(&error))?;
    let headings = ["NAME", "IPV4", "IPV6", "ENDPOINTS", "BLOCKS", "ADDRESSES", "NOTE"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for (name, node) in &nodes {
        let counts = [node.endpoints.len(), node.blocks.len(), node.addresses].map(|count| count.to_string());
        let addresses =
            ["/spec/bgp/ipv4Address", "/spec/bgp/ipv6Address"].map(|path| text(node, path).to_owned());
        let note = match (&node.resource, node.heartbeat) {
            (None, _) => "no Node resource; `node remove` gives back what is left",
            (Some(_), true) => "Felix lives",
            (Some(_), false) => "",
        };
        rows.push([vec![name.clone()], addresses.to_vec(), counts.to_vec(), vec![note.to_owned()]].concat());
    }
    print(&table::align(&rows));
    Ok(())
}

async fn find(session: &Session, name: &str) -> Result<NodeReport, Failure> {
    let mut nodes = resource::nodes(&*session.store).await.map_err(|error| Failure::of(&error))?;
    nodes.remove(name).ok_or_else(|| Failure::Failed(format!("nothing in the datastore names a node {name}")))
}

async fn show(session: &Session, name: &str) -> Result<(), Failure> {
    let node = find(session, name).await?;
    let mut told = format!("node {name}\n");
    for (path, title) in [
        ("/spec/bgp/ipv4Address", "IPv4"),
        ("/spec/bgp/ipv6Address", "IPv6"),
        ("/spec/bgp/ipv4IPIPTunnelAddr", "IPIP tunnel"),
        ("/spec/ipv4VXLANTunnelAddr", "VXLAN tunnel"),
        ("/spec/ipv6VXLANTunnelAddr", "VXLAN tunnel"),
        ("/metadata/creationTimestamp", "since"),
    ] {
        let value = text(&node, path);
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(told, "{title}: {value}");
        }
    }
    if node.resource.is_none() {
        told.push_str("it has no Node resource\n");
    }
    if node.heartbeat {
        told.push_str("its Felix lives\n");
    }
    let _ = writeln!(told, "addresses: {}", node.addresses);
    for (title, names) in [
        ("blocks", node.blocks.iter().map(ToString::to_string).collect::<Vec<_>>()),
        ("endpoints", node.endpoints.clone()),
        ("settings, BGP peers and host endpoints of its own", node.resources.clone()),
    ] {
        let _ = writeln!(told, "{title}: {}", names.len());
        for name in names {
            let _ = writeln!(told, "  {name}");
        }
    }
    if node.reports > 0 {
        let _ = writeln!(told, "reports of its Felix: {}", node.reports);
    }
    print(told.trim_end());
    Ok(())
}

async fn remove(session: &Session, name: &str, force: bool) -> Result<(), Failure> {
    let node = NodeName::new(name).map_err(|error| Failure::Usage(error.to_string()))?;
    let report = find(session, name).await?;
    if !force && let Some(why) = signs_of_life(session, &node, &report).await {
        return Err(Failure::Failed(format!(
            "node {name} stays: {why}. If it never comes back, --force removes it"
        )));
    }
    let removed = resource::remove_node(&session.store, &node).await.map_err(|error| Failure::of(&error))?;
    driver::release_profiles_of(&*session.store, &node).await.map_err(|error| Failure::of(&error))?;
    print(&told(name, &removed));
    Ok(())
}

/// Why a node is not taken for one that is gone for good.
async fn signs_of_life(session: &Session, node: &NodeName, report: &NodeReport) -> Option<String> {
    let here = node_name(&session.config).is_ok_and(|here| here == *node);
    if here && session.daemon_answers().await {
        return Some("it is this host, and the plugin runs".to_owned());
    }
    if report.heartbeat {
        return Some("its Felix has a heartbeat".to_owned());
    }
    match report.endpoints.len() {
        0 => None,
        1 => Some("it has 1 endpoint; remove its container first".to_owned()),
        count => Some(format!("it has {count} endpoints; remove their containers first")),
    }
}

fn told(name: &str, removed: &NodeRemoved) -> String {
    let NodeRemoved { endpoints, addresses, deleted, disowned, resources } = removed;
    let mut text =
        format!("removed node {name}: {endpoints} endpoints, {addresses} addresses, {deleted} blocks");
    if *disowned > 0 {
        let _ = write!(text, "; {disowned} blocks stay without owner, other nodes have addresses of them");
    }
    if *resources > 0 {
        let _ = write!(text, "; {resources} settings, BGP peers and host endpoints of its own");
    }
    text
}
