//! What the kernel inside a container should know of the container's endpoints, beside what Docker tells it.

use super::error::DriverError;
use super::index::LocalEndpoint;
use super::record::NetworkRecord;
use super::{Drivers, plan};
use crate::model::{Cidr, IfaceName, IpVersion};
use crate::net::ContainerEndpoint;
use std::collections::BTreeSet;

impl Drivers {
    /// The names of all sandboxes that have an endpoint of this driver.
    pub fn sandboxes(&self) -> BTreeSet<String> {
        self.endpoints.all().into_iter().filter_map(|endpoint| Some(endpoint.sandbox?.key)).collect()
    }

    /// The name of the sandbox that the endpoint behind an interface of the host is in.
    pub fn sandbox_behind(&self, iface: &IfaceName) -> Option<String> {
        let id = self.endpoints.behind(iface)?;
        Some(self.endpoints.get(&id)?.sandbox?.key)
    }

    /// The endpoints of a sandbox as its kernel should know them, in the order of their next hops.
    pub async fn endpoints_inside(&self, sandbox: &str) -> Result<Vec<ContainerEndpoint>, DriverError> {
        // One that serves only who names it is not among those of a network that names none.
        let pools = self.ipam.pools().await?;
        let shared = pools.iter().filter(|pool| pool.spec.assigns_automatically());
        let pools: Vec<Cidr> = shared.map(|pool| pool.spec.cidr).collect();
        let mut inside = Vec::new();
        for endpoint in self.endpoints.in_sandbox(sandbox) {
            let Some(network) = &endpoint.network else { continue };
            inside.extend(endpoint_inside(&endpoint, &self.network(network).await?, &pools));
        }
        inside.sort_by_key(|endpoint| endpoint.hop);
        Ok(inside)
    }
}

/// Pure. A network without `--subnet` has the prefixes of all pools.
fn endpoint_inside(
    endpoint: &LocalEndpoint,
    network: &NetworkRecord,
    pools: &[Cidr],
) -> Option<ContainerEndpoint> {
    let hop = endpoint.sandbox.as_ref()?.hop;
    let (named, unnamed): (Vec<Cidr>, Vec<Cidr>) =
        network.pools.iter().map(|pool| pool.subnet).partition(|subnet| subnet.prefix_len() > 0);
    let shared = |pool: &&Cidr| unnamed.iter().any(|subnet| subnet.version() == pool.version());
    let versions: BTreeSet<IpVersion> = endpoint.ips.iter().map(|ip| IpVersion::of(*ip)).collect();
    Some(ContainerEndpoint {
        mac: endpoint.mac,
        addresses: endpoint.ips.clone(),
        hop,
        next_hops: versions.into_iter().map(|version| plan::next_hop(version, hop)).collect(),
        prefixes: named,
        pools: pools.iter().filter(shared).copied().collect(),
        leads_out: !network.internal,
    })
}
