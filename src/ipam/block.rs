//! What can be done with one allocation block, and nothing else: no store, no clock
//! (`libcalico-go/lib/ipam/ipam_block.go`).
//!
//! [`Block::open`] takes a block as it was read and refuses one that is damaged; everything after that can rely on
//! lengths, indices and ordinals being in range. [`Block::next_version`] is what is written back.

use super::reserved::Allowed;
use super::time;
use crate::model::{AllocationAttribute, AllocationBlock, Cidr, IpVersion, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// A block that cannot be used as it stands in the datastore.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("block {cidr} is damaged: {why}")]
pub struct BlockError {
    /// The block.
    pub cidr: Cidr,
    /// What is wrong with it.
    pub why: String,
}

/// One address that somebody holds, and what is known about its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The address.
    pub ip: IpAddr,
    /// The block that it belongs to.
    pub block: Cidr,
    /// The owner's handle. The Go plugin wrote none.
    pub handle: Option<String>,
    /// The owner's attributes: `node`, `timestamp`, and what the owner added. Empty for the Go plugin's.
    pub attributes: BTreeMap<String, String>,
    /// The block's sequence number before the change that allocated it; 0 where an old Calico left it out.
    pub sequence: u64,
}

impl Allocation {
    /// The node that the address was allocated to, if that is known.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.attributes.get("node").map(String::as_str)
    }
}

/// How one address of a block stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody holds it.
    Free,
    /// Somebody holds it.
    Held(Allocation),
    /// It was released and is kept back for a while (`ipCooldownSeconds`).
    Cooling,
}

/// A sound block.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    doc: AllocationBlock,
}

/// The prefix lengths that a block can have: /20 to /32, /116 to /128 (`api/pkg/apis/projectcalico/v3/ippool.go`).
#[must_use]
pub fn is_block_size(version: IpVersion, len: u8) -> bool {
    (version.bits() - 12..=version.bits()).contains(&len)
}

fn damaged(cidr: Cidr, why: impl Into<String>) -> BlockError {
    BlockError { cidr, why: why.into() }
}

impl Block {
    /// A block nobody has an address of, claimed by `node` now.
    pub fn new(cidr: Cidr, node: &NodeName, now: SystemTime) -> Result<Self, BlockError> {
        let size = size_of(cidr)?;
        Ok(Self {
            doc: AllocationBlock {
                cidr,
                affinity: Some(AllocationBlock::affinity_of(node)),
                affinity_claim_time: Some(time::rfc3339(now)),
                allocations: vec![None; size],
                unallocated: (0..size).collect(),
                attributes: Vec::new(),
                sequence_number: time::unix_nanos(now),
                sequence_number_for_allocation: BTreeMap::new(),
                deleted: false,
                extra: serde_json::Map::new(),
            },
        })
    }

    /// Takes a block as it was read. Damage that could give one address to two owners, or end in nonsense, is an
    /// error; what is merely untidy is left to [`Block::violations`].
    pub fn open(doc: AllocationBlock) -> Result<Self, BlockError> {
        let size = size_of(doc.cidr)?;
        let fail = |why: String| Err(damaged(doc.cidr, why));
        if doc.allocations.len() != size {
            return fail(format!("it has {} allocations and should have {size}", doc.allocations.len()));
        }
        for (ordinal, index) in doc.allocations.iter().enumerate() {
            if let Some(index) = index.filter(|index| *index >= doc.attributes.len()) {
                return fail(format!(
                    "ordinal {ordinal} points at attribute {index} of {}",
                    doc.attributes.len()
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for ordinal in &doc.unallocated {
            match doc.allocations.get(*ordinal) {
                None => return fail(format!("unallocated ordinal {ordinal} is beyond its {size} addresses")),
                Some(Some(_)) => return fail(format!("ordinal {ordinal} is both allocated and unallocated")),
                Some(None) if !seen.insert(*ordinal) => {
                    return fail(format!("ordinal {ordinal} is unallocated twice"));
                }
                Some(None) => {}
            }
        }
        Ok(Self { doc })
    }

    /// The block's prefix.
    #[must_use]
    pub fn cidr(&self) -> Cidr {
        self.doc.cidr
    }

    /// The document, as it was read or as it was changed since.
    #[must_use]
    pub fn document(&self) -> &AllocationBlock {
        &self.doc
    }

    /// The node that the block belongs to, if it belongs to a node.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.doc.owner()
    }

    /// Whether the block belongs to this node.
    #[must_use]
    pub fn is_owned_by(&self, node: &NodeName) -> bool {
        self.owner() == Some(node.as_str())
    }

    /// The block's sequence number: another one means that the block was changed in between.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.doc.sequence_number
    }

    /// Whether no address is held or cooling down.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.doc.allocations.iter().all(Option::is_none)
    }

    /// Whether the claim on the block is at least `age` old. A block without a claim time is very old (it was
    /// written before Calico v3.32); one whose time cannot be read counts as new.
    #[must_use]
    pub fn was_claimed_before(&self, now: SystemTime, age: Duration) -> bool {
        let Some(text) = &self.doc.affinity_claim_time else { return true };
        time::parse(text).and_then(|at| now.duration_since(at).ok()).is_some_and(|since| since >= age)
    }

    /// How one address stands; `None` if it is not of this block.
    #[must_use]
    pub fn standing(&self, ip: IpAddr) -> Option<Standing> {
        let ordinal = self.ordinal(ip)?;
        Some(match self.doc.allocations.get(ordinal)? {
            None => Standing::Free,
            Some(index) => self.standing_of(ordinal, *index)?,
        })
    }

    fn standing_of(&self, ordinal: usize, index: usize) -> Option<Standing> {
        let attribute = self.doc.attributes.get(index)?;
        if attribute.released_at.is_some() {
            return Some(Standing::Cooling);
        }
        let sequence = self.doc.sequence_number_for_allocation.get(&ordinal.to_string());
        Some(Standing::Held(Allocation {
            ip: self.address(ordinal)?,
            block: self.doc.cidr,
            handle: attribute.handle_id.as_deref().map(|id| first_line(id).to_owned()),
            attributes: attribute.secondary.clone().unwrap_or_default(),
            sequence: sequence.copied().unwrap_or(0),
        }))
    }

    /// Every held address, in order. Cooling ones are not held.
    pub fn allocations(&self) -> impl Iterator<Item = Allocation> + '_ {
        let held =
            self.doc.allocations.iter().enumerate().filter_map(|(ordinal, index)| Some((ordinal, (*index)?)));
        held.filter_map(|(ordinal, index)| match self.standing_of(ordinal, index)? {
            Standing::Held(allocation) => Some(allocation),
            Standing::Free | Standing::Cooling => None,
        })
    }

    /// Every address that is held or cooling down.
    pub fn taken(&self) -> impl Iterator<Item = (IpAddr, Standing)> + '_ {
        let taken =
            self.doc.allocations.iter().enumerate().filter_map(|(ordinal, index)| Some((ordinal, (*index)?)));
        taken.filter_map(|(ordinal, index)| Some((self.address(ordinal)?, self.standing_of(ordinal, index)?)))
    }

    /// Whether automatic assignment finds an address here.
    #[must_use]
    pub fn has_free(&self, allowed: &Allowed) -> bool {
        self.doc.unallocated.iter().filter_map(|ordinal| self.address(*ordinal)).any(|ip| allowed.allows(ip))
    }

    /// Allocates the first allowed address in hand-out order; those that are passed over keep their place.
    pub fn take_next(&mut self, owner: &AllocationAttribute, allowed: &Allowed) -> Option<IpAddr> {
        let found = self.doc.unallocated.iter().enumerate().find_map(|(place, ordinal)| {
            let ip = self.address(*ordinal).filter(|ip| allowed.allows(*ip))?;
            Some((place, *ordinal, ip))
        });
        let (place, ordinal, ip) = found?;
        self.doc.unallocated.remove(place);
        self.give(ordinal, owner);
        Some(ip)
    }

    /// Allocates this very address, or tells how it stands if it is not free (`None`: it is not of this block).
    pub fn take(&mut self, ip: IpAddr, owner: &AllocationAttribute) -> Result<(), Option<Standing>> {
        let place = self
            .ordinal(ip)
            .and_then(|ordinal| self.doc.unallocated.iter().position(|free| *free == ordinal));
        match (place, self.standing(ip)) {
            (Some(place), _) => {
                let ordinal = self.doc.unallocated.remove(place);
                self.give(ordinal, owner);
                Ok(())
            }
            // An ordinal that stands in neither list is free all the same: the damage heals when it is taken.
            (None, Some(Standing::Free)) => {
                self.ordinal(ip).into_iter().for_each(|ordinal| self.give(ordinal, owner));
                Ok(())
            }
            (None, standing) => Err(standing),
        }
    }

    /// Gives an address that somebody holds to another owner.
    pub fn hand_over(&mut self, ip: IpAddr, owner: &AllocationAttribute) {
        self.ordinal(ip).into_iter().for_each(|ordinal| self.give(ordinal, owner));
        self.compact();
    }

    /// Adds an attribute to a held address; false if it has it already, or nobody holds it.
    pub fn annotate(&mut self, ip: IpAddr, name: &str, value: &str) -> bool {
        let Some(ordinal) = self.ordinal(ip) else { return false };
        let index = self.doc.allocations.get(ordinal).copied().flatten();
        let owner = index.and_then(|index| self.doc.attributes.get(index)).cloned();
        let Some(mut owner) = owner.filter(|owner| owner.released_at.is_none()) else { return false };
        let attributes = owner.secondary.get_or_insert_default();
        if attributes.insert(name.to_owned(), value.to_owned()).as_deref() == Some(value) {
            return false;
        }
        self.point(ordinal, &owner);
        self.compact();
        true
    }

    /// Releases held addresses: they begin to cool down and are freed at once where `cooldown` is zero. Addresses
    /// that nobody holds are left as they are. A cooling address keeps the sequence number of its assignment, as
    /// Calico's client was seen to leave it.
    pub fn release(&mut self, ips: &[IpAddr], now: SystemTime, cooldown: Duration) {
        let released =
            AllocationAttribute { released_at: Some(time::rfc3339(now)), ..AllocationAttribute::default() };
        for ip in ips {
            if matches!(self.standing(*ip), Some(Standing::Held(_)))
                && let Some(ordinal) = self.ordinal(*ip)
            {
                self.point(ordinal, &released);
            }
        }
        self.collect(now, cooldown);
    }

    /// Frees what has cooled down: such ordinals go to the end of the hand-out order, in ascending order, and
    /// attributes that nothing points at are dropped.
    pub fn collect(&mut self, now: SystemTime, cooldown: Duration) {
        let cooled: Vec<usize> =
            (0..self.doc.allocations.len()).filter(|o| self.has_cooled(*o, now, cooldown)).collect();
        for ordinal in cooled {
            if let Some(slot) = self.doc.allocations.get_mut(ordinal) {
                *slot = None;
            }
            self.doc.unallocated.push(ordinal);
            self.doc.sequence_number_for_allocation.remove(&ordinal.to_string());
        }
        self.compact();
    }

    fn has_cooled(&self, ordinal: usize, now: SystemTime, cooldown: Duration) -> bool {
        let index = self.doc.allocations.get(ordinal).copied().flatten();
        let attribute = index.and_then(|index| self.doc.attributes.get(index));
        let Some(released) = attribute.and_then(|attribute| attribute.released_at.as_deref()) else {
            return false;
        };
        // A time that cannot be read must not keep the address for ever.
        cooldown.is_zero()
            || time::parse(released).is_none_or(|at| at.checked_add(cooldown).is_some_and(|end| end <= now))
    }

    /// Gives the block up: its addresses stay, its owner goes.
    pub fn disown(&mut self) {
        self.doc.affinity = None;
        self.doc.affinity_claim_time = None;
    }

    /// The block as it is to be written: as changed, with the next sequence number.
    #[must_use]
    pub fn next_version(&self) -> Self {
        let mut next = self.clone();
        next.doc.sequence_number = next.doc.sequence_number.wrapping_add(1);
        next
    }

    fn ordinal(&self, ip: IpAddr) -> Option<usize> {
        self.doc.cidr.ordinal(ip).and_then(|ordinal| usize::try_from(ordinal).ok())
    }

    fn address(&self, ordinal: usize) -> Option<IpAddr> {
        self.doc.cidr.nth(u128::try_from(ordinal).ok()?)
    }

    /// Gives an ordinal to an owner.
    fn give(&mut self, ordinal: usize, owner: &AllocationAttribute) {
        self.point(ordinal, owner);
        self.doc.sequence_number_for_allocation.insert(ordinal.to_string(), self.doc.sequence_number);
    }

    /// Points an ordinal at an attribute, sharing an equal one that is there already.
    fn point(&mut self, ordinal: usize, owner: &AllocationAttribute) {
        let shared = self.doc.attributes.iter().position(|attribute| attribute == owner);
        let index = shared.unwrap_or_else(|| {
            self.doc.attributes.push(owner.clone());
            self.doc.attributes.len() - 1
        });
        if let Some(slot) = self.doc.allocations.get_mut(ordinal) {
            *slot = Some(index);
        }
    }

    /// Drops attributes that nothing points at; the others keep their order.
    fn compact(&mut self) {
        let used: BTreeSet<usize> = self.doc.allocations.iter().flatten().copied().collect();
        let moved: BTreeMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        for slot in &mut self.doc.allocations {
            *slot = slot.and_then(|old| moved.get(&old).copied());
        }
        let mut index = 0;
        self.doc.attributes.retain(|_| {
            index += 1;
            used.contains(&(index - 1))
        });
    }

    /// Everything that `calicoctl ipam check` would find wrong with the block, as sentences; see also
    /// [`Block::open`], which refuses the worst of it.
    #[must_use]
    pub fn violations(&self, now: SystemTime) -> Vec<String> {
        let mut found = Vec::new();
        let used: BTreeSet<usize> = self.doc.allocations.iter().flatten().copied().collect();
        for (index, attribute) in self.doc.attributes.iter().enumerate() {
            if !used.contains(&index) {
                found.push(format!("attribute {index} belongs to no address"));
            }
            if attribute.released_at.as_deref().and_then(time::parse).is_some_and(|at| at > now) {
                found.push(format!("attribute {index} was released in the future"));
            }
        }
        for (ordinal, index) in self.doc.allocations.iter().enumerate() {
            if index.is_none() && !self.doc.unallocated.contains(&ordinal) {
                found.push(format!("ordinal {ordinal} is neither allocated nor unallocated"));
            }
        }
        found
    }
}

fn size_of(cidr: Cidr) -> Result<usize, BlockError> {
    if !is_block_size(cidr.version(), cidr.prefix_len()) {
        return Err(damaged(cidr, format!("a block cannot have the prefix length {}", cidr.prefix_len())));
    }
    usize::try_from(cidr.size()).map_err(|_| damaged(cidr, "it is too large"))
}

/// A handle ends at the first carriage return (`libcalico-go/lib/ipam/ipam_block.go`).
pub(super) fn first_line(handle: &str) -> &str {
    handle.split('\r').next().unwrap_or(handle)
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
