//! The thread that talks to the kernel.
//!
//! Three reasons for a thread of its own. A request on a netlink socket runs inside the system call and waits for the
//! kernel's global rtnl lock, which a deletion somewhere else can hold for tens of milliseconds: that must not block
//! the tasks that answer Docker. A verb that its caller gave up on (its deadline passed) still runs to its end, so
//! nothing stays half-made. And all files below `/proc/sys/net` and all sockets are opened by one thread, so they are of one network
//! namespace.

use super::error::NetError;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// How long verbs in flight may go on after the owner is gone.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs futures on its own thread; dropping it ends the thread as soon as the verbs in flight are done.
#[derive(Debug)]
pub(crate) struct Worker {
    runtime: Handle,
    verbs: TaskTracker,
    /// Dropped with the worker, which is the signal to end.
    _stop: oneshot::Sender<()>,
}

impl Worker {
    /// Starts the thread. It inherits the network namespace of the calling thread.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let verbs = TaskTracker::new();
        let in_flight = verbs.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                // Either way the owner is gone.
                let _ = stopped.await;
                in_flight.close();
                if tokio::time::timeout(DRAIN, in_flight.wait()).await.is_err() {
                    log::warn!(
                        "network requests were still in flight {DRAIN:?} after the stop; they are cut off"
                    );
                }
            });
        })?;
        Ok(Self { runtime: handle, verbs, _stop: stop })
    }

    /// Runs one verb to its end, even if the returned future is dropped.
    pub(crate) async fn run<T, F>(&self, verb: F) -> Result<T, NetError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NetError>> + Send + 'static,
    {
        self.verbs.spawn_on(verb, &self.runtime).await.unwrap_or(Err(NetError::Stopped))
    }

    /// Starts a task that ends by itself once nobody needs it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.verbs.spawn_on(task, &self.runtime);
    }
}
