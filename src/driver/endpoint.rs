//! CreateEndpoint and DeleteEndpoint: the WorkloadEndpoint in the datastore.

use super::error::{DriverError, refused};
use super::index::LocalEndpoint;
use super::locks::Key;
use super::options::{EndpointOptions, check_reserved};
use super::plan::EndpointPlan;
use super::record::{IpamKind, NetworkRecord};
use super::swarm::held_for_swarm;
use super::{Drivers, new_metadata, plan};
use crate::ipam::IpamError;
use crate::model::{
    Cidr, EndpointId, IpVersion, MacAddress, NetworkId, ORCHESTRATOR, WorkloadEndpointSpec, key,
};
use crate::protocol::{CreateEndpoint, CreateEndpointAnswer, EndpointInterface, EndpointRef};
use crate::store::{StoreError, Txn, typed};
use bytes::Bytes;
use std::net::IpAddr;

impl Drivers {
    pub(super) async fn create_endpoint(
        &self,
        call: &CreateEndpoint,
    ) -> Result<CreateEndpointAnswer, DriverError> {
        let network = NetworkId::new(&call.network_id)?;
        let id = EndpointId::new(&call.endpoint_id)?;
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        let network = self.network(&network).await?;
        let plan = plan_endpoint(call, id)?;
        if !plan.labels.is_empty() {
            let reserved = self.go_labels().await?;
            plan.labels.keys().try_for_each(|label| check_reserved(label, &reserved))?;
        }
        if let Some(existing) = self.endpoints.get(&plan.id) {
            return repeated(&existing, &plan, &network, call);
        }
        if let Err(error) = self.make_endpoint(&plan, &network).await {
            self.endpoints.unclaim(&plan.ips, &plan.id);
            return Err(error);
        }
        plan.unused.iter().for_each(|key| {
            log::warn!("endpoint {}: option {key} has no effect with this driver", plan.id.short());
        });
        if let Some(name) = &plan.ifname {
            log::warn!(
                "endpoint {}: engines before 29.8 do not name the container's interface {name}",
                plan.id.short()
            );
        }
        log::debug!("endpoint {} has {:?}", plan.id.short(), plan.ips);
        Ok(answer(&plan, call))
    }

    async fn make_endpoint(&self, plan: &EndpointPlan, network: &NetworkRecord) -> Result<(), DriverError> {
        for ip in &plan.ips {
            self.claim(*ip, &plan.id, network).await?;
        }
        self.write_endpoint(plan, network).await
    }

    /// Makes an address this endpoint's, if it is its to take.
    pub(super) async fn claim(
        &self,
        ip: IpAddr,
        id: &EndpointId,
        network: &NetworkRecord,
    ) -> Result<(), DriverError> {
        self.check_in_network(network, ip).await?;
        let _held = self.locks.hold(Key::Address(ip)).await;
        self.endpoints.claim(ip, id).map_err(|owner| {
            refused(format!("{ip} is already in use by endpoint {} on this node", owner.short()))
        })?;
        if network.ipam == IpamKind::Docker {
            return Ok(());
        }
        let node = self.options.node.as_str();
        let allocation = self.ipam.lookup(ip).await?;
        if let Some(held) = allocation.as_ref().and_then(held_for_swarm) {
            return self.take_from_swarm(ip, &held).await;
        }
        match allocation {
            Some(allocation) if allocation.node() == Some(node) => Ok(()),
            Some(allocation) => Err(refused(format!(
                "{ip} is already in use on node {}",
                allocation.node().unwrap_or("(unknown)")
            ))),
            // It was handed out so long ago that the collector took it back.
            None => match self.ipam.assign(ip, None, &self.new_owner(None)?).await {
                Err(error @ IpamError::AlreadyAssigned { .. }) => Err(error.into()),
                done => Ok(done?),
            },
        }
    }

    /// Writes an endpoint's WorkloadEndpoint if there is none. Says whether there was none.
    pub(super) async fn create_workload_endpoint(
        &self,
        plan: &EndpointPlan,
        network: &NetworkRecord,
    ) -> Result<bool, DriverError> {
        let (key, value) = self.encode_endpoint(plan, network)?;
        match self.store.commit(Txn::new().create(&key, value)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The key and the document of an endpoint's WorkloadEndpoint.
    fn encode_endpoint(
        &self,
        plan: &EndpointPlan,
        network: &NetworkRecord,
    ) -> Result<(String, Bytes), DriverError> {
        let resource = plan::endpoint(plan, network, &self.options.node, new_metadata(""));
        let key = key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, resource.name());
        let value = typed::encode(&key, &resource)?;
        Ok((key, value))
    }

    async fn write_endpoint(&self, plan: &EndpointPlan, network: &NetworkRecord) -> Result<(), DriverError> {
        match self.create_workload_endpoint(plan, network).await {
            Ok(true) => {}
            // Ours from before, though not in the index: its first write was answered with an error and happened.
            Ok(false) => {
                let (key, value) = self.encode_endpoint(plan, network)?;
                self.store.commit(Txn::new().put(&key, value)).await?;
            }
            Err(error) => {
                // It may have been written all the same, and the engine does not call DeleteEndpoint after this.
                if let Err(undo) = self.delete_workload_endpoint(&plan.id).await {
                    log::warn!("endpoint {} may be left in the datastore: {undo}", plan.id.short());
                }
                return Err(error);
            }
        }
        self.endpoints.insert(LocalEndpoint {
            id: plan.id.clone(),
            network: Some(network.id.clone()),
            iface: plan.id.host_iface(),
            ips: plan.ips.clone(),
            mac: plan.mac,
            sandbox: None,
            ifname: plan.ifname.clone(),
        });
        Ok(())
    }

    pub(super) async fn delete_endpoint(&self, call: &EndpointRef) -> Result<(), DriverError> {
        let id = EndpointId::new(&call.endpoint_id)?;
        self.remove_endpoint(&id).await
    }

    /// Removes an endpoint from kernel and datastore; one that is not known is gone already, but its interface may not
    /// be: a former process could have died between the two.
    pub(super) async fn remove_endpoint(&self, id: &EndpointId) -> Result<(), DriverError> {
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        self.remove_held_endpoint(id).await
    }

    /// The same for a caller that holds the endpoint. What fails stays known, for Docker's next call or the collector's;
    /// each step can be repeated.
    pub(super) async fn remove_held_endpoint(&self, id: &EndpointId) -> Result<(), DriverError> {
        let Some(endpoint) = self.endpoints.get(id) else {
            return self.remove_stray_link(id).await;
        };
        // The addresses go to others next; nobody may still send under them.
        let sandbox = self.hold_sandbox(&endpoint).await;
        self.detach(&endpoint).await?;
        self.part(&endpoint).await?;
        drop(sandbox);
        // Flows of the old owner must not reach the next one, which may get the address right after this.
        if let Err(error) = self.host.flush_conntrack(&endpoint.ips).await {
            log::warn!("connections of {:?} are not flushed: {error}", endpoint.ips);
        }
        self.delete_workload_endpoint(id).await?;
        self.endpoints.remove(id);
        Ok(())
    }
}

/// What the request makes of the endpoint. Pure.
pub(super) fn plan_endpoint(call: &CreateEndpoint, id: EndpointId) -> Result<EndpointPlan, DriverError> {
    let interface = &call.interface;
    let texts = [(IpVersion::V4, &interface.address), (IpVersion::V6, &interface.address_ipv6)];
    let mut ips = Vec::new();
    for (version, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        let ip = text.split('/').next().unwrap_or(text).parse::<IpAddr>();
        match ip {
            Ok(ip) if IpVersion::of(ip) == version && Cidr::parse_masking(text).is_ok() => ips.push(ip),
            _ => return Err(refused(format!("{text:?} is not an {version} address with a prefix length"))),
        }
    }
    if ips.is_empty() {
        return Err(refused("an endpoint needs an address; the null IPAM driver gives none"));
    }
    let mac = match interface.mac_address.as_str() {
        "" => MacAddress::of_endpoint(&id),
        text => text.parse()?,
    };
    // What the kernel refuses as the address of an interface (`is_valid_ether_addr`).
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(refused(format!(
            "{mac} cannot be a container's MAC address: it is a group address or zero"
        )));
    }
    let EndpointOptions { labels, ifname, unused } = EndpointOptions::parse(&call.options)?;
    Ok(EndpointPlan { id, ips, mac, labels, ifname, unused })
}

/// The answer. What the engine chose must come back empty, even if it is the same.
fn answer(plan: &EndpointPlan, call: &CreateEndpoint) -> CreateEndpointAnswer {
    let mac_address = match call.interface.mac_address.is_empty() {
        true => plan.mac.to_string(),
        false => String::new(),
    };
    CreateEndpointAnswer { interface: EndpointInterface { mac_address, ..EndpointInterface::default() } }
}

/// The answer to a call that was carried out before.
fn repeated(
    existing: &LocalEndpoint,
    plan: &EndpointPlan,
    network: &NetworkRecord,
    call: &CreateEndpoint,
) -> Result<CreateEndpointAnswer, DriverError> {
    let same = existing.network.as_ref() == Some(&network.id)
        && existing.ips == plan.ips
        && existing.mac == plan.mac;
    match same {
        true => Ok(answer(plan, call)),
        false => Err(refused(format!("endpoint {} exists with other addresses", plan.id.short()))),
    }
}
