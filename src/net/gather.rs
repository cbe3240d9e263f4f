//! Does in one round what was asked for while the round before was running.
//!
//! For things that cost the kernel the same whether they are for one or for fifty: a link deletion waits for RCU grace
//! periods (20 to 40 ms), a list of connections walks the whole hash table (10 to 20 ms for 262144 buckets).

use super::error::NetError;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the next round; each belongs to a verb in flight.
const WAITING: usize = 256;

type Answer<R> = Result<R, NetError>;
type Waiting<T, R> = (T, oneshot::Sender<Answer<R>>);

/// Where to ask. Clones share the rounds.
#[derive(Debug)]
pub(crate) struct Gather<T, R> {
    queue: mpsc::Sender<Waiting<T, R>>,
}

impl<T, R> Clone for Gather<T, R> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<T: Send + 'static, R: Send + 'static> Gather<T, R> {
    /// The queue, and the task that does the rounds until every clone is dropped. A round gets all that waits, and
    /// answers each in the same order.
    pub(crate) fn new<F>(round: F) -> (Self, impl Future<Output = ()> + Send)
    where
        F: Fn(Vec<T>) -> BoxFuture<'static, Vec<Answer<R>>> + Send + 'static,
    {
        let (queue, mut waiting) = mpsc::channel::<Waiting<T, R>>(WAITING);
        let rounds = async move {
            let mut taken = Vec::new();
            while waiting.recv_many(&mut taken, WAITING).await > 0 {
                let (items, callers): (Vec<T>, Vec<_>) = taken.drain(..).unzip();
                for (caller, answer) in callers.into_iter().zip(round(items).await) {
                    // Gone if the worker of the verb was cut off.
                    let _ = caller.send(answer);
                }
            }
        };
        (Self { queue }, rounds)
    }

    /// Asks, and waits for the end of the round.
    pub(crate) async fn ask(&self, item: T) -> Answer<R> {
        let (caller, answer) = oneshot::channel();
        self.queue.send((item, caller)).await.map_err(|_ended| NetError::Stopped)?;
        answer.await.unwrap_or(Err(NetError::Stopped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn what_waits_is_done_in_one_round_and_each_gets_its_own_answer() {
        let rounds = Arc::new(AtomicUsize::new(0));
        let counted = rounds.clone();
        let (gather, task) = Gather::<u32, u32>::new(move |items| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { items.into_iter().map(|item| Ok(item * 2)).collect() })
        });
        let asked = async move {
            let answers = futures::future::join_all((0..10).map(|n| gather.ask(n))).await;
            drop(gather);
            answers
        };
        let (answers, ()) = tokio::join!(asked, task);
        assert_eq!(
            answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
            [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
        );
        assert_eq!(rounds.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn without_its_task_nobody_waits_forever() {
        let (gather, task) = Gather::<u32, u32>::new(|_| Box::pin(async { Vec::new() }));
        drop(task);
        assert!(matches!(gather.ask(1).await, Err(NetError::Stopped)));
    }
}
