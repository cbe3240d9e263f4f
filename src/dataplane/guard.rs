//! The FORWARD chains of iptables-nft.
//!
//! An accept in our table ends our base chain only; where Docker (or ufw, or firewalld) has set the policy of FORWARD to
//! DROP, our packets would end there. So two rules at the end of FORWARD accept what carries our mark. At the end,
//! because Docker's own drops must come first; with the mark, because without our table nothing may pass. Beside a Felix
//! that filters elsewhere they do without the mark ([`super::standing`]).
//!
//! Before it comes there a packet has gone through all of Docker's rules, several for each of its bridges. What belongs
//! to a connection that went through them once carries both marks ([`super::forward`]), and is spared that by two rules
//! more, directly before Docker's own: after DOCKER-USER, and after whatever others have put before Docker's. Almost
//! every packet comes through them, so they ask for nothing but interface and mark, and have no comment: for nf_tables
//! a match of iptables, also that of a comment, costs as much as several expressions of its own.
//!
//! The rules are, byte for byte, what `iptables-nft` 1.8.9 makes of
//! `-A FORWARD -i cali+ -m mark --mark 0x10000/0x10000 -m comment --comment calico-docker -j ACCEPT` and of
//! `-A FORWARD -i cali+ -m mark --mark 0x30000/0x30000 -j ACCEPT`, so that its `-S`, `-C` and `-D` know them.

use super::render::CALI;
use super::{ForwardAccept, Marks, Worker, legacy};
use crate::nft::{Batch, Chain, Expr, Family, NftError, Op, Rule, Socket, TableId, Verdict};
use tokio::time::Instant;

/// Comment by which people and we know our rules.
pub(super) const COMMENT: &str = "calico-docker";
const FORWARD: &str = "FORWARD";
/// Size of `struct xt_comment_info`.
const COMMENT_SIZE: usize = 256;
/// Where the host's administrator has rules of their own.
const USER: &str = "DOCKER-USER";
/// Where FORWARD leads to Docker's own rules: up to engine 27, and from 28 on.
const DOCKERS: [&str; 2] = ["DOCKER-ISOLATION-STAGE-1", "DOCKER-FORWARD"];

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

/// Which packets of endpoints the rules at the end let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    /// Those that our filter has marked.
    Marked,
    /// All: another chain decides about them, before or after this one.
    Endpoints,
}

/// For packets that come from endpoints, and for those that go to them.
fn for_endpoints() -> [Rule; 2] {
    [Rule::in_chain(FORWARD).iifname(CALI), Rule::in_chain(FORWARD).oifname(CALI)]
}

/// The rules at the end.
fn last(marks: Marks, passing: Passing) -> [Rule; 2] {
    for_endpoints().map(|rule| {
        let rule = match passing {
            Passing::Marked => rule.marked(marks.accept),
            Passing::Endpoints => rule,
        };
        labelled(rule).counter().accept()
    })
}

/// The rules before Docker's.
fn early(marks: Marks) -> [Rule; 2] {
    for_endpoints().map(|rule| rule.marked(marks.both()).counter().accept())
}

fn labelled(rule: Rule) -> Rule {
    rule.xt_match("comment", 0, label())
}

/// Our comment as `struct xt_comment_info`.
fn label() -> Vec<u8> {
    let mut info = COMMENT.as_bytes().to_vec();
    info.resize(COMMENT_SIZE, 0);
    info
}

/// Whether a rule is one of ours; also one that another version of this plugin has left, which the comment tells.
fn ours(rule: &Rule, marks: Marks) -> bool {
    let is_label =
        |expr: &Expr| matches!(expr, Expr::Match { name, info, .. } if name == "comment" && *info == label());
    rule.exprs.iter().any(is_label) || early(marks).iter().any(|early| early.same_as(rule))
}

/// What puts the early rules in their place, given all rules of FORWARD, and takes those at the end away that are of
/// another kind. Where all of endpoints' packets pass anyway there are no early ones.
fn put_early(table: &TableId, present: &[Rule], marks: Marks, passing: Passing) -> Batch {
    let (early, last) = (early(marks), last(marks, passing));
    let at_end = |rule: &Rule| last.iter().any(|last| last.same_as(rule));
    let (there, others): (Vec<&Rule>, Vec<&Rule>) =
        present.iter().partition(|rule| ours(rule, marks) && !at_end(rule));
    let next = match passing {
        Passing::Marked => next_to_early(&others).and_then(|rule| rule.handle),
        Passing::Endpoints => None,
    };
    let (before, _) =
        present.split_at(present.iter().position(|rule| rule.handle == next).unwrap_or_default());
    let nearest = before.rchunks(early.len()).next().unwrap_or_default();
    let in_place =
        nearest.len() == early.len() && nearest.iter().zip(&early).all(|(rule, ours)| ours.same_as(rule));
    let as_should_be = match next {
        Some(_) => in_place && there.len() == early.len(),
        None => there.is_empty(),
    };
    let mut batch = Batch::new(table.clone());
    if as_should_be {
        return batch;
    }
    for handle in there.iter().filter_map(|rule| rule.handle) {
        batch.push(Op::DeleteRule { chain: FORWARD.to_owned(), handle });
    }
    if let Some(before) = next {
        early.into_iter().for_each(|rule| batch.push(Op::InsertRule { rule, before }));
    }
    batch
}

/// The rule before which the early ones stand: none where Docker has none. An engine with `live-restore` that is started
/// again has its own before DOCKER-USER until it makes a network.
fn next_to_early<'a>(others: &[&'a Rule]) -> Option<&'a Rule> {
    let jump =
        |chains: &[&str]| others.iter().position(|rule| rule.exprs.iter().any(|it| leads_to(it, chains)));
    let docker = jump(&DOCKERS)?;
    let next = jump(&[USER]).filter(|user| docker < *user).map_or(docker, |user| user.saturating_add(1));
    others.get(next).copied()
}

fn leads_to(expr: &Expr, chains: &[&str]) -> bool {
    matches!(expr, Expr::Verdict(Verdict::Jump(chain)) if chains.contains(&chain.as_str()))
}

/// Appends what is missing in one family, and puts the early rules in their place. Says whether anything was appended.
pub(super) async fn ensure(
    socket: &mut Socket,
    table: &TableId,
    (mode, marks, passing): (ForwardAccept, Marks, Passing),
) -> Result<bool, NftError> {
    let chains = socket.chains(table).await?;
    if !chains.iter().any(|chain| chain.name == FORWARD) {
        return Ok(false);
    }
    let present = socket.rules(table, Some(FORWARD)).await?;
    let mut batch = Batch::new(table.clone());
    if !wanted(&chains, mode) {
        // Those with a mark let nothing pass that our filter has not; those without must not stay behind.
        let unmarked = last(marks, Passing::Endpoints);
        for rule in present.iter().filter(|rule| unmarked.iter().any(|ours| ours.same_as(rule))) {
            batch.ops.extend(rule.handle.map(|handle| Op::DeleteRule { chain: FORWARD.to_owned(), handle }));
        }
        return socket.commit(&batch).await.map(|()| false);
    }
    let missing = last(marks, passing).into_iter().filter(|rule| !present.iter().any(|p| p.same_as(rule)));
    missing.for_each(|rule| batch.push(Op::AddRule(rule)));
    socket.commit(&batch).await?;
    // By itself: without it packets pass as well.
    socket.commit(&put_early(table, &present, marks, passing)).await?;
    Ok(!batch.ops.is_empty())
}

/// Removes our rules in one family.
pub(super) async fn remove(socket: &mut Socket, table: &TableId, marks: Marks) -> Result<(), NftError> {
    if !socket.chains(table).await?.iter().any(|chain| chain.name == FORWARD) {
        return Ok(());
    }
    let mut batch = Batch::new(table.clone());
    for rule in socket.rules(table, Some(FORWARD)).await? {
        if let Some(handle) = rule.handle.filter(|_| ours(&rule, marks)) {
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
            let tools = self.options.legacy.clone();
            for (table, family) in tables().iter().zip(legacy::families(&tools, self.options.timing.deadline))
            {
                let names = [format!("table {table}"), "the old iptables".to_owned()];
                for (name, outcome) in names.iter().zip(self.guard_forward(table, &family).await) {
                    match outcome {
                        Ok(true) => log::info!("FORWARD of {name}: our packets are let pass"),
                        Ok(false) => {}
                        Err(error) => warnings.push(error),
                    }
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

    #[test]
    fn the_early_rules_stand_once_and_directly_before_dockers() {
        const MARKS: Marks = Marks { accept: 0x10000, pass: 0x20000 };
        let rule = |chain: &str| Rule::in_chain(FORWARD).jump(chain);
        let [first, second] = early(MARKS);
        let (user, docker) = (rule(USER), rule("DOCKER-FORWARD"));
        // Deleted are those with these positions, and inserted both before the rule at the other one.
        let place_with = |passing: Passing, rules: &[&Rule]| {
            let numbered =
                (1..).zip(rules).map(|(handle, rule)| Rule { handle: Some(handle), ..(*rule).clone() });
            let batch =
                put_early(&TableId::new(Family::Ip, "filter"), &numbered.collect::<Vec<_>>(), MARKS, passing);
            let of = |op: &Op| match op {
                Op::DeleteRule { handle, .. } => (Some(*handle), None),
                Op::InsertRule { before, .. } => (None, Some(*before)),
                other => panic!("{other}"),
            };
            let (gone, before): (Vec<_>, Vec<_>) = batch.ops.iter().map(of).unzip();
            (gone.into_iter().flatten().collect::<Vec<_>>(), before.into_iter().flatten().collect::<Vec<_>>())
        };
        let place = |rules: &[&Rule]| place_with(Passing::Marked, rules);
        assert_eq!(place(&[&user, &docker]), (vec![], vec![2, 2]));
        assert_eq!(place(&[&docker]), (vec![], vec![1, 1]));
        assert_eq!(place(&[&user, &first, &second, &docker]), (vec![], vec![]));
        assert_eq!(place(&[&user, &docker, &first, &second]), (vec![3, 4], vec![2, 2]));
        assert_eq!(place(&[&first, &second, &user, &docker]), (vec![1, 2], vec![4, 4]));
        assert_eq!(place(&[&second, &first, &docker]), (vec![1, 2], vec![3, 3]));
        assert_eq!(place(&[&first, &first, &second, &docker]), (vec![1, 2, 3], vec![4, 4]));
        assert_eq!(place(&[&second, &docker]), (vec![1], vec![2, 2]));
        assert_eq!(place(&[&first, &second]), (vec![1, 2], vec![]));
        assert_eq!(place(&[&user]), (vec![], vec![]));
        let accept = rule("DOCKER");
        assert_eq!(place(&[&first, &second, &docker, &user, &accept]), (vec![1, 2], vec![5, 5]));
        assert_eq!(place(&[&docker, &user, &first, &second, &accept]), (vec![], vec![]));
        assert_eq!(place(&[&docker, &user]), (vec![], vec![]));
        // What another version left goes; the rules at the end are no business of this.
        let other = labelled(Rule::in_chain(FORWARD).iifname(CALI)).accept();
        let [[last, _], [any, _]] =
            [Passing::Marked, Passing::Endpoints].map(|passing| super::last(MARKS, passing));
        assert_eq!(place(&[&user, &other, &docker, &last]), (vec![2], vec![3, 3]));
        assert_eq!(place(&[&user, &first, &second, &docker, &other, &last]), (vec![2, 3, 5], vec![4, 4]));
        // Beside a Felix with tables of its own: no early ones, and at the end those without a mark.
        let beside = |rules: &[&Rule]| place_with(Passing::Endpoints, rules);
        assert_eq!(beside(&[&user, &first, &second, &docker, &last, &any]), (vec![2, 3, 5], vec![]));
        assert_eq!(beside(&[&user, &docker, &any]), (vec![], vec![]));
        assert_eq!(place(&[&user, &docker, &any, &last]), (vec![3], vec![2, 2]));
    }
}
