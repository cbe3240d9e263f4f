//! Kernel settings below `net/`, as files under a root that can be elsewhere than `/proc/sys/net`: in a managed plugin
//! `/proc/sys` is read-only, and a bind mount of `/proc/sys/net` to another path is writable with `CAP_NET_ADMIN` alone.
//!
//! `/proc/sys/net` is that of the network namespace of the thread that opens the file, also through a bind mount.

use super::error::NetError;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The files.
#[derive(Debug, Clone)]
pub(crate) struct Sysctl {
    root: PathBuf,
}

impl Sysctl {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the root is a sysctl tree at all, and writable. Changes nothing.
    pub(crate) fn check(&self) -> Result<(), NetError> {
        if !self.root.join("ipv4/conf").is_dir() {
            return Err(NetError::NoSysctl { root: self.root.clone() });
        }
        let path = self.root.join("ipv4/ip_forward");
        let opened = OpenOptions::new().write(true).open(&path);
        opened.map(drop).map_err(|error| refused(&path, "open for writing", error))
    }

    /// Whether the kernel has IPv6: with `ipv6.disable=1` the whole directory is missing.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.root.join("ipv6/conf").is_dir()
    }

    /// A value, without its line end.
    pub(crate) fn get(&self, name: &str) -> Result<String, NetError> {
        let path = self.root.join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| refused(&path, "read", error))?;
        Ok(text.trim_end().to_owned())
    }

    /// Makes a value be `value`, and says whether it was another. It is read first: many of these files take the
    /// kernel's rtnl lock when written, none when read, and most have the right value already, inherited from
    /// `conf/default`.
    pub(crate) fn set(&self, name: &str, value: &str) -> Result<bool, NetError> {
        if self.get(name)? == value {
            return Ok(false);
        }
        let path = self.root.join(name);
        let written =
            OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
        written.map(|()| true).map_err(|error| refused(&path, &format!("write {value} to"), error))
    }
}

fn refused(path: &Path, verb: &str, error: io::Error) -> NetError {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => NetError::ReadOnly { path: path.to_owned() },
        // EACCES: the mode of a sysctl file is checked against the namespace's owner (kernel net/sysctl_net.c).
        io::ErrorKind::PermissionDenied => NetError::Denied { what: format!("{verb} {}", path.display()) },
        _ => NetError::of_io(format!("{verb} {}", path.display()), error),
    }
}

/// Between two searches for a container's IPv6 address, in milliseconds. The kernel waits a second, and so would all who ask
/// before the container has its interface: the first search then goes to a link without carrier.
const IPV6_SEARCH_MS: u32 = 100;

/// So many searches, which with the kernel's own values are three in three seconds (kernel `net/ipv6/ndisc.c`, `nd_tbl`).
const IPV6_SEARCHES: u32 = 3000 / IPV6_SEARCH_MS;

/// The settings of one endpoint's host side, in the order of writing: what Felix writes
/// (`felix/dataplane/linux/endpoint_mgr.go`, `configureProcSysForInterface`), what Calico's CNI plugin writes as the
/// veth's maker (`cni-plugin/pkg/dataplane/linux/dataplane_linux.go`), and how IPv6 neighbours are searched for.
///
/// `rp_filter` is the value of `conf/default`. With `ipv6` false the kernel has none and nothing of it is written;
/// `wants_ipv6` is for an endpoint with an IPv6 address, for which IPv6 is turned on even where the default is off.
pub(crate) fn of_endpoint(
    iface: &str,
    rp_filter: &str,
    ipv6: bool,
    wants_ipv6: bool,
) -> Vec<(String, String)> {
    let v4 = |key: &str, value: &str| (format!("ipv4/conf/{iface}/{key}"), value.to_owned());
    let v6 = |key: &str, value: &str| (format!("ipv6/conf/{iface}/{key}"), value.to_owned());
    let neigh6 = |key: &str, value: u32| (format!("ipv6/neigh/{iface}/{key}"), value.to_string());
    let mut settings = Vec::with_capacity(13);
    if ipv6 {
        // First of all: the host must never take a router's word from a workload.
        settings.push(v6("accept_ra", "0"));
        settings.push(v6("accept_dad", "0"));
    }
    if ipv6 && wants_ipv6 {
        settings.push(v6("disable_ipv6", "0"));
        settings.push(neigh6("retrans_time_ms", IPV6_SEARCH_MS));
        settings.push(neigh6("mcast_solicit", IPV6_SEARCHES));
        settings.push(neigh6("ucast_solicit", IPV6_SEARCHES));
    }
    settings.push(v4("route_localnet", "1"));
    // Otherwise the kernel delays its proxy ARP answers by up to 0.8 s.
    settings.push((format!("ipv4/neigh/{iface}/proxy_delay"), "0".to_owned()));
    settings.push(v4("proxy_arp", "1"));
    settings.push(v4("forwarding", "1"));
    settings.push(v4("rp_filter", rp_filter));
    if ipv6 {
        settings.push(v6("proxy_ndp", "1"));
        settings.push(v6("forwarding", "1"));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Sysctl) {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        }
        let sysctl = Sysctl::new(dir.path());
        (dir, sysctl)
    }

    #[test]
    fn a_root_without_sysctls_is_named_in_the_error() {
        let error = Sysctl::new("/nowhere/sysnet").check().unwrap_err();
        assert!(matches!(error, NetError::NoSysctl { .. }));
        assert!(error.to_string().contains("/nowhere/sysnet"), "{error}");
    }

    #[test]
    fn a_file_of_a_vanished_interface_is_not_there() {
        let (_dir, sysctl) = tree(&[("ipv4/conf/all/forwarding", "1\n")]);
        assert!(sysctl.set("ipv4/conf/cali0/forwarding", "1").unwrap_err().is_not_there());
    }

    #[test]
    fn a_value_that_is_right_is_not_written() {
        let (dir, sysctl) = tree(&[("ipv4/ip_forward", "1\n")]);
        let path = dir.path().join("ipv4/ip_forward");
        sysctl.set("ipv4/ip_forward", "1").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
        sysctl.set("ipv4/ip_forward", "0").unwrap();
        assert_eq!(sysctl.get("ipv4/ip_forward").unwrap(), "0\n".trim_end());
    }

    #[test]
    fn a_read_only_mount_is_explained() {
        let error = refused(Path::new("/host-sysnet/x"), "write", io::Error::from_raw_os_error(30));
        assert!(error.to_string().contains("/proc/sys/net must be mounted writable"), "{error}");
    }

    #[test]
    fn router_advertisements_are_refused_before_anything_else() {
        let settings = of_endpoint("cali0", "2", true, true);
        assert_eq!(settings.first().unwrap(), &("ipv6/conf/cali0/accept_ra".to_owned(), "0".to_owned()));
        assert_eq!(settings.len(), 13);
        assert!(settings.contains(&("ipv4/conf/cali0/rp_filter".to_owned(), "2".to_owned())));
    }

    #[test]
    fn without_ipv6_in_the_kernel_nothing_of_it_is_written() {
        let settings = of_endpoint("cali0", "1", false, true);
        assert!(settings.iter().all(|(name, _)| name.starts_with("ipv4/")), "{settings:?}");
        assert_eq!(settings.len(), 5);
    }
}
