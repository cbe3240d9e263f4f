//! How full pools are, for who asks again and again. Counting reads every block of the cluster, of which memory holds only
//! some tens of megabytes: what took long is not done again soon, however often it is asked for.

use super::{Ipam, PoolUsage};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A count that took less is made anew each time: whoever reads figures once in ten seconds costs no more than a
/// fiftieth of a processor by it.
const CHEAP: Duration = Duration::from_millis(200);
/// One that took longer serves for so many times as long.
const SHARE: u32 = 100;

/// Counts the addresses of the pools of a cluster. Clones share what was counted.
#[derive(Debug, Clone)]
pub struct Census {
    ipam: Ipam,
    /// Held while it is counted, so that it is counted once for all who ask meanwhile.
    last: Arc<Mutex<Last>>,
}

#[derive(Debug)]
struct Last {
    /// What was counted; nothing, if it could not be.
    pools: Option<Arc<Vec<PoolUsage>>>,
    /// How long it serves.
    until: Instant,
}

impl Census {
    /// Nothing is counted before somebody asks.
    #[must_use]
    pub fn new(ipam: Ipam) -> Self {
        let last = Last { pools: None, until: Instant::now() };
        Self { ipam, last: Arc::new(Mutex::new(last)) }
    }

    /// The addresses of every pool, as [`Ipam::pool_usage`] counts them, now or the last time; `None` if the datastore does
    /// not tell. A count goes on when its caller gives up, and serves the next one.
    pub async fn pools(&self) -> Option<Arc<Vec<PoolUsage>>> {
        let this = self.clone();
        tokio::spawn(async move { this.count().await }).await.ok().flatten()
    }

    async fn count(&self) -> Option<Arc<Vec<PoolUsage>>> {
        let mut last = self.last.lock().await;
        let started = Instant::now();
        if started < last.until {
            return last.pools.clone();
        }
        let counted = self.ipam.pool_usage().await;
        let ended = Instant::now();
        last.pools =
            counted.inspect_err(|error| log::debug!("addresses are not counted: {error}")).ok().map(Arc::new);
        last.until = ended + pause(ended - started);
        last.pools.clone()
    }
}

fn pause(cost: Duration) -> Duration {
    if cost < CHEAP { Duration::ZERO } else { cost.saturating_mul(SHARE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeName;
    use crate::store::MemoryStore;

    #[test]
    fn counting_takes_a_hundredth_of_the_time_at_most_unless_it_is_cheap() {
        assert_eq!(pause(Duration::from_millis(199)), Duration::ZERO);
        assert_eq!(pause(Duration::from_secs(2)), Duration::from_secs(200));
    }

    #[tokio::test]
    async fn what_took_long_serves_again_and_what_was_cheap_does_not() {
        let ipam = Ipam::new(Arc::new(MemoryStore::new()), NodeName::new("docker-1").unwrap());
        let census = Census::new(ipam);
        let first = census.pools().await.unwrap();
        let second = census.pools().await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        census.last.lock().await.until = Instant::now() + Duration::from_secs(60);
        assert!(Arc::ptr_eq(&second, &census.pools().await.unwrap()));
    }
}
