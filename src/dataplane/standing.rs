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
use crate::nft::{Table, TableId};
use std::collections::BTreeSet;

impl Worker {
    /// Leaves the packets to Felix. What only we do stays: published ports, and the host's localhost closed.
    pub(super) async fn stand_back(&mut self) -> Result<(), DataplaneError> {
        let was = self.stand(true);
        if was || !self.active {
            return Ok(());
        }
        // First of all: with our filter go the marks by which its packets pass FORWARD.
        self.assert_guard().await;
        let unhooked = |worker: &Self, unread: &_| beside::unhooked(&worker.desired, &worker.options, unread);
        let outcome = self.repair(unhooked).await;
        // Should it fail, the next comparison takes all of it away in one step.
        let _ = self.checked(outcome).inspect_err(|error| log::info!("{error}; comparing the whole table"));
        self.resync().await
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

    /// Looks at FORWARD of iptables-nft and of the old iptables. Says of each whether our rules were added.
    pub(super) async fn guard_forward(
        &mut self,
        table: &TableId,
        family: &legacy::Legacy<'_>,
    ) -> [Result<bool, String>; 2] {
        let outcome = match self.standing {
            true => match self.socket() {
                Ok(socket) => felix::filters_beside(socket, table, family).await,
                Err(error) => Err(error),
            },
            false => Ok(Filters::default()),
        };
        let filters = match self.checked(outcome) {
            Ok(filters) => filters,
            Err(error) => return [Err(error.to_string()), Ok(false)],
        };
        let (mode, marks) = (self.options.forward_accept, self.options.marks);
        let socket = self.socket();
        let outcome = match (socket, passing(filters, filters.iptables)) {
            (Ok(socket), Some(passing)) => guard::ensure(socket, table, (mode, marks, passing)).await,
            (Ok(socket), None) => guard::remove(socket, table, marks).await.map(|()| false),
            (Err(error), _) => Err(error),
        };
        let nft = self.checked(outcome).map_err(|error| error.to_string());
        let legacy = match passing(filters, filters.legacy) {
            Some(passing) => family.ensure(mode, marks.accept, passing).await,
            None => family.remove(marks.accept).await.map(|()| false),
        };
        [nft, legacy]
    }
}

/// Which packets of endpoints a FORWARD shall let pass beside Felix, which may filter `here`; `None` where it is Felix's
/// own affair. A Felix that filters elsewhere leaves this one alone, where Docker's policy drops; which of the two a packet
/// meets first depends on which was made first, as their priority is the same, and what belongs to a connection Felix
/// accepts without a mark (`felix/rules/endpoints.go`). So all of endpoints' packets pass, and Felix decides about them.
/// Pure.
fn passing(filters: Filters, here: bool) -> Option<Passing> {
    match filters {
        _ if here => None,
        Filters { iptables: false, own_table: false, legacy: false } => Some(Passing::Marked),
        _ => Some(Passing::Endpoints),
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
