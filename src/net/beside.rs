//! The host side of an endpoint where Felix programs the host: the pair is ours, its routes and neighbours are Felix's.

use super::error::NetError;
use super::rtnl::Rtnl;
use super::sysctl::Sysctl;
use super::{EndpointLink, endpoint, link, monitor, route};
use futures::StreamExt;
use std::net::IpAddr;
use std::time::Duration;

/// How long Felix has for a new endpoint. It reads the WorkloadEndpoint from the datastore and programs within some 100 ms;
/// its routes come last (`felix/dataplane/linux/int_dataplane.go`, apply).
const PATIENCE: Duration = Duration::from_secs(3);

/// Makes the pair and waits until packets for a new one find it. Without an answer of Felix the container starts all the
/// same: its network comes when Felix does.
pub(crate) async fn ensure(rtnl: &Rtnl, sysctl: &Sysctl, mut wanted: EndpointLink) -> Result<(), NetError> {
    let addresses = std::mem::take(&mut wanted.addresses);
    let name = wanted.host.as_str();
    let before = endpoint::found(rtnl.ask(link::get(name)).await?)?;
    endpoint::ensure(rtnl, sysctl, &wanted).await?;
    if before.is_some() {
        return Ok(());
    }
    let Some(made) = endpoint::found(rtnl.ask(link::get(name)).await?)? else { return Ok(()) };
    match tokio::time::timeout(PATIENCE, programmed(rtnl, made.index, &addresses)).await {
        Ok(done) => done,
        Err(_elapsed) => {
            log::warn!(
                "Felix has not programmed {name} within {PATIENCE:?}: the container starts, and has no network before it does"
            );
            Ok(())
        }
    }
}

/// Waits until all addresses are routed to a link.
async fn programmed(rtnl: &Rtnl, index: u32, addresses: &[IpAddr]) -> Result<(), NetError> {
    let mut changes = monitor::open()?;
    loop {
        let asks = addresses.iter().map(|ip| route::lookup_host(*ip)).collect();
        let answers = rtnl.batch(asks).await?;
        if answers.iter().all(|answer| route::device_in(answer) == Some(index)) {
            return Ok(());
        }
        if changes.next().await.is_none() {
            return Err(NetError::Stopped);
        }
    }
}
