//! Settings of the dataplane.

use super::Tuning;
use std::path::PathBuf;
use std::time::Duration;

/// The two bits of the firewall mark that are ours while a packet crosses the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Set on packets that our table allows; rules of others may test it.
    pub accept: u32,
    /// Used by policy tiers.
    pub pass: u32,
}

impl Marks {
    /// Both bits.
    #[must_use]
    pub fn both(self) -> u32 {
        self.accept | self.pass
    }
}

/// What becomes of packets from an endpoint to this host itself, once the endpoint's own policy lets them pass
/// (`defaultEndpointToHostAction` of Calico's FelixConfiguration). Replies always pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAction {
    /// Dropped: Calico's default.
    Drop,
    /// Left to the host's own rules.
    Return,
    /// Accepted by our table; the host's own rules still see them, as nf_tables wants it.
    Accept,
}

impl HostAction {
    /// By Calico's word.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        let known = [("Drop", Self::Drop), ("Return", Self::Return), ("Accept", Self::Accept)];
        known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, action)| action)
    }
}

/// Whether our packets are let through the FORWARD chains of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardAccept {
    /// Where the chain's policy is DROP or Docker has chains.
    Auto,
    /// Wherever there is such a chain.
    Always,
    /// Never.
    Never,
}

/// Where the tools for the old iptables are; nothing else can program it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacyTools {
    /// For IPv4.
    pub iptables: PathBuf,
    /// For IPv6.
    pub ip6tables: PathBuf,
    /// The lock that programs of the old iptables share (`XTABLES_LOCKFILE`, from 1.8.6 on): a change made without it
    /// while the host's own program makes one can be lost.
    pub lock: PathBuf,
    /// Folder with `ip_tables_names` and `ip6_tables_names`, which tell whether the old iptables is in use.
    pub proc_net: PathBuf,
}

/// How long and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Longest that one exchange with the kernel, or one run of a tool, may take.
    pub deadline: Duration,
    /// The table is compared with what is desired at least this often.
    pub check: Duration,
    /// The FORWARD chains are looked at at least this often.
    pub guard: Duration,
    /// How long after a notification, so that a burst of changes is answered once.
    pub settle: Duration,
    /// How long an endpoint that is to be opened waits for its policy.
    pub policy: Duration,
}

/// Settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Our bits of the mark.
    pub marks: Marks,
    /// What can change while the filter is in force.
    pub tuning: Tuning,
    /// FORWARD chains of iptables.
    pub forward_accept: ForwardAccept,
    /// The old iptables.
    pub legacy: LegacyTools,
    /// How long and how often.
    pub timing: Timing,
}

impl Default for Options {
    /// Marks as Felix allocates them (`felix/config`, `nftablesMarkMask` 0xffff0000), check as its
    /// `nftablesRefreshInterval`.
    fn default() -> Self {
        Self {
            marks: Marks { accept: 0x1_0000, pass: 0x2_0000 },
            tuning: Tuning::default(),
            forward_accept: ForwardAccept::Auto,
            legacy: LegacyTools {
                iptables: PathBuf::from("/usr/sbin/iptables-legacy"),
                ip6tables: PathBuf::from("/usr/sbin/ip6tables-legacy"),
                lock: PathBuf::from("/run/xtables.lock"),
                proc_net: PathBuf::from("/proc/self/net"),
            },
            timing: Timing {
                deadline: Duration::from_secs(5),
                check: Duration::from_secs(180),
                guard: Duration::from_secs(30),
                settle: Duration::from_millis(20),
                policy: Duration::from_secs(5),
            },
        }
    }
}
