//! A host and a packet filter in memory: they remember what they were told and fail on cue, before or after the work.

use calico_libnetwork::driver::{Firewall, PoolNat, PublishedPort};
use calico_libnetwork::model::{Cidr, EndpointId, IfaceName, IpVersion, MacAddress};
use calico_libnetwork::net::{
    EndpointLink, EndpointRef, Host, HostAddress, HostEvent, HostFacts, HostRoute, Link, NetError, NextHops,
    RouteKind,
};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It fails and nothing is done.
    Fails,
    /// It is done, and fails all the same.
    FailsAfterwards,
}

/// Counts calls and decides which fail.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Plan>);

#[derive(Debug, Default)]
struct Plan {
    calls: usize,
    fates: BTreeMap<usize, Fate>,
    always: bool,
}

impl Faults {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap()
    }

    fn next(&self) -> Option<Fate> {
        let mut plan = self.plan();
        plan.calls += 1;
        let number = plan.calls;
        if plan.always { Some(Fate::Fails) } else { plan.fates.remove(&number) }
    }

    /// The n-th call from now (1 is the next) meets its fate.
    pub(crate) fn fail(&self, n: usize, fate: Fate) {
        let mut plan = self.plan();
        let call = plan.calls + n;
        plan.fates.insert(call, fate);
    }

    pub(crate) fn calls(&self) -> usize {
        self.plan().calls
    }

    /// Every call fails until the next word.
    pub(crate) fn fail_always(&self, always: bool) {
        self.plan().always = always;
    }

    pub(crate) fn heal(&self) {
        let mut plan = self.plan();
        plan.fates.clear();
        plan.always = false;
    }
}

#[derive(Debug, Default)]
struct HostState {
    endpoints: BTreeMap<String, EndpointLink>,
    routes: Vec<HostRoute>,
    flushed: Vec<IpAddr>,
    link_lists: usize,
}

/// The kernel.
#[derive(Debug, Default)]
pub(crate) struct TestHost {
    pub(crate) faults: Faults,
    state: Mutex<HostState>,
}

impl TestHost {
    fn state(&self) -> MutexGuard<'_, HostState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn endpoints(&self) -> Vec<EndpointLink> {
        self.state().endpoints.values().cloned().collect()
    }

    pub(crate) fn flushed(&self) -> Vec<IpAddr> {
        self.state().flushed.clone()
    }

    /// How often all links were listed.
    pub(crate) fn link_lists(&self) -> usize {
        self.state().link_lists
    }

    /// A container's network namespace dies, and its veth with it.
    pub(crate) fn kill(&self, endpoint: &str) {
        let iface = EndpointId::new(endpoint).unwrap().host_iface();
        assert!(self.state().endpoints.remove(iface.as_str()).is_some(), "{iface} was not there");
    }

    /// A route that the host has for itself.
    pub(crate) fn add_route(&self, destination: &str, device: &str) {
        self.state().routes.push(HostRoute {
            destination: destination.parse().unwrap(),
            kind: RouteKind::Unicast,
            index: Some(2),
            device: Some(device.to_owned()),
            gateway: None,
            protocol: 2,
            metric: 0,
        });
    }

    /// Carries out a verb, unless it is to fail.
    fn act<'a, T: Send + 'a>(
        &'a self,
        what: &'static str,
        verb: impl FnOnce(&mut HostState) -> Result<T, NetError> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, NetError>> {
        async move {
            // Other tasks run between a call and its effect, as they do with a kernel thread.
            tokio::task::yield_now().await;
            let mut state = self.state();
            let failed = || Err(NetError::of_io(what, std::io::Error::other("a planned fault of the test")));
            match self.faults.next() {
                Some(Fate::Fails) => failed(),
                Some(Fate::FailsAfterwards) => {
                    verb(&mut state)?;
                    failed()
                }
                None => verb(&mut state),
            }
        }
        .boxed()
    }
}

fn link(index: u32, name: &str, alias: Option<&str>, mtu: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        alias: alias.map(str::to_owned),
        mac: Some(MacAddress::HOST_SIDE),
        up: true,
        carrier: true,
        loopback: false,
        mtu,
        kind: None,
        peer: None,
        peer_elsewhere: false,
    }
}

impl Host for TestHost {
    fn check(&self) -> BoxFuture<'_, Result<HostFacts, NetError>> {
        self.act("check the host", |_| {
            Ok(HostFacts { ipv6: true, conntrack: true, strict_containers: false })
        })
    }

    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, NetError>> {
        self.act("list links", |state| {
            state.link_lists += 1;
            let ours = state.endpoints.iter().zip(10..);
            let ours = ours.map(|((name, link_), index)| link(index, name, Some(&link_.alias), link_.mtu));
            Ok([link(2, "eth0", None, 1400), link(3, "cali00000000000", None, 1500)]
                .into_iter()
                .chain(ours)
                .collect())
        })
    }

    fn ensure_endpoint<'a>(&'a self, endpoint: &'a EndpointLink) -> BoxFuture<'a, Result<(), NetError>> {
        self.act("make a veth", move |state| {
            let name = endpoint.host.to_string();
            match state.endpoints.get(&name) {
                Some(there) if there.alias != endpoint.alias => {
                    Err(NetError::NameTaken { iface: name, why: format!("its alias is {:?}", there.alias) })
                }
                _ => {
                    state.endpoints.insert(name, endpoint.clone());
                    Ok(())
                }
            }
        })
    }

    fn set_siblings<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        siblings: bool,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        self.act("tell a veth of its siblings", move |state| {
            if let Some(there) = state.endpoints.get_mut(endpoint.host.as_str()) {
                there.siblings = siblings;
            }
            Ok(())
        })
    }

    fn release_endpoint<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), NetError>> {
        self.act("remove a veth", move |state| {
            let name = endpoint.host.as_str();
            if state.endpoints.get(name).is_some_and(|there| there.alias == endpoint.alias) {
                state.endpoints.remove(name);
            }
            Ok(())
        })
    }

    fn remove_foreign_routes<'a>(
        &'a self,
        _endpoints: &'a [EndpointRef],
    ) -> BoxFuture<'a, Result<Vec<Result<HostRoute, NetError>>, NetError>> {
        self.act("look for routes of others", |_| Ok(Vec::new()))
    }

    fn host_routes(&self) -> BoxFuture<'_, Result<Vec<HostRoute>, NetError>> {
        self.act("list routes", |state| {
            let default = HostRoute {
                destination: Cidr::any(calico_libnetwork::model::IpVersion::V4),
                kind: RouteKind::Unicast,
                index: Some(2),
                device: Some("eth0".to_owned()),
                gateway: None,
                protocol: 3,
                metric: 0,
            };
            Ok(std::iter::once(default).chain(state.routes.iter().cloned()).collect())
        })
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<HostAddress>, NetError>> {
        self.act("list addresses", |_| Ok(Vec::new()))
    }

    fn source_to(&self, _destination: IpAddr) -> BoxFuture<'_, Result<Option<IpAddr>, NetError>> {
        self.act("look up the way", |_| Ok(None))
    }

    fn ensure_next_hops(&self) -> BoxFuture<'_, Result<NextHops, NetError>> {
        self.act("ensure next hops", |_| Ok(NextHops::ByHost))
    }

    fn enable_forwarding(&self) -> BoxFuture<'_, Result<Vec<IpVersion>, NetError>> {
        self.act("enable forwarding", |_| Ok(Vec::new()))
    }

    fn flush_conntrack<'a>(&'a self, addresses: &'a [IpAddr]) -> BoxFuture<'a, Result<usize, NetError>> {
        self.act("flush conntrack", move |state| {
            state.flushed.extend(addresses);
            Ok(0)
        })
    }

    fn monitor(&self) -> BoxFuture<'_, Result<BoxStream<'static, HostEvent>, NetError>> {
        self.act("watch the kernel", |_| Ok(stream::pending().boxed()))
    }
}

#[derive(Debug, Default)]
struct FirewallState {
    open: BTreeMap<String, Vec<IpAddr>>,
    siblings: BTreeMap<String, Vec<IpAddr>>,
    pools: BTreeSet<PoolNat>,
    ports: BTreeMap<EndpointId, Vec<PublishedPort>>,
}

/// The packet filter.
#[derive(Debug, Default)]
pub(crate) struct TestFirewall {
    pub(crate) faults: Faults,
    state: Mutex<FirewallState>,
}

impl TestFirewall {
    fn state(&self) -> MutexGuard<'_, FirewallState> {
        self.state.lock().unwrap()
    }

    /// Interfaces that are open.
    pub(crate) fn open(&self) -> BTreeMap<String, Vec<IpAddr>> {
        self.state().open.clone()
    }

    /// Addresses of other endpoints that open interfaces may send under.
    pub(crate) fn siblings(&self) -> BTreeMap<String, Vec<IpAddr>> {
        self.state().siblings.clone()
    }

    /// Pools that NAT knows.
    pub(crate) fn pools(&self) -> BTreeSet<PoolNat> {
        self.state().pools.clone()
    }

    /// Published ports of all endpoints.
    pub(crate) fn ports(&self) -> Vec<PublishedPort> {
        self.state().ports.values().flatten().copied().collect()
    }

    fn act<'a>(
        &'a self,
        verb: impl FnOnce(&mut FirewallState) + Send + 'a,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move {
            tokio::task::yield_now().await;
            let mut state = self.state();
            let fate = self.faults.next();
            if fate != Some(Fate::Fails) {
                verb(&mut state);
            }
            fate.map_or(Ok(()), |_| Err("a planned fault of the test".to_owned()))
        }
        .boxed()
    }
}

impl Firewall for TestFirewall {
    fn add_endpoint<'a>(
        &'a self,
        iface: &'a IfaceName,
        addresses: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), String>> {
        self.act(move |state| {
            state.open.insert(iface.to_string(), addresses.to_vec());
        })
    }

    fn set_siblings<'a>(
        &'a self,
        iface: &'a IfaceName,
        addresses: Vec<IpAddr>,
    ) -> BoxFuture<'a, Result<(), String>> {
        self.act(move |state| {
            state.siblings.remove(iface.as_str());
            if state.open.contains_key(iface.as_str()) && !addresses.is_empty() {
                state.siblings.insert(iface.to_string(), addresses);
            }
        })
    }

    fn remove_endpoint<'a>(&'a self, iface: &'a IfaceName) -> BoxFuture<'a, Result<(), String>> {
        self.act(move |state| {
            state.open.remove(iface.as_str());
            state.siblings.remove(iface.as_str());
        })
    }

    fn set_pools(&self, pools: Vec<PoolNat>) -> BoxFuture<'_, Result<(), String>> {
        self.act(move |state| state.pools = pools.into_iter().collect())
    }

    fn publish<'a>(
        &'a self,
        endpoint: &'a EndpointId,
        ports: Vec<PublishedPort>,
    ) -> BoxFuture<'a, Result<(), String>> {
        self.act(move |state| match ports.is_empty() {
            true => drop(state.ports.remove(endpoint)),
            false => drop(state.ports.insert(endpoint.clone(), ports)),
        })
    }
}
