//! The members of one set: counted, and for prefixes without overlaps, as nf_tables' interval sets demand
//! (dataplane 5.3). What changed since it was last asked is kept as a difference.

use crate::model::{Cidr, IpVersion};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A member of a named-port set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMember {
    /// The endpoint's address.
    pub address: IpAddr,
    /// IP protocol number: 6, 17 or 132.
    pub protocol: u8,
    /// Port number.
    pub port: u16,
}

/// A member of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// Of a set of prefixes.
    Net(Cidr),
    /// Of a set of named ports.
    Port(PortMember),
}

impl Element {
    /// Whether it belongs into the IPv4 or the IPv6 half of its set.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        match self {
            Self::Net(net) => net.version(),
            Self::Port(port) => IpVersion::of(port.address),
        }
    }
}

/// Counted members, those of them that are shown, and what changed about these.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    counts: BTreeMap<Element, u32>,
    shown: BTreeSet<Element>,
    /// Shown (true) or no longer shown (false) since the last [`Members::take_changes`].
    changes: BTreeMap<Element, bool>,
}

impl Members {
    /// One more source for a member.
    pub(super) fn add(&mut self, element: Element) {
        let count = self.counts.entry(element).or_default();
        *count += 1;
        if *count > 1 {
            return;
        }
        if let Element::Net(net) = element {
            if self.shown_over(&net).is_some() {
                return;
            }
            for inner in self.shown_within(&net) {
                self.hide(inner);
            }
        }
        self.show(element);
    }

    /// One source less for a member.
    pub(super) fn remove(&mut self, element: Element) {
        let Some(count) = self.counts.get_mut(&element) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.counts.remove(&element);
        if !self.shown.contains(&element) {
            return;
        }
        self.hide(element);
        if let Element::Net(net) = element {
            for uncovered in self.widest_within(&net) {
                self.show(uncovered);
            }
        }
    }

    /// Whether a prefix of the set holds the address.
    pub(super) fn holds_address(&self, address: IpAddr) -> bool {
        self.shown_over(&Cidr::host(address)).is_some()
    }

    /// Whether the set has this port.
    pub(super) fn holds_port(&self, port: PortMember) -> bool {
        self.shown.contains(&Element::Port(port))
    }

    /// Everything that is shown.
    pub(super) fn shown(&self) -> &BTreeSet<Element> {
        &self.shown
    }

    /// What came and what went since the last call.
    pub(super) fn take_changes(&mut self) -> (Vec<Element>, Vec<Element>) {
        let (come, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.changes).into_iter().partition(|(_, come)| *come);
        let strip = |list: Vec<(Element, bool)>| list.into_iter().map(|(element, _)| element).collect();
        (strip(come), strip(gone))
    }

    fn show(&mut self, element: Element) {
        self.shown.insert(element);
        if self.changes.remove(&element).is_none() {
            self.changes.insert(element, true);
        }
    }

    fn hide(&mut self, element: Element) {
        self.shown.remove(&element);
        if self.changes.remove(&element).is_none() {
            self.changes.insert(element, false);
        }
    }

    /// The shown prefix that holds all of `net`. Shown prefixes are disjoint and sorted by their first address, so it
    /// is the last one that does not begin after `net`.
    fn shown_over(&self, net: &Cidr) -> Option<Element> {
        let up_to = Element::Net(Cidr::host(net.base()));
        let before = self.shown.range(..=up_to).next_back().copied()?;
        matches!(before, Element::Net(outer) if outer.contains_cidr(net)).then_some(before)
    }

    fn shown_within(&self, net: &Cidr) -> Vec<Element> {
        self.shown.range(bounds(net)).copied().filter(|element| is_within(element, net)).collect()
    }

    /// The members within `net` that no other member within it holds. A prefix sorts before all that it holds.
    fn widest_within(&self, net: &Cidr) -> Vec<Element> {
        let mut widest: Vec<Element> = Vec::new();
        for (element, _) in self.counts.range(bounds(net)) {
            let Element::Net(inner) = element else { continue };
            let covered = matches!(widest.last(), Some(Element::Net(outer)) if outer.contains_cidr(inner));
            if !covered && net.contains_cidr(inner) {
                widest.push(*element);
            }
        }
        widest
    }
}

/// Everything that begins within `net`. A wider prefix with the same first address sorts before `net` itself.
fn bounds(net: &Cidr) -> std::ops::RangeInclusive<Element> {
    Element::Net(*net)..=Element::Net(Cidr::host(net.last()))
}

fn is_within(element: &Element, net: &Cidr) -> bool {
    matches!(element, Element::Net(inner) if net.contains_cidr(inner))
}

/// The prefixes of a list that no other of it holds, sorted.
pub(super) fn without_overlaps(nets: impl IntoIterator<Item = Cidr>) -> Vec<Cidr> {
    let sorted: BTreeSet<Cidr> = nets.into_iter().collect();
    let mut widest: Vec<Cidr> = Vec::new();
    for net in sorted {
        if !widest.last().is_some_and(|outer| outer.contains_cidr(&net)) {
            widest.push(net);
        }
    }
    widest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn net(text: &str) -> Element {
        Element::Net(text.parse().unwrap())
    }

    fn nets(texts: &[&str]) -> Vec<Element> {
        texts.iter().map(|text| net(text)).collect()
    }

    #[test]
    fn a_wider_prefix_hides_what_it_holds_and_uncovers_it_when_it_goes() {
        let mut members = Members::default();
        for text in ["10.0.1.0/24", "10.0.1.7/32", "10.0.2.0/24", "fd00::1/128"] {
            members.add(net(text));
        }
        assert_eq!(members.take_changes().0, nets(&["10.0.1.0/24", "10.0.2.0/24", "fd00::1/128"]));
        members.add(net("0.0.0.0/0"));
        assert_eq!(members.take_changes(), (nets(&["0.0.0.0/0"]), nets(&["10.0.1.0/24", "10.0.2.0/24"])));
        members.remove(net("10.0.1.0/24"));
        members.remove(net("0.0.0.0/0"));
        assert_eq!(members.take_changes(), (nets(&["10.0.1.7/32", "10.0.2.0/24"]), nets(&["0.0.0.0/0"])));
    }

    #[test]
    fn a_member_stays_while_any_source_has_it() {
        let mut members = Members::default();
        members.add(net("10.0.0.1/32"));
        members.add(net("10.0.0.1/32"));
        members.remove(net("10.0.0.1/32"));
        assert_eq!(members.take_changes(), (nets(&["10.0.0.1/32"]), vec![]));
        members.remove(net("10.0.0.1/32"));
        members.remove(net("10.0.0.1/32"));
        assert_eq!(members.take_changes(), (vec![], nets(&["10.0.0.1/32"])));
    }

    #[test]
    fn what_comes_and_goes_between_two_looks_is_no_change() {
        let mut members = Members::default();
        members.add(net("10.0.0.0/24"));
        members.remove(net("10.0.0.0/24"));
        assert_eq!(members.take_changes(), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn shown_prefixes_cover_the_same_addresses_and_never_overlap(
            steps in prop::collection::vec((any::<bool>(), 0..64_u32, 24..=32_u8), 1..80),
        ) {
            let mut members = Members::default();
            let mut sources: Vec<Cidr> = Vec::new();
            let mut kernel: BTreeSet<Element> = BTreeSet::new();
            for (place, (add, low, len)) in steps.into_iter().enumerate() {
                let cidr = Cidr::masking(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | low)), len);
                if add {
                    members.add(Element::Net(cidr));
                    sources.push(cidr);
                } else if let Some(at) = sources.iter().position(|source| *source == cidr) {
                    members.remove(Element::Net(cidr));
                    sources.swap_remove(at);
                }
                if place % 3 == 0 {
                    let (come, gone) = members.take_changes();
                    for element in gone {
                        prop_assert!(kernel.remove(&element));
                    }
                    for element in come {
                        prop_assert!(kernel.insert(element));
                    }
                    prop_assert_eq!(&kernel, members.shown());
                    let expected: BTreeSet<Element> =
                        without_overlaps(sources.iter().copied()).into_iter().map(Element::Net).collect();
                    prop_assert_eq!(&kernel, &expected);
                }
                for low in 0..80_u32 {
                    let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | low));
                    prop_assert_eq!(members.holds_address(address), sources.iter().any(|s| s.contains(address)));
                }
            }
        }
    }
}
