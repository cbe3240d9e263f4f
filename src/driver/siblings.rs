//! Endpoints of one container know of each other: it answers under the address that was called, over the interface with
//! its default route, and only such sources are let pass there.

use super::error::DriverError;
use super::index::LocalEndpoint;
use super::locks::Key;
use super::{Drivers, alias};
use crate::model::EndpointId;
use crate::model::{NetworkId, ORCHESTRATOR, Resource, WorkloadEndpointSpec, endpoint_name, key};
use crate::net::EndpointRef;
use crate::store::{Txn, retry, typed};
use std::collections::BTreeSet;
use std::net::IpAddr;
use tokio::sync::OwnedMutexGuard;

impl Drivers {
    /// Keeps others from coming into an endpoint's sandbox and from leaving it; nothing for one that is in none.
    pub(super) async fn hold_sandbox(&self, endpoint: &LocalEndpoint) -> Option<OwnedMutexGuard<()>> {
        match &endpoint.sandbox {
            Some(sandbox) => Some(self.locks.hold(Key::Sandbox(sandbox.key.clone())).await),
            None => None,
        }
    }

    /// Tells every endpoint of a sandbox of the others there, if something has changed; for who holds the sandbox. All
    /// are told, even if one cannot be.
    pub(super) async fn tell_siblings(
        &self,
        key: &str,
        leaving: Option<&EndpointId>,
    ) -> Result<(), DriverError> {
        let mut outcome = Ok(());
        for (endpoint, others) in self.endpoints.untold(key, leaving) {
            self.endpoints.tell(&endpoint.id, None);
            match self.tell(&endpoint, &others).await {
                Ok(()) => self.endpoints.tell(&endpoint.id, Some(others)),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    async fn tell(&self, endpoint: &LocalEndpoint, others: &BTreeSet<IpAddr>) -> Result<(), DriverError> {
        let Some(sandbox) = &endpoint.sandbox else { return Ok(()) };
        let link = EndpointRef {
            host: endpoint.iface.clone(),
            temp: endpoint.id.temp_iface(),
            alias: alias(&endpoint.id, sandbox),
            addresses: endpoint.ips.clone(),
        };
        let addresses = others.iter().copied().collect();
        let filtered = self.firewall.set_siblings(&endpoint.iface, addresses).await;
        self.host.set_siblings(&link, !others.is_empty()).await?;
        filtered.map_err(DriverError::Firewall)?;
        self.share_profiles(endpoint, &sandbox.key).await
    }

    /// Gives an endpoint the profiles of its container's other networks too, after its own. A container has one default
    /// route, so it calls the peers of one network under its address in another: it is a member of all its networks under
    /// each of its addresses.
    async fn share_profiles(&self, endpoint: &LocalEndpoint, sandbox: &str) -> Result<(), DriverError> {
        let siblings = self.endpoints.in_sandbox(sandbox).into_iter().filter(|other| other.id != endpoint.id);
        let networks: BTreeSet<NetworkId> = siblings.filter_map(|other| other.network).collect();
        let Some(own) = &endpoint.network else { return Ok(()) };
        let mut profiles = vec![self.network(own).await?.profile];
        for network in networks {
            let profile = self.network(&network).await?.profile;
            if !profiles.contains(&profile) {
                profiles.push(profile);
            }
        }
        let name = endpoint_name(&self.options.node, &endpoint.id);
        let key = key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, &name);
        retry::on_conflict(|| async {
            let stored = typed::get::<Resource<WorkloadEndpointSpec>>(&*self.store, &key).await?;
            let Some(mut stored) = stored.filter(|stored| stored.value.spec.profiles != profiles) else {
                return Ok(());
            };
            stored.value.spec.profiles.clone_from(&profiles);
            let value = typed::encode(&key, &stored.value)?;
            self.store.commit(Txn::new().update(&key, stored.revision, value)).await?;
            Ok(())
        })
        .await
    }

    /// Takes a detached endpoint out of its sandbox, for who holds both. The others there are told first: until they
    /// know, it stays, and its addresses with it.
    pub(super) async fn part(&self, endpoint: &LocalEndpoint) -> Result<(), DriverError> {
        if let Some(sandbox) = &endpoint.sandbox {
            self.tell_siblings(&sandbox.key, Some(&endpoint.id)).await?;
        }
        self.endpoints.leave(&endpoint.id);
        Ok(())
    }
}
