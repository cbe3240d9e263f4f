//! What Calico's own Felix has programmed on this host. Only looks, never changes.

use super::{DataplaneError, Options, guard, legacy};
use crate::model::IfaceName;
use crate::nft::{Chain, Expr, Family, NftError, Rule, Socket, TableId, Verdict};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Where iptables sees forwarded packets, and the chain to which Felix has it lead.
const IN_IPTABLES: [&str; 2] = ["FORWARD", CALI_FORWARD];
const CALI_FORWARD: &str = "cali-FORWARD";
/// The same in Felix's own tables, with the name of its layer before it (`felix/nftables/table.go`, `baseChains`, and
/// `table_layer.go`).
const IN_OWN_TABLE: [&str; 2] = ["filter-FORWARD", "filter-cali-FORWARD"];
/// One chain for each endpoint and direction (`felix/rules/rule_defs.go`): to and from the workload.
const TO: &str = "cali-tw-";
const FROM: &str = "cali-fw-";

/// How long Felix has for a new endpoint. It reads the WorkloadEndpoint from the datastore and programs within some 100 ms.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often is looked meanwhile without a change: the old iptables announces none.
const LOOK: Duration = Duration::from_millis(200);

const OWN_TABLE: &str = "calico";

/// Felix's work on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FelixProgramming {
    /// Where packets meet it, as half sentences; empty if nowhere.
    pub signs: Vec<String>,
    /// Interfaces with a chain in both directions, IPv4 and IPv6.
    known: [BTreeSet<String>; 2],
}

impl FelixProgramming {
    /// Whether Felix has programmed an endpoint, for IPv6 too where that matters.
    #[must_use]
    pub fn knows(&self, iface: &IfaceName, ipv6: bool) -> bool {
        let [v4, v6] = &self.known;
        v4.contains(iface.as_str()) && (!ipv6 || v6.contains(iface.as_str()))
    }

    fn note<'a>(&mut self, family: usize, chains: impl Iterator<Item = &'a str> + Clone) {
        let named = |prefix: &'static str| {
            let of = move |chain: &'a str| chain.split_once(prefix).map(|(_, iface)| iface.to_owned());
            chains.clone().filter_map(of).collect::<BTreeSet<String>>()
        };
        let both = &named(TO) & &named(FROM);
        if let Some(known) = self.known.get_mut(family) {
            known.extend(both);
        }
    }
}

/// The tables that Felix makes or adds to: a change of one of them may be Felix coming or going.
pub(super) fn tables() -> [TableId; 4] {
    let [ip, ip6] = own_tables();
    let [filter, filter6] = guard::tables();
    [ip, ip6, filter, filter6]
}

/// `felix/nftables/table.go`: one table a family, for all hooks.
fn own_tables() -> [TableId; 2] {
    [Family::Ip, Family::Ip6].map(|family| TableId::new(family, OWN_TABLE))
}

/// Whether one of iptables' tables, or of Felix's own, asks Felix about forwarded packets: its chain may be left without a
/// rule that leads to it.
async fn filters_in(socket: &mut Socket, table: &TableId, chains: &[Chain]) -> Result<bool, NftError> {
    let [base, felix] = if own_tables().contains(table) { IN_OWN_TABLE } else { IN_IPTABLES };
    let hooked = chains.iter().any(|chain| chain.name == base && chain.base.is_some());
    if !hooked || !chains.iter().any(|chain| chain.name == felix) {
        return Ok(false);
    }
    let leads = |rule: &Rule| {
        rule.exprs
            .iter()
            .any(|expr| matches!(expr, Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) if to == felix))
    };
    Ok(socket.rules(table, Some(base)).await?.iter().any(leads))
}

/// Where Felix filters forwarded packets of one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Filters {
    /// In FORWARD of iptables-nft.
    pub(super) iptables: bool,
    /// In a table of its own, with a hook of its own.
    pub(super) own_table: bool,
    /// In FORWARD of the old iptables.
    pub(super) legacy: bool,
}

/// Where Felix filters what FORWARD of this table sees as well.
pub(super) async fn filters_beside(
    socket: &mut Socket,
    forward: &TableId,
    tool: &legacy::Legacy<'_>,
) -> Result<Filters, NftError> {
    let own = TableId::new(forward.family, OWN_TABLE);
    let [mut iptables, mut own_table] = [false; 2];
    for (table, found) in [(forward, &mut iptables), (&own, &mut own_table)] {
        let chains = socket.chains(table).await?;
        *found = filters_in(socket, table, &chains).await?;
    }
    // Without the tool there is nothing to look with; the guard reports that.
    let legacy = tool.in_use().await.unwrap_or(false)
        && tool.listing().await.is_ok_and(|listing| listing.lines().any(is_jump));
    Ok(Filters { iptables, own_table, legacy })
}

/// Waits until Felix has programmed an endpoint, and says whether it has. `changes` counts those of its tables.
pub(super) async fn wait_for(
    iface: &IfaceName,
    ipv6: bool,
    options: &Options,
    mut changes: watch::Receiver<u64>,
) -> Result<bool, DataplaneError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        changes.mark_unchanged();
        if felix_programming(options).await?.knows(iface, ipv6) {
            return Ok(true);
        }
        tokio::select! {
            () = sleep_until(deadline) => return Ok(false),
            Ok(()) = changes.changed() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// Looks at all that Felix may have programmed.
///
/// # Errors
/// The kernel's ruleset cannot be read.
pub async fn felix_programming(options: &Options) -> Result<FelixProgramming, DataplaneError> {
    let failed = |source| DataplaneError::Kernel { attempt: "look for signs of Felix", source };
    let mut socket = Socket::open(options.timing.deadline).map_err(failed)?;
    let mut found = FelixProgramming::default();
    let present: Vec<TableId> =
        socket.tables().await.map_err(failed)?.into_iter().map(|(id, _)| id).collect();
    for (family, table) in own_tables().into_iter().enumerate() {
        if present.contains(&table) {
            let chains = socket.chains(&table).await.map_err(failed)?;
            if filters_in(&mut socket, &table, &chains).await.map_err(failed)? {
                found.signs.push(format!("nft table {table}"));
            }
            found.note(family, chains.iter().map(|chain| chain.name.as_str()));
        }
    }
    for (family, table) in guard::tables().into_iter().enumerate() {
        if present.contains(&table) {
            let chains = socket.chains(&table).await.map_err(failed)?;
            if filters_in(&mut socket, &table, &chains).await.map_err(failed)? {
                found.signs.push(format!("chain {CALI_FORWARD} in table {table}"));
            }
            found.note(family, chains.iter().map(|chain| chain.name.as_str()));
        }
    }
    let families = legacy::families(&options.legacy, options.timing.deadline);
    for (family, tool) in families.into_iter().enumerate() {
        // Without the tool there is nothing to look with; the guard reports that.
        if !tool.in_use().await.unwrap_or(false) {
            continue;
        }
        let Ok(listing) = tool.everything().await else { continue };
        if listing.lines().any(is_jump) {
            found.signs.push(format!("chain {CALI_FORWARD} in the old iptables"));
        }
        found.note(family, listing.lines().filter_map(|line| line.strip_prefix("-N ")));
    }
    Ok(found)
}

/// Whether a line of `iptables -S` leads forwarded packets to Felix.
pub(super) fn is_jump(line: &str) -> bool {
    line.starts_with("-A FORWARD ") && line.split_whitespace().any(|word| word == CALI_FORWARD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_known_with_chains_in_both_directions_and_families() {
        let mut found = FelixProgramming::default();
        found.note(
            0,
            ["filter-cali-tw-cali1", "filter-cali-fw-cali1", "cali-tw-cali2", "cali-fw-cali3"].into_iter(),
        );
        let iface = |name| IfaceName::new(name).unwrap();
        assert!(found.knows(&iface("cali1"), false) && !found.knows(&iface("cali1"), true));
        assert!(!found.knows(&iface("cali2"), false) && !found.knows(&iface("cali3"), false));
        found.note(1, ["cali-tw-cali1", "cali-fw-cali1"].into_iter());
        assert!(found.knows(&iface("cali1"), true));
    }

    #[test]
    fn only_a_rule_of_forward_leads_to_felix() {
        assert!(is_jump("-A FORWARD -m comment --comment \"cali:wUHhoiAYhphO9Mso\" -j cali-FORWARD"));
        assert!(!is_jump("-N cali-FORWARD") && !is_jump("-A cali-FORWARD -j cali-from-hep-forward"));
    }
}
