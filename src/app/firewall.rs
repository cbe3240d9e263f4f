//! The driver's packet filter is the dataplane.

use crate::dataplane::{self, Dataplane, PortMap, Protocol};
use crate::driver::{Firewall, PoolNat, PublishedPort};
use crate::model::{EndpointId, IfaceName};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::net::{IpAddr, SocketAddr};

impl Firewall for Dataplane {
    fn add_endpoint<'a>(
        &'a self,
        iface: &'a IfaceName,
        addresses: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<(), String>> {
        async move { self.add_endpoint(iface, addresses).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn await_policy<'a>(
        &'a self,
        iface: &'a IfaceName,
        addresses: &'a [IpAddr],
    ) -> BoxFuture<'a, Result<bool, String>> {
        async move { self.await_policy(iface, addresses).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn set_siblings<'a>(
        &'a self,
        iface: &'a IfaceName,
        addresses: Vec<IpAddr>,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move { self.set_siblings(iface, &addresses).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn remove_endpoint<'a>(&'a self, iface: &'a IfaceName) -> BoxFuture<'a, Result<(), String>> {
        async move { self.remove_endpoint(iface).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn set_pools(&self, pools: Vec<PoolNat>) -> BoxFuture<'_, Result<(), String>> {
        let pools: Vec<_> = pools
            .into_iter()
            .map(|pool| dataplane::PoolNat { cidr: pool.cidr, nat_outgoing: pool.nat_outgoing })
            .collect();
        async move { self.set_pools(&pools).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn publish<'a>(
        &'a self,
        endpoint: &'a EndpointId,
        ports: Vec<PublishedPort>,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let iface = endpoint.host_iface();
            let maps = ports.iter().map(port_map).collect::<Result<Vec<_>, _>>()?;
            self.publish_ports(&iface, &maps).await.map_err(|error| error.to_string())
        }
        .boxed()
    }
}

fn port_map(port: &PublishedPort) -> Result<PortMap, String> {
    let protocol = match port.proto {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        other => return Err(format!("protocol {other} has no ports")),
    };
    let container = SocketAddr::new(port.to_ip, port.to_port);
    Ok(PortMap { protocol, host_ip: port.host_ip, host_port: port.host_port, container })
}
