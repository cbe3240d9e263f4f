//! What looks as if nobody owned it any more. Pure: listings in, suspects with their proof out.
//!
//! A suspect is not yet a leak: between two calls of Docker an address without endpoint or an endpoint without veth is
//! in order. Only what stays suspect for the whole grace period is collected ([`super::collect`]).

use crate::model::{EndpointId, IfaceName, NetworkId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Everything that is looked at, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Endpoints of this node and the host side of their veths.
    pub endpoints: Vec<(EndpointId, IfaceName)>,
    /// WorkloadEndpoints of this node in the datastore that the driver does not know.
    pub unknown_endpoints: Vec<EndpointId>,
    /// Interfaces of the host by name; the endpoint that made it, for ours.
    pub links: BTreeMap<String, Option<EndpointId>>,
    /// Addresses that this plugin holds on this node and no endpoint or network uses.
    pub unused_addresses: Vec<IpAddr>,
    /// Networks with a record and no endpoint.
    pub idle_networks: Vec<NetworkId>,
    /// Pools that networks made and none uses.
    pub unused_pools: Vec<String>,
    /// What Docker has; `None` if it could not be asked.
    pub docker: Option<DockerView>,
}

/// What Docker has.
#[derive(Debug, Clone, Default)]
pub struct DockerView {
    /// Endpoints of running containers.
    pub running: BTreeSet<String>,
    /// Endpoints of all containers, also of those that are starting or dead.
    pub known: BTreeSet<String>,
    /// IDs of all networks.
    pub networks: BTreeSet<String>,
}

/// Something that nobody seems to own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suspect {
    /// An endpoint without container.
    Endpoint(EndpointId),
    /// A WorkloadEndpoint without endpoint.
    Unknown(EndpointId),
    /// An address without endpoint.
    Address(IpAddr),
    /// One of our interfaces without endpoint.
    Link(String),
    /// A network that Docker does not have.
    Network(NetworkId),
    /// A pool that was made for a network that does not exist.
    Pool(String),
}

impl std::fmt::Display for Suspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(id) => write!(f, "endpoint {}", id.short()),
            Self::Unknown(id) => write!(f, "WorkloadEndpoint of {}", id.short()),
            Self::Address(ip) => write!(f, "address {ip}"),
            Self::Link(name) => write!(f, "interface {name}"),
            Self::Network(id) => write!(f, "network {}", id.short()),
            Self::Pool(name) => write!(f, "pool {name}"),
        }
    }
}

/// All suspects, each with its proof.
#[must_use]
pub fn find(view: &View) -> BTreeMap<Suspect, &'static str> {
    let mut suspects = BTreeMap::new();
    for (id, iface) in &view.endpoints {
        if let Some(why) = endpoint_suspicion(view, id, iface) {
            suspects.insert(Suspect::Endpoint(id.clone()), why);
        }
    }
    let known: BTreeSet<&EndpointId> = view.endpoints.iter().map(|(id, _)| id).collect();
    for (name, owner) in &view.links {
        if owner.as_ref().is_some_and(|id| !known.contains(id)) {
            suspects.insert(Suspect::Link(name.clone()), "its endpoint does not exist");
        }
    }
    let unknown = view.unknown_endpoints.iter().map(|id| Suspect::Unknown(id.clone()));
    suspects.extend(unknown.map(|suspect| (suspect, "its endpoint does not exist")));
    suspects.extend(view.unused_addresses.iter().map(|ip| (Suspect::Address(*ip), "no endpoint has it")));
    suspects.extend(view.unused_pools.iter().map(|name| (Suspect::Pool(name.clone()), "no network uses it")));
    if let Some(docker) = &view.docker {
        let gone = view.idle_networks.iter().filter(|id| !docker.networks.contains(id.as_str()));
        suspects.extend(gone.map(|id| (Suspect::Network(id.clone()), "Docker does not have it")));
    }
    suspects
}

/// The veth of a container dies with the container's namespace, so its absence is proof even where Docker cannot be
/// asked. Where it can, an endpoint of a running container is never suspect, and one that no container has is, even
/// with a veth: a crashed engine leaves namespaces behind.
fn endpoint_suspicion(view: &View, id: &EndpointId, iface: &IfaceName) -> Option<&'static str> {
    let has_veth = view.links.contains_key(iface.as_str());
    match (&view.docker, has_veth) {
        (None, false) => Some("its interface is gone"),
        (Some(docker), false) if !docker.running.contains(id.as_str()) => {
            Some("its interface is gone and no running container has it")
        }
        (Some(docker), true) if !docker.known.contains(id.as_str()) => Some("no container has it"),
        (None | Some(_), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> EndpointId {
        EndpointId::new(text).unwrap()
    }

    fn view(veth: bool, docker: Option<DockerView>) -> View {
        let id = endpoint("e1");
        let iface = id.host_iface();
        let links = veth.then(|| (iface.to_string(), Some(id.clone()))).into_iter().collect();
        View { endpoints: vec![(id, iface)], links, docker, ..View::default() }
    }

    fn docker(running: &[&str], known: &[&str]) -> Option<DockerView> {
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        Some(DockerView { running: set(running), known: set(known), networks: BTreeSet::new() })
    }

    #[test]
    fn endpoints_are_judged_by_veth_and_by_docker() {
        let suspected = |veth, docker| !find(&view(veth, docker)).is_empty();
        for (veth, docker, expected, case) in [
            (true, None, false, "a veth and no word from Docker"),
            (false, None, true, "no veth and no word from Docker"),
            (true, docker(&["e1"], &["e1"]), false, "a running container"),
            (false, docker(&["e1"], &["e1"]), false, "a running container whose veth an admin removed"),
            (true, docker(&[], &["e1"]), false, "a container that is starting"),
            (false, docker(&[], &["e1"]), true, "a dead container of a crashed engine"),
            (true, docker(&[], &[]), true, "a namespace that a crashed engine left"),
            (false, docker(&[], &[]), true, "nothing at all"),
        ] {
            assert_eq!(suspected(veth, docker), expected, "{case}");
        }
    }

    #[test]
    fn foreign_interfaces_are_never_suspect() {
        let links = BTreeMap::from([("cali0123".to_owned(), None), ("eth0".to_owned(), None)]);
        assert!(find(&View { links, ..View::default() }).is_empty());
    }

    #[test]
    fn an_interface_of_ours_without_endpoint_is_suspect() {
        let links = BTreeMap::from([("cali0123".to_owned(), Some(endpoint("e9")))]);
        let found = find(&View { links, ..View::default() });
        assert!(found.contains_key(&Suspect::Link("cali0123".to_owned())));
    }

    #[test]
    fn a_network_is_judged_only_if_docker_answers() {
        let id = NetworkId::new("n1").unwrap();
        let idle = View { idle_networks: vec![id.clone()], ..View::default() };
        assert!(find(&idle).is_empty());
        let asked = View { docker: docker(&[], &[]), ..idle };
        assert!(find(&asked).contains_key(&Suspect::Network(id)));
    }
}
