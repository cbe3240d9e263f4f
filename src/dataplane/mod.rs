//! The host's packet filter and NAT, kept as they should be.
//!
//! [`Dataplane`] is the door, [`Worker`] the one task that owns the state: what is desired, the socket, and the timers.
//! A verb records what is desired, commits the smallest batch that brings the kernel there, and answers. When anybody
//! else touches our table, when a commit fails, and every few minutes, the whole table is read back and repaired in one
//! batch. Nothing is taken away when the task ends: containers keep their traffic while the plugin is replaced.
//!
//! ```text
//! verb -> Desired -> render, policy -> delta -> nft::Socket -> kernel
//!                                        ^                        |
//!                                        +---- dump  <- notification, timer
//! ```
//!
//! `render` says what stands in `table inet calico-docker`; `guard` and `legacy` keep the one rule that Docker's
//! `FORWARD DROP` makes necessary. Foreign tables are otherwise never touched.

mod beside;
mod delta;
mod desired;
mod error;
mod felix;
mod fill;
mod forward;
mod guard;
mod large;
mod legacy;
mod nat;
mod options;
mod policy;
mod port;
mod render;
mod repair;
mod schedule;
mod show;
mod sources;
mod standing;
mod tuning;
mod tunnel;
mod waiting;
mod worker;

pub use error::DataplaneError;
pub use felix::{FelixProgramming, felix_programming};
pub use options::{ForwardAccept, HostAction, LegacyTools, Marks, Options, Timing};
pub use port::{PortMap, Protocol};
pub use show::{RuleCount, endpoint_chains, published_ports, rule_counts, show_table};
pub use tuning::{LogRate, LogTuning, NatTuning, Tuning};
pub use tunnel::{VxlanNetwork, VxlanNetworks};
pub use worker::{Status, Worker};

use crate::model::{Cidr, IfaceName};
use crate::policy::Changes;
use desired::Verb;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Verbs waiting for the worker. Each caller waits for its answer, so this bounds callers, and callers are bounded by
/// the server; the value only has to be large enough for a burst of container starts.
const QUEUE: usize = 256;

/// What the packet filter has to know of an IP pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolNat {
    /// The pool's prefix.
    pub cidr: Cidr,
    /// Whether traffic from the pool to destinations outside every pool leaves under the host's address.
    pub nat_outgoing: bool,
}

/// The door to the host's packet filter. Cheap to clone. Every verb is idempotent.
///
/// Before [`Dataplane::ensure`] verbs only record what is desired; so a restarted process first tells everything it
/// knows and then has the kernel's state adopted in one step.
#[derive(Debug, Clone)]
pub struct Dataplane {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Status>,
    felix: watch::Receiver<u64>,
    options: Arc<Options>,
}

#[derive(Debug)]
struct Request {
    verb: Verb,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<(), DataplaneError>;

impl Dataplane {
    /// A door and the worker behind it. Nothing happens before [`Worker::run`] runs.
    #[must_use]
    pub fn new(options: Options) -> (Self, Worker) {
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (changes, felix) = watch::channel(0);
        let shared = Arc::new(options.clone());
        let (worker, status) = Worker::new(options, inbox, changes);
        (Self { requests, status, felix, options: shared }, worker)
    }

    /// How the last work on the kernel went; a [`watch`] that changes when it does.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Puts our table in force, or adopts it if it stands, and guards Docker's FORWARD chain from now on.
    ///
    /// # Errors
    /// The kernel refused; it is tried again in the background.
    pub async fn ensure(&self) -> Result<(), DataplaneError> {
        self.ask(Verb::Ensure).await
    }

    /// Compares the kernel with what is desired and repairs it.
    ///
    /// # Errors
    /// As [`Dataplane::ensure`].
    pub async fn resync(&self) -> Result<(), DataplaneError> {
        self.ask(Verb::Resync).await
    }

    /// The pools of both families, all of them, also disabled ones.
    ///
    /// # Errors
    /// The kernel refused; the pools stay desired and it is tried again in the background.
    pub async fn set_pools(&self, pools: &[PoolNat]) -> Result<(), DataplaneError> {
        self.ask(Verb::SetPools(pools.to_vec())).await
    }

    /// The VXLAN networks that this host takes part in, and who else does: nobody else's packets of them are taken.
    ///
    /// # Errors
    /// As [`Dataplane::set_pools`].
    pub async fn set_vxlan(&self, networks: VxlanNetworks) -> Result<(), DataplaneError> {
        self.ask(Verb::SetVxlan(Box::new(networks))).await
    }

    /// The bridges that are Docker's: `docker0`, `docker_gwbridge`, `br-<network>`, and those with names of the
    /// user's. What goes out to them is left to Docker's own rules.
    ///
    /// # Errors
    /// As [`Dataplane::set_pools`].
    pub async fn set_docker_bridges(&self, bridges: &[IfaceName]) -> Result<(), DataplaneError> {
        self.ask(Verb::SetBridges(bridges.iter().cloned().collect())).await
    }

    /// Behaves like this from now on.
    ///
    /// # Errors
    /// As [`Dataplane::set_pools`].
    pub async fn tune(&self, tuning: Tuning) -> Result<(), DataplaneError> {
        self.ask(Verb::Tune(Box::new(tuning))).await
    }

    /// Puts what changed about policy in force, with one switch. What [`crate::policy::Graph::flush`] gave must all
    /// come here, in order. With very many members of sets this takes seconds; what does not depend on it overtakes it.
    ///
    /// # Errors
    /// The kernel refused and has what it had before; the policy stays desired and it is tried again in the
    /// background.
    pub async fn apply_policy(&self, changes: Changes) -> Result<(), DataplaneError> {
        self.tell_policy(changes).await?.await
    }

    /// As [`Dataplane::apply_policy`], but others can be told when this returns, and their order is kept: the outcome
    /// is what it gives.
    ///
    /// # Errors
    /// [`DataplaneError::Stopped`].
    pub async fn tell_policy(
        &self,
        changes: Changes,
    ) -> Result<impl Future<Output = Result<(), DataplaneError>> + Send + use<>, DataplaneError> {
        let answered = self.tell(Verb::Policy(Box::new(changes))).await?;
        Ok(async { answered.await.map_err(|_| DataplaneError::Stopped)? })
    }

    /// Opens the interface of an endpoint, to which these addresses are routed, as far as its policy allows. Until then,
    /// and after [`Dataplane::remove_endpoint`], all that comes from it or goes to it is dropped. After
    /// [`Dataplane::ensure`] this waits until [`Dataplane::apply_policy`] has told the endpoint's policy, for at most [`Timing::policy`]; before, the
    /// endpoint stays closed until then.
    ///
    /// # Errors
    /// The kernel refused, the endpoint's policy did not come, or the interface's name does not begin with `cali`: the
    /// endpoint stays closed.
    pub async fn add_endpoint(&self, iface: &IfaceName, addresses: &[IpAddr]) -> Result<(), DataplaneError> {
        self.ask(Verb::AddEndpoint(iface.clone(), addresses.iter().copied().collect())).await
    }

    /// Lets an endpoint also send under exactly these addresses, those of the other endpoints of its container. An
    /// interface that is not open has none, and closing it forgets them.
    ///
    /// # Errors
    /// As [`Dataplane::set_pools`].
    pub async fn set_siblings(&self, iface: &IfaceName, addresses: &[IpAddr]) -> Result<(), DataplaneError> {
        self.ask(Verb::SetSiblings(iface.clone(), addresses.iter().copied().collect())).await
    }

    /// Closes the interface of an endpoint and takes its published ports back. Established connections end as well.
    ///
    /// # Errors
    /// The kernel refused; it is tried again in the background.
    pub async fn remove_endpoint(&self, iface: &IfaceName) -> Result<(), DataplaneError> {
        self.ask(Verb::RemoveEndpoint(iface.clone())).await
    }

    /// Publishes exactly these ports of an endpoint.
    ///
    /// # Errors
    /// [`DataplaneError::PortTaken`], [`DataplaneError::Port`], or the kernel refused: the endpoint's ports are as
    /// they were before.
    pub async fn publish_ports(&self, iface: &IfaceName, ports: &[PortMap]) -> Result<(), DataplaneError> {
        self.ask(Verb::Publish(iface.clone(), ports.to_vec())).await
    }

    /// Takes all published ports of an endpoint back.
    ///
    /// # Errors
    /// The kernel refused; it is tried again in the background.
    pub async fn revoke_ports(&self, iface: &IfaceName) -> Result<(), DataplaneError> {
        self.ask(Verb::Revoke(iface.clone())).await
    }

    /// Counts changes of the tables in which Felix works: whenever it moves, [`felix_programming`] may find other things.
    #[must_use]
    pub fn felix_changes(&self) -> watch::Receiver<u64> {
        self.felix.clone()
    }

    /// Waits until the policy of an open endpoint is in force, where Felix has to see to that; with our own filter it is
    /// since [`Dataplane::add_endpoint`]. Says whether it is. Felix drops what belongs to endpoints that it does not know.
    ///
    /// # Errors
    /// The kernel's ruleset cannot be read.
    pub async fn await_policy(
        &self,
        iface: &IfaceName,
        addresses: &[IpAddr],
    ) -> Result<bool, DataplaneError> {
        if !self.status.borrow().stands_back {
            return Ok(true);
        }
        let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        felix::wait_for(iface, ipv6, &self.options, self.felix.clone()).await
    }

    /// Takes our filter and our masquerade out of the way of packets, without losing one: Felix filters them. Published
    /// ports stay. Everything else that is told from now on is recorded only.
    ///
    /// # Errors
    /// The kernel refused; it is tried again in the background.
    pub async fn stand_back(&self) -> Result<(), DataplaneError> {
        self.ask(Verb::StandBack).await
    }

    /// Puts everything in force again that was recorded while [`Dataplane::stand_back`] held.
    ///
    /// # Errors
    /// As [`Dataplane::stand_back`].
    pub async fn take_over(&self) -> Result<(), DataplaneError> {
        self.ask(Verb::TakeOver).await
    }

    /// Removes our table and our rules in Docker's FORWARD chains, for an uninstall. What is desired stays recorded;
    /// [`Dataplane::ensure`] puts all of it in force again.
    ///
    /// # Errors
    /// What could not be removed; the rest is gone.
    pub async fn remove_all(&self) -> Result<(), DataplaneError> {
        self.ask(Verb::RemoveAll).await
    }

    async fn ask(&self, verb: Verb) -> Result<(), DataplaneError> {
        self.tell(verb).await?.await.map_err(|_| DataplaneError::Stopped)?
    }

    async fn tell(&self, verb: Verb) -> Result<oneshot::Receiver<Answer>, DataplaneError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { verb, answer }).await.map_err(|_| DataplaneError::Stopped)?;
        Ok(answered)
    }
}
