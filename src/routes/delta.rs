//! From what the kernel has to what it should have. Pure.

use crate::model::Cidr;
use crate::net::{HostRoute, RouteChanges, Vtep};
use std::collections::{BTreeMap, BTreeSet};

/// What makes a route one of its own in the main table: destination and metric.
pub(super) type Key = (Cidr, u32);

/// Routes by what makes them one.
pub(super) type Table = BTreeMap<Key, HostRoute>;

pub(super) fn key(route: &HostRoute) -> Key {
    (route.destination, route.metric)
}

/// Whether two routes with the same key do the same.
pub(super) fn same(a: &HostRoute, b: &HostRoute) -> bool {
    (a.kind, a.index, a.gateway, a.protocol) == (b.kind, b.index, b.gateway, b.protocol)
}

/// The changes of some routes. Those without a gateway go in first, for others whose gateway is found by them.
pub(super) fn routes(known: &Table, desired: &Table, keys: impl IntoIterator<Item = Key>) -> RouteChanges {
    let (mut changes, mut on_link) = (RouteChanges::default(), Vec::new());
    for key in keys {
        match (known.get(&key), desired.get(&key)) {
            (Some(old), Some(new)) if same(old, new) => {}
            (_, Some(new)) if new.is_on_link() => on_link.push(new.clone()),
            (Some(_), Some(new)) => changes.replace.push(new.clone()),
            (None, Some(new)) => changes.add.push(new.clone()),
            (Some(old), None) => changes.delete.push(old.clone()),
            (None, None) => {}
        }
    }
    on_link.append(&mut changes.replace);
    RouteChanges { replace: on_link, ..changes }
}

/// What is to be taken away, and what to be added or replaced, behind a device. Entries are by tunnel address and by
/// Ethernet address: what shares one of the two with something that is added would be taken away with it, so what goes
/// goes first.
pub(super) fn vteps(known: &BTreeSet<Vtep>, desired: &BTreeSet<Vtep>) -> (Vec<Vtep>, Vec<Vtep>) {
    (known.difference(desired).copied().collect(), desired.difference(known).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{ROUTE_METRIC, ROUTE_PROTOCOL, RouteKind};

    fn route(to: &str, index: u32) -> HostRoute {
        HostRoute {
            destination: to.parse().unwrap(),
            kind: RouteKind::Unicast,
            index: Some(index),
            device: None,
            gateway: Some("192.0.2.1".parse().unwrap()),
            protocol: ROUTE_PROTOCOL,
            metric: ROUTE_METRIC,
        }
    }

    fn table(routes: &[HostRoute]) -> Table {
        routes.iter().map(|route| (key(route), route.clone())).collect()
    }

    #[test]
    fn only_what_differs_is_touched() {
        let known = table(&[route("10.0.0.0/26", 2), route("10.0.1.0/26", 2), route("10.0.2.0/26", 2)]);
        let desired = table(&[route("10.0.0.0/26", 2), route("10.0.1.0/26", 3), route("10.0.3.0/26", 2)]);
        let all: BTreeSet<Key> = known.keys().chain(desired.keys()).copied().collect();
        let changes = routes(&known, &desired, all);
        assert_eq!(changes.delete, [route("10.0.2.0/26", 2)]);
        assert_eq!(changes.replace, [route("10.0.1.0/26", 3)]);
        assert_eq!(changes.add, [route("10.0.3.0/26", 2)]);
        assert!(routes(&known, &desired, [key(&route("10.0.0.0/26", 2))]).is_empty());
    }
}
