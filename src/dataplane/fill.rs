//! A change of policy with so many members of sets that nobody can be made to wait for it.
//!
//! ```text
//! change -> members of sets, a piece at a time -> all else    what depends on it waits behind, in order
//!                 ^ between two of them: other requests
//! ```
//!
//! Members of new sets go ahead: nothing mentions these sets yet, so no packet sees them, and what was in force before
//! stays until the last piece leads to them. Each piece is a change of policy of its own, so that what is desired and
//! what the kernel has agree between any two, and comparing, standing back and removing need not know of it.

use super::Request;
use super::desired::Verb;
use super::policy::{self, Scope};
use super::worker::Worker;
use crate::model::IfaceName;
use crate::policy::Changes;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Members that a change may have for others to wait for it: with as many the kernel takes less than a second.
const MANY: usize = 30_000;
/// Members of one piece. Of each set that a transaction changes the kernel walks through all (`nft_rbtree_commit` in
/// `net/netfilter/nft_set_rbtree.c`), so smaller ones cost more together; larger ones are waited for longer.
const A_PIECE: usize = 25_000;
/// After a request that was served between two pieces, how long another is waited for: the start of a container is
/// several, one after the other. And how long requests may hold up the next piece.
const LINGER: Duration = Duration::from_millis(10);
const TURN: Duration = Duration::from_millis(500);

/// The change under way, and what waits for it.
#[derive(Debug)]
pub(super) struct Fill {
    /// What goes ahead.
    pieces: VecDeque<Changes>,
    /// All else: what leads to it.
    last: Request,
    /// What it and those behind it are about.
    scope: Scope,
    /// Later changes of policy that depend on it. Bounded by the callers, each of whom waits for one.
    behind: Vec<Request>,
    /// Members that are still to come or to go, and all.
    members: (usize, usize),
    since: Instant,
}

impl Fill {
    /// What an endpoint waits for whose policy comes with it. `None` if that is not so.
    pub(super) fn brings(&self, iface: &IfaceName) -> Option<String> {
        let of = |request: &Request| matches!(&request.verb, Verb::Policy(it) if it.endpoints.contains_key(iface.as_str()));
        let (left, all) = self.members;
        let waits = std::iter::once(&self.last).chain(&self.behind).any(of);
        waits.then(|| {
            format!("a change with {all} members of sets, {left} of which are not in the kernel yet")
        })
    }
}

impl Worker {
    /// Gives back a request that is to be served now. A change of policy with very many members of sets is begun, and
    /// one that depends on what is under way waits behind it.
    pub(super) fn put_off(&mut self, mut request: Request) -> Option<Request> {
        let Verb::Policy(changes) = &mut request.verb else { return Some(request) };
        let state = &self.desired.policy;
        let ahead = state.going_ahead(changes, MANY);
        if self.fill.is_none() && (ahead.is_empty() || !self.active || self.standing) {
            return Some(request);
        }
        let scope = Scope::of(state, changes);
        match &mut self.fill {
            Some(fill) if ahead.is_empty() && !fill.scope.holds_up(&scope) => return Some(request),
            Some(fill) => {
                fill.scope.extend(scope);
                fill.behind.push(request);
            }
            None => {
                let mut pieces: VecDeque<_> = policy::apart(std::mem::take(changes), &ahead, A_PIECE).into();
                **changes = pieces.pop_back().unwrap_or_default();
                let all = pieces.iter().map(policy::members_in).sum();
                log::info!("policy with {all} members of sets goes into the kernel while other work goes on");
                let (members, since) = ((all, all), Instant::now());
                self.fill = Some(Fill { pieces, last: request, scope, behind: Vec::new(), members, since });
                self.tell_filling();
            }
        }
        None
    }

    /// Makes the next piece of what is under way, or ends it.
    pub(super) async fn fill_on(&mut self) {
        let Some(fill) = &mut self.fill else { return };
        let Some(piece) = fill.pieces.pop_front() else { return self.finish_fill().await };
        let marks = self.options.marks;
        let batches = policy::batches(&mut self.desired, &piece, marks);
        let outcome = self.commit_policy(&batches).await;
        let Some(fill) = &mut self.fill else { return };
        fill.members.0 = fill.members.0.saturating_sub(policy::members_in(&piece));
        if let Err(error) = outcome {
            log::warn!("{error}");
            // The rest is tried with all else.
            for piece in std::mem::take(&mut fill.pieces) {
                self.large.failed(&policy::batches(&mut self.desired, &piece, marks));
            }
        }
        self.tell_filling();
        self.serve_between().await;
        self.wake().await;
    }

    /// Everybody who asked during a piece has his turn before the next one.
    async fn serve_between(&mut self) {
        let until = Instant::now() + TURN;
        let mut next = self.inbox.try_recv().ok();
        while let Some(request) = next {
            self.serve(request).await;
            next = match Instant::now() < until {
                true => tokio::time::timeout(LINGER, self.inbox.recv()).await.ok().flatten(),
                false => None,
            };
        }
    }

    async fn finish_fill(&mut self) {
        let Some(Fill { last, behind, members, since, .. }) = self.fill.take() else { return };
        self.serve(last).await;
        log::info!("policy with {} members of sets was made in {:?}", members.1, since.elapsed());
        self.tell_filling();
        for request in behind {
            self.serve(request).await;
        }
    }

    fn tell_filling(&self) {
        let left = self.fill.as_ref().map_or(0, |fill| fill.members.0);
        self.status.send_if_modified(|status| {
            status.filling = left;
            false
        });
    }
}
