//! What the kernel's rules have counted, beside the rules of documents. Pure.

use crate::dataplane::RuleCount;

/// What the kernel has counted, or why that is not known.
#[derive(Debug)]
pub(super) struct Counters {
    counts: Result<Vec<RuleCount>, String>,
}

impl Counters {
    /// From what was read.
    pub(super) fn new(counts: Result<Vec<RuleCount>, String>) -> Self {
        Self { counts }
    }

    /// Why nothing is known, if so.
    pub(super) fn failure(&self) -> Option<&str> {
        self.counts.as_ref().err().map(String::as_str)
    }

    fn of_chain<'a>(&'a self, chain: &str) -> impl Iterator<Item = &'a RuleCount> {
        self.counts.iter().flatten().filter(move |count| count.chain == chain)
    }

    /// What a rule of a document has matched: all that the kernel has of it, one for each IP version and way in which
    /// ports can match. Empty if that is not known.
    pub(super) fn of_rule(&self, chain: &str, index: usize) -> String {
        let start = format!("rule {} of ", index + 1);
        Self::sum(self.of_chain(chain).filter(|count| count.what.starts_with(&start)))
    }

    /// What a rule of a chain with this comment has counted.
    pub(super) fn of_comment(&self, chain: &str, comment: &str) -> String {
        Self::sum(self.of_chain(chain).filter(|count| count.what == comment))
    }

    /// Why the kernel has other rules in a chain than the document says.
    pub(super) fn refusal(&self, chain: &str) -> Option<&str> {
        self.of_chain(chain).map(|count| count.what.as_str()).find(|what| what.starts_with("refused: "))
    }

    fn sum<'a>(counts: impl Iterator<Item = &'a RuleCount>) -> String {
        let add = |sum: Option<(u64, u64)>, count: &RuleCount| {
            let (packets, bytes) = sum.unwrap_or_default();
            Some((packets + count.packets, bytes + count.bytes))
        };
        let line = |(packets, bytes)| format!("  [{packets} packets, {bytes} bytes]");
        counts.fold(None, add).map(line).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_of_a_rule_are_added() {
        let count = |what: &str, packets| RuleCount {
            chain: "c".to_owned(),
            what: what.to_owned(),
            drops: false,
            packets,
            bytes: packets * 10,
        };
        let counters = Counters::new(Ok(vec![
            count("rule 1 of Profile a ingress", 1),
            count("rule 1 of Profile a ingress", 2),
            count("rule 11 of Profile a ingress", 4),
            count("end of tier t", 8),
        ]));
        assert_eq!(counters.of_rule("c", 0), "  [3 packets, 30 bytes]");
        assert_eq!(counters.of_rule("c", 10), "  [4 packets, 40 bytes]");
        assert_eq!(counters.of_rule("c", 1), "");
        assert_eq!(counters.of_rule("d", 0), "");
        assert_eq!(counters.of_comment("c", "end of tier t"), "  [8 packets, 80 bytes]");
    }
}
