//! Routes to blocks of addresses: of other nodes, and the blackholes of this node's own.

use super::endpoint::refusals;
use super::error::{Meaning, NetError};
use super::route::{HostRoute, RouteKind};
use super::rtnl::{Ask, Rtnl};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use std::net::IpAddr;

/// A change of routes, applied in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteChanges {
    /// Taken away; one that is not there is fine.
    pub delete: Vec<HostRoute>,
    /// Put in the place of our own route with the same destination and metric, without a gap.
    pub replace: Vec<HostRoute>,
    /// Added. Where somebody else has a route with the same destination and metric it stays, and ours is refused.
    pub add: Vec<HostRoute>,
}

impl RouteChanges {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.replace.is_empty() && self.add.is_empty()
    }
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

/// `[blackhole] DESTINATION [via GATEWAY] [dev DEVICE] [onlink] proto PROTOCOL metric METRIC`: a gateway is reached
/// through the device whatever prefixes that has.
fn message(route: &HostRoute) -> RouteMessage {
    let mut message = super::route::to(route.destination);
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.scope = RouteScope::Universe;
    message.attributes.push(RouteAttribute::Priority(route.metric));
    if route.kind == RouteKind::Refuse {
        message.header.kind = RouteType::BlackHole;
        return message;
    }
    message.attributes.extend(route.index.map(RouteAttribute::Oif));
    match route.gateway {
        Some(gateway) => {
            message.attributes.push(RouteAttribute::Gateway(address(gateway)));
            message.header.flags = RouteFlags::Onlink;
        }
        None if route.destination.base().is_ipv4() => message.header.scope = RouteScope::Link,
        None => {}
    }
    message
}

fn described(route: &HostRoute) -> String {
    let how = if route.kind == RouteKind::Refuse { "blackhole route" } else { "route" };
    format!("{how} {route}")
}

fn new(route: &HostRoute, flags: u16) -> Ask {
    let what = format!("add {}", described(route));
    Ask::new(RouteNetlinkMessage::NewRoute(message(route)), NLM_F_CREATE | flags, what)
}

fn delete(route: &HostRoute) -> Ask {
    let mut message = message(route);
    // An IPv4 route of any scope; the others of its attributes have to be right.
    message.header.scope = RouteScope::NoWhere;
    message.header.flags = RouteFlags::empty();
    Ask::new(RouteNetlinkMessage::DelRoute(message), 0, format!("delete {}", described(route)))
}

/// See [`super::Underlay::change_routes`].
pub(crate) async fn change(rtnl: &Rtnl, changes: &RouteChanges) -> Result<(), NetError> {
    let answers = rtnl.batch(changes.delete.iter().map(delete).collect()).await?;
    let kept = answers.into_iter().filter_map(|answer| answer.refusal).map(NetError::from);
    let mut errors: Vec<NetError> = kept.filter(|error| !error.is_not_there()).collect();
    let replaced =
        rtnl.batch(changes.replace.iter().map(|route| new(route, NLM_F_REPLACE)).collect()).await?;
    errors.extend(refusals(replaced).err());
    let added = rtnl.batch(changes.add.iter().map(|route| new(route, NLM_F_EXCL)).collect()).await?;
    for (route, answer) in changes.add.iter().zip(added) {
        let Some(refusal) = answer.refusal else { continue };
        errors.push(match Meaning::of(refusal.errno) {
            Meaning::AlreadyThere => NetError::RouteTaken { route: described(route), metric: route.metric },
            _ => refusal.into(),
        });
    }
    NetError::of_all(errors).map_or(Ok(()), Err)
}
