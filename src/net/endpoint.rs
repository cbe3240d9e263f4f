//! Makes and removes the host side of one endpoint.
//!
//! ```text
//! find or make the pair -> sysctls -> one batch: alias, up, gateway, routes, neighbours
//!         |                   |                    |
//!         +---- on failure: delete the pair if this call made it, else only what this call added
//! ```

use super::error::{Meaning, NetError};
use super::gather::Gather;
use super::link::{self, Change, Link};
use super::route::RouteKind;
use super::rtnl::{Answer, Ask, Rtnl};
use super::sysctl::{self, Sysctl};
use super::{EndpointLink, neigh, route, siblings};
use crate::model::Cidr;
use crate::model::MacAddress;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::RouteScope;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How long the kernel's worker may take to make a gateway address usable; commonly less than a millisecond.
const GATEWAY_DEADLINE: Duration = Duration::from_secs(5);

/// Between two looks; the resolution of tokio's timer.
const GATEWAY_POLL: Duration = Duration::from_millis(1);

/// The pair of one endpoint, as found or made.
struct Pair {
    host: Link,
    /// The container's end, while it is still in the host's namespace.
    temp: Option<Link>,
    /// Whether this call made it.
    made: bool,
}

/// One thing that an endpoint needs on its host side, with the request that takes it away again.
struct Thing {
    add: Ask,
    delete: Ask,
}

/// Makes everything be there; see [`super::Host::ensure_endpoint`].
pub(crate) async fn ensure(rtnl: &Rtnl, sysctl: &Sysctl, endpoint: &EndpointLink) -> Result<(), NetError> {
    let ipv6 = sysctl.has_ipv6();
    if let (false, Some(address)) = (ipv6, endpoint.first_ipv6()) {
        return Err(NetError::NoIpv6 { iface: endpoint.host.to_string(), address });
    }
    let pair = find_or_make(rtnl, endpoint).await?;
    let programmed = program(rtnl, sysctl, endpoint, &pair).await;
    let Err(error) = programmed else { return Ok(()) };
    if !pair.made {
        return Err(error);
    }
    // With the link go its addresses, routes and neighbours.
    let undone = delete_link(rtnl, &pair.host).await;
    Err(NetError::of_all([Some(error), undone.err()].into_iter().flatten().collect())
        .unwrap_or(NetError::Stopped))
}

async fn find_or_make(rtnl: &Rtnl, endpoint: &EndpointLink) -> Result<Pair, NetError> {
    let asks = vec![
        link::create_pair(endpoint),
        link::get(endpoint.host.as_str()),
        link::get(endpoint.temp.as_str()),
    ];
    let mut answers = rtnl.batch(asks).await?.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    let (created, host, temp) = (next(), next(), next());
    let (host, temp) = match (found(host), found(temp)) {
        (Ok(host), Ok(temp)) => (host, temp),
        (host, temp) => {
            let mut errors: Vec<NetError> = host.err().into_iter().chain(temp.err()).collect();
            if created.refusal.is_none() {
                let undone = rtnl.ask(link::delete_by_name(endpoint.host.as_str())).await;
                errors.extend(undone.and_then(|answer| absent_is_fine(vec![answer])).err());
            }
            return Err(NetError::of_all(errors).unwrap_or(NetError::Stopped));
        }
    };
    match (created.refusal, host) {
        (None, Some(host)) => Ok(Pair { host, temp, made: true }),
        (None, None) => Err(NetError::NotThere { what: format!("look up new interface {}", endpoint.host) }),
        (Some(refusal), Some(host)) if Meaning::of(refusal.errno) == Meaning::AlreadyThere => {
            check_ours(&host, &endpoint.alias)?;
            let temp = temp.filter(|temp| host.peer == Some(temp.index) && !host.peer_elsewhere);
            Ok(Pair { host, temp, made: false })
        }
        (Some(refusal), None) if Meaning::of(refusal.errno) == Meaning::AlreadyThere && temp.is_some() => {
            let why = format!("it exists without its host side {}", endpoint.host);
            Err(NetError::NameTaken { iface: endpoint.temp.to_string(), why })
        }
        (Some(refusal), _) => Err(refusal.into()),
    }
}

/// The link in an answer; a link that does not exist is no error.
pub(crate) fn found(answer: Answer) -> Result<Option<Link>, NetError> {
    match answer.refusal {
        Some(refusal) if Meaning::of(refusal.errno) != Meaning::NotThere => Err(refusal.into()),
        _ => Ok(link::decode_all(&answer.messages).into_iter().next()),
    }
}

/// A veth without an alias is ours, too: the call that made it may have been cut off before it set the alias, and the
/// Go plugin set none; the name holds eleven characters of a random ID.
pub(crate) fn check_ours(link: &Link, alias: &str) -> Result<(), NetError> {
    let why = match (&link.kind, &link.alias) {
        (Some(kind), _) if kind != "veth" => format!("it is a {kind}, not a veth"),
        (None, _) => "it is not a veth".to_owned(),
        (_, Some(other)) if other != alias => format!("its alias is {other:?}, not {alias:?}"),
        _ => return Ok(()),
    };
    Err(NetError::NameTaken { iface: link.name.clone(), why })
}

async fn program(rtnl: &Rtnl, sysctl: &Sysctl, endpoint: &EndpointLink, pair: &Pair) -> Result<(), NetError> {
    write_sysctls(sysctl, endpoint)?;
    let things = things(endpoint, pair.host.index);
    if pair.made {
        let change = Change { alias: Some(&endpoint.alias), up: true, ..Change::default() };
        let mut asks: Vec<Ask> =
            link::change(pair.host.index, &pair.host.name, &change).into_iter().collect();
        asks.extend(things.into_iter().map(|thing| thing.add.with_flags(NLM_F_CREATE | NLM_F_REPLACE)));
        refusals(rtnl.batch(asks).await?)?;
    } else {
        refusals(rtnl.batch(repairs(endpoint, pair)).await?)?;
        add_missing(rtnl, things).await?;
    }
    if endpoint.siblings {
        siblings::add_address(rtnl, &pair.host).await?;
    }
    match endpoint.gateway_v6 {
        Some(gateway) => wait_for_gateway(rtnl, gateway, &pair.host).await,
        None => Ok(()),
    }
}

/// An IPv6 address that was just added is not the host's own yet: a worker of the kernel adds its local route
/// (`addrconf_dad_work`), and until then the host does not answer for it.
async fn wait_for_gateway(rtnl: &Rtnl, gateway: Ipv6Addr, host: &Link) -> Result<(), NetError> {
    let waiting = tokio::time::Instant::now();
    while waiting.elapsed() < GATEWAY_DEADLINE {
        let answer = rtnl.ask(route::lookup_on(gateway, host.index)).await?;
        if route::kind_of(&answer) == Some(RouteKind::Local) {
            return Ok(());
        }
        tokio::time::sleep(GATEWAY_POLL).await;
    }
    let what = format!("wait for address {gateway} dev {}", host.name);
    Err(NetError::Timeout { what, after: GATEWAY_DEADLINE })
}

fn write_sysctls(sysctl: &Sysctl, endpoint: &EndpointLink) -> Result<(), NetError> {
    let rp_filter = siblings::rp_filter(sysctl, endpoint.siblings);
    let wants_ipv6 = endpoint.first_ipv6().is_some();
    let settings = sysctl::of_endpoint(endpoint.host.as_str(), &rp_filter, sysctl.has_ipv6(), wants_ipv6);
    settings.iter().try_for_each(|(name, value)| sysctl.set(name, value).map(drop))
}

/// In the order of adding: a packet of the workload is answered only when all of it is there.
fn things(endpoint: &EndpointLink, index: u32) -> Vec<Thing> {
    let device = endpoint.host.as_str();
    let gateway = endpoint.gateway_v6.map(|ip| Thing {
        add: neigh::add_gateway(ip, index, device, 0),
        delete: neigh::delete_gateway(ip, index, device),
    });
    let routes = endpoint.addresses.iter().map(|ip| Thing {
        add: route::add(Cidr::host(*ip), index, device, RouteScope::Universe),
        delete: route::delete(Cidr::host(*ip), index, device),
    });
    let neighbours = endpoint.addresses.iter().filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(Thing {
            add: neigh::add(*ip, endpoint.mac, index, device, 0),
            delete: neigh::delete(*ip, index, device),
        }),
        IpAddr::V6(_) => None,
    });
    gateway.into_iter().chain(routes).chain(neighbours).collect()
}

/// What is not as it should be on a pair that exists. An adopted pair (no alias) keeps its address: its container has
/// it in its neighbour table. The MTU changes on both ends or, when the container has its end, on none: a veth drops
/// what is longer than the receiving end's MTU (kernel `is_skb_forwardable`).
fn repairs(endpoint: &EndpointLink, pair: &Pair) -> Vec<Ask> {
    let adopted = pair.host.alias.is_none() && pair.temp.is_none();
    let wrong_mac = pair.host.mac != Some(MacAddress::HOST_SIDE) && !adopted;
    let mtu = |link: &Link| (pair.temp.is_some() && link.mtu != endpoint.mtu).then_some(endpoint.mtu);
    let host = Change {
        alias: pair.host.alias.is_none().then_some(endpoint.alias.as_str()),
        mac: wrong_mac.then_some(MacAddress::HOST_SIDE),
        mtu: mtu(&pair.host),
        up: !pair.host.up,
    };
    let temp = pair.temp.as_ref().and_then(|temp| {
        let mac = (temp.mac != Some(endpoint.mac)).then_some(endpoint.mac);
        link::change(temp.index, &temp.name, &Change { mac, mtu: mtu(temp), ..Change::default() })
    });
    link::change(pair.host.index, &pair.host.name, &host).into_iter().chain(temp).collect()
}

/// Adds what is missing and replaces what is there, so that a failure takes away no more than this call added.
async fn add_missing(rtnl: &Rtnl, things: Vec<Thing>) -> Result<(), NetError> {
    let exclusive =
        things.iter().map(|thing| thing.add.clone().with_flags(NLM_F_CREATE | NLM_F_EXCL)).collect();
    let answers = rtnl.batch(exclusive).await?;
    let (mut added, mut present, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (thing, answer) in things.into_iter().zip(answers) {
        match answer.refusal {
            None => added.push(thing.delete),
            Some(refusal) if Meaning::of(refusal.errno) == Meaning::AlreadyThere => present.push(thing.add),
            Some(refusal) => errors.push(NetError::from(refusal)),
        }
    }
    if errors.is_empty() {
        let replace = present.into_iter().map(|add| add.with_flags(NLM_F_CREATE | NLM_F_REPLACE)).collect();
        match rtnl.batch(replace).await.and_then(refusals) {
            Ok(()) => return Ok(()),
            Err(error) => errors.push(error),
        }
    }
    let undo = added.into_iter().rev().collect();
    errors.extend(rtnl.batch(undo).await.and_then(absent_is_fine).err());
    NetError::of_all(errors).map_or(Ok(()), Err)
}

pub(crate) fn refusals(answers: Vec<Answer>) -> Result<(), NetError> {
    let errors = answers.into_iter().filter_map(|answer| answer.refusal).map(NetError::from).collect();
    NetError::of_all(errors).map_or(Ok(()), Err)
}

/// The same for deletions: what is not there need not be deleted.
fn absent_is_fine(answers: Vec<Answer>) -> Result<(), NetError> {
    let errors = answers.into_iter().filter_map(|answer| answer.refusal).map(NetError::from);
    NetError::of_all(errors.filter(|error| !error.is_not_there()).collect()).map_or(Ok(()), Err)
}

async fn delete_link(rtnl: &Rtnl, link: &Link) -> Result<(), NetError> {
    absent_is_fine(vec![rtnl.ask(link::delete(link.index, &link.name)).await?])
}

/// A link that is to be deleted: its index and, for messages, its name.
pub(crate) type Doomed = (u32, String);

/// Takes everything away; see [`super::Host::release_endpoint`].
pub(crate) async fn release(
    rtnl: &Rtnl,
    deletions: &Gather<Doomed, ()>,
    endpoint: &super::EndpointRef,
) -> Result<(), NetError> {
    let asks = vec![link::get(endpoint.host.as_str()), link::get(endpoint.temp.as_str())];
    let mut answers = rtnl.batch(asks).await?.into_iter();
    let mut next = || found(answers.next().unwrap_or_default());
    let (host, temp) = (next()?, next()?);
    let foreign = |link: &Link| match check_ours(link, &endpoint.alias) {
        Ok(()) => false,
        Err(error) => {
            log::warn!("release {}: left alone: {error}", endpoint.host);
            true
        }
    };
    // The host side first; the container's end by its own name only if the pair lost its host side's name.
    let Some(link) = host.or(temp).filter(|link| !foreign(link)) else { return Ok(()) };
    let routes = endpoint.addresses.iter().map(|ip| route::delete(Cidr::host(*ip), link.index, &link.name));
    let cut_off = rtnl.batch(routes.collect()).await.and_then(absent_is_fine);
    let deleted = deletions.ask((link.index, link.name)).await;
    // A route that could not be deleted went with its link.
    deleted
        .inspect_err(|_| drop(cut_off.inspect_err(|error| log::warn!("release {}: {error}", endpoint.host))))
}

/// One round of deletions. Fifty links cost the kernel as much as one if they go together.
pub(crate) async fn delete_links(rtnl: Rtnl, doomed: Vec<Doomed>) -> Vec<Result<(), NetError>> {
    if doomed.len() > 1 {
        let together = delete_together(&rtnl, &doomed).await;
        match together {
            Ok(()) => return doomed.iter().map(|_| Ok(())).collect(),
            Err(error) => log::debug!("delete {} interfaces at once: {error}; now one by one", doomed.len()),
        }
    }
    let mut outcomes = Vec::with_capacity(doomed.len());
    for (index, name) in &doomed {
        let deleted = rtnl.ask(link::delete(*index, name)).await;
        outcomes.push(deleted.and_then(|answer| absent_is_fine(vec![answer])));
    }
    outcomes
}

async fn delete_together(rtnl: &Rtnl, doomed: &[Doomed]) -> Result<(), NetError> {
    let marks = doomed.iter().map(|(index, name)| link::doom(*index, name)).collect();
    absent_is_fine(rtnl.batch(marks).await?)?;
    absent_is_fine(vec![rtnl.ask(link::delete_doomed()).await?])
}
