//! [`Host`] over the real kernel.

use super::endpoint::Doomed;
use super::error::{Meaning, NetError};
use super::gather::Gather;
use super::link::{self, Change, Link};
use super::next_hop::{self, NextHops};
use super::route::{self, HostRoute};
use super::rtnl::Rtnl;
use super::sysctl::Sysctl;
use super::worker::Worker;
use super::{
    EndpointLink, EndpointRef, Host, HostAddress, HostEvent, HostFacts, RouteChanges, Underlay, Vtep,
    VxlanDevice, address, beside, conntrack, endpoint, foreign, monitor, remote, siblings, vxlan,
};
use crate::model::IpVersion;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use netlink_packet_route::RouteNetlinkMessage;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::sync::watch;

/// The kernel's network stack, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct KernelHost {
    worker: Worker,
    rtnl: Rtnl,
    sysctl: Sysctl,
    deletions: Gather<Doomed, ()>,
    flushes: Gather<Vec<IpAddr>, usize>,
    /// Whether routes and neighbours of endpoints are ours to make, and not Felix's.
    active: watch::Receiver<bool>,
    /// The threads of the two, apart from the first: their rounds wait in the kernel for tens of milliseconds.
    _slow: [Worker; 2],
}

impl KernelHost {
    /// Starts the thread that talks to the kernel and opens its socket. `sysctl_root` is `/proc/sys/net` or, in a
    /// managed plugin, the path where the host's is mounted writable; it is not looked at before
    /// [`Host::check`] or the first endpoint.
    pub async fn open(sysctl_root: impl Into<PathBuf> + Send) -> Result<Self, NetError> {
        let sysctl = Sysctl::new(sysctl_root);
        let start =
            |name| Worker::start(name).map_err(|error| NetError::of_io("start the network worker", error));
        let (worker, deleter, flusher) = (start("net")?, start("net-delete")?, start("net-flush")?);
        let refused = |error| NetError::of_io("open the rtnetlink socket", error);
        let rtnl = worker.run(async move { Rtnl::open().map_err(refused) }).await?;
        let own = deleter.run(async move { Rtnl::open_one().map_err(refused) }).await?;
        let (deletions, rounds) = Gather::new(move |doomed| {
            Box::pin(endpoint::delete_links(own.clone(), doomed)) as BoxFuture<'static, _>
        });
        deleter.spawn(rounds);
        let counters = sysctl.clone();
        let (flushes, rounds) = Gather::new(move |asked| {
            Box::pin(conntrack::flush(counters.clone(), asked)) as BoxFuture<'static, _>
        });
        flusher.spawn(rounds);
        // Without a sender the value stays.
        let active = watch::channel(true).1;
        Ok(Self { worker, rtnl, sysctl, deletions, flushes, active, _slow: [deleter, flusher] })
    }

    /// While the flag is false, Felix programs the host: only a new endpoint gets its routes, and keeps those of Felix.
    #[must_use]
    pub fn beside(mut self, active: watch::Receiver<bool>) -> Self {
        self.active = active;
        self
    }

    /// Takes back what [`Host::ensure_next_hops`] may have made, for an uninstall.
    pub async fn remove_next_hops(&self) -> Result<(), NetError> {
        let rtnl = self.rtnl.clone();
        self.worker.run(async move { next_hop::remove(&rtnl).await }).await
    }

    /// Where the sysctls are.
    #[must_use]
    pub fn sysctl_root(&self) -> &std::path::Path {
        self.sysctl.root()
    }
}

/// The largest interface index; the kernel counts up from 1, so no interface has it.
const NO_INTERFACE: u32 = i32::MAX.cast_unsigned();

impl Host for KernelHost {
    fn check(&self) -> BoxFuture<'_, Result<HostFacts, NetError>> {
        let (rtnl, sysctl) = (self.rtnl.clone(), self.sysctl.clone());
        Box::pin(self.worker.run(async move {
            sysctl.check()?;
            // The kernel asks for the capability before it looks for the interface.
            let up = Change { up: true, ..Change::default() };
            if let Some(ask) = link::change(NO_INTERFACE, "(none, to see whether changes are permitted)", &up)
            {
                let refusal = rtnl.ask(ask).await?.refusal;
                let permitted =
                    refusal.as_ref().is_none_or(|refusal| Meaning::of(refusal.errno) == Meaning::NotThere);
                if let (false, Some(refusal)) = (permitted, refusal) {
                    return Err(refusal.into());
                }
            }
            Ok(HostFacts {
                ipv6: sysctl.has_ipv6(),
                conntrack: conntrack::is_available(&sysctl),
                strict_containers: siblings::containers_are_strict(&sysctl),
            })
        }))
    }

    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, NetError>> {
        let rtnl = self.rtnl.clone();
        Box::pin(self.worker.run(async move { links(&rtnl).await }))
    }

    fn ensure_endpoint<'a>(&'a self, endpoint: &'a EndpointLink) -> BoxFuture<'a, Result<(), NetError>> {
        let (rtnl, sysctl, endpoint) = (self.rtnl.clone(), self.sysctl.clone(), endpoint.clone());
        let ours = *self.active.borrow();
        Box::pin(self.worker.run(async move {
            match ours {
                true => endpoint::ensure(&rtnl, &sysctl, &endpoint).await,
                false => beside::ensure(&rtnl, &sysctl, endpoint).await,
            }
        }))
    }

    fn set_siblings<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        siblings: bool,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        let (rtnl, sysctl, endpoint) = (self.rtnl.clone(), self.sysctl.clone(), endpoint.clone());
        Box::pin(self.worker.run(async move { siblings::set(&rtnl, &sysctl, &endpoint, siblings).await }))
    }

    fn release_endpoint<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), NetError>> {
        let (rtnl, deletions, endpoint) = (self.rtnl.clone(), self.deletions.clone(), endpoint.clone());
        Box::pin(self.worker.run(async move { endpoint::release(&rtnl, &deletions, &endpoint).await }))
    }

    fn remove_foreign_routes<'a>(
        &'a self,
        endpoints: &'a [EndpointRef],
    ) -> BoxFuture<'a, Result<Vec<Result<HostRoute, NetError>>, NetError>> {
        if !*self.active.borrow() {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let (rtnl, endpoints, ipv6) = (self.rtnl.clone(), endpoints.to_vec(), self.sysctl.has_ipv6());
        let versions = if ipv6 { &[IpVersion::V4, IpVersion::V6][..] } else { &[IpVersion::V4] };
        Box::pin(self.worker.run(async move { foreign::remove(&rtnl, versions, &endpoints).await }))
    }

    fn host_routes(&self) -> BoxFuture<'_, Result<Vec<HostRoute>, NetError>> {
        let (rtnl, ipv6) = (self.rtnl.clone(), self.sysctl.has_ipv6());
        Box::pin(self.worker.run(async move {
            let mut routes = routes_of(&rtnl, IpVersion::V4).await?;
            if ipv6 {
                routes.extend(routes_of(&rtnl, IpVersion::V6).await?);
            }
            let names: HashMap<u32, String> =
                links(&rtnl).await?.into_iter().map(|link| (link.index, link.name)).collect();
            for route in &mut routes {
                route.device = route.index.and_then(|index| names.get(&index).cloned());
            }
            Ok(routes)
        }))
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<HostAddress>, NetError>> {
        let rtnl = self.rtnl.clone();
        Box::pin(self.worker.run(async move {
            let listed = rtnl.dump(address::list(), "list addresses").await?;
            Ok(address::decode_all(&listed, &links(&rtnl).await?))
        }))
    }

    fn source_to(&self, destination: IpAddr) -> BoxFuture<'_, Result<Option<IpAddr>, NetError>> {
        Box::pin(self.worker.run(async move { address::source_to(destination) }))
    }

    fn ensure_next_hops(&self) -> BoxFuture<'_, Result<NextHops, NetError>> {
        let rtnl = self.rtnl.clone();
        Box::pin(self.worker.run(async move { next_hop::ensure(&rtnl).await }))
    }

    fn enable_forwarding(&self) -> BoxFuture<'_, Result<Vec<IpVersion>, NetError>> {
        let sysctl = self.sysctl.clone();
        Box::pin(self.worker.run(async move {
            let mut off = Vec::new();
            if sysctl.set("ipv4/ip_forward", "1")? {
                off.push(IpVersion::V4);
            }
            if sysctl.has_ipv6() && sysctl.set("ipv6/conf/all/forwarding", "1")? {
                off.push(IpVersion::V6);
            }
            Ok(off)
        }))
    }

    fn flush_conntrack<'a>(&'a self, addresses: &'a [IpAddr]) -> BoxFuture<'a, Result<usize, NetError>> {
        let (flushes, addresses) = (self.flushes.clone(), addresses.to_vec());
        Box::pin(self.worker.run(async move { flushes.ask(addresses).await }))
    }

    fn monitor(&self) -> BoxFuture<'_, Result<BoxStream<'static, HostEvent>, NetError>> {
        Box::pin(self.worker.run(async { monitor::open() }))
    }
}

impl Underlay for KernelHost {
    fn change_routes<'a>(&'a self, changes: &'a RouteChanges) -> BoxFuture<'a, Result<(), NetError>> {
        let (rtnl, changes) = (self.rtnl.clone(), changes.clone());
        Box::pin(self.worker.run(async move { remote::change(&rtnl, &changes).await }))
    }

    fn ensure_vxlan<'a>(&'a self, device: &'a VxlanDevice) -> BoxFuture<'a, Result<u32, NetError>> {
        let (rtnl, device) = (self.rtnl.clone(), device.clone());
        Box::pin(self.worker.run(async move { vxlan::ensure(&rtnl, &device).await }))
    }

    fn remove_vxlan<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), NetError>> {
        let (rtnl, name) = (self.rtnl.clone(), name.to_owned());
        Box::pin(self.worker.run(async move { vxlan::remove(&rtnl, &name).await }))
    }

    fn vteps(&self, index: u32) -> BoxFuture<'_, Result<Vec<Vtep>, NetError>> {
        let rtnl = self.rtnl.clone();
        Box::pin(self.worker.run(async move { vxlan::list(&rtnl, index).await }))
    }

    fn change_vteps<'a>(
        &'a self,
        index: u32,
        delete: &'a [Vtep],
        add: &'a [Vtep],
    ) -> BoxFuture<'a, Result<(), NetError>> {
        let (rtnl, delete, add) = (self.rtnl.clone(), delete.to_vec(), add.to_vec());
        Box::pin(self.worker.run(async move { vxlan::change(&rtnl, index, &delete, &add).await }))
    }
}

async fn links(rtnl: &Rtnl) -> Result<Vec<Link>, NetError> {
    Ok(link::decode_all(&rtnl.dump(link::list(), "list interfaces").await?))
}

/// The main table of one family, without device names.
pub(crate) async fn routes_of(rtnl: &Rtnl, version: IpVersion) -> Result<Vec<HostRoute>, NetError> {
    let listed = rtnl.dump(route::list(version), &format!("list {version} routes")).await?;
    let routes = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewRoute(found) => route::decode(found),
        _ => Vec::new(),
    };
    Ok(listed.iter().flat_map(routes).collect())
}
