//! AS numbers, 32 bits (RFC 6793).

use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// The number of an autonomous system. JSON has it as a number or as text, and the text may have a point (RFC 5396,
/// `libcalico-go/lib/numorstring/asnumber.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AsNumber(pub u32);

impl AsNumber {
    /// What Calico's hosts have where nothing else is said.
    pub const DEFAULT: Self = Self(64_512);
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AsNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no AS number, such as 64512 or 1.10");
        match text.split_once('.') {
            None => text.parse().map(Self).map_err(|_| wrong()),
            Some((high, low)) => match (high.parse::<u16>(), low.parse::<u16>()) {
                (Ok(high), Ok(low)) => Ok(Self((u32::from(high) << 16) | u32::from(low))),
                _ => Err(wrong()),
            },
        }
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u32),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_texts_and_points_are_read() {
        let read = |text: &str| serde_json::from_str::<AsNumber>(text).map_err(|error| error.to_string());
        assert_eq!(read("64512"), Ok(AsNumber(64_512)));
        assert_eq!(read("\"4200000000\""), Ok(AsNumber(4_200_000_000)));
        assert_eq!(read("\"1.10\""), Ok(AsNumber(65_546)));
        assert!(read("\"65536.1\"").unwrap_err().contains("is no AS number"));
        assert!(read("-1").is_err());
        assert_eq!(serde_json::to_string(&AsNumber(65_546)).unwrap(), "65546");
    }
}
