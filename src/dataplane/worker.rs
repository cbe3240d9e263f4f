//! The task that owns the state.

use super::delta;
use super::desired::{Desired, Verb};
use super::fill::Fill;
use super::large::Large;
use super::schedule::Schedule;
use super::{DataplaneError, Options, Request, Tuning, felix, guard, legacy, policy, render};
use crate::nft::{Batch, Change, Monitor, NftError, Op, Socket};
use crate::policy::Changes;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause before subscribing again after the subscription failed.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// How the packet filter stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the kernel had what is desired when last seen.
    pub in_force: bool,
    /// Why not.
    pub error: Option<String>,
    /// How often something that others had changed was repaired.
    pub repairs: u64,
    /// What is wrong with the FORWARD chains; each is tried again.
    pub warnings: Vec<String>,
    /// What the kernel does not take, each with what is denied therefore; it is tried again.
    pub refused: Vec<String>,
    /// Transactions that the kernel took, and those that it refused.
    pub commits: u64,
    /// Transactions that the kernel refused.
    pub refusals: u64,
    /// Endpoints that are open.
    pub endpoints: usize,
    /// Whether Felix filters, and this filter does not.
    pub stands_back: bool,
    /// Members of sets that are yet to come or to go in a change that is made a piece at a time.
    pub filling: usize,
}

/// The owner of the desired state, of the socket, and of the timers. See [`super::Dataplane::new`].
#[derive(Debug)]
pub struct Worker {
    pub(super) inbox: mpsc::Receiver<Request>,
    pub(super) options: Options,
    pub(super) desired: Desired,
    /// Between `ensure` and `remove_all`.
    pub(super) active: bool,
    /// Whether Felix programs the host: see [`super::standing`].
    pub(super) standing: bool,
    socket: Option<Socket>,
    /// Hears of changes by others. `None` while the whole table is made, see [`Worker::carry_out`].
    pub(super) monitor: Option<Monitor>,
    /// The generation of the ruleset that the whole table was made in, while nobody listened.
    pub(super) made_at: Option<u32>,
    pub(super) table: Schedule,
    pub(super) guard: Schedule,
    pub(super) large: Large,
    /// Endpoints to open as soon as their policy is known, and until when that is waited for. Bounded by the callers,
    /// each of whom waits for one.
    pub(super) waiting: Vec<(Request, Instant)>,
    /// A change that is made a piece at a time, between other requests.
    pub(super) fill: Option<Fill>,
    /// When what the kernel refused is tried again.
    pub(super) retry: Instant,
    pub(super) status: watch::Sender<Status>,
    /// Counts changes of tables in which Felix works.
    felix: watch::Sender<u64>,
}

impl Worker {
    pub(super) fn new(
        options: Options,
        inbox: mpsc::Receiver<Request>,
        felix: watch::Sender<u64>,
    ) -> (Self, watch::Receiver<Status>) {
        let now = Instant::now();
        let (status, seen) = watch::channel(Status::default());
        let table = Schedule::new(now, options.timing.check);
        let guard = Schedule::new(now, options.timing.guard);
        let mut desired = Desired::default();
        desired.policy.set_log(&options.tuning.log);
        desired.policy.set_vxlan_port(options.tuning.vxlan_port);
        (
            Self {
                inbox,
                options,
                desired,
                active: false,
                standing: false,
                socket: None,
                monitor: None,
                made_at: None,
                table,
                guard,
                large: Large::default(),
                waiting: Vec::new(),
                fill: None,
                retry: now,
                status,
                felix,
            },
            seen,
        )
    }

    /// Works until `stop` is cancelled or every [`super::Dataplane`] is dropped. Leaves the kernel as it is.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut subscribe_at = Instant::now();
        loop {
            if self.monitor.is_none() && Instant::now() >= subscribe_at && !self.subscribe().await {
                subscribe_at = Instant::now() + RESUBSCRIBE;
            }
            let own = self.socket.as_ref().map_or(0, Socket::port);
            let mut due = self.table.due.min(self.guard.due);
            due = self.waiting.iter().map(|(_, until)| *until).fold(due, Instant::min);
            if self.monitor.is_none() {
                due = due.min(subscribe_at);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                request = self.inbox.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => return,
                },
                heard = hear(self.monitor.as_ref(), own) => match heard {
                    Ok(changes) => self.note(&changes),
                    Err(error) => {
                        log::warn!("{error}");
                        self.monitor = None;
                        subscribe_at = Instant::now() + RESUBSCRIBE;
                    }
                },
                read = self.large.read() => self.fix_large(read).await,
                () = tokio::time::sleep_until(due) => self.wake().await,
                () = std::future::ready(()), if self.fill.is_some() => self.fill_on().await,
            }
        }
    }

    /// Whether changes are heard of from now on. What happened before is found by looking; at our own table only if the
    /// ruleset is no longer as this worker made it.
    async fn subscribe(&mut self) -> bool {
        match Monitor::open() {
            Ok(monitor) => {
                self.monitor = Some(monitor);
                match self.still_as_made().await {
                    // Those of the FORWARD chains among them.
                    true => self.note(&felix::tables().map(Change::Table)),
                    false => self.note(&[Change::Lost]),
                }
                true
            }
            Err(error) => {
                log::warn!("{error}; changes by others are only found every {:?}", self.options.timing.check);
                self.large.disturbed(None);
                false
            }
        }
    }

    async fn still_as_made(&mut self) -> bool {
        let made_at = self.made_at.take();
        match (made_at, self.socket()) {
            (Some(_), Ok(socket)) => socket.generation().await.ok() == made_at,
            _ => false,
        }
    }

    fn note(&mut self, changes: &[Change]) {
        let (now, settle) = (Instant::now(), self.options.timing.settle);
        for change in changes {
            let lost = *change == Change::Lost;
            let of = |id| matches!(change, Change::Table(changed) if *changed == id);
            match change {
                Change::Set(table, set) if *table == render::table_id() => self.large.disturbed(Some(set)),
                Change::Lost => self.large.disturbed(None),
                Change::Set(..) | Change::Table(_) => {}
            }
            if lost || of(render::table_id()) {
                self.table.soon(now, settle);
            }
            let felix = lost || felix::tables().into_iter().any(of);
            // Beside Felix it depends on where Felix filters.
            if lost || guard::tables().into_iter().any(of) || (felix && self.standing) {
                self.guard.soon(now, settle);
            }
            if felix {
                self.felix.send_modify(|count| *count += 1);
            }
        }
    }

    /// What is due.
    pub(super) async fn wake(&mut self) {
        let now = Instant::now();
        if self.table.due <= now
            && let Err(error) = self.resync().await
        {
            log::warn!("{error}");
        }
        if self.guard.due <= now {
            self.assert_guard().await;
        }
        self.give_up_waiting(now);
    }

    pub(super) async fn serve(&mut self, request: Request) {
        let Some(request) = self.put_off(request) else { return };
        if self.must_wait(&request.verb) {
            self.waiting.push((request, Instant::now() + self.options.timing.policy));
            return;
        }
        let outcome = self.perform(&request.verb).await;
        let told = matches!(request.verb, Verb::Policy(_));
        // A caller that gave up is not told.
        let _ = request.answer.send(outcome);
        if told {
            self.serve_waiting().await;
        }
    }

    pub(super) async fn perform(&mut self, verb: &Verb) -> Result<(), DataplaneError> {
        match verb {
            Verb::Ensure => {
                self.active = true;
                if self.standing {
                    // A former process may filter with marks, which go with its hooks.
                    self.assert_guard().await;
                }
                let outcome = self.resync().await;
                self.assert_guard().await;
                outcome
            }
            Verb::Resync => self.resync().await,
            Verb::RemoveAll => self.remove_all().await,
            Verb::StandBack => self.stand_back().await,
            Verb::TakeOver => self.take_over().await,
            Verb::Policy(changes) => self.change_policy(changes).await,
            Verb::Tune(tuning) => self.tune(tuning).await,
            Verb::SetVxlan(networks) if !networks.same_rules(&self.desired.vxlan) => {
                self.desired.apply(verb);
                self.resync().await
            }
            change => self.change(change).await,
        }
    }

    /// Records a change and commits the elements it is made of. If that fails, the kernel is not as we thought: then
    /// all is compared. If that fails too, what must leave nothing behind is taken back.
    async fn change(&mut self, verb: &Verb) -> Result<(), DataplaneError> {
        self.desired.check(verb)?;
        let parts = Desired::parts(verb);
        let before = render::entries_of(&self.desired, &parts);
        let inverse = self.desired.apply(verb);
        if !self.active {
            return Ok(());
        }
        if self.standing {
            return self.change_beside(&parts, inverse).await;
        }
        let after = render::entries_of(&self.desired, &parts);
        let batch = delta::elements(&render::table_id(), &before, &after);
        let Err(first) = self.commit(&batch).await else { return Ok(()) };
        log::info!("{first}; comparing the whole table");
        let outcome = self.resync().await;
        if let (Err(_), Some(inverse)) = (&outcome, inverse) {
            self.desired.apply(&inverse);
        }
        outcome
    }

    /// What differs by that is found by comparing.
    async fn tune(&mut self, tuning: &Tuning) -> Result<(), DataplaneError> {
        if self.options.tuning == *tuning {
            return Ok(());
        }
        self.options.tuning.clone_from(tuning);
        self.desired.policy.set_log(&tuning.log);
        self.desired.policy.set_vxlan_port(tuning.vxlan_port);
        self.resync().await
    }

    /// Records what changed about policy and commits it. If that fails, all is compared; if that fails too, the kernel
    /// keeps what it has, and it is tried again.
    async fn change_policy(&mut self, changes: &Changes) -> Result<(), DataplaneError> {
        let batches = policy::switch(&mut self.desired, changes, self.options.marks);
        self.commit_policy(&batches).await
    }

    pub(super) async fn commit_policy(&mut self, batches: &[Batch]) -> Result<(), DataplaneError> {
        if !self.active || self.standing {
            return Ok(());
        }
        if self.large.is_torn() {
            // Nothing may lead to a set before it is whole.
            return self.resync().await;
        }
        let mut batches = batches.iter();
        while let Some(batch) = batches.next() {
            if let Err(first) = self.commit(batch).await {
                log::info!("{first}; comparing the whole table");
                self.large.failed([batch].into_iter().chain(batches));
                return self.resync().await;
            }
        }
        self.tell_refused();
        Ok(())
    }

    pub(super) async fn commit(&mut self, batch: &Batch) -> Result<(), NftError> {
        let outcome = self.socket()?.commit(batch).await;
        self.counted(batch, outcome)
    }

    /// Counts a transaction; whoever waits for the status need not wake up for that.
    pub(super) fn counted(&mut self, batch: &Batch, outcome: Result<(), NftError>) -> Result<(), NftError> {
        if outcome.is_ok() {
            self.large.committed(batch);
        }
        let endpoints = self.desired.endpoints.len();
        self.status.send_if_modified(|status| {
            status.commits += u64::from(outcome.is_ok());
            status.refusals += u64::from(matches!(outcome, Err(NftError::Refused { .. })));
            status.endpoints = endpoints;
            false
        });
        self.checked(outcome)
    }

    /// After a failure of the socket itself the next use opens a new one.
    pub(super) fn checked<T>(&mut self, outcome: Result<T, NftError>) -> Result<T, NftError> {
        if matches!(outcome, Err(NftError::Socket { .. } | NftError::Timeout { .. })) {
            self.socket = None;
        }
        outcome
    }

    pub(super) fn socket(&mut self) -> Result<&mut Socket, NftError> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            empty => Ok(empty.insert(Socket::open(self.options.timing.deadline)?)),
        }
    }

    async fn remove_all(&mut self) -> Result<(), DataplaneError> {
        self.active = false;
        let marks = self.options.marks;
        let mut failures = Vec::new();
        for table in guard::tables() {
            let outcome = match self.socket() {
                Ok(socket) => guard::remove(socket, &table, marks).await,
                Err(error) => Err(error),
            };
            failures.extend(self.checked(outcome).err().map(|error| error.to_string()));
        }
        for family in legacy::families(&self.options.legacy, self.options.timing.deadline) {
            failures.extend(family.remove(marks.accept).await.err());
        }
        let mut batch = Batch::new(render::table_id());
        batch.ops = vec![Op::AddTable, Op::DeleteTable];
        let removed = self.commit(&batch).await;
        self.status.send_modify(|status| {
            *status = Status { repairs: status.repairs, stands_back: status.stands_back, ..Status::default() }
        });
        removed.map_err(|source| DataplaneError::Kernel { attempt: "remove the packet filter", source })?;
        if failures.is_empty() { Ok(()) } else { Err(DataplaneError::Guard(failures.join("; "))) }
    }
}

async fn hear(monitor: Option<&Monitor>, own: u32) -> Result<Vec<Change>, NftError> {
    match monitor {
        Some(monitor) => monitor.changes(own).await,
        None => std::future::pending().await,
    }
}
