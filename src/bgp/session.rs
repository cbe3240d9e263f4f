//! One BGP session of this node, and how two of them are told apart (pure).

use super::settings::is_peer;
use crate::model::{AsNumber, BgpPeerSpec, IpVersion};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Why a session is there; the word begins its name, as confd has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The node-to-node mesh.
    Mesh,
    /// A BGPPeer of all nodes.
    Global,
    /// A BGPPeer of this node, or another node's that names this one.
    Node,
}

impl Origin {
    fn word(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Global => "Global",
            Self::Node => "Node",
        }
    }
}

/// What becomes of the next hop of announced routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum NextHop {
    /// As BGP says.
    #[default]
    Auto,
    /// This node.
    Own,
    /// As it was.
    Keep,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) origin: Origin,
    /// The BGPPeer, or the node of the mesh.
    pub(super) of: String,
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) as_number: AsNumber,
    pub(super) local_as: Option<AsNumber>,
    /// Whether the session comes from the node's address.
    pub(super) from_node_address: bool,
    /// Hops that packets may have made.
    pub(super) hops: Option<u8>,
    pub(super) passive: bool,
    /// Seconds.
    pub(super) restart_time: Option<u64>,
    /// Seconds.
    pub(super) keepalive: Option<u64>,
    /// Set where the peer is a client of this route reflector.
    pub(super) client_of: Option<Ipv4Addr>,
    pub(super) next_hop: NextHop,
    pub(super) allowed_own_as: Option<i32>,
    pub(super) filters: Vec<String>,
    pub(super) reachable_by: Option<IpAddr>,
}

impl Session {
    /// A session with nothing but its ends.
    pub(super) fn new(origin: Origin, of: &str, address: IpAddr, as_number: AsNumber) -> Self {
        Self {
            origin,
            of: of.to_owned(),
            address,
            port: None,
            as_number,
            local_as: None,
            from_node_address: true,
            hops: None,
            passive: false,
            restart_time: None,
            keepalive: None,
            client_of: None,
            next_hop: NextHop::Auto,
            allowed_own_as: None,
            filters: Vec::new(),
            reachable_by: None,
        }
    }

    /// IPv4 or IPv6; a session carries the routes of its own version.
    pub(super) fn version(&self) -> IpVersion {
        IpVersion::of(self.address)
    }

    /// The protocol's name in BIRD, as confd makes it: `Mesh_172_17_8_102`.
    pub(super) fn name(&self) -> String {
        let address = self.address.to_string().replace(['.', ':'], "_");
        match self.port {
            Some(port) if self.origin != Origin::Mesh => {
                format!("{}_{address}_port_{port}", self.origin.word())
            }
            _ => format!("{}_{address}", self.origin.word()),
        }
    }
}

/// Reads `ADDRESS`, `IPV4:PORT` or `[IPV6]:PORT`.
pub(super) fn peer_address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let read = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(address), _) => Some((address, None)),
        (Err(_), Ok(socket)) if socket.port() != 0 => Some((socket.ip(), Some(socket.port()))),
        _ => None,
    };
    read.filter(|(address, _)| is_peer(*address)).ok_or_else(|| {
        format!("peerIP {text:?} is no address that a host can have in a network, with or without a port")
    })
}

/// Why a BGPPeer cannot be used at all.
pub(super) fn obstacle(spec: &BgpPeerSpec) -> Option<String> {
    if spec.password.as_ref().is_some_and(|value| !value.is_null()) {
        return Some("its password is in a Kubernetes secret, which this plugin cannot read".to_owned());
    }
    if !spec.local_workload_selector.is_empty() {
        return Some("localWorkloadSelector: peering with workloads of the host is not supported".to_owned());
    }
    if !spec.node.is_empty() && !spec.node_selector.is_empty() {
        return Some("node and nodeSelector exclude each other".to_owned());
    }
    match (spec.peer_selector.is_empty(), spec.peer_ip.is_empty()) {
        (true, true) => Some("it has neither peerIP nor peerSelector".to_owned()),
        (false, false) => Some("peerIP and peerSelector exclude each other".to_owned()),
        (false, true) if spec.as_number.is_some_and(|number| number.0 != 0) => {
            Some("asNumber and peerSelector exclude each other: selected nodes have their own".to_owned())
        }
        (true, false) if spec.as_number.is_none_or(|number| number.0 == 0) => {
            Some("it has no asNumber".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_ports_are_read() {
        let read = |text: &str| peer_address(text).map(|(ip, port)| format!("{ip} {port:?}"));
        assert_eq!(read("10.0.0.1"), Ok("10.0.0.1 None".to_owned()));
        assert_eq!(read("10.0.0.1:178"), Ok("10.0.0.1 Some(178)".to_owned()));
        assert_eq!(read("[fd00::1]:178"), Ok("fd00::1 Some(178)".to_owned()));
        assert_eq!(read("fd00::1"), Ok("fd00::1 None".to_owned()));
        for wrong in
            ["", "router", "fe80::1", "224.0.0.1", "0.0.0.0", "10.0.0.1:0", "10.0.0.1:x", "10.0.0.1; reject"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_confds() {
        let mut session = Session::new(Origin::Mesh, "n2", "172.17.8.102".parse().unwrap(), AsNumber(64_512));
        assert_eq!(session.name(), "Mesh_172_17_8_102");
        session =
            Session { origin: Origin::Node, address: "fd00::2".parse().unwrap(), port: Some(178), ..session };
        assert_eq!(session.name(), "Node_fd00__2_port_178");
    }
}
