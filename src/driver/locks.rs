//! One call at a time for each endpoint and network; calls for different ones run side by side.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Keyed locks. A key costs nothing while nobody holds it.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Guards the map only; the wait for a key happens outside.
    keys: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl Locks {
    /// Waits until the key is free and holds it until the guard is dropped.
    pub(super) async fn hold(&self, key: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.retain(|_, lock| lock.strong_count() > 0);
            match keys.get(key).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(AsyncMutex::new(()));
                    keys.insert(key.to_owned(), Arc::downgrade(&lock));
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
        let held = locks.hold("a").await;
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, locks.hold("b")).await.is_ok());
        assert!(tokio::time::timeout(wait, locks.hold("a")).await.is_err());
        drop(held);
        assert!(tokio::time::timeout(wait, locks.hold("a")).await.is_ok());
    }
}
