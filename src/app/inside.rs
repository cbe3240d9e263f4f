//! Keeps routes inside containers as the driver wants them: when an interface comes up in its container, and now and then
//! for all, because pools come and go.

use crate::driver::Drivers;
use crate::model::IfaceName;
use crate::net::{ContainerEndpoint, Host, HostEvent, program_container};
use crate::task::Backoff;
use futures::StreamExt;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often all containers are looked at; one that has what it should have is not entered.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pauses after the kernel's events broke off.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The task's state.
pub(super) struct InsideRoutes {
    host: Arc<dyn Host>,
    drivers: Arc<Drivers>,
    /// The host's /run, below which Docker keeps containers' namespaces.
    host_run: PathBuf,
    /// What each sandbox was given last.
    given: HashMap<String, Vec<ContainerEndpoint>>,
    /// Whether it was said that a namespace cannot be entered.
    said: bool,
}

impl InsideRoutes {
    pub(super) fn new(host: Arc<dyn Host>, drivers: Arc<Drivers>, host_run: PathBuf) -> Self {
        Self { host, drivers, host_run, given: HashMap::new(), said: false }
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.host.monitor().await {
                Ok(mut events) => {
                    backoff.reset();
                    let mut look = tokio::time::interval(LOOK_EVERY);
                    loop {
                        tokio::select! {
                            event = events.next() => match event {
                                Some(event) => self.note(&event).await,
                                None => break,
                            },
                            _ = look.tick() => self.look_at_all().await,
                        }
                    }
                }
                Err(error) => log::warn!("interfaces in containers are not noticed for a moment: {error}"),
            }
            backoff.pause().await;
        }
    }

    /// The host side of a veth has a carrier once the other end is up, which Docker sets it when it has its addresses.
    async fn note(&mut self, event: &HostEvent) {
        match event {
            HostEvent::Link(change) if change.link.carrier && change.link.peer_elsewhere && !change.gone => {
                let iface = IfaceName::new(&change.link.name).ok();
                if let Some(sandbox) = iface.and_then(|iface| self.drivers.sandbox_behind(&iface)) {
                    self.given.remove(&sandbox);
                    self.give(&sandbox).await;
                }
            }
            HostEvent::Resync => {
                self.given.clear();
                self.look_at_all().await;
            }
            HostEvent::Link(_)
            | HostEvent::Route(_)
            | HostEvent::Address(_)
            | HostEvent::Neighbour(_)
            | HostEvent::Setting(_) => {}
        }
    }

    async fn look_at_all(&mut self) {
        let sandboxes: BTreeSet<String> = self.drivers.sandboxes();
        self.given.retain(|sandbox, _| sandboxes.contains(sandbox));
        for sandbox in sandboxes {
            self.give(&sandbox).await;
        }
    }

    async fn give(&mut self, sandbox: &str) {
        let wanted = match self.drivers.endpoints_inside(sandbox).await {
            Ok(wanted) => wanted,
            Err(error) => {
                log::warn!("the routes inside sandbox {sandbox} stay as they are for a moment: {error}");
                return;
            }
        };
        if wanted.is_empty() || self.given.get(sandbox) == Some(&wanted) {
            return;
        }
        match program_container(inside(&self.host_run, sandbox), wanted.clone()).await {
            Ok(true) => {
                log::debug!("sandbox {sandbox} has its routes");
                self.given.insert(sandbox.to_owned(), wanted);
            }
            // Its interface is not up yet; that will be an event.
            Ok(false) => {}
            Err(error) => self.say(sandbox, &error.to_string()),
        }
    }

    /// Once at the level that everybody sees: a container that runs since before this plugin has its routes already, and
    /// its namespace's file is not visible in a managed plugin.
    fn say(&mut self, sandbox: &str, why: &str) {
        if std::mem::replace(&mut self.said, true) {
            log::debug!("sandbox {sandbox} keeps the routes that it has: {why}");
        } else {
            log::info!(
                "sandbox {sandbox} keeps the routes that it has, with which a container that is also on a bridge may not \
                 reach its peers here: {why}"
            );
        }
    }
}

/// The file of a namespace as this process sees it: in a managed plugin the host's /run is somewhere else.
fn inside(host_run: &Path, sandbox: &str) -> PathBuf {
    let below = sandbox.strip_prefix("/var/run/").or_else(|| sandbox.strip_prefix("/run/"));
    below.map_or_else(|| PathBuf::from(sandbox), |below| host_run.join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_looked_for_below_the_hosts_run() {
        let of = |sandbox| inside(Path::new("/host/run"), sandbox).display().to_string();
        assert_eq!(of("/var/run/docker/netns/1"), "/host/run/docker/netns/1");
        assert_eq!(of("/run/docker/netns/1"), "/host/run/docker/netns/1");
        assert_eq!(of("/srv/exec/netns/1"), "/srv/exec/netns/1");
    }
}
