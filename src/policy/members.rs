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

/// Counted members. Shown are those that no other member covers.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    counts: BTreeMap<Element, u32>,
    /// How many prefixes have which length: few lengths are in use, so a covering prefix is found by asking each.
    lengths: BTreeMap<(IpVersion, u8), usize>,
    /// Shown (true) or no longer shown (false) since the last [`Members::take_changes`]; `None` before the first.
    changes: Option<BTreeMap<Element, bool>>,
}

impl Members {
    /// One more source for each of some members, one less for each of others; both sorted.
    pub(super) fn apply(&mut self, add: &[Element], remove: &[Element]) {
        /// Below this, and as long as they are few beside what is there, members go in and out one by one.
        const FEW: usize = 1_000;
        let much = add.len() + remove.len();
        if much > FEW && much > self.counts.len() / 8 {
            return self.apply_at_once(add, remove);
        }
        for element in add {
            self.add(*element);
        }
        for element in remove {
            self.remove(*element);
        }
    }

    /// Looks at every member once instead of searching for each that moves.
    fn apply_at_once(&mut self, add: &[Element], remove: &[Element]) {
        let before = self.changes.is_some().then(|| self.shown());
        let mut new = BTreeMap::new();
        for element in add {
            match self.counts.get_mut(element) {
                Some(count) => *count += 1,
                None => {
                    new.insert(*element, 1);
                }
            }
        }
        self.counts.append(&mut new);
        self.counts.retain(|element, count| {
            *count = count.saturating_sub(u32::from(remove.binary_search(element).is_ok()));
            *count > 0
        });
        self.lengths.clear();
        for element in self.counts.keys() {
            if let Element::Net(net) = element {
                *self.lengths.entry((net.version(), net.prefix_len())).or_default() += 1;
            }
        }
        let Some(before) = before else { return };
        let after = self.shown();
        for element in before.iter().filter(|element| after.binary_search(element).is_err()) {
            self.note(*element, false);
        }
        for element in after.iter().filter(|element| before.binary_search(element).is_err()) {
            self.note(*element, true);
        }
    }

    /// One more source for a member.
    pub(super) fn add(&mut self, element: Element) {
        if let Some(count) = self.counts.get_mut(&element) {
            *count += 1;
            return;
        }
        if let Element::Net(net) = element {
            if !self.is_covered(&net) {
                for inner in self.widest_within(&net) {
                    self.note(inner, false);
                }
                self.note(element, true);
            }
            *self.lengths.entry((net.version(), net.prefix_len())).or_default() += 1;
        } else {
            self.note(element, true);
        }
        self.counts.insert(element, 1);
    }

    /// One source less for a member.
    pub(super) fn remove(&mut self, element: Element) {
        let Some(count) = self.counts.get_mut(&element) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.counts.remove(&element);
        let Element::Net(net) = element else { return self.note(element, false) };
        let length = (net.version(), net.prefix_len());
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
        if !self.is_covered(&net) {
            self.note(element, false);
            for uncovered in self.widest_within(&net) {
                self.note(uncovered, true);
            }
        }
    }

    /// Whether a prefix of the set holds the address.
    pub(super) fn holds_address(&self, address: IpAddr) -> bool {
        let host = Cidr::host(address);
        self.counts.contains_key(&Element::Net(host)) || self.is_covered(&host)
    }

    /// Whether the set has this port.
    pub(super) fn holds_port(&self, port: PortMember) -> bool {
        self.counts.contains_key(&Element::Port(port))
    }

    /// Everything that is shown, sorted.
    pub(super) fn shown(&self) -> Vec<Element> {
        widest(self.counts.keys().copied())
    }

    /// What came and what went since the last call, each sorted.
    pub(super) fn take_changes(&mut self) -> (Vec<Element>, Vec<Element>) {
        let Some(changes) = self.changes.replace(BTreeMap::new()) else { return (self.shown(), Vec::new()) };
        let (come, gone): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, come)| *come);
        let strip = |list: Vec<(Element, bool)>| list.into_iter().map(|(element, _)| element).collect();
        (strip(come), strip(gone))
    }

    fn note(&mut self, element: Element, come: bool) {
        let Some(changes) = &mut self.changes else { return };
        if changes.remove(&element).is_none() {
            changes.insert(element, come);
        }
    }

    /// Whether a wider prefix of the set holds all of `net`.
    fn is_covered(&self, net: &Cidr) -> bool {
        let wider = self.lengths.range((net.version(), 0)..(net.version(), net.prefix_len()));
        wider
            .map(|((_, len), _)| Element::Net(Cidr::masking(net.base(), *len)))
            .any(|it| self.counts.contains_key(&it))
    }

    /// The members within `net` that no other member within it holds.
    fn widest_within(&self, net: &Cidr) -> Vec<Element> {
        widest(self.counts.range(bounds(net)).map(|(element, _)| *element))
    }
}

/// Those of sorted members that no other of them holds. A prefix sorts before all that it holds.
fn widest(sorted: impl Iterator<Item = Element>) -> Vec<Element> {
    let mut widest: Vec<Element> = Vec::new();
    for element in sorted {
        let covered = match (widest.last(), element) {
            (Some(Element::Net(outer)), Element::Net(inner)) => outer.contains_cidr(&inner),
            _ => false,
        };
        if !covered {
            widest.push(element);
        }
    }
    widest
}

/// Everything that begins within `net`. A wider prefix with the same first address sorts before `net` itself.
fn bounds(net: &Cidr) -> std::ops::RangeInclusive<Element> {
    Element::Net(*net)..=Element::Net(Cidr::host(net.last()))
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
        assert_eq!(members.take_changes(), (vec![], vec![]));
        members.add(net("10.0.0.0/24"));
        members.remove(net("10.0.0.0/24"));
        assert_eq!(members.take_changes(), (vec![], vec![]));
    }

    #[test]
    fn many_members_at_once_are_the_same_as_one_by_one() {
        let host = |bits| Element::Net(Cidr::host(IpAddr::V4(Ipv4Addr::from_bits(bits))));
        let many: Vec<Element> = (0x0a00_0000..0x0a00_1000).map(host).collect();
        let wide = [net("10.0.0.0/24"), net("10.0.1.0/25")];
        let steps: [(&[Element], &[Element]); 5] =
            [(&wide, &[]), (&many, &[]), (&[], &wide[..1]), (&many[..2000], &wide[1..]), (&[], &many)];
        let (mut at_once, mut one_by_one) = (Members::default(), Members::default());
        at_once.take_changes();
        one_by_one.take_changes();
        for (add, remove) in steps {
            at_once.apply_at_once(add, remove);
            add.iter().for_each(|element| one_by_one.add(*element));
            remove.iter().for_each(|element| one_by_one.remove(*element));
            assert_eq!(at_once.take_changes(), one_by_one.take_changes());
            assert_eq!((&at_once.counts, &at_once.lengths), (&one_by_one.counts, &one_by_one.lengths));
        }
        assert_eq!(at_once.counts.len(), 2000);
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
                    prop_assert!(kernel.iter().copied().eq(members.shown()));
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
