//! What a host's kernel knows, as text that can be compared before and after.

use super::Engine;
use std::collections::BTreeSet;

/// Each listing is a set of lines; numbers that count or identify (interface indexes, counters, handles) are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostState {
    lines: BTreeSet<String>,
}

const LISTINGS: [(&str, &[&str]); 8] = [
    ("link", &["ip", "-brief", "link"]),
    ("address", &["ip", "-brief", "address"]),
    ("route", &["ip", "-4", "route", "show", "table", "all"]),
    ("route6", &["ip", "-6", "route", "show", "table", "all"]),
    ("rule", &["ip", "-4", "rule"]),
    ("rule6", &["ip", "-6", "rule"]),
    ("proxy", &["ip", "neighbour", "show", "proxy"]),
    ("nft", &["nft", "--stateless", "list", "ruleset"]),
];
/// iptables-legacy has tables of its own, which nft does not list.
const LEGACY: [(&str, &[&str]); 2] =
    [("legacy", &["iptables-legacy-save"]), ("legacy6", &["ip6tables-legacy-save"])];

impl HostState {
    pub(super) fn read(engine: &Engine) -> Self {
        let mut lines = BTreeSet::new();
        for (kind, command) in LISTINGS.iter().chain(&LEGACY) {
            let listing = engine.on_host(command);
            // A rule says more with its table and chain before it.
            let (mut table, mut chain) = ("", "");
            for line in listing.lines() {
                if *kind == "nft" && line.starts_with("table") {
                    (table, chain) = (line.trim_end_matches(" {"), "");
                } else if *kind == "nft" && line.starts_with('\t') && !line.starts_with("\t\t") {
                    chain = line.trim().trim_end_matches(" {");
                }
                if !Self::passing(line) && !Self::made_by_iptables(table, chain, line) {
                    lines.insert(format!("{kind}: {table} {chain} {}", Self::plain(line)));
                }
            }
        }
        Self { lines }
    }

    /// Comments of the save programs, and lines of the kernel's own: cached routes, and anycast addresses, which follow the
    /// forwarding switch that nobody may switch off again. Blocks stay the node's without any address in use, and each has a
    /// route that refuses what nobody has; `cleanup` takes them away.
    fn passing(line: &str) -> bool {
        line.starts_with('#')
            || (line.starts_with("blackhole") && line.contains("proto 80"))
            || line.starts_with("anycast")
            || matches!(line.trim(), "" | "}")
            || line.contains("cache")
    }

    /// The frame of iptables-nft's own tables, which it makes at the first rule and never removes; rules and policies other than
    /// accept are no frame.
    fn made_by_iptables(table: &str, chain: &str, line: &str) -> bool {
        let mut words = table.split(' ').skip(1);
        let family = matches!(words.next(), Some("ip" | "ip6"));
        let named = matches!(words.next(), Some("raw" | "mangle" | "nat" | "filter"));
        let base = matches!(
            chain,
            "" | "chain PREROUTING" | "chain INPUT" | "chain FORWARD" | "chain OUTPUT" | "chain POSTROUTING"
        );
        family && named && base && (line.ends_with('{') || line.ends_with("policy accept;"))
    }

    /// The line without packet counters, interface indexes and life times.
    fn plain(line: &str) -> String {
        let words = line.split_whitespace().filter(|word| !(word.starts_with('[') && word.contains(':')));
        let mut kept: Vec<&str> = Vec::new();
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            if word == "expires" {
                words.next();
            } else {
                kept.push(word);
            }
        }
        kept.join(" ")
    }

    /// What `after` has more (`+`) and less (`-`).
    pub(crate) fn difference(&self, after: &Self) -> Vec<String> {
        let more = after.lines.difference(&self.lines).map(|line| format!("+ {line}"));
        let less = self.lines.difference(&after.lines).map(|line| format!("- {line}"));
        more.chain(less).collect()
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
