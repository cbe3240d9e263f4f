//! Standing back beside Felix, and taking over from it, while packets flow.
//!
//! ```text
//! full table -> hooks gone, the rest kept -> reduced table         back: each step one transaction
//! reduced table -> chains, sets -> hooks and elements              over: `delta::repair` does it in this order
//! ```
//!
//! In between a packet that is under way still finds what its rules lead to; see [`super::delta::repair`].

use super::desired::{Part, Verb};
use super::worker::Worker;
use super::{DataplaneError, beside, felix, guard, legacy, render};
use crate::nft::{NftError, Table, TableId};
use std::collections::BTreeSet;

impl Worker {
    /// Leaves the packets to Felix. What only we do stays: published ports, and the host's localhost closed.
    pub(super) async fn stand_back(&mut self) -> Result<(), DataplaneError> {
        let was = std::mem::replace(&mut self.standing, true);
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

    /// Puts everything in force that was recorded meanwhile.
    pub(super) async fn take_over(&mut self) -> Result<(), DataplaneError> {
        let was = std::mem::replace(&mut self.standing, false);
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

    /// Whether FORWARD is Felix's affair in one of iptables' tables. Felix with its own tables leaves FORWARD alone,
    /// and its mark there is the same as ours: then our rules are what lets its packets pass.
    pub(super) async fn felix_forwards(&mut self, table: &TableId) -> Result<bool, NftError> {
        if !self.standing {
            return Ok(false);
        }
        let socket = self.socket()?;
        let chains = socket.chains(table).await?;
        felix::filters_in(socket, table, &chains).await
    }

    /// Looks at one family of the old iptables' FORWARD. Says whether our rules were added.
    pub(super) async fn guard_legacy(&self, family: &legacy::Legacy<'_>) -> Result<bool, String> {
        let accept = self.options.marks.accept;
        if self.standing && family.in_use().await? && family.listing().await?.lines().any(felix::is_jump) {
            family.remove(accept).await?;
            return Ok(false);
        }
        family.ensure(self.options.forward_accept, accept).await
    }

    /// Looks at the FORWARD chain of one table. Says whether our rules were added.
    pub(super) async fn guard_table(&mut self, table: &TableId) -> Result<bool, NftError> {
        let (mode, marks) = (self.options.forward_accept, self.options.marks);
        let outcome = match self.felix_forwards(table).await {
            Ok(true) => guard::remove(self.socket()?, table, marks).await.map(|()| false),
            Ok(false) => guard::ensure(self.socket()?, table, (mode, marks)).await,
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
