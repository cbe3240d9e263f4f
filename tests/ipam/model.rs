//! Random operations of several nodes, with races, outages and lost answers, against a set of who holds what.
//!
//! After each round: no address has two owners, none is held that nobody asked for (or was told about), none that was
//! given out is lost, and all blocks, claims and handles agree: every invariant of `ipam check`, by its own code. The seeds are
//! fixed, so a failure repeats.

use crate::double::Fault;
use crate::lagging::Lagging;
use crate::world::{World, cidr, handle, owner, wanted};
use calico_libnetwork::ipam::{AutoAssign, Expect, Ipam, IpamError, Released, Shortage};
use calico_libnetwork::model::{Cidr, key};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Who holds what: address to handle.
type Held = BTreeMap<IpAddr, String>;

/// Trials of sixty rounds each.
const SEEDS: u64 = 100;

const NODES: [&str; 3] = ["docker-1", "docker-2", "docker-3"];
const POOLS: [(&str, &str); 3] = [
    ("a", r#"{"cidr":"10.1.0.0/28","blockSize":30}"#),
    ("b", r#"{"cidr":"10.2.0.0/29","blockSize":31}"#),
    ("c", r#"{"cidr":"10.3.0.0/29","blockSize":32,"nodeSelector":"has(big)"}"#),
];
const RANGES: [&str; 5] = ["10.1.0.0/28", "10.1.0.4/31", "10.1.0.8/29", "10.2.0.0/30", "10.3.0.0/30"];
const CONFIGS: [&str; 6] = [
    r#"{"auto_allocate_blocks":true}"#,
    r#"{"auto_allocate_blocks":true,"strict_affinity":true}"#,
    r#"{"auto_allocate_blocks":true,"strict_affinity":true,"maxBlocksPerHost":2}"#,
    r#"{"auto_allocate_blocks":true,"ipCooldownSeconds":30}"#,
    r#"{"auto_allocate_blocks":true,"maxBlocksPerHost":3}"#,
    "{}",
];

/// xorshift64*: repeats itself for a seed, and needs no crate.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

#[derive(Debug, Clone)]
enum Act {
    Auto(AutoAssign),
    Assign(IpAddr, String),
    Release(IpAddr, String),
    ReleaseHandle(String),
    GiveUp(Cidr, bool),
    Leave,
    Vacate(Cidr),
}

/// What the caller was told.
#[derive(Debug)]
enum Told {
    Got(IpAddr, String),
    Freed(Vec<IpAddr>),
    Nothing,
    Failed(IpamError),
}

async fn perform(ipam: &Ipam, act: Act) -> Told {
    match act {
        Act::Auto(request) => match ipam.auto_assign(&request).await {
            Ok(ip) => Told::Got(ip, request.owner.handle.to_string()),
            Err(error) => Told::Failed(error),
        },
        Act::Assign(ip, name) => match ipam.assign(ip, None, &owner(&name)).await {
            Ok(()) => Told::Got(ip, name),
            Err(error) => Told::Failed(error),
        },
        Act::Release(ip, name) => {
            match ipam.release(ip, &Expect { handle: Some(handle(&name)), ..Expect::default() }).await {
                Ok(Released::Freed(_)) => Told::Freed(vec![ip]),
                Ok(Released::NotAllocated) => Told::Nothing,
                Err(error) => Told::Failed(error),
            }
        }
        Act::ReleaseHandle(name) => match ipam.release_by_handle(&handle(&name)).await {
            Ok(ips) => Told::Freed(ips),
            Err(error) => Told::Failed(error),
        },
        Act::GiveUp(block, require_empty) => done(ipam.release_affinity(block, require_empty).await),
        Act::Leave => done(ipam.release_node().await),
        Act::Vacate(pool) => done(ipam.release_pool(&pool).await),
    }
}

fn done<T>(result: Result<T, IpamError>) -> Told {
    result.map_or_else(Told::Failed, |_| Told::Nothing)
}

struct Trial {
    world: World,
    ipams: Vec<Ipam>,
    dice: Dice,
    held: Held,
    names: usize,
    /// The nodes' caches, where they have any.
    caches: Vec<Arc<Lagging>>,
    /// What was reached, over all rounds.
    seen: BTreeMap<&'static str, u32>,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let world = World::empty();
        NODES
            .iter()
            .for_each(|node| world.node(node, if *node == "docker-3" { r#"{"big":""}"# } else { "{}" }));
        POOLS.iter().for_each(|(name, spec)| world.pool(name, spec));
        let ipams = NODES.iter().map(|node| world.ipam(node)).collect();
        let dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        Self { world, ipams, dice, held: Held::new(), names: 0, caches: Vec::new(), seen: BTreeMap::new() }
    }

    /// The same, each node with a cache that lags behind.
    fn lagging(seed: u64) -> Self {
        let mut trial = Self::new(seed);
        let caches =
            NODES.iter().zip(1..).map(|(_, n)| Lagging::new(trial.world.store.clone(), seed * 8 + n));
        trial.caches = caches.collect();
        let over = |(cache, node): (&Arc<Lagging>, &&str)| trial.world.ipam_over(cache.clone(), node);
        trial.ipams = trial.caches.iter().zip(&NODES).map(over).collect();
        trial
    }

    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("h{}", self.names)
    }

    fn any_ip(&mut self) -> IpAddr {
        let range = cidr(self.dice.pick::<&str>(&RANGES));
        range.nth(self.dice.roll(usize::try_from(range.size()).unwrap()) as u128).unwrap()
    }

    /// An act; no two of a round release the same address.
    fn act(&mut self, taken: &mut BTreeSet<IpAddr>) -> Act {
        let held: Vec<(IpAddr, String)> = self
            .held
            .iter()
            .filter(|(ip, _)| !taken.contains(*ip))
            .map(|(ip, name)| (*ip, name.clone()))
            .collect();
        match self.dice.roll(20) {
            0..=5 => Act::Auto(wanted(&self.name())),
            6..=7 => {
                let range = cidr(self.dice.pick::<&str>(&RANGES));
                let pool = (self.dice.roll(2) == 0).then(|| cidr("10.1.0.0/28"));
                Act::Auto(AutoAssign { within: Some(range), pool, ..wanted(&self.name()) })
            }
            8..=9 => Act::Assign(self.any_ip(), self.name()),
            10..=14 if !held.is_empty() => {
                let (ip, name) = self.dice.pick(&held).clone();
                taken.insert(ip);
                if self.dice.roll(3) == 0 { Act::ReleaseHandle(name) } else { Act::Release(ip, name) }
            }
            15 => Act::Release(self.any_ip(), "nobody".to_owned()),
            16..=17 => {
                let blocks: Vec<Cidr> = self.world.blocks().iter().map(|block| block.cidr()).collect();
                match blocks.as_slice() {
                    [] => Act::Leave,
                    some => Act::GiveUp(*self.dice.pick(some), self.dice.roll(2) == 0),
                }
            }
            18 => Act::Leave,
            19 => Act::Vacate(cidr(self.dice.pick::<&str>(&["10.1.0.0/28", "10.2.0.0/29", "10.3.0.0/29"]))),
            _ => Act::Auto(wanted(&self.name())),
        }
    }

    fn faults(&mut self) -> Vec<Fault> {
        if self.dice.roll(3) > 0 {
            return Vec::new();
        }
        let kinds = [Fault::None, Fault::None, Fault::Conflict, Fault::Down, Fault::AnswerLost];
        (0..self.dice.roll(6)).map(|_| *self.dice.pick(&kinds)).collect()
    }

    /// Time passes, operators turn knobs.
    fn surroundings(&mut self) {
        match self.dice.roll(12) {
            0 => self.world.pass(20),
            1 => self.world.pass(90),
            2 => self.world.config(CONFIGS[self.dice.roll(CONFIGS.len())]),
            3 => self.world.store.remove(key::IPAM_CONFIG),
            4 => self.world.resource("ipreservations", "r", r#"{"reservedCIDRs":["10.1.0.0/30"]}"#),
            5 => self.world.store.remove("/calico/resources/v3/projectcalico.org/ipreservations/r"),
            _ => {}
        }
    }

    async fn round(&mut self) {
        self.surroundings();
        let mut taken = BTreeSet::new();
        let count = if self.dice.roll(2) == 0 { 1 } else { 2 + self.dice.roll(3) };
        let acts: Vec<(usize, Act)> =
            (0..count).map(|_| (self.dice.roll(NODES.len()), self.act(&mut taken))).collect();
        let faults = self.faults();
        let may_be_lost = faults.contains(&Fault::AnswerLost);
        // Who reads old data may find a pool full that is not any more.
        let alone = acts.len() == 1 && faults.is_empty() && self.caches.is_empty();
        self.world.store.befall(faults);
        let told = join_all(acts.iter().map(|(node, act)| perform(&self.ipams[*node], act.clone()))).await;
        self.world.store.befall([]);
        self.world.audit();
        let stored: Held =
            self.world.check().into_iter().map(|held| (held.ip, held.handle.unwrap_or_default())).collect();
        let mut expected = self.held.clone();
        let mut got = Held::new();
        for (told, (_, act)) in told.iter().zip(&acts) {
            match told {
                Told::Got(ip, name) => {
                    self.note("got");
                    assert_eq!(got.insert(*ip, name.clone()), None, "{ip} was given out twice");
                }
                Told::Freed(ips) => {
                    self.note("freed");
                    ips.iter().for_each(|ip| drop(expected.remove(ip)));
                }
                Told::Nothing => {}
                Told::Failed(error) => {
                    self.note("failed");
                    if may_be_lost {
                        adopt(act, &stored, &mut expected, &mut got);
                    }
                    if alone {
                        self.full_means_full(error).await;
                    }
                }
            }
        }
        for (ip, name) in got {
            assert_eq!(expected.insert(ip, name), None, "{ip} was given out while somebody held it");
        }
        assert_eq!(stored, expected, "acts {acts:?}, told {told:?}");
        self.held = expected;
    }

    /// "No free address" is said only if there is none.
    async fn full_means_full(&mut self, error: &IpamError) {
        if let IpamError::Exhausted { places, why: Shortage::Full, damaged } = error {
            assert!(damaged.is_empty());
            assert!(places.iter().all(|place| place.usage.free() == 0), "{error}");
            self.note("full");
        }
    }
}

/// An act whose answer was lost may have been done: what the store says is what happened.
fn adopt(act: &Act, stored: &Held, expected: &mut Held, got: &mut Held) {
    match act {
        Act::Auto(AutoAssign { owner, .. }) => {
            got.extend(
                stored
                    .iter()
                    .filter(|(_, name)| *name == owner.handle.as_str())
                    .map(|(ip, n)| (*ip, n.clone())),
            );
        }
        Act::Assign(_, name) => {
            got.extend(stored.iter().filter(|(_, held)| *held == name).map(|(ip, n)| (*ip, n.clone())));
        }
        Act::Release(_, name) | Act::ReleaseHandle(name) => {
            expected.retain(|ip, held| held != name || stored.get(ip) == Some(held));
        }
        Act::GiveUp(..) | Act::Leave | Act::Vacate(_) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_no_address_is_given_twice_and_none_is_lost() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut trial = Trial::new(seed);
        for _ in 0..60 {
            trial.round().await;
        }
        for ipam in &trial.ipams {
            ipam.drain().await;
        }
        for (what, count) in trial.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    assert!(["got", "freed", "failed", "full"].iter().all(|what| seen.get(what) > Some(&20)), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn stale_caches_give_no_address_twice_and_lose_none() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let mut stale = 0;
    for seed in 0..SEEDS / 5 {
        let mut trial = Trial::lagging(seed);
        for _ in 0..60 {
            trial.round().await;
        }
        for ipam in &trial.ipams {
            ipam.drain().await;
        }
        stale += trial.caches.iter().map(|cache| cache.stale.load(Ordering::Relaxed)).sum::<u64>();
        for (what, count) in trial.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    assert!(["got", "freed", "failed"].iter().all(|what| seen.get(what) > Some(&20)), "{seen:?}");
    assert!(stale > 200, "old data was acted upon and refused {stale} times");
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_any_two_writes_is_healed_by_whoever_comes_next() {
    // Every operation is cut off after each of its writes; afterwards the pool can be emptied and filled as if
    // nothing had happened.
    for cut in 0..6 {
        let trial = Trial::new(cut);
        trial.world.config(r#"{"auto_allocate_blocks":true,"maxBlocksPerHost":4}"#);
        for operation in 0..4 {
            let faults = std::iter::repeat_n(Fault::None, usize::try_from(cut).unwrap());
            trial.world.store.befall(faults.chain([Fault::Down; 200]));
            let act = match operation {
                0 => Act::Auto(wanted("crashed")),
                1 => Act::GiveUp(
                    trial.world.blocks().first().map_or_else(|| cidr("10.1.0.0/30"), |block| block.cidr()),
                    false,
                ),
                2 => Act::Leave,
                _ => Act::Vacate(cidr("10.1.0.0/28")),
            };
            let _ = perform(&trial.ipams[0], act).await;
            trial.world.store.befall([]);
            trial.world.check();
            trial.world.audit();
            trial.ipams[0].auto_assign(&wanted(&format!("after-{operation}"))).await.unwrap();
            trial.world.check();
        }
        for held in trial.world.check() {
            trial.ipams[1].release(held.ip, &Expect::default()).await.unwrap();
        }
        for pool in ["10.1.0.0/28", "10.2.0.0/29"] {
            assert!(trial.ipams[0].release_pool(&cidr(pool)).await.unwrap().is_empty());
        }
        assert!(trial.world.blocks().is_empty() && trial.world.claims().is_empty(), "cut {cut}");
        assert!(trial.world.store.keys(key::HANDLE_ROOT).is_empty());
    }
}
