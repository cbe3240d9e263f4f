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

/// 32 bits of the name's FNV-1a hash, kept out of 0.0.0.0/8 and of multicast. Only this node uses the value, so it need
/// not be calico/node's, which takes it from a SHA-256.
fn hashed(name: &str) -> Ipv4Addr {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [first, b, c, d] = hash.to_be_bytes();
    Ipv4Addr::new(1 + first % 223, b, c, d)
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
        for n in 0..2000 {
            let id = id(&format!("host-{n}"));
            assert!(is_usable(id) && (1..=223).contains(&id.octets()[0]), "{id}");
        }
        assert_eq!(RouterId::NodeAddress.of("n1", None), None);
    }
}
