//! A cluster for tests: pools, nodes, a clock that stands still, and a check that nothing is wrong with the data.

use crate::double::Double;
use calico_libnetwork::ipam::block::Block;
use calico_libnetwork::ipam::{
    Allocation, AutoAssign, Clock, Expect, Facts, Finding, FindingKind, Ipam, IpamError, Owner, Released,
    audit,
};
use calico_libnetwork::model::{
    AllocationBlock, BlockAffinity, Cidr, HandleId, IpVersion, IpamHandle, NodeName, key,
};
use calico_libnetwork::store::SharedStore;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

pub(crate) struct World {
    pub(crate) store: Arc<Double>,
    time: Arc<Mutex<SystemTime>>,
    handles: AtomicU64,
}

pub(crate) fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn handle(text: &str) -> HandleId {
    HandleId::new(text).unwrap()
}

pub(crate) fn owner(text: &str) -> Owner {
    Owner { handle: handle(text), attributes: BTreeMap::new() }
}

pub(crate) fn wanted(text: &str) -> AutoAssign {
    AutoAssign { version: IpVersion::V4, pool: None, within: None, owner: owner(text) }
}

/// Key of a block.
pub(crate) fn block_key(text: &str) -> String {
    key::block(&cidr(text))
}

/// Key of a node's claim.
pub(crate) fn claim_key(node: &str, text: &str) -> String {
    key::affinity(&NodeName::new(node).unwrap(), &cidr(text))
}

impl World {
    /// Nodes docker-1 and docker-2 (the latter with label rack=r2), and pool `front-end`: 10.10.0.0/24 in /29 blocks.
    pub(crate) fn new() -> Self {
        let world = Self::empty();
        world.node("docker-1", "{}");
        world.node("docker-2", r#"{"rack":"r2"}"#);
        world.pool("front-end", r#"{"cidr":"10.10.0.0/24","blockSize":29}"#);
        world
    }

    pub(crate) fn empty() -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::new(1_795_222_303, 692_339_348);
        Self { store: Double::new(), time: Arc::new(Mutex::new(start)), handles: AtomicU64::new(0) }
    }

    pub(crate) fn node(&self, name: &str, labels: &str) {
        let text =
            format!(r#"{{"kind":"Node","metadata":{{"name":"{name}","labels":{labels}}},"spec":{{}}}}"#);
        self.store.put(&format!("/calico/resources/v3/projectcalico.org/nodes/{name}"), &text);
    }

    pub(crate) fn pool(&self, name: &str, spec: &str) {
        self.resource("ippools", name, spec);
    }

    pub(crate) fn resource(&self, plural: &str, name: &str, spec: &str) {
        let text = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{spec}}}"#);
        self.store.put(&format!("/calico/resources/v3/projectcalico.org/{plural}/{name}"), &text);
    }

    pub(crate) fn config(&self, text: &str) {
        self.store.put(key::IPAM_CONFIG, text);
    }

    pub(crate) fn pass(&self, seconds: u64) {
        *self.time.lock().unwrap() += Duration::from_secs(seconds);
    }

    pub(crate) fn now(&self) -> SystemTime {
        *self.time.lock().unwrap()
    }

    pub(crate) fn ipam(&self, node: &str) -> Ipam {
        self.ipam_over(self.store.clone(), node)
    }

    /// The same with another way to the datastore.
    pub(crate) fn ipam_over(&self, store: SharedStore, node: &str) -> Ipam {
        let time = self.time.clone();
        let clock: Clock = Arc::new(move || *time.lock().unwrap());
        Ipam::with_clock(store, NodeName::new(node).unwrap(), clock)
    }

    /// Assigns any address under a handle of its own.
    pub(crate) async fn auto(&self, ipam: &Ipam) -> Result<IpAddr, IpamError> {
        let number = self.handles.fetch_add(1, Ordering::Relaxed);
        ipam.auto_assign(&wanted(&format!("auto-{number}"))).await
    }

    /// A block's document.
    pub(crate) fn block(&self, text: &str) -> AllocationBlock {
        serde_json::from_value(self.store.json(&block_key(text))).unwrap()
    }

    pub(crate) fn claim(&self, node: &str, text: &str) -> Option<String> {
        self.store.text(&claim_key(node, text))
    }

    /// Every block that exists.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let texts = self.store.keys(key::BLOCK_ROOT).into_iter().filter_map(|key| self.store.text(&key));
        texts.map(|text| Block::open(serde_json::from_str(&text).unwrap()).unwrap()).collect()
    }

    /// What `ipam check` decides, with the same code. There are no endpoints here, so whatever is held is leaked.
    #[track_caller]
    pub(crate) fn audit(&self) {
        let found = audit(&Facts::of(&self.store.listing().entries), self.now(), Duration::ZERO);
        let wrong: Vec<&Finding> =
            found.problems().filter(|finding| finding.kind != FindingKind::LeakedAddress).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// What `calicoctl ipam check` checks: blocks sound, handles and blocks say the same, each block one owner.
    #[track_caller]
    pub(crate) fn check(&self) -> Vec<Allocation> {
        let mut held = Vec::new();
        let mut counted: BTreeMap<String, BTreeMap<Cidr, u64>> = BTreeMap::new();
        for block in self.blocks() {
            assert_eq!(block.violations(self.now()), Vec::<String>::new(), "{}", block.cidr());
            assert!(
                block.document().affinity.is_some() || !block.is_empty(),
                "{} is empty and nobody's",
                block.cidr()
            );
            for allocation in block.allocations() {
                if let Some(handle) = &allocation.handle {
                    *counted.entry(handle.clone()).or_default().entry(block.cidr()).or_default() += 1;
                }
                held.push(allocation);
            }
        }
        let stored: BTreeMap<String, BTreeMap<Cidr, u64>> = self
            .store
            .keys(key::HANDLE_ROOT)
            .into_iter()
            .map(|k| {
                let handle: IpamHandle = serde_json::from_value(self.store.json(&k)).unwrap();
                (k[key::HANDLE_ROOT.len()..].to_owned(), handle.block)
            })
            .collect();
        assert_eq!(stored, counted, "handles and blocks differ");
        self.check_claims();
        held
    }

    /// A confirmed claim has a block, and the block is the claimant's.
    #[track_caller]
    fn check_claims(&self) {
        for (node, cidr, claim) in self.claims() {
            if claim.state == calico_libnetwork::model::AffinityState::Confirmed {
                assert_eq!(self.block(&cidr.to_string()).owner(), Some(node.as_str()), "claim on {cidr}");
            }
        }
    }

    pub(crate) fn claims(&self) -> Vec<(NodeName, Cidr, BlockAffinity)> {
        let keys = self.store.keys("/calico/ipam/v2/host/").into_iter();
        keys.filter_map(|k| {
            let (node, cidr) = key::parse_affinity(&k)?;
            Some((node, cidr, BlockAffinity::decode(self.store.text(&k)?.as_bytes()).unwrap()))
        })
        .collect()
    }
}

/// Releases an address that must be held.
pub(crate) async fn free(ipam: &Ipam, ip: IpAddr) {
    let released = ipam.release(ip, &Expect::default()).await.unwrap();
    assert!(matches!(released, Released::Freed(_)), "{ip} was not held");
}
