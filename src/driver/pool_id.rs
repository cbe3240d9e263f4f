//! What a PoolID says. Docker keeps the text with the network and sends it back with each address request, from any
//! node, so the text is all there is: it names the prefix, and everything else is looked up by it.

use super::error::{DriverError, refused};
use crate::model::{Cidr, IpVersion};
use std::fmt;

/// A pool as Docker names it back to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoolId {
    /// Every pool that may serve this node: a network without `--subnet`.
    Any(IpVersion),
    /// A network with `--subnet`.
    Subnet {
        /// `--subnet`: `--ip` must lie inside.
        subnet: Cidr,
        /// `--ip-range`: addresses that nobody asked for by name come from here.
        range: Option<Cidr>,
    },
}

/// The Go plugin's IDs for networks without `--subnet`; kept, so that its networks go on working.
const ANY_IPV4: &str = "CalicoPoolIPv4";
const ANY_IPV6: &str = "CalicoPoolIPv6";

impl PoolId {
    /// Reads an ID that Docker sent back.
    pub(super) fn parse(text: &str) -> Result<Self, DriverError> {
        match text {
            ANY_IPV4 => return Ok(Self::Any(IpVersion::V4)),
            ANY_IPV6 => return Ok(Self::Any(IpVersion::V6)),
            _ => {}
        }
        let (subnet, range) = match text.split_once(',') {
            Some((subnet, range)) => (subnet, Some(range)),
            None => (text, None),
        };
        let unknown = |_| refused(format!("pool ID {text:?} is not one of this plugin's"));
        let subnet = subnet.parse().map_err(unknown)?;
        let range = range.map(str::parse).transpose().map_err(unknown)?;
        Ok(Self::Subnet { subnet, range })
    }

    /// IPv4 or IPv6.
    pub(super) fn version(self) -> IpVersion {
        match self {
            Self::Any(version) => version,
            Self::Subnet { subnet, .. } => subnet.version(),
        }
    }

    /// The prefix that Docker shows for the network and checks `--ip` against.
    pub(super) fn subnet(self) -> Cidr {
        match self {
            Self::Any(version) => Cidr::any(version),
            Self::Subnet { subnet, .. } => subnet,
        }
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(IpVersion::V4) => f.write_str(ANY_IPV4),
            Self::Any(IpVersion::V6) => f.write_str(ANY_IPV6),
            Self::Subnet { subnet, range: None } => subnet.fmt(f),
            Self::Subnet { subnet, range: Some(range) } => write!(f, "{subnet},{range}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back() {
        for text in
            ["CalicoPoolIPv4", "CalicoPoolIPv6", "10.1.0.0/24", "10.1.0.0/24,10.1.0.128/25", "fd00::/64"]
        {
            assert_eq!(PoolId::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_drivers_ids_are_refused() {
        for text in ["", "LocalDefault/172.17.0.0/16", "10.1.0.5/24"] {
            assert!(PoolId::parse(text).is_err(), "{text}");
        }
    }
}
