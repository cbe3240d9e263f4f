//! Answers to ReleaseAddress do not leave all at once.
//!
//! After the last ReleaseAddress of an endpoint the engine lowers the network's endpoint count in its own database. It
//! reads, lowers and writes without one lock around all three (libnetwork's `endpoint_cnt.go`, `atomicIncDecEpCnt`,
//! gone since engine 28.1), so of endpoints that end at the same moment some stay counted, and `docker network rm`
//! says "has active endpoints" of a network without any until dockerd is started again. It happens with a remote
//! driver that only answers, too; answers that leave together, as those of one transaction do, make it likely. Spacing
//! makes it rarer, and cannot rule it out: nothing tells the driver when the engine has written.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How far apart answers leave, to give the engine time for its write; a busy host may need more, a stop should not
/// feel it.
const APART: Duration = Duration::from_millis(10);
/// Nobody waits longer, however many end at once.
const LONGEST: Duration = Duration::from_secs(2);

/// Gives each caller a moment of its own.
#[derive(Debug, Default)]
pub(super) struct Spacing {
    /// The first moment that nobody was given yet.
    free_from: Mutex<Option<Instant>>,
}

impl Spacing {
    /// Returns at once if no other turn was given within [`APART`], else when this caller's comes.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let mine = {
            let mut free_from = self.free_from.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = free_from.map_or(now, |free| free.clamp(now, now + LONGEST));
            *free_from = Some(mine + APART);
            mine
        };
        tokio::time::sleep_until(mine).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_alone_does_not_wait_and_many_leave_one_by_one() {
        let spacing = Spacing::default();
        let begun = Instant::now();
        spacing.turn().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);

        let turns = (0..10).map(|_| async {
            spacing.turn().await;
            begun.elapsed().as_millis()
        });
        let mut left = futures::future::join_all(turns).await;
        left.sort_unstable();
        assert!(left.windows(2).all(|pair| pair[1] - pair[0] >= APART.as_millis()), "{left:?}");

        let before_crowd = Instant::now();
        futures::future::join_all((0..1000).map(|_| spacing.turn())).await;
        assert!(before_crowd.elapsed() <= LONGEST + APART, "{:?}", before_crowd.elapsed());

        tokio::time::sleep(Duration::from_secs(1)).await;
        let later = Instant::now();
        spacing.turn().await;
        assert_eq!(later.elapsed(), Duration::ZERO);
    }
}
