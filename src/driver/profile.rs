//! Profiles of networks in the datastore.

use super::error::DriverError;
use super::plan;
use crate::model::{NodeName, ObjectMeta, ProfileSpec, Resource, WorkloadEndpointSpec, key};
use crate::store::{Store, Txn, retry, typed};
use std::collections::BTreeSet;

/// Annotation of a network's own profile: the nodes that have the network. A swarm network has one ID, and so one
/// profile, on all of its nodes; the last one takes it away.
const NODES_ANNOTATION: &str = "org.projectcalico.docker.nodes";

fn nodes(metadata: &ObjectMeta) -> BTreeSet<String> {
    let text = metadata.annotation(NODES_ANNOTATION).unwrap_or_default();
    text.split(',').filter(|node| !node.is_empty()).map(str::to_owned).collect()
}

fn set_nodes(metadata: &mut ObjectMeta, nodes: BTreeSet<String>) {
    metadata.annotate(NODES_ANNOTATION, nodes.into_iter().collect::<Vec<_>>().join(","));
}

/// Makes sure that a profile exists, and that it names `node` among those that need it, where it is a network's own.
/// The rules of one that exists are left as they are: the operator may have changed them.
pub(super) async fn ensure(
    store: &dyn Store,
    name: &str,
    node: Option<&NodeName>,
) -> Result<(), DriverError> {
    retry::on_conflict(|| ensure_once(store, name, node)).await
}

async fn ensure_once(store: &dyn Store, name: &str, node: Option<&NodeName>) -> Result<(), DriverError> {
    let key = key::resource::<ProfileSpec>(name);
    let stored = typed::get::<Resource<ProfileSpec>>(store, &key).await?;
    let revision = stored.as_ref().map(|stored| stored.revision);
    let mut profile =
        stored.map_or_else(|| plan::profile(name, super::new_metadata(name)), |stored| stored.value);
    let mut nodes = nodes(&profile.metadata);
    let added = node.is_some_and(|node| nodes.insert(node.to_string()));
    if revision.is_some() && !added {
        return Ok(());
    }
    if added {
        set_nodes(&mut profile.metadata, nodes);
    }
    let value = typed::encode(&key, &profile)?;
    store.commit(Txn::new().upsert(&key, revision, value)).await?;
    Ok(())
}

/// Takes `node` off a network's own profile, and deletes the profile if no node and no endpoint needs it any more.
pub(super) async fn release(store: &dyn Store, name: &str, node: &NodeName) -> Result<(), DriverError> {
    retry::on_conflict(|| release_once(store, name, node)).await
}

async fn release_once(store: &dyn Store, name: &str, node: &NodeName) -> Result<(), DriverError> {
    let key = key::resource::<ProfileSpec>(name);
    let Some(mut stored) = typed::get::<Resource<ProfileSpec>>(store, &key).await? else { return Ok(()) };
    let mut nodes = nodes(&stored.value.metadata);
    let removed = nodes.remove(node.as_str());
    if nodes.is_empty() && !is_used(store, name).await? {
        store.commit(Txn::new().delete(&key, stored.revision)).await?;
    } else if removed {
        set_nodes(&mut stored.value.metadata, nodes);
        let value = typed::encode(&key, &stored.value)?;
        store.commit(Txn::new().update(&key, stored.revision, value)).await?;
    }
    Ok(())
}

/// Takes a node that is gone for good off the profiles of all networks; those that nobody needs go.
///
/// # Errors
/// The datastore fails; what was done stays done.
pub async fn release_node(store: &dyn Store, node: &NodeName) -> Result<(), DriverError> {
    for profile in typed::list::<Resource<ProfileSpec>>(store, &key::resources::<ProfileSpec>()).await? {
        if nodes(&profile.value.metadata).contains(node.as_str()) {
            release(store, profile.value.name(), node).await?;
        }
    }
    Ok(())
}

async fn is_used(store: &dyn Store, name: &str) -> Result<bool, DriverError> {
    let prefix = key::resources::<WorkloadEndpointSpec>();
    let endpoints = typed::list::<Resource<WorkloadEndpointSpec>>(store, &prefix).await?;
    Ok(endpoints.iter().any(|endpoint| endpoint.value.spec.profiles.iter().any(|used| used == name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn the_last_node_of_a_network_takes_its_profile_away() {
        let store = MemoryStore::new();
        let [a, b] = ["docker-1", "docker-2"].map(|name| NodeName::new(name).unwrap());
        for node in [&a, &b, &a] {
            ensure(&store, "network-x", Some(node)).await.unwrap();
        }
        let key = key::resource::<ProfileSpec>("network-x");
        release(&store, "network-x", &a).await.unwrap();
        let left = typed::get::<Resource<ProfileSpec>>(&store, &key).await.unwrap().unwrap();
        assert_eq!(left.value.metadata.annotation(NODES_ANNOTATION), Some("docker-2"));
        release(&store, "network-x", &a).await.unwrap();
        assert!(store.get(&key).await.unwrap().is_some());
        release(&store, "network-x", &b).await.unwrap();
        assert!(store.get(&key).await.unwrap().is_none());
        release(&store, "network-x", &b).await.unwrap();
    }

    #[tokio::test]
    async fn a_profile_that_an_operator_changed_keeps_its_rules() {
        let store = MemoryStore::new();
        let node = NodeName::new("docker-1").unwrap();
        let key = key::resource::<ProfileSpec>("web");
        let mut own = plan::profile("web", ObjectMeta { name: "web".to_owned(), ..ObjectMeta::default() });
        own.spec.egress = None;
        store.commit(Txn::new().create(&key, typed::encode(&key, &own).unwrap())).await.unwrap();
        ensure(&store, "web", Some(&node)).await.unwrap();
        let stored = typed::get::<Resource<ProfileSpec>>(&store, &key).await.unwrap().unwrap();
        assert_eq!(stored.value.spec, own.spec);
        ensure(&store, "web", None).await.unwrap();
        let again = typed::get::<Resource<ProfileSpec>>(&store, &key).await.unwrap().unwrap();
        assert_eq!(again.revision, stored.revision, "nothing was to be written");
    }
}
