//! Takes away what somebody else routes to this node's containers, as Felix does: when the kernel tells of such a route, and
//! now and then unasked.

use crate::driver::Drivers;
use crate::model::{Cidr, HOST_IFACE_PREFIX};
use crate::net::{Host, HostEvent, HostRoute, KERNEL_PROTOCOL, NetError};
use crate::task::Backoff;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long an interface is left alone after it came, or after this process did: who prepared a container may need a
/// moment of it. Felix's `routeCleanupGracePeriod`.
const GRACE: Duration = Duration::from_secs(10);
/// A burst of routes is answered once.
const SETTLE: Duration = Duration::from_millis(50);
/// How often is looked unasked: Felix's `routeRefreshInterval`.
const EVERY: Duration = Duration::from_secs(90);
/// Pauses after the kernel's events broke off.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The task's state.
pub(super) struct ForeignRoutes {
    host: Arc<dyn Host>,
    drivers: Arc<Drivers>,
    /// Whether such routes are taken away, as FelixConfiguration and the settings say.
    removes: watch::Receiver<bool>,
    /// What was said since the last look unasked: who makes a route again and again is named once in that time.
    said: BTreeSet<(Cidr, Option<String>)>,
}

impl ForeignRoutes {
    pub(super) fn new(host: Arc<dyn Host>, drivers: Arc<Drivers>, removes: watch::Receiver<bool>) -> Self {
        Self { host, drivers, removes, said: BTreeSet::new() }
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut agenda = Agenda::new(Instant::now());
        loop {
            match self.host.monitor().await {
                Ok(mut events) => {
                    backoff.reset();
                    agenda.note(&HostEvent::Resync, Instant::now());
                    self.follow(&mut events, &mut agenda).await;
                }
                Err(error) => log::warn!("routes to containers are not noticed for a moment: {error}"),
            }
            backoff.pause().await;
        }
    }

    /// Until the events break off.
    async fn follow(&mut self, events: &mut BoxStream<'static, HostEvent>, agenda: &mut Agenda) {
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => agenda.note(&event, Instant::now()),
                    None => return,
                },
                changed = self.removes.changed() => match changed {
                    Ok(()) => agenda.look_soon(Instant::now()),
                    // The setting's owner has ended, and so will this task.
                    Err(_) => std::future::pending().await,
                },
                () = tokio::time::sleep_until(agenda.due()) => self.look(agenda).await,
            }
        }
    }

    async fn look(&mut self, agenda: &mut Agenda) {
        if agenda.start(Instant::now()) {
            self.said.clear();
        }
        if agenda.needs_links() {
            match self.host.links().await {
                Ok(links) => {
                    let links = links.into_iter().map(|link| (link.index, link.name));
                    agenda.list(links, Instant::now());
                }
                Err(error) => {
                    return log::warn!("routes of others to containers are not looked for: {error}");
                }
            }
        }
        if !*self.removes.borrow() {
            return;
        }
        let old = agenda.old(Instant::now());
        match self.drivers.remove_foreign_routes(|iface| old.contains(iface.as_str())).await {
            Ok(outcomes) => outcomes.into_iter().for_each(|outcome| self.tell(outcome)),
            Err(error) => log::warn!("routes of others to containers are not looked for: {error}"),
        }
    }

    fn tell(&mut self, outcome: Result<HostRoute, NetError>) {
        match outcome {
            Ok(route) if self.said.insert((route.destination, route.device.clone())) => log::warn!(
                "route {route} (protocol {}) is taken away: somebody else made it, and routes to containers are this \
                 plugin's; CALICO_LIBNETWORK_REMOVE_EXTERNAL_ROUTES=false, or removeExternalRoutes false in \
                 FelixConfiguration, keeps such routes",
                route.protocol
            ),
            Ok(route) => log::debug!("route {route} is taken away again"),
            Err(error) => log::warn!("a route of somebody else to a container stays: {error}"),
        }
    }
}

/// When is looked, and at which interfaces.
struct Agenda {
    /// Endpoints' interfaces by index, with their name and since when each is known.
    seen: HashMap<u32, (String, Instant)>,
    /// When an interface is looked at because of a route that came.
    asked: HashMap<u32, Instant>,
    /// When is looked otherwise.
    next: Instant,
    /// Whether events were lost, so that links have to be listed.
    lost: bool,
}

impl Agenda {
    /// What is there already counts from when it is listed.
    fn new(now: Instant) -> Self {
        Self { seen: HashMap::new(), asked: HashMap::new(), next: now, lost: true }
    }

    fn due(&self) -> Instant {
        self.asked.values().copied().fold(self.next, Instant::min)
    }

    fn look_soon(&mut self, now: Instant) {
        self.next = self.next.min(now + SETTLE);
    }

    fn note(&mut self, event: &HostEvent, now: Instant) {
        match event {
            HostEvent::Link(change) if change.gone || !change.link.name.starts_with(HOST_IFACE_PREFIX) => {
                self.seen.remove(&change.link.index);
                self.asked.remove(&change.link.index);
            }
            HostEvent::Link(change) => self.see(change.link.index, &change.link.name, now),
            HostEvent::Route(change) if !change.gone && may_be_foreign(&change.route) => {
                let Some(index) = change.route.index else { return };
                let Some((_, since)) = self.seen.get(&index) else { return };
                let ripe = (*since + GRACE).max(now + SETTLE);
                self.asked.entry(index).or_insert(ripe);
            }
            HostEvent::Resync => {
                self.lost = true;
                self.look_soon(now);
            }
            HostEvent::Route(_) | HostEvent::Address(_) | HostEvent::Neighbour(_) | HostEvent::Setting(_) => {
            }
        }
    }

    /// A name that an interface got later counts from then.
    fn see(&mut self, index: u32, name: &str, now: Instant) {
        match self.seen.get(&index) {
            Some((known, _)) if known == name => {}
            _ => drop(self.seen.insert(index, (name.to_owned(), now))),
        }
    }

    /// What is asked for by now is being answered; whether this is a look unasked.
    fn start(&mut self, now: Instant) -> bool {
        self.asked.retain(|_, ripe| *ripe > now);
        let unasked = self.next <= now;
        if unasked {
            self.next = now + EVERY;
        }
        unasked
    }

    fn needs_links(&self) -> bool {
        self.lost
    }

    /// All links that there are. What is new among them is looked at when it has had its time.
    fn list(&mut self, links: impl Iterator<Item = (u32, String)>, now: Instant) {
        self.lost = false;
        let links: HashMap<u32, String> =
            links.filter(|(_, name)| name.starts_with(HOST_IFACE_PREFIX)).collect();
        self.seen.retain(|index, _| links.contains_key(index));
        self.asked.retain(|index, _| links.contains_key(index));
        links.iter().for_each(|(index, name)| self.see(*index, name, now));
        if self.seen.values().any(|(_, since)| *since + GRACE > now) {
            self.next = self.next.min(now + GRACE);
        }
    }

    /// The interfaces that have had their time.
    fn old(&self, now: Instant) -> BTreeSet<String> {
        let old = self.seen.values().filter(|(_, since)| *since + GRACE <= now);
        old.map(|(name, _)| name.clone()).collect()
    }
}

/// Whether a route that came is worth a look: neither what every start of a container brings nor what the kernel makes.
fn may_be_foreign(route: &HostRoute) -> bool {
    !route.is_of_endpoint() && route.protocol != KERNEL_PROTOCOL
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Link, LinkChange, ROUTE_METRIC, ROUTE_PROTOCOL, RouteChange, RouteKind};

    fn link(index: u32, name: &str, gone: bool) -> HostEvent {
        HostEvent::Link(LinkChange { link: Link::sample(index, name), gone })
    }

    fn route(index: u32, protocol: u8, metric: u32) -> HostEvent {
        let route = HostRoute {
            destination: "10.9.0.0/24".parse().unwrap(),
            kind: RouteKind::Unicast,
            index: Some(index),
            device: None,
            gateway: None,
            protocol,
            metric,
        };
        HostEvent::Route(RouteChange { route, gone: false })
    }

    /// An agenda that has listed its links, without any.
    fn settled(now: Instant) -> Agenda {
        let mut agenda = Agenda::new(now);
        agenda.start(now + GRACE);
        agenda.list(std::iter::empty(), now + GRACE);
        agenda
    }

    #[test]
    fn a_new_interface_has_its_time_and_an_old_one_is_looked_at_at_once() {
        let start = Instant::now();
        let mut agenda = settled(start);
        let now = start + GRACE;
        agenda.note(&link(7, "cali7", false), now);
        agenda.note(&route(7, 3, 0), now);
        assert_eq!(agenda.due(), now + GRACE);
        assert_eq!(agenda.old(now), BTreeSet::new());
        let later = now + GRACE;
        assert!(!agenda.start(later));
        assert_eq!(agenda.old(later), BTreeSet::from(["cali7".to_owned()]));
        assert_eq!(agenda.due(), now + EVERY);
        agenda.note(&route(7, 4, 0), later);
        assert_eq!(agenda.due(), later + SETTLE);
        agenda.note(&link(7, "cali7", true), later);
        assert_eq!(agenda.due(), now + EVERY);
    }

    #[test]
    fn what_starts_of_containers_bring_and_what_is_elsewhere_asks_for_nothing() {
        let start = Instant::now();
        let mut agenda = settled(start);
        let (now, usual) = (start + GRACE, agenda.due());
        agenda.note(&link(7, "cali7", false), start);
        agenda.note(&link(2, "eth0", false), start);
        for event in [route(7, ROUTE_PROTOCOL, ROUTE_METRIC), route(7, KERNEL_PROTOCOL, 256), route(2, 3, 0)]
        {
            agenda.note(&event, now);
        }
        assert_eq!(agenda.due(), usual);
    }

    #[test]
    fn lost_events_make_the_links_be_listed_and_looked_at_in_time() {
        let start = Instant::now();
        assert_eq!(Agenda::new(start).due(), start);
        let mut agenda = settled(start);
        let lost = start + GRACE;
        agenda.note(&HostEvent::Resync, lost);
        let now = agenda.due();
        assert_eq!(now, lost + SETTLE);
        assert!(agenda.start(now) && agenda.needs_links());
        agenda.list([(7, "cali7".to_owned()), (2, "eth0".to_owned())].into_iter(), now);
        assert!(!agenda.needs_links());
        assert_eq!(agenda.due(), now + GRACE);
        agenda.note(&link(7, "away", false), now);
        agenda.note(&link(7, "cali7", false), now + GRACE);
        assert_eq!(agenda.old(now + GRACE), BTreeSet::new(), "its name is new");
    }
}
