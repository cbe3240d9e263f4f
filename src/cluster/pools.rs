//! The default pools.

use super::singletons::ensure;
use crate::config::DefaultPool;
use crate::model::{Cidr, EncapMode, IpPoolSpec, IpVersion, Resource, key};
use crate::store::{Store, StoreError, typed};

/// Prefixes tried in turn for the default IPv4 pool; the first is calico/node's own default.
const IPV4_CANDIDATES: [&str; 6] =
    ["192.168.0.0/16", "172.31.0.0/16", "172.30.0.0/16", "10.192.0.0/16", "10.128.0.0/16", "10.64.0.0/16"];
/// The default IPv6 pool is the prefix of Calico's own documentation (a ULA, RFC 4193).
const IPV6_CANDIDATES: [&str; 2] = ["fd80:24e2:f998:72d6::/64", "fd80:24e2:f998:72d7::/64"];

/// Creates the default pool of one IP version unless the datastore has a pool of it. Returns what stands in the way
/// as a sentence; networks with a pool of their own work without it.
pub async fn ensure_default_pool(
    store: &dyn Store,
    version: IpVersion,
    wanted: &DefaultPool,
    host_routes: &[Cidr],
) -> Result<Result<(), String>, StoreError> {
    let pools = typed::list::<Resource<IpPoolSpec>>(store, &key::resources::<IpPoolSpec>()).await?;
    let usable = |pool: &Resource<IpPoolSpec>| pool.spec.cidr.version() == version && !pool.spec.disabled;
    if pools.iter().any(|pool| usable(&pool.value)) {
        return Ok(Ok(()));
    }
    let taken: Vec<Cidr> =
        pools.iter().map(|pool| pool.value.spec.cidr).chain(host_routes.iter().copied()).collect();
    let Some(cidr) = choose(version, wanted, &taken) else {
        return Ok(Err(obstacle(version, wanted, &taken)));
    };
    let name = match version {
        IpVersion::V4 => "default-ipv4-ippool",
        IpVersion::V6 => "default-ipv6-ippool",
    };
    let spec = IpPoolSpec {
        block_size: Some(wanted.block_size),
        nat_outgoing: wanted.nat_outgoing,
        vxlan_mode: Some(wanted.vxlan),
        ipip_mode: Some(EncapMode::Never),
        node_selector: Some(wanted.node_selector.clone()),
        ..IpPoolSpec::new(cidr)
    };
    if ensure(store, name, spec).await? {
        log::info!("created pool {name} ({cidr})");
    }
    Ok(Ok(()))
}

/// Whether a route or a pool stands in a new pool's way; a default route never does.
fn blocks(taken: &Cidr, wanted: &Cidr) -> bool {
    taken.prefix_len() > 0 && taken.overlaps(wanted)
}

/// The given prefix, or the first candidate; neither may overlap what is taken. Pure.
fn choose(version: IpVersion, wanted: &DefaultPool, taken: &[Cidr]) -> Option<Cidr> {
    let free = |cidr: &Cidr| !taken.iter().any(|other| blocks(other, cidr));
    let candidates: &[&str] = match version {
        IpVersion::V4 => &IPV4_CANDIDATES,
        IpVersion::V6 => &IPV6_CANDIDATES,
    };
    match wanted.cidr {
        Some(cidr) => Some(cidr).filter(free),
        None => candidates.iter().filter_map(|text| text.parse().ok()).find(free),
    }
}

fn obstacle(version: IpVersion, wanted: &DefaultPool, taken: &[Cidr]) -> String {
    let setting = match version {
        IpVersion::V4 => "CALICO_IPV4POOL_CIDR",
        IpVersion::V6 => "CALICO_IPV6POOL_CIDR",
    };
    let clash = wanted
        .cidr
        .and_then(|cidr| taken.iter().find(|other| blocks(other, &cidr)).map(|other| (cidr, other)));
    match clash {
        Some((cidr, other)) => format!(
            "no default {version} pool: {setting}={cidr} overlaps {other}, which this host routes or another pool holds"
        ),
        None => {
            format!("no default {version} pool: every candidate overlaps a route of this host; set {setting}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(cidr: Option<&str>) -> DefaultPool {
        DefaultPool {
            cidr: cidr.map(|text| text.parse().unwrap()),
            block_size: 26,
            nat_outgoing: true,
            vxlan: EncapMode::Never,
            node_selector: "all()".to_owned(),
        }
    }

    fn cidrs(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_default_pool_keeps_out_of_the_hosts_routes() {
        let lan = cidrs(&["0.0.0.0/0", "192.168.1.0/24", "172.16.0.0/12"]);
        assert_eq!(choose(IpVersion::V4, &wanted(None), &lan).unwrap().to_string(), "10.192.0.0/16");
        assert_eq!(choose(IpVersion::V4, &wanted(None), &[]).unwrap().to_string(), "192.168.0.0/16");
    }

    #[test]
    fn a_given_prefix_is_never_replaced_by_another() {
        let lan = cidrs(&["0.0.0.0/0", "10.0.0.0/24"]);
        assert_eq!(choose(IpVersion::V4, &wanted(Some("10.0.0.0/16")), &lan), None);
        let sentence = obstacle(IpVersion::V4, &wanted(Some("10.0.0.0/16")), &lan);
        assert!(sentence.contains("10.0.0.0/16 overlaps 10.0.0.0/24"), "{sentence}");
    }
}
