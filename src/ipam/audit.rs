//! What is wrong with addresses: documents in, findings out. `ipam check`, the tests and whoever repairs share it.
//!
//! The questions are those of `calicoctl ipam check` (`calicoctl/calicoctl/commands/ipam/check.go`), which cannot be
//! asked without Kubernetes since v3.30, and some more: claims without block, counts of handles, one address twice. Pure.

use super::block::{Allocation, Block};
use super::facts::{Facts, PoolFact};
use super::time;
use crate::model::{AffinityState, Cidr, HandleId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// Attribute of an address that a network keeps for itself (`--aux-address`): no endpoint ever has it.
pub const NETWORK_ATTRIBUTE: &str = "network";

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FindingKind {
    /// A block that cannot be used, or whose lists do not agree.
    DamagedBlock,
    /// Two hold or use one address.
    DuplicateAddress,
    /// Somebody uses an address of a pool that nobody holds: it can be given away.
    UnallocatedAddress,
    /// An address that no pool has: it is not routed or translated as its user expects.
    OutsidePools,
    /// An address is held and nobody uses it.
    LeakedAddress,
    /// A handle of which no address is held.
    LeakedHandle,
    /// A handle counts other than the blocks.
    HandleCount,
    /// A node's block that the node has no claim on: it does not find it.
    BlockWithoutClaim,
    /// A confirmed claim on a block that does not exist or is another node's.
    ClaimWithoutBlock,
    /// A block of nobody with nobody's addresses.
    UnusedBlock,
    /// A document that cannot be read.
    Unreadable,
    /// An address whose user is on another node than it was assigned to: its route leads there.
    WrongNode,
    /// An address whose handle does not exist. It is released all the same.
    MissingHandle,
    /// A claim that was not finished, or was about to be given up; the next visit does it.
    UnfinishedClaim,
    /// An address that was assigned a moment ago: its endpoint may be about to be made.
    Settling,
    /// Blocks of a node that has no Node resource.
    UnknownNode,
}

impl FindingKind {
    /// Whether somebody has to do something. The others pass by themselves, or do no harm.
    #[must_use]
    pub fn is_problem(self) -> bool {
        !matches!(self, Self::MissingHandle | Self::UnfinishedClaim | Self::Settling | Self::UnknownNode)
    }

    /// What the findings of a kind are called in a summary.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::DamagedBlock => "damaged blocks",
            Self::DuplicateAddress => "addresses that two have",
            Self::UnallocatedAddress => "addresses in use that nobody holds",
            Self::OutsidePools => "addresses outside all pools",
            Self::LeakedAddress => "leaked addresses",
            Self::LeakedHandle => "leaked handles",
            Self::HandleCount => "handles that count wrong",
            Self::BlockWithoutClaim => "blocks without claim",
            Self::ClaimWithoutBlock => "claims without block",
            Self::UnusedBlock => "blocks that nobody owns or uses",
            Self::Unreadable => "documents that cannot be read",
            Self::WrongNode => "addresses that are used on another node",
            Self::MissingHandle => "addresses whose handle is missing",
            Self::UnfinishedClaim => "unfinished claims",
            Self::Settling => "addresses on their way to an endpoint",
            Self::UnknownNode => "unknown nodes",
        }
    }
}

/// How an address is held: whoever releases it later proves with this that it is still the same assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: Cidr,
    /// Its handle.
    pub handle: Option<String>,
    /// [`Allocation::sequence`] of the assignment.
    pub sequence_number: u64,
    /// Its attributes: node, time, container.
    pub attributes: BTreeMap<String, String>,
}

impl Held {
    fn of(allocation: &Allocation) -> Self {
        Self {
            ip: allocation.ip,
            block: allocation.block,
            handle: allocation.handle.clone(),
            sequence_number: allocation.sequence,
            attributes: allocation.attributes.clone(),
        }
    }
}

/// One thing that is wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The address, block, handle, node or key.
    pub subject: String,
    /// A sentence.
    pub text: String,
    /// How the address is held, where it is one that is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Pools.
    pub pools: usize,
    /// Blocks.
    pub blocks: usize,
    /// Addresses that somebody holds.
    pub allocated: usize,
    /// Addresses that somebody uses.
    pub in_use: usize,
    /// Handles.
    pub handles: usize,
    /// Nodes.
    pub nodes: usize,
}

/// The result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// How much was looked at.
    pub counts: Counts,
    /// What was found, problems first.
    pub findings: Vec<Finding>,
}

impl Audit {
    /// Only what somebody has to do something about.
    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.kind.is_problem())
    }
}

/// Looks at everything. An address that was assigned less than `grace` ago is on its way to its endpoint.
#[must_use]
pub fn audit(facts: &Facts, now: SystemTime, grace: Duration) -> Audit {
    let mut auditor = Auditor { facts, now, grace, held: BTreeMap::new(), findings: Vec::new() };
    auditor.documents();
    auditor.blocks();
    auditor.addresses();
    auditor.handles();
    auditor.claims();
    let counts = Counts {
        pools: facts.pools.len(),
        blocks: facts.blocks.len(),
        allocated: auditor.held.len(),
        in_use: facts.users.len(),
        handles: facts.handles.len(),
        nodes: facts.nodes.len(),
    };
    let mut findings = auditor.findings;
    findings.sort_by_key(|finding| finding.kind);
    Audit { counts, findings }
}

struct Auditor<'a> {
    facts: &'a Facts,
    now: SystemTime,
    grace: Duration,
    held: BTreeMap<IpAddr, Allocation>,
    findings: Vec<Finding>,
}

impl<'a> Auditor<'a> {
    fn say(&mut self, kind: FindingKind, subject: impl ToString, text: impl Into<String>) {
        self.findings.push(Finding { kind, subject: subject.to_string(), text: text.into(), held: None });
    }

    fn say_held(&mut self, kind: FindingKind, allocation: &Allocation, text: String) {
        let held = Some(Held::of(allocation));
        self.findings.push(Finding { kind, subject: allocation.ip.to_string(), text, held });
    }

    fn sound_blocks(&self) -> impl Iterator<Item = &'a Block> + use<'a> {
        let facts = self.facts;
        facts.blocks.values().filter_map(|block| block.as_ref().ok())
    }

    fn documents(&mut self) {
        for (key, why) in &self.facts.unreadable {
            self.say(FindingKind::Unreadable, key, format!("{key} cannot be read: {why}"));
        }
    }

    fn blocks(&mut self) {
        for (cidr, block) in &self.facts.blocks {
            match block {
                Err(error) => self.say(FindingKind::DamagedBlock, cidr, error.to_string()),
                Ok(block) => {
                    for why in block.violations(self.now) {
                        self.say(FindingKind::DamagedBlock, cidr, format!("block {cidr}: {why}"));
                    }
                }
            }
        }
        for block in self.sound_blocks() {
            for allocation in block.allocations() {
                let ip = allocation.ip;
                if let Some(other) = self.held.insert(ip, allocation) {
                    let text = format!("{ip} is held in block {} and in block {}", other.block, block.cidr());
                    self.say(FindingKind::DuplicateAddress, ip, text);
                }
            }
            if block.document().affinity.is_none() && block.is_empty() {
                let text = format!("block {} is empty and belongs to nobody", block.cidr());
                self.say(FindingKind::UnusedBlock, block.cidr(), text);
            }
        }
    }

    fn addresses(&mut self) {
        for (ip, users) in &self.facts.users {
            if let [first, second, ..] = users.as_slice() {
                let text = format!("{ip} is used by {} and by {}", first.title, second.title);
                self.say(FindingKind::DuplicateAddress, ip, text);
            }
            let Some(user) = users.first() else { continue };
            match (self.pool_of(*ip), self.held.get(ip).cloned()) {
                (None, None) => {
                    let text = format!("{ip} of {} is in no pool", user.title);
                    self.say(FindingKind::OutsidePools, ip, text);
                }
                (Some(pool), None) if !pool.dockers => {
                    let text = format!("{ip} is used by {} and nobody holds it", user.title);
                    self.say(FindingKind::UnallocatedAddress, ip, text);
                }
                (_, Some(held)) if held.node().is_some_and(|node| node != user.node) => {
                    let node = held.node().unwrap_or_default();
                    let text =
                        format!("{ip} of {} on node {} was assigned to node {node}", user.title, user.node);
                    self.say_held(FindingKind::WrongNode, &held, text);
                }
                (_, _) => {}
            }
        }
        for allocation in self.held.clone().values() {
            self.allocation(allocation);
        }
    }

    fn allocation(&mut self, held: &Allocation) {
        let ip = held.ip;
        if self.pool_of(ip).is_none() {
            let text = format!("{ip} of block {} is held and in no pool", held.block);
            self.say_held(FindingKind::OutsidePools, held, text);
        }
        let handle = held.handle.as_deref().and_then(|text| HandleId::new(text).ok());
        if let Some(id) = handle.filter(|id| !self.facts.handles.contains_key(id)) {
            let text = format!("handle {id} of {ip} does not exist");
            self.say_held(FindingKind::MissingHandle, held, text);
        }
        // Service addresses of Kubernetes have no endpoint; a network's own address never gets one.
        let block = self.facts.blocks.get(&held.block).and_then(|block| block.as_ref().ok());
        let affinity = block.and_then(|block| block.document().affinity.as_deref()).unwrap_or_default();
        let kept = held.attributes.get(NETWORK_ATTRIBUTE).is_some_and(|network| !network.is_empty());
        if self.facts.users.contains_key(&ip) || affinity.starts_with("virtual:") || kept {
            return;
        }
        let whose = match (held.node(), held.handle.as_deref()) {
            (Some(node), Some(handle)) => format!("on node {node} (handle {handle})"),
            (Some(node), None) => format!("on node {node}"),
            (None, Some(handle)) => format!("(handle {handle})"),
            (None, None) => "without node and handle, as the Go plugin did".to_owned(),
        };
        if self.is_settling(held) {
            let text = format!("{ip} was assigned {whose} less than {} s ago", self.grace.as_secs());
            return self.say_held(FindingKind::Settling, held, text);
        }
        self.say_held(FindingKind::LeakedAddress, held, format!("{ip} is held {whose} and nobody uses it"));
    }

    fn is_settling(&self, held: &Allocation) -> bool {
        let since = held.attributes.get("timestamp").and_then(|text| time::parse_go(text));
        since.is_some_and(|since| self.now.duration_since(since).is_ok_and(|age| age < self.grace))
    }

    fn handles(&mut self) {
        let mut counted: BTreeMap<&str, BTreeMap<Cidr, u64>> = BTreeMap::new();
        let held: Vec<Allocation> = self.held.values().cloned().collect();
        for allocation in &held {
            if let Some(handle) = allocation.handle.as_deref() {
                *counted.entry(handle).or_default().entry(allocation.block).or_default() += 1;
            }
        }
        for (id, handle) in &self.facts.handles {
            match counted.get(id.as_str()) {
                None => {
                    let text = format!("handle {id} has no address");
                    self.say(FindingKind::LeakedHandle, id, text);
                }
                Some(blocks) if *blocks != handle.block => {
                    let text = format!("handle {id} counts {}, blocks {}", tell(&handle.block), tell(blocks));
                    self.say(FindingKind::HandleCount, id, text);
                }
                Some(_) => {}
            }
        }
    }

    fn claims(&mut self) {
        for (node, cidr, state) in &self.facts.claims {
            let owner = match self.facts.blocks.get(cidr) {
                Some(Ok(block)) => block.owner(),
                // What a damaged block says is not to be relied on.
                Some(Err(_)) => continue,
                None => None,
            };
            if owner == Some(node.as_str()) && *state == AffinityState::Confirmed {
                continue;
            }
            let whose = match (owner, self.facts.blocks.contains_key(cidr)) {
                (_, false) => "does not exist".to_owned(),
                (Some(owner), true) => format!("belongs to {owner}"),
                (None, true) => "belongs to nobody".to_owned(),
            };
            let text = format!("node {node} claims block {cidr} ({}), which {whose}", word(*state));
            match state {
                AffinityState::Confirmed => self.say(FindingKind::ClaimWithoutBlock, cidr, text),
                _ => self.say(FindingKind::UnfinishedClaim, cidr, text),
            }
        }
        let claimed: BTreeSet<(&str, Cidr)> =
            self.facts.claims.iter().map(|(node, cidr, _)| (node.as_str(), *cidr)).collect();
        let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
        for block in self.sound_blocks() {
            let Some(owner) = block.owner() else { continue };
            if !claimed.contains(&(owner, block.cidr())) {
                let text =
                    format!("block {} belongs to node {owner}, which has no claim on it", block.cidr());
                self.say(FindingKind::BlockWithoutClaim, block.cidr(), text);
            }
            if !self.facts.nodes.contains(owner) {
                *unknown.entry(owner).or_default() += 1;
            }
        }
        for (node, count) in unknown {
            let text =
                format!("node {node} has {count} blocks and no Node resource; `node remove` gives them back");
            self.say(FindingKind::UnknownNode, node, text);
        }
    }

    /// The narrowest pool that has an address.
    fn pool_of(&self, ip: IpAddr) -> Option<&'a PoolFact> {
        let holding = self.facts.pools.iter().filter(|pool| pool.cidr.contains(ip));
        holding.max_by_key(|pool| pool.cidr.prefix_len())
    }
}

fn tell(blocks: &BTreeMap<Cidr, u64>) -> String {
    let parts: Vec<String> = blocks.iter().map(|(cidr, count)| format!("{count} in {cidr}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

fn word(state: AffinityState) -> &'static str {
    match state {
        AffinityState::Confirmed => "confirmed",
        AffinityState::Pending => "pending",
        AffinityState::PendingDeletion => "about to be given up",
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
