//! The MTU of the host's uplink or of its VXLAN device, remembered for a moment: to read it the kernel lists all links, and a host with thousands
//! of containers has thousands of them.

use crate::net::{Host, NetError, workload_mtu};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An MTU that an administrator changes is that of containers which start this much later.
const FRESH: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UplinkMtu {
    /// Guards the value; not held while the kernel is asked.
    known: Mutex<Option<(u32, Instant)>>,
}

impl UplinkMtu {
    /// The MTU in bytes.
    pub(super) async fn get(&self, host: &dyn Host) -> Result<u32, NetError> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mtu, since)) = known
            && since.elapsed() < FRESH
        {
            return Ok(mtu);
        }
        let mtu = workload_mtu(&host.links().await?);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((mtu, Instant::now()));
        Ok(mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::faulty::FaultyHost;

    #[tokio::test]
    async fn the_kernel_is_asked_once_for_many_endpoints() {
        let (uplink, host) = (UplinkMtu::default(), FaultyHost::new());
        for _ in 0..3 {
            assert_eq!(uplink.get(&host).await.unwrap(), crate::net::FALLBACK_MTU);
        }
        assert_eq!(host.calls().len(), 1);
    }
}
