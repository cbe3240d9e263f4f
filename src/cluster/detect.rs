//! Which of the host's addresses is the node's: calico/node's methods
//! (`node/pkg/lifecycle/startup/autodetection`). Pure.

use crate::config::Detection;
use crate::model::{Cidr, IpVersion};
use crate::net::HostAddress;
use ipnetwork::IpNetwork;
use regex_lite::Regex;
use std::net::IpAddr;

/// What names of interfaces begin with that are never uplinks (`DEFAULT_INTERFACES_TO_EXCLUDE` there).
const NOT_UPLINKS: [&str; 18] = [
    "docker",
    "cbr",
    "dummy",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
    "temp",
];

/// What a host shows that has to choose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// All addresses, in the kernel's order.
    pub(super) addresses: &'a [HostAddress],
    /// The address that packets to the destination of `can-reach=` leave with.
    pub(super) source: Option<IpAddr>,
}

/// Chooses an address with the length of its subnet's prefix; the error says what was looked for in vain.
pub(super) fn detect(method: &Detection, version: IpVersion, seen: Seen<'_>) -> Result<IpNetwork, String> {
    let none = |what: String| format!("no {version} address of this host {what}");
    let uplink = |address: &&HostAddress| !is_made_by_software(&address.device);
    match method {
        Detection::FirstFound => first(version, seen.addresses.iter().filter(uplink))
            .ok_or_else(|| none("is an uplink's".to_owned())),
        Detection::CanReach(destination) => {
            let leaves = |address: &&HostAddress| Some(address.address) == seen.source;
            first(version, seen.addresses.iter().filter(leaves))
                .ok_or_else(|| none(format!("can reach {destination}")))
        }
        Detection::Interface(patterns) => {
            let matching = patterns_of(patterns)?;
            let named =
                |address: &&HostAddress| matching.iter().any(|pattern| pattern.is_match(&address.device));
            first(version, seen.addresses.iter().filter(named))
                .ok_or_else(|| none(format!("is on an interface {}", patterns.join(","))))
        }
        Detection::SkipInterface(patterns) => {
            let skipped = patterns_of(patterns)?;
            let left =
                |address: &&HostAddress| !skipped.iter().any(|pattern| pattern.is_match(&address.device));
            first(version, seen.addresses.iter().filter(uplink).filter(left))
                .ok_or_else(|| none(format!("is an uplink's other than {}", patterns.join(","))))
        }
        Detection::InCidr(cidrs) => {
            let inside = |address: &&HostAddress| cidrs.iter().any(|cidr| cidr.contains(address.address));
            first(version, seen.addresses.iter().filter(inside))
                .ok_or_else(|| none(format!("is in {}", text_of(cidrs))))
        }
    }
}

fn text_of(cidrs: &[Cidr]) -> String {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn patterns_of(texts: &[String]) -> Result<Vec<Regex>, String> {
    let pattern =
        |text: &String| Regex::new(text).map_err(|error| format!("{text} is not a pattern: {error}"));
    texts.iter().map(pattern).collect()
}

/// As calico/node, the last interface comes first; of one interface's addresses the first that is not a secondary one.
fn first<'a>(version: IpVersion, addresses: impl Iterator<Item = &'a HostAddress>) -> Option<IpNetwork> {
    let mut usable: Vec<&HostAddress> = addresses
        .filter(|address| IpVersion::of(address.address) == version && address.up && !address.unusable)
        .filter(|address| is_global_unicast(address.address))
        .collect();
    // Stable: addresses of one interface keep their order.
    usable.sort_by_key(|address| (std::cmp::Reverse(address.index), address.secondary));
    usable.first().and_then(|address| IpNetwork::new(address.address, address.prefix_len).ok())
}

/// An address that other hosts can have a route to; private ones are (Go's `IP.IsGlobalUnicast`).
fn is_global_unicast(ip: IpAddr) -> bool {
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !special && !local
}

/// Names that Docker, Calico and the like give to interfaces. Docker's own bridges are `br-` and twelve hex digits;
/// calico/node would take one for an uplink.
fn is_made_by_software(device: &str) -> bool {
    let numbered = |rest: &str| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    NOT_UPLINKS.iter().any(|prefix| device.starts_with(prefix))
        || device.strip_prefix("br-").is_some_and(numbered)
}

/// Whether the coming or going of an address can change what `detect` finds.
#[must_use]
pub fn is_uplink_address(ip: IpAddr) -> bool {
    is_global_unicast(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(index: u32, device: &str, text: &str) -> HostAddress {
        let network: IpNetwork = text.parse().unwrap();
        HostAddress {
            index,
            device: device.to_owned(),
            up: true,
            address: network.ip(),
            prefix_len: network.prefix(),
            secondary: false,
            unusable: false,
        }
    }

    fn host() -> Vec<HostAddress> {
        vec![
            address(1, "lo", "127.0.0.1/8"),
            address(2, "eth0", "203.0.113.7/24"),
            address(2, "eth0", "fe80::1/64"),
            address(2, "eth0", "2001:db8::7/64"),
            address(3, "eth1", "169.254.3.3/16"),
            address(3, "eth1", "10.0.0.7/16"),
            address(4, "docker0", "172.17.0.1/16"),
            address(5, "br-0123456789ab", "172.18.0.1/16"),
            address(6, "cali0123456789a", "10.9.9.9/32"),
            address(7, "vxlan.calico", "192.168.3.1/32"),
            address(8, "ibmveth0", "fe80::2/64"),
        ]
    }

    fn found(method: Detection, version: IpVersion, source: Option<&str>) -> Result<String, String> {
        let source = source.map(|text| text.parse().unwrap());
        detect(&method, version, Seen { addresses: &host(), source }).map(|network| network.to_string())
    }

    #[test]
    fn each_method_finds_what_calico_node_finds() {
        let patterns = |text: &str| vec![text.to_owned()];
        let cidr = |text: &str| vec![text.parse().unwrap()];
        let v4 = [
            (Detection::FirstFound, None, "10.0.0.7/16"),
            (Detection::CanReach("1.1.1.1".to_owned()), Some("203.0.113.7"), "203.0.113.7/24"),
            (Detection::Interface(patterns("eth0")), None, "203.0.113.7/24"),
            // Patterns are not anchored, and Docker's interfaces may be named.
            (Detection::Interface(patterns("ker")), None, "172.17.0.1/16"),
            (Detection::SkipInterface(patterns("th1$")), None, "203.0.113.7/24"),
            (Detection::InCidr(cidr("203.0.113.0/24")), None, "203.0.113.7/24"),
        ];
        for (method, source, expected) in v4 {
            assert_eq!(found(method.clone(), IpVersion::V4, source), Ok(expected.to_owned()), "{method:?}");
        }
        assert_eq!(found(Detection::FirstFound, IpVersion::V6, None), Ok("2001:db8::7/64".to_owned()));
    }

    #[test]
    fn what_is_not_found_is_named() {
        let why = |method, version| found(method, version, None).unwrap_err();
        assert_eq!(
            why(Detection::Interface(vec!["wlan.*".to_owned()]), IpVersion::V4),
            "no IPv4 address of this host is on an interface wlan.*"
        );
        assert_eq!(
            why(Detection::CanReach("1.1.1.1".to_owned()), IpVersion::V4),
            "no IPv4 address of this host can reach 1.1.1.1"
        );
        let nothing = Seen { addresses: &[], source: None };
        assert!(detect(&Detection::FirstFound, IpVersion::V6, nothing).unwrap_err().contains("IPv6"));
    }

    #[test]
    fn addresses_that_cannot_be_used_are_passed_over() {
        let mut addresses = vec![
            address(2, "eth0", "2001:db8::1/64"),
            address(2, "eth0", "2001:db8::2/64"),
            address(2, "eth0", "2001:db8::3/64"),
            address(3, "eth1", "2001:db8::4/64"),
        ];
        addresses[0].secondary = true;
        addresses[1].unusable = true;
        addresses[3].up = false;
        let seen = Seen { addresses: &addresses, source: None };
        assert_eq!(
            detect(&Detection::FirstFound, IpVersion::V6, seen).unwrap().to_string(),
            "2001:db8::3/64"
        );
        // A temporary address is better than none.
        addresses.truncate(1);
        let seen = Seen { addresses: &addresses, source: None };
        assert!(detect(&Detection::FirstFound, IpVersion::V6, seen).is_ok());
    }
}
