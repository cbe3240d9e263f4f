//! Routes that somebody else made to endpoints of this node.

use super::error::DriverError;
use super::{Drivers, alias};
use crate::model::IfaceName;
use crate::net::{EndpointRef, HostRoute, NetError};

impl Drivers {
    /// Takes away what others route to joined endpoints, of those whose interface may be looked at; tells which routes
    /// went and what could not be taken away.
    ///
    /// No lock is held: an endpoint's addresses never change, and the mark on an interface says whose it is.
    pub async fn remove_foreign_routes(
        &self,
        may_look: impl Fn(&IfaceName) -> bool + Send,
    ) -> Result<Vec<Result<HostRoute, NetError>>, DriverError> {
        let joined = self.endpoints.all().into_iter().filter(|endpoint| may_look(&endpoint.iface));
        let endpoints: Vec<EndpointRef> = joined
            .filter_map(|endpoint| {
                let alias = alias(&endpoint.id, endpoint.sandbox.as_ref()?);
                let temp = endpoint.id.temp_iface();
                Some(EndpointRef { host: endpoint.iface, temp, alias, addresses: endpoint.ips })
            })
            .collect();
        match endpoints.is_empty() {
            true => Ok(Vec::new()),
            false => Ok(self.host.remove_foreign_routes(&endpoints).await?),
        }
    }
}
