//! Compare-and-swap loops: bounded, with a jittered pause, so that racing nodes neither starve nor spin.

use super::StoreError;
use std::future::Future;
use std::time::Duration;

/// How often one change is tried before its conflict is reported, as Calico's `datastoreRetries`.
pub const ATTEMPTS: u32 = 100;

/// Runs `attempt` until it ends with anything but a conflict, with a [`pause`] before each new attempt.
pub async fn on_conflict<T, E, F, Fut>(mut attempt: F) -> Result<T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: Conflicting,
{
    for tried in 1..ATTEMPTS {
        match attempt().await {
            Err(error) if error.is_conflict() => pause(tried).await,
            done => return done,
        }
    }
    attempt().await
}

/// Lets the others go first after `tried` lost races. The pause grows to 10 ms and carries jitter from a fresh UUID.
pub async fn pause(tried: u32) {
    let random = u64::from(uuid::Uuid::new_v4().as_fields().0);
    let ceiling = u64::from(tried).saturating_mul(500).clamp(1, 10_000);
    tokio::time::sleep(Duration::from_micros(random % ceiling)).await;
}

/// An error that may be a lost race.
pub trait Conflicting {
    /// Whether reading again and trying again makes sense.
    fn is_conflict(&self) -> bool;
}

impl Conflicting for StoreError {
    fn is_conflict(&self) -> bool {
        StoreError::is_conflict(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn conflict() -> StoreError {
        StoreError::Conflict { key: "k".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_race_is_tried_again() {
        let tries = Cell::new(0);
        let result = on_conflict(|| async {
            tries.set(tries.get() + 1);
            if tries.get() < 5 { Err(conflict()) } else { Ok(tries.get()) }
        });
        assert_eq!(result.await.unwrap(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_race_is_reported() {
        let tries = Cell::new(0);
        let result: Result<(), StoreError> = on_conflict(|| async {
            tries.set(tries.get() + 1);
            Err(conflict())
        })
        .await;
        assert!(result.unwrap_err().is_conflict());
        assert_eq!(tries.get(), ATTEMPTS);
    }
}
