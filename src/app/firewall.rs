//! The driver's packet filter is the dataplane.

use crate::dataplane::{self, Dataplane};
use crate::driver::{Firewall, PoolNat, PublishedPort};
use crate::model::{EndpointId, IfaceName};
use futures::FutureExt;
use futures::future::BoxFuture;

impl Firewall for Dataplane {
    fn add_endpoint<'a>(&'a self, iface: &'a IfaceName) -> BoxFuture<'a, Result<(), String>> {
        async move { self.add_endpoint(iface).await.map_err(|error| error.to_string()) }.boxed()
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
        async move { self.publish_ports(endpoint, &ports).await.map_err(|error| error.to_string()) }.boxed()
    }
}
