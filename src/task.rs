//! Tasks that belong to somebody: [`Task`] ends with its owner, [`Supervisor`] notices who ends on its own,
//! [`Backoff`] spaces out attempts.

use futures::FutureExt;
use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// A running task that is stopped when its owner drops it.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    /// Starts `future`.
    pub fn spawn(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the end, and can be waited for again if this future is dropped. `None` if the task panicked or was
    /// stopped. Not to be called once it has given an answer.
    pub async fn ended(&mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }

    /// Waits for the end. `None` if the task panicked or was stopped.
    pub async fn join(mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Pauses between attempts: each up to twice as long as the one before, up to a cap, with jitter so that nodes that
/// failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Pauses from `first` to `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        let first = first.min(cap);
        Self { first, cap, ceiling: first }
    }

    /// The next pause: `random` picks it between half the ceiling and the ceiling, which then doubles.
    pub fn next(&mut self, random: u32) -> Duration {
        let half = self.ceiling / 2;
        let pause = half + half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.ceiling = self.cap.min(self.ceiling.saturating_mul(2));
        pause
    }

    /// Waits for the next pause, with jitter from a fresh UUID.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next(uuid::Uuid::new_v4().as_fields().0)).await;
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

/// How a task ended that should have gone on.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It gave up.
    #[error("task {name} ended")]
    Failed {
        /// The task.
        name: &'static str,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It returned as if there were nothing more to do.
    #[error("task {0} ended by itself")]
    Ended(&'static str),
    /// A bug.
    #[error("task {name} panicked: {text}")]
    Panicked {
        /// The task.
        name: &'static str,
        /// What the panic said.
        text: String,
    },
    /// It did not end when it was told to.
    #[error("tasks {0} did not stop in time")]
    Stuck(String),
}

/// Runs the daemon's long-lived tasks. None of them may end before the shutdown; the first that does cancels it, so
/// that all others end too.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: CancellationToken,
    tasks: JoinSet<(&'static str, Option<TaskError>)>,
    running: Vec<&'static str>,
}

impl Supervisor {
    /// A supervisor without tasks. Tasks end when `shutdown` is cancelled; they hold clones of it.
    #[must_use]
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, tasks: JoinSet::new(), running: Vec::new() }
    }

    /// Starts a task. It must run until the shutdown is cancelled, and end soon after.
    pub fn spawn<F, E>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let shutdown = self.shutdown.clone();
        self.running.push(name);
        self.tasks.spawn(async move {
            let end = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) if shutdown.is_cancelled() => None,
                Ok(Ok(())) => Some(TaskError::Ended(name)),
                Ok(Err(error)) => Some(TaskError::Failed { name, source: error.into() }),
                Err(panic) => Some(TaskError::Panicked { name, text: panic_text(panic.as_ref()) }),
            };
            (name, end)
        });
    }

    /// Waits until a task fails, cancels the shutdown and tells how it failed. Waits for ever if all is well, also
    /// after an orderly end; cancel-safe.
    pub async fn failed(&mut self) -> TaskError {
        loop {
            match self.next_end().await {
                Some(Some(error)) => {
                    self.shutdown.cancel();
                    return error;
                }
                Some(None) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Cancels the shutdown and waits for all tasks, for at most `grace`; then stops those that are left.
    ///
    /// # Errors
    /// The first failure; others are logged.
    pub async fn stop(mut self, grace: Duration) -> Result<(), TaskError> {
        self.shutdown.cancel();
        let mut first = Ok(());
        let mut report = |error: TaskError| match first {
            Ok(()) => first = Err(error),
            Err(_) => log::error!(err:% = error; "stop"),
        };
        let drained = tokio::time::timeout(grace, async {
            while let Some(end) = self.next_end().await {
                end.into_iter().for_each(&mut report);
            }
        });
        if drained.await.is_err() {
            report(TaskError::Stuck(self.running.join(", ")));
            self.tasks.shutdown().await;
        }
        first
    }

    /// The end of the next task; `None` if there is none left.
    async fn next_end(&mut self) -> Option<Option<TaskError>> {
        let (name, end) = self.tasks.join_next().await?.ok()?;
        if let Some(at) = self.running.iter().position(|running| *running == name) {
            self.running.swap_remove(at);
        }
        Some(end)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_dropped_task_is_stopped() {
        let (sender, receiver) = oneshot::channel::<()>();
        let task = Task::spawn(async move {
            let _held = sender;
            std::future::pending::<()>().await;
        });
        drop(task);
        assert!(receiver.await.is_err());
    }

    #[tokio::test]
    async fn a_joined_task_gives_its_value_and_a_panicked_one_none() {
        assert_eq!(Task::spawn(async { 7 }).join().await, Some(7));
        assert_eq!(Task::<()>::spawn(async { panic!("on purpose") }).join().await, None);
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_start_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let pauses: Vec<_> = (0..4).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 350, 350]);
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(50));
        assert_eq!(backoff.next(0), Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_by_itself_cancels_all_and_is_reported() {
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        let token = shutdown.clone();
        supervisor.spawn("good", async move {
            token.cancelled().await;
            Ok::<_, Infallible>(())
        });
        supervisor.spawn("feed", async { Ok::<_, Infallible>(()) });
        assert_eq!(supervisor.failed().await.to_string(), "task feed ended by itself");
        assert!(shutdown.is_cancelled());
        supervisor.stop(Duration::from_secs(1)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_of_tasks_are_reported() {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        supervisor.spawn("gc", async { Err("broken") });
        let error = supervisor.failed().await;
        assert_eq!(error.source().unwrap().to_string(), "broken");
        supervisor.spawn("labels", async {
            if true {
                panic!("on purpose");
            }
            Ok::<_, Infallible>(())
        });
        let error = supervisor.stop(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "task labels panicked: on purpose");
    }

    #[tokio::test(start_paused = true)]
    async fn an_orderly_stop_is_no_failure_and_a_stuck_task_is_named() {
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        supervisor.spawn("feed", async move {
            shutdown.cancelled().await;
            Ok::<_, Infallible>(())
        });
        supervisor.spawn("dataplane", std::future::pending::<Result<(), Infallible>>());
        let waited = tokio::time::timeout(Duration::from_secs(60), supervisor.failed()).await;
        assert!(waited.is_err());
        let error = supervisor.stop(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.to_string(), "tasks dataplane did not stop in time");
    }
}
