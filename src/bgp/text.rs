//! Small texts of Calico's resources: what may go into BIRD's configuration, in BIRD's words (pure). Nothing that
//! somebody wrote into the datastore gets there without having passed here or having been parsed.

use std::fmt::Write as _;

/// A community as BIRD writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Community {
    /// `bgp_community` or `bgp_large_community`.
    pub(super) attribute: &'static str,
    /// `(65000, 42)` or `(65000, 1, 2)`.
    pub(super) value: String,
}

/// Reads `aa:nn` with 16 bits each (RFC 1997) or `aa:nn:mm` with 32 bits each (RFC 8092).
pub(super) fn community(text: &str) -> Result<Community, String> {
    let wrong = || format!("{text:?} is no community, such as 65000:42 or 65000:1:2");
    let parts: Vec<&str> = text.split(':').collect();
    let numbers: Result<Vec<u32>, _> = parts.iter().map(|part| part.parse::<u32>()).collect();
    match numbers.map_err(|_| wrong())?.as_slice() {
        [a, b] if *a <= 0xffff && *b <= 0xffff => {
            Ok(Community { attribute: "bgp_community", value: format!("({a}, {b})") })
        }
        [a, b, c] => Ok(Community { attribute: "bgp_large_community", value: format!("({a}, {b}, {c})") }),
        _ => Err(wrong()),
    }
}

/// A pattern of interface names, as it may stand between quotes.
pub(super) fn interface_pattern(text: &str) -> Result<&str, String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"*?._-:@+=,".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(known) {
        true => Ok(text),
        false => Err(format!("{text:?} is no pattern of interface names, such as eth*")),
    }
}

/// A name in a comment or a description: only what cannot end either.
pub(super) fn plain(text: &str) -> String {
    let kept =
        |letter: char| if letter.is_ascii_alphanumeric() || "._-/: ".contains(letter) { letter } else { '?' };
    text.chars().take(100).map(kept).collect()
}

/// A symbol for a filter of some name: at most 64 bytes between quotes (BIRD `conf/conf.h`, `SYM_MAX_LEN`). Long names
/// are cut and told apart by a hash of the whole.
pub(super) fn symbol(prefix: &str, name: &str) -> String {
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let room = 64_usize.saturating_sub(prefix.len() + 1);
    if fits && name.len() <= room {
        return format!("'{prefix}_{name}'");
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let kept: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' })
        .take(room.saturating_sub(17))
        .collect();
    format!("'{prefix}_{kept}_{hash:016x}'")
}

/// Reads a duration as Go writes it (`1h2m3.5s`) in whole seconds, rounded; `what` begins the sentence if it is none.
pub(super) fn duration_seconds(what: &str, text: &str, problems: &mut Vec<String>) -> Option<u64> {
    let seconds = go_seconds(text).filter(|seconds| (1..=4095).contains(seconds));
    if seconds.is_none() {
        problems.push(format!("{what} {text:?} is no time of 1s to 4095s, such as 2m0s; BIRD's own is used"));
    }
    seconds
}

fn go_seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut thousandths = 0_u64;
    while !rest.is_empty() {
        let number_end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|letter: char| letter.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        if number.is_empty() {
            return None;
        }
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut sum = whole.checked_mul(scale)?;
        let mut place = scale;
        for digit in part.chars() {
            place /= 10;
            sum = sum.checked_add(place.checked_mul(u64::from(digit.to_digit(10)?))?)?;
        }
        thousandths = thousandths.checked_add(sum)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(thousandths.checked_add(500)? / 1000)
}

/// A sentence about fields that have no effect, if there are any.
pub(super) fn unused<'a>(what: &str, fields: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut list = String::new();
    for field in fields {
        // Writing to a String cannot fail.
        let _ = write!(list, "{}{}", if list.is_empty() { "" } else { ", " }, plain(field));
    }
    (!list.is_empty()).then(|| format!("{what}: {list} has no effect here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_checked_numbers() {
        assert_eq!(community("65000:42").unwrap().value, "(65000, 42)");
        assert_eq!(community("4200000000:1:2").unwrap().attribute, "bgp_large_community");
        for wrong in ["", "65000", "65536:1", "1:2:3:4", "1:x", "1:2); reject; ("] {
            assert!(community(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, seconds) in [("2m0s", 120), ("1h", 3600), ("1.5s", 2), ("1h1m1.4s", 3661), ("1500ms", 2)] {
            assert_eq!(go_seconds(text), Some(seconds), "{text}");
        }
        for wrong in ["", "2", "m", "-1s", "1d", "1s1", "99999999999999999999h"] {
            assert_eq!(go_seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_ends_a_quoted_text() {
        assert!(interface_pattern("eth*").is_ok());
        assert!(interface_pattern("\"; reject; \"").is_err());
        assert_eq!(plain("a\nb\"*/"), "a?b??/");
        let long = "x".repeat(80);
        assert_eq!(symbol("import4", "a.b-c"), "'import4_a.b-c'");
        assert!(symbol("import4", &long).len() <= 66);
        assert_ne!(symbol("import4", &long), symbol("import4", &format!("{long}y")));
        assert!(!symbol("import4", "a'b").contains("a'b"));
    }
}
