//! Where packets for a block go. Pure.
//!
//! The narrowest prefix wins, in the kernel as here: a block is routed as a whole to the node that owns it, an address
//! of it that another node borrowed to that one. What belongs to this node is routed by its endpoints; the rest of its
//! own blocks ends in a blackhole (`felix/calc/l3_route_resolver.go`, `felix/dataplane/linux/route_mgr.go`).

use super::host::{HostView, Uplink};
use super::view::{Block, Encap, Face, Node, Pool, View};
use crate::model::{Cidr, IpVersion, MacAddress};
use crate::net::{HostRoute, ROUTE_METRIC, ROUTE_PROTOCOL, RouteKind, VXLAN_DEVICES, Vtep};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Metric of a route to one address of another node: an endpoint's route on this node, with [`ROUTE_METRIC`], comes first.
pub(super) const ADDRESS_METRIC: u32 = ROUTE_METRIC + 1;

/// The routes of one block, and what stands in the way of those that are missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) routes: Vec<HostRoute>,
    pub(super) problems: BTreeSet<String>,
}

/// Where packets go.
enum Way {
    Blackhole,
    /// To the node itself, on the wire.
    Direct(IpAddr),
    /// Into the tunnel, to its end at this address.
    Tunnel(IpAddr),
}

/// What decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) view: &'a View,
    pub(super) host: &'a HostView,
}

impl Situation<'_> {
    /// The routes of one block.
    pub(super) fn block(&self, cidr: &Cidr, block: &Block) -> Resolved {
        let mut resolved = Resolved::default();
        if let Some(problem) = self.overlap(cidr) {
            resolved.problems.insert(problem);
            return resolved;
        }
        let me = self.view.me.as_str();
        let whole = block.owner.as_deref().and_then(|owner| match owner == me {
            true if is_address(cidr) => None,
            true => Some(Ok(Way::Blackhole)),
            false => self.way(cidr, owner).transpose(),
        });
        let alone = is_address(cidr) && !block.borrowed.is_empty();
        self.push(&mut resolved, *cidr, whole.filter(|_| !alone));
        for (ip, holder) in block.borrowed.iter().filter(|(_, holder)| *holder != me) {
            let cidr = Cidr::host(*ip);
            self.push(&mut resolved, cidr, self.way(&cidr, holder).transpose());
        }
        resolved
    }

    fn push(&self, resolved: &mut Resolved, cidr: Cidr, way: Option<Result<Way, String>>) {
        match way {
            Some(Ok(way)) => {
                resolved.routes.extend(self.route(cidr, &way));
                if let Way::Tunnel(ip @ IpAddr::V6(_)) = way {
                    // Whatever else leads to the end of the tunnel, its own block for one, the kernel takes it as a
                    // gateway only if it is found on the device (net/ipv6/route.c, ip6_route_check_nh_onlink).
                    resolved.routes.extend(self.route(Cidr::host(ip), &way));
                }
            }
            Some(Err(problem)) => drop(resolved.problems.insert(problem)),
            None => {}
        }
    }

    fn route(&self, destination: Cidr, way: &Way) -> Option<HostRoute> {
        let version = destination.version();
        let (index, device, gateway) = match way {
            Way::Blackhole => (None, None, None),
            Way::Direct(ip) => {
                let uplink = self.host.uplink(version)?;
                (Some(uplink.index), Some(uplink.name.clone()), Some(*ip))
            }
            Way::Tunnel(ip) => {
                let gateway = Some(*ip).filter(|ip| destination != Cidr::host(*ip));
                (Some(self.host.tunnel(version)?), Some(device_name(version).to_owned()), gateway)
            }
        };
        let kind = if index.is_some() { RouteKind::Unicast } else { RouteKind::Refuse };
        let metric = if is_address(&destination) { ADDRESS_METRIC } else { ROUTE_METRIC };
        Some(HostRoute { destination, kind, index, device, gateway, protocol: ROUTE_PROTOCOL, metric })
    }

    /// How another node is reached. Nothing where something greater is missing, which is told elsewhere.
    fn way(&self, cidr: &Cidr, name: &str) -> Result<Option<Way>, String> {
        let version = cidr.version();
        let Some((title, pool)) = self.view.pool_of(cidr) else { return Ok(None) };
        if self.view.is_of_bird(pool) {
            return Ok(None);
        }
        let face = self.face(cidr, name)?;
        let (Some(address), Some(uplink)) = (face.address, self.host.uplink(version)) else {
            return Ok(None);
        };
        let same_subnet = uplink.subnet.contains(address.ip);
        let crosses = match pool.encap {
            Encap::None => None,
            Encap::Vxlan { cross_subnet: true } if same_subnet => None,
            Encap::Vxlan { .. } if self.view.bars_vxlan() => return Err(no_vxlan(title, pool)),
            Encap::Vxlan { cross_subnet } => Some(cross_subnet),
            Encap::Ipip { cross_subnet: true } if same_subnet => None,
            Encap::Ipip { .. } => return Err(no_ipip(title, pool)),
        };
        match (crosses, same_subnet) {
            (None, true) => Ok(Some(Way::Direct(address.ip))),
            (None, false) => Err(elsewhere(cidr, title, (name, address.ip), uplink)),
            (Some(_), _) => self.end(name, version, face).map(Way::Tunnel).map(Some),
        }
    }

    /// A node with an address that is its own.
    fn face(&self, cidr: &Cidr, name: &str) -> Result<&Face, String> {
        let version = cidr.version();
        let Some(node) = self.view.nodes.get(name) else {
            return Err(format!(
                "{cidr} belongs to node {name}, which has no Node resource: it is not routed"
            ));
        };
        let face = node.face(version);
        match face.address {
            None => Err(format!(
                "node {name} has no {version} address in its Node resource: {version} addresses of its containers are \
                 not routed"
            )),
            Some(address) => match self.view.host(address.ip) {
                Some(other) if other != name => Err(format!(
                    "nodes {other} and {name} both say that {} is theirs: containers of {name} are not routed",
                    address.ip
                )),
                _ => Ok(face),
            },
        }
    }

    /// The end of the tunnel at another node.
    fn end(&self, name: &str, version: IpVersion, face: &Face) -> Result<IpAddr, String> {
        let (Some(ip), Some(mac)) = (face.tunnel, face.mac) else {
            return Err(format!(
                "node {name} has no {version} VXLAN tunnel address in its Node resource: its containers are not \
                 reached from other subnets"
            ));
        };
        match self.rival(name, ip, mac) {
            Some(other) => Err(format!(
                "nodes {other} and {name} have the same VXLAN tunnel address {ip} or Ethernet address {mac}: containers \
                 of {name} are not reached"
            )),
            None => Ok(ip),
        }
    }

    fn rival(&self, name: &str, ip: IpAddr, mac: MacAddress) -> Option<&str> {
        let claimed = [self.view.tunnel(ip), self.view.mac(mac)];
        claimed.into_iter().flatten().find(|other| *other != name)
    }

    /// What is behind the VXLAN device of a version.
    pub(super) fn vteps(&self, version: IpVersion) -> BTreeSet<Vtep> {
        let others = self.view.nodes.iter().filter(|(name, _)| **name != self.view.me);
        others.filter_map(|(name, node)| self.vtep(name, node, version)).collect()
    }

    fn vtep(&self, name: &str, node: &Node, version: IpVersion) -> Option<Vtep> {
        let face = node.face(version);
        let host = face.address.map(|address| address.ip).filter(|ip| self.view.host(*ip) == Some(name))?;
        let (address, mac) = (face.tunnel?, face.mac?);
        self.rival(name, address, mac).is_none().then_some(Vtep { address, mac, host })
    }

    /// Who may send VXLAN of a version to this node: the other nodes, and who is listed besides.
    pub(super) fn senders(&self, version: IpVersion) -> BTreeSet<Cidr> {
        let listed = self.view.felix().external.unwrap_or_default();
        let listed = listed.into_iter().filter(|cidr| cidr.version() == version);
        self.vteps(version).into_iter().map(|vtep| Cidr::host(vtep.host)).chain(listed).collect()
    }

    /// What of the network between hosts a block would take over.
    fn overlap(&self, cidr: &Cidr) -> Option<String> {
        let (name, pool) = self.view.pool_of(cidr)?;
        if let Some((ip, node)) = self.view.host_within(cidr) {
            return Some(format!(
                "pool {name} ({}) holds {ip}, the address of node {node}: block {cidr} is not routed",
                pool.cidr
            ));
        }
        let uplink = self.host.uplink(cidr.version()).filter(|uplink| uplink.subnet.overlaps(cidr))?;
        Some(format!(
            "pool {name} ({}) overlaps {}, the subnet of this host's {}: block {cidr} is not routed",
            pool.cidr, uplink.subnet, uplink.name
        ))
    }
}

/// What is wrong with a pool whose traffic is to go through IPIP.
pub(super) fn no_ipip(title: &str, pool: &Pool) -> String {
    format!(
        "pool {title} ({}) has an ipipMode, and this plugin does no IPIP: set ipipMode Never and vxlanMode Always or \
         CrossSubnet",
        pool.cidr
    )
}

fn no_vxlan(title: &str, pool: &Pool) -> String {
    format!(
        "pool {title} ({}) has a vxlanMode, and FelixConfiguration says vxlanEnabled: false: its containers on other nodes \
         are not reached; take vxlanEnabled away, or set the pool's vxlanMode to Never",
        pool.cidr
    )
}

fn elsewhere(cidr: &Cidr, title: &str, (name, ip): (&str, IpAddr), uplink: &Uplink) -> String {
    format!(
        "block {cidr} of node {name} ({ip}) is not routed by this host: the node is outside {}, and pool {title} has no \
         encapsulation; the routers between must know it, or set the pool's vxlanMode to CrossSubnet",
        uplink.subnet
    )
}

/// Whether a prefix is a single address.
fn is_address(cidr: &Cidr) -> bool {
    cidr.prefix_len() == cidr.version().bits()
}

/// Name of the VXLAN device of a version.
pub(super) fn device_name(version: IpVersion) -> &'static str {
    let [v4, v6] = VXLAN_DEVICES;
    if version == IpVersion::V4 { v4 } else { v6 }
}
