//! Published ports.

use super::DataplaneError;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Protocols that have ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One port of the host that leads to one port of a container. A range is as many of these; one for all addresses of
/// the host is one for each family of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMap {
    /// Protocol on both sides.
    pub protocol: Protocol,
    /// Address of the host; none, or `0.0.0.0` or `::`, for every address of the host.
    pub host_ip: Option<IpAddr>,
    /// Port of the host, never 0: whoever calls has chosen one.
    pub host_port: u16,
    /// Address and port of the container, of the same family.
    pub container: SocketAddr,
}

impl PortMap {
    /// The address of the host if it is a particular one.
    #[must_use]
    pub fn particular_host(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    pub(super) fn check(&self) -> Result<(), DataplaneError> {
        let fail = |why| Err(DataplaneError::Port { map: *self, why });
        if self.host_port == 0 || self.container.port() == 0 {
            return fail("port 0 is no port");
        }
        match self.host_ip {
            Some(ip) if ip.is_ipv4() != self.container.is_ipv4() => {
                fail("the host's and the container's address are of different families")
            }
            // It has no counterpart to `route_localnet`; Docker's own bridge needs its user-space proxy for this.
            Some(ip) if ip.is_ipv6() && ip.is_loopback() => {
                fail("IPv6 cannot be forwarded from the localhost address")
            }
            Some(ip) if ip.is_multicast() => fail("a multicast address is none of the host's"),
            _ => Ok(()),
        }
    }

    /// Whether both want the same port of the host.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        let same_family = self.container.is_ipv4() == other.container.is_ipv4();
        let same_host = match (self.particular_host(), other.particular_host()) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        };
        same_family && same_host && self.protocol == other.protocol && self.host_port == other.host_port
    }
}

impl fmt::Display for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.particular_host() {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.host_port))?,
            None => write!(f, "{}", self.host_port)?,
        }
        write!(f, "/{} to {}", self.protocol, self.container)
    }
}
