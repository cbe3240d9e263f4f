//! A look at the routes between nodes from outside the running plugin: what the datastore asks for, and what of it this
//! host has. Changes nothing.

use super::delta;
use super::host::{self, HostView, VERSIONS};
use super::resolve::{Situation, device_name};
use super::view::View;
use crate::model::{IpVersion, NodeName};
use crate::net::{Link, NetError, Underlay};
use crate::store::{Store, StoreError};
use std::collections::BTreeSet;

/// Why a look was not possible.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// The datastore cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel cannot be asked.
    #[error(transparent)]
    Kernel(#[from] NetError),
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examination {
    /// Nodes of the cluster besides this one.
    pub others: usize,
    /// Routes that this host has as it should: to other nodes' blocks and addresses, and the ends of its own blocks.
    pub right: usize,
    /// VXLAN devices that it has as it should, each with the number of nodes behind it.
    pub tunnels: Vec<(&'static str, usize)>,
    /// What it lacks, and what stands in the way, as sentences.
    pub problems: Vec<String>,
}

/// Compares this node's routes, which a running worker keeps, with the datastore. `bird` says whether BIRD runs here.
///
/// # Errors
/// The datastore or the kernel cannot be read.
pub async fn examine(
    store: &dyn Store,
    kernel: &dyn Underlay,
    node: &NodeName,
    bird: bool,
) -> Result<Examination, ExamineError> {
    let mut view = View::new(node.as_str()).beside(bird);
    for prefix in View::prefixes() {
        for entry in store.list(&prefix).await?.entries {
            view.update(&entry.key, Some(&entry.value));
        }
    }
    let (links, addresses, routes) =
        tokio::try_join!(kernel.links(), kernel.addresses(), kernel.host_routes())?;
    let (mut offer, mut problems) = HostView::look(&view, &links, &addresses);
    problems.extend(view.broken.values().cloned());
    let devices = VERSIONS.map(|version| device(&view, &links, version));
    offer.set_tunnels(devices.map(|device| device.map(|link| link.index)));
    let situation = Situation { view: &view, host: &offer };
    let mut found = Examination {
        others: view.nodes.keys().filter(|name| **name != view.me).count(),
        ..Examination::default()
    };
    for (version, link) in VERSIONS.into_iter().zip(devices) {
        let Some(link) = link else {
            if view.wants_vxlan(version) {
                problems.push(format!("{} is missing: see the plugin's log", device_name(version)));
            }
            continue;
        };
        problems.extend(host::device(&view, &offer, version).1);
        let there: BTreeSet<_> = kernel.vteps(link.index).await?.into_iter().collect();
        let lost = situation.vteps(version).difference(&there).count();
        if lost > 0 {
            problems.push(format!("{} lacks the way to {lost} nodes", device_name(version)));
        }
        found.tunnels.push((device_name(version), there.len()));
    }
    let known: delta::Table =
        host::own_routes(routes, &links).into_iter().map(|route| (delta::key(&route), route)).collect();
    for (cidr, block) in &view.blocks {
        let resolved = situation.block(cidr, block);
        problems.extend(resolved.problems);
        for route in resolved.routes {
            match known.get(&delta::key(&route)).is_some_and(|have| delta::same(have, &route)) {
                true => found.right += 1,
                false => problems.push(format!("the route to {} is missing", route.destination)),
            }
        }
    }
    found.problems = problems.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    Ok(found)
}

/// The VXLAN device of a version.
fn device<'a>(view: &View, links: &'a [Link], version: IpVersion) -> Option<&'a Link> {
    let is_it = |link: &&Link| link.name == device_name(version) && link.kind.as_deref() == Some("vxlan");
    links.iter().find(is_it).filter(|_| view.wants_vxlan(version))
}
