//! Endpoints of one container know of each other: it answers under the address that was called, over the interface with
//! its default route, and only such sources are let pass there.

use super::error::DriverError;
use super::index::LocalEndpoint;
use super::locks::Key;
use super::{Drivers, alias};
use crate::net::EndpointRef;
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
    pub(super) async fn tell_siblings(&self, key: &str) -> Result<(), DriverError> {
        let mut outcome = Ok(());
        for (endpoint, others) in self.endpoints.untold(key) {
            match self.tell(&endpoint, &others).await {
                Ok(()) => self.endpoints.tell(&endpoint.id, others),
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
        filtered.map_err(DriverError::Firewall)
    }

    /// Takes an endpoint out of its sandbox, for who holds both; the others there are told.
    pub(super) async fn part(&self, endpoint: &LocalEndpoint) -> Result<(), DriverError> {
        self.endpoints.leave(&endpoint.id);
        match &endpoint.sandbox {
            Some(sandbox) => self.tell_siblings(&sandbox.key).await,
            None => Ok(()),
        }
    }
}
