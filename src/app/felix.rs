//! Stands back beside Felix, and takes over from it: looks, decides ([`super::standing`]), and switches in an order in
//! which packets are always filtered.
//!
//! ```text
//! back: our filter goes -> `active` false -> routes and sysctls are Felix's to keep
//! over: our filter comes -> `active` true -> routes, neighbours, sysctls of all endpoints
//! ```

use super::heartbeat::Heartbeat;
use super::standing::{Life, Seen, Standing};
use crate::cluster::foreign_prefix;
use crate::config::HostDataplane;
use crate::dataplane::{self, Dataplane, felix_programming};
use crate::driver::{Drivers, parse_alias};
use crate::model::{IfaceName, NodeName};
use crate::net::Host;
use crate::store::SharedStore;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

/// Felix changes its tables in bursts.
const SETTLE: Duration = Duration::from_millis(50);
/// How often is looked without a change: signs of life, and the old iptables, which announces nothing.
const EVERY: Duration = Duration::from_secs(10);
/// Felix's health port (`healthPort`), where it is on.
const HEALTH: &str = "127.0.0.1:9099";
/// It answers on this machine, or it is not there.
const HEALTH_DEADLINE: Duration = Duration::from_secs(1);

/// The watcher of Felix.
pub(super) struct FelixWatch {
    store: SharedStore,
    node: NodeName,
    heartbeat: Heartbeat,
    host: Arc<dyn Host>,
    dataplane: Dataplane,
    options: dataplane::Options,
    active: watch::Sender<bool>,
    standing: Standing,
    started: Instant,
    /// What was said of Felix's configuration.
    said: Option<String>,
}

/// What a watcher works with.
pub(super) struct FelixParts {
    pub(super) mode: HostDataplane,
    pub(super) store: SharedStore,
    pub(super) node: NodeName,
    pub(super) host: Arc<dyn Host>,
    pub(super) dataplane: Dataplane,
    pub(super) options: dataplane::Options,
    pub(super) active: watch::Sender<bool>,
}

impl FelixWatch {
    /// Looks once and lets the dataplane know before it puts anything in force.
    pub(super) async fn start(parts: FelixParts) -> Self {
        let FelixParts { mode, store, node, host, dataplane, options, active } = parts;
        let standing = Standing::new(mode);
        let heartbeat = Heartbeat::new(store.clone(), node.clone());
        let mut felix = Self {
            store,
            node,
            heartbeat,
            host,
            dataplane,
            options,
            active,
            standing,
            started: Instant::now(),
            said: None,
        };
        felix.look().await;
        if !felix.standing.is_ours() {
            log::info!("this plugin stands back: {}", felix.standing.reason());
            felix.back().await;
        }
        felix
    }

    /// Whether this plugin programs the host; false beside Felix. For whoever programs it.
    pub(super) fn active(&self) -> watch::Receiver<bool> {
        self.active.subscribe()
    }

    /// Follows Felix for ever.
    pub(super) async fn run(mut self, drivers: Arc<Drivers>) {
        let mut changes = self.dataplane.felix_changes();
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => tokio::time::sleep(SETTLE).await,
                    // The dataplane has ended, and so will this task.
                    Err(_) => std::future::pending().await,
                },
                () = tokio::time::sleep(EVERY) => {}
            }
            changes.mark_unchanged();
            if !self.look().await {
                continue;
            }
            let active = *self.active().borrow();
            match (self.standing.is_ours(), active) {
                (true, true) => log::warn!("this plugin programs the host: {}", self.standing.reason()),
                (false, false) => log::info!("this plugin stands back: {}", self.standing.reason()),
                (false, true) => {
                    log::info!("this plugin stands back: {}", self.standing.reason());
                    self.back().await;
                }
                (true, false) => {
                    log::warn!("this plugin takes over: {}", self.standing.reason());
                    self.over(&drivers).await;
                }
            }
        }
    }

    async fn back(&self) {
        if let Err(error) = self.dataplane.stand_back().await {
            log::warn!("our packet filter stays beside Felix's for now: {error}");
        }
        self.active.send_replace(false);
    }

    async fn over(&self, drivers: &Drivers) {
        if let Err(error) = self.dataplane.take_over().await {
            log::error!("{error}");
        }
        self.active.send_replace(true);
        drivers.repair_all().await;
    }

    /// Whether there is something to tell.
    async fn look(&mut self) -> bool {
        let now = self.started.elapsed();
        match self.see().await {
            Ok(seen) => {
                if !seen.filters.is_empty() || !self.standing.is_ours() {
                    self.warn_of_prefix().await;
                }
                self.standing.decide(&seen, now)
            }
            Err(sentence) => {
                log::warn!("whether Felix is here is not known for a moment: {sentence}");
                false
            }
        }
    }

    /// Says once what is wrong with Felix's configuration.
    async fn warn_of_prefix(&mut self) {
        // A datastore that does not answer is told elsewhere.
        let Ok(wrong) = foreign_prefix(&*self.store, &self.node).await else { return };
        if let Some(sentence) = wrong.as_ref().filter(|_| wrong != self.said) {
            log::warn!("{sentence}");
        }
        self.said = wrong;
    }

    async fn see(&mut self) -> Result<Seen, String> {
        let found = felix_programming(&self.options).await.map_err(|error| error.to_string())?;
        if found.signs.is_empty() {
            return Ok(Seen::default());
        }
        let facts = self.host.check().await.map_err(|error| error.to_string())?;
        let links = self.host.links().await.map_err(|error| error.to_string())?;
        let ours = links
            .iter()
            .filter(|link| link.alias.as_deref().is_some_and(|alias| parse_alias(alias).is_some()));
        let ifaces = ours.filter_map(|link| IfaceName::new(&link.name).ok());
        let (known, unknown): (Vec<IfaceName>, Vec<IfaceName>) =
            ifaces.partition(|iface| found.knows(iface, facts.ipv6));
        let names = |ifaces: Vec<IfaceName>| ifaces.into_iter().map(String::from).collect();
        let life = self.life().await;
        Ok(Seen { filters: found.signs, life, known: names(known), unknown: names(unknown) })
    }

    /// Its heartbeat, or its health port: a plain calico/node has neither.
    async fn life(&mut self) -> Life {
        let beats = self.heartbeat.look().await;
        if matches!(beats, Life::Shown(_)) {
            return beats;
        }
        match tokio::time::timeout(HEALTH_DEADLINE, health()).await {
            Ok(Ok(true)) => Life::Shown(format!("{HEALTH} answers")),
            _ => beats,
        }
    }
}

/// Whether something answers Felix's health question; also "not ready" is alive.
async fn health() -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(HEALTH).await?;
    stream.write_all(b"GET /liveness HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok([&b"200"[..], b"204", b"503"].iter().any(|status| head.ends_with(status))
        && head.starts_with(b"HTTP/1."))
}
