//! What can go wrong between us and the kernel, and the one place where an errno gets its meaning.

use nix::errno::Errno;
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

/// What a caller can be told. Each variant is a question that a caller asks.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An interface of that name exists and is not ours; it was not touched.
    #[error("interface name {iface} is taken: {why}")]
    NameTaken {
        /// The name.
        iface: String,
        /// What stands there instead.
        why: String,
    },
    /// A VXLAN device of somebody else has the network and port of ours. Docker's overlay numbers its networks from 4096
    /// on (moby `libnetwork/drivers/overlay/ovmanager`), and 4096 is Calico's default.
    #[error(
        "another VXLAN device of this machine has VNI {vni} on UDP port {port}, so {device} cannot be made; set \
         vxlanVNI in FelixConfiguration default to a number that nobody uses, e.g. 4242424"
    )]
    VniTaken {
        /// The device that cannot be made.
        device: &'static str,
        /// Its network.
        vni: u32,
        /// Its port.
        port: u16,
    },
    /// Somebody else has a route where ours belongs; it was not touched.
    #[error("add {route}: somebody else's route with metric {metric} has that destination; it stays")]
    RouteTaken {
        /// Our route.
        route: String,
        /// The metric of both.
        metric: u32,
    },
    /// The thing is not there (any more): the interface vanished while it was being programmed.
    #[error("{what}: it is not there")]
    NotThere {
        /// What was attempted on which thing.
        what: String,
    },
    /// The kernel refused for want of a capability.
    #[error("{what}: not permitted; the plugin needs CAP_NET_ADMIN in the host's network namespace")]
    Denied {
        /// What was attempted on which thing.
        what: String,
    },
    /// A sysctl file lies on a read-only mount, as `/proc/sys` does in every container.
    #[error(
        "write {}: the file system is read-only; the host's /proc/sys/net must be mounted writable (the plugin's \
         config.json binds it to /host/sysnet)",
        path.display()
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// The sysctl root is not what it should be.
    #[error("sysctl root {}: no directory ipv4/conf in it; is the host's /proc/sys/net mounted there?", root.display())]
    NoSysctl {
        /// The configured root.
        root: PathBuf,
    },
    /// IPv6 was asked for, and this kernel has none (`ipv6.disable=1`, or built without it).
    #[error("{iface} needs IPv6 ({address}), and this kernel has none")]
    NoIpv6 {
        /// The host side of the endpoint.
        iface: String,
        /// One of the addresses that need it.
        address: Ipv6Addr,
    },
    /// Anything else that the kernel or a socket said.
    #[error("{what}: {source}{}", hint(.said))]
    Kernel {
        /// What was attempted on which thing.
        what: String,
        /// The kernel's own words (`NLMSGERR_ATTR_MSG`), empty if it gave none.
        said: String,
        /// The errno.
        source: io::Error,
    },
    /// No answer in time; whether it was done is unknown, and every verb can be repeated.
    #[error("{what}: no answer from the kernel after {after:?}")]
    Timeout {
        /// What was attempted on which thing.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The thread that talks to the kernel has ended: the process is stopping.
    #[error("the network worker has stopped")]
    Stopped,
    /// More than one thing failed: the first is the cause, the others are what the undo or the teardown met.
    #[error("{first}; then: {}", joined(.also))]
    Several {
        /// What failed first.
        first: Box<NetError>,
        /// What failed after it.
        also: Vec<NetError>,
    },
}

fn hint(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" ({said})") }
}

fn joined(errors: &[NetError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl NetError {
    /// From an errno of the kernel, negative or positive.
    #[must_use]
    pub fn of_errno(what: impl Into<String>, errno: i32, said: &str) -> Self {
        let what = what.into();
        match Meaning::of(errno) {
            Meaning::NotThere => Self::NotThere { what },
            Meaning::Denied => Self::Denied { what },
            Meaning::AlreadyThere | Meaning::Unroutable | Meaning::Unsupported | Meaning::Other => {
                Self::Kernel {
                    what,
                    said: said.to_owned(),
                    source: io::Error::from_raw_os_error(errno.abs()),
                }
            }
        }
    }

    /// From a failed system call.
    #[must_use]
    pub fn of_io(what: impl Into<String>, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::of_errno(what, errno, ""),
            None => Self::Kernel { what: what.into(), said: String::new(), source: error },
        }
    }

    /// One error out of many, in order; `None` if there are none.
    #[must_use]
    pub fn of_all(errors: Vec<Self>) -> Option<Self> {
        let mut errors = errors.into_iter();
        let first = errors.next()?;
        let also: Vec<Self> = errors.collect();
        Some(if also.is_empty() { first } else { Self::Several { first: Box::new(first), also } })
    }

    /// The same error for another caller who waited for the same thing.
    #[must_use]
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            Self::NotThere { what } => Self::NotThere { what: what.clone() },
            Self::Denied { what } => Self::Denied { what: what.clone() },
            Self::Timeout { what, after } => Self::Timeout { what: what.clone(), after: *after },
            Self::Stopped => Self::Stopped,
            Self::VniTaken { device, vni, port } => Self::VniTaken { device, vni: *vni, port: *port },
            Self::Kernel { what, said, source } => Self::Kernel {
                what: what.clone(),
                said: said.clone(),
                source: match source.raw_os_error() {
                    Some(errno) => io::Error::from_raw_os_error(errno),
                    None => io::Error::new(source.kind(), source.to_string()),
                },
            },
            other => Self::Kernel {
                what: other.to_string(),
                said: String::new(),
                source: io::ErrorKind::Other.into(),
            },
        }
    }

    /// Whether the thing that was to be changed or removed does not exist.
    #[must_use]
    pub fn is_not_there(&self) -> bool {
        matches!(self, Self::NotThere { .. })
    }
}

/// What an errno of rtnetlink or of a sysctl file means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// On create: somebody made it before us, which is success if it is what we want.
    AlreadyThere,
    /// On delete: success. On change: the interface vanished.
    NotThere,
    /// `CAP_NET_ADMIN` is missing.
    Denied,
    /// Of a route lookup: no unicast route. `blackhole` answers EINVAL, `prohibit` EACCES, `unreachable` EHOSTUNREACH,
    /// no route at all ENETUNREACH (kernel `net/ipv4/fib_semantics.c`, `fib_props`).
    Unroutable,
    /// The kernel lacks the feature.
    Unsupported,
    /// Everything else.
    Other,
}

impl Meaning {
    /// The meaning of an errno, negative or positive.
    pub(crate) fn of(errno: i32) -> Self {
        match Errno::from_raw(errno.abs()) {
            Errno::EEXIST => Self::AlreadyThere,
            // ENXIO: an ifindex that is gone in an address request; EADDRNOTAVAIL is left out on purpose, it also
            // answers an address that the kernel refuses.
            Errno::ENODEV | Errno::ESRCH | Errno::ENOENT | Errno::ENXIO => Self::NotThere,
            Errno::EPERM => Self::Denied,
            Errno::ENETUNREACH | Errno::EHOSTUNREACH => Self::Unroutable,
            Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => Self::Unsupported,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno) -> Meaning {
        Meaning::of(-(errno as i32))
    }

    #[test]
    fn an_errno_has_one_meaning() {
        assert_eq!(of(Errno::EEXIST), Meaning::AlreadyThere);
        for gone in [Errno::ENODEV, Errno::ESRCH, Errno::ENOENT, Errno::ENXIO] {
            assert_eq!(of(gone), Meaning::NotThere);
        }
        assert_eq!(of(Errno::EPERM), Meaning::Denied);
        assert_eq!(of(Errno::ENETUNREACH), Meaning::Unroutable);
        assert_eq!(of(Errno::EOPNOTSUPP), Meaning::Unsupported);
        assert_eq!(of(Errno::EIO), Meaning::Other);
    }

    #[test]
    fn the_kernels_words_stand_behind_the_errno() {
        let error = NetError::of_errno("add route 10.0.0.1/32", Errno::EINVAL as i32, "Invalid prefix");
        assert_eq!(
            error.to_string(),
            "add route 10.0.0.1/32: Invalid argument (os error 22) (Invalid prefix)"
        );
    }

    #[test]
    fn the_first_of_many_errors_is_the_cause() {
        let error = |what: &str| NetError::NotThere { what: what.to_owned() };
        assert!(NetError::of_all(Vec::new()).is_none());
        assert!(NetError::of_all(vec![error("a")]).unwrap().is_not_there());
        let many = NetError::of_all(vec![error("a"), error("b"), error("c")]).unwrap();
        assert_eq!(many.to_string(), "a: it is not there; then: b: it is not there; c: it is not there");
    }
}
