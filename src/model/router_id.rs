//! The router ID, 32 bits that no other speaker may have.

use std::net::Ipv4Addr;

/// How this node's router ID is found (`CALICO_ROUTER_ID` of calico/node).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RouterId {
    /// The node's IPv4 address.
    #[default]
    NodeAddress,
    /// From the node's name: for nodes without an IPv4 address.
    Hash,
    /// As it was given.
    Given(Ipv4Addr),
}

impl RouterId {
    /// Reads the setting: empty, `hash`, or in the form of an IPv4 address.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::NodeAddress),
            "hash" => Ok(Self::Hash),
            text => match text.parse::<Ipv4Addr>() {
                Ok(id) if is_usable(id) => Ok(Self::Given(id)),
                _ => Err("hash, or four numbers such as 10.0.0.1, are expected".to_owned()),
            },
        }
    }

    /// The ID of a node.
    #[must_use]
    pub fn of(self, node: &str, address: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        match self {
            Self::NodeAddress => address,
            Self::Hash => Some(hashed(node)),
            Self::Given(id) => Some(id),
        }
    }
}

fn is_usable(id: Ipv4Addr) -> bool {
    !id.is_unspecified() && !id.is_multicast() && !id.is_broadcast()
}

/// The first four bytes of the name's SHA-256, as calico/node takes them, which keeps them out of multicast
/// (`confd/pkg/resource/template/template_funcs.go`, `hashToIPv4`). One in 256 would be in 0.0.0.0/8, which speakers older than
/// RFC 6286 refuse; those begin with 1 here.
fn hashed(name: &str) -> Ipv4Addr {
    let [first, b, c, d, ..] = super::sha256(name.as_bytes());
    let first = if first > 223 { first - 32 } else { first };
    Ipv4Addr::new(first.max(1), b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_empty_or_hash_or_an_id() {
        assert_eq!(RouterId::parse(""), Ok(RouterId::NodeAddress));
        assert_eq!(RouterId::parse("hash"), Ok(RouterId::Hash));
        assert_eq!(RouterId::parse("10.0.0.1"), Ok(RouterId::Given(Ipv4Addr::new(10, 0, 0, 1))));
        for wrong in ["Hash", "1", "fd00::1", "224.0.0.1", "0.0.0.0"] {
            assert!(RouterId::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hashed_id_depends_on_the_name_and_can_be_used() {
        let id = |name: &str| RouterId::Hash.of(name, None).unwrap();
        assert_eq!(id("n1"), id("n1"));
        assert_ne!(id("n1"), id("n2"));
        // `printf NAME | sha256sum`.
        assert_eq!(id("n1"), Ipv4Addr::new(103, 107, 139, 184));
        assert_eq!(id("node-18"), Ipv4Addr::new(213, 194, 139, 227));
        for n in 0..2000 {
            let id = id(&format!("host-{n}"));
            assert!(is_usable(id) && (1..=223).contains(&id.octets()[0]), "{id}");
        }
        assert_eq!(RouterId::NodeAddress.of("n1", None), None);
    }
}
