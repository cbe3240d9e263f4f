//! Test double of [`Host`]: remembers what it was told, and fails on cue.
//!
//! Alone it keeps links and routes in memory, enough for a driver's tests; over another host it only counts, fails and
//! passes on.

use super::{
    EndpointLink, EndpointRef, Host, HostAddress, HostEvent, HostFacts, HostRoute, Link, NetError, NextHops,
    ROUTE_METRIC, ROUTE_PROTOCOL, RouteChanges, RouteKind, SharedUnderlay, Underlay, Vtep, VxlanDevice,
};
use crate::model::{Cidr, IpVersion, MacAddress};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The verbs of [`Host`], as they were called.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the verb of the same name")]
pub enum Call {
    Check,
    Links,
    EnsureEndpoint(EndpointLink),
    SetSiblings(EndpointRef, bool),
    ReleaseEndpoint(EndpointRef),
    RemoveForeignRoutes(Vec<EndpointRef>),
    HostRoutes,
    Addresses,
    SourceTo(IpAddr),
    EnsureNextHops,
    EnableForwarding,
    FlushConntrack(Vec<IpAddr>),
    ChangeRoutes(RouteChanges),
    EnsureVxlan(VxlanDevice),
    RemoveVxlan(String),
    Vteps(u32),
    ChangeVteps(u32, Vec<Vtep>, Vec<Vtep>),
    Monitor,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    /// Numbers of the calls that fail, counted from 1.
    faults: Vec<usize>,
    /// Endpoints by host interface name, with their made-up index.
    endpoints: BTreeMap<String, (u32, EndpointLink)>,
    routes: Vec<HostRoute>,
    addresses: Vec<HostAddress>,
    /// VXLAN devices by name, with their index and what is behind them.
    devices: BTreeMap<String, (u32, VxlanDevice, Vec<Vtep>)>,
    last_index: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct FaultyHost {
    inner: Option<SharedUnderlay>,
    /// Guards the record; never held over an await.
    state: Mutex<State>,
}

impl FaultyHost {
    const FACTS: HostFacts = HostFacts { ipv6: true, conntrack: true, strict_containers: false };

    /// A host in memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes on to another host what does not fail.
    #[must_use]
    pub fn over(inner: SharedUnderlay) -> Self {
        Self { inner: Some(inner), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the n-th call from now fail, before it does anything; 1 is the next.
    pub fn fail_call(&self, n: usize) {
        let mut state = self.state();
        let number = state.calls.len() + n;
        state.faults.push(number);
    }

    /// Adds a route that the host has for itself.
    pub fn add_route(&self, route: HostRoute) {
        self.state().routes.push(route);
    }

    /// Makes these the host's own addresses.
    pub fn set_addresses(&self, addresses: Vec<HostAddress>) {
        self.state().addresses = addresses;
    }

    /// All calls so far, the failed ones too.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The endpoints that are there, by host interface name.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointLink> {
        self.state().endpoints.values().map(|(_, endpoint)| endpoint.clone()).collect()
    }

    /// Takes note of a call, and fails it if it is its turn.
    fn note(&self, call: Call) -> Result<(), NetError> {
        let mut state = self.state();
        let what = format!("{call:?}");
        state.calls.push(call);
        if state.faults.contains(&state.calls.len()) {
            let source = io::Error::other("made to fail by the test");
            return Err(NetError::Kernel { what, said: String::new(), source });
        }
        Ok(())
    }

    fn ensure(&self, endpoint: &EndpointLink) -> Result<(), NetError> {
        let mut state = self.state();
        let name = endpoint.host.to_string();
        if let Some((_, there)) = state.endpoints.get(&name)
            && there.alias != endpoint.alias
        {
            let why = format!("its alias is {:?}, not {:?}", there.alias, endpoint.alias);
            return Err(NetError::NameTaken { iface: name, why });
        }
        state.last_index += 2;
        let fresh = state.last_index;
        let index = state.endpoints.get(&name).map_or(fresh, |(index, _)| *index);
        state.endpoints.insert(name, (index, endpoint.clone()));
        Ok(())
    }

    fn tell(&self, endpoint: &EndpointRef, siblings: bool) {
        if let Some((_, there)) = self.state().endpoints.get_mut(endpoint.host.as_str())
            && there.alias == endpoint.alias
        {
            there.siblings = siblings;
        }
    }

    fn change(&self, changes: &RouteChanges) {
        let mut state = self.state();
        state.routes.retain(|route| !changes.delete.contains(route));
        let at = |route: &HostRoute| (route.destination, route.metric);
        state.routes.retain(|route| !changes.replace.iter().any(|new| at(new) == at(route)));
        state.routes.extend(changes.replace.iter().chain(&changes.add).cloned());
    }

    fn make(&self, device: &VxlanDevice) -> u32 {
        let mut state = self.state();
        state.last_index += 1;
        let fresh = state.last_index;
        let entry = state
            .devices
            .entry(device.name.to_owned())
            .or_insert_with(|| (fresh, device.clone(), Vec::new()));
        entry.1 = device.clone();
        entry.0
    }

    fn change_ends(&self, index: u32, delete: &[Vtep], add: &[Vtep]) {
        let mut state = self.state();
        if let Some((_, _, ends)) = state.devices.values_mut().find(|(at, ..)| *at == index) {
            ends.retain(|end| !delete.contains(end) && !add.contains(end));
            ends.extend(add);
        }
    }

    fn release(&self, endpoint: &EndpointRef) {
        let mut state = self.state();
        let name = endpoint.host.as_str();
        if state.endpoints.get(name).is_some_and(|(_, there)| there.alias == endpoint.alias) {
            state.endpoints.remove(name);
        }
    }

    fn links_in_memory(&self) -> Vec<Link> {
        let link = |(index, endpoint): &(u32, EndpointLink)| Link {
            index: *index,
            name: endpoint.host.to_string(),
            alias: Some(endpoint.alias.clone()),
            mac: Some(MacAddress::HOST_SIDE),
            up: true,
            carrier: true,
            loopback: false,
            mtu: endpoint.mtu,
            kind: Some("veth".to_owned()),
            peer: Some(index + 1),
            peer_elsewhere: true,
        };
        self.state().endpoints.values().map(link).collect()
    }

    fn routes_in_memory(&self) -> Vec<HostRoute> {
        let state = self.state();
        let of_endpoints = state.endpoints.values().flat_map(|(index, endpoint)| {
            endpoint.addresses.iter().map(|ip| HostRoute {
                destination: Cidr::host(*ip),
                kind: RouteKind::Unicast,
                index: Some(*index),
                device: Some(endpoint.host.to_string()),
                gateway: None,
                protocol: ROUTE_PROTOCOL,
                metric: ROUTE_METRIC,
            })
        });
        state.routes.iter().cloned().chain(of_endpoints).collect()
    }
}

impl Host for FaultyHost {
    fn check(&self) -> BoxFuture<'_, Result<HostFacts, NetError>> {
        Box::pin(async move {
            self.note(Call::Check)?;
            let Some(inner) = &self.inner else { return Ok(Self::FACTS) };
            inner.check().await
        })
    }

    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, NetError>> {
        Box::pin(async move {
            self.note(Call::Links)?;
            let Some(inner) = &self.inner else { return Ok(self.links_in_memory()) };
            inner.links().await
        })
    }

    fn ensure_endpoint<'a>(&'a self, endpoint: &'a EndpointLink) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            self.note(Call::EnsureEndpoint(endpoint.clone()))?;
            let Some(inner) = &self.inner else { return self.ensure(endpoint) };
            inner.ensure_endpoint(endpoint).await
        })
    }

    fn set_siblings<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        siblings: bool,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            self.note(Call::SetSiblings(endpoint.clone(), siblings))?;
            let Some(inner) = &self.inner else {
                self.tell(endpoint, siblings);
                return Ok(());
            };
            inner.set_siblings(endpoint, siblings).await
        })
    }

    fn release_endpoint<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            self.note(Call::ReleaseEndpoint(endpoint.clone()))?;
            let Some(inner) = &self.inner else {
                self.release(endpoint);
                return Ok(());
            };
            inner.release_endpoint(endpoint).await
        })
    }

    fn remove_foreign_routes<'a>(
        &'a self,
        endpoints: &'a [EndpointRef],
    ) -> BoxFuture<'a, Result<Vec<Result<HostRoute, NetError>>, NetError>> {
        Box::pin(async move {
            self.note(Call::RemoveForeignRoutes(endpoints.to_vec()))?;
            // In memory nobody else makes routes to endpoints.
            let Some(inner) = &self.inner else { return Ok(Vec::new()) };
            inner.remove_foreign_routes(endpoints).await
        })
    }

    fn host_routes(&self) -> BoxFuture<'_, Result<Vec<HostRoute>, NetError>> {
        Box::pin(async move {
            self.note(Call::HostRoutes)?;
            let Some(inner) = &self.inner else { return Ok(self.routes_in_memory()) };
            inner.host_routes().await
        })
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<HostAddress>, NetError>> {
        Box::pin(async move {
            self.note(Call::Addresses)?;
            let Some(inner) = &self.inner else { return Ok(self.state().addresses.clone()) };
            inner.addresses().await
        })
    }

    fn source_to(&self, destination: IpAddr) -> BoxFuture<'_, Result<Option<IpAddr>, NetError>> {
        Box::pin(async move {
            self.note(Call::SourceTo(destination))?;
            let Some(inner) = &self.inner else { return Ok(None) };
            inner.source_to(destination).await
        })
    }

    fn ensure_next_hops(&self) -> BoxFuture<'_, Result<NextHops, NetError>> {
        Box::pin(async move {
            self.note(Call::EnsureNextHops)?;
            let Some(inner) = &self.inner else { return Ok(NextHops::ByHost) };
            inner.ensure_next_hops().await
        })
    }

    fn enable_forwarding(&self) -> BoxFuture<'_, Result<Vec<IpVersion>, NetError>> {
        Box::pin(async move {
            self.note(Call::EnableForwarding)?;
            let Some(inner) = &self.inner else { return Ok(Vec::new()) };
            inner.enable_forwarding().await
        })
    }

    fn flush_conntrack<'a>(&'a self, addresses: &'a [IpAddr]) -> BoxFuture<'a, Result<usize, NetError>> {
        Box::pin(async move {
            self.note(Call::FlushConntrack(addresses.to_vec()))?;
            let Some(inner) = &self.inner else { return Ok(0) };
            inner.flush_conntrack(addresses).await
        })
    }

    fn monitor(&self) -> BoxFuture<'_, Result<BoxStream<'static, HostEvent>, NetError>> {
        Box::pin(async move {
            self.note(Call::Monitor)?;
            // In memory nothing ever changes by itself.
            let Some(inner) = &self.inner else { return Ok(stream::pending().boxed()) };
            inner.monitor().await
        })
    }
}

impl Underlay for FaultyHost {
    fn change_routes<'a>(&'a self, changes: &'a RouteChanges) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            self.note(Call::ChangeRoutes(changes.clone()))?;
            let Some(inner) = &self.inner else {
                self.change(changes);
                return Ok(());
            };
            inner.change_routes(changes).await
        })
    }

    fn ensure_vxlan<'a>(&'a self, device: &'a VxlanDevice) -> BoxFuture<'a, Result<u32, NetError>> {
        Box::pin(async move {
            self.note(Call::EnsureVxlan(device.clone()))?;
            let Some(inner) = &self.inner else { return Ok(self.make(device)) };
            inner.ensure_vxlan(device).await
        })
    }

    fn remove_vxlan<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            self.note(Call::RemoveVxlan(name.to_owned()))?;
            let Some(inner) = &self.inner else {
                self.state().devices.remove(name);
                return Ok(());
            };
            inner.remove_vxlan(name).await
        })
    }

    fn vteps(&self, index: u32) -> BoxFuture<'_, Result<Vec<Vtep>, NetError>> {
        Box::pin(async move {
            self.note(Call::Vteps(index))?;
            let Some(inner) = &self.inner else {
                let state = self.state();
                let found = state.devices.values().find(|(at, ..)| *at == index);
                return Ok(found.map(|(_, _, ends)| ends.clone()).unwrap_or_default());
            };
            inner.vteps(index).await
        })
    }

    fn change_vteps<'a>(
        &'a self,
        index: u32,
        delete: &'a [Vtep],
        add: &'a [Vtep],
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            self.note(Call::ChangeVteps(index, delete.to_vec(), add.to_vec()))?;
            let Some(inner) = &self.inner else {
                self.change_ends(index, delete, add);
                return Ok(());
            };
            inner.change_vteps(index, delete, add).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IfaceName;

    fn endpoint(alias: &str) -> EndpointLink {
        EndpointLink {
            host: IfaceName::new("cali0").unwrap(),
            temp: IfaceName::new("temp0").unwrap(),
            mac: MacAddress([2; 6]),
            mtu: 1500,
            alias: alias.to_owned(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            gateway_v6: None,
            siblings: false,
        }
    }

    #[tokio::test]
    async fn the_call_that_is_to_fail_fails_and_does_nothing() {
        let host = FaultyHost::new();
        host.fail_call(2);
        host.links().await.unwrap();
        assert!(host.ensure_endpoint(&endpoint("a")).await.is_err());
        assert!(host.endpoints().is_empty());
        host.ensure_endpoint(&endpoint("a")).await.unwrap();
        assert_eq!(host.endpoints(), [endpoint("a")]);
        assert_eq!(host.calls().len(), 3);
    }

    #[tokio::test]
    async fn memory_knows_the_links_and_routes_of_endpoints() {
        let host = FaultyHost::new();
        host.ensure_endpoint(&endpoint("a")).await.unwrap();
        host.ensure_endpoint(&endpoint("a")).await.unwrap();
        assert!(matches!(host.ensure_endpoint(&endpoint("b")).await, Err(NetError::NameTaken { .. })));
        assert_eq!(host.links().await.unwrap().len(), 1);
        assert_eq!(host.host_routes().await.unwrap()[0].destination.to_string(), "10.0.0.1/32");
        host.release_endpoint(&endpoint("b").reference()).await.unwrap();
        assert_eq!(host.endpoints().len(), 1);
        host.release_endpoint(&endpoint("a").reference()).await.unwrap();
        assert!(host.links().await.unwrap().is_empty() && host.host_routes().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn over_another_host_it_passes_on() {
        let inner = std::sync::Arc::new(FaultyHost::new());
        let outer = FaultyHost::over(inner.clone());
        outer.fail_call(1);
        assert!(outer.links().await.is_err());
        outer.ensure_endpoint(&endpoint("a")).await.unwrap();
        assert_eq!(inner.calls(), [Call::EnsureEndpoint(endpoint("a"))]);
    }
}
