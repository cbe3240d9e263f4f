//! Routes that somebody else made to the host sides of endpoints.

use super::endpoint::check_ours;
use super::error::{Meaning, NetError};
use super::link::{self, Link};
use super::route::{self, HostRoute, KERNEL_PROTOCOL, ROUTE_METRIC};
use super::rtnl::{Ask, Rtnl};
use super::{EndpointRef, RouteKind};
use crate::model::{Cidr, IpVersion};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteFlags, RouteMessage};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// The host sides that are there, by index, with the endpoint of each.
type Sides<'a> = HashMap<u32, (&'a str, &'a EndpointRef)>;

/// See [`super::Host::remove_foreign_routes`].
pub(crate) async fn remove(
    rtnl: &Rtnl,
    versions: &[IpVersion],
    endpoints: &[EndpointRef],
) -> Result<Vec<Result<HostRoute, NetError>>, NetError> {
    let links = link::decode_all(&rtnl.dump(link::list(), "list interfaces").await?);
    let sides = sides(&links, endpoints);
    let (mut routes, mut asks) = (Vec::new(), Vec::new());
    for version in versions {
        let listed = rtnl.dump(route::list(*version), &format!("list {version} routes")).await?;
        for (message, hops) in foreign(&listed, &sides) {
            let hop = hops.into_iter().next().map(|hop| named(hop, &sides));
            asks.extend(hop.as_ref().map(|hop| delete(message, hop)));
            routes.extend(hop);
        }
    }
    let answers = rtnl.batch(asks).await?;
    let outcome = |(route, refusal): (HostRoute, Option<super::rtnl::Refusal>)| match refusal {
        None => Some(Ok(route)),
        // Who made it, or its interface, has taken it away.
        Some(refusal) if Meaning::of(refusal.errno) == Meaning::NotThere => None,
        Some(refusal) => Some(Err(refusal.into())),
    };
    let refusals = answers.into_iter().map(|answer| answer.refusal);
    Ok(routes.into_iter().zip(refusals).filter_map(outcome).collect())
}

/// A pair without our mark, of whatever name, is not ours yet.
fn sides<'a>(links: &'a [Link], endpoints: &'a [EndpointRef]) -> Sides<'a> {
    let by_name: HashMap<&str, &EndpointRef> = endpoints.iter().map(|it| (it.host.as_str(), it)).collect();
    let side = |link: &'a Link| {
        let endpoint = *by_name.get(link.name.as_str())?;
        let marked = link.alias.is_some() && check_ours(link, &endpoint.alias).is_ok();
        marked.then_some((link.index, (link.name.as_str(), endpoint)))
    };
    links.iter().filter_map(side).collect()
}

/// The messages of foreign routes, with their next hops. Every next hop of such a route is a host side: one that leads
/// elsewhere, too, is not about our endpoints alone.
fn foreign<'a>(
    listed: &'a [RouteNetlinkMessage],
    sides: &Sides<'_>,
) -> Vec<(&'a RouteMessage, Vec<HostRoute>)> {
    let decoded = listed.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewRoute(message) => Some((message, route::decode(message))),
        _ => None,
    });
    let here = |hop: &HostRoute| hop.index.is_some_and(|index| sides.contains_key(&index));
    let to_sides: Vec<_> = decoded.filter(|(_, hops)| !hops.is_empty() && hops.iter().all(here)).collect();
    let own: HashSet<(Option<u32>, Cidr)> = to_sides
        .iter()
        .flat_map(|(_, hops)| hops)
        .filter(|hop| is_own(hop, sides))
        .map(|hop| (hop.index, hop.destination))
        .collect();
    let is_foreign = |hop: &HostRoute| {
        let needed = leads_home(hop, sides) && !own.contains(&(hop.index, hop.destination));
        !is_own(hop, sides) && !is_kernels(hop) && !needed
    };
    to_sides.into_iter().filter(|(_, hops)| hops.iter().all(is_foreign)).collect()
}

/// Whether it leads to an address of the endpoint whose host side it goes through.
fn leads_home(route: &HostRoute, sides: &Sides<'_>) -> bool {
    let endpoint = route.index.and_then(|index| sides.get(&index));
    endpoint.is_some_and(|(_, it)| it.addresses.iter().any(|ip| route.destination == Cidr::host(*ip)))
}

/// Whether it is the one that [`super::Host::ensure_endpoint`] makes, or stands in its place.
fn is_own(route: &HostRoute, sides: &Sides<'_>) -> bool {
    route.kind == RouteKind::Unicast && route.metric == ROUTE_METRIC && leads_home(route, sides)
}

/// Whether the kernel keeps it, for an address of the interface or for multicast on it.
fn is_kernels(route: &HostRoute) -> bool {
    let of_link = match route.destination.base() {
        IpAddr::V4(ip) => ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_multicast() || ip.is_unicast_link_local(),
    };
    of_link || route.protocol == KERNEL_PROTOCOL || route.kind == RouteKind::Other
}

fn named(route: HostRoute, sides: &Sides<'_>) -> HostRoute {
    let device = route.index.and_then(|index| sides.get(&index)).map(|(name, _)| (*name).to_owned());
    HostRoute { device, ..route }
}

/// With everything that the kernel said of it, so that no other route is meant.
fn delete(message: &RouteMessage, route: &HostRoute) -> Ask {
    let mut message = message.clone();
    message.header.flags = RouteFlags::empty();
    Ask::new(RouteNetlinkMessage::DelRoute(message), 0, format!("delete route {route}"))
}
