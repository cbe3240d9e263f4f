//! The task that puts right what others undo on the host: forwarding, next hops, and what endpoints have on its side.

use crate::driver::Drivers;
use crate::model::IfaceName;
use crate::net::{Host, HostEvent, SettingOf};
use crate::task::Backoff;
use futures::StreamExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A burst of kernel events is answered once, this long after its first.
const SETTLE: Duration = Duration::from_millis(50);
/// Pauses after a subscription broke.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Repairs what events on the host undo: forwarding that was turned off, next hops when routes change, an endpoint whose
/// link was set down and up or whose routes, addresses or settings somebody changed.
pub(super) async fn watch_host(host: Arc<dyn Host>, drivers: Arc<Drivers>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match host.monitor().await {
            Ok(mut events) => {
                backoff.reset();
                let mut down = BTreeSet::new();
                while let Some(first) = events.next().await {
                    let mut burst = vec![first];
                    let settled = tokio::time::sleep(SETTLE);
                    tokio::pin!(settled);
                    loop {
                        tokio::select! {
                            () = &mut settled => break,
                            event = events.next() => match event {
                                Some(event) => burst.push(event),
                                None => break,
                            },
                        }
                    }
                    repair(&*host, &drivers, &burst, &mut down).await;
                }
            }
            Err(error) => log::warn!("changes on the host are not noticed for a moment: {error}"),
        }
        backoff.pause().await;
    }
}

async fn repair(host: &dyn Host, drivers: &Drivers, burst: &[HostEvent], down: &mut BTreeSet<String>) {
    let lost = burst.contains(&HostEvent::Resync);
    if lost || burst.contains(&HostEvent::Setting(SettingOf::All)) {
        repair_forwarding(host).await;
    }
    let next_hops =
        |event: &HostEvent| matches!(event, HostEvent::Route(change) if change.route.touches_next_hops());
    if (lost || burst.iter().any(next_hops))
        && let Err(error) = host.ensure_next_hops().await
    {
        log::warn!("{error}");
    }
    // The kernel drops routes and neighbours of a link that is set down, and they do not come back with it.
    for event in burst {
        let HostEvent::Link(change) = event else { continue };
        let name = change.link.name.clone();
        if change.gone {
            down.remove(&name);
        } else if !change.link.up {
            down.insert(name);
        } else if down.remove(&name)
            && let Ok(iface) = IfaceName::new(&name)
        {
            drivers.repair(&iface).await;
        }
    }
    match lost {
        true => drivers.repair_all().await,
        false => repair_endpoints(host, drivers, burst).await,
    }
}

/// Turns forwarding on again, for instance after the host's sysctl files were applied anew: without it no packet comes to
/// a container or leaves one.
async fn repair_forwarding(host: &dyn Host) {
    match host.enable_forwarding().await {
        Ok(off) => off.iter().for_each(|version| {
            log::warn!(
                "{version} forwarding was turned off on this host; it is on again, because containers need it"
            );
        }),
        Err(error) => log::error!("forwarding is off on this host, and containers are cut off: {error}"),
    }
}

/// Puts back what endpoints whose links are up need on the host's side: their routes, the addresses that answer for
/// their next hop and let them be on several networks, their settings. Those whose links are down lost it with that.
async fn repair_endpoints(host: &dyn Host, drivers: &Drivers, burst: &[HostEvent]) {
    let changed = |event: &HostEvent| match event {
        HostEvent::Route(change) if change.gone && change.route.is_of_endpoint() => change.route.index,
        HostEvent::Address(change) if change.gone => Some(change.index),
        HostEvent::Setting(SettingOf::Link(index)) => Some(*index),
        _ => None,
    };
    let indices: BTreeSet<u32> = burst.iter().filter_map(changed).collect();
    if indices.is_empty() {
        return;
    }
    let links = match host.links().await {
        Ok(links) => links,
        Err(error) => return log::warn!("what containers need on the host is not put back: {error}"),
    };
    for link in links.into_iter().filter(|link| link.up && indices.contains(&link.index)) {
        if let Ok(iface) = IfaceName::new(&link.name) {
            drivers.repair(&iface).await;
        }
    }
}
