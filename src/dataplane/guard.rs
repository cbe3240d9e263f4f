//! The FORWARD chains of iptables-nft.
//!
//! An accept in our table ends our base chain only; where Docker (or ufw, or firewalld) has set the policy of FORWARD to
//! DROP, our packets would end there. So two rules at the end of FORWARD accept what carries our mark. At the end,
//! because Docker's own drops must come first; with the mark, because without our table nothing may pass.
//!
//! The rules are, byte for byte, what `iptables-nft` 1.8.9 makes of
//! `-A FORWARD -i cali+ -m mark --mark 0x10000/0x10000 -m comment --comment calico-docker -j ACCEPT`, so that its
//! `-S`, `-C` and `-D` know them.

use super::{ForwardAccept, Worker, legacy};
use crate::nft::{Batch, Chain, Family, NftError, Op, Rule, Socket, TableId};
use tokio::time::Instant;

/// Comment by which people and we know our rules.
pub(super) const COMMENT: &str = "calico-docker";
const FORWARD: &str = "FORWARD";
/// Size of `struct xt_comment_info`.
const COMMENT_SIZE: usize = 256;

/// The tables that are looked at: those of iptables-nft and ip6tables-nft.
pub(super) fn tables() -> [TableId; 2] {
    [TableId::new(Family::Ip, "filter"), TableId::new(Family::Ip6, "filter")]
}

/// Whether FORWARD shall have our rules: never if it is not there.
fn wanted(chains: &[Chain], mode: ForwardAccept) -> bool {
    let forward = chains.iter().find(|chain| chain.name == FORWARD).and_then(|chain| chain.base);
    let docker = chains.iter().any(|chain| chain.name.starts_with("DOCKER"));
    match (forward, mode) {
        (Some(base), ForwardAccept::Auto) => base.drop || docker,
        (Some(_), ForwardAccept::Always) => true,
        (Some(_), ForwardAccept::Never) | (None, _) => false,
    }
}

fn ours(accept: u32) -> [Rule; 2] {
    let mut comment = COMMENT.as_bytes().to_vec();
    comment.resize(COMMENT_SIZE, 0);
    let rule = || Rule::in_chain(FORWARD);
    [rule().iifname("cali*"), rule().oifname("cali*")]
        .map(|rule| rule.marked(accept).xt_match("comment", 0, comment.clone()).counter().accept())
}

/// Appends what is missing in one family. Says whether anything was.
pub(super) async fn ensure(
    socket: &mut Socket,
    table: &TableId,
    (mode, accept): (ForwardAccept, u32),
) -> Result<bool, NftError> {
    if !wanted(&socket.chains(table).await?, mode) {
        return Ok(false);
    }
    let present = socket.rules(table, Some(FORWARD)).await?;
    let mut batch = Batch::new(table.clone());
    let missing = ours(accept).into_iter().filter(|rule| !present.iter().any(|p| p.same_as(rule)));
    missing.for_each(|rule| batch.push(Op::AddRule(rule)));
    socket.commit(&batch).await?;
    Ok(!batch.ops.is_empty())
}

/// Removes our rules in one family.
pub(super) async fn remove(socket: &mut Socket, table: &TableId, accept: u32) -> Result<(), NftError> {
    if !socket.chains(table).await?.iter().any(|chain| chain.name == FORWARD) {
        return Ok(());
    }
    let mut batch = Batch::new(table.clone());
    for rule in socket.rules(table, Some(FORWARD)).await? {
        if let Some(handle) = rule.handle.filter(|_| ours(accept).iter().any(|o| o.same_as(&rule))) {
            batch.push(Op::DeleteRule { chain: FORWARD.to_owned(), handle });
        }
    }
    socket.commit(&batch).await
}

impl Worker {
    /// Looks at the FORWARD chains of both families and both kinds of iptables. Failures become warnings.
    pub(super) async fn assert_guard(&mut self) {
        let mut warnings = Vec::new();
        if self.active {
            for table in tables() {
                match self.guard_table(&table).await {
                    Ok(true) => log::info!("FORWARD of table {table}: our packets are let pass"),
                    Ok(false) => {}
                    Err(error) => warnings.push(error.to_string()),
                }
            }
            let tools = self.options.legacy.clone();
            for family in legacy::families(&tools, self.options.timing.deadline) {
                match self.guard_legacy(&family).await {
                    Ok(true) => log::info!("FORWARD of the old iptables: our packets are let pass"),
                    Ok(false) => {}
                    Err(error) => warnings.push(error),
                }
            }
        }
        self.guard.done(Instant::now(), warnings.is_empty());
        self.status.send_if_modified(|status| {
            let changed = status.warnings != warnings;
            if changed {
                warnings.iter().for_each(|warning| log::warn!("{warning}"));
                status.warnings = warnings;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{BaseChain, ChainKind, Hook};

    #[test]
    fn rules_are_wanted_where_docker_is_or_the_policy_drops() {
        let forward = |drop| Chain {
            name: "FORWARD".to_owned(),
            base: Some(BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0, drop }),
        };
        let docker = Chain { name: "DOCKER-USER".to_owned(), base: None };
        assert!(wanted(&[forward(true)], ForwardAccept::Auto));
        assert!(wanted(&[forward(false), docker.clone()], ForwardAccept::Auto));
        assert!(!wanted(&[forward(false)], ForwardAccept::Auto));
        assert!(wanted(&[forward(false)], ForwardAccept::Always));
        assert!(!wanted(&[docker], ForwardAccept::Always));
        assert!(!wanted(&[forward(true)], ForwardAccept::Never));
    }
}
