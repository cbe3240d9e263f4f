//! Prefixes as elements of an interval set.

use super::{Element, ElementKey};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The elements that stand for these prefixes (address and length in bits) in an interval set: for each range its first
/// address and the first address after it. Prefixes of one family; overlapping and adjacent ones are merged, because
/// the kernel refuses overlaps. A range up to the last address has no end.
#[must_use]
pub fn interval_elements(prefixes: impl IntoIterator<Item = (IpAddr, u8)>) -> Vec<Element> {
    let mut ranges: Vec<Range> = prefixes.into_iter().map(Range::of).collect();
    ranges.sort_unstable_by_key(|r| (r.v4, r.first));
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.v4 == range.v4 && range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged.iter().flat_map(Range::elements).collect()
}

#[derive(Debug)]
struct Range {
    v4: bool,
    first: u128,
    last: u128,
}

impl Range {
    fn of((ip, len): (IpAddr, u8)) -> Self {
        let (bits, width) = match ip {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        let all = if width == 32 { u128::from(u32::MAX) } else { u128::MAX };
        let host = if len == 0 { all } else { all.checked_shr(u32::from(len)).unwrap_or(0) };
        Self { v4: width == 32, first: bits & !host, last: (bits & !host) | host }
    }

    fn bytes(&self, value: u128) -> Vec<u8> {
        if self.v4 {
            u32::try_from(value).map(|v| Ipv4Addr::from_bits(v).octets().to_vec()).unwrap_or_default()
        } else {
            Ipv6Addr::from_bits(value).octets().to_vec()
        }
    }

    fn elements(&self) -> Vec<Element> {
        let start = Element::member(self.bytes(self.first));
        let all = if self.v4 { u128::from(u32::MAX) } else { u128::MAX };
        if self.last == all {
            return vec![start];
        }
        vec![start, Element { key: ElementKey { bytes: self.bytes(self.last + 1), end: true }, data: None }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prefixes: &[(&str, u8)]) -> Vec<(Vec<u8>, bool)> {
        let parsed = prefixes.iter().map(|(ip, len)| (ip.parse().unwrap(), *len));
        interval_elements(parsed).into_iter().map(|e| (e.key.bytes, e.key.end)).collect()
    }

    #[test]
    fn overlapping_and_adjacent_prefixes_become_one_range() {
        let want = vec![(vec![10, 0, 0, 0], false), (vec![10, 0, 2, 0], true)];
        assert_eq!(of(&[("10.0.1.0", 24), ("10.0.0.0", 24), ("10.0.0.128", 25)]), want);
    }

    #[test]
    fn separate_prefixes_stay_separate() {
        assert_eq!(of(&[("10.0.0.0", 24), ("10.0.2.0", 24)]).len(), 4);
    }

    #[test]
    fn a_range_to_the_last_address_has_no_end() {
        assert_eq!(of(&[("0.0.0.0", 0)]), vec![(vec![0; 4], false)]);
        assert_eq!(of(&[("::", 0)]), vec![(vec![0; 16], false)]);
        assert_eq!(of(&[("255.255.255.255", 32)]), vec![(vec![255; 4], false)]);
        assert_eq!(of(&[]), vec![]);
    }

    #[test]
    fn a_single_ipv6_address_is_a_range_of_one() {
        let elements = of(&[("fd00::1", 128)]);
        assert_eq!(elements[1].0[15], 2);
        assert!(elements[1].1);
    }
}
