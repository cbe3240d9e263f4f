//! The statements of the conformance checklist that concern IPAM (numbers in parentheses), each as a test.

use crate::double::Fault;
use crate::world::{World, block_key, cidr, claim_key, free, handle, ip, owner, wanted};
use calico_libnetwork::ipam::{AffinityReleased, AutoAssign, Expect, IpamError, Released, Shortage};
use calico_libnetwork::model::{HandleId, IpVersion, NodeName, key};
use serde_json::{Value, json};
use std::net::IpAddr;

const CONFIRMED: &str = r#"{"state":"confirmed","deleted":false}"#;
const PENDING: &str = r#"{"state":"pending","deleted":false}"#;

/// The block in which an address of the test pools stands.
fn block_of(ip: IpAddr, len: u8) -> String {
    calico_libnetwork::model::Cidr::masking(ip, len).to_string()
}

/// A block's JSON with nobody in it.
fn fresh(cidr: &str, affinity: &str, size: usize) -> Value {
    json!({
        "cidr": cidr, "affinity": affinity, "allocations": vec![Value::Null; size],
        "unallocated": (0..size).collect::<Vec<_>>(), "attributes": [], "sequenceNumber": 7,
        "sequenceNumberForAllocation": {}, "deleted": false
    })
}

/// A block's JSON with every address held by one handle-less owner on `node`.
fn full(cidr: &str, affinity: &Value, size: usize, node: &str) -> Value {
    json!({
        "cidr": cidr, "affinity": affinity, "allocations": vec![0; size], "unallocated": [],
        "attributes": [{"secondary": {"node": node}}], "sequenceNumber": 7,
        "sequenceNumberForAllocation": {}, "deleted": false
    })
}

/// One pool of two /31 blocks: .0-.1 and .2-.3.
fn tiny() -> World {
    let world = World::empty();
    world.node("docker-1", "{}");
    world.node("docker-2", "{}");
    world.pool("tiny", r#"{"cidr":"10.20.0.0/30","blockSize":31}"#);
    world
}

async fn fill(world: &World, node: &str, count: usize) -> Vec<IpAddr> {
    let ipam = world.ipam(node);
    let mut ips = Vec::new();
    for _ in 0..count {
        ips.push(world.auto(&ipam).await.unwrap());
    }
    ips
}

#[tokio::test]
async fn a_first_allocation_writes_block_claim_and_handle_as_calico_does() {
    // (2, 3, 7, 8)
    let world = World::new();
    let first = world.ipam("docker-1").auto_assign(&wanted("libnetwork.docker-1.h1")).await.unwrap();
    let block = block_of(first, 29);
    let json = world.store.json(&block_key(&block));
    let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    for field in [
        "cidr",
        "affinity",
        "affinity_claim_time",
        "allocations",
        "unallocated",
        "attributes",
        "sequenceNumber",
        "sequenceNumberForAllocation",
        "deleted",
    ] {
        assert!(fields.contains(&field), "{field} is missing");
    }
    assert_eq!(json["allocations"], json!([0, null, null, null, null, null, null, null]));
    assert_eq!(json["unallocated"], json!([1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(json["affinity"], "host:docker-1");
    assert_eq!(json["attributes"][0]["handle_id"], "libnetwork.docker-1.h1");
    assert_eq!(json["attributes"][0]["secondary"]["node"], "docker-1");
    assert_eq!(json["attributes"][0]["secondary"]["timestamp"], "2026-11-21 00:51:43.692339348 +0000 UTC");
    let sequence = json["sequenceNumber"].as_u64().unwrap();
    assert_eq!(sequence, json["sequenceNumberForAllocation"]["0"].as_u64().unwrap() + 1);
    assert!(sequence > 1 << 53);
    assert_eq!(world.claim("docker-1", &block).unwrap(), CONFIRMED);
    let written = world.store.text("/calico/ipam/v2/handle/libnetwork.docker-1.h1").unwrap();
    assert_eq!(written, format!(r#"{{"block":{{"{block}":1}},"deleted":false}}"#));
    free(&world.ipam("docker-1"), first).await;
    assert_eq!(world.store.text("/calico/ipam/v2/handle/libnetwork.docker-1.h1"), None);
    world.check();
}

#[tokio::test]
async fn the_second_address_costs_one_write() {
    let world = World::new();
    let ipam = world.ipam("docker-1");
    world.auto(&ipam).await.unwrap();
    world.store.take_log();
    let second = world.auto(&ipam).await.unwrap();
    assert_eq!(world.store.take_log().len(), 1);
    free(&ipam, second).await;
    assert_eq!(world.store.take_log().len(), 1);
}

#[tokio::test]
async fn sequence_numbers_beyond_2_to_the_53_and_unknown_fields_survive_a_rewrite() {
    // (4, 5)
    let world = World::new();
    let text = r#"{"cidr":"10.10.0.8/29","affinity":"host:docker-1","allocations":[0,null,null,null,null,null,null,null],"unallocated":[1,2,3,4,5,6,7],"attributes":[{"handle_id":"x","alternateOwnerAttrs":{"a":"b"},"secondary":{"node":"docker-1"}}],"sequenceNumber":18446744073709551000,"sequenceNumberForAllocation":{"0":18446744073709550999},"deleted":false,"futureField":{"deep":[1,{"x":null}]}}"#;
    world.store.put(&block_key("10.10.0.8/29"), text);
    world.store.put(&claim_key("docker-1", "10.10.0.8/29"), CONFIRMED);
    assert_eq!(world.auto(&world.ipam("docker-1")).await.unwrap(), ip("10.10.0.9"));
    let json = world.store.json(&block_key("10.10.0.8/29"));
    assert_eq!(json["sequenceNumber"], json!(18_446_744_073_709_551_001_u64));
    assert_eq!(json["sequenceNumberForAllocation"]["0"], json!(18_446_744_073_709_550_999_u64));
    let text = world.store.text(&block_key("10.10.0.8/29")).unwrap();
    assert!(text.contains(r#""futureField":{"deep":[1,{"x":null}]}"#));
    assert!(text.contains(r#""alternateOwnerAttrs":{"a":"b"}"#));
}

#[tokio::test]
async fn a_block_of_an_old_calico_can_be_allocated_from() {
    // (6)
    let nulls = r#"{"cidr":"10.10.0.8/29","affinity":"host:docker-1","strictAffinity":false,"allocations":[null,null,null,null,null,null,null,null],"unallocated":[0,1,2,3,4,5,6,7],"attributes":null,"sequenceNumberForAllocation":null}"#;
    let lacking = r#"{"cidr":"10.10.0.8/29","affinity":"host:docker-1","allocations":[null,null,null,null,null,null,null,null],"unallocated":[0,1,2,3,4,5,6,7]}"#;
    for text in [nulls, lacking] {
        let world = World::new();
        world.store.put(&block_key("10.10.0.8/29"), text);
        world.store.put(&claim_key("docker-1", "10.10.0.8/29"), CONFIRMED);
        assert_eq!(world.auto(&world.ipam("docker-1")).await.unwrap(), ip("10.10.0.8"));
        let block = world.block("10.10.0.8/29");
        assert_eq!((block.sequence_number, block.sequence_number_for_allocation["0"]), (1, 0));
        world.check();
    }
}

#[tokio::test]
async fn a_released_address_goes_to_the_end_of_the_hand_out_order() {
    // (12)
    let world = World::new();
    let ipam = world.ipam("docker-1");
    let ips = fill(&world, "docker-1", 3).await;
    free(&ipam, ips[0]).await;
    let block = block_of(ips[0], 29);
    assert_eq!(world.block(&block).unallocated, [3, 4, 5, 6, 7, 0]);
    let next = world.auto(&ipam).await.unwrap();
    assert_eq!(cidr(&block).ordinal(next), Some(3));
}

#[tokio::test]
async fn without_a_node_resource_nothing_is_assigned_and_nothing_written() {
    // (13)
    let world = World::new();
    let before = world.store.revision();
    let error = world.auto(&world.ipam("docker-9")).await.unwrap_err();
    assert_eq!(error.to_string(), "node docker-9 is not registered in the datastore yet");
    assert_eq!(world.store.revision(), before);
}

#[tokio::test]
async fn a_disabled_pool_is_not_used_in_any_way() {
    // (14)
    let world = World::new();
    world.pool("front-end", r#"{"cidr":"10.10.0.0/24","blockSize":29,"disabled":true}"#);
    let ipam = world.ipam("docker-1");
    assert_eq!(world.auto(&ipam).await.unwrap_err().to_string(), "this cluster has no enabled IPv4 pool");
    let error = ipam.assign(ip("10.10.0.5"), None, &owner("h")).await.unwrap_err();
    assert_eq!(error.to_string(), "no enabled pool of this cluster contains 10.10.0.5; pools: none");
    assert!(world.blocks().is_empty());
}

#[tokio::test]
async fn a_node_selector_or_manual_mode_keeps_a_pool_for_those_who_ask_for_it() {
    // (15, 16)
    for spec in [
        r#"{"cidr":"10.10.0.0/24","blockSize":29,"nodeSelector":"rack == 'r2'"}"#,
        r#"{"cidr":"10.10.0.0/24","blockSize":29,"assignmentMode":"Manual"}"#,
    ] {
        let world = World::new();
        world.pool("front-end", spec);
        let ipam = world.ipam("docker-1");
        assert!(matches!(world.auto(&ipam).await, Err(IpamError::NoPoolForNode { .. })));
        let asked = AutoAssign { pool: Some(cidr("10.10.0.0/24")), ..wanted("asked") };
        assert!(cidr("10.10.0.0/24").contains(ipam.auto_assign(&asked).await.unwrap()));
    }
    let world = World::new();
    world.pool("front-end", r#"{"cidr":"10.10.0.0/24","blockSize":29,"nodeSelector":"rack == 'r2'"}"#);
    assert!(world.auto(&world.ipam("docker-2")).await.is_ok());
}

#[tokio::test]
async fn a_tunnel_pool_is_refused_to_workloads_even_when_asked_for() {
    // (17)
    let world = World::new();
    world.pool("front-end", r#"{"cidr":"10.10.0.0/24","allowedUses":["Tunnel"]}"#);
    let ipam = world.ipam("docker-1");
    let asked = AutoAssign { pool: Some(cidr("10.10.0.0/24")), ..wanted("asked") };
    for error in [
        ipam.auto_assign(&asked).await.unwrap_err(),
        world.auto(&ipam).await.unwrap_err(),
        ipam.assign(ip("10.10.0.5"), None, &owner("h")).await.unwrap_err(),
    ] {
        assert!(matches!(error, IpamError::NotForUse { users: "workloads", .. }), "{error}");
    }
}

#[tokio::test]
async fn a_pool_that_is_going_away_is_not_used() {
    // (18)
    let spec = r#""spec":{"cidr":"10.10.0.0/24","blockSize":29}"#;
    for text in [
        format!(
            r#"{{"metadata":{{"name":"front-end"}},{spec},"status":{{"conditions":[{{"type":"Allocatable","status":"False"}}]}}}}"#
        ),
        format!(r#"{{"metadata":{{"name":"front-end","deletionTimestamp":"2026-11-21T00:51:43Z"}},{spec}}}"#),
    ] {
        let world = World::new();
        world.store.put("/calico/resources/v3/projectcalico.org/ippools/front-end", &text);
        let ipam = world.ipam("docker-1");
        assert!(matches!(world.auto(&ipam).await, Err(IpamError::NoEnabledPool(IpVersion::V4))));
        let specific = ipam.assign(ip("10.10.0.5"), None, &owner("h")).await;
        assert!(matches!(specific, Err(IpamError::NoPoolContains { .. })));
    }
}

#[tokio::test]
async fn reserved_addresses_are_not_handed_out_but_can_be_asked_for() {
    // (19)
    let world = World::empty();
    world.node("docker-1", "{}");
    world.pool("small", r#"{"cidr":"10.10.0.0/28","blockSize":29}"#);
    world.resource("ipreservations", "rsv", r#"{"reservedCIDRs":["10.10.0.0/30", "10.10.0.8/29"]}"#);
    let ipam = world.ipam("docker-1");
    let mut ips = fill(&world, "docker-1", 4).await;
    ips.sort();
    assert_eq!(ips, ["10.10.0.4", "10.10.0.5", "10.10.0.6", "10.10.0.7"].map(ip));
    let error = world.auto(&ipam).await.unwrap_err();
    assert_eq!(error.to_string(), "no free address in pool small (10.10.0.0/28): 4 of 16 used, 12 reserved");
    ipam.assign(ip("10.10.0.1"), None, &owner("asked")).await.unwrap();
    assert_eq!(world.blocks().len(), 1, "no block was claimed for nothing");
    world.check();
}

#[tokio::test]
async fn when_all_blocks_are_taken_an_address_is_borrowed() {
    // (20)
    let world = tiny();
    fill(&world, "docker-1", 3).await;
    let borrowed = world.auto(&world.ipam("docker-2")).await.unwrap();
    let block = world.block(&block_of(borrowed, 31));
    assert_eq!(block.affinity.as_deref(), Some("host:docker-1"));
    let found = world.ipam("docker-2").lookup(borrowed).await.unwrap().unwrap();
    assert_eq!(found.node(), Some("docker-2"));
    assert!(world.claims().iter().all(|(node, _, _)| node.as_str() == "docker-1"));
    let error = world.auto(&world.ipam("docker-2")).await.unwrap_err();
    assert_eq!(error.to_string(), "no free address in pool tiny (10.20.0.0/30): 4 of 4 used");
    world.check();
}

#[tokio::test]
async fn a_borrower_that_loses_a_race_takes_from_the_next_block() {
    // (20)
    let mut taken = Vec::new();
    for fault in [Fault::None, Fault::Conflict] {
        let world = tiny();
        world.node("docker-3", "{}");
        fill(&world, "docker-1", 1).await;
        fill(&world, "docker-2", 1).await;
        world.store.befall([fault]);
        taken.push(block_of(world.auto(&world.ipam("docker-3")).await.unwrap(), 31));
        world.audit();
    }
    assert_ne!(taken[0], taken[1], "the block that somebody else writes is left for another one");
}

#[tokio::test]
async fn under_strict_affinity_nothing_is_borrowed() {
    // (21)
    let world = tiny();
    fill(&world, "docker-1", 3).await;
    world.config(r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#);
    let before = world.store.revision();
    let error = world.auto(&world.ipam("docker-2")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free address in pool tiny (10.20.0.0/30): 3 of 4 used; strict affinity forbids other nodes' blocks"
    );
    assert_eq!(world.store.revision(), before);
}

#[tokio::test]
async fn the_block_limit_is_kept_and_said() {
    // (22)
    let world = tiny();
    world.config(r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":1}"#);
    fill(&world, "docker-1", 2).await;
    let error = world.auto(&world.ipam("docker-1")).await.unwrap_err();
    assert!(matches!(error, IpamError::Exhausted { why: Shortage::BlockLimit { owned: 1, limit: 1 }, .. }));
    assert_eq!(
        error.to_string(),
        "no free address in pool tiny (10.20.0.0/30): 2 of 4 used; this node's limit of blocks is reached: 1 of 1"
    );
    assert_eq!(world.claims().len(), 1);
}

#[tokio::test]
async fn twenty_blocks_are_the_limit_where_none_is_configured() {
    let world = World::empty();
    world.node("docker-1", "{}");
    world.pool("singles", r#"{"cidr":"10.20.0.0/26","blockSize":32}"#);
    fill(&world, "docker-1", 20).await;
    let error = world.auto(&world.ipam("docker-1")).await.unwrap_err();
    assert!(matches!(error, IpamError::Exhausted { why: Shortage::BlockLimit { owned: 20, limit: 20 }, .. }));
}

#[tokio::test]
async fn an_empty_configuration_forbids_new_blocks_and_borrowing() {
    // (23)
    let world = tiny();
    fill(&world, "docker-1", 1).await;
    world.config("{}");
    let error = world.auto(&world.ipam("docker-2")).await.unwrap_err();
    assert!(matches!(error, IpamError::Exhausted { why: Shortage::NoNewBlocks, .. }), "{error}");
    assert!(world.auto(&world.ipam("docker-1")).await.is_ok(), "own blocks are handed out still");
    assert!(world.auto(&world.ipam("docker-1")).await.is_err());
}

#[tokio::test]
async fn the_ipam_configuration_is_never_written() {
    // (24)
    let world = World::new();
    let ipam = world.ipam("docker-1");
    let ips = fill(&world, "docker-1", 9).await;
    ipam.assign(ip("10.10.0.5"), None, &owner("h")).await.unwrap();
    free(&ipam, ips[0]).await;
    ipam.release_pool(&cidr("10.10.0.0/24")).await.unwrap();
    assert_eq!(world.store.text(key::IPAM_CONFIG), None);
}

#[tokio::test]
async fn a_taken_address_is_refused_without_a_write() {
    // (25)
    let world = World::new();
    let ipam = world.ipam("docker-1");
    ipam.assign(ip("10.10.0.5"), None, &owner("libnetwork.docker-1.h")).await.unwrap();
    let before = world.store.revision();
    let error = ipam.assign(ip("10.10.0.5"), None, &owner("other")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "10.10.0.5 is already in use on node docker-1 (handle libnetwork.docker-1.h)"
    );
    let IpamError::AlreadyAssigned { owner: holder, .. } = error else { panic!("{error}") };
    assert_eq!(holder.attributes["node"], "docker-1");
    assert_eq!(world.store.revision(), before);
    world.config(r#"{"auto_allocate_blocks":true,"ipCooldownSeconds":60}"#);
    free(&ipam, ip("10.10.0.5")).await;
    let before = world.store.revision();
    let error = ipam.assign(ip("10.10.0.5"), None, &owner("other")).await.unwrap_err();
    assert!(error.to_string().starts_with("10.10.0.5 is already in use: it was released"), "{error}");
    assert_eq!(world.store.revision(), before);
}

#[tokio::test]
async fn an_address_by_name_makes_its_block() {
    // (26)
    let world = World::new();
    world.ipam("docker-2").assign(ip("10.10.0.250"), None, &owner("h7")).await.unwrap();
    let block = world.block("10.10.0.248/29");
    assert_eq!(block.affinity.as_deref(), Some("host:docker-2"));
    assert_eq!(block.unallocated, [0, 1, 3, 4, 5, 6, 7]);
    assert_eq!(world.claim("docker-2", "10.10.0.248/29").unwrap(), CONFIRMED);
    world.config("{}");
    world.ipam("docker-2").assign(ip("10.10.0.1"), None, &owner("h8")).await.unwrap();
    world.check();
}

#[tokio::test]
async fn an_address_outside_the_networks_range_is_refused() {
    let world = World::new();
    let ipam = world.ipam("docker-1");
    let error = ipam.assign(ip("10.9.0.5"), Some(cidr("10.10.0.0/25")), &owner("h")).await.unwrap_err();
    assert_eq!(error.to_string(), "10.9.0.5 is not inside 10.10.0.0/25");
    let error = ipam.assign(ip("10.9.0.5"), None, &owner("h")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no enabled pool of this cluster contains 10.9.0.5; pools: front-end (10.10.0.0/24)"
    );
}

#[tokio::test]
async fn a_claim_that_a_crash_interrupted_is_finished() {
    // (27)
    let world = World::new();
    world.store.put(&claim_key("docker-1", "10.10.0.16/29"), PENDING);
    let first = world.auto(&world.ipam("docker-1")).await.unwrap();
    assert_eq!(first, ip("10.10.0.16"));
    assert_eq!(world.claim("docker-1", "10.10.0.16/29").unwrap(), CONFIRMED);
    assert_eq!(world.claims().len(), 1);
    world.check();
}

#[tokio::test]
async fn a_claim_whose_block_exists_is_confirmed_and_the_block_changed() {
    // 3.3: whoever is about to take the block away must lose the race.
    for state in [PENDING, r#"{"state":"pendingDeletion","deleted":false}"#, "nonsense"] {
        let world = World::new();
        world.store.put(&block_key("10.10.0.16/29"), &fresh("10.10.0.16/29", "host:docker-1", 8).to_string());
        world.store.put(&claim_key("docker-1", "10.10.0.16/29"), state);
        assert_eq!(world.auto(&world.ipam("docker-1")).await.unwrap(), ip("10.10.0.16"));
        assert_eq!(world.claim("docker-1", "10.10.0.16/29").unwrap(), CONFIRMED);
        assert_eq!(world.block("10.10.0.16/29").sequence_number, 9, "one more for the confirmation");
        world.check();
    }
}

#[tokio::test]
async fn a_stale_claim_is_deleted_and_not_used() {
    // (28)
    let world = World::new();
    world.store.put(&block_key("10.10.0.16/29"), &fresh("10.10.0.16/29", "host:docker-2", 8).to_string());
    world.store.put(&claim_key("docker-2", "10.10.0.16/29"), CONFIRMED);
    world.store.put(&claim_key("docker-1", "10.10.0.16/29"), CONFIRMED);
    let got = world.auto(&world.ipam("docker-1")).await.unwrap();
    assert!(!cidr("10.10.0.16/29").contains(got));
    assert_eq!(world.claim("docker-1", "10.10.0.16/29"), None);
    assert_eq!(world.claim("docker-2", "10.10.0.16/29").unwrap(), CONFIRMED);
    world.check();
}

#[tokio::test]
async fn an_empty_claim_counts_as_confirmed_and_is_left_as_it_is() {
    // (29)
    let world = World::new();
    world.store.put(&block_key("10.10.0.16/29"), &fresh("10.10.0.16/29", "host:docker-1", 8).to_string());
    world.store.put(&claim_key("docker-1", "10.10.0.16/29"), "");
    assert_eq!(world.auto(&world.ipam("docker-1")).await.unwrap(), ip("10.10.0.16"));
    assert_eq!(world.claim("docker-1", "10.10.0.16/29").unwrap(), "");
}

#[tokio::test]
async fn an_empty_block_of_another_node_is_reclaimed_once_it_is_a_minute_old() {
    // (30)
    let world = World::empty();
    world.node("docker-1", "{}");
    world.node("docker-2", "{}");
    world.pool("one", r#"{"cidr":"10.20.0.0/31","blockSize":31}"#);
    let first = fill(&world, "docker-1", 1).await[0];
    free(&world.ipam("docker-1"), first).await;
    world.pass(59);
    let borrowed = world.auto(&world.ipam("docker-2")).await.unwrap();
    assert_eq!(world.block("10.20.0.0/31").affinity.as_deref(), Some("host:docker-1"), "too young: borrowed");
    free(&world.ipam("docker-2"), borrowed).await;
    world.pass(2);
    world.auto(&world.ipam("docker-2")).await.unwrap();
    assert_eq!(world.block("10.20.0.0/31").affinity.as_deref(), Some("host:docker-2"));
    assert_eq!(world.claim("docker-1", "10.20.0.0/31"), None);
    world.check();
}

#[tokio::test]
async fn an_empty_block_without_a_claim_time_is_reclaimed_at_once() {
    // (30)
    let world = World::empty();
    world.node("docker-2", "{}");
    world.pool("one", r#"{"cidr":"10.20.0.0/31","blockSize":31}"#);
    world.store.put(&block_key("10.20.0.0/31"), &fresh("10.20.0.0/31", "host:docker-1", 2).to_string());
    world.store.put(&claim_key("docker-1", "10.20.0.0/31"), CONFIRMED);
    world.config(r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#);
    world.auto(&world.ipam("docker-2")).await.unwrap();
    assert_eq!(world.block("10.20.0.0/31").affinity.as_deref(), Some("host:docker-2"));
    world.check();
}

#[tokio::test]
async fn a_reclaim_that_comes_too_late_leaves_the_owner_its_block() {
    let world = World::empty();
    world.node("docker-1", "{}");
    world.node("docker-2", "{}");
    world.pool("one", r#"{"cidr":"10.20.0.0/31","blockSize":31}"#);
    world.store.put(&block_key("10.20.0.0/31"), &fresh("10.20.0.0/31", "host:docker-1", 2).to_string());
    world.store.put(&claim_key("docker-1", "10.20.0.0/31"), CONFIRMED);
    // While docker-2 is between marking the claim and deleting the block, docker-1 takes an address of it.
    world.store.intrude(|_, _| {});
    world.store.intrude(|store, _| {
        let taken = r#"{"cidr":"10.20.0.0/31","affinity":"host:docker-1","allocations":[0,null],"unallocated":[1],"attributes":[{"secondary":{"node":"docker-1"}}],"sequenceNumber":8}"#;
        store.put(&block_key("10.20.0.0/31"), taken);
    });
    let got = world.auto(&world.ipam("docker-2")).await.unwrap();
    assert_eq!(got, ip("10.20.0.1"), "what is left is borrowed");
    assert_eq!(world.block("10.20.0.0/31").affinity.as_deref(), Some("host:docker-1"));
    assert_eq!(world.claim("docker-1", "10.20.0.0/31").unwrap(), CONFIRMED, "the mark was taken back");
    world.check();
}

#[tokio::test]
async fn the_loser_of_a_claim_leaves_no_claim_behind() {
    // (31)
    let world = tiny();
    world.store.intrude(|_, _| {});
    world.store.intrude(|store, txn| {
        // docker-2 creates the very block first.
        let key = txn.ops.iter().find(|op| op.key().contains("/assignment/")).unwrap().key().to_owned();
        let cidr = key::parse_block(&key).unwrap();
        store.put(&key, &fresh(&cidr.to_string(), "host:docker-2", 2).to_string());
        store.put(&claim_key("docker-2", &cidr.to_string()), CONFIRMED);
    });
    world.auto(&world.ipam("docker-1")).await.unwrap();
    let claims = world.claims();
    assert_eq!(claims.len(), 2, "{claims:?}");
    assert_ne!(claims[0].1, claims[1].1);
    world.check();
}

#[tokio::test]
async fn a_block_without_owner_serves_all_unless_affinity_is_strict() {
    // (33)
    let world = World::empty();
    world.node("docker-1", "{}");
    world.pool("one", r#"{"cidr":"10.20.0.0/31","blockSize":31}"#);
    let block = r#"{"cidr":"10.20.0.0/31","affinity":null,"allocations":[0,null],"unallocated":[1],"attributes":[{}],"sequenceNumber":8}"#;
    world.store.put(&block_key("10.20.0.0/31"), block);
    world.config(r#"{"strict_affinity":true,"auto_allocate_blocks":true}"#);
    let ipam = world.ipam("docker-1");
    assert!(matches!(world.auto(&ipam).await, Err(IpamError::Exhausted { why: Shortage::Strict, .. })));
    let error = ipam.assign(ip("10.20.0.1"), None, &owner("h")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "10.20.0.1 is in block 10.20.0.0/31, which belongs to no node; strict affinity allows own blocks only"
    );
    world.store.remove(key::IPAM_CONFIG);
    assert_eq!(world.auto(&ipam).await.unwrap(), ip("10.20.0.1"));
    assert_eq!(world.block("10.20.0.0/31").affinity, None);
    assert!(world.claims().is_empty());
}

#[tokio::test]
async fn a_release_that_expects_something_else_changes_nothing() {
    // (34)
    let world = World::new();
    let ipam = world.ipam("docker-1");
    ipam.assign(ip("10.10.0.5"), None, &owner("h1")).await.unwrap();
    let held = ipam.lookup(ip("10.10.0.5")).await.unwrap().unwrap();
    let before = world.store.revision();
    let node = NodeName::new("docker-2").unwrap();
    for (expect, why) in [
        (Expect { handle: Some(handle("h2")), ..Expect::default() }, "its handle is h1, not h2"),
        (Expect { node: Some(node), ..Expect::default() }, "it belongs to node docker-1, not docker-2"),
        (Expect { sequence: Some(held.sequence + 1), ..Expect::default() }, "it was assigned anew"),
    ] {
        let error = ipam.release(ip("10.10.0.5"), &expect).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("10.10.0.5 is not released: {why}")), "{error}");
    }
    assert_eq!(world.store.revision(), before);
    let right = Expect {
        handle: Some(handle("h1")),
        node: Some(NodeName::new("docker-1").unwrap()),
        sequence: Some(held.sequence),
    };
    assert_eq!(ipam.release(ip("10.10.0.5"), &right).await.unwrap(), Released::Freed(held));
}

#[tokio::test]
async fn the_release_of_a_free_address_writes_nothing() {
    // (35)
    let world = World::new();
    let ipam = world.ipam("docker-1");
    let first = fill(&world, "docker-1", 1).await[0];
    free(&ipam, first).await;
    let before = world.store.revision();
    for free in [first, ip("10.10.0.77"), ip("172.30.0.1"), ip("fd00::1")] {
        assert_eq!(ipam.release(free, &Expect::default()).await.unwrap(), Released::NotAllocated);
    }
    assert_eq!(world.store.revision(), before);
}

#[tokio::test]
async fn the_last_release_keeps_an_own_block_and_deletes_nobodys() {
    // (36, 37)
    let world = World::new();
    let ipam = world.ipam("docker-1");
    let first = fill(&world, "docker-1", 1).await[0];
    let block = block_of(first, 29);
    free(&ipam, first).await;
    let json = world.store.json(&block_key(&block));
    assert_eq!((&json["attributes"], &json["sequenceNumberForAllocation"]), (&json!([]), &json!({})));
    assert_eq!(world.claim("docker-1", &block).unwrap(), CONFIRMED);
    let again = world.auto(&ipam).await.unwrap();
    assert_eq!(ipam.release_affinity(cidr(&block), true).await.unwrap(), AffinityReleased::NotEmpty);
    assert_eq!(ipam.release_affinity(cidr(&block), false).await.unwrap(), AffinityReleased::Disowned);
    assert_eq!(world.block(&block).affinity, None);
    free(&ipam, again).await;
    assert_eq!(world.store.text(&block_key(&block)), None);
    world.check();
}

#[tokio::test]
async fn a_release_closes_the_gap_in_the_attributes() {
    // (38)
    let world = World::new();
    let ips = fill(&world, "docker-1", 3).await;
    free(&world.ipam("docker-1"), ips[0]).await;
    let block = world.block(&block_of(ips[0], 29));
    assert_eq!(block.allocations[..3], [None, Some(0), Some(1)]);
    assert_eq!(block.attributes.len(), 2);
    world.check();
}

#[tokio::test]
async fn a_released_address_cools_down() {
    // (39)
    let world = World::new();
    world.config(r#"{"auto_allocate_blocks":true,"ipCooldownSeconds":60}"#);
    let ipam = world.ipam("docker-1");
    let ips = fill(&world, "docker-1", 2).await;
    let block = block_of(ips[0], 29);
    free(&ipam, ips[0]).await;
    let json = world.store.json(&block_key(&block));
    assert_eq!(json["attributes"][1], json!({"releasedAt": "2026-11-21T00:51:43Z"}));
    assert_eq!(json["allocations"][0], json!(1));
    assert_eq!(json["unallocated"], json!([2, 3, 4, 5, 6, 7]));
    assert_eq!(world.store.text("/calico/ipam/v2/handle/auto-0"), None);
    assert_eq!(ipam.lookup(ips[0]).await.unwrap(), None);
    assert_eq!(ipam.release(ips[0], &Expect::default()).await.unwrap(), Released::NotAllocated);
    assert!(matches!(
        ipam.assign(ips[0], None, &owner("h")).await,
        Err(IpamError::CoolingDown { seconds: 60, .. })
    ));
    let usage = ipam.usage(&cidr(&block), &cidr(&block)).await.unwrap();
    assert_eq!((usage.used, usage.cooling, usage.free()), (2, 1, 6));
    world.pass(61);
    world.auto(&ipam).await.unwrap();
    let after = world.block(&block);
    assert_eq!(after.unallocated, [3, 4, 5, 6, 7, 0]);
    assert!(after.attributes.iter().all(|attribute| attribute.released_at.is_none()));
    world.check();
}

#[tokio::test]
async fn an_allocation_of_the_go_plugin_can_be_released() {
    // (40)
    let world = World::new();
    let text = r#"{"cidr":"10.10.0.8/29","affinity":"host:docker-1","strictAffinity":false,"allocations":[0,0,null,null,null,null,null,null],"unallocated":[2,3,4,5,6,7],"attributes":[{"handle_id":null,"secondary":null}]}"#;
    world.store.put(&block_key("10.10.0.8/29"), text);
    world.store.put(&claim_key("docker-1", "10.10.0.8/29"), CONFIRMED);
    let ipam = world.ipam("docker-1");
    let held = ipam.lookup(ip("10.10.0.9")).await.unwrap().unwrap();
    assert!(held.handle.is_none() && held.attributes.is_empty());
    let expect = Expect { node: Some(NodeName::new("docker-1").unwrap()), ..Expect::default() };
    assert!(matches!(ipam.release(ip("10.10.0.9"), &expect).await.unwrap(), Released::Freed(_)));
    let block = world.block("10.10.0.8/29");
    assert_eq!(block.allocations[..2], [Some(0), None]);
    assert_eq!(block.unallocated, [2, 3, 4, 5, 6, 7, 1]);
    assert!(ipam.allocations_of_node().await.unwrap().is_empty(), "it names no node");
}

#[tokio::test]
async fn an_address_whose_pool_is_gone_or_disabled_can_be_released() {
    // (41)
    let world = World::new();
    let ipam = world.ipam("docker-1");
    let ips = fill(&world, "docker-1", 3).await;
    world.pool("front-end", r#"{"cidr":"10.10.0.0/24","blockSize":29,"disabled":true}"#);
    free(&ipam, ips[0]).await;
    world.store.remove("/calico/resources/v3/projectcalico.org/ippools/front-end");
    assert!(ipam.lookup(ips[1]).await.unwrap().is_some());
    free(&ipam, ips[1]).await;
    world.pool("front-end", r#"{"cidr":"10.10.0.0/24","blockSize":26}"#);
    free(&ipam, ips[2]).await;
    world.check();
}

#[tokio::test]
async fn a_node_that_leaves_gives_everything_back() {
    // (42)
    let world = tiny();
    world.pool("six", r#"{"cidr":"fd00::/120","blockSize":122}"#);
    let ipam = world.ipam("docker-1");
    let ips = fill(&world, "docker-1", 3).await;
    ipam.auto_assign(&AutoAssign { version: IpVersion::V6, ..wanted("six") }).await.unwrap();
    free(&ipam, ips[2]).await;
    ipam.release_node().await.unwrap();
    assert!(world.store.keys("/calico/ipam/v2/host/docker-1/").is_empty());
    let blocks = world.blocks();
    assert_eq!(blocks.len(), 2, "the empty one is gone");
    for block in blocks {
        assert_eq!(
            (block.document().affinity.clone(), block.document().affinity_claim_time.clone()),
            (None, None)
        );
    }
    world.check();
}

#[tokio::test]
async fn all_addresses_of_a_handle_are_released_together() {
    let world = World::new();
    let ipam = world.ipam("docker-1");
    for text in ["10.10.0.1", "10.10.0.2", "10.10.0.99"] {
        ipam.assign(ip(text), None, &owner("shared")).await.unwrap();
    }
    let stored = world.store.json("/calico/ipam/v2/handle/shared");
    assert_eq!(stored["block"], json!({"10.10.0.0/29": 2, "10.10.0.96/29": 1}));
    world.check();
    // A count that is too high, and a block that is gone, as a crashed Calico may leave them.
    let leaking = r#"{"block":{"10.10.0.0/29":5,"10.10.0.96/29":1,"10.10.0.200/29":1},"deleted":false}"#;
    world.store.put("/calico/ipam/v2/handle/shared", leaking);
    let mut freed = ipam.release_by_handle(&handle("shared")).await.unwrap();
    freed.sort();
    assert_eq!(freed, ["10.10.0.1", "10.10.0.2", "10.10.0.99"].map(ip));
    assert_eq!(world.store.text("/calico/ipam/v2/handle/shared"), None);
    assert!(ipam.release_by_handle(&handle("shared")).await.unwrap().is_empty());
    world.check();
}

#[tokio::test]
async fn a_range_confines_addresses_and_new_blocks() {
    let world = World::new();
    let ipam = world.ipam("docker-1");
    fill(&world, "docker-1", 1).await;
    let range = cidr("10.10.0.18/31");
    let confined = |name: &str| AutoAssign { within: Some(range), ..wanted(name) };
    let mut ips = vec![
        ipam.auto_assign(&confined("a")).await.unwrap(),
        ipam.auto_assign(&confined("b")).await.unwrap(),
    ];
    ips.sort();
    assert_eq!(ips, ["10.10.0.18", "10.10.0.19"].map(ip));
    let error = ipam.auto_assign(&confined("c")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free address in 10.10.0.18/31 of pool front-end (10.10.0.0/24): 2 of 2 used"
    );
    assert_eq!(world.blocks().len(), 2);
    let elsewhere = AutoAssign { within: Some(cidr("10.9.0.0/24")), ..wanted("d") };
    let error = ipam.auto_assign(&elsewhere).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no enabled pool of this cluster contains 10.9.0.0/24; pools: front-end (10.10.0.0/24)"
    );
    world.check();
}

#[tokio::test]
async fn a_damaged_block_is_named_and_the_others_serve() {
    let world = tiny();
    let damages = [
        (r#""allocations":[0],"unallocated":[],"attributes":[{}]"#, "it has 1 allocations and should have 2"),
        (r#""allocations":[0,7],"unallocated":[],"attributes":[{}]"#, "ordinal 1 points at attribute 7 of 1"),
        (
            r#""allocations":[null,null],"unallocated":[0,9]"#,
            "unallocated ordinal 9 is beyond its 2 addresses",
        ),
        (
            r#""allocations":[0,null],"unallocated":[0],"attributes":[{}]"#,
            "ordinal 0 is both allocated and unallocated",
        ),
        (r#""allocations":[null,null],"unallocated":[0,0]"#, "ordinal 0 is unallocated twice"),
        (r#""allocations":[-1,null],"unallocated":[0]"#, "invalid value"),
    ];
    for (damage, why) in damages {
        let text = format!(r#"{{"cidr":"10.20.0.0/31","affinity":"host:docker-1",{damage}}}"#);
        world.store.put(&block_key("10.20.0.0/31"), &text);
        world.store.put(&claim_key("docker-1", "10.20.0.0/31"), CONFIRMED);
        let ipam = world.ipam("docker-1");
        let good = [world.auto(&ipam).await.unwrap(), world.auto(&ipam).await.unwrap()];
        assert!(good.iter().all(|ip| cidr("10.20.0.2/31").contains(*ip)));
        let error = world.auto(&ipam).await.unwrap_err().to_string();
        assert!(
            error.starts_with(
                "no free address in pool tiny (10.20.0.0/30): 2 of 4 used; block 10.20.0.0/31 is damaged: "
            ),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
        let error = ipam.assign(ip("10.20.0.1"), None, &owner("h")).await.unwrap_err().to_string();
        assert!(error.starts_with("block 10.20.0.0/31 is damaged: "), "{error}");
        assert!(ipam.release(ip("10.20.0.1"), &Expect::default()).await.is_err());
        assert_eq!(
            world.store.text(&block_key("10.20.0.0/31")).unwrap(),
            text,
            "nothing was written over it"
        );
        for ip in good {
            free(&ipam, ip).await;
        }
        assert_eq!(ipam.allocations_of_node().await.unwrap(), []);
    }
}

#[tokio::test]
async fn blocks_that_an_earlier_pool_left_in_another_size_are_not_overlapped() {
    let world = World::empty();
    world.node("docker-1", "{}");
    world.pool("again", r#"{"cidr":"10.20.0.0/28","blockSize":29}"#);
    world
        .store
        .put(&block_key("10.20.0.0/30"), &full("10.20.0.0/30", &Value::Null, 4, "docker-1").to_string());
    let ipam = world.ipam("docker-1");
    for _ in 0..8 {
        assert!(cidr("10.20.0.8/29").contains(world.auto(&ipam).await.unwrap()));
    }
    assert!(world.auto(&ipam).await.is_err());
    let error = ipam.assign(ip("10.20.0.6"), None, &owner("h")).await.unwrap_err();
    assert_eq!(error.to_string(), "block 10.20.0.0/29 overlaps block 10.20.0.0/30, which is still in use");
    free(&ipam, ip("10.20.0.1")).await;
}

#[tokio::test]
async fn a_pool_gives_all_its_blocks_back_before_it_goes() {
    let world = tiny();
    world.pool("zz", r#"{"cidr":"10.30.0.0/30","blockSize":31}"#);
    fill(&world, "docker-1", 3).await;
    let two = world.ipam("docker-2");
    let other = AutoAssign { pool: Some(cidr("10.30.0.0/30")), ..wanted("other") };
    two.auto_assign(&other).await.unwrap();
    let pending = claim_key("docker-1", "10.20.0.2/31");
    let ipam = world.ipam("docker-1");
    let all = ipam.allocations_of_node().await.unwrap();
    let mut in_use = ipam.release_pool(&cidr("10.20.0.0/30")).await.unwrap();
    in_use.sort();
    let mut expected: Vec<_> =
        all.iter().filter(|a| cidr("10.20.0.0/30").contains(a.ip)).map(|a| a.block).collect();
    expected.sort();
    expected.dedup();
    assert_eq!(in_use, expected);
    for allocation in all {
        free(&ipam, allocation.ip).await;
    }
    world.store.put(&pending, PENDING);
    assert!(ipam.release_pool(&cidr("10.20.0.0/30")).await.unwrap().is_empty());
    assert!(world.blocks().iter().all(|block| !cidr("10.20.0.0/30").overlaps(&block.cidr())));
    assert!(world.claims().iter().all(|(_, claimed, _)| !cidr("10.20.0.0/30").overlaps(claimed)));
    assert_eq!(world.claims().len(), 1, "the other pool's stays");
    world.check();
}

#[tokio::test]
async fn a_block_whose_pool_no_longer_selects_the_node_is_given_back() {
    let world = World::new();
    let ipam = world.ipam("docker-1");
    let first = fill(&world, "docker-1", 1).await[0];
    world.pool("front-end", r#"{"cidr":"10.10.0.0/24","blockSize":29,"nodeSelector":"rack == 'r2'"}"#);
    free(&ipam, first).await;
    assert!(world.blocks().is_empty() && world.claims().is_empty());
    // The same at the next assignment, where the last release was not ours.
    world.store.put(&block_key("10.10.0.16/29"), &fresh("10.10.0.16/29", "host:docker-1", 8).to_string());
    world.store.put(&claim_key("docker-1", "10.10.0.16/29"), CONFIRMED);
    world.pool("zz", r#"{"cidr":"10.40.0.0/24","blockSize":29}"#);
    assert!(cidr("10.40.0.0/24").contains(world.auto(&ipam).await.unwrap()));
    assert_eq!(world.claim("docker-1", "10.10.0.16/29"), None);
    world.check();
}

#[tokio::test]
async fn versions_do_not_mix() {
    let world = World::new();
    world.pool("six", r#"{"cidr":"fd80:24e2:f998:72d6::/112"}"#);
    let ipam = world.ipam("docker-2");
    let got = ipam.auto_assign(&AutoAssign { version: IpVersion::V6, ..wanted("six") }).await.unwrap();
    let block = block_of(got, 122);
    assert_eq!(world.block(&block).allocations.len(), 64);
    assert_eq!(world.claim("docker-2", &block).unwrap(), CONFIRMED);
    assert!(
        world.store.keys("/calico/ipam/v2/assignment/ipv6/block/fd80:24e2:f998:72d6::")[0].ends_with("-122")
    );
    let asked = AutoAssign { pool: Some(cidr("10.10.0.0/24")), version: IpVersion::V6, ..wanted("mixed") };
    assert!(matches!(ipam.auto_assign(&asked).await, Err(IpamError::NoSuchPool { .. })));
    world.check();
}

#[tokio::test]
async fn usage_counts_what_is_held_and_reserved() {
    let world = World::new();
    world.resource("ipreservations", "rsv", r#"{"reservedCIDRs":["10.10.0.0/30"]}"#);
    let ipam = world.ipam("docker-1");
    ipam.assign(ip("10.10.0.1"), None, &owner("a")).await.unwrap();
    ipam.assign(ip("10.10.0.9"), None, &owner("b")).await.unwrap();
    let usage = ipam.usage(&cidr("10.10.0.0/24"), &cidr("10.10.0.0/24")).await.unwrap();
    assert_eq!((usage.size, usage.used, usage.reserved, usage.free()), (256, 2, 3, 251));
    let usage = ipam.usage(&cidr("10.10.0.0/24"), &cidr("10.10.0.0/29")).await.unwrap();
    assert_eq!((usage.size, usage.used, usage.reserved), (8, 1, 3));
    assert_eq!(ipam.usage(&cidr("10.10.0.0/24"), &cidr("10.11.0.0/24")).await.unwrap().size, 0);
}

#[tokio::test]
async fn a_failing_datastore_is_reported_and_leaves_nothing_half_done() {
    let world = World::new();
    let ipam = world.ipam("docker-1");
    world.store.befall([Fault::Down]);
    let error = world.auto(&ipam).await.unwrap_err();
    assert_eq!(error.to_string(), "the datastore is unavailable: the test pulled the plug");
    world.store.befall([Fault::None, Fault::Down]);
    assert!(world.auto(&ipam).await.is_err(), "the claim is announced, the block is not created");
    assert_eq!(world.claims().len(), 1);
    assert!(world.auto(&ipam).await.is_ok());
    assert_eq!(world.claims().len(), 1, "the same claim was finished");
    world.check();
}

#[tokio::test]
async fn a_new_host_in_a_large_cluster_reads_all_blocks_once() {
    let world = World::empty();
    world.node("docker-1", "{}");
    world.pool("large", r#"{"cidr":"10.64.0.0/10","blockSize":26}"#);
    for n in 0..10_000_u32 {
        let cidr = format!("{}/26", std::net::Ipv4Addr::from_bits((10 << 24) + (64 << 16) + n * 64));
        let text = full(&cidr, &"host:docker-2".into(), 64, "docker-2").to_string();
        world.store.put(&block_key(&cidr), &text);
    }
    world.store.take_reads();
    world.auto(&world.ipam("docker-1")).await.unwrap();
    let reads = world.store.take_reads();
    let lists = reads.iter().filter(|key| key.ends_with("/ipv4/block/") && key.contains("/assignment/"));
    assert_eq!(lists.count(), 1, "{reads:?}");
    assert!(reads.len() < 12, "{reads:?}");
}

#[test]
fn handles_never_hold_a_slash() {
    assert!(HandleId::new("libnetwork.docker-1/x").is_err());
}
