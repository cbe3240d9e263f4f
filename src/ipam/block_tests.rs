//! Tests of the block algebra.

use super::super::reserved::Reserved;
use super::*;
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_222_303 + seconds)
}

fn owner(handle: &str) -> AllocationAttribute {
    AllocationAttribute {
        handle_id: Some(handle.to_owned()),
        secondary: Some(BTreeMap::from([("node".to_owned(), "docker-1".to_owned())])),
        ..AllocationAttribute::default()
    }
}

fn block(text: &str) -> Block {
    Block::new(cidr(text), &NodeName::new("docker-1").unwrap(), at(0)).unwrap()
}

const NO_COOLDOWN: Duration = Duration::ZERO;

#[test]
fn a_new_block_is_empty_and_its_nodes() {
    let new = block("10.10.0.128/29");
    assert!(new.is_empty() && new.is_owned_by(&NodeName::new("docker-1").unwrap()));
    assert_eq!(new.sequence(), 1_795_222_303_000_000_000);
    assert_eq!(new.document().affinity_claim_time.as_deref(), Some("2026-11-21T00:51:43Z"));
    assert!(new.has_free(&Allowed::default()) && new.violations(at(0)).is_empty());
    assert_eq!(block("10.10.0.1/32").document().unallocated, [0]);
}

#[test]
fn sizes_that_calico_does_not_know_are_refused() {
    for text in ["10.0.0.0/19", "fd00::/115", "0.0.0.0/0", "::/0"] {
        let error = Block::new(cidr(text), &NodeName::new("a").unwrap(), at(0)).unwrap_err();
        assert!(error.to_string().starts_with(&format!("block {text} is damaged")), "{error}");
    }
    assert_eq!(block("10.0.0.0/20").document().allocations.len(), 4096);
}

#[test]
fn equal_owners_share_an_attribute() {
    let mut shared = block("10.10.0.128/29");
    for _ in 0..3 {
        shared.take_next(&owner("a"), &Allowed::default());
    }
    shared.take_next(&owner("b"), &Allowed::default());
    assert_eq!(shared.document().allocations[..5], [Some(0), Some(0), Some(0), Some(1), None]);
    shared.release(&[ip("10.10.0.128"), ip("10.10.0.129"), ip("10.10.0.130")], at(1), NO_COOLDOWN);
    assert_eq!(shared.document().allocations[..4], [None, None, None, Some(0)]);
    assert_eq!(shared.document().unallocated, [4, 5, 6, 7, 0, 1, 2]);
    assert_eq!(shared.document().attributes, [owner("b")]);
}

#[test]
fn passed_over_addresses_keep_their_place() {
    let mut block = block("10.10.0.128/29");
    let reserved = Reserved::new([cidr("10.10.0.128/31")]);
    let allowed = Allowed { reserved, within: Some(cidr("10.10.0.128/30")) };
    assert_eq!(block.take_next(&owner("a"), &allowed), Some(ip("10.10.0.130")));
    assert_eq!(block.take_next(&owner("b"), &allowed), Some(ip("10.10.0.131")));
    assert_eq!(block.take_next(&owner("c"), &allowed), None);
    assert!(!block.has_free(&allowed));
    assert_eq!(block.document().unallocated, [0, 1, 4, 5, 6, 7]);
}

#[test]
fn a_specific_address_is_taken_from_the_middle_and_only_once() {
    let mut block = block("10.10.0.128/29");
    block.take(ip("10.10.0.133"), &owner("a")).unwrap();
    assert_eq!(block.document().unallocated, [0, 1, 2, 3, 4, 6, 7]);
    let Err(Some(Standing::Held(held))) = block.take(ip("10.10.0.133"), &owner("b")) else { panic!() };
    assert_eq!((held.handle.as_deref(), held.node()), (Some("a"), Some("docker-1")));
    assert_eq!(block.take(ip("10.10.0.127"), &owner("b")), Err(None));
    assert_eq!(block.take(ip("fd00::1"), &owner("b")), Err(None));
}

#[test]
fn an_ordinal_that_an_untidy_writer_lost_is_free_and_reported() {
    let mut doc = block("10.10.0.128/30").document().clone();
    doc.unallocated = vec![0, 1];
    doc.attributes = vec![owner("x")];
    let mut untidy = Block::open(doc).unwrap();
    assert_eq!(
        untidy.violations(at(0)),
        [
            "attribute 0 belongs to no address",
            "ordinal 2 is neither allocated nor unallocated",
            "ordinal 3 is neither allocated nor unallocated"
        ]
    );
    untidy.take(ip("10.10.0.130"), &owner("a")).unwrap();
    assert!(matches!(untidy.standing(ip("10.10.0.130")), Some(Standing::Held(_))));
}

#[test]
fn a_release_time_in_the_future_or_unreadable_is_not_for_ever() {
    let cooldown = Duration::from_secs(60);
    let mut cooling = block("10.10.0.128/30");
    cooling.take(ip("10.10.0.128"), &owner("a")).unwrap();
    cooling.release(&[ip("10.10.0.128")], at(100), cooldown);
    assert_eq!(cooling.standing(ip("10.10.0.128")), Some(Standing::Cooling));
    assert!(!cooling.is_empty());
    assert_eq!(cooling.violations(at(0)), ["attribute 0 was released in the future"]);
    cooling.collect(at(159), cooldown);
    assert!(!cooling.is_empty());
    cooling.collect(at(160), cooldown);
    assert!(cooling.is_empty());
    let mut doc = block("10.10.0.128/30").document().clone();
    doc.allocations[0] = Some(0);
    doc.unallocated = vec![1, 2, 3];
    doc.attributes =
        vec![AllocationAttribute { released_at: Some("soon".to_owned()), ..AllocationAttribute::default() }];
    let mut unreadable = Block::open(doc).unwrap();
    unreadable.collect(at(0), cooldown);
    assert!(unreadable.is_empty());
}

#[test]
fn a_handle_ends_at_a_carriage_return() {
    let mut block = block("10.10.0.128/30");
    block.take(ip("10.10.0.128"), &owner("a\rb")).unwrap();
    assert_eq!(block.allocations().next().unwrap().handle.as_deref(), Some("a"));
}

#[test]
fn a_claim_time_tells_the_age() {
    let age = Duration::from_secs(60);
    let mut old = block("10.10.0.128/30").document().clone();
    assert!(!block("10.10.0.128/30").was_claimed_before(at(59), age));
    assert!(block("10.10.0.128/30").was_claimed_before(at(60), age));
    old.affinity_claim_time = Some("once".to_owned());
    assert!(!Block::open(old.clone()).unwrap().was_claimed_before(at(1000), age));
    old.affinity_claim_time = None;
    assert!(Block::open(old).unwrap().was_claimed_before(at(0), age));
}

#[test]
fn sequence_numbers_do_not_overflow() {
    let mut doc = block("10.10.0.128/30").document().clone();
    doc.sequence_number = u64::MAX;
    assert_eq!(Block::open(doc).unwrap().next_version().sequence(), 0);
}

/// What one step of a block's life is.
#[derive(Debug, Clone)]
enum Step {
    Next,
    Take(u8),
    Release(u8),
    Pass(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Next),
        (0..20u8).prop_map(Step::Take),
        (0..20u8).prop_map(Step::Release),
        (0..40u8).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn a_block_agrees_with_a_set_through_its_life(
        steps in prop::collection::vec(any_step(), 0..80),
        seconds in prop_oneof![Just(0u64), Just(30u64)],
    ) {
        let cooldown = Duration::from_secs(seconds);
        let mut block = block("10.10.0.128/28");
        let mut held: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut now = at(0);
        for (number, step) in steps.into_iter().enumerate() {
            let name = format!("h{}", number % 5);
            block.collect(now, cooldown);
            match step {
                Step::Next => match block.take_next(&owner(&name), &Allowed::default()) {
                    Some(ip) => prop_assert_eq!(held.insert(ip, name), None),
                    None => prop_assert_eq!(block.taken().count(), 16),
                },
                Step::Take(ordinal) => {
                    let ip = cidr("10.10.0.128/27").nth(u128::from(ordinal)).unwrap();
                    match block.take(ip, &owner(&name)) {
                        Ok(()) => prop_assert_eq!(held.insert(ip, name), None),
                        Err(None) => prop_assert!(ordinal >= 16),
                        Err(Some(Standing::Held(other))) => prop_assert_eq!(other.handle.as_ref(), held.get(&ip)),
                        Err(Some(standing)) => prop_assert_eq!(standing, Standing::Cooling),
                    }
                }
                Step::Release(ordinal) => {
                    let ip = cidr("10.10.0.128/27").nth(u128::from(ordinal)).unwrap();
                    block.release(&[ip, ip], now, cooldown);
                    held.remove(&ip);
                }
                Step::Pass(seconds) => now += Duration::from_secs(u64::from(seconds)),
            }
            block = Block::open(block.next_version().document().clone()).unwrap();
            prop_assert_eq!(block.violations(now), Vec::<String>::new());
            let stored: BTreeMap<_, _> = block.allocations().map(|a| (a.ip, a.handle.unwrap_or_default())).collect();
            prop_assert_eq!(&stored, &held);
            prop_assert!(!cooldown.is_zero() || block.taken().count() == held.len());
        }
    }
}
