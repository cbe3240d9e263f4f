//! The host side of an endpoint where Felix programs the host.
//!
//! A new pair gets all that it needs, routes and neighbours too, as Calico's CNI plugin adds them beside Felix
//! (`cni-plugin/pkg/dataplane/linux/dataplane_linux.go`, `SetupRoutes`): Felix routes to interfaces that have a carrier
//! only (`felix/ifacemonitor`), and this one gets it when Docker sets the container's end up, after Join. Felix leaves
//! what it finds on a new interface alone for a while (`felix/routetable`, `routeCleanupGracePeriod`), and then has routes
//! of its own there, which are not touched any more.

use super::EndpointLink;
use super::error::NetError;
use super::rtnl::Rtnl;
use super::sysctl::Sysctl;
use super::{endpoint, link};

/// Makes the pair of a new endpoint with all that is around it. Of one that is there only the pair itself is repaired.
pub(crate) async fn ensure(rtnl: &Rtnl, sysctl: &Sysctl, mut wanted: EndpointLink) -> Result<(), NetError> {
    if endpoint::found(rtnl.ask(link::get(wanted.host.as_str())).await?)?.is_some() {
        wanted.addresses.clear();
    }
    endpoint::ensure(rtnl, sysctl, &wanted).await
}
