//! Which pools serve a request. Pure (`libcalico-go/lib/ipam/ipam.go`, determinePools).

use super::block::is_block_size;
use super::error::IpamError;
use crate::model::{Cidr, IpPoolSpec, IpVersion, NodeName, Resource};
use crate::selector::Selector;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A pool as stored.
pub type Pool = Resource<IpPoolSpec>;

/// What is asked of the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    /// IP version.
    pub(super) version: IpVersion,
    /// The pool with this CIDR and no other.
    pub(super) pool: Option<Cidr>,
    /// Only addresses of this range.
    pub(super) within: Option<Cidr>,
    /// What the address is for.
    pub(super) purpose: Purpose,
}

/// What an address is for: a word of a pool's `allowedUses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// A container.
    Workload,
    /// The node's own end of a tunnel.
    Tunnel,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Workload => "Workload",
            Self::Tunnel => "Tunnel",
        }
    }

    fn users(self) -> &'static str {
        match self {
            Self::Workload => "workloads",
            Self::Tunnel => "tunnels",
        }
    }
}

/// The node that asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'a> {
    /// Its name.
    pub(super) node: &'a NodeName,
    /// Labels of its Node resource.
    pub(super) labels: &'a BTreeMap<String, String>,
}

/// `default-ipv4-ippool (192.168.0.0/16)`
pub(super) fn title(pool: &Pool) -> String {
    format!("{} ({})", pool.name(), pool.spec.cidr)
}

fn titles<'a>(pools: impl IntoIterator<Item = &'a Pool>) -> String {
    let titles: Vec<String> = pools.into_iter().map(title).collect();
    if titles.is_empty() { "none".to_owned() } else { titles.join(", ") }
}

/// The enabled pools of one version, by name.
fn enabled(pools: &[Pool], version: IpVersion) -> Vec<&Pool> {
    let mut found: Vec<&Pool> =
        pools.iter().filter(|pool| pool.spec.cidr.version() == version && pool.is_enabled()).collect();
    found.sort_by(|a, b| a.name().cmp(b.name()));
    found
}

/// The pools that serve a request, in the order in which they are tried; never empty.
pub(super) fn choose(pools: &[Pool], wanted: &Wanted, asking: Asking<'_>) -> Result<Vec<Pool>, IpamError> {
    let all = enabled(pools, wanted.version);
    if all.is_empty() {
        return Err(IpamError::NoEnabledPool(wanted.version));
    }
    let candidates = match wanted.pool {
        Some(cidr) => requested(&all, cidr)?,
        None => automatic(&all, wanted.version, asking)?,
    };
    let usable: Vec<&Pool> =
        candidates.iter().copied().filter(|pool| pool.spec.allows_use(wanted.purpose.word())).collect();
    if usable.is_empty() {
        return Err(IpamError::NotForUse { pools: titles(candidates), users: wanted.purpose.users() });
    }
    let sized: Vec<&Pool> = usable.iter().copied().filter(|pool| has_usable_blocks(pool)).collect();
    if sized.is_empty() {
        return Err(IpamError::BadBlockSize { pools: titles(usable) });
    }
    let meets = |pool: &&&Pool| wanted.within.is_none_or(|within| within.overlaps(&pool.spec.cidr));
    let chosen: Vec<Pool> = sized.iter().filter(meets).map(|pool| (*pool).clone()).collect();
    match wanted.within.filter(|_| chosen.is_empty()) {
        Some(within) => Err(IpamError::NoPoolContains { wanted: within.to_string(), pools: titles(sized) }),
        None => Ok(chosen),
    }
}

fn requested<'a>(all: &[&'a Pool], cidr: Cidr) -> Result<Vec<&'a Pool>, IpamError> {
    let found: Vec<&Pool> = all.iter().copied().filter(|pool| pool.spec.cidr == cidr).collect();
    if found.is_empty() {
        return Err(IpamError::NoSuchPool { wanted: cidr, pools: titles(all.iter().copied()) });
    }
    Ok(found)
}

fn automatic<'a>(
    all: &[&'a Pool],
    version: IpVersion,
    asking: Asking<'_>,
) -> Result<Vec<&'a Pool>, IpamError> {
    let mut found = Vec::new();
    let mut refused = Vec::new();
    for pool in all {
        match refusal(pool, asking.labels) {
            None => found.push(*pool),
            Some(why) => refused.push(format!("{} {why}", title(pool))),
        }
    }
    if found.is_empty() {
        return Err(IpamError::NoPoolForNode {
            version,
            node: asking.node.clone(),
            pools: refused.join(", "),
        });
    }
    Ok(found)
}

/// Why a pool does not serve a node without being asked for; `None` if it does.
fn refusal(pool: &Pool, labels: &BTreeMap<String, String>) -> Option<String> {
    if !pool.spec.assigns_automatically() {
        return Some("is for manual assignment".to_owned());
    }
    if let Some(why) = node_refusal(pool, labels) {
        return Some(why);
    }
    // Docker has no namespaces: an empty set of labels is what Calico takes then.
    match Selector::parse(pool.spec.namespace_selector.as_deref().unwrap_or_default()) {
        Ok(selector) if selector.matches(&BTreeMap::new()) => None,
        Ok(selector) => Some(format!("is for namespaces with {selector}")),
        Err(error) => Some(format!("has an unreadable namespaceSelector: {error}")),
    }
}

fn node_refusal(pool: &Pool, labels: &BTreeMap<String, String>) -> Option<String> {
    match Selector::parse(pool.spec.node_selector.as_deref().unwrap_or_default()) {
        Ok(selector) if selector.matches(labels) => None,
        Ok(selector) => Some(format!("is for nodes with {selector}")),
        Err(error) => Some(format!("has an unreadable nodeSelector: {error}")),
    }
}

/// Whether the pool's nodeSelector takes in a node with these labels. One that cannot be read takes in every node:
/// this is asked before a block is given back, which must not happen for a typing error.
pub(super) fn selects_node(pool: &Pool, labels: &BTreeMap<String, String>) -> bool {
    let selector = Selector::parse(pool.spec.node_selector.as_deref().unwrap_or_default());
    selector.map_or(true, |selector| selector.matches(labels))
}

fn has_usable_blocks(pool: &Pool) -> bool {
    let len = pool.spec.block_size();
    is_block_size(pool.spec.cidr.version(), len) && len >= pool.spec.cidr.prefix_len()
}

/// The enabled pool that an address of a specific request comes from.
pub(super) fn for_address(pools: &[Pool], ip: IpAddr) -> Result<Pool, IpamError> {
    let pool = containing(pools, &Cidr::host(ip)).ok_or_else(|| IpamError::NoPoolContains {
        wanted: ip.to_string(),
        pools: titles(enabled(pools, IpVersion::of(ip))),
    })?;
    if !pool.spec.allows_use("Workload") {
        return Err(IpamError::NotForUse { pools: title(pool), users: Purpose::Workload.users() });
    }
    if !has_usable_blocks(pool) {
        return Err(IpamError::BadBlockSize { pools: title(pool) });
    }
    Ok(pool.clone())
}

/// The enabled pool with this CIDR, or the one that holds all of it.
pub(super) fn for_range(pools: &[Pool], range: &Cidr) -> Result<Pool, IpamError> {
    containing(pools, range).cloned().ok_or_else(|| IpamError::NoPoolContains {
        wanted: range.to_string(),
        pools: titles(enabled(pools, range.version())),
    })
}

/// Of pools that overlap (which Calico refuses to make) the narrowest.
fn containing<'a>(pools: &'a [Pool], range: &Cidr) -> Option<&'a Pool> {
    let holding =
        enabled(pools, range.version()).into_iter().filter(|pool| pool.spec.cidr.contains_cidr(range));
    holding.max_by_key(|pool| pool.spec.cidr.prefix_len())
}

/// The block in which an address would stand, by the pools as they are, enabled or not; `None` outside all pools.
pub(super) fn block_of(pools: &[Pool], ip: IpAddr) -> Option<Cidr> {
    let holding = pools.iter().filter(|pool| pool.spec.cidr.contains(ip));
    let pool = holding.max_by_key(|pool| pool.spec.cidr.prefix_len())?;
    Some(Cidr::masking(ip, pool.spec.block_size()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectMeta;

    fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut Pool)) -> Pool {
        let meta = ObjectMeta { name: name.to_owned(), ..ObjectMeta::default() };
        let mut pool = Resource::new(meta, IpPoolSpec::new(cidr.parse().unwrap()));
        change(&mut pool);
        pool
    }

    fn chosen(pools: &[Pool], cidr: Option<&str>, within: Option<&str>) -> Result<Vec<String>, String> {
        let node = NodeName::new("docker-1").unwrap();
        let labels = BTreeMap::from([("rack".to_owned(), "r1".to_owned())]);
        let parse = |text: &str| text.parse::<Cidr>().unwrap();
        let wanted = Wanted {
            version: IpVersion::V4,
            pool: cidr.map(parse),
            within: within.map(parse),
            purpose: Purpose::Workload,
        };
        choose(pools, &wanted, Asking { node: &node, labels: &labels })
            .map(|pools| pools.iter().map(|pool| pool.name().to_owned()).collect())
            .map_err(|error| error.to_string())
    }

    fn selector(text: &'static str) -> impl FnOnce(&mut Pool) {
        move |pool| pool.spec.node_selector = Some(text.to_owned())
    }

    fn manual(pool: &mut Pool) {
        pool.spec.assignment_mode = Some("Manual".to_owned());
    }

    #[test]
    fn pools_serve_in_the_order_of_their_names() {
        let pools = [
            pool("b", "10.1.0.0/24", |_| {}),
            pool("c", "fd00::/64", |_| {}),
            pool("a", "10.2.0.0/24", |_| {}),
        ];
        assert_eq!(chosen(&pools, None, None).unwrap(), ["a", "b"]);
        assert_eq!(chosen(&pools, None, Some("10.1.0.0/28")).unwrap(), ["b"]);
        assert_eq!(chosen(&pools[1..2], None, None).unwrap_err(), "this cluster has no enabled IPv4 pool");
    }

    #[test]
    fn a_selector_or_manual_mode_closes_a_pool_until_it_is_asked_for() {
        let pools = [pool("m", "10.1.0.0/24", manual), pool("s", "10.2.0.0/24", selector("rack == 'r2'"))];
        assert_eq!(
            chosen(&pools, None, None).unwrap_err(),
            "no IPv4 pool serves node docker-1 by itself: m (10.1.0.0/24) is for manual assignment, \
             s (10.2.0.0/24) is for nodes with rack == \"r2\""
        );
        assert_eq!(chosen(&pools, Some("10.1.0.0/24"), None).unwrap(), ["m"]);
        assert_eq!(chosen(&pools, Some("10.2.0.0/24"), None).unwrap(), ["s"]);
        let open = [pool("s", "10.2.0.0/24", selector("rack in {'r1'}"))];
        assert_eq!(chosen(&open, None, None).unwrap(), ["s"]);
    }

    #[test]
    fn a_namespace_selector_sees_no_labels() {
        let namespaces =
            |text: &'static str| move |pool: &mut Pool| pool.spec.namespace_selector = Some(text.to_owned());
        assert!(chosen(&[pool("n", "10.1.0.0/24", namespaces("has(team)"))], None, None).is_err());
        assert!(chosen(&[pool("n", "10.1.0.0/24", namespaces("!has(team)"))], None, None).is_ok());
        assert!(chosen(&[pool("n", "10.1.0.0/24", namespaces("all()"))], None, None).is_ok());
    }

    #[test]
    fn allowed_uses_close_a_pool_even_when_it_is_asked_for() {
        let tunnel = |pool: &mut Pool| pool.spec.allowed_uses = Some(vec!["Tunnel".to_owned()]);
        let error = chosen(&[pool("t", "10.1.0.0/24", tunnel)], Some("10.1.0.0/24"), None).unwrap_err();
        assert_eq!(error, "pool t (10.1.0.0/24) may not be used by workloads (allowedUses)");
    }

    #[test]
    fn what_no_pool_has_is_named_with_the_pools_there_are() {
        let pools = [pool("default-ipv4-ippool", "192.168.0.0/16", |_| {})];
        let known = "pools: default-ipv4-ippool (192.168.0.0/16)";
        let error = chosen(&pools, Some("10.9.0.0/24"), None).unwrap_err();
        assert_eq!(error, format!("no enabled pool of this cluster is 10.9.0.0/24; {known}"));
        let range = "10.9.0.0/24".parse().unwrap();
        let error = for_range(&pools, &range).unwrap_err().to_string();
        assert_eq!(error, format!("no enabled pool of this cluster contains 10.9.0.0/24; {known}"));
        let error = for_address(&pools, "10.9.0.5".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, format!("no enabled pool of this cluster contains 10.9.0.5; {known}"));
        assert!(for_range(&[], &range).unwrap_err().to_string().ends_with("pools: none"));
        assert_eq!(
            for_range(&pools, &"192.168.7.0/24".parse().unwrap()).unwrap().name(),
            "default-ipv4-ippool"
        );
    }

    #[test]
    fn an_unreadable_selector_closes_the_pool_but_takes_no_block_away() {
        let broken = pool("x", "10.1.0.0/24", selector("rack ="));
        assert!(
            chosen(std::slice::from_ref(&broken), None, None)
                .unwrap_err()
                .contains("unreadable nodeSelector")
        );
        assert!(selects_node(&broken, &BTreeMap::new()));
    }

    #[test]
    fn a_block_size_out_of_range_is_refused() {
        let sized = |len| move |pool: &mut Pool| pool.spec.block_size = Some(len);
        for (cidr, len) in [("10.0.0.0/8", 19), ("10.1.0.0/27", 26), ("10.1.0.0/24", 33)] {
            assert!(chosen(&[pool("x", cidr, sized(len))], None, None).unwrap_err().contains("block size"));
        }
        assert!(chosen(&[pool("x", "10.0.0.0/8", sized(20))], None, None).is_ok());
    }
}
