//! The next hops of containers, and the route that proxy ARP needs.
//!
//! A container's IPv4 next hop is `169.254.1.N`, which nobody owns: the kernel answers ARP for it on an endpoint's host
//! side because of `proxy_arp`, but only if its route lookup for the target ends as unicast on *another* device
//! (kernel `net/ipv4/arp.c`, `arp_process`, `arp_fwd_proxy`). The default route does; a host without one needs ours.

use super::error::{Meaning, NetError};
use super::link::{self, Link};
use super::route::{self, HostRoute, ROUTE_PROTOCOL, RouteKind};
use super::rtnl::{Answer, Rtnl};
use crate::model::{Cidr, HOST_IFACE_PREFIX, IpVersion};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::RouteScope;
use std::net::{IpAddr, Ipv4Addr};

/// First address and prefix length of the next hops of all containers.
pub const NEXT_HOPS: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 1, 0), 24);

/// What holds the next hops up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHops {
    /// A route of the host; ours is not there.
    ByHost,
    /// Our route on the loopback device.
    ByUs,
}

fn next_hops() -> Cidr {
    Cidr::masking(IpAddr::V4(NEXT_HOPS.0), NEXT_HOPS.1)
}

/// See [`super::Host::ensure_next_hops`]. Two lookups and a link, as long as the host's own routes do: only with ours
/// in the way the whole table must be read.
pub(crate) async fn ensure(rtnl: &Rtnl) -> Result<NextHops, NetError> {
    match look(rtnl).await? {
        Seen::Host => Ok(NextHops::ByHost),
        Seen::Nothing => add(rtnl).await,
        Seen::Loopback { index, name } => {
            let routes = super::kernel::routes_of(rtnl, IpVersion::V4).await?;
            if !routes.iter().any(|route| is_next_hop_route(route) && route.index == Some(index)) {
                // Somebody else's route on the loopback device serves as well.
                return Ok(NextHops::ByHost);
            }
            let links = link::decode_all(&rtnl.dump(link::list(), "list interfaces").await?);
            if !routes.iter().any(|route| holds_next_hops(route, &links)) {
                return Ok(NextHops::ByUs);
            }
            // Only without ours can be seen whether the kernel would use the host's.
            refused_unless_absent(rtnl.ask(route::delete(next_hops(), index, &name)).await?)?;
            if matches!(look(rtnl).await?, Seen::Host) { Ok(NextHops::ByHost) } else { add(rtnl).await }
        }
    }
}

/// How the next hops resolve now.
#[derive(Debug)]
enum Seen {
    /// By routes or addresses of the host.
    Host,
    /// By a route on the loopback device.
    Loopback { index: u32, name: String },
    /// Not, or only by a route through an endpoint.
    Nothing,
}

/// Asks for the first and the last next hop, since a host may have a route that covers only some.
async fn look(rtnl: &Rtnl) -> Result<Seen, NetError> {
    let [a, b, c, _] = NEXT_HOPS.0.octets();
    let asks = [1, 254].map(|last| route::lookup(Ipv4Addr::new(a, b, c, last)));
    let mut loopback = None;
    for answer in rtnl.batch(asks.to_vec()).await? {
        // A refused lookup is an answer: every errno of it means that no packet would be sent.
        match (route::kind_of(&answer), route::device_in(&answer)) {
            // An address of the host itself is answered for without any proxy.
            (Some(RouteKind::Local), _) => {}
            (Some(RouteKind::Unicast), Some(index)) => {
                let found = link::decode_all(&rtnl.ask(link::get_by_index(index)).await?.messages);
                match found.into_iter().next() {
                    Some(link) if link.loopback => loopback = Some(Seen::Loopback { index, name: link.name }),
                    Some(link) if !is_endpoint(&link) => {}
                    _ => return Ok(Seen::Nothing),
                }
            }
            _ => return Ok(Seen::Nothing),
        }
    }
    Ok(loopback.unwrap_or(Seen::Host))
}

async fn add(rtnl: &Rtnl) -> Result<NextHops, NetError> {
    let links = link::decode_all(&rtnl.dump(link::list(), "list interfaces").await?);
    let Some(lo) = links.iter().find(|link| link.loopback) else {
        return Err(NetError::NotThere { what: "look up the loopback interface".to_owned() });
    };
    let add = route::add(next_hops(), lo.index, &lo.name, RouteScope::Link)
        .with_flags(NLM_F_CREATE | NLM_F_REPLACE);
    rtnl.ask(add).await?.refusal.map_or(Ok(NextHops::ByUs), |refusal| Err(refusal.into()))
}

/// Takes our route for the next hops away; that there is none is fine.
pub(crate) async fn remove(rtnl: &Rtnl) -> Result<(), NetError> {
    let links = link::decode_all(&rtnl.dump(link::list(), "list interfaces").await?);
    let Some(lo) = links.iter().find(|link| link.loopback) else { return Ok(()) };
    let routes = super::kernel::routes_of(rtnl, IpVersion::V4).await?;
    if !routes.iter().any(|route| is_next_hop_route(route) && route.index == Some(lo.index)) {
        return Ok(());
    }
    refused_unless_absent(rtnl.ask(route::delete(next_hops(), lo.index, &lo.name)).await?)
}

fn refused_unless_absent(answer: Answer) -> Result<(), NetError> {
    match answer.refusal {
        Some(refusal) if Meaning::of(refusal.errno) != Meaning::NotThere => Err(refusal.into()),
        _ => Ok(()),
    }
}

/// Whether a change of this route can change what [`super::Host::ensure_next_hops`] finds: routes of endpoints cannot.
pub(crate) fn touches_next_hops(route: &HostRoute) -> bool {
    route.destination.overlaps(&next_hops())
}

/// Whether a route is one that [`ensure`] makes, on whatever device.
pub(crate) fn is_next_hop_route(route: &HostRoute) -> bool {
    route.protocol == ROUTE_PROTOCOL && route.destination == next_hops()
}

/// Whether a route of the host would hold the next hops if ours were away.
fn holds_next_hops(route: &HostRoute, links: &[Link]) -> bool {
    let device = links.iter().find(|link| Some(link.index) == route.index);
    route.kind == RouteKind::Unicast
        && route.destination.contains_cidr(&next_hops())
        && device.is_some_and(|device| !device.loopback && !is_endpoint(device))
}

fn is_endpoint(link: &Link) -> bool {
    link.is_veth() && link.name.starts_with(HOST_IFACE_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, index: u32, kind: RouteKind) -> HostRoute {
        let destination = destination.parse().unwrap();
        HostRoute {
            destination,
            kind,
            index: Some(index),
            device: None,
            gateway: None,
            protocol: 2,
            metric: 0,
        }
    }

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link { loopback: name == "lo", kind: kind.map(str::to_owned), ..Link::sample(index, name) }
    }

    #[test]
    fn only_a_unicast_route_that_covers_all_next_hops_on_a_real_device_counts() {
        let links = [link(1, "lo", None), link(2, "eth0", None), link(3, "cali0", Some("veth"))];
        let holds = |text, index, kind| holds_next_hops(&route(text, index, kind), &links);
        assert!(holds("0.0.0.0/0", 2, RouteKind::Unicast));
        assert!(holds("169.254.0.0/16", 2, RouteKind::Unicast));
        assert!(!holds("0.0.0.0/0", 2, RouteKind::Refuse));
        assert!(!holds("0.0.0.0/0", 3, RouteKind::Unicast));
        assert!(!holds("0.0.0.0/0", 9, RouteKind::Unicast));
        assert!(!holds("169.254.1.0/24", 1, RouteKind::Unicast));
        assert!(!holds("169.254.1.0/25", 2, RouteKind::Unicast));
        assert!(!holds("10.0.0.0/8", 2, RouteKind::Unicast));
    }
}
