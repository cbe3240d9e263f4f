//! The one task that owns the routes between nodes: follows the datastore and the host, and decides when to work.

use super::feed::Feed;
use super::host::VERSIONS;
use super::problems::Problems;
use super::program::{Network, Program};
use super::tunnel::{self, Tunnels};
use super::view::{Touched, View};
use crate::ipam::Ipam;
use crate::model::NodeName;
use crate::net::{HostEvent, SharedUnderlay};
use crate::store::{Event, SharedStore, StoreError};
use crate::task::{Backoff, Task};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A burst of changes is put in force together, this long after its first.
const SETTLE: Duration = Duration::from_millis(10);
/// How often everything is read back unasked; Felix's `routeRefreshInterval` is 90 s, its look at VXLAN 10 s.
const RESYNC: Duration = Duration::from_secs(30);
/// How long something must be wrong before it is said.
const LASTING: Duration = Duration::from_secs(3);
/// Pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the task works with.
#[derive(Debug)]
pub struct Parts {
    /// The datastore.
    pub store: SharedStore,
    /// The kernel.
    pub host: SharedUnderlay,
    /// This node's addresses.
    pub ipam: Ipam,
    /// This node.
    pub node: NodeName,
    /// Whether BIRD runs on this node, and programs the routes of pools without encapsulation.
    pub bird: bool,
    /// True: this plugin programs the host. False: Felix does; nothing is touched then.
    pub active: watch::Receiver<bool>,
}

/// See the module.
pub struct Worker {
    host: SharedUnderlay,
    active: watch::Receiver<bool>,
    feed: Feed,
    /// Keys that the view was told of.
    keys: BTreeSet<String>,
    view: View,
    /// Whether everything was listed once: before, nothing in the kernel is touched.
    synced: bool,
    program: Program,
    work_at: Option<Instant>,
    list_at: Option<Instant>,
    resync_at: Instant,
    report_at: Option<Instant>,
    backoff: Backoff,
    list_backoff: Backoff,
    tunnels: Tunnels,
    allocating: Option<Task<Result<(), String>>>,
    allocate_at: Option<Instant>,
    allocate_backoff: Backoff,
    /// What the last pass, and the last allocation, failed with.
    failures: [Option<String>; 2],
    problems: Problems,
    networks: watch::Sender<[Option<Network>; 2]>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("node", &self.view.me).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker; nothing is read or touched yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, host, ipam, node, bird, active } = parts;
        let backoff = || Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self {
            program: Program::new(host.clone()),
            host,
            active,
            feed: Feed::new(store.clone()),
            keys: BTreeSet::new(),
            view: View::new(node.as_str()).beside(bird),
            synced: false,
            work_at: None,
            list_at: Some(Instant::now()),
            resync_at: Instant::now() + RESYNC,
            report_at: None,
            backoff: backoff(),
            list_backoff: backoff(),
            tunnels: Tunnels { store, ipam, node },
            allocating: None,
            allocate_at: Some(Instant::now()),
            allocate_backoff: backoff(),
            failures: [None, None],
            problems: Problems::default(),
            networks: watch::channel([None, None]).0,
        }
    }

    /// The VXLAN networks of IPv4 and IPv6 that this host takes part in, and who else does, as they become.
    #[must_use]
    pub fn networks(&self) -> watch::Receiver<[Option<Network>; 2]> {
        self.networks.subscribe()
    }

    /// Reads the datastore and works once, so that containers that start find devices and routes as they will be. What
    /// fails is tried again by [`Worker::run`].
    pub async fn prepare(&mut self) {
        self.list().await;
        if self.synced && self.is_active() {
            self.allocate();
            let outcome = allocated(&mut self.allocating).await;
            self.allocated(outcome);
            // What was allocated is told by the datastore like everything else.
            self.list().await;
        }
        self.work().await;
    }

    /// Works for ever.
    pub async fn run(mut self) {
        let mut monitor: Option<BoxStream<'static, HostEvent>> = None;
        let mut subscribe_at = Instant::now();
        loop {
            if monitor.is_none() && Instant::now() >= subscribe_at {
                monitor = self.subscribe().await;
                subscribe_at = Instant::now() + LONGEST_PAUSE;
            }
            let times = [self.work_at, self.list_at, self.report_at, self.allocation_due()];
            let mut due = times.into_iter().flatten().fold(self.resync_at, Instant::min);
            if monitor.is_none() {
                due = due.min(subscribe_at);
            }
            tokio::select! {
                event = self.feed.next(), if self.feed.is_open() => self.take(event),
                event = next(&mut monitor) => match event {
                    Some(event) if self.program.notice(&event, &self.view) => self.soon(),
                    Some(_) => {}
                    None => monitor = None,
                },
                Ok(()) = self.active.changed() => self.switched(),
                outcome = allocated(&mut self.allocating), if self.allocating.is_some() => self.allocated(outcome),
                () = tokio::time::sleep_until(due) => self.wake().await,
            }
        }
    }

    async fn subscribe(&mut self) -> Option<BoxStream<'static, HostEvent>> {
        match self.host.monitor().await {
            Ok(monitor) => {
                // What happened before is found by looking.
                self.program.doubt();
                self.soon();
                Some(monitor)
            }
            Err(error) => {
                log::warn!("{error}; routes that somebody else changes are only found every {RESYNC:?}");
                None
            }
        }
    }

    fn is_active(&self) -> bool {
        *self.active.borrow()
    }

    fn soon(&mut self) {
        self.work_at.get_or_insert_with(|| Instant::now() + SETTLE);
    }

    fn switched(&mut self) {
        let whose = if self.is_active() { "this plugin's" } else { "left to Felix" };
        log::info!("routes between nodes are {whose} from now on");
        self.allocate_at = Some(Instant::now());
        self.program.doubt();
        self.soon();
    }

    fn take(&mut self, event: Result<Option<Event>, StoreError>) {
        match event {
            Ok(Some(Event::Put(entry))) => return self.put(&entry.key, Some(&entry.value)),
            Ok(Some(Event::Delete { key, .. })) => return self.put(&key, None),
            Ok(None) | Err(StoreError::Compacted { .. }) => log::debug!("routes: everything is listed again"),
            Err(error) => log::warn!("routes between nodes stay as they are for a moment: {error}"),
        }
        self.list_at = Some(pause(&mut self.list_backoff));
    }

    fn put(&mut self, key: &str, value: Option<&[u8]>) {
        match value {
            Some(_) => drop(self.keys.insert(key.to_owned())),
            None => drop(self.keys.remove(key)),
        }
        let touched = self.view.update(key, value);
        if touched == Touched::All {
            self.allocate_at = Some(Instant::now());
        }
        self.program.touch(touched);
        self.soon();
    }

    async fn list(&mut self) {
        match self.feed.list().await {
            Ok(entries) => {
                self.list_at = None;
                self.list_backoff.reset();
                let there: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
                let gone: Vec<String> =
                    self.keys.iter().filter(|key| !there.contains(key.as_str())).cloned().collect();
                gone.iter().for_each(|key| self.put(key, None));
                entries.iter().for_each(|entry| self.put(&entry.key, Some(&entry.value)));
                self.synced = true;
                self.soon();
            }
            Err(error) => {
                log::warn!("routes between nodes stay as they are: {error}");
                self.list_at = Some(pause(&mut self.list_backoff));
            }
        }
    }

    async fn wake(&mut self) {
        let now = Instant::now();
        if self.list_at.is_some_and(|at| at <= now) {
            self.list().await;
        }
        // Not put off by work in between: in a large cluster some block always changes.
        if self.resync_at <= now {
            self.resync_at = now + RESYNC;
            self.program.doubt();
            self.work_at = Some(now);
        }
        if self.work_at.is_some_and(|at| at <= now) {
            self.work().await;
        }
        if self.allocation_due().is_some_and(|at| at <= now) {
            self.allocate();
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report();
        }
    }

    async fn work(&mut self) {
        self.work_at = None;
        if !self.synced || !self.is_active() {
            return;
        }
        let before = self.program.routes();
        let outcome = self.program.pass(&self.view).await;
        if self.program.routes() != before {
            log::debug!("routes between nodes: {}", self.program.routes());
        }
        self.networks.send_if_modified(|known| {
            let changed = known != self.program.networks();
            if changed {
                known.clone_from(self.program.networks());
            }
            changed
        });
        let [failure, _] = &mut self.failures;
        *failure = outcome.as_ref().err().map(ToString::to_string);
        match outcome {
            Ok(()) => self.backoff.reset(),
            Err(error) => {
                log::debug!("routes between nodes: {error}");
                self.program.doubt();
                self.work_at = Some(pause(&mut self.backoff));
            }
        }
        self.report_at.get_or_insert_with(|| Instant::now() + LASTING);
    }

    /// When tunnel addresses are to be seen to; not while that is being done.
    fn allocation_due(&self) -> Option<Instant> {
        let ready = self.synced && self.is_active() && self.allocating.is_none();
        self.allocate_at.filter(|_| ready)
    }

    fn allocate(&mut self) {
        self.allocate_at = None;
        let needs = VERSIONS.map(|version| tunnel::need(&self.view, version));
        let wants_vxlan = VERSIONS.iter().any(|version| self.view.wants_vxlan(*version));
        let choose_vni = wants_vxlan && !self.view.has_felix_default;
        let tunnels = self.tunnels.clone();
        self.allocating = Some(Task::spawn(async move {
            if choose_vni {
                tunnels.choose_vni().await.map_err(|error| format!("choose a VXLAN network: {error}"))?;
            }
            for need in &needs {
                tunnels.settle(need).await.map_err(|error| error.to_string())?;
            }
            Ok(())
        }));
    }

    fn allocated(&mut self, outcome: Option<Result<(), String>>) {
        self.allocating = None;
        let outcome =
            outcome.unwrap_or_else(|| Err("the allocation of tunnel addresses was cut off".to_owned()));
        match &outcome {
            Ok(()) => self.allocate_backoff.reset(),
            Err(_) => self.allocate_at = Some(pause(&mut self.allocate_backoff)),
        }
        let [_, failure] = &mut self.failures;
        *failure = outcome.err();
        self.report_at.get_or_insert_with(|| Instant::now() + LASTING);
    }

    fn report(&mut self) {
        let elsewhere = self.failures.iter().flatten().chain(self.view.broken.values());
        let now: BTreeSet<String> = self.program.problems().chain(elsewhere).cloned().collect();
        let (sentences, again) = self.problems.look(now);
        sentences.iter().for_each(|sentence| log::warn!("{sentence}"));
        self.report_at = again.then(|| Instant::now() + LASTING);
    }
}

/// When a failure's pause is over.
fn pause(backoff: &mut Backoff) -> Instant {
    Instant::now() + backoff.next(uuid::Uuid::new_v4().as_fields().0)
}

async fn next(monitor: &mut Option<BoxStream<'static, HostEvent>>) -> Option<HostEvent> {
    match monitor {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of a task, if there is one.
async fn allocated(task: &mut Option<Task<Result<(), String>>>) -> Option<Result<(), String>> {
    match task {
        Some(task) => task.ended().await,
        None => std::future::pending().await,
    }
}
