//! The MTU of the host, from which that of endpoints follows.

use super::Link;
use super::vxlan::VXLAN_DEVICES;

/// The host MTU in bytes where no uplink is recognised (`felix/dataplane/linux/int_dataplane.go`, `findHostMTU`).
pub const FALLBACK_MTU: u32 = 1460;

/// Smallest MTU in bytes among the uplinks that are up; [`FALLBACK_MTU`] if there is none.
#[must_use]
pub fn host_mtu(links: &[Link]) -> u32 {
    let uplinks = links.iter().filter(|link| link.up && is_uplink(&link.name));
    uplinks.map(|link| link.mtu).min().unwrap_or(FALLBACK_MTU)
}

/// MTU in bytes that packets of workloads fit in wherever they go: that of the host, or of a VXLAN device that is there
/// (`ConfigureDefaultMTUs` of the same file: the smallest of the encapsulations in use).
#[must_use]
pub fn workload_mtu(links: &[Link]) -> u32 {
    let tunnels = links.iter().filter(|link| link.up && VXLAN_DEVICES.contains(&link.name.as_str()));
    tunnels.map(|link| link.mtu).fold(host_mtu(links), u32::min)
}

/// Whether an interface name is an uplink's by Felix's default `mtuIfacePattern`,
/// `^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)`.
#[must_use]
pub fn is_uplink(name: &str) -> bool {
    let by_kernel = ["eth", "wlan", "wwan"].iter().any(|prefix| name.starts_with(prefix));
    let by_udev = ["en", "wl", "ww", "sl", "ib"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['P', 'c', 'o', 'p', 's', 'v', 'x']))
    });
    by_kernel || by_udev
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_are_recognised_as_felix_does() {
        for name in [
            "eth0",
            "ethernet",
            "wlan0",
            "wwan0",
            "enp3s0",
            "eno1",
            "ens160",
            "enP1p0s1",
            "enx001122334455",
            "ibp1s0",
            "wlp2s0",
            "slc0",
            "env1",
        ] {
            assert!(is_uplink(name), "{name}");
        }
        for name in [
            "lo",
            "docker0",
            "cali0123456789a",
            "en",
            "enb0",
            "veth0",
            "br-eth0",
            "tunl0",
            "bond0",
            "w",
            "Eth0",
            "",
        ] {
            assert!(!is_uplink(name), "{name}");
        }
    }

    fn link(name: &str, up: bool, mtu: u32) -> Link {
        Link {
            index: 1,
            name: name.to_owned(),
            alias: None,
            mac: None,
            up,
            carrier: up,
            loopback: false,
            mtu,
            kind: None,
            peer: None,
            peer_elsewhere: false,
        }
    }

    #[test]
    fn the_smallest_mtu_of_the_uplinks_that_are_up_counts() {
        let links = [
            link("lo", true, 65536),
            link("eth0", true, 1500),
            link("eth1", true, 1400),
            link("eth2", false, 576),
        ];
        assert_eq!(host_mtu(&links), 1400);
        assert_eq!(host_mtu(&[link("bond0", true, 9000)]), FALLBACK_MTU);
        assert_eq!(host_mtu(&[]), FALLBACK_MTU);
    }

    #[test]
    fn packets_of_workloads_fit_in_the_tunnels_too() {
        let mut links = vec![link("eth0", true, 1500), link("vxlan.calico", true, 1450)];
        assert_eq!((host_mtu(&links), workload_mtu(&links)), (1500, 1450));
        links.push(link("vxlan-v6.calico", true, 1430));
        assert_eq!(workload_mtu(&links), 1430);
    }
}
