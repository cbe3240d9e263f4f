//! The datastore of a machine that stands alone: one file, no server.
//!
//! Reads and watches are answered from memory, where all keys are (thousands, a few megabytes), so they cost
//! microseconds, never touch the disk, and need no other thread. Memory holds what is durable and nothing else.
//! Commits go to one writer thread that groups them (`writer.rs`); the state file is redb's (`file.rs`).
//!
//! ```text
//! commit -> queue -> writer thread: draft on top of memory -> redb, fsync -> memory -> answers
//! get, list, watch  <------------------------------------------- memory
//! ```

mod digest;
mod failure;
mod file;
mod writer;

use super::mirror::{Mirror, mirror};
use super::state::State;
use super::{Entry, Event, Listing, Revision, Store, StoreError, Txn};
use file::StateFile;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use writer::{Request, Writer};

/// How many commits may wait for the writer; more wait at the door. A node starts some tens of containers at once.
const QUEUE: usize = 1024;

/// How long a commit waits for the disk. Far above the slowest fsync of a working disk, so it only ends what a broken
/// one would hold for ever; callers have shorter deadlines of their own.
const DEADLINE: Duration = Duration::from_secs(30);

/// A store in a file that survives crashes of the process and of the machine.
///
/// It holds all keys in memory and a thread that writes. Dropping it waits for what is being written.
#[derive(Debug)]
pub struct EmbeddedStore {
    mirror: Mirror,
    /// `None` only while it is being dropped.
    queue: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the state file at `path`, or makes it (mode 0600, its folder 0700) if it does not exist. Blocks for some
    /// milliseconds; longer after a crash, because redb then reads the whole file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the file is damaged: it is left alone, and never replaced by an empty one.
    /// [`StoreError::Unavailable`] if another process uses it, a newer version wrote it, or the operating system
    /// refuses. Both name the file and what to do.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (file, content) = StateFile::open(path).map_err(|failure| failure.of(path))?;
        let digest = content.digest;
        let (publisher, mirror) = mirror(State::new(content.keys, content.revision));
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer::new(file, publisher, digest);
        let thread =
            thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(receiver));
        let thread = thread.map_err(|error| StoreError::Unavailable {
            why: format!("the thread that writes {} cannot be started: {error}", path.display()),
        })?;
        Ok(Self { mirror, queue: Some(sender), writer: Some(thread) })
    }

    async fn enqueue(&self, txn: Txn) -> Result<Revision, StoreError> {
        txn.validate()?;
        let ended =
            || StoreError::Unavailable { why: "the thread that writes the state file has ended".to_owned() };
        let queue = self.queue.as_ref().ok_or_else(ended)?;
        let (answer, answered) = oneshot::channel();
        let written = async {
            queue.send(Request { txn, answer }).await.map_err(|_| ended())?;
            answered.await.map_err(|_| ended())?
        };
        tokio::time::timeout(DEADLINE, written).await.unwrap_or_else(|_| {
            let why = format!(
                "the disk of the state file has not answered for {} s; the change may still be applied",
                DEADLINE.as_secs()
            );
            Err(StoreError::Unavailable { why })
        })
    }
}

impl Store for EmbeddedStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move { Ok(self.mirror.get(key)) }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        async move { Ok(self.mirror.list(prefix)) }.boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.enqueue(txn).boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        self.mirror.watch(prefix, from)
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            log::error!("the thread that writes the state file panicked");
        }
    }
}
