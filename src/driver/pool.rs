//! RequestPool and ReleasePool: which prefix a network gets its addresses from.

use super::error::{DriverError, refused};
use super::locks::Key;
use super::pool_id::PoolId;
use super::{Drivers, new_metadata};
use crate::model::{Cidr, IpPoolSpec, IpVersion, NetworkId, Resource, key};
use crate::net::{HostRoute, ROUTE_PROTOCOL};
use crate::protocol::{Options, PoolAnswer, ReleasePool, RequestPool};
use crate::store::{Revision, StoreError, Txn, retry, typed};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Annotation of a pool that `--subnet` made: it goes when its last network goes.
pub(super) const CREATED_BY_ANNOTATION: &str = "org.projectcalico.docker.created-by";
/// Key of a pool answer's data by which the engine takes the gateway from us and asks for no address.
const GATEWAY: &str = "com.docker.network.gateway";
/// Keys that swarm's leader puts among the pool options by itself (20.10).
const ENGINE_OPTIONS: [&str; 2] = ["RequestAddressType", "com.docker.network.ipam.serial"];

/// How long a network may be in the making. An engine whose RequestPool was answered with nothing never comes back.
const IN_THE_MAKING: Duration = Duration::from_secs(60);

/// Prefixes between RequestPool and CreateNetwork: wanted, though no network has them yet. Only a help against making
/// and deleting a pool twice: CreateNetwork makes sure of its pools in any case.
#[derive(Debug, Default)]
pub(super) struct PendingPools {
    /// When each was asked for; held for one statement at a time.
    asked: Mutex<HashMap<Cidr, Vec<Instant>>>,
}

impl PendingPools {
    fn lock(&self) -> MutexGuard<'_, HashMap<Cidr, Vec<Instant>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, subnet: Cidr, now: Instant) {
        self.lock().entry(subnet).or_default().push(now);
    }

    /// One network with this prefix exists now, or is given up.
    pub(super) fn remove(&self, subnet: &Cidr) {
        let mut asked = self.lock();
        if let Some(times) = asked.get_mut(subnet) {
            times.pop();
            if times.is_empty() {
                asked.remove(subnet);
            }
        }
    }

    /// Whether a network in the making gets addresses from a pool.
    fn uses(&self, pool: &Cidr, now: Instant) -> bool {
        let mut asked = self.lock();
        asked.retain(|_, times| {
            times.retain(|time| now.duration_since(*time) < IN_THE_MAKING);
            !times.is_empty()
        });
        asked.keys().any(|subnet| pool.contains_cidr(subnet))
    }
}

impl Drivers {
    pub(super) async fn request_pool(&self, call: &RequestPool) -> Result<PoolAnswer, DriverError> {
        let unknown = call.options.keys().find(|key| !ENGINE_OPTIONS.contains(&key.as_str()));
        if let Some(option) = unknown {
            return Err(refused(format!(
                "ipam-opt {option} is not known: this IPAM driver takes no options"
            )));
        }
        let id = parse_request(call)?;
        let mut data = Options::new();
        match id {
            PoolId::Any(version) => self.check_any_pool(version).await?,
            PoolId::Subnet { subnet, .. } => {
                let _held = self.locks.hold(Key::Pools).await;
                self.ensure_pool(subnet).await?;
                // A pool that a network has needs no other protection (and the network may be the one that asks again).
                if !self.networks().await?.iter().any(|network| network.has_subnet(subnet)) {
                    self.pending_pools.add(subnet, Instant::now());
                }
            }
        }
        // Without this, engines before 28 ask for an address that would only be reserved for nothing.
        let gateway = Cidr::host(super::plan::next_hop(id.version(), 1));
        data.insert(GATEWAY.to_owned(), gateway.to_string().into());
        Ok(PoolAnswer { pool_id: id.to_string(), pool: id.subnet().to_string(), data })
    }

    /// A network without `--subnet` needs at least one pool that may serve this node.
    async fn check_any_pool(&self, version: IpVersion) -> Result<(), DriverError> {
        let pools = self.ipam.pools().await?;
        let serves = |pool: &&Resource<IpPoolSpec>| pool.is_enabled() && pool.spec.cidr.version() == version;
        match pools.iter().find(serves) {
            Some(_) => Ok(()),
            None => Err(refused(format!(
                "there is no {version} pool to take addresses from: give --subnet, or create an IPPool{}",
                listed(&pools)
            ))),
        }
    }

    /// Makes sure that `subnet` lies in a pool that may be used, creating one where the settings allow it. The caller
    /// holds the pools.
    pub(super) async fn ensure_pool(&self, subnet: Cidr) -> Result<(), DriverError> {
        let pools = self.ipam.pools().await?;
        if let Some(pool) = containing(&pools, subnet) {
            return match pool.is_enabled() {
                true => Ok(()),
                false => Err(refused(format!(
                    "{subnet} lies in pool {} ({}), which is disabled",
                    pool.name(),
                    pool.spec.cidr
                ))),
            };
        }
        if let Some(pool) = pools.iter().find(|pool| pool.spec.cidr.overlaps(&subnet)) {
            return Err(refused(format!(
                "{subnet} is larger than pool {} ({}) inside it",
                pool.name(),
                pool.spec.cidr
            )));
        }
        if !self.options.create_pools {
            return Err(refused(format!(
                "no pool contains {subnet}{}; create one, or set CALICO_LIBNETWORK_CREATE_POOLS=true",
                listed(&pools)
            )));
        }
        self.create_pool(subnet).await
    }

    async fn create_pool(&self, subnet: Cidr) -> Result<(), DriverError> {
        check_usable(subnet)?;
        self.check_host_routes(subnet).await?;
        let name = pool_name(subnet);
        let [nat_v4, nat_v6] = self.options.nat_outgoing;
        let nat_outgoing = if subnet.version() == IpVersion::V4 { nat_v4 } else { nat_v6 };
        let mut metadata = new_metadata(&name);
        metadata.annotate(CREATED_BY_ANNOTATION, crate::model::ORCHESTRATOR);
        let pool = Resource::new(metadata, IpPoolSpec { nat_outgoing, ..IpPoolSpec::new(subnet) });
        let key = key::resource::<IpPoolSpec>(&name);
        match self.store.commit(Txn::new().create(&key, typed::encode(&key, &pool)?)).await {
            Ok(_) => log::info!("created pool {name} ({subnet})"),
            // A request at the same moment was faster and made the same pool.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.refresh_pools().await
    }

    /// A pool over a prefix that the host routes elsewhere would cut the host off from it.
    async fn check_host_routes(&self, subnet: Cidr) -> Result<(), DriverError> {
        let routes = self.host.host_routes().await?;
        let foreign =
            |route: &&HostRoute| route.protocol != ROUTE_PROTOCOL && route.destination.prefix_len() > 0;
        match routes.iter().filter(foreign).find(|route| route.destination.overlaps(&subnet)) {
            None => Ok(()),
            Some(route) => Err(refused(format!(
                "{subnet} overlaps {}, which this host reaches through {}; choose another subnet",
                route.destination,
                route.device.as_deref().unwrap_or("another route")
            ))),
        }
    }

    pub(super) async fn release_pool(&self, call: &ReleasePool) -> Result<(), DriverError> {
        let Ok(id) = PoolId::parse(&call.pool_id) else { return Ok(()) };
        let PoolId::Subnet { subnet, .. } = id else { return Ok(()) };
        let _held = self.locks.hold(Key::Pools).await;
        self.pending_pools.remove(&subnet);
        self.remove_unused_pool(subnet, None).await
    }

    /// Deletes the pool that `--subnet` made around a prefix, unless an address or a network other than `leaving` uses
    /// it. The caller holds the pools.
    pub(super) async fn remove_unused_pool(
        &self,
        subnet: Cidr,
        leaving: Option<&NetworkId>,
    ) -> Result<(), DriverError> {
        let pools = self.ipam.pools().await?;
        let Some(pool) = containing(&pools, subnet)
            .filter(|pool| pool.metadata.annotation(CREATED_BY_ANNOTATION).is_some())
        else {
            return Ok(());
        };
        match self.pool_is_used(&pool.spec.cidr, leaving).await? {
            true => Ok(()),
            false => self.delete_pool(pool).await,
        }
    }

    /// Whether a network other than `leaving`, one in the making, or an address uses a pool.
    pub(super) async fn pool_is_used(
        &self,
        pool: &Cidr,
        leaving: Option<&NetworkId>,
    ) -> Result<bool, DriverError> {
        let networks = self.networks().await?;
        let staying = networks.iter().filter(|network| Some(&network.id) != leaving);
        let named = staying.flat_map(|network| &network.pools).any(|of| pool.contains_cidr(&of.subnet));
        Ok(named
            || self.pending_pools.uses(pool, Instant::now())
            || self.ipam.usage(pool, pool).await?.used > 0)
    }

    /// Closes a pool, gives its blocks back and deletes it, in Calico's own order
    /// (`libcalico-go/lib/clientv3/ippool.go`). If somebody got an address from it meanwhile it is opened again.
    pub(super) async fn delete_pool(&self, pool: &Resource<IpPoolSpec>) -> Result<(), DriverError> {
        let key = key::resource::<IpPoolSpec>(pool.name());
        let revision = self.set_disabled(&key, true).await?;
        let Some(revision) = revision else { return Ok(()) };
        if !self.ipam.release_pool(&pool.spec.cidr).await?.is_empty() {
            self.set_disabled(&key, false).await?;
            return Ok(());
        }
        self.store.commit(Txn::new().delete(key, revision)).await?;
        log::info!("deleted pool {} ({})", pool.name(), pool.spec.cidr);
        self.refresh_pools().await
    }

    /// Opens or closes a pool for allocation; `None` if it does not exist.
    async fn set_disabled(&self, key: &str, disabled: bool) -> Result<Option<Revision>, DriverError> {
        retry::on_conflict(|| async {
            let Some(mut stored) = typed::get::<Resource<IpPoolSpec>>(&*self.store, key).await? else {
                return Ok(None);
            };
            stored.value.spec.disabled = disabled;
            let value = typed::encode(key, &stored.value)?;
            Ok(Some(self.store.commit(Txn::new().update(key, stored.revision, value)).await?))
        })
        .await
    }
}

/// The pool around a prefix.
pub(super) fn containing(pools: &[Resource<IpPoolSpec>], cidr: Cidr) -> Option<&Resource<IpPoolSpec>> {
    pools.iter().find(|pool| pool.spec.cidr.contains_cidr(&cidr))
}

fn parse_request(call: &RequestPool) -> Result<PoolId, DriverError> {
    if call.pool.is_empty() {
        return match call.sub_pool.is_empty() {
            true => Ok(PoolId::Any(if call.v6 { IpVersion::V6 } else { IpVersion::V4 })),
            false => Err(refused(format!("--ip-range {} needs --subnet", call.sub_pool))),
        };
    }
    // Docker passes host bits on as the user wrote them and masks them itself; so do we.
    let subnet = Cidr::parse_masking(&call.pool)?;
    if call.sub_pool.is_empty() {
        return Ok(PoolId::Subnet { subnet, range: None });
    }
    let range = Cidr::parse_masking(&call.sub_pool)?;
    match subnet.contains_cidr(&range) {
        true => Ok(PoolId::Subnet { subnet, range: Some(range).filter(|range| *range != subnet) }),
        false => Err(refused(format!("--ip-range {range} is not inside --subnet {subnet}"))),
    }
}

/// What no pool may be (`api/pkg/apis/projectcalico/v3/ippool.go`), and what no container can have.
fn check_usable(subnet: Cidr) -> Result<(), DriverError> {
    const UNUSABLE: [(&str, &str); 6] = [
        ("169.254.0.0/16", "link-local"),
        ("127.0.0.0/8", "loopback"),
        ("224.0.0.0/3", "multicast or reserved"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("::/96", "loopback or IPv4-compatible"),
    ];
    for (text, what) in UNUSABLE {
        if text.parse::<Cidr>()?.overlaps(&subnet) {
            return Err(refused(format!(
                "{subnet} overlaps the {what} prefix {text}, which no container can use"
            )));
        }
    }
    Ok(())
}

fn pool_name(cidr: Cidr) -> String {
    format!("docker-{}", name_part(cidr))
}

/// A prefix as part of a resource name: `10-1-0-0-24`, `fd80-24e2-f998-72d6-0-0-0-0-64`.
pub(super) fn name_part(cidr: Cidr) -> String {
    let parts: Vec<String> = match cidr.base() {
        std::net::IpAddr::V4(v4) => v4.octets().iter().map(u8::to_string).collect(),
        std::net::IpAddr::V6(v6) => v6.segments().iter().map(|part| format!("{part:x}")).collect(),
    };
    format!("{}-{}", parts.join("-"), cidr.prefix_len())
}

/// The pools that there are, for a sentence.
fn listed(pools: &[Resource<IpPoolSpec>]) -> String {
    match pools {
        [] => String::from(" (there is none)"),
        pools => {
            let texts: Vec<String> =
                pools.iter().map(|pool| format!("{} {}", pool.name(), pool.spec.cidr)).collect();
            format!(" (there are: {})", texts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pool: &str, sub_pool: &str, v6: bool) -> Result<String, String> {
        let call = RequestPool {
            pool: pool.to_owned(),
            sub_pool: sub_pool.to_owned(),
            v6,
            ..RequestPool::default()
        };
        parse_request(&call).map(|id| id.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_pool_id_says_what_was_asked_for() {
        assert_eq!(request("", "", false).unwrap(), "CalicoPoolIPv4");
        assert_eq!(request("", "", true).unwrap(), "CalicoPoolIPv6");
        // Swarm leaders send V6:false with IPv6 subnets.
        assert_eq!(request("fd00::/64", "", false).unwrap(), "fd00::/64");
        assert_eq!(request("10.1.0.0/24", "10.1.0.128/25", false).unwrap(), "10.1.0.0/24,10.1.0.128/25");
    }

    #[test]
    fn a_range_outside_its_subnet_names_both() {
        let error = request("10.1.0.0/24", "10.2.0.0/25", false).unwrap_err();
        assert_eq!(error, "--ip-range 10.2.0.0/25 is not inside --subnet 10.1.0.0/24");
        assert!(request("", "10.2.0.0/25", false).is_err());
        assert!(request("ten", "", false).is_err());
    }

    #[test]
    fn pool_names_are_resource_names() {
        for text in ["10.1.0.0/24", "fd80:24e2:f998:72d6::/64", "::/0"] {
            let name = pool_name(text.parse().unwrap());
            assert!(crate::model::is_resource_name(&name), "{name}");
        }
    }

    #[test]
    fn prefixes_that_no_container_can_use_are_refused() {
        for text in ["169.254.0.0/24", "127.0.0.0/16", "fe80::/64", "0.0.0.0/0", "::/0", "224.0.0.0/4"] {
            assert!(check_usable(text.parse().unwrap()).is_err(), "{text}");
        }
        assert!(check_usable("100.64.0.0/10".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_pending_pool_counts_as_used_until_its_network_exists_or_will_never() {
        let pending = PendingPools::default();
        let [pool, subnet]: [Cidr; 2] = ["10.1.0.0/16", "10.1.0.0/24"].map(|text| text.parse().unwrap());
        let now = Instant::now();
        pending.add(subnet, now);
        pending.add(subnet, now);
        pending.remove(&subnet);
        assert!(pending.uses(&pool, now));
        assert!(!pending.uses(&"10.2.0.0/16".parse().unwrap(), now));
        pending.remove(&subnet);
        pending.remove(&subnet);
        assert!(!pending.uses(&pool, now));
        pending.add(subnet, now);
        assert!(pending.uses(&pool, now + IN_THE_MAKING / 2));
        assert!(!pending.uses(&pool, now + IN_THE_MAKING), "an answer was lost, and nobody comes back");
    }
}
