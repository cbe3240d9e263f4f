//! Profiles of networks in the datastore.

use super::error::DriverError;
use super::plan;
use crate::model::{ProfileSpec, Resource, WorkloadEndpointSpec, key};
use crate::store::{Store, StoreError, Txn, typed};

/// Makes sure that a profile exists. One that exists is left as it is: the operator may have changed its rules.
pub(super) async fn ensure(store: &dyn Store, name: &str) -> Result<(), DriverError> {
    let key = key::resource::<ProfileSpec>(name);
    if store.get(&key).await?.is_some() {
        return Ok(());
    }
    let profile = plan::profile(name, super::new_metadata(name));
    let value = typed::encode(&key, &profile)?;
    match store.commit(Txn::new().create(&key, value)).await {
        // Another node or request was faster; its profile is the same.
        Err(StoreError::Conflict { .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Deletes a profile that no endpoint uses any more.
pub(super) async fn remove_unused(store: &dyn Store, name: &str) -> Result<(), DriverError> {
    let prefix = key::resources::<WorkloadEndpointSpec>();
    let endpoints = typed::list::<Resource<WorkloadEndpointSpec>>(store, &prefix).await?;
    let used = endpoints.iter().any(|endpoint| endpoint.value.spec.profiles.iter().any(|p| p == name));
    let key = key::resource::<ProfileSpec>(name);
    let Some(stored) = store.get(&key).await?.filter(|_| !used) else { return Ok(()) };
    match store.commit(Txn::new().delete(&key, stored.revision)).await {
        // Someone has just changed it: then it is wanted.
        Err(StoreError::Conflict { .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
