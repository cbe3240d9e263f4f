//! One call at a time for each network, endpoint, sandbox and address; calls for different ones run side by side.
//!
//! Who holds several takes them in the order of [`Key`], so that no two wait for each other.

use crate::model::{EndpointId, NetworkId};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// What is locked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A network with everything made for it.
    Network(NetworkId),
    /// An endpoint in index, kernel and datastore.
    Endpoint(EndpointId),
    /// A container's namespace, by its name: who is in it, and what its endpoints know of each other.
    Sandbox(String),
    /// Who has an address: held while that is looked up and changed.
    Address(IpAddr),
    /// Which pools there are: held from finding out who uses a pool to making or deleting it.
    Pools,
}

/// Keyed locks. A key costs nothing while nobody holds it.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Guards the map only; the wait for a key happens outside.
    keys: Mutex<HashMap<Key, Weak<AsyncMutex<()>>>>,
}

impl Locks {
    /// Waits until the key is free and holds it until the guard is dropped.
    pub(super) async fn hold(&self, key: Key) -> OwnedMutexGuard<()> {
        let lock = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.retain(|_, lock| lock.strong_count() > 0);
            match keys.get(&key).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(AsyncMutex::new(()));
                    keys.insert(key, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn one_key_excludes_itself_and_nothing_else() {
        let locks = Locks::default();
        let (network, endpoint) =
            (Key::Network(NetworkId::new("a").unwrap()), Key::Endpoint(EndpointId::new("a").unwrap()));
        let held = locks.hold(network.clone()).await;
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, locks.hold(endpoint)).await.is_ok());
        assert!(tokio::time::timeout(wait, locks.hold(network.clone())).await.is_err());
        drop(held);
        assert!(tokio::time::timeout(wait, locks.hold(network)).await.is_ok());
    }
}
