//! Prefixes. A [`Cidr`] is always masked; an interface address with host bits is an `IpNetwork`, never a `Cidr`.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The version of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Length of an address in bits: 32 or 128.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The word in Calico's keys: `ipv4` or `ipv6`.
    #[must_use]
    pub fn key_word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why a text is not a prefix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidrError {
    /// Not an address with an optional prefix length.
    #[error("{0:?} is not an IP prefix such as 10.1.0.0/24")]
    Syntax(String),
    /// Bits beyond the prefix length are set.
    #[error("{given} has host bits set; the prefix is {masked}")]
    HostBits {
        /// What was given.
        given: String,
        /// The same, masked.
        masked: Cidr,
    },
}

/// A masked IP prefix. Sorts by version, then address, then length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: IpAddr,
    len: u8,
}

/// The bits of an address, right-aligned.
fn to_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(version: IpVersion, bits: u128) -> IpAddr {
    match version {
        // The mask keeps exactly the 32 bits that an IPv4 address has.
        IpVersion::V4 => {
            let [.., a, b, c, d] = bits.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        IpVersion::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

impl Cidr {
    /// The prefix of `len` bits that holds `ip`; a longer `len` than the address has is cut to it.
    #[must_use]
    pub fn masking(ip: IpAddr, len: u8) -> Self {
        let version = IpVersion::of(ip);
        let len = len.min(version.bits());
        let host_bits = u32::from(version.bits() - len);
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Self { base: from_bits(version, to_bits(ip) & mask), len }
    }

    /// The /32 or /128 of one address.
    #[must_use]
    pub fn host(ip: IpAddr) -> Self {
        Self { base: ip, len: IpVersion::of(ip).bits() }
    }

    /// `0.0.0.0/0` or `::/0`.
    #[must_use]
    pub fn any(version: IpVersion) -> Self {
        Self { base: from_bits(version, 0), len: 0 }
    }

    /// Parses a prefix and masks it; a bare address is a /32 or /128.
    pub fn parse_masking(text: &str) -> Result<Self, CidrError> {
        let syntax = || CidrError::Syntax(text.to_owned());
        // IpNetwork reads "10.1.0.0/255.255.0.0" too, which Calico does not.
        if text.split_once('/').is_some_and(|(_, len)| !len.bytes().all(|b| b.is_ascii_digit())) {
            return Err(syntax());
        }
        let net = IpNetwork::from_str(text).map_err(|_| syntax())?;
        Ok(Self::masking(net.ip(), net.prefix()))
    }

    /// First address.
    #[must_use]
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        let host_bits = u32::from(self.version().bits() - self.len);
        let ones = u128::MAX.checked_shl(host_bits).map_or(u128::MAX, |high| !high);
        from_bits(self.version(), to_bits(self.base) | ones)
    }

    /// Prefix length in bits.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        IpVersion::of(self.base)
    }

    /// Whether one address lies inside.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        IpVersion::of(ip) == self.version() && Self::masking(ip, self.len) == *self
    }

    /// Whether the whole of `other` lies inside (a prefix contains itself).
    #[must_use]
    pub fn contains_cidr(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.base)
    }

    /// Whether any address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains_cidr(other) || other.contains_cidr(self)
    }

    /// Number of addresses, saturating at `u128::MAX` for `::/0`.
    #[must_use]
    pub fn size(&self) -> u128 {
        1_u128.checked_shl(u32::from(self.version().bits() - self.len)).unwrap_or(u128::MAX)
    }

    /// The address `ordinal` places after the first, if it lies inside.
    #[must_use]
    pub fn nth(&self, ordinal: u128) -> Option<IpAddr> {
        (ordinal < self.size()).then(|| from_bits(self.version(), to_bits(self.base).wrapping_add(ordinal)))
    }

    /// How many places after the first an address lies, if it lies inside.
    #[must_use]
    pub fn ordinal(&self, ip: IpAddr) -> Option<u128> {
        self.contains(ip).then(|| to_bits(ip) - to_bits(self.base))
    }

    /// The text that stands in Calico's keys: `10.10.0.128-29`.
    #[must_use]
    pub fn key_text(&self) -> String {
        format!("{}-{}", self.base, self.len)
    }

    /// Reads the text of a key back.
    #[must_use]
    pub fn from_key_text(text: &str) -> Option<Self> {
        let (base, len) = text.rsplit_once('-')?;
        format!("{base}/{len}").parse().ok()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.len)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Parses a prefix strictly: host bits are an error. A bare address is a /32 or /128.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let masked = Self::parse_masking(text)?;
        let given = text.split('/').next().unwrap_or(text);
        match given.parse::<IpAddr>() {
            Ok(ip) if ip == masked.base => Ok(masked),
            Ok(_) => Err(CidrError::HostBits { given: text.to_owned(), masked }),
            Err(_) => Err(CidrError::Syntax(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;
    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl From<Cidr> for IpNetwork {
    fn from(cidr: Cidr) -> Self {
        // A Cidr's length never exceeds its address's, the one thing that IpNetwork::new refuses.
        IpNetwork::new(cidr.base, cidr.len).unwrap_or_else(|_| IpNetwork::from(cidr.base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_refused_and_named() {
        let error = "10.1.0.5/24".parse::<Cidr>().unwrap_err();
        assert_eq!(error.to_string(), "10.1.0.5/24 has host bits set; the prefix is 10.1.0.0/24");
        assert!("10.1.0.0/255.255.0.0".parse::<Cidr>().is_err());
        assert!("10.1.0.0/33".parse::<Cidr>().is_err());
        assert!("fd00::/64/".parse::<Cidr>().is_err());
    }

    #[test]
    fn key_text_is_calicos() {
        assert_eq!(cidr("10.10.0.128/29").key_text(), "10.10.0.128-29");
        assert_eq!(cidr("fd80:24e2:f998:72d6::4c0/122").key_text(), "fd80:24e2:f998:72d6::4c0-122");
        assert_eq!(
            Cidr::from_key_text("fd80:24e2:f998:72d6::4c0-122"),
            Some(cidr("fd80:24e2:f998:72d6::4c0/122"))
        );
        assert_eq!(Cidr::from_key_text("10.10.0.129-29"), None);
    }

    #[test]
    fn the_widest_prefixes_hold_everything() {
        assert!(Cidr::any(IpVersion::V6).contains("ffff::1".parse().unwrap()));
        assert!(!Cidr::any(IpVersion::V6).contains("10.0.0.1".parse().unwrap()));
        assert_eq!(Cidr::any(IpVersion::V4).size(), 1 << 32);
        assert_eq!(Cidr::any(IpVersion::V4).last().to_string(), "255.255.255.255");
    }

    proptest! {
        #[test]
        fn ordinal_and_nth_are_inverse(bits in any::<u32>(), len in 8u8..=32, pick in any::<u32>()) {
            let net = Cidr::masking(IpAddr::V4(Ipv4Addr::from_bits(bits)), len);
            let ordinal = u128::from(pick) % net.size();
            let ip = net.nth(ordinal).unwrap();
            prop_assert_eq!(net.ordinal(ip), Some(ordinal));
            prop_assert!(net.contains(ip));
            prop_assert_eq!(net.nth(net.size()), None);
        }

        #[test]
        fn text_round_trips(bits in any::<u128>(), len in 0u8..=128) {
            let net = Cidr::masking(IpAddr::V6(Ipv6Addr::from_bits(bits)), len);
            prop_assert_eq!(net.to_string().parse::<Cidr>().unwrap(), net);
            prop_assert_eq!(Cidr::from_key_text(&net.key_text()), Some(net));
        }
    }
}
