//! Routes inside a container, beside those that Docker makes.
//!
//! Docker gives a container one default route. Where that leads over a bridge of Docker's, or over another network, the
//! container would call the peers of a network under an address that they do not know, and answer them beside the way
//! that they came. So each of its endpoints gets a table of its own for what goes out under its address, and all share
//! one with the networks' prefixes:
//!
//! ```text
//! 31000  from 10.44.0.5 lookup 8001                default via 169.254.1.1 dev cali0 onlink
//! 31001  lookup main suppress_prefixlength 0        what Docker knows better than "default"
//! 31002  lookup 8000                                10.44.0.0/16 via 169.254.1.1 dev cali0 onlink
//! 32766  lookup main                                Docker's default route
//! ```
//!
//! They are in tables of their own because engines refuse an address that a route of the main table covers ("conflicts
//! with existing route", moby `libnetwork/osl/interface_linux.go`, 20.10 to 29): a second network of one pool.

use super::endpoint::refusals;
use super::error::{Meaning, NetError};
use super::link::{self, Link};
use super::route::{self, ROUTE_PROTOCOL};
use super::rtnl::{Ask, Rtnl};
use super::rule::{self, Rule};
use crate::model::{Cidr, IpVersion, MacAddress};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use nix::sched::{CloneFlags, setns};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::sync::oneshot;

/// Priorities of the rules: after those of an administrator of the container, before the main table's.
const FROM_OWN: u32 = 31_000;
const MAIN_FIRST: u32 = 31_001;
const PREFIXES: u32 = 31_002;
/// What is added to the metric of a pool's route.
const SHARED: u32 = 256;
/// The table of prefixes; the tables of endpoints follow by the number of their next hop.
const TABLE: u32 = 8000;

/// One endpoint of ours in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEndpoint {
    /// The container interface's address, by which it is found.
    pub mac: MacAddress,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The number of its next hop, 1 to 254.
    pub hop: u8,
    /// Its next hops, at most one of each IP version.
    pub next_hops: Vec<IpAddr>,
    /// The prefixes that its network names.
    pub prefixes: Vec<Cidr>,
    /// The prefixes of pools that its network shares with others, because it names none: less particular.
    pub pools: Vec<Cidr>,
    /// Whether it leads to everywhere, or to its network only (`--internal`).
    pub leads_out: bool,
}

/// A route of ours in a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Inside {
    table: u32,
    to: Cidr,
    via: IpAddr,
    device: u32,
    metric: u32,
}

/// `CAP_SYS_ADMIN`, by its number in `include/uapi/linux/capability.h`.
const SYS_ADMIN: u32 = 21;

/// Whether this process may enter the network namespaces of containers. The managed plugin may only if it was built with
/// `WITH_CONTAINER_ROUTES=1`.
#[must_use]
pub fn may_enter_containers() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    has_capability(&status, SYS_ADMIN)
}

/// Reads the effective capabilities of `/proc/PID/status` (proc(5)).
fn has_capability(status: &str, number: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    bits.checked_shr(number).is_some_and(|bits| bits & 1 == 1)
}

/// Programs rules and routes in a container's namespace, and takes away what is there of ours and should not be. False
/// if one of the endpoints is not there or not up yet: then it is as if it were not named. Needs `CAP_SYS_ADMIN`.
pub async fn program_container(netns: PathBuf, endpoints: Vec<ContainerEndpoint>) -> Result<bool, NetError> {
    let (done, outcome) = oneshot::channel();
    // A thread that has entered another namespace is of no use for anything else, so it ends with this.
    let started = std::thread::Builder::new().name("net-inside".to_owned()).spawn(move || {
        // The caller may have given up.
        let _ = done.send(inside(&netns, &endpoints));
    });
    started.map_err(|error| NetError::of_io("start a thread for a container's namespace", error))?;
    outcome.await.unwrap_or(Err(NetError::Stopped))
}

fn inside(netns: &std::path::Path, endpoints: &[ContainerEndpoint]) -> Result<bool, NetError> {
    let what = || format!("enter network namespace {}", netns.display());
    let file = File::open(netns).map_err(|error| NetError::of_io(what(), error))?;
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetError::of_io(what(), errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NetError::of_io(what(), error))?;
    runtime.block_on(async {
        let rtnl = Rtnl::open_one().map_err(|error| NetError::of_io(what(), error))?;
        let links = link::decode_all(&rtnl.dump(link::list(), "list a container's interfaces").await?);
        let devices: HashMap<MacAddress, &Link> =
            links.iter().filter_map(|link| Some((link.mac?, link))).filter(|(_, link)| link.up).collect();
        for version in [IpVersion::V4, IpVersion::V6] {
            program(&rtnl, version, endpoints, &devices).await?;
        }
        Ok(endpoints.iter().all(|endpoint| devices.contains_key(&endpoint.mac)))
    })
}

async fn program(
    rtnl: &Rtnl,
    version: IpVersion,
    endpoints: &[ContainerEndpoint],
    devices: &HashMap<MacAddress, &Link>,
) -> Result<(), NetError> {
    let (rules, routes) = wanted(version, endpoints, devices);
    let has_rules = match rtnl.dump(rule::list(version), "list a container's rules").await {
        Ok(listed) => rules_in(&listed),
        // A kernel without IPv6, or without rules.
        Err(error) if rules.is_empty() => {
            log::debug!("{error}");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let listed = rtnl.dump(route::list(version), "list a container's routes").await?;
    let has_routes: BTreeSet<Inside> = listed.iter().filter_map(decode).collect();
    // Routes first: a rule leads somewhere from its first moment. What goes, goes in the other order.
    let mut asks: Vec<Ask> = routes.difference(&has_routes).map(add).collect();
    asks.extend(rules.difference(&has_rules).map(|rule| rule.add(version)));
    refusals(rtnl.batch(asks).await?)?;
    let mut asks: Vec<Ask> = has_rules.difference(&rules).map(|rule| rule.delete(version)).collect();
    asks.extend(has_routes.difference(&routes).map(delete));
    let gone = rtnl.batch(asks).await?.into_iter().filter(|answer| {
        !answer.refusal.as_ref().is_some_and(|refusal| Meaning::of(refusal.errno) == Meaning::NotThere)
    });
    refusals(gone.collect())
}

/// What there should be. Pure.
fn wanted(
    version: IpVersion,
    endpoints: &[ContainerEndpoint],
    devices: &HashMap<MacAddress, &Link>,
) -> (BTreeSet<Rule>, BTreeSet<Inside>) {
    let (mut rules, mut routes) = (BTreeSet::new(), BTreeSet::new());
    for endpoint in endpoints {
        let device = devices.get(&endpoint.mac).map(|link| link.index);
        let via = endpoint.next_hops.iter().find(|ip| IpVersion::of(**ip) == version);
        let (Some(device), Some(via)) = (device, via) else { continue };
        let (table, metric) = (TABLE + u32::from(endpoint.hop), u32::from(endpoint.hop));
        let through = |table, to, metric| Inside { table, to, via: *via, device, metric };
        let named = endpoint.prefixes.iter().map(|prefix| (*prefix, metric));
        let shared = endpoint.pools.iter().map(|pool| (*pool, SHARED + metric));
        for (prefix, metric) in named.chain(shared).filter(|(prefix, _)| prefix.version() == version) {
            routes.insert(through(TABLE, prefix, metric));
            if !endpoint.leads_out {
                routes.insert(through(table, prefix, metric));
            }
        }
        if endpoint.leads_out {
            routes.insert(through(table, Cidr::any(version), metric));
        }
        let own = endpoint.addresses.iter().filter(|ip| IpVersion::of(**ip) == version);
        rules.extend(own.map(|ip| Rule {
            priority: FROM_OWN,
            from: Some(*ip),
            table,
            without_default: false,
        }));
    }
    if !rules.is_empty() {
        let main = RouteHeader::RT_TABLE_MAIN.into();
        rules.insert(Rule { priority: MAIN_FIRST, from: None, table: main, without_default: true });
        rules.insert(Rule { priority: PREFIXES, from: None, table: TABLE, without_default: false });
    }
    (rules, routes)
}

fn rules_in(listed: &[RouteNetlinkMessage]) -> BTreeSet<Rule> {
    let rule = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewRule(rule) => Rule::decode(rule),
        _ => None,
    };
    listed.iter().filter_map(rule).collect()
}

/// A route of ours; `None` for every other.
fn decode(message: &RouteNetlinkMessage) -> Option<Inside> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    let table = route::table_of(route);
    let via = route::gateway_of(&route.attributes)?;
    if u8::from(route.header.protocol) != ROUTE_PROTOCOL || !(TABLE..TABLE + 256).contains(&table) {
        return None;
    }
    let base = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => route::ip_of(address),
        _ => None,
    });
    let any = Cidr::any(IpVersion::of(via));
    let to = base.map_or(any, |base| Cidr::masking(base, route.header.destination_prefix_length));
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let device = route::device_of(&route.attributes)?;
    Some(Inside { table, to, via, device, metric: metric.unwrap_or_default() })
}

fn message(inside: &Inside) -> RouteMessage {
    let mut message = route::to(inside.to);
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.scope = RouteScope::Universe;
    // Docker's own route to the next hop may come a moment later.
    message.header.flags = RouteFlags::Onlink;
    let via = match inside.via {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    };
    message.attributes.extend([
        RouteAttribute::Table(inside.table),
        RouteAttribute::Gateway(via),
        RouteAttribute::Oif(inside.device),
        RouteAttribute::Priority(inside.metric),
    ]);
    message
}

fn add(inside: &Inside) -> Ask {
    let message = RouteNetlinkMessage::NewRoute(message(inside));
    Ask::new(message, NLM_F_CREATE | NLM_F_REPLACE, format!("add route {} inside a container", inside.to))
}

fn delete(inside: &Inside) -> Ask {
    let message = RouteNetlinkMessage::DelRoute(message(inside));
    Ask::new(message, 0, format!("delete route {} inside a container", inside.to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_read_from_the_processs_status() {
        let status = |hex: &str| format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{hex}\n");
        assert!(has_capability(&status("000001ffffffffff"), SYS_ADMIN));
        assert!(has_capability(&status("0000000000200000"), SYS_ADMIN));
        assert!(!has_capability(&status("00000000a80435fb"), SYS_ADMIN));
        assert!(!has_capability("Name:\tx\n", SYS_ADMIN));
    }
}
