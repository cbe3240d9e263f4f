//! When the worker has to look at the kernel again, unasked.

use std::time::Duration;
use tokio::time::Instant;

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One recurring job.
#[derive(Debug)]
pub(super) struct Schedule {
    /// When it is next due.
    pub(super) due: Instant,
    every: Duration,
    failures: u32,
}

impl Schedule {
    pub(super) fn new(now: Instant, every: Duration) -> Self {
        Self { due: now + every, every, failures: 0 }
    }

    /// At the latest after this time.
    pub(super) fn soon(&mut self, now: Instant, within: Duration) {
        self.due = self.due.min(now + within);
    }

    /// It was done: the next is a whole interval away, or, if it failed, a pause that grows.
    pub(super) fn done(&mut self, now: Instant, ok: bool) {
        self.failures = if ok { 0 } else { self.failures.saturating_add(1) };
        self.due = now
            + match self.failures.checked_sub(1) {
                None => self.every,
                Some(earlier) => {
                    FIRST_PAUSE.saturating_mul(1 << earlier.min(16)).min(LONGEST_PAUSE).min(self.every)
                }
            };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_retried_with_growing_pauses_and_success_ends_them() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, Duration::from_secs(180));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            schedule.done(now, false);
            pauses.push((schedule.due - now).as_millis());
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], 30_000);
        schedule.done(now, true);
        assert_eq!(schedule.due, now + Duration::from_secs(180));
        schedule.soon(now, Duration::from_secs(1));
        schedule.soon(now, Duration::from_secs(2));
        assert_eq!(schedule.due, now + Duration::from_secs(1));
    }
}
