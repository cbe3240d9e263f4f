//! Which of the kernel's routes of protocol 12 are those of this plugin's BIRD. Pure.
//!
//! Every BIRD marks its routes with that number, and nothing else in them says whose they are. Ours lead into a pool, or go
//! by a router that ours talked to. That is kept as text in `/run`: when the routes are to go, the datastore may not answer
//! and this plugin's folder may be gone with it; the routes and `/run` end with the host's run.

use super::reply::Reply;
use crate::model::Cidr;
use crate::net::HostRoute;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol of routes that BIRD programmed (`/etc/iproute2/rt_protos`).
pub(super) const BIRD: u8 = 12;

/// Where the routes of a BIRD may lead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Prefixes of all pools.
    pub(super) pools: BTreeSet<Cidr>,
    /// Routers by which packets go: peers, and what BIRD made of the next hops that they announced, for IPv6 mostly
    /// link-local addresses.
    pub(super) routers: BTreeSet<IpAddr>,
}

impl Reach {
    /// The text of a file; [`Reach::read`] reads it.
    pub(super) fn text(&self) -> String {
        let pools = self.pools.iter().map(|pool| format!("pool {pool}\n"));
        pools.chain(self.routers.iter().map(|router| format!("router {router}\n"))).collect()
    }

    /// What a text says; lines that say nothing are passed over: what is not known for ours stays.
    pub(super) fn read(text: &str) -> Self {
        let mut reach = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("pool", pool)) => reach.pools.extend(pool.parse::<Cidr>()),
                Some(("router", router)) => reach.routers.extend(router.parse::<IpAddr>()),
                _ => {}
            }
        }
        reach
    }

    /// Everywhere.
    pub(super) fn everywhere() -> Self {
        let any = |ip: IpAddr| Cidr::masking(ip, 0);
        let all = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()].map(any);
        Self { pools: all.into(), routers: BTreeSet::new() }
    }

    /// Whether a route may be that of the BIRD.
    fn holds(&self, route: &HostRoute) -> bool {
        self.pools.iter().any(|pool| pool.contains_cidr(&route.destination))
            || route.gateway.is_some_and(|router| self.routers.contains(&router))
    }
}

/// The routers in BIRD's answer to `show route export PROTOCOL`.
pub(super) fn routers(reply: &Reply) -> BTreeSet<IpAddr> {
    let via = reply.lines.iter().filter_map(|(_, line)| line.trim_start().strip_prefix("via "));
    via.filter_map(|via| via.split_whitespace().next()?.parse().ok()).collect()
}

/// Routes of protocol 12.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parted {
    /// Those of the BIRD, as they are deleted.
    pub(super) ours: Vec<HostRoute>,
    /// The others.
    pub(super) others: Vec<HostRoute>,
}

/// Parts the routes of protocol 12 by whose they are.
pub(super) fn part(routes: Vec<HostRoute>, reach: &Reach) -> Parted {
    let learned: Vec<HostRoute> = routes.into_iter().filter(|route| route.protocol == BIRD).collect();
    let key = |route: &HostRoute| (route.destination, route.metric);
    // A route over several next hops is listed by each of them and was made by one program.
    let held: BTreeSet<(Cidr, u32)> = learned.iter().filter(|route| reach.holds(route)).map(key).collect();
    let mut seen = BTreeSet::new();
    let mut parted = Parted::default();
    for route in learned.into_iter().filter(|route| seen.insert(key(route))) {
        match held.contains(&key(&route)) {
            // It goes as a whole: no next hop is named.
            true => parted.ours.push(HostRoute { index: None, device: None, gateway: None, ..route }),
            false => parted.others.push(route),
        }
    }
    parted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::RouteKind;

    fn route(to: &str, via: Option<&str>, protocol: u8) -> HostRoute {
        HostRoute {
            destination: to.parse().unwrap(),
            kind: if via.is_some() { RouteKind::Unicast } else { RouteKind::Refuse },
            index: via.map(|_| 2),
            device: None,
            gateway: via.map(|via| via.parse().unwrap()),
            protocol,
            metric: 1024,
        }
    }

    #[test]
    fn ours_lead_into_a_pool_or_by_a_router_that_we_talked_to() {
        let reach =
            Reach::read("pool 10.1.0.0/16\npool fd00:1::/64\nrouter 172.16.0.254\nrouter here\nnonsense\n");
        let routes = vec![
            route("10.1.3.0/26", Some("172.16.0.3"), BIRD),
            route("10.1.4.0/26", None, BIRD),
            route("10.200.0.0/24", Some("172.16.0.254"), BIRD),
            // One route over two routers, of which one is known.
            route("10.201.0.0/24", Some("172.16.0.253"), BIRD),
            route("10.201.0.0/24", Some("172.16.0.254"), BIRD),
            route("10.202.0.0/24", Some("172.16.0.77"), BIRD),
            route("10.0.0.0/8", Some("172.16.0.77"), BIRD),
            route("10.1.5.0/26", Some("172.16.0.3"), 4),
        ];
        let parted = part(routes, &reach);
        let names = |routes: &[HostRoute]| {
            routes.iter().map(|route| route.destination.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&parted.ours), ["10.1.3.0/26", "10.1.4.0/26", "10.200.0.0/24", "10.201.0.0/24"]);
        assert_eq!(names(&parted.others), ["10.202.0.0/24", "10.0.0.0/8"]);
        assert!(parted.ours.iter().all(|route| route.index.is_none() && route.gateway.is_none()));
    }

    #[test]
    fn routers_are_read_from_birds_answer() {
        let mut reply = Reply::default();
        for line in [
            "1007-Table master6:",
            " fd20::/64            unicast [Global_fd16__fe 10:25:00.000] * (100) [AS65001i]",
            " \tvia fe80::1 on eth0",
            " \tvia fd16::2 on eth0 weight 1",
            " 10.1.0.0/26          blackhole [static4 10:25:00.000] * (200)",
            "0000 ",
        ] {
            reply.push(line).unwrap();
        }
        let expected = ["fd16::2", "fe80::1"].map(|ip| ip.parse().unwrap());
        assert_eq!(routers(&reply), BTreeSet::from(expected));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let reach = Reach::read("pool 10.1.0.0/16\npool fd00:1::/64\nrouter fd16::fe\nrouter 172.16.0.254\n");
        assert_eq!(Reach::read(&reach.text()), reach);
        assert_eq!((reach.pools.len(), reach.routers.len()), (2, 2));
        assert_eq!(Reach::read(""), Reach::default());
    }
}
