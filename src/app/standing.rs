//! Who programs this host: this plugin, or Calico's Felix. Pure.
//!
//! ```text
//! ours --- Felix filters, and has programmed every endpoint of ours ---------------------> Felix's
//! ours <-- nothing of Felix filters (at once), Felix is silent or ignores endpoints (late) --- Felix's
//! ```
//!
//! Both filter for a while in each transition, so that a packet is never filtered by nobody. Felix's rules outlive it;
//! what is left of it protects, and knows no new endpoint.

use crate::config::HostDataplane;
use std::collections::BTreeSet;
use std::time::Duration;

/// A Felix that gave signs of life gives none: its status in the datastore lasts 90 s (`ReportingTTLSecs`), and a
/// restart takes less.
const SILENT: Duration = Duration::from_secs(180);
/// An endpoint stays unprogrammed this long.
const IGNORED: Duration = Duration::from_secs(30);

/// What is known of Felix's life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// It is alive, and this tells so.
    Shown(String),
    /// Nothing tells.
    #[default]
    Silent,
    /// What told before cannot be looked at.
    Hidden,
}

/// What one look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Where Felix filters.
    pub(super) filters: Vec<String>,
    /// Whether it must be alive now.
    pub(super) life: Life,
    /// Joined endpoints that it has programmed.
    pub(super) known: BTreeSet<String>,
    /// Joined endpoints that it has not.
    pub(super) unknown: BTreeSet<String>,
}

/// The owner of the decision.
#[derive(Debug)]
pub(super) struct Standing {
    mode: HostDataplane,
    ours: bool,
    reason: String,
    /// Whether this Felix ever gave a sign of life.
    proven: bool,
    silent_since: Option<Duration>,
    ignored_since: Option<Duration>,
    /// Why it is held for gone, though it filters.
    given_up: Option<String>,
    /// What was not programmed at the last look.
    awaited: BTreeSet<String>,
}

impl Standing {
    /// Before the first look the host is ours, unless the setting says otherwise.
    pub(super) fn new(mode: HostDataplane) -> Self {
        let (ours, reason) = match mode {
            HostDataplane::Auto => (true, "Felix does not filter on this host"),
            HostDataplane::Builtin => (true, "CALICO_LIBNETWORK_DATAPLANE=builtin"),
            HostDataplane::Felix => (false, "CALICO_LIBNETWORK_DATAPLANE=felix"),
        };
        Self {
            mode,
            ours,
            reason: reason.to_owned(),
            proven: false,
            silent_since: None,
            ignored_since: None,
            given_up: None,
            awaited: BTreeSet::new(),
        }
    }

    /// Whether this plugin programs the host.
    pub(super) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Why, as a sentence that a person reads in the log.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Takes note of what was seen `now`, a time since the start. Says whether something is to be told: who programs the
    /// host, or why.
    pub(super) fn decide(&mut self, seen: &Seen, now: Duration) -> bool {
        if self.mode != HostDataplane::Auto {
            return false;
        }
        let before = (self.ours, self.reason.clone());
        match seen.filters.first() {
            Some(sign) => self.beside(sign, seen, now),
            None => {
                // Nobody filters but us: there is no time to lose.
                *self = Self::new(HostDataplane::Auto);
            }
        }
        self.awaited.clone_from(&seen.unknown);
        before != (self.ours, self.reason.clone())
    }

    fn beside(&mut self, sign: &str, seen: &Seen, now: Duration) {
        let learned = self.awaited.intersection(&seen.known).next().is_some();
        let alive = matches!(seen.life, Life::Shown(_));
        if alive || learned {
            self.proven |= alive;
            self.silent_since = None;
            self.given_up = None;
        } else if seen.life == Life::Hidden {
            // Felix needs time as well to be heard again.
            self.silent_since = None;
        } else if self.proven {
            let since = *self.silent_since.get_or_insert(now);
            if now.saturating_sub(since) >= SILENT {
                self.give_up(format!("Felix gave no sign of life for {} s", SILENT.as_secs()));
            }
        }
        if seen.unknown.is_empty() {
            self.ignored_since = None;
        } else {
            let since = *self.ignored_since.get_or_insert(now);
            if !alive && now.saturating_sub(since) >= IGNORED {
                self.give_up(format!("Felix does not program {}", names(&seen.unknown)));
            }
        }
        if let Some(why) = &self.given_up {
            self.ours = true;
            self.reason = format!(
                "{why}; what it left behind ({sign}) still drops packets of endpoints that it does not know: remove it, or \
                 start calico/node again"
            );
        } else if self.ours && !seen.unknown.is_empty() {
            self.reason = format!(
                "Felix filters here ({sign}) and has not programmed {} yet; if that lasts, compare its datastore and node \
                 name with this plugin's",
                names(&seen.unknown)
            );
        } else {
            self.ours = false;
            let sign = match &seen.life {
                Life::Shown(tells) => format!("{sign}, {tells}"),
                Life::Silent | Life::Hidden => sign.to_owned(),
            };
            self.reason = format!("Felix filters here ({sign}) and knows every endpoint");
        }
    }

    fn give_up(&mut self, why: String) {
        self.given_up.get_or_insert(why);
    }
}

/// A few of them, and how many.
fn names(ifaces: &BTreeSet<String>) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = ifaces.iter().take(SHOWN).map(String::as_str).collect();
    match ifaces.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(filters: bool, alive: bool, known: &[&str], unknown: &[&str]) -> Seen {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Seen {
            filters: filters.then(|| "nft table ip calico".to_owned()).into_iter().collect(),
            life: if alive { Life::Shown("port 9099 answers".to_owned()) } else { Life::Silent },
            known: set(known),
            unknown: set(unknown),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn felix_gets_the_host_when_it_knows_every_endpoint_and_loses_it_at_once_when_it_filters_no_more() {
        let mut standing = Standing::new(HostDataplane::Auto);
        assert!(!standing.decide(&seen(false, true, &[], &[]), at(0)), "alive is not enough");
        assert!(standing.decide(&seen(true, true, &["a"], &["b"]), at(1)));
        assert!(standing.is_ours() && standing.reason().contains("has not programmed b yet"));
        assert!(standing.decide(&seen(true, true, &["a", "b"], &[]), at(2)));
        assert!(!standing.is_ours());
        // A container starts: Felix needs a moment, and has it.
        assert!(!standing.decide(&seen(true, true, &["a", "b"], &["c"]), at(3)));
        assert!(!standing.is_ours());
        assert!(standing.decide(&seen(false, true, &[], &["a"]), at(4)));
        assert!(standing.is_ours());
    }

    #[test]
    fn a_restart_of_felix_is_no_end_of_it_and_silence_is() {
        let mut standing = Standing::new(HostDataplane::Auto);
        standing.decide(&seen(true, true, &["a"], &[]), at(0));
        let silent = seen(true, false, &["a"], &[]);
        for second in [10, 100, 189] {
            standing.decide(&silent, at(second));
            assert!(!standing.is_ours(), "{second}");
        }
        assert!(standing.decide(&silent, at(190)));
        assert!(standing.is_ours() && standing.reason().contains("no sign of life for 180 s"));
        assert!(!standing.decide(&silent, at(300)), "said once");
        assert!(standing.decide(&seen(true, true, &["a"], &[]), at(301)));
        assert!(!standing.is_ours());
    }

    #[test]
    fn a_datastore_that_is_away_is_no_silence_of_felix() {
        let mut standing = Standing::new(HostDataplane::Auto);
        standing.decide(&seen(true, true, &["a"], &[]), at(0));
        let silent = seen(true, false, &["a"], &[]);
        let hidden = Seen { life: Life::Hidden, ..silent.clone() };
        standing.decide(&silent, at(10));
        for second in [20, 300, 600] {
            standing.decide(&hidden, at(second));
            assert!(!standing.is_ours(), "{second}");
        }
        // Its lease ended meanwhile, and its next report takes a while.
        standing.decide(&silent, at(610));
        standing.decide(&silent, at(789));
        assert!(!standing.is_ours());
        standing.decide(&silent, at(790));
        assert!(standing.is_ours());
    }

    #[test]
    fn leftovers_of_a_felix_that_never_gave_a_sign_are_found_out_by_a_new_endpoint() {
        let mut standing = Standing::new(HostDataplane::Auto);
        standing.decide(&seen(true, false, &["a"], &[]), at(0));
        standing.decide(&seen(true, false, &["a"], &[]), at(10_000));
        assert!(!standing.is_ours(), "a plain calico/node gives no sign of life");
        standing.decide(&seen(true, false, &["a"], &["b"]), at(10_001));
        assert!(!standing.is_ours());
        standing.decide(&seen(true, false, &["a"], &["b"]), at(10_031));
        assert!(standing.is_ours() && standing.reason().contains("does not program b"));
        // The container goes, and nothing is learned from that.
        standing.decide(&seen(true, false, &["a"], &[]), at(10_040));
        assert!(standing.is_ours());
        standing.decide(&seen(true, false, &["a"], &["c"]), at(10_041));
        standing.decide(&seen(true, false, &["a", "c"], &[]), at(10_042));
        assert!(!standing.is_ours(), "it programs again");
    }

    #[test]
    fn the_setting_decides_against_what_is_seen() {
        let mut builtin = Standing::new(HostDataplane::Builtin);
        assert!(!builtin.decide(&seen(true, true, &[], &[]), at(0)) && builtin.is_ours());
        let mut felix = Standing::new(HostDataplane::Felix);
        assert!(!felix.decide(&seen(false, false, &[], &["a"]), at(0)) && !felix.is_ours());
    }
}
