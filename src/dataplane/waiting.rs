//! Endpoints that are to be opened before their policy is known.

use super::desired::Verb;
use super::worker::Worker;
use super::{DataplaneError, Request};
use tokio::time::Instant;

impl Worker {
    /// Whether the verb opens an endpoint whose policy is not known. Before the table is in force nobody waits: the
    /// endpoint stays closed until its policy comes.
    pub(super) fn must_wait(&self, verb: &Verb) -> bool {
        let unknown = matches!(verb, Verb::AddEndpoint(iface, _) if !self.desired.policy.knows(iface));
        unknown && self.active && !self.standing && self.desired.check(verb).is_ok()
    }

    pub(super) async fn serve_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for (request, until) in waiting {
            if self.must_wait(&request.verb) {
                self.waiting.push((request, until));
            } else if !request.answer.is_closed() {
                let outcome = self.perform(&request.verb).await;
                let _ = request.answer.send(outcome);
            }
        }
    }

    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        let within = self.options.timing.policy;
        let (over, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, until)| *until <= now);
        self.waiting = waiting;
        let over: Vec<(Request, Instant)> = over;
        for (request, _) in over {
            if let Verb::AddEndpoint(iface, _) = request.verb {
                let _ = request.answer.send(Err(match self.fill.as_ref().and_then(|it| it.brings(&iface)) {
                    Some(behind) => DataplaneError::PolicyWaits { iface, within, behind },
                    None => DataplaneError::NoPolicy { iface, within },
                }));
            }
        }
    }
}
