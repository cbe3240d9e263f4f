//! How this node's own addresses are found: calico/node's settings of the same names
//! (`node/pkg/lifecycle/startup/startup.go`). Pure.

use crate::model::{AsNumber, Cidr, IpVersion};
use ipnetwork::IpNetwork;
use regex_lite::Regex;
use std::net::IpAddr;

/// What becomes the node's address of one IP version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAddress {
    /// What is detected, unless somebody else set one: the default.
    WhereUnset,
    /// What is detected, whatever the Node says.
    Detected,
    /// What the Node says.
    Kept,
    /// This one; without a prefix length, that of the interface that has the address.
    Given(IpAddr, Option<u8>),
}

/// Which of the host's addresses is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detection {
    /// The first of an interface that Docker or Calico did not make.
    FirstFound,
    /// The one that packets to this destination, an address or a name, leave with.
    CanReach(String),
    /// The first of an interface whose name one of the patterns matches.
    Interface(Vec<String>),
    /// As [`Detection::FirstFound`] without interfaces whose name one of the patterns matches.
    SkipInterface(Vec<String>),
    /// The first that is in one of the prefixes.
    InCidr(Vec<Cidr>),
}

/// Address and detection of one IP version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddressConfig {
    /// What becomes the address.
    pub address: NodeAddress,
    /// How one is detected.
    pub detection: Detection,
}

/// What this node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The IPv4 address.
    pub ipv4: NodeAddressConfig,
    /// The IPv6 address.
    pub ipv6: NodeAddressConfig,
    /// Its AS number; `None` leaves it as it is.
    pub as_number: Option<AsNumber>,
    /// Whether an address that another Node has is refused.
    pub check_conflicts: bool,
}

impl NodeConfig {
    /// The part of one IP version.
    #[must_use]
    pub fn of(&self, version: IpVersion) -> &NodeAddressConfig {
        match version {
            IpVersion::V4 => &self.ipv4,
            IpVersion::V6 => &self.ipv6,
        }
    }
}

impl Default for NodeAddressConfig {
    fn default() -> Self {
        Self { address: NodeAddress::WhereUnset, detection: Detection::FirstFound }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        let family = NodeAddressConfig::default;
        Self { ipv4: family(), ipv6: family(), as_number: None, check_conflicts: true }
    }
}

/// `autodetect`, `none`, an address or an address with its prefix length; empty for the default.
pub(super) fn parse_address(text: &str, version: IpVersion) -> Result<NodeAddress, String> {
    match text {
        "" => return Ok(NodeAddress::WhereUnset),
        "autodetect" => return Ok(NodeAddress::Detected),
        "none" => return Ok(NodeAddress::Kept),
        _ => {}
    }
    let wrong =
        || format!("autodetect, none, or an {version} address such as {} is expected", example(version));
    let network: IpNetwork = text.parse().map_err(|_| wrong())?;
    if IpVersion::of(network.ip()) != version {
        return Err(wrong());
    }
    Ok(NodeAddress::Given(network.ip(), text.contains('/').then(|| network.prefix())))
}

fn example(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "10.0.0.5/24",
        IpVersion::V6 => "fd00::5/64",
    }
}

/// calico/node's words for a detection method.
pub(super) fn parse_detection(text: &str, version: IpVersion) -> Result<Detection, String> {
    let (method, argument) = text.split_once('=').unwrap_or((text, ""));
    let items = || argument.split(',').map(str::trim).filter(|item| !item.is_empty());
    let named =
        |found: bool| if found { Ok(()) } else { Err(format!("something is expected after {method}=")) };
    match method {
        "" | "first-found" if argument.is_empty() => Ok(Detection::FirstFound),
        "can-reach" => named(!argument.is_empty()).map(|()| Detection::CanReach(argument.to_owned())),
        "interface" => {
            named(items().next().is_some())?;
            Ok(Detection::Interface(items().map(parse_pattern).collect::<Result<_, _>>()?))
        }
        "skip-interface" => {
            named(items().next().is_some())?;
            Ok(Detection::SkipInterface(items().map(parse_pattern).collect::<Result<_, _>>()?))
        }
        "cidr" => {
            named(items().next().is_some())?;
            Ok(Detection::InCidr(items().map(|item| parse_cidr(item, version)).collect::<Result<_, _>>()?))
        }
        "kubernetes-internal-ip" => {
            Err("there is no Kubernetes here that knows the node's address; use interface= or cidr=".to_owned())
        }
        _ => Err("first-found, can-reach=ADDRESS, interface=PATTERN, skip-interface=PATTERN or cidr=PREFIX is expected"
            .to_owned()),
    }
}

fn parse_pattern(text: &str) -> Result<String, String> {
    Regex::new(text).map(|_| text.to_owned()).map_err(|error| format!("{text} is not a pattern: {error}"))
}

fn parse_cidr(text: &str, version: IpVersion) -> Result<Cidr, String> {
    let cidr = Cidr::parse_masking(text).map_err(|error| error.to_string())?;
    if cidr.version() == version { Ok(cidr) } else { Err(format!("{text} is not an {version} prefix")) }
}

/// As RFC 5396 writes it: `64512`, `1.10`.
pub(super) fn parse_as_number(text: &str) -> Result<Option<AsNumber>, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_calico_nodes_words() {
        let v4 = |text| parse_address(text, IpVersion::V4);
        assert_eq!(v4(""), Ok(NodeAddress::WhereUnset));
        assert_eq!(v4("autodetect"), Ok(NodeAddress::Detected));
        assert_eq!(v4("none"), Ok(NodeAddress::Kept));
        assert_eq!(v4("10.0.0.5"), Ok(NodeAddress::Given("10.0.0.5".parse().unwrap(), None)));
        assert_eq!(v4("10.0.0.5/24"), Ok(NodeAddress::Given("10.0.0.5".parse().unwrap(), Some(24))));
        assert!(v4("fd00::1").unwrap_err().contains("IPv4 address such as 10.0.0.5/24"));
        assert!(v4("eth0").is_err() && parse_address("10.0.0.1", IpVersion::V6).is_err());
    }

    #[test]
    fn methods_are_calico_nodes_words() {
        let v4 = |text| parse_detection(text, IpVersion::V4);
        assert_eq!(v4(""), Ok(Detection::FirstFound));
        assert_eq!(v4("first-found"), Ok(Detection::FirstFound));
        assert_eq!(v4("can-reach=1.1.1.1"), Ok(Detection::CanReach("1.1.1.1".to_owned())));
        assert_eq!(
            v4("interface=eth.*, ens"),
            Ok(Detection::Interface(vec!["eth.*".to_owned(), "ens".to_owned()]))
        );
        assert_eq!(v4("cidr=10.0.0.1/8"), Ok(Detection::InCidr(vec!["10.0.0.0/8".parse().unwrap()])));
        assert!(v4("kubernetes-internal-ip").unwrap_err().contains("no Kubernetes"));
        for wrong in ["interface=", "interface=eth[", "cidr=fd00::/8", "cidr=x", "can-reach=", "best"] {
            assert!(v4(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn as_numbers_have_two_forms() {
        assert_eq!(parse_as_number(""), Ok(None));
        assert_eq!(parse_as_number("64512"), Ok(Some(AsNumber(64_512))));
        assert_eq!(parse_as_number("1.10"), Ok(Some(AsNumber(65_546))));
        assert!(parse_as_number("4294967296").is_err() && parse_as_number("1.70000").is_err());
    }
}
