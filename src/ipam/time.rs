//! Times as Calico writes them. Pure: the moment is an argument.

use std::time::SystemTime;

/// RFC 3339, whole seconds, `Z`: claim times and release times of blocks.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Reads an RFC 3339 time; `None` if it is not one.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// What Go's `time.Time.String()` gives in UTC, the form of the attribute `timestamp` in every allocation of Calico:
/// `2026-08-22 06:33:20.123456789 +0000 UTC`, without the zeros at the end of the fraction.
pub(super) fn go_string(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_nanos(time).to_string();
    let digits = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{} +0000 UTC", digits.replacen('T', " ", 1))
}

/// Reads what [`go_string`] writes; `None` if it is something else.
pub(super) fn parse_go(text: &str) -> Option<SystemTime> {
    let utc = text.trim().strip_suffix(" +0000 UTC")?;
    humantime::parse_rfc3339(&format!("{}Z", utc.replacen(' ', "T", 1))).ok()
}

/// Nanoseconds since 1970: the first sequence number of a block. 0 for a clock that stands before 1970.
pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_timestamp_attribute_is_gos() {
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::new(1_787_380_400, nanos);
        assert_eq!(go_string(at(123_456_789)), "2026-08-22 06:33:20.123456789 +0000 UTC");
        assert_eq!(go_string(at(500_000_000)), "2026-08-22 06:33:20.5 +0000 UTC");
        assert_eq!(go_string(at(0)), "2026-08-22 06:33:20 +0000 UTC");
        assert_eq!(rfc3339(at(999)), "2026-08-22T06:33:20Z");
        assert_eq!(parse("2026-08-22T06:33:20Z"), Some(at(0)));
        assert_eq!(parse("yesterday"), None);
        for nanos in [123_456_789, 500_000_000, 0] {
            assert_eq!(parse_go(&go_string(at(nanos))), Some(at(nanos)));
        }
        assert_eq!(parse_go("2026-08-22 06:33:20 +0200 CEST"), None);
    }
}
