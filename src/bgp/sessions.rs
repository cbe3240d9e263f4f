//! Which sessions a node has: the mesh, BGPPeers of all nodes, BGPPeers of this node, and those of others that mean this
//! node and therefore hold in both directions (pure). The rules are those of `confd/pkg/backends/calico/client.go`.

use super::session::{NextHop, Origin, Session, obstacle, peer_address};
use super::settings::{Local, addresses, cluster_as, own_as, port_of};
use super::text::{duration_seconds, unused};
use super::world::World;
use crate::model::{AsNumber, BgpPeerSpec, IpVersion, NodeSpec, Resource};
use crate::selector::Selector;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

type Node = Resource<NodeSpec>;

/// All sessions of the world's node, sorted by name; what cannot be used is told in `problems`.
pub(super) fn sessions(world: &World, local: &Local, problems: &mut Vec<String>) -> Vec<Session> {
    let mut plan = Plan { world, local, found: BTreeMap::new(), problems };
    let usable: Vec<(&str, &BgpPeerSpec)> = world
        .peers
        .iter()
        .filter(|(name, peer)| plan.is_usable(name, &peer.spec))
        .map(|(name, peer)| (name.as_str(), &peer.spec))
        .collect();
    let is_global = |spec: &BgpPeerSpec| spec.node.is_empty() && spec.node_selector.is_empty();
    // In this order: the first session to an address and port stays.
    for (name, spec) in usable.iter().filter(|(_, spec)| is_global(spec)) {
        plan.forward(Origin::Global, name, spec);
    }
    for (name, spec) in usable.iter().filter(|(_, spec)| !is_global(spec) && plan.world.is_this(spec)) {
        plan.forward(Origin::Node, name, spec);
    }
    for (name, spec) in &usable {
        plan.reverse(name, spec);
    }
    plan.mesh();
    let mut all: Vec<Session> = plan.found.into_values().collect();
    all.sort_by_key(Session::name);
    all
}

impl World {
    /// Whether a BGPPeer that names nodes means this one.
    fn is_this(&self, spec: &BgpPeerSpec) -> bool {
        self.nodes_of(spec).contains(self.node.as_str())
    }

    /// The nodes that have a BGPPeer.
    fn nodes_of(&self, spec: &BgpPeerSpec) -> BTreeSet<&str> {
        match (spec.node.as_str(), spec.node_selector.as_str()) {
            ("", "") => self.nodes.keys().map(String::as_str).collect(),
            ("", selector) => self.selected(selector),
            (node, _) => self.nodes.keys().map(String::as_str).filter(|name| *name == node).collect(),
        }
    }

    fn selected(&self, selector: &str) -> BTreeSet<&str> {
        // A selector that cannot be read was told before.
        let Ok(selector) = Selector::parse(selector) else { return BTreeSet::new() };
        let none = BTreeMap::new();
        let matches = |node: &Node| selector.matches(node.metadata.labels.as_ref().unwrap_or(&none));
        self.nodes.iter().filter(|(_, node)| matches(node)).map(|(name, _)| name.as_str()).collect()
    }

    fn addresses_of(&self, node: &str) -> [Option<IpAddr>; 2] {
        addresses(self.nodes.get(node).and_then(|node| node.spec.bgp.as_ref()))
    }

    fn as_of(&self, node: &str) -> AsNumber {
        let bgp = self.nodes.get(node).and_then(|node| node.spec.bgp.as_ref());
        own_as(bgp).unwrap_or_else(|| cluster_as(self))
    }

    fn cluster_id_of(&self, node: &str) -> Option<&str> {
        let bgp = self.nodes.get(node)?.spec.bgp.as_ref()?;
        bgp.route_reflector_cluster_id.as_deref().filter(|id| !id.is_empty())
    }

    /// The nodes with an address and AS number, and with a port if one is given.
    fn nodes_at(&self, address: IpAddr, port: Option<u16>, as_number: AsNumber) -> Vec<&str> {
        let at = |name: &&str| {
            self.addresses_of(name).contains(&Some(address))
                && self.as_of(name) == as_number
                && port.is_none_or(|port| port == port_of(self, name).unwrap_or(179))
        };
        self.nodes.keys().map(String::as_str).filter(at).collect()
    }
}

struct Plan<'a> {
    world: &'a World,
    local: &'a Local,
    found: BTreeMap<(IpAddr, Option<u16>), Session>,
    problems: &'a mut Vec<String>,
}

impl Plan<'_> {
    /// Whether a BGPPeer can be used; if it cannot, and this node has it, that is told.
    fn is_usable(&mut self, name: &str, spec: &BgpPeerSpec) -> bool {
        for (field, text) in [("nodeSelector", &spec.node_selector), ("peerSelector", &spec.peer_selector)] {
            if !text.is_empty()
                && let Err(error) = Selector::parse(text)
            {
                self.problems.push(format!("BGPPeer {name} is left out: {field}: {error}"));
                return false;
            }
        }
        let Some(why) = obstacle(spec) else { return true };
        if self.world.is_this(spec) {
            self.problems.push(format!("BGPPeer {name} is left out: {why}"));
        }
        false
    }

    fn add(&mut self, session: Session) {
        let Some(own) = self.local.address(session.version()) else {
            if session.origin != Origin::Mesh {
                let version = session.version();
                self.problems.push(format!(
                    "BGPPeer {}: no session with {}, this node has no {version} address for BGP",
                    session.of, session.address
                ));
            }
            return;
        };
        if session.address != own {
            self.found.entry((session.address, session.port)).or_insert(session);
        }
    }

    /// A BGPPeer of this node.
    fn forward(&mut self, origin: Origin, name: &str, spec: &BgpPeerSpec) {
        self.tell_unused(name, spec);
        if spec.peer_selector.is_empty() {
            match self.at_address(origin, name, spec) {
                Ok(session) => self.add(session),
                Err(why) => self.problems.push(format!("BGPPeer {name} is left out: {why}")),
            }
        } else {
            for node in self.world.selected(&spec.peer_selector) {
                self.at_node((origin, name), spec, node, None);
            }
        }
    }

    /// Another node's BGPPeer that means this node.
    fn reverse(&mut self, name: &str, spec: &BgpPeerSpec) {
        if spec.reverse_peering.as_deref() == Some("Manual") {
            return;
        }
        let own = self.world.node.as_str();
        let (meant, only) = if spec.peer_selector.is_empty() {
            let (Ok((address, port)), Some(as_number)) = (peer_address(&spec.peer_ip), spec.as_number) else {
                return;
            };
            (self.world.nodes_at(address, port, as_number).contains(&own), Some(IpVersion::of(address)))
        } else {
            (self.world.selected(&spec.peer_selector).contains(own), None)
        };
        if meant {
            for node in self.world.nodes_of(spec) {
                self.at_node((Origin::Node, name), spec, node, only);
            }
        }
    }

    /// A session with an address that a BGPPeer gives.
    fn at_address(&mut self, origin: Origin, name: &str, spec: &BgpPeerSpec) -> Result<Session, String> {
        let (address, mut port) = peer_address(&spec.peer_ip)?;
        let as_number = spec.as_number.unwrap_or_else(|| cluster_as(self.world));
        if port.is_none()
            && let Some(node) = self.world.nodes_at(address, None, as_number).first()
        {
            port = port_of(self.world, node);
        }
        let reachable_by = match spec.reachable_by.as_str() {
            "" => None,
            text => {
                Some(text.parse::<IpAddr>().ok().filter(|by| by.is_ipv4() == address.is_ipv4()).ok_or_else(
                    || format!("reachableBy {text:?} is no address of the same version as peerIP {address}"),
                )?)
            }
        };
        let is_node =
            self.world.nodes.keys().any(|node| self.world.addresses_of(node).contains(&Some(address)));
        let bare = Session {
            port: port.filter(|port| *port != 179),
            local_as: spec.local_as_number.filter(|number| number.0 != 0),
            ..Session::new(origin, name, address, as_number)
        };
        let mut session = self.fill(bare, name, spec, None);
        session.reachable_by = reachable_by;
        session.allowed_own_as = spec.num_allowed_local_as_numbers.filter(|number| *number > 0);
        session.passive = origin == Origin::Global && is_node && self.is_later(address);
        Ok(session)
    }

    /// Sessions with a node, over IPv4 and IPv6, or only over one of them.
    fn at_node(&mut self, from: (Origin, &str), spec: &BgpPeerSpec, node: &str, only: Option<IpVersion>) {
        let (origin, name) = from;
        let own = self.local.addresses;
        for (address, own) in self.world.addresses_of(node).into_iter().zip(own) {
            let (Some(address), Some(_)) = (address, own) else { continue };
            if only.is_some_and(|version| version != IpVersion::of(address)) {
                continue;
            }
            let bare = Session::new(origin, name, address, self.world.as_of(node));
            let bare = Session { port: port_of(self.world, node), ..bare };
            let cluster_id = self.world.cluster_id_of(node).map(str::to_owned);
            let session = self.fill(bare, name, spec, cluster_id.as_deref());
            self.add(session);
        }
    }

    /// What a BGPPeer says besides who the peer is.
    fn fill(&mut self, bare: Session, name: &str, spec: &BgpPeerSpec, cluster_id: Option<&str>) -> Session {
        let internal = bare.as_number == bare.local_as.unwrap_or(self.local.as_number);
        let next_hop = match spec.next_hop_mode.as_deref() {
            Some("Self") => NextHop::Own,
            Some("Keep") => NextHop::Keep,
            Some(_) => NextHop::Auto,
            None if spec.keep_original_next_hop && !internal => NextHop::Keep,
            None => NextHop::Auto,
        };
        let mut seconds = |field: &str, text: &Option<String>| {
            duration_seconds(&format!("BGPPeer {name}: {field}"), text.as_deref()?, self.problems)
        };
        let restart_time = seconds("maxRestartTime", &spec.max_restart_time);
        let keepalive = seconds("keepaliveTime", &spec.keepalive_time);
        Session {
            from_node_address: spec.source_address != "None",
            hops: spec.ttl_security.filter(|hops| *hops > 0),
            restart_time,
            keepalive,
            client_of: self
                .local
                .cluster_id
                .filter(|own| internal && cluster_id != Some(own.to_string().as_str())),
            next_hop,
            filters: spec.filters.clone().unwrap_or_default(),
            ..bare
        }
    }

    /// One of two nodes waits for the other, so that they do not connect to each other at the same time; both must find the
    /// same one. calico/node compares addresses as text.
    fn is_later(&self, address: IpAddr) -> bool {
        let own = self.local.address(IpVersion::of(address));
        own.is_some_and(|own| address.to_string() > own.to_string())
    }

    fn mesh(&mut self) {
        if !self.local.mesh || self.local.cluster_id.is_some() {
            return;
        }
        for node in self.world.nodes.keys().filter(|node| *node != self.world.node.as_str()) {
            if self.world.cluster_id_of(node).is_some() {
                continue;
            }
            for address in self.world.addresses_of(node).into_iter().flatten() {
                if self.local.addresses.contains(&Some(address)) {
                    self.problems.push(format!(
                        "node {node} has this node's address {address}: they cannot peer, and others reach only one of them"
                    ));
                    continue;
                }
                if self.found.values().any(|session| session.address == address) {
                    continue;
                }
                let bare = Session::new(Origin::Mesh, node, address, self.world.as_of(node));
                self.add(Session {
                    port: port_of(self.world, node),
                    passive: self.is_later(address),
                    restart_time: self.local.mesh_restart,
                    ..bare
                });
            }
        }
    }

    fn tell_unused(&mut self, name: &str, spec: &BgpPeerSpec) {
        self.problems.extend(unused(&format!("BGPPeer {name}"), spec.extra.keys().map(String::as_str)));
        let words = [
            ("nextHopMode", spec.next_hop_mode.as_deref(), &["Auto", "Self", "Keep"][..]),
            ("sourceAddress", Some(spec.source_address.as_str()), &["", "UseNodeIP", "None"][..]),
            ("reversePeering", spec.reverse_peering.as_deref(), &["Auto", "Manual"][..]),
        ];
        for (field, word, known) in words {
            if let Some(word) = word.filter(|word| !known.contains(word)) {
                self.problems
                    .push(format!("BGPPeer {name}: {field} {word:?} is not known and has no effect"));
            }
        }
        if self.local.bound && spec.source_address == "None" {
            self.problems
                .push(format!("BGPPeer {name}: sourceAddress None has no effect while bindMode is NodeIP"));
        }
        let at_address = [
            ("localASNumber", spec.local_as_number.is_some()),
            ("numAllowedLocalASNumbers", spec.num_allowed_local_as_numbers.is_some()),
            ("reachableBy", !spec.reachable_by.is_empty()),
        ];
        for (field, _) in at_address.iter().filter(|(_, given)| *given && !spec.peer_selector.is_empty()) {
            self.problems.push(format!("BGPPeer {name}: {field} has an effect with peerIP only"));
        }
        if spec.keep_original_next_hop && spec.next_hop_mode.is_some() {
            self.problems
                .push(format!("BGPPeer {name}: keepOriginalNextHop has no effect beside nextHopMode"));
        }
    }
}
