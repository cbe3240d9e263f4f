//! What this host offers: the interface of the node's address, the VXLAN devices, and which routes are ours. Pure.

use super::parse;
use super::resolve::{device_name, no_ipip};
use super::view::{Encap, Face, Pool, View};
use crate::model::{Cidr, IpVersion};
use crate::net::{HostAddress, HostRoute, KERNEL_PROTOCOL, Link, ROUTE_PROTOCOL, RouteKind, VxlanDevice};
use std::collections::HashMap;
use std::net::IpAddr;

/// Calico's VXLAN network where no setting says otherwise.
const DEFAULT_VNI: u32 = 4096;
/// The UDP port that IANA has assigned to VXLAN.
const DEFAULT_PORT: u16 = 4789;
/// IPv6 does not work below (RFC 8200).
const LEAST_MTU: u32 = 1280;

/// The interface that has this node's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uplink {
    pub(super) index: u32,
    pub(super) name: String,
    /// In bytes.
    pub(super) mtu: u32,
    pub(super) address: IpAddr,
    /// The subnet that the Node resource names.
    pub(super) subnet: Cidr,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostView {
    uplinks: [Option<Uplink>; 2],
    /// Indexes of the VXLAN devices that are ready.
    tunnels: [Option<u32>; 2],
}

/// Both versions, in the order in which this module keeps them.
pub(super) const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

fn of<T>(pair: &[T; 2], version: IpVersion) -> &T {
    let [v4, v6] = pair;
    if version == IpVersion::V4 { v4 } else { v6 }
}

impl HostView {
    /// What links and addresses make of it; also what is wrong.
    pub(super) fn look(view: &View, links: &[Link], addresses: &[HostAddress]) -> (Self, Vec<String>) {
        let mut problems = without_ipip(view);
        let own = view.nodes.get(&view.me);
        let uplinks = VERSIONS.map(|version| {
            let face = own.map(|node| node.face(version)).copied().unwrap_or_default();
            let address = face.address?;
            let found = addresses.iter().find(|found| found.address == address.ip);
            let link = found.and_then(|found| links.iter().find(|link| link.index == found.index));
            let Some(link) = link else {
                problems.push(format!(
                    "the Node resource of this node ({}) says that {} is its address, and no interface has it: {version} \
                     traffic to other nodes is not routed",
                    view.me, address.ip
                ));
                return None;
            };
            let (ip, subnet) = (address.ip, address.subnet);
            Some(Uplink { index: link.index, name: link.name.clone(), mtu: link.mtu, address: ip, subnet })
        });
        (Self { uplinks, tunnels: [None, None] }, problems)
    }

    pub(super) fn uplink(&self, version: IpVersion) -> Option<&Uplink> {
        of(&self.uplinks, version).as_ref()
    }

    pub(super) fn tunnel(&self, version: IpVersion) -> Option<u32> {
        *of(&self.tunnels, version)
    }

    pub(super) fn set_tunnels(&mut self, tunnels: [Option<u32>; 2]) {
        self.tunnels = tunnels;
    }

    /// Whether a link is one that routes of this module go through.
    pub(super) fn uses(&self, link: &Link) -> bool {
        let uplink = VERSIONS.iter().filter_map(|version| self.uplink(*version));
        VERSIONS.iter().any(|version| link.name == device_name(*version))
            || uplink.into_iter().any(|uplink| uplink.index == link.index)
    }

    /// Whether any address matters: that of an uplink, or one on a device that is used.
    pub(super) fn uses_address(&self, view: &View, index: u32, address: IpAddr) -> bool {
        let own = view.nodes.get(&view.me);
        let faces = own.into_iter().flat_map(|node| [&node.v4, &node.v6]);
        let known = |face: &Face| face.address.is_some_and(|known| known.ip == address);
        faces.into_iter().any(known) || VERSIONS.iter().any(|version| self.tunnel(*version) == Some(index))
    }
}

/// What is wrong with pools of which everything goes through IPIP, as soon as there is another node: before one has a block
/// of them, too.
fn without_ipip(view: &View) -> Vec<String> {
    let alone = view.nodes.keys().all(|name| *name == view.me);
    let always = |pool: &Pool| matches!(pool.encap, Encap::Ipip { cross_subnet: false });
    let pools = view.pools.iter().filter(|(_, pool)| !alone && always(pool));
    pools.map(|(title, pool)| no_ipip(title, pool)).collect()
}

/// The VXLAN device of a version as it should be; `None` if no pool asks for one or something for it is missing. Also
/// what is wrong.
pub(super) fn device(
    view: &View,
    host: &HostView,
    version: IpVersion,
) -> (Option<VxlanDevice>, Option<String>) {
    if !view.wants_vxlan(version) {
        return (None, None);
    }
    let own = view.nodes.get(&view.me).map(|node| *node.face(version)).unwrap_or_default();
    let (Some(uplink), Some(address)) = (host.uplink(version), own.tunnel) else { return (None, None) };
    let felix = view.felix();
    let (overhead, given) = match version {
        IpVersion::V4 => (50, felix.mtu),
        IpVersion::V6 => (70, felix.mtu_v6),
    };
    let fitting = uplink.mtu.saturating_sub(overhead);
    let mtu = given.unwrap_or(fitting);
    let problem = if mtu > fitting {
        Some(format!(
            "the MTU of {} is {mtu}, and {} with its {} bytes carries {fitting}: larger packets to other nodes are lost; \
             change vxlanMTU in FelixConfiguration",
            device_name(version),
            uplink.name,
            uplink.mtu
        ))
    } else if version == IpVersion::V6 && mtu < LEAST_MTU {
        Some(format!("the MTU of {} is {mtu}: IPv6 needs {LEAST_MTU}", device_name(version)))
    } else {
        None
    };
    let device = VxlanDevice {
        name: device_name(version),
        vni: felix.vni.unwrap_or(DEFAULT_VNI),
        port: felix.port.unwrap_or(DEFAULT_PORT),
        parent: uplink.index,
        local: uplink.address,
        mac: own.mac.unwrap_or_else(|| parse::mac_of(&view.me, version)),
        mtu,
        address,
    };
    (Some(device), problem)
}

/// The routes among those of the main table that are this module's, as it would write them: those of protocol 80 that
/// are not an endpoint's or the next hops' (which is on the loopback device), and all on our VXLAN devices that the
/// kernel did not make.
pub(super) fn own_routes(routes: Vec<HostRoute>, links: &[Link]) -> Vec<HostRoute> {
    let by_index: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let is_own = |route: &HostRoute| {
        if route.kind == RouteKind::Refuse {
            return route.protocol == ROUTE_PROTOCOL;
        }
        let Some(link) = route.index.and_then(|index| by_index.get(&index)) else { return false };
        let tunnel = VERSIONS.iter().any(|version| link.name == device_name(*version));
        let endpoint = link.is_veth() && link.name.starts_with("cali");
        let own = match tunnel {
            true => route.protocol != KERNEL_PROTOCOL,
            false => route.protocol == ROUTE_PROTOCOL && !endpoint && !link.loopback,
        };
        own && route.kind == RouteKind::Unicast
    };
    routes.into_iter().filter(is_own).map(plain).collect()
}

/// A route as it was written: IPv6 tells the loopback device of a blackhole.
pub(super) fn plain(mut route: HostRoute) -> HostRoute {
    if route.kind == RouteKind::Refuse {
        (route.index, route.device) = (None, None);
    }
    route
}
