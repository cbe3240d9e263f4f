//! Join and Leave: the endpoint's interface and what the kernel needs around it. Everything is in place before Join is
//! answered, so that the container's first process finds its network there.

use super::error::{DriverError, refused};
use super::go_plugin::sandbox_of;
use super::index::{LocalEndpoint, Sandbox};
use super::locks::Key;
use super::record::{NetworkPool, NetworkRecord};
use super::{Drivers, alias, plan};
use crate::model::{EndpointId, IfaceName};
use crate::net::{self, EndpointLink};
use crate::protocol::{EndpointRef, Join, JoinAnswer};
use std::collections::BTreeSet;
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
            let _left = self.hold_sandbox(&endpoint).await;
            self.detach(&endpoint).await?;
            self.part(&endpoint).await?;
        }
        let _joined = self.locks.hold(Key::Sandbox(key.to_owned())).await;
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
        if !again {
            self.await_policy(&endpoint).await;
        }
        let network = self.with_prefixes(network).await?;
        Ok(plan::join_answer(&network, &endpoint, sandbox.hop))
    }

    /// The container starts all the same: until its policy is in force, its packets are dropped.
    async fn await_policy(&self, endpoint: &LocalEndpoint) {
        match self.firewall.await_policy(&endpoint.iface, &endpoint.ips).await {
            Ok(true) => {}
            Ok(false) => log::warn!(
                "Felix has not programmed {} yet: the container starts, and has no network before it does",
                endpoint.iface
            ),
            Err(error) => log::warn!("whether Felix has programmed {} is not known: {error}", endpoint.iface),
        }
    }

    /// Engines up to 28 send no Leave after a failed Join. What cannot be undone stays joined, so that DeleteEndpoint,
    /// which they do send, tries again.
    async fn undo_join(&self, joined: LocalEndpoint) {
        let undone = match self.detach(&joined).await {
            Ok(()) => self.part(&joined).await,
            failed => failed,
        };
        if let Err(undo) = undone {
            log::warn!("endpoint {} is not cleaned up after a failed Join: {undo}", joined.id.short());
        }
    }

    /// The network with the prefixes that its containers may have addresses of. An internal one without `--subnet` has
    /// those of all pools; `0.0.0.0/0`, which Docker knows it by, would be a default route.
    async fn with_prefixes(&self, mut network: NetworkRecord) -> Result<NetworkRecord, DriverError> {
        if network.internal && network.pools.iter().any(|pool| pool.subnet.prefix_len() == 0) {
            let pools = self.ipam.pools().await?;
            let (named, unnamed): (Vec<_>, Vec<_>) =
                network.pools.into_iter().partition(|pool| pool.subnet.prefix_len() > 0);
            let versions = unnamed.iter().map(|pool| pool.subnet.version());
            let of =
                |version| pools.iter().map(|pool| pool.spec.cidr).filter(move |c| c.version() == version);
            let prefixes = versions.flat_map(of).map(NetworkPool::of_prefix);
            network.pools = named.into_iter().chain(prefixes).collect();
        }
        Ok(network)
    }

    /// Programs the kernel for an endpoint, for who holds it and its sandbox.
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
            siblings: self.endpoints.has_siblings(&endpoint.id, &sandbox.key),
        };
        // Closed until it is programmed, and open when it is: the dispatch maps drop what they do not know.
        self.host.ensure_endpoint(&link).await?;
        let opened = self.firewall.add_endpoint(&endpoint.iface, &endpoint.ips).await;
        opened.map_err(DriverError::Firewall)?;
        // Packet filters take siblings of open interfaces only, and after a start this one may have been closed.
        self.endpoints.doubt_told(&endpoint.id);
        self.tell_siblings(&sandbox.key, None).await
    }

    pub(super) async fn leave(&self, call: &EndpointRef) -> Result<(), DriverError> {
        let id = EndpointId::new(&call.endpoint_id)?;
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        let Some(endpoint) = self.endpoints.get(&id) else { return Ok(()) };
        let _sandbox = self.hold_sandbox(&endpoint).await;
        // With its ports: engine 29 does not revoke them if it has forgotten the gateway over a restart of the plugin.
        self.detach(&endpoint).await?;
        self.part(&endpoint).await
    }

    /// Takes an endpoint's ports, filter entries, routes and interface away; all of them, even if one fails.
    pub(super) async fn detach(&self, endpoint: &LocalEndpoint) -> Result<(), DriverError> {
        // Closing the interface makes the packet filter forget them, too.
        self.endpoints.doubt_told(&endpoint.id);
        let ports = self.release_ports(&endpoint.id).await;
        let closed = self.firewall.remove_endpoint(&endpoint.iface).await.map_err(DriverError::Firewall);
        // One that the Go plugin made may have an interface though nobody knows where it is joined.
        let unknown = || endpoint.network.is_none().then(|| sandbox_of(endpoint));
        let released = match endpoint.sandbox.clone().or_else(unknown) {
            Some(sandbox) => {
                self.release_link(&endpoint.id, alias(&endpoint.id, &sandbox), &endpoint.ips).await
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
    /// the plugin or a gap in what the kernel tells. One that cannot be restored must not keep the others down; it is
    /// tried again by [`Self::repair_unrepaired`].
    pub async fn repair_all(&self) {
        let joined = self.endpoints.all().into_iter().filter(|endpoint| endpoint.sandbox.is_some());
        self.repair_those(joined.map(|endpoint| endpoint.iface).collect()).await;
    }

    /// Tries those again that could not be programmed: after a start, nothing else may ever touch them.
    pub async fn repair_unrepaired(&self) {
        self.repair_those(self.endpoints.unrepaired()).await;
    }

    async fn repair_those(&self, ifaces: Vec<IfaceName>) {
        if ifaces.is_empty() {
            return;
        }
        let there: BTreeSet<String> = match self.host.links().await {
            Ok(links) => links.into_iter().map(|link| link.name).collect(),
            Err(error) => {
                log::error!("{} endpoints are not programmed again: {error}", ifaces.len());
                ifaces.iter().for_each(|iface| self.endpoints.note_repair(iface, false));
                return;
            }
        };
        for iface in ifaces {
            match there.contains(iface.as_str()) {
                true => self.repair(&iface).await,
                // It died with its container: nothing is left to repair.
                false => self.endpoints.note_repair(&iface, true),
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
        let _sandbox = self.hold_sandbox(&endpoint).await;
        let repaired = match self.network(network).await {
            Ok(record) => self.attach(&endpoint, &record, sandbox).await,
            Err(error) => Err(error),
        };
        self.endpoints.note_repair(&endpoint.iface, repaired.is_ok());
        match repaired {
            Ok(()) => log::debug!("endpoint {} is programmed again", id.short()),
            Err(error) => log::error!("endpoint {} is not programmed again: {error}", id.short()),
        }
    }
}
