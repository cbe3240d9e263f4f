//! Stable names for things that are known by their content.
//!
//! The form is Calico's (`libcalico-go/lib/hash/unique_id.go`): a prefix, a colon and the unpadded base64url of the
//! SHA-224 of prefix, colon and content. So a set here has the name that it has in a dump of Felix.

use crate::model::sha224;
use std::fmt::Write as _;

/// `prefix:` and 38 characters of `[A-Za-z0-9_-]`.
#[must_use]
pub fn unique_id(prefix: &str, content: &str) -> String {
    let mut text = format!("{prefix}:");
    let hash = sha224(format!("{text}{content}").as_bytes());
    base64url(&hash, &mut text);
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64url(bytes: &[u8], into: &mut String) {
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            let index = (bits >> (18 - 6 * place)) & 63;
            let letter = usize::try_from(index).ok().and_then(|at| ALPHABET.get(at)).copied().unwrap_or(b'_');
            // Writing to a String cannot fail.
            let _ = into.write_char(char::from(letter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_calicos() {
        assert_eq!(unique_id("s", "all()"), "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug");
    }
}
