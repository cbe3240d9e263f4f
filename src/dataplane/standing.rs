//! Standing back beside Felix, and taking over from it, while packets flow.
//!
//! ```text
//! full table -> hooks gone, the rest kept -> reduced table         back: each step one transaction
//! reduced table -> chains, sets -> hooks and elements              over: `delta::repair` does it in this order
//! ```
//!
//! In between a packet that is under way still finds what its rules lead to; see [`super::delta::repair`].

use super::desired::{Part, Verb};
use super::felix::Filters;
use super::guard::Passing;
use super::worker::Worker;
use super::{DataplaneError, beside, felix, guard, legacy, render};
use crate::nft::{NftError, Table, TableId};
use std::collections::BTreeSet;

impl Worker {
    /// Leaves the packets to Felix. What only we do stays: published ports, and the host's localhost closed.
    pub(super) async fn stand_back(&mut self) -> Result<(), DataplaneError> {
        let was = self.stand(true);
        if was || !self.active {
            return Ok(());
        }
        let unhooked = |worker: &Self, unread: &_| beside::unhooked(&worker.desired, &worker.options, unread);
        let outcome = self.repair(unhooked).await;
        // Should it fail, the next comparison takes all of it away in one step.
        let _ = self.checked(outcome).inspect_err(|error| log::info!("{error}; comparing the whole table"));
        let outcome = self.resync().await;
        self.assert_guard().await;
        outcome
    }

    /// Says how it was before.
    fn stand(&mut self, back: bool) -> bool {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.stands_back, back) != back);
        std::mem::replace(&mut self.standing, back)
    }

    /// Puts everything in force that was recorded meanwhile.
    pub(super) async fn take_over(&mut self) -> Result<(), DataplaneError> {
        let was = self.stand(false);
        if !was || !self.active {
            return Ok(());
        }
        let outcome = self.resync().await;
        self.assert_guard().await;
        outcome
    }

    /// The table as it should be now, without the elements of these sets.
    pub(super) fn wanted(&self, unread: &BTreeSet<String>) -> Table {
        match self.standing {
            true => beside::reduced(&self.desired, &self.options),
            false => render::table(&self.desired, &self.options, unread),
        }
    }

    /// Puts a recorded change in force as far as it matters beside Felix.
    pub(super) async fn change_beside(
        &mut self,
        parts: &[Part],
        inverse: Option<Verb>,
    ) -> Result<(), DataplaneError> {
        if !parts.contains(&Part::Ports) {
            return Ok(());
        }
        let outcome = self.resync().await;
        if let (Err(_), Some(inverse)) = (&outcome, inverse) {
            self.desired.apply(&inverse);
        }
        outcome
    }

    /// Whose packets FORWARD shall let pass beside a Felix that may filter in this table or in its own; `None` where that
    /// is its own affair. A Felix with tables of its own leaves FORWARD alone, and whether packets come there before they
    /// come to Felix depends on which of the two chains was made first: their priority is the same. So those of endpoints
    /// pass without a mark, and Felix's chain decides about them.
    async fn passing(&mut self, table: &TableId) -> Result<Option<Passing>, NftError> {
        if !self.standing {
            return Ok(Some(Passing::Marked));
        }
        Ok(match felix::filters_beside(self.socket()?, table).await? {
            Filters::Iptables => None,
            Filters::OwnTable => Some(Passing::Endpoints),
            Filters::Nowhere => Some(Passing::Marked),
        })
    }

    /// Looks at one family of the old iptables' FORWARD. Says whether our rules were added.
    pub(super) async fn guard_legacy(
        &mut self,
        table: &TableId,
        family: &legacy::Legacy<'_>,
    ) -> Result<bool, String> {
        if !family.in_use().await? {
            return Ok(false);
        }
        let outcome = self.passing(table).await;
        let passing = self.checked(outcome).map_err(|error| error.to_string())?;
        let felix = self.standing && family.listing().await?.lines().any(felix::is_jump);
        let (mode, marks) = (self.options.forward_accept, self.options.marks);
        // What Felix in iptables-nft accepts must pass here as well; its mark is the same as ours.
        match felix {
            true => family.remove(marks.accept).await.map(|()| false),
            false => family.ensure(mode, marks.accept, passing.unwrap_or(Passing::Marked)).await,
        }
    }

    /// Looks at the FORWARD chain of one table. Says whether our rules were added.
    pub(super) async fn guard_table(&mut self, table: &TableId) -> Result<bool, NftError> {
        let (mode, marks) = (self.options.forward_accept, self.options.marks);
        let outcome = match self.passing(table).await {
            Ok(Some(passing)) => guard::ensure(self.socket()?, table, (mode, marks, passing)).await,
            Ok(None) => guard::remove(self.socket()?, table, marks).await.map(|()| false),
            Err(error) => Err(error),
        };
        self.checked(outcome)
    }
}

/// A few findings, and how many more there are: all of them where one filter takes over from another.
pub(super) fn some_of(findings: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<&str> = findings.iter().take(SHOWN).map(String::as_str).collect();
    match findings.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{}, and {more} more", shown.join(", ")),
    }
}
