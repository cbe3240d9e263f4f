//! CreateEndpoint and DeleteEndpoint: the WorkloadEndpoint in the datastore.

use super::error::{DriverError, refused};
use super::index::LocalEndpoint;
use super::plan::EndpointPlan;
use super::record::{IpamKind, NetworkRecord};
use super::{Drivers, new_metadata, options, plan};
use crate::ipam::IpamError;
use crate::model::{
    Cidr, EndpointId, IpVersion, MacAddress, NetworkId, ORCHESTRATOR, WorkloadEndpointSpec, endpoint_name,
    key,
};
use crate::protocol::{CreateEndpoint, CreateEndpointAnswer, EndpointInterface, EndpointRef};
use crate::store::{StoreError, Txn, typed};
use std::net::IpAddr;
use std::time::Instant;

impl Drivers {
    pub(super) async fn create_endpoint(
        &self,
        call: &CreateEndpoint,
    ) -> Result<CreateEndpointAnswer, DriverError> {
        let network = NetworkId::new(&call.network_id)?;
        let id = EndpointId::new(&call.endpoint_id)?;
        let _held = self.locks.hold(id.as_str()).await;
        let network = self.network(&network).await?;
        let plan = plan_endpoint(call, id)?;
        if let Some(existing) = self.endpoints.get(&plan.id) {
            return repeated(&existing, &plan, &network, call);
        }
        for ip in &plan.ips {
            self.claim(*ip, &network).await?;
        }
        self.write_endpoint(&plan, &network).await?;
        log::debug!("endpoint {} has {:?}", plan.id.short(), plan.ips);
        Ok(answer(&plan, call))
    }

    /// Makes sure that an address is this endpoint's to take.
    async fn claim(&self, ip: IpAddr, network: &NetworkRecord) -> Result<(), DriverError> {
        if let Some(owner) = self.endpoints.owner_of(ip) {
            return Err(refused(format!(
                "{ip} is already in use by endpoint {} on this node",
                owner.short()
            )));
        }
        self.check_in_network(network, ip).await?;
        if network.ipam == IpamKind::Docker {
            return Ok(());
        }
        let node = self.options.node.as_str();
        match self.ipam.lookup(ip).await? {
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

    async fn write_endpoint(&self, plan: &EndpointPlan, network: &NetworkRecord) -> Result<(), DriverError> {
        let resource = plan::endpoint(plan, network, &self.options.node, new_metadata(""));
        let key = key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, resource.name());
        let value = typed::encode(&key, &resource)?;
        match self.store.commit(Txn::new().create(&key, value.clone())).await {
            Ok(_) => {}
            // Ours from before, though not in the index: its first write was answered with an error and happened.
            Err(StoreError::Conflict { .. }) => {
                self.store.commit(Txn::new().put(&key, value)).await?;
            }
            Err(error) => return Err(error.into()),
        }
        self.endpoints.insert(LocalEndpoint {
            id: plan.id.clone(),
            network: Some(network.id.clone()),
            iface: plan.id.host_iface(),
            ips: plan.ips.clone(),
            mac: plan.mac,
            sandbox: None,
            known_since: Instant::now(),
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
        let _held = self.locks.hold(id.as_str()).await;
        let Some(endpoint) = self.endpoints.get(id) else {
            return self.remove_stray_link(id).await;
        };
        self.detach(&endpoint).await?;
        // Flows of the old owner must not reach the next one, which may get the address right after this.
        if let Err(error) = self.host.flush_conntrack(&endpoint.ips).await {
            log::warn!("connections of {:?} are not flushed: {error}", endpoint.ips);
        }
        let name = endpoint_name(&self.options.node, id);
        self.store
            .commit(Txn::new().remove(key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, &name)))
            .await?;
        self.endpoints.remove(id);
        Ok(())
    }
}

/// What the request makes of the endpoint. Pure.
fn plan_endpoint(call: &CreateEndpoint, id: EndpointId) -> Result<EndpointPlan, DriverError> {
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
    Ok(EndpointPlan { labels: options::endpoint_labels(&call.options)?, id, ips, mac })
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
