//! Signs that Calico's own Felix programs this host.

use super::{DataplaneError, Options, guard, legacy};
use crate::nft::{Family, Socket, TableId};

/// What shows that Felix is, or was, at work here; empty if nothing does. Only looks, never changes.
///
/// # Errors
/// The kernel's ruleset cannot be read.
pub async fn felix_signs(options: &Options) -> Result<Vec<String>, DataplaneError> {
    let failed = |source| DataplaneError::Kernel { attempt: "look for signs of Felix", source };
    let mut socket = Socket::open(options.timing.deadline).map_err(failed)?;
    let mut signs = Vec::new();
    for (id, _) in socket.tables().await.map_err(failed)? {
        // `felix/nftables/table.go`: one table a family, for all hooks.
        if [TableId::new(Family::Ip, "calico"), TableId::new(Family::Ip6, "calico")].contains(&id) {
            signs.push(format!("nft table {id}"));
        }
    }
    for table in guard::tables() {
        let chains = socket.chains(&table).await.map_err(failed)?;
        if chains.iter().any(|chain| chain.name == "cali-FORWARD") {
            signs.push(format!("chain cali-FORWARD in table {table}"));
        }
    }
    for family in legacy::families(&options.legacy, options.timing.deadline) {
        // Without the tool there is nothing to look with; the guard reports that.
        if family.in_use().await.unwrap_or(false)
            && family.listing().await.is_ok_and(|listing| listing.contains("cali-FORWARD"))
        {
            signs.push("chain cali-FORWARD in the old iptables".to_owned());
        }
    }
    Ok(signs)
}
