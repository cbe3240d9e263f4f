//! What is told about sessions when they change (pure; times are arguments).

use super::status::SessionStatus;
use std::collections::BTreeMap;
use std::time::Duration;

/// A session that has not come up for this long is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// One sentence, and whether somebody should look into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) bad: bool,
    pub(super) sentence: String,
}

/// Sessions as they were last seen.
#[derive(Debug, Default)]
pub(super) struct Watched {
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    up: bool,
    /// When it was first seen as it is.
    since: Duration,
    told: bool,
}

impl Watched {
    /// Compares with how the sessions stand at a time (since some fixed moment); gives back what is to be told.
    pub(super) fn look(&mut self, now: Duration, sessions: &[SessionStatus]) -> Vec<Told> {
        let mut all = Vec::new();
        self.known.retain(|name, known| {
            let there = sessions.iter().any(|session| session.name == *name);
            if !there && known.up {
                let sentence = format!("BGP session {name} was taken out of the configuration");
                all.push(Told { bad: false, sentence });
            }
            there
        });
        for session in sessions {
            let entry = self.known.entry(session.name.clone());
            let known = entry.or_insert(Known { up: false, since: now, told: false });
            if known.up != session.up {
                *known = Known { up: session.up, since: now, told: true };
                all.push(Told { bad: !session.up, sentence: changed(session) });
            } else if !session.up && !known.told && now.saturating_sub(known.since) >= PATIENCE {
                known.told = true;
                all.push(Told { bad: true, sentence: format!("BGP session {session}") });
            }
        }
        all
    }

    /// BIRD has ended: nothing is up until it is seen to be.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}

fn changed(session: &SessionStatus) -> String {
    let SessionStatus { name, of, address, as_number, why, .. } = session;
    let with = format!("BGP session {name} with {of} ({address}, AS {as_number})");
    match session.up {
        true => format!("{with} is up"),
        false => format!("{with} went down: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(up: bool) -> SessionStatus {
        SessionStatus {
            name: "Mesh_10_0_0_2".to_owned(),
            of: "n2".to_owned(),
            address: "10.0.0.2".to_owned(),
            as_number: "64512".to_owned(),
            up,
            since: "then".to_owned(),
            why: "Received: Hold timer expired".to_owned(),
            routes: String::new(),
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut watched = Watched::default();
        let mut look = |at: u64, session: SessionStatus| watched.look(Duration::from_secs(at), &[session]);
        assert!(look(0, session(false)).is_empty());
        assert_eq!(
            look(1, session(true))[0].sentence,
            "BGP session Mesh_10_0_0_2 with n2 (10.0.0.2, AS 64512) is up"
        );
        assert!(look(2, session(true)).is_empty());
        let told = look(3, session(false));
        assert!(
            told[0].bad && told[0].sentence.ends_with("went down: Received: Hold timer expired"),
            "{told:?}"
        );
        assert!(look(100, session(false)).is_empty());
    }

    #[test]
    fn a_session_that_never_comes_up_is_told_after_a_while() {
        let mut watched = Watched::default();
        let mut look = |at: u64| watched.look(Duration::from_secs(at), &[session(false)]);
        assert!(look(0).is_empty() && look(29).is_empty());
        assert!(look(30)[0].bad && look(31).is_empty());
    }
}
