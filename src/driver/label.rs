//! Labels of containers, as Docker tells of them after the endpoint was made: written into its WorkloadEndpoint.

use super::error::DriverError;
use super::merge::{ContainerFacts, labels_of, merge};
use super::{Drivers, plan};
use crate::model::{
    EndpointId, ORCHESTRATOR, Resource, WorkloadEndpointSpec, endpoint_name, endpoint_name_prefix, key,
};
use crate::store::{Txn, retry, typed};
use std::collections::BTreeMap;

impl Drivers {
    /// Writes what Docker knows of a container into the WorkloadEndpoint of one of its endpoints, if something of it is
    /// not there; an endpoint that is not ours is none of ours. Answers a sentence for each label that cannot be one.
    pub async fn label_endpoint(
        &self,
        id: &EndpointId,
        container: &ContainerFacts,
    ) -> Result<Vec<String>, DriverError> {
        if self.endpoints.get(id).is_none() {
            return Ok(Vec::new());
        }
        let (labels, problems) = labels_of(container, &self.go_labels().await?);
        let name = endpoint_name(&self.options.node, id);
        let key = key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, &name);
        retry::on_conflict(|| async {
            // It is not there when its container died meanwhile.
            let stored = typed::get::<Resource<WorkloadEndpointSpec>>(&*self.store, &key).await?;
            let Some(stored) = stored else { return Ok::<_, DriverError>(()) };
            let Some(merged) = merge(&stored.value, container, &labels) else { return Ok(()) };
            let value = typed::encode(&key, &merged)?;
            self.store.commit(Txn::new().update(&key, stored.revision, value)).await?;
            log::debug!("endpoint {} has the labels of container {}", id.short(), container.name);
            Ok(())
        })
        .await?;
        Ok(problems)
    }

    /// The endpoints among these whose WorkloadEndpoint lacks something of what Docker knows of their container; one
    /// range read for all of them.
    pub async fn unlabelled_endpoints(
        &self,
        containers: &BTreeMap<EndpointId, ContainerFacts>,
    ) -> Result<Vec<EndpointId>, DriverError> {
        let prefix =
            key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, &endpoint_name_prefix(&self.options.node));
        let stored = typed::list::<Resource<WorkloadEndpointSpec>>(&*self.store, &prefix).await?;
        let reserved = self.go_labels().await?;
        let lacks = |resource: &Resource<WorkloadEndpointSpec>| {
            let (id, ..) = plan::read_endpoint(&self.options.node, resource)?;
            let container = containers.get(&id)?;
            merge(resource, container, &labels_of(container, &reserved).0).map(|_| id)
        };
        Ok(stored.iter().filter_map(|stored| lacks(&stored.value)).collect())
    }
}
