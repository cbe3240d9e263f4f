//! Join and Leave: the endpoint's interface and what the kernel needs around it. Everything is in place before Join is
//! answered, so that the container's first process finds its network there.

use super::error::{DriverError, refused};
use super::index::{LocalEndpoint, Sandbox};
use super::locks::Key;
use super::record::NetworkRecord;
use super::{Drivers, alias, plan};
use crate::model::{EndpointId, IfaceName};
use crate::net::{self, EndpointLink};
use crate::protocol::{EndpointRef, Join, JoinAnswer};
use std::net::IpAddr;

impl Drivers {
    pub(super) async fn join(&self, call: &Join) -> Result<JoinAnswer, DriverError> {
        let id = EndpointId::new(&call.endpoint_id)?;
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        let endpoint =
            self.endpoints.get(&id).ok_or_else(|| DriverError::UnknownEndpoint(id.short().to_owned()))?;
        let network_id =
            endpoint.network.clone().ok_or_else(|| DriverError::UnknownEndpoint(id.short().to_owned()))?;
        if network_id.as_str() != call.network_id {
            return Err(refused(format!("endpoint {} is in network {}", id.short(), network_id.short())));
        }
        let network = self.network(&network_id).await?;
        let key = Sandbox::name(&call.sandbox_key);
        let again = endpoint.sandbox.as_ref().is_some_and(|sandbox| sandbox.key == key);
        if endpoint.sandbox.is_some() && !again {
            // The engine has given the old sandbox up without a word.
            self.detach(&endpoint).await?;
            self.endpoints.leave(&id);
        }
        let sandbox = self
            .endpoints
            .join(&id, key)
            .ok_or_else(|| refused("a container cannot have more than 254 networks of this driver"))?;
        if let Err(error) = self.attach(&endpoint, &network, &sandbox).await {
            // A container that runs keeps what it has when a repeated call fails.
            if !again {
                self.undo_join(LocalEndpoint { sandbox: Some(sandbox), ..endpoint }).await;
            }
            return Err(error);
        }
        Ok(plan::join_answer(&network, &endpoint, sandbox.hop))
    }

    /// Engines up to 28 send no Leave after a failed Join. What cannot be undone stays joined, so that DeleteEndpoint,
    /// which they do send, tries again.
    async fn undo_join(&self, joined: LocalEndpoint) {
        match self.detach(&joined).await {
            Ok(()) => self.endpoints.leave(&joined.id),
            Err(undo) => {
                log::warn!("endpoint {} is not cleaned up after a failed Join: {undo}", joined.id.short());
            }
        }
    }

    /// Programs the kernel for an endpoint.
    async fn attach(
        &self,
        endpoint: &LocalEndpoint,
        network: &NetworkRecord,
        sandbox: &Sandbox,
    ) -> Result<(), DriverError> {
        let mtu = match network.mtu.or(self.options.veth_mtu) {
            Some(mtu) => mtu,
            None => self.uplink_mtu.get(&*self.host).await?,
        };
        let has_v6 = endpoint.ips.iter().any(IpAddr::is_ipv6);
        let link = EndpointLink {
            host: endpoint.iface.clone(),
            temp: endpoint.id.temp_iface(),
            alias: alias(&endpoint.id, sandbox),
            mac: endpoint.mac,
            mtu,
            addresses: endpoint.ips.clone(),
            gateway_v6: has_v6.then(|| plan::next_hop_v6(sandbox.hop)),
        };
        // Closed until it is programmed, and open when it is: the dispatch maps drop what they do not know.
        self.host.ensure_endpoint(&link).await?;
        self.firewall.add_endpoint(&endpoint.iface).await.map_err(DriverError::Firewall)
    }

    pub(super) async fn leave(&self, call: &EndpointRef) -> Result<(), DriverError> {
        let id = EndpointId::new(&call.endpoint_id)?;
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        let Some(endpoint) = self.endpoints.get(&id) else { return Ok(()) };
        // With its ports: engine 29 does not revoke them if it has forgotten the gateway over a restart of the plugin.
        self.detach(&endpoint).await?;
        self.endpoints.leave(&id);
        Ok(())
    }

    /// Takes an endpoint's ports, filter entries, routes and interface away; all of them, even if one fails.
    pub(super) async fn detach(&self, endpoint: &LocalEndpoint) -> Result<(), DriverError> {
        let ports = self.release_ports(&endpoint.id).await;
        let closed = self.firewall.remove_endpoint(&endpoint.iface).await.map_err(DriverError::Firewall);
        let released = match &endpoint.sandbox {
            Some(sandbox) => {
                self.release_link(&endpoint.id, alias(&endpoint.id, sandbox), &endpoint.ips).await
            }
            None => Ok(()),
        };
        ports.and(closed).and(released)
    }

    async fn release_link(&self, id: &EndpointId, alias: String, ips: &[IpAddr]) -> Result<(), DriverError> {
        let link =
            net::EndpointRef { host: id.host_iface(), temp: id.temp_iface(), alias, addresses: ips.to_vec() };
        Ok(self.host.release_endpoint(&link).await?)
    }

    /// Removes the interface of an endpoint that is not known any more, if it carries the endpoint's mark.
    pub(super) async fn remove_stray_link(&self, id: &EndpointId) -> Result<(), DriverError> {
        let ours = |alias: &String| super::parse_alias(alias).is_some_and(|(owner, _)| owner == *id);
        let links = self.host.links().await?;
        if let Some(alias) = links.into_iter().filter_map(|link| link.alias).find(ours) {
            self.firewall.remove_endpoint(&id.host_iface()).await.map_err(DriverError::Firewall)?;
            self.release_link(id, alias, &[]).await?;
        }
        Ok(())
    }

    /// Programs the kernel again for every endpoint that is joined and whose interface still exists, after a start of
    /// the plugin or a gap in what the kernel tells. One that cannot be restored must not keep the others down.
    pub async fn repair_all(&self) {
        let links = match self.host.links().await {
            Ok(links) => links,
            Err(error) => return log::error!("no endpoint is looked after: {error}"),
        };
        for endpoint in self.endpoints.all() {
            if links.iter().any(|link| link.name == endpoint.iface.as_str()) {
                self.repair(&endpoint.iface).await;
            }
        }
    }

    /// Programs the kernel again for the endpoint behind an interface; other interfaces are none of ours.
    pub async fn repair(&self, iface: &IfaceName) {
        let Some(id) = self.endpoints.behind(iface) else { return };
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        // Docker may have taken it away while the lock was waited for.
        let Some(endpoint) = self.endpoints.get(&id) else { return };
        let (Some(sandbox), Some(network)) = (&endpoint.sandbox, &endpoint.network) else { return };
        let repaired = match self.network(network).await {
            Ok(record) => self.attach(&endpoint, &record, sandbox).await,
            Err(error) => Err(error),
        };
        match repaired {
            Ok(()) => log::debug!("endpoint {} is programmed again", id.short()),
            Err(error) => log::error!("endpoint {} is not programmed again: {error}", id.short()),
        }
    }
}
