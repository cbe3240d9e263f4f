//! Which addresses automatic assignment may take: not the reserved ones, and only those of the asked range. Pure.

use crate::model::{Cidr, IpReservationSpec};
use std::net::IpAddr;

/// The union of all IPReservations, as prefixes of which none lies in another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved(Vec<Cidr>);

impl Reserved {
    /// The union of prefixes in any order.
    #[must_use]
    pub fn new(cidrs: impl IntoIterator<Item = Cidr>) -> Self {
        let mut all: Vec<Cidr> = cidrs.into_iter().collect();
        // A prefix sorts before those inside it, so the last one kept is the only one that can hold the next.
        all.sort_unstable();
        let mut kept: Vec<Cidr> = Vec::new();
        for cidr in all {
            if kept.last().is_none_or(|last| !last.contains_cidr(&cidr)) {
                kept.push(cidr);
            }
        }
        Self(kept)
    }

    /// The union of what IPReservations say; entries that cannot be read are skipped as Calico skips them.
    pub fn of<'a>(reservations: impl IntoIterator<Item = &'a IpReservationSpec>) -> Self {
        Self::new(reservations.into_iter().flat_map(IpReservationSpec::cidrs))
    }

    /// Whether one address is reserved.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|cidr| cidr.contains(ip))
    }

    /// The reserved prefix that holds all of `cidr`, if one does.
    #[must_use]
    pub fn covering(&self, cidr: &Cidr) -> Option<Cidr> {
        self.0.iter().find(|reserved| reserved.contains_cidr(cidr)).copied()
    }

    /// How many addresses of `cidr` are reserved.
    #[must_use]
    pub fn size_within(&self, cidr: &Cidr) -> u128 {
        let sizes = self.0.iter().filter_map(|reserved| intersection(reserved, cidr)).map(|both| both.size());
        sizes.fold(0, u128::saturating_add)
    }
}

/// What lies in both prefixes: the narrower of them, or nothing.
pub(super) fn intersection(a: &Cidr, b: &Cidr) -> Option<Cidr> {
    if a.contains_cidr(b) { Some(*b) } else { b.contains_cidr(a).then_some(*a) }
}

/// What automatic assignment may take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Addresses that it leaves alone.
    pub reserved: Reserved,
    /// The only range that it may take from; `None` is no limit.
    pub within: Option<Cidr>,
}

impl Allowed {
    /// Whether one address may be taken.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.within.is_none_or(|within| within.contains(ip)) && !self.reserved.contains(ip)
    }

    /// Whether any address of a block may be taken, were all of them free.
    #[must_use]
    pub fn allows_some_of(&self, block: &Cidr) -> bool {
        let range = match self.within {
            Some(within) => intersection(&within, block),
            None => Some(*block),
        };
        range.is_some_and(|range| self.reserved.size_within(&range) < range.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn overlapping_reservations_count_once() {
        let reserved = Reserved::new([
            cidr("10.0.0.4/32"),
            cidr("10.0.0.0/29"),
            cidr("10.0.0.0/30"),
            cidr("10.0.1.0/24"),
        ]);
        assert_eq!(reserved.size_within(&cidr("10.0.0.0/24")), 8);
        assert_eq!(reserved.size_within(&cidr("10.0.0.4/31")), 2);
        assert_eq!(reserved.size_within(&cidr("fd00::/64")), 0);
        assert_eq!(reserved.covering(&cidr("10.0.1.64/26")), Some(cidr("10.0.1.0/24")));
        assert_eq!(reserved.covering(&cidr("10.0.0.0/24")), None);
    }

    #[test]
    fn malformed_reservations_are_skipped() {
        let texts = ["10.0.0.1", " 10.0.0.8/30 ", "nonsense", "10.0.1.9/24"].map(str::to_owned).to_vec();
        let spec = IpReservationSpec { reserved_cidrs: Some(texts), ..IpReservationSpec::default() };
        let reserved = Reserved::of([&spec]);
        assert_eq!(reserved.size_within(&cidr("10.0.0.0/16")), 1 + 4 + 256);
    }

    #[test]
    fn a_block_reserved_in_two_halves_is_wholly_reserved() {
        let reserved = Reserved::new([cidr("10.0.0.0/27"), cidr("10.0.0.32/27")]);
        assert_eq!(reserved.covering(&cidr("10.0.0.0/26")), None);
        let allowed = Allowed { reserved: reserved.clone(), within: None };
        assert!(!allowed.allows_some_of(&cidr("10.0.0.0/26")));
        assert!(allowed.allows_some_of(&cidr("10.0.0.0/25")));
        let allowed = Allowed { reserved, within: Some(cidr("10.0.0.0/28")) };
        assert!(!allowed.allows_some_of(&cidr("10.0.0.0/25")));
        assert!(!allowed.allows_some_of(&cidr("10.0.1.0/26")));
    }
}
