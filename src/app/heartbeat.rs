//! Felix's heartbeat in the datastore, where an operator has switched it on (`reportingInterval`; calico/node switches it
//! off). Felix writes it under a new lease every time, by default every 30 s for 90 s (`felix/daemon/daemon.go`).

use super::standing::Life;
use crate::model::{NodeName, key};
use crate::store::{SharedStore, StoreError};

/// The watcher of one node's heartbeat.
pub(super) struct Heartbeat {
    store: SharedStore,
    node: NodeName,
    /// The key where it was found: there are as many as regions, and a Felix keeps to its own.
    found: Option<String>,
}

impl Heartbeat {
    pub(super) fn new(store: SharedStore, node: NodeName) -> Self {
        Self { store, node, found: None }
    }

    /// Whether there is one. That there is none proves nothing, unless there was one before; and then a datastore that
    /// does not answer hides it, because Felix reaches it no better.
    pub(super) async fn look(&mut self) -> Life {
        match self.find().await {
            Ok(Some(key)) => {
                self.found = Some(key);
                Life::Shown("its status in the datastore is fresh".to_owned())
            }
            Ok(None) => Life::Silent,
            Err(error) if self.found.is_some() => {
                log::debug!("whether Felix has a heartbeat is not known: {error}");
                Life::Hidden
            }
            Err(_) => Life::Silent,
        }
    }

    async fn find(&self) -> Result<Option<String>, StoreError> {
        let usual = self.found.clone().unwrap_or_else(|| key::felix_status(&self.node));
        if self.store.get(&usual).await?.is_some() {
            return Ok(Some(usual));
        }
        // Empty, unless this is a cluster of OpenStack's.
        let regions = self.store.list(key::FELIX_REGIONS).await?.entries;
        let mut keys = regions.into_iter().map(|entry| entry.key);
        Ok(keys.find(|key| key::parse_felix_status(key) == Some(self.node.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Fault, Verb};
    use crate::store::{FaultyStore, MemoryStore, Store, Txn};
    use std::sync::Arc;

    const REGION: &str = "/calico/felix/v2/region-Europe/host/docker-1/status";

    fn heartbeat() -> (Arc<FaultyStore<MemoryStore>>, Heartbeat) {
        let store = Arc::new(FaultyStore::new(MemoryStore::new()));
        let heartbeat = Heartbeat::new(store.clone(), NodeName::new("docker-1").unwrap());
        (store, heartbeat)
    }

    async fn put(store: &dyn Store, key: &str) {
        store.commit(Txn::new().put(key, r#"{"time":"2026-08-22T06:33:20Z"}"#)).await.unwrap();
    }

    #[tokio::test]
    async fn a_heartbeat_is_found_in_every_region_and_only_the_nodes_own() {
        for key in ["/calico/felix/v2/no-region/host/docker-1/status", REGION] {
            let (store, mut heartbeat) = heartbeat();
            for other in [
                key.replace("docker-1", "docker-11"),
                key.replace("/status", "/last_reported_status"),
                key.replace("/status", "/workload/x/y/endpoint/status"),
            ] {
                put(&*store, &other).await;
            }
            assert_eq!(heartbeat.look().await, Life::Silent);
            put(&*store, key).await;
            assert!(matches!(heartbeat.look().await, Life::Shown(_)), "{key}");
            store.commit(Txn::new().remove(key)).await.unwrap();
            assert_eq!(heartbeat.look().await, Life::Silent, "its lease is over");
        }
    }

    #[tokio::test]
    async fn a_datastore_that_is_away_hides_a_heartbeat_that_was_there() {
        let (store, mut heartbeat) = heartbeat();
        store.fail(Verb::Get, 1, Fault::Unavailable);
        assert_eq!(heartbeat.look().await, Life::Silent, "there never was one");
        put(&*store, REGION).await;
        assert!(matches!(heartbeat.look().await, Life::Shown(_)));
        store.commit(Txn::new().remove(REGION)).await.unwrap();
        store.fail(Verb::Get, 1, Fault::Unavailable);
        assert_eq!(heartbeat.look().await, Life::Hidden);
        assert_eq!(heartbeat.look().await, Life::Silent);
    }
}
