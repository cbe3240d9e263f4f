//! What the Go plugin (`projectcalico/libnetwork-plugin`) left in the datastore, taken over: its networks with their
//! profile, its endpoints that live, and their addresses, which it allocated to nobody by name.
//!
//! Docker keeps the Go plugin's pool IDs for the life of its networks, so they are read as long as there are such networks.
//!
//! Only what an endpoint of this node has is touched. An address without handle and without endpoint may be of another
//! node or an `--aux-address`, which nothing tells, so it is the administrator's to release.

use super::Drivers;
use super::error::{DriverError, refused};
use super::index::{LocalEndpoint, Sandbox};
use super::locks::Key;
use super::pool_id::PoolId;
use super::record::{IpamKind, NetworkRecord};
use crate::model::{
    IpPoolSpec, NETWORK_ANNOTATION, NetworkId, ORCHESTRATOR, ProfileSpec, Resource, WorkloadEndpointSpec,
    endpoint_name, is_resource_name, key,
};
use crate::store::{Store, Txn, retry, typed};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Annotation of a pool: the network that the Go plugin made of it (`driver/network_driver.go`).
const POOL_ANNOTATION: &str = "org.projectcalico.label.network.ID";

/// From where a network comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The engine creates it.
    Created,
    /// The engine has it, and this plugin did not know it.
    Found,
}

/// Whether a pool ID may be the name of a pool, which is what the Go plugin answered for `--subnet`
/// (`driver/ipam_driver.go`).
pub(super) fn is_pool_name(id: &str) -> bool {
    PoolId::parse(id).is_err() && is_resource_name(id)
}

/// Where an endpoint of the Go plugin's is joined: it knew one next hop, and did not tell the sandbox.
pub(super) fn sandbox_of(endpoint: &LocalEndpoint) -> Sandbox {
    Sandbox { key: format!("go-plugin/{}", endpoint.id.short()), hop: 1 }
}

impl Drivers {
    /// What a pool ID of ours or of the Go plugin's says.
    pub(super) async fn pool_id(&self, id: &str) -> Result<PoolId, DriverError> {
        if !is_pool_name(id) {
            return PoolId::parse(id);
        }
        let pools = self.ipam.pools().await?;
        let pool = pools.iter().find(|pool| pool.name() == id);
        let subnet = pool.map(|pool| pool.spec.cidr).ok_or_else(|| {
            refused(format!(
                "there is no pool {id} any more, from which this network has its addresses: create it again"
            ))
        })?;
        Ok(PoolId::Subnet { subnet, range: None })
    }

    /// The labels by which endpoints of the Go plugin's networks know each other: reserved for them.
    pub(super) async fn go_labels(&self) -> Result<BTreeSet<String>, DriverError> {
        Ok(self.networks().await?.into_iter().filter_map(|network| network.go_label).collect())
    }

    /// Gives a network that the Go plugin made the profile that it had, which is named after its pool, and the profile
    /// the label that it asks for. Every other network stays as it is. A network that the engine has and this plugin did not
    /// know may be one that the pool names no more.
    pub(super) async fn take_over_network(
        &self,
        record: &mut NetworkRecord,
        origin: Origin,
    ) -> Result<(), DriverError> {
        if !record.own_profile || record.ipam != IpamKind::Calico {
            return Ok(());
        }
        let pools = self.ipam.pools().await?;
        let of_network = |pool: &&Resource<IpPoolSpec>| {
            pool.metadata.annotation(POOL_ANNOTATION) == Some(record.id.as_str())
        };
        let mut its: Vec<_> = pools.iter().filter(of_network).collect();
        if its.is_empty() && origin == Origin::Found && !self.has_profile(record).await? {
            // The annotation holds one name: each network that the Go plugin made on a pool overwrote the one before. All of
            // them had the pool's profile, and their containers have it still.
            let of_pool = |pool: &&Resource<IpPoolSpec>| {
                pool.metadata.annotation(POOL_ANNOTATION).is_some()
                    && record.pools.iter().any(|prefix| prefix.subnet == pool.spec.cidr)
            };
            its = pools.iter().filter(of_pool).collect();
        }
        for pool in its {
            let name = pool.name().to_owned();
            // Of a network with two pools, the profile has the name of one.
            if label_profile(&*self.store, &name, self.options.create_profiles).await? {
                log::info!("network {} is the Go plugin's, and keeps its profile {name}", record.id.short());
                record.profile.clone_from(&name);
                record.own_profile = false;
                record.go_label = Some(name);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a network has the profile that this plugin makes for one; true where it makes none, and nothing tells.
    async fn has_profile(&self, record: &NetworkRecord) -> Result<bool, DriverError> {
        let key = key::resource::<ProfileSpec>(&record.profile);
        Ok(!self.options.create_profiles || self.store.get(&key).await?.is_some())
    }

    /// Takes over an endpoint of this node that the Go plugin made and whose container runs; false if its interface is
    /// not there. What was done is done again without harm if it ends half-way.
    pub(super) async fn take_over_endpoint(
        &self,
        endpoint: LocalEndpoint,
        network: &NetworkId,
    ) -> Result<bool, DriverError> {
        let is_its = |link: &crate::net::Link| link.name == endpoint.iface.as_str();
        if endpoint.network.is_some() || !self.host.links().await?.iter().any(is_its) {
            return Ok(false);
        }
        {
            let _held = self.locks.hold(Key::Endpoint(endpoint.id.clone())).await;
            for ip in &endpoint.ips {
                self.take_over_address(*ip).await?;
            }
            self.note_network(&endpoint, network).await?;
            let sandbox = endpoint.sandbox.clone().unwrap_or_else(|| sandbox_of(&endpoint));
            self.endpoints.insert(LocalEndpoint {
                network: Some(network.clone()),
                sandbox: Some(sandbox),
                ..endpoint.clone()
            });
        }
        self.repair(&endpoint.iface).await;
        Ok(true)
    }

    /// Puts an address that is held under no handle under one of this node's; one that is not held is allocated again.
    async fn take_over_address(&self, ip: IpAddr) -> Result<(), DriverError> {
        let _held = self.locks.hold(Key::Address(ip)).await;
        match self.ipam.lookup(ip).await? {
            Some(allocation) if allocation.handle.is_none() => {
                self.ipam.rehome(ip, None, &self.new_owner(None)?).await?;
            }
            Some(_) => {}
            None => self.ipam.assign(ip, None, &self.new_owner(None)?).await?,
        }
        Ok(())
    }

    async fn note_network(&self, endpoint: &LocalEndpoint, network: &NetworkId) -> Result<(), DriverError> {
        let name = endpoint_name(&self.options.node, &endpoint.id);
        let key = key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, &name);
        retry::on_conflict(|| async {
            let stored = typed::get::<Resource<WorkloadEndpointSpec>>(&*self.store, &key).await?;
            let Some(mut stored) = stored else { return Ok(()) };
            stored.value.metadata.annotate(NETWORK_ANNOTATION, network.as_str());
            let value = typed::encode(&key, &stored.value)?;
            self.store.commit(Txn::new().update(&key, stored.revision, value)).await?;
            Ok(())
        })
        .await
    }
}

/// Adds to a profile the label that its rules ask for and that the Go plugin forgot; the rules stay. False if there is no
/// such profile, or its rules do not ask for the label of its name.
async fn label_profile(store: &dyn Store, name: &str, may_write: bool) -> Result<bool, DriverError> {
    let key = key::resource::<ProfileSpec>(name);
    let asked = format!("has({name})");
    retry::on_conflict(|| async {
        let Some(mut stored) = typed::get::<Resource<ProfileSpec>>(store, &key).await? else {
            return Ok(false);
        };
        let mut rules = stored.value.spec.ingress.iter().flatten();
        let asks = rules.any(|rule| {
            let selector = rule.source.as_ref().and_then(|source| source.selector.as_deref());
            selector.is_some_and(|selector| selector.replace(' ', "") == asked)
        });
        let labels = stored.value.spec.labels_to_apply.get_or_insert_default();
        if !asks || labels.contains_key(name) || !may_write {
            return Ok(asks);
        }
        labels.insert(name.to_owned(), String::new());
        let value = typed::encode(&key, &stored.value)?;
        store.commit(Txn::new().update(&key, stored.revision, value)).await?;
        Ok(true)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntityRule, ObjectMeta, Rule};
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn the_go_plugins_profile_gets_its_label_and_keeps_its_rules() {
        let store = MemoryStore::new();
        let key = key::resource::<ProfileSpec>("old-pool");
        let source = EntityRule { selector: Some("has(old-pool)".to_owned()), ..EntityRule::default() };
        let allow = Rule { action: "Allow".to_owned(), ..Rule::default() };
        let ingress =
            vec![Rule { source: Some(source), ..allow.clone() }, Rule { action: "Log".to_owned(), ..allow }];
        let spec = ProfileSpec { ingress: Some(ingress.clone()), ..ProfileSpec::default() };
        let profile =
            Resource::new(ObjectMeta { name: "old-pool".to_owned(), ..ObjectMeta::default() }, spec);
        assert!(!label_profile(&store, "old-pool", true).await.unwrap());
        store.commit(Txn::new().create(&key, typed::encode(&key, &profile).unwrap())).await.unwrap();
        for _ in 0..2 {
            assert!(label_profile(&store, "old-pool", true).await.unwrap());
        }
        let stored = typed::get::<Resource<ProfileSpec>>(&store, &key).await.unwrap().unwrap().value;
        assert_eq!(stored.spec.ingress, Some(ingress));
        assert!(stored.spec.labels_to_apply.unwrap().contains_key("old-pool"));
    }
}
