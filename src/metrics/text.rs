//! The text format, version 0.0.4 (prometheus.io, "Exposition formats"). Pure.

use std::fmt::{Display, Write as _};

/// Prefix of every name.
const PREFIX: &str = "calico_libnetwork_";

/// A page that is being written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family of figures that only grow; their name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str) {
        self.family(name, "counter", help);
    }

    /// Begins a family of figures that grow and shrink.
    pub fn gauge(&mut self, name: &str, help: &str) {
        self.family(name, "gauge", help);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
    }

    /// One figure of the family that was begun last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{PREFIX}{name}");
        for (position, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"", if position == 0 { '{' } else { ',' });
            for letter in text.chars() {
                match letter {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    /// The page.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_written_as_prometheus_reads_it() {
        let mut page = Exposition::default();
        page.counter("calls_total", "Calls of the engine.");
        page.sample("calls_total", &[("method", "a\"b\\c\nd"), ("outcome", "ok")], 7);
        page.gauge("up", "Whether it is.");
        page.sample("up", &[], 0.5);
        assert_eq!(
            page.finish(),
            "# HELP calico_libnetwork_calls_total Calls of the engine.\n\
             # TYPE calico_libnetwork_calls_total counter\n\
             calico_libnetwork_calls_total{method=\"a\\\"b\\\\c\\nd\",outcome=\"ok\"} 7\n\
             # HELP calico_libnetwork_up Whether it is.\n\
             # TYPE calico_libnetwork_up gauge\n\
             calico_libnetwork_up 0.5\n"
        );
    }
}
