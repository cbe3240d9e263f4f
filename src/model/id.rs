//! Names and ids. Raw strings exist only in `protocol` and `model::key`; everywhere else an id has its own type.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is not the id it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// The text is empty, too long or has a character that the id cannot hold.
    #[error("{what} {text:?} is not valid: {why}")]
    Invalid {
        /// Which id was expected.
        what: &'static str,
        /// What was given.
        text: String,
        /// The rule that it breaks.
        why: &'static str,
    },
}

fn check(what: &'static str, text: &str, ok: bool, why: &'static str) -> Result<(), IdError> {
    if ok { Ok(()) } else { Err(IdError::Invalid { what, text: text.to_owned(), why }) }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

text_id! {
    /// A Docker network ID: 64 hex digits, or 25 lower-case alphanumerics for a swarm network.
    NetworkId
}
text_id! {
    /// A Docker endpoint ID: 64 hex digits.
    EndpointId
}
text_id! {
    /// A Calico node name, exactly as Felix's hostname: lower case, DNS subdomain
    /// (`libcalico-go/lib/validator/v3`: upper-case names are refused).
    NodeName
}
text_id! {
    /// An IPAM handle: owner of one or more allocated addresses. No `/`, because it stands raw in a key.
    HandleId
}
text_id! {
    /// A network interface name, at most 15 bytes (`IFNAMSIZ` less its terminator).
    IfaceName
}

/// What the name of every endpoint's interface on the host begins with; Felix's default `interfacePrefix`.
pub const HOST_IFACE_PREFIX: &str = "cali";
/// Longest id that any engine sends; a longer one is not Docker's.
const MAX_DOCKER_ID: usize = 128;

/// Docker's ids must be safe in file names, etcd keys and label values.
fn docker_id(what: &'static str, text: &str) -> Result<(), IdError> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    check(
        what,
        text,
        !text.is_empty() && text.len() <= MAX_DOCKER_ID && plain,
        "1 to 128 letters or digits expected",
    )
}

fn short_of(text: &str, len: usize) -> &str {
    text.get(..len).unwrap_or(text)
}

impl NetworkId {
    /// Checks and wraps an ID that Docker sent.
    pub fn new(text: &str) -> Result<Self, IdError> {
        docker_id("network ID", text)?;
        Ok(Self(text.to_owned()))
    }

    /// The first twelve characters, as `docker network ls` prints them.
    #[must_use]
    pub fn short(&self) -> &str {
        short_of(&self.0, 12)
    }
}

impl EndpointId {
    /// Checks and wraps an ID that Docker sent. Lower case only: it becomes part of a Calico name.
    pub fn new(text: &str) -> Result<Self, IdError> {
        docker_id("endpoint ID", text)?;
        let lower = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        check("endpoint ID", text, lower, "lower-case letters and digits expected")?;
        Ok(Self(text.to_owned()))
    }

    /// The first twelve characters, for log lines.
    #[must_use]
    pub fn short(&self) -> &str {
        short_of(&self.0, 12)
    }

    /// Host side of the endpoint's veth: [`HOST_IFACE_PREFIX`] and the first eleven characters, as the Go plugin named it.
    #[must_use]
    pub fn host_iface(&self) -> IfaceName {
        IfaceName(format!("{HOST_IFACE_PREFIX}{}", short_of(&self.0, 11)))
    }

    /// Container side of the veth until Docker moves and renames it: `temp` and the first eleven characters.
    #[must_use]
    pub fn temp_iface(&self) -> IfaceName {
        IfaceName(format!("temp{}", short_of(&self.0, 11)))
    }
}

impl NodeName {
    /// Checks and wraps a node name; it is not lower-cased here, see [`NodeName::from_hostname`].
    pub fn new(text: &str) -> Result<Self, IdError> {
        check(
            "node name",
            text,
            is_resource_name(text),
            "lower case alphanumeric characters, '-' or '.' expected",
        )?;
        Ok(Self(text.to_owned()))
    }

    /// A node name from the host's name, trimmed and lower-cased as calico/node does.
    pub fn from_hostname(hostname: &str) -> Result<Self, IdError> {
        Self::new(&hostname.trim().to_lowercase())
    }
}

impl HandleId {
    /// Checks and wraps a handle ID.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let ok = !text.is_empty() && text.len() <= 512 && !text.contains(['/', '\r', '\n']);
        check("IPAM handle", text, ok, "1 to 512 characters without '/' or line ends expected")?;
        Ok(Self(text.to_owned()))
    }
}

impl IfaceName {
    /// Checks and wraps an interface name.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        check(
            "interface name",
            text,
            !text.is_empty() && text.len() <= 15 && plain,
            "1 to 15 of [a-zA-Z0-9_.-] expected",
        )?;
        Ok(Self(text.to_owned()))
    }
}

/// True for a lower-case DNS subdomain of at most 253 characters, the form of every Calico resource name.
#[must_use]
pub fn is_resource_name(text: &str) -> bool {
    let label = |part: &str| {
        let inner = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !part.is_empty() && inner && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The host side of every workload's veth, as Calico's CNI plugin sets it
    /// (`cni-plugin/pkg/dataplane/linux/dataplane_linux.go`).
    pub const HOST_SIDE: Self = Self([0xee; 6]);

    /// The container's address when the user gave none: locally administered, unicast, and the same however
    /// often the endpoint is set up, so that the WorkloadEndpoint is final when it is first written.
    #[must_use]
    pub fn of_endpoint(endpoint: &EndpointId) -> Self {
        // FNV-1a, 64 bit: spreads well and needs no dependency; not a security boundary.
        let hash = endpoint
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let invalid = || IdError::Invalid {
            what: "MAC address",
            text: text.to_owned(),
            why: "aa:bb:cc:dd:ee:ff expected",
        };
        let parts: Vec<u8> = text
            .split([':', '-'])
            .map(|part| match part.len() {
                2 => u8::from_str_radix(part, 16).map_err(|_| invalid()),
                _ => Err(invalid()),
            })
            .collect::<Result<_, _>>()?;
        <[u8; 6]>::try_from(parts).map(Self).map_err(|_| invalid())
    }
}

impl TryFrom<String> for MacAddress {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel() {
        let id = EndpointId::new(&"736ccfa7cd61ced9".repeat(4)).unwrap();
        assert_eq!(id.host_iface().as_str(), "cali736ccfa7cd6");
        assert_eq!(id.temp_iface().as_str(), "temp736ccfa7cd6");
        assert!(IfaceName::new("sixteen-letters-").is_err());
    }

    #[test]
    fn swarm_network_ids_are_accepted_and_paths_are_not() {
        assert!(NetworkId::new("pib0f9vh4r0s1zzbx0l3sy1ge").is_ok());
        assert!(NetworkId::new("../../etc").is_err());
        assert!(NetworkId::new("").is_err());
    }

    #[test]
    fn node_names_are_lower_cased_only_from_a_hostname() {
        assert!(NodeName::new("Docker-1").is_err());
        assert_eq!(NodeName::from_hostname(" Docker-1\n").unwrap().as_str(), "docker-1");
    }

    #[test]
    fn derived_mac_is_stable_unicast_and_local() {
        let id = EndpointId::new("abc").unwrap();
        let mac = MacAddress::of_endpoint(&id);
        assert_eq!(mac, MacAddress::of_endpoint(&id));
        assert_eq!(mac.0[0] & 0x03, 0x02);
    }

    #[test]
    fn mac_addresses_print_and_parse() {
        let mac: MacAddress = "02:11:22:33:44:5F".parse().unwrap();
        assert_eq!(mac.to_string(), "02:11:22:33:44:5f");
        assert!("02:11:22:33:44".parse::<MacAddress>().is_err());
        assert!("02:11:22:33:44:1ff".parse::<MacAddress>().is_err());
    }
}
