//! Networks and endpoints that Docker has and this plugin has lost: the calls that made them are carried out again.

use super::endpoint::plan_endpoint;
use super::error::DriverError;
use super::go_plugin::Origin;
use super::index::LocalEndpoint;
use super::locks::Key;
use super::{Drivers, parse_alias};
use crate::model::{EndpointId, NetworkId};
use crate::protocol::{CreateEndpoint, CreateNetwork};
use std::collections::BTreeSet;

impl Drivers {
    /// IDs of the networks that are known.
    pub async fn known_networks(&self) -> Result<BTreeSet<String>, DriverError> {
        Ok(self.networks().await?.into_iter().map(|network| network.id.to_string()).collect())
    }

    /// Takes up a network again.
    pub async fn adopt_network(&self, call: &CreateNetwork) -> Result<(), DriverError> {
        self.create_network(call, Origin::Found).await
    }

    /// Takes up the endpoint of a running container again: its addresses, its WorkloadEndpoint, and its interface, which
    /// tells where it is joined. One whose interface is gone or is not ours is left to Docker. One that the Go plugin made is
    /// taken over; one of which only the datastore knows nothing any more is written there again.
    pub async fn adopt_endpoint(&self, call: &CreateEndpoint) -> Result<bool, DriverError> {
        let id = EndpointId::new(&call.endpoint_id)?;
        if let Some(known) = self.endpoints.get(&id) {
            return match known.network {
                Some(_) => self.restore_endpoint(known, call).await,
                None => self.take_over_endpoint(known, &NetworkId::new(&call.network_id)?).await,
            };
        }
        let aliases = self.host.links().await?.into_iter().filter_map(|link| link.alias);
        let ours = aliases.filter_map(|alias| parse_alias(&alias)).find(|(owner, _)| *owner == id);
        let Some((_, sandbox)) = ours else { return Ok(false) };
        self.create_endpoint(call).await?;
        self.endpoints.found_joined(&id, sandbox);
        self.repair(&id.host_iface()).await;
        Ok(true)
    }

    /// Endpoints that have their WorkloadEndpoint in the datastore. The others that are joined were deleted there by somebody
    /// else (`calicoctl delete node` takes all of a node's), their addresses maybe with them.
    pub async fn known_endpoints(&self) -> Result<BTreeSet<String>, DriverError> {
        // In this order: otherwise one that is made meanwhile would be here and not yet there, as if it were lost.
        let local = self.endpoints.all();
        let stored = self.stored_endpoints().await?;
        let known = |endpoint: &LocalEndpoint| endpoint.sandbox.is_none() || stored.contains(&endpoint.id);
        // The Go plugin wrote no network: its endpoints are taken over like those that were lost.
        let ours = local.into_iter().filter(|endpoint| endpoint.network.is_some());
        Ok(ours.filter(known).map(|endpoint| endpoint.id.to_string()).collect())
    }

    /// Writes the WorkloadEndpoint of a joined endpoint again, with its addresses; false if it is there, or the endpoint
    /// is another one by now.
    async fn restore_endpoint(
        &self,
        known: LocalEndpoint,
        call: &CreateEndpoint,
    ) -> Result<bool, DriverError> {
        {
            let _held = self.locks.hold(Key::Endpoint(known.id.clone())).await;
            let plan = plan_endpoint(call, known.id.clone())?;
            let same = |now: &LocalEndpoint| {
                now.sandbox.is_some()
                    && now.ips == plan.ips
                    && now.mac == plan.mac
                    && now.network.as_ref().is_some_and(|network| network.as_str() == call.network_id)
            };
            if !self.endpoints.get(&known.id).as_ref().is_some_and(same) {
                return Ok(false);
            }
            let network = self.network(&NetworkId::new(&call.network_id)?).await?;
            for ip in &plan.ips {
                self.claim(*ip, &plan.id, &network).await?;
            }
            if !self.create_workload_endpoint(&plan, &network).await? {
                return Ok(false);
            }
        }
        // Its interface was closed when its policy went.
        self.repair(&known.iface).await;
        Ok(true)
    }
}
