//! What Calico's FelixConfiguration says about the packet filter; it can change while the filter is in force.

use super::HostAction;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// The UDP port that IANA has assigned to VXLAN; Docker's overlays have it, too.
pub(super) const VXLAN_PORT: u16 = 4789;

/// How the filter behaves, with Calico's names for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// `defaultEndpointToHostAction`: packets to this host.
    pub host_action: HostAction,
    /// Log rules.
    pub log: LogTuning,
    /// natOutgoing.
    pub nat: NatTuning,
    /// `vxlanPort`: besides 4789 the UDP port to which no endpoint may send.
    pub vxlan_port: u16,
}

impl Default for Tuning {
    /// Felix's defaults, but that what an endpoint sends to its host is left to the host's own rules.
    fn default() -> Self {
        let (log, nat) = (LogTuning::default(), NatTuning::default());
        Self { host_action: HostAction::Return, log, nat, vxlan_port: VXLAN_PORT }
    }
}

/// How Log rules write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTuning {
    /// `logPrefix`: begins each line; `%t` is the tier, `%k` the kind, `%n` the name, `%p` name with namespace.
    pub prefix: String,
    /// `logActionRateLimit` and `logActionRateLimitBurst`, for each rule; `None` for no limit.
    pub rate: Option<LogRate>,
}

impl Default for LogTuning {
    fn default() -> Self {
        Self { prefix: "calico-packet".to_owned(), rate: None }
    }
}

/// So many lines in so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRate {
    /// Lines.
    pub lines: u64,
    /// Seconds: 1, 60, 3600 or 86 400.
    pub seconds: u64,
    /// Lines that may come at once.
    pub burst: u32,
}

/// How natOutgoing translates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatTuning {
    /// `natOutgoingExclusions: IPPoolsAndHostIPs`: nothing is translated on its way to these hosts.
    pub spared: BTreeSet<IpAddr>,
    /// `natOutgoingAddress`: IPv4 leaves under this address instead of that of the outgoing interface.
    pub address: Option<Ipv4Addr>,
    /// `natPortRange`: source ports of TCP and UDP, first and last.
    pub ports: Option<(u16, u16)>,
    /// `iptablesNATOutgoingInterfaceFilter`: only what leaves through this interface; a final `*` matches any rest.
    pub interface: Option<String>,
}
