//! Calls counted by name and outcome.

use super::Exposition;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    ok: u64,
    failed: u64,
    took: Duration,
}

/// Counts of calls. The lock guards the counts and is held for one addition.
#[derive(Debug, Default)]
pub struct Calls(Mutex<BTreeMap<&'static str, Count>>);

impl Calls {
    /// One call ended.
    pub fn record(&self, name: &'static str, ok: bool, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name).or_default();
        count.ok += u64::from(ok);
        count.failed += u64::from(!ok);
        count.took += took;
    }

    /// Writes `KIND_total` by outcome and `KIND_seconds_total`, with the name under `label`.
    pub fn write(&self, page: &mut Exposition, kind: &str, label: &str, what: &str) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (total, seconds) = (format!("{kind}_total"), format!("{kind}_seconds_total"));
        page.counter(&total, &format!("{what}, by outcome."));
        for (name, count) in &counts {
            page.sample(&total, &[(label, name), ("outcome", "ok")], count.ok);
            page.sample(&total, &[(label, name), ("outcome", "error")], count.failed);
        }
        page.counter(&seconds, &format!("{what}: time until they ended, added up."));
        for (name, count) in &counts {
            page.sample(&seconds, &[(label, name)], count.took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_apart_and_times_added_up() {
        let calls = Calls::default();
        calls.record("Join", true, Duration::from_millis(500));
        calls.record("Join", false, Duration::from_millis(250));
        let mut page = Exposition::default();
        calls.write(&mut page, "calls", "method", "Calls");
        let text = page.finish();
        for line in [
            "calls_total{method=\"Join\",outcome=\"ok\"} 1",
            "calls_total{method=\"Join\",outcome=\"error\"} 1",
            "calls_seconds_total{method=\"Join\"} 0.75",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
