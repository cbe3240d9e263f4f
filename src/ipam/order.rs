//! In which order a pool's blocks are tried. Pure.
//!
//! Each host starts elsewhere, so that hosts seldom race for one block; from there the blocks follow one another, with
//! wrap-around (`libcalico-go/lib/ipam/ipam_block_reader_writer.go`; only the start differs from Calico's, which is a
//! heuristic there too).

use super::reserved::intersection;
use crate::model::{Cidr, NodeName};
use std::net::IpAddr;

/// The blocks of a pool, or of the part of it that overlaps a range, each once.
#[derive(Debug, Clone)]
pub(super) struct BlockOrder {
    pool: Cidr,
    block_len: u8,
    /// Inclusive ordinals of blocks still to come, the next stretch last.
    upcoming: Vec<(u128, u128)>,
    /// Ordinal of the block that came last.
    current: Option<u128>,
}

impl BlockOrder {
    /// The blocks in `node`'s order; none where the range does not meet the pool.
    pub(super) fn new(pool: Cidr, block_len: u8, within: Option<Cidr>, node: &NodeName) -> Self {
        let mut order = Self { pool, block_len, upcoming: Vec::new(), current: None };
        let range = within.map_or(Some(pool), |within| intersection(&pool, &within));
        let ends = range.and_then(|range| Some((order.index(range.base())?, order.index(range.last())?)));
        if let Some((first, last)) = ends {
            let start = first + u128::from(spread(node)) % (last - first).saturating_add(1);
            if start > first {
                order.upcoming.push((first, start - 1));
            }
            order.upcoming.push((start, last));
        }
        order
    }

    /// Where in this order a block stands; smaller is earlier. `None` if it is not one of them.
    pub(super) fn rank(&self, block: &Cidr) -> Option<u128> {
        let index = self.index(block.base()).filter(|_| block.prefix_len() == self.block_len)?;
        let mut before = 0;
        for (first, last) in self.upcoming.iter().rev() {
            if (*first..=*last).contains(&index) {
                return Some(before + (index - first));
            }
            before += (last - first).saturating_add(1);
        }
        None
    }

    /// Passes over the blocks up to and with the one that holds `ip`, in the stretch that is being walked.
    pub(super) fn pass(&mut self, ip: IpAddr) {
        let (Some(index), Some(current)) = (self.index(ip), self.current) else { return };
        match self.upcoming.last_mut() {
            // The next stretch begins elsewhere: the one that was walked is at its end.
            Some((first, _)) if current.checked_add(1) != Some(*first) => {}
            Some((first, last)) if index < *last => *first = index.saturating_add(1).max(*first),
            Some(_) => drop(self.upcoming.pop()),
            None => {}
        }
    }

    fn shift(&self) -> u32 {
        u32::from(self.pool.version().bits() - self.block_len)
    }

    fn index(&self, ip: IpAddr) -> Option<u128> {
        self.pool.ordinal(ip).map(|ordinal| ordinal.checked_shr(self.shift()).unwrap_or(0))
    }
}

impl Iterator for BlockOrder {
    type Item = Cidr;

    fn next(&mut self) -> Option<Cidr> {
        let (first, last) = self.upcoming.pop()?;
        self.current = Some(first);
        if first < last {
            self.upcoming.push((first + 1, last));
        }
        let base = self.pool.nth(first.checked_shl(self.shift())?)?;
        Some(Cidr::masking(base, self.block_len))
    }
}

/// A number that spreads nodes: FNV-1a of the name, then mixed, since names often differ in the last letter only.
fn spread(node: &NodeName) -> u64 {
    let hash = node
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    #[test]
    fn every_block_comes_once_and_in_sequence_with_wrap_around() {
        for name in ["docker-1", "docker-2", "host-a", "localhost"] {
            let order = BlockOrder::new(cidr("10.10.0.0/24"), 29, None, &node(name));
            let blocks: Vec<Cidr> = order.clone().collect();
            assert_eq!(blocks.len(), 32);
            assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), 32);
            let wraps = blocks.windows(2).filter(|pair| pair[1] < pair[0]).count();
            assert!(wraps <= 1);
            for (place, block) in blocks.iter().enumerate() {
                assert_eq!(order.rank(block), Some(place as u128));
            }
            assert_eq!(order.rank(&cidr("10.10.0.0/28")), None);
            assert_eq!(order.rank(&cidr("10.11.0.0/29")), None);
        }
    }

    #[test]
    fn hosts_start_in_different_places() {
        let start =
            |n: u32| BlockOrder::new(cidr("192.168.0.0/16"), 26, None, &node(&format!("docker-{n}"))).next();
        let starts: BTreeSet<_> = (0..50).filter_map(start).collect();
        assert!(starts.len() > 40, "{} different starts of 50", starts.len());
    }

    #[test]
    fn a_range_confines_the_order() {
        let within = |range| -> Vec<Cidr> {
            let mut all: Vec<_> =
                BlockOrder::new(cidr("10.10.0.0/24"), 29, Some(cidr(range)), &node("a")).collect();
            all.sort();
            all
        };
        assert_eq!(within("10.10.0.16/28"), [cidr("10.10.0.16/29"), cidr("10.10.0.24/29")]);
        assert_eq!(within("10.10.0.18/31"), [cidr("10.10.0.16/29")]);
        assert_eq!(within("10.0.0.0/8").len(), 32);
        assert!(within("10.11.0.0/24").is_empty());
    }

    #[test]
    fn the_widest_pools_are_walked_without_overflow() {
        let mut order = BlockOrder::new(cidr("::/0"), 128, None, &node("a"));
        assert!(order.next().is_some() && order.next().is_some());
        let order = BlockOrder::new(cidr("10.0.0.1/32"), 32, None, &node("a"));
        assert_eq!(order.collect::<Vec<_>>(), [cidr("10.0.0.1/32")]);
    }

    #[test]
    fn passing_the_end_of_one_stretch_keeps_the_other() {
        for name in ["docker-1", "docker-2", "host-a", "localhost", "node1", "a", "b"] {
            let mut order = BlockOrder::new(cidr("10.10.0.0/24"), 26, None, &node(name));
            let mut seen = BTreeSet::new();
            while let Some(block) = order.next() {
                seen.insert(block);
                order.pass(block.last());
            }
            assert_eq!(seen.len(), 4, "{name}");
        }
    }

    #[test]
    fn a_wide_reservation_is_passed_in_one_step() {
        let mut order = BlockOrder::new(cidr("fd00::/48"), 122, Some(cidr("fd00::/64")), &node("a"));
        let first = order.next().unwrap();
        order.pass(cidr("fd00::/64").last());
        let wrapped: Vec<_> = order.by_ref().take(2).collect();
        assert_eq!(wrapped[0], cidr("fd00::/122"));
        assert!(wrapped[1] < first);
        order.pass(cidr("fd00::/64").last());
        assert_eq!(order.next(), None);
    }
}
