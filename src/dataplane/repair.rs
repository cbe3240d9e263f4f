//! Reading the table back and putting it right, without what the kernel does not take.

use super::delta::{self, Repair};
use super::standing::some_of;
use super::{DataplaneError, Worker, render};
use crate::nft::{Batch, NftError, Table};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// How often a repair is begun again because the ruleset changed under it, before the table is replaced blindly.
const ATTEMPTS: u32 = 5;
/// How often something that the kernel refuses is set apart in one repair. Each is a policy, a set or a shape.
const MOST_REFUSED: usize = 1000;
/// After how long what was refused is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// How the table shall be, without the elements of these sets.
type Want = fn(&Worker, &BTreeSet<String>) -> Table;

impl Worker {
    /// Compares the table with what is desired, repairs it, and reports.
    pub(super) async fn resync(&mut self) -> Result<(), DataplaneError> {
        if !self.active {
            self.table.done(Instant::now(), true);
            return Ok(());
        }
        if !self.desired.policy.refused().is_empty() && self.retry <= Instant::now() {
            let empty = self.desired.policy.pardon(self.options.marks);
            self.large.torn(empty);
        }
        let outcome = self.repair(Self::wanted).await;
        let outcome = self.checked(outcome);
        self.table.done(Instant::now(), outcome.is_ok());
        self.report(outcome.as_ref().map(|findings| !findings.is_empty()));
        match outcome {
            Ok(findings) => {
                if !findings.is_empty() {
                    log::info!("table {} put right: {}", render::table_id(), some_of(&findings));
                }
                Ok(())
            }
            Err(source) => Err(DataplaneError::Kernel { attempt: "put the packet filter in force", source }),
        }
    }

    /// Tells whoever looks at the status what the kernel does not take, and the log what is new of it.
    pub(super) fn tell_refused(&mut self) {
        let refused = self.desired.policy.refused().sentences();
        if !refused.is_empty() {
            let now = Instant::now();
            if self.retry <= now {
                self.retry = now + RETRY;
            }
            self.table.soon(self.retry, Duration::ZERO);
        }
        let fresh: Vec<&String> =
            refused.iter().filter(|it| !self.status.borrow().refused.contains(it)).collect();
        fresh.into_iter().for_each(|sentence| log::warn!("{sentence}; it is tried again"));
        self.status.send_if_modified(|status| {
            let changed = status.refused != refused;
            status.refused = refused;
            changed
        });
    }

    fn report(&mut self, outcome: Result<bool, &NftError>) {
        self.tell_refused();
        self.status.send_modify(|status| {
            status.in_force = outcome.is_ok();
            status.error = outcome.err().map(ToString::to_string);
            status.repairs += u64::from(matches!(outcome, Ok(true)));
        });
    }

    /// Gives what was found wrong and is right now. What the kernel refuses is set apart, and the rest tried again.
    pub(super) async fn repair(&mut self, want: Want) -> Result<Vec<String>, NftError> {
        let mut findings = Vec::new();
        let mut blindly = false;
        for _ in 0..MOST_REFUSED {
            let outcome = match blindly {
                true => self.replace(want, "a repair was refused", &mut findings).await,
                false => self.repair_once(want, &mut findings).await,
            };
            match outcome {
                Ok(()) => return Ok(findings),
                Err((batch, error)) if self.set_apart(&batch, &error) => {}
                Err((_, error @ NftError::Refused { .. })) if !blindly => {
                    log::info!("{error}; replacing the whole table");
                    blindly = true;
                }
                Err((_, error)) => return Err(error),
            }
        }
        Err(NftError::Unsteady)
    }

    /// Whether something of policy was refused that had not been yet. Who may not change the table at all is refused
    /// everything.
    fn set_apart(&mut self, batch: &Batch, error: &NftError) -> bool {
        let NftError::Refused { index: Some(index), why, .. } = error else { return false };
        if why.kind() == io::ErrorKind::PermissionDenied {
            return false;
        }
        self.desired.policy.refuse(batch, *index, &error.to_string(), self.options.marks)
    }

    /// An error comes with the batch that it is about.
    async fn repair_once(&mut self, want: Want, findings: &mut Vec<String>) -> Result<(), (Batch, NftError)> {
        let id = render::table_id();
        let none = |error| (Batch::new(render::table_id()), error);
        for _ in 0..ATTEMPTS {
            // Anew each time: what the last attempt left half done is read.
            let large = self.large_sets();
            let socket = self.socket().map_err(none)?;
            let (actual, generation) = socket.dump_without(&id, &large).await.map_err(none)?;
            // Those that are missing are made, with all that belongs into them.
            let there =
                large.iter().filter(|set| actual.as_ref().is_some_and(|it| it.sets.contains_key(*set)));
            let unread: BTreeSet<String> = there.cloned().collect();
            let unsure = self.large.unsure(&unread);
            if let Some(repair) = actual.as_ref().and_then(|it| delta::without_unasked(&id, it, &unsure)) {
                match self.carry_out(repair, Some(generation), findings).await {
                    Ok(()) | Err((_, NftError::Stale)) => continue,
                    Err(error) => return Err(error),
                }
            }
            let desired = want(self, &unread);
            let Some(repair) = delta::repair(&id, &desired, actual.as_ref()) else {
                self.large.compared(desired.sets.keys(), &unread);
                self.read_large(&unread);
                return Ok(());
            };
            if repair.anew && !unread.is_empty() {
                return self.replace(want, &repair.findings.concat(), findings).await;
            }
            let again = repair.again;
            match self.carry_out(repair, Some(generation), findings).await {
                Ok(()) if again => {}
                Ok(()) => {
                    self.large.compared(desired.sets.keys(), &unread);
                    self.read_large(&unread);
                    return Ok(());
                }
                Err((_, NftError::Stale)) => {}
                Err((batch, error)) => return Err((batch, error)),
            }
        }
        self.replace(want, "it changed faster than it could be compared", findings).await
    }

    /// Makes the table anew, whatever stands there.
    async fn replace(
        &mut self,
        want: Want,
        why: &str,
        findings: &mut Vec<String>,
    ) -> Result<(), (Batch, NftError)> {
        let repair = delta::replaced(&render::table_id(), &want(self, &BTreeSet::new()), why.to_owned());
        self.carry_out(repair, None, findings).await
    }

    /// Commits a repair, in pieces if it is large. With a generation only if nobody else has changed the ruleset since.
    ///
    /// While the whole table is made, nobody listens: the kernel would tell of each object in a message of its own, which
    /// takes a sixth of the time for a large one, and would soon lose some; then all would have to be compared. Whether
    /// somebody else changed something meanwhile is told by the generation afterwards ([`Worker::subscribe`]).
    async fn carry_out(
        &mut self,
        repair: Repair,
        generation: Option<u32>,
        findings: &mut Vec<String>,
    ) -> Result<(), (Batch, NftError)> {
        let Repair { batch, findings: found, anew, .. } = repair;
        if anew {
            self.monitor = None;
        }
        let mut now = generation;
        let mut pieces = delta::pieces(batch).into_iter();
        while let Some(piece) = pieces.next() {
            let outcome = match (self.socket(), now) {
                (Err(error), _) => Err(error),
                (Ok(socket), None) => socket.commit(&piece).await,
                (Ok(socket), Some(generation)) => socket.commit_at(&piece, generation).await,
            };
            if let Err(error) = self.counted(&piece, outcome) {
                self.large.failed([&piece].into_iter().chain(pieces.as_slice()));
                return Err((piece, error));
            }
            // Each transaction is one step of the generation.
            now = now.map(|generation| generation.wrapping_add(1));
        }
        self.made_at = now.filter(|_| anew);
        findings.extend(found);
        Ok(())
    }
}
