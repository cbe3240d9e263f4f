//! The kernel's own source check on the interfaces of a container that has several.
//!
//! Such a container answers under any of its addresses over the interface with its default route, so `rp_filter` must
//! not be strict there. That takes an address: on an interface without one the kernel treats the loose mode 2 as strict
//! (`net/ipv4/fib_frontend.c`, `__fib_validate_source`, `no_addr`), and it takes the larger value of `conf/all` and the
//! interface, so that 0 would need a 0 in `conf/all` as well. With an address and 2 it is loose whatever `conf/all` says.
//!
//! The address must not become the source of what the host itself sends to the container. Its scope is `host`; as
//! `route_localnet` lets the kernel take even that for routes of scope `link` (`inet_select_addr`), the routes to
//! endpoints have the scope `global`. It stays until the link goes: with the last address of a link the kernel flushes
//! its routes and neighbours (`fib_inetaddr_event`).

use super::EndpointRef;
use super::endpoint::{check_ours, found, refusals};
use super::error::NetError;
use super::link::{self, Link};
use super::neigh;
use super::rtnl::Rtnl;
use super::sysctl::Sysctl;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use std::net::Ipv4Addr;

/// The address: of the next hops' prefix, and none of theirs.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 255);

const LOOSE: &str = "2";
const STRICT: &str = "1";

/// The interface's `rp_filter`: `conf/default`'s value is what a new interface gets; "1" if it cannot be read, as Felix
/// has it.
pub(crate) fn rp_filter(sysctl: &Sysctl, siblings: bool) -> String {
    match siblings {
        true => LOOSE.to_owned(),
        false => sysctl.get("ipv4/conf/default/rp_filter").unwrap_or_else(|_unreadable| STRICT.to_owned()),
    }
}

/// Whether new network namespaces, and so containers, check sources strictly: the kernel gives them the first
/// namespace's values (`net.core.devconf_inherit_init_net`). Bridges of the host do the same.
pub(crate) fn containers_are_strict(sysctl: &Sysctl) -> bool {
    let value = |of: &str| sysctl.get(&format!("ipv4/conf/{of}/rp_filter")).unwrap_or_default();
    let (all, default) = (value("all"), value("default"));
    all.max(default) == STRICT
}

/// See [`super::Host::set_siblings`].
pub(crate) async fn set(
    rtnl: &Rtnl,
    sysctl: &Sysctl,
    endpoint: &EndpointRef,
    siblings: bool,
) -> Result<(), NetError> {
    let Some(link) = found(rtnl.ask(link::get(endpoint.host.as_str())).await?)? else { return Ok(()) };
    if check_ours(&link, &endpoint.alias).is_err() {
        return Ok(());
    }
    let done = change(rtnl, sysctl, &link, siblings).await;
    // An interface that goes away meanwhile needs nothing.
    done.or_else(|error| if error.is_not_there() { Ok(()) } else { Err(error) })?;
    if siblings && containers_are_strict(sysctl) {
        log::warn!(
            "{}: its container is on several networks, and net.ipv4.conf.all/default.rp_filter of this host, which \
             containers inherit, is 1: over IPv4 it is reached on the network of its default route only; set both to \
             0 or 2, or start it with --sysctl net.ipv4.conf.all.rp_filter=2",
            endpoint.host
        );
    }
    Ok(())
}

async fn change(rtnl: &Rtnl, sysctl: &Sysctl, link: &Link, siblings: bool) -> Result<(), NetError> {
    let name = format!("ipv4/conf/{}/rp_filter", link.name);
    sysctl.set(&name, &rp_filter(sysctl, siblings))?;
    if siblings { add_address(rtnl, link).await } else { Ok(()) }
}

/// Gives an interface the address, if it has not got it.
pub(crate) async fn add_address(rtnl: &Rtnl, link: &Link) -> Result<(), NetError> {
    let add = neigh::add_own(OWN_ADDRESS, link.index, &link.name).with_flags(NLM_F_CREATE | NLM_F_REPLACE);
    refusals(vec![rtnl.ask(add).await?])
}
