//! Networks and endpoints that Docker has and this plugin has lost: the calls that made them are carried out again.

use super::error::DriverError;
use super::go_plugin::Origin;
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
    /// taken over.
    pub async fn adopt_endpoint(&self, call: &CreateEndpoint) -> Result<bool, DriverError> {
        let id = EndpointId::new(&call.endpoint_id)?;
        if let Some(known) = self.endpoints.get(&id) {
            return self.take_over_endpoint(known, &NetworkId::new(&call.network_id)?).await;
        }
        let aliases = self.host.links().await?.into_iter().filter_map(|link| link.alias);
        let ours = aliases.filter_map(|alias| parse_alias(&alias)).find(|(owner, _)| *owner == id);
        let Some((_, sandbox)) = ours else { return Ok(false) };
        self.create_endpoint(call).await?;
        self.endpoints.found_joined(&id, sandbox);
        self.repair(&id.host_iface()).await;
        Ok(true)
    }
}
