//! The kernel's side: what is desired, what is known to be there, and one pass from here to there.

use super::delta::{self, Key, Table};
use super::host::{self, HostView, VERSIONS};
use super::resolve::{Resolved, Situation, device_name};
use super::view::{Touched, View};
use crate::model::{Cidr, IpVersion};
use crate::net::{
    HostEvent, HostRoute, Link, NeighbourChange, NetError, ROUTE_PROTOCOL, RouteChanges, RouteKind,
    SharedUnderlay, Vtep, VxlanDevice,
};
use std::collections::{BTreeMap, BTreeSet};

/// The tunnel of one IP version, as far as it is known.
#[derive(Debug, Default)]
struct Tunnel {
    device: Option<(VxlanDevice, u32)>,
    behind: BTreeSet<Vtep>,
}

/// A VXLAN network of one IP version, as the packet filter needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// UDP port of all nodes.
    pub port: u16,
    /// Number of the network, 24 bits.
    pub vni: u32,
    /// Who may send: the other nodes' addresses, and what FelixConfiguration lists besides (`externalNodesList`).
    pub senders: BTreeSet<Cidr>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Program {
    host: SharedUnderlay,
    offer: HostView,
    resolved: BTreeMap<Cidr, Resolved>,
    desired: Table,
    /// How many blocks ask for a route: the way to the end of a tunnel serves all blocks of its node.
    asked: BTreeMap<Key, usize>,
    known: Table,
    tunnels: [Tunnel; 2],
    /// For the packet filter.
    networks: [Option<Network>; 2],
    /// Blocks to be resolved again; all if `everything`.
    stale: BTreeSet<Cidr>,
    everything: bool,
    /// Whether what is behind the tunnels may have changed.
    ends: bool,
    /// Whether links and addresses, and whether devices, routes and neighbours, are to be read again.
    look: bool,
    read_back: bool,
    /// What is wrong with the host, and with the devices.
    wrong: [Vec<String>; 2],
}

impl Program {
    /// Nothing is known yet, so the first pass reads everything.
    pub(super) fn new(host: SharedUnderlay) -> Self {
        Self {
            host,
            offer: HostView::default(),
            resolved: BTreeMap::new(),
            desired: Table::new(),
            asked: BTreeMap::new(),
            known: Table::new(),
            tunnels: [Tunnel::default(), Tunnel::default()],
            networks: [None, None],
            stale: BTreeSet::new(),
            everything: true,
            ends: true,
            look: true,
            read_back: true,
            wrong: [Vec::new(), Vec::new()],
        }
    }

    /// Takes note of what a change of the datastore touches.
    pub(super) fn touch(&mut self, touched: Touched) {
        match touched {
            Touched::Nothing => {}
            Touched::Blocks(blocks) => self.stale.extend(blocks),
            Touched::Node(blocks) => {
                self.stale.extend(blocks);
                self.ends = true;
            }
            Touched::All => (self.everything, self.ends, self.look) = (true, true, true),
        }
    }

    /// Doubts everything: the next pass reads the kernel and resolves all blocks.
    pub(super) fn doubt(&mut self) {
        (self.everything, self.ends, self.look, self.read_back) = (true, true, true, true);
    }

    /// Takes note of a change on the host. Says whether it concerns us. Our own changes are told, too: they are as
    /// desired.
    pub(super) fn notice(&mut self, event: &HostEvent, view: &View) -> bool {
        let concerns = match event {
            HostEvent::Resync => true,
            HostEvent::Setting(_) => false,
            HostEvent::Link(change) => {
                self.offer.uses(&change.link) && (change.gone || !self.is_as_made(&change.link))
            }
            HostEvent::Address(change) => self.offer.uses_address(view, change.index, change.address),
            HostEvent::Neighbour(change) => {
                let concerns = self.end_differs(change);
                self.read_back |= concerns;
                return concerns;
            }
            HostEvent::Route(change) => {
                let concerns = self.differs(host::plain(change.route.clone()), change.gone);
                self.read_back |= concerns;
                return concerns;
            }
        };
        if concerns {
            (self.look, self.read_back) = (true, true);
        }
        concerns
    }

    fn is_as_made(&self, link: &Link) -> bool {
        let made = self.tunnels.iter().filter_map(|tunnel| tunnel.device.as_ref());
        made.into_iter().any(|(device, index)| {
            (link.index, link.mtu, link.mac, link.up) == (*index, device.mtu, Some(device.mac), true)
        })
    }

    /// Whether what came or went behind a tunnel is not as it was made.
    fn end_differs(&self, change: &NeighbourChange) -> bool {
        let of_device =
            |tunnel: &&Tunnel| tunnel.device.as_ref().is_some_and(|(_, index)| *index == change.index);
        let Some(tunnel) = self.tunnels.iter().find(of_device) else { return false };
        let same = |end: &Vtep| {
            let address = if change.forwards { end.host } else { end.address };
            address == change.address && change.mac.is_none_or(|mac| mac == end.mac)
        };
        tunnel.behind.iter().any(same) == change.gone
    }

    /// Whether a route that came or went is not as it should be.
    fn differs(&self, route: HostRoute, gone: bool) -> bool {
        let key = delta::key(&route);
        let wanted = self.desired.get(&key).is_some_and(|wanted| delta::same(wanted, &route));
        if gone {
            return wanted && self.known.contains_key(&key);
        }
        let through = |version: &IpVersion| {
            let uplink = self.offer.uplink(*version).map(|uplink| uplink.index);
            route.index.is_some() && (route.index == uplink || route.index == self.offer.tunnel(*version))
        };
        let leads = route.kind == RouteKind::Refuse || VERSIONS.iter().any(through);
        !wanted && leads && route.protocol == ROUTE_PROTOCOL
    }

    /// Brings the kernel to what is desired: routes are taken away first and added last, and what is behind the tunnels
    /// changes in between (`felix/calc/event_sequencer.go`). What can be done is done.
    pub(super) async fn pass(&mut self, view: &View) -> Result<(), NetError> {
        if self.look {
            self.look_at_host(view).await?;
        }
        let mut errors = self.make_devices(view).await;
        let read_back = self.read_back;
        let strays = if read_back { self.read_back().await? } else { Vec::new() };
        let keys = self.resolve(view, read_back);
        let RouteChanges { mut delete, replace, add } = delta::routes(&self.known, &self.desired, keys);
        delete.extend(strays);
        errors.extend(self.change(RouteChanges { delete, ..RouteChanges::default() }).await.err());
        errors.extend(self.change_ends(view, read_back).await.err());
        errors.extend(self.change(RouteChanges { replace, add, ..RouteChanges::default() }).await.err());
        errors.extend(self.remove_devices(view, read_back).await.err());
        NetError::of_all(errors).map_or(Ok(()), Err)
    }

    async fn look_at_host(&mut self, view: &View) -> Result<(), NetError> {
        let (links, addresses) = tokio::try_join!(self.host.links(), self.host.addresses())?;
        self.look = false;
        let (mut offer, wrong) = HostView::look(view, &links, &addresses);
        offer.set_tunnels(VERSIONS.map(|version| self.offer.tunnel(version)));
        let [of_host, _] = &mut self.wrong;
        *of_host = wrong;
        if offer != self.offer {
            self.offer = offer;
            (self.everything, self.ends) = (true, true);
        }
        Ok(())
    }

    /// Makes the devices that are wanted.
    async fn make_devices(&mut self, view: &View) -> Vec<NetError> {
        let (mut indexes, mut wrong, mut errors) = ([None, None], Vec::new(), Vec::new());
        let mut fresh = false;
        for ((version, index), tunnel) in VERSIONS.into_iter().zip(&mut indexes).zip(&mut self.tunnels) {
            let (device, problem) = host::device(view, &self.offer, version);
            wrong.extend(problem);
            let Some(device) = device else { continue };
            let as_is = tunnel.device.as_ref().filter(|(made, _)| *made == device && !self.read_back);
            if let Some((_, known)) = as_is {
                *index = Some(*known);
                continue;
            }
            match self.host.ensure_vxlan(&device).await {
                Ok(made) => {
                    fresh |= tunnel.device.as_ref().is_none_or(|(_, known)| *known != made);
                    tunnel.device = Some((device, made));
                    *index = Some(made);
                }
                Err(error) => {
                    errors.push(error);
                    tunnel.device = None;
                }
            }
        }
        // With a device went the routes and neighbours on the one before.
        self.read_back |= fresh;
        let [_, of_devices] = &mut self.wrong;
        *of_devices = wrong;
        if indexes != VERSIONS.map(|version| self.offer.tunnel(version)) {
            self.offer.set_tunnels(indexes);
            (self.everything, self.ends) = (true, true);
        }
        errors
    }

    /// Reads what the kernel has. Gives routes that stand twice.
    async fn read_back(&mut self) -> Result<Vec<HostRoute>, NetError> {
        let (routes, links) = tokio::try_join!(self.host.host_routes(), self.host.links())?;
        self.known.clear();
        let mut strays = Vec::new();
        for route in host::own_routes(routes, &links) {
            strays.extend(self.known.insert(delta::key(&route), route));
        }
        for tunnel in &mut self.tunnels {
            tunnel.behind.clear();
            if let Some((_, index)) = &tunnel.device {
                tunnel.behind.extend(self.host.vteps(*index).await?);
            }
        }
        self.read_back = false;
        Ok(strays)
    }

    /// Resolves what is stale; gives the keys of routes that may differ.
    fn resolve(&mut self, view: &View, all: bool) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        if std::mem::take(&mut self.everything) {
            self.stale = self.resolved.keys().chain(view.blocks.keys()).copied().collect();
        }
        let situation = Situation { view, host: &self.offer };
        for cidr in std::mem::take(&mut self.stale) {
            let old = self.resolved.remove(&cidr).unwrap_or_default();
            for key in old.routes.iter().map(delta::key) {
                let left = self.asked.get(&key).map_or(0, |asked| asked.saturating_sub(1));
                if left == 0 {
                    self.asked.remove(&key);
                    self.desired.remove(&key);
                } else {
                    self.asked.insert(key, left);
                }
                keys.insert(key);
            }
            let Some(block) = view.blocks.get(&cidr) else { continue };
            let fresh = situation.block(&cidr, block);
            for route in &fresh.routes {
                keys.insert(delta::key(route));
                *self.asked.entry(delta::key(route)).or_default() += 1;
                self.desired.insert(delta::key(route), route.clone());
            }
            self.resolved.insert(cidr, fresh);
        }
        if all {
            keys.extend(self.known.keys().chain(self.desired.keys()));
        }
        keys
    }

    async fn change(&mut self, changes: RouteChanges) -> Result<(), NetError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.host.change_routes(&changes).await?;
        changes.delete.iter().for_each(|route| drop(self.known.remove(&delta::key(route))));
        let there = changes.replace.into_iter().chain(changes.add);
        self.known.extend(there.map(|route| (delta::key(&route), route)));
        Ok(())
    }

    async fn change_ends(&mut self, view: &View, all: bool) -> Result<(), NetError> {
        if !std::mem::take(&mut self.ends) && !all {
            return Ok(());
        }
        let situation = Situation { view, host: &self.offer };
        for ((version, tunnel), network) in
            VERSIONS.into_iter().zip(&mut self.tunnels).zip(&mut self.networks)
        {
            let device = tunnel.device.as_ref().map(|(device, _)| device);
            *network = device.map(|device| {
                let (port, vni, senders) = (device.port, device.vni, situation.senders(version));
                Network { port, vni, senders }
            });
            let Some(index) = self.offer.tunnel(version) else { continue };
            let desired = situation.vteps(version);
            let (delete, add) = delta::vteps(&tunnel.behind, &desired);
            if !delete.is_empty() || !add.is_empty() {
                self.host.change_vteps(index, &delete, &add).await?;
                tunnel.behind = desired;
            }
        }
        Ok(())
    }

    /// Removes devices that no pool asks for any more.
    async fn remove_devices(&mut self, view: &View, all: bool) -> Result<(), NetError> {
        for (version, tunnel) in VERSIONS.into_iter().zip(&mut self.tunnels) {
            if !view.wants_vxlan(version) && (all || tunnel.device.is_some()) {
                self.host.remove_vxlan(device_name(version)).await?;
                *tunnel = Tunnel::default();
                self.ends = true;
            }
        }
        Ok(())
    }

    /// The VXLAN networks of IPv4 and IPv6 that this host takes part in.
    pub(super) fn networks(&self) -> &[Option<Network>; 2] {
        &self.networks
    }

    /// What is wrong.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        let of_blocks = self.resolved.values().flat_map(|resolved| &resolved.problems);
        of_blocks.chain(self.wrong.iter().flatten())
    }

    /// How many routes lead to other nodes, or end here.
    pub(super) fn routes(&self) -> usize {
        self.known.len()
    }
}
