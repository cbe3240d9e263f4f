//! `ipam`: what is wrong is found, and what nobody uses is given back with proof.

use crate::ROOT;
use crate::world::World;
use calico_libnetwork::ipam::{AutoAssign, Expect, FindingKind, Owner};
use calico_libnetwork::model::{HandleId, IpVersion};
use std::collections::BTreeMap;
use std::net::IpAddr;

const POOL: &str = "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: a}\nspec: {cidr: 10.1.0.0/24, blockSize: 29}\n";
const CONFIG: &str = "/calico/ipam/v2/config";

/// A pool and a node.
fn with_pool(world: &World) {
    world.does(&["apply", "-f", "-"], POOL);
    world.put(
        &format!("{ROOT}/nodes/docker-1"),
        r#"{"kind":"Node","metadata":{"name":"docker-1"},"spec":{}}"#,
    );
    world.put(
        &format!("{ROOT}/clusterinformations/default"),
        r#"{"kind":"ClusterInformation","metadata":{"name":"default"},"spec":{"clusterGUID":"g1"}}"#,
    );
}

/// An address under a handle of its own.
fn assign(world: &World, node: &str, handle: &str) -> IpAddr {
    let owner = Owner { handle: HandleId::new(handle).unwrap(), attributes: BTreeMap::new() };
    let request = AutoAssign { version: IpVersion::V4, pool: None, within: None, owner };
    world.block_on(world.ipam(node).auto_assign(&request)).unwrap()
}

fn endpoint(world: &World, node: &str, id: &str, ip: IpAddr) {
    let name = format!("{}-libnetwork-libnetwork-{id}", node.replace('-', "--"));
    world.put(&format!("{ROOT}/workloadendpoints/libnetwork/{name}"), &format!(r#"{{"kind":"WorkloadEndpoint","metadata":{{"name":"{name}","namespace":"libnetwork"}},"spec":{{"orchestrator":"libnetwork","node":"{node}","endpoint":"{id}","ipNetworks":["{ip}/32"],"interfaceName":"cali{id}"}}}}"#));
}

#[test]
fn a_leak_is_found_reported_and_released_as_reported() {
    World::both(|world| {
        with_pool(world);
        let used = assign(world, "docker-1", "used");
        endpoint(world, "docker-1", "e1", used);
        assert!(world.does(&["ipam", "check", "--grace", "0s"], "").ends_with("no problem was found"));
        let leaked = assign(world, "docker-1", "leaked");
        let settling = world.does(&["ipam", "check", "--show-all"], "");
        assert!(
            settling.contains("less than 60 s ago") && settling.ends_with("no problem was found"),
            "{settling}"
        );
        world.put("/calico/ipam/v2/handle/nobody", r#"{"block":{"10.1.0.0/29":1},"deleted":false}"#);

        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report.json").display().to_string();
        let found = world.fails(1, &["ipam", "check", "--grace", "0s", "-o", &report], "");
        assert!(
            found.contains(&format!("{leaked} is held on node docker-1 (handle leaked) and nobody uses it")),
            "{found}"
        );
        assert!(found.contains("handle nobody has no address"), "{found}");
        assert!(found.ends_with("2 problems were found"), "{found}");
        let stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert_eq!(stored["clusterGUID"], "g1");
        assert_eq!(stored["counts"]["allocated"], 2);

        let done = world.does(&["ipam", "release", "--force", "--from-report", &report], "");
        assert_eq!(done, format!("released {leaked}\nput handle nobody right"));
        assert_eq!(world.audit().findings, []);
        // Again: nothing is as it was reported, and nothing happens.
        let again = world.run(&["ipam", "release", "--force", "--from-report", &report], "");
        assert!(again.status.success());
        assert!(String::from_utf8_lossy(&again.stderr).contains(&format!("{leaked} is left alone")));
        assert!(world.text("/calico/ipam/v2/handle/used").is_some());
    });
}

#[test]
fn what_was_assigned_anew_since_the_report_stays() {
    World::both(|world| {
        with_pool(world);
        let leaked = assign(world, "docker-1", "leaked");
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report.json").display().to_string();
        world.fails(1, &["ipam", "check", "--grace", "0s", "-o", &report], "");
        // The same address, under the same handle, and yet another assignment.
        let ipam = world.ipam("docker-1");
        world.block_on(ipam.release(leaked, &Expect::default())).unwrap();
        let owner = Owner { handle: HandleId::new("leaked").unwrap(), attributes: BTreeMap::new() };
        world.block_on(ipam.assign(leaked, None, &owner)).unwrap();
        let done = world.run(&["ipam", "release", "--force", "--from-report", &report], "");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains("it is not any more as reported"), "{said}");
        assert!(world.block_on(ipam.lookup(leaked)).unwrap().is_some(), "it is still held");
        // A report of another cluster is for another cluster.
        let other = std::fs::read_to_string(&report).unwrap().replace("\"g1\"", "\"g2\"");
        std::fs::write(&report, other).unwrap();
        let refused = world.fails(1, &["ipam", "release", "--from-report", &report], "");
        assert!(refused.contains("it is a report of cluster g2, and this is cluster g1"), "{refused}");
    });
}

#[test]
fn an_address_in_use_or_on_its_way_is_not_released() {
    World::both(|world| {
        with_pool(world);
        let (used, young) = (assign(world, "docker-1", "used"), assign(world, "docker-1", "young"));
        endpoint(world, "docker-1", "e1", used);
        let release = |ip: &str, more: &[&str], code: i32| {
            world.fails(code, &[&["ipam", "release", "--ip", ip], more].concat(), "")
        };
        assert!(
            release(&used.to_string(), &["--force"], 1)
                .contains("WorkloadEndpoint docker--1-libnetwork-libnetwork-e1 uses it")
        );
        assert!(
            release(&young.to_string(), &[], 1).contains("its endpoint may be about to be made (--force)")
        );
        assert!(release("10.1.0.200", &["--force"], 1).contains("nobody holds it"));
        let young = young.to_string();
        assert_eq!(release(&young, &["--force"], 0), format!("released {young}"));
        assert_eq!(world.audit().findings, []);
        world.fails(64, &["ipam", "release"], "");
    });
}

#[test]
fn the_configuration_is_changed_field_by_field_and_kept_sound() {
    World::both(|world| {
        let refused = world.fails(1, &["ipam", "configure", "--max-blocks-per-host", "4"], "");
        assert!(refused.contains("needs strict affinity"), "{refused}");
        assert_eq!(world.text(CONFIG), None, "nothing was written");
        world.does(&["ipam", "configure", "--strict-affinity", "true"], "");
        assert_eq!(world.text(CONFIG).unwrap(), r#"{"auto_allocate_blocks":true,"strict_affinity":true}"#);
        world.overwrite(CONFIG, r#"{"strict_affinity":true,"auto_allocate_blocks":true,"kubeVirtVMAddressPersistence":"Enabled"}"#);
        let shown = world.does(&["ipam", "configure", "--max-blocks-per-host", "4"], "");
        assert!(shown.contains("MaxBlocksPerHost     4"), "{shown}");
        let stored = world.json(CONFIG);
        assert_eq!(stored["kubeVirtVMAddressPersistence"], "Enabled", "a field of another version stays");
        assert_eq!(world.does(&["ipam", "show", "--show-configuration"], ""), shown);
        world.does(&["ipam", "configure", "--strictaffinity", "false", "--max-blocks-per-host", "0"], "");
        assert_eq!(
            world.text(CONFIG).unwrap(),
            r#"{"auto_allocate_blocks":true,"kubeVirtVMAddressPersistence":"Enabled"}"#
        );
        let refused = world.fails(1, &["ipam", "configure", "--auto-allocate-blocks", "false"], "");
        assert!(refused.contains("nodes must be allowed to claim"), "{refused}");
        world.fails(64, &["ipam", "configure"], "");
    });
}

#[test]
fn borrowed_addresses_are_told_with_borrower_and_owner() {
    World::both(|world| {
        with_pool(world);
        let own = assign(world, "docker-1", "own");
        endpoint(world, "docker-1", "e1", own);
        let owner = Owner { handle: HandleId::new("borrowed").unwrap(), attributes: BTreeMap::new() };
        let borrowed: IpAddr = match own {
            IpAddr::V4(own) => std::net::Ipv4Addr::from(u32::from(own) ^ 1).into(),
            IpAddr::V6(_) => panic!("an IPv4 address was asked for"),
        };
        world.block_on(world.ipam("docker-2").assign(borrowed, None, &owner)).unwrap();
        endpoint(world, "docker-2", "e2", borrowed);
        let told = world.does(&["ipam", "show", "--show-borrowed"], "");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 2, "{told}");
        assert!(lines[1].starts_with(&format!("{borrowed} ")) && lines[1].contains("docker-2"), "{told}");
        assert!(lines[1].contains("WorkloadEndpoint docker--2-libnetwork-libnetwork-e2"), "{told}");
        let one = world.does(&["ipam", "show", "--ip", &borrowed.to_string()], "");
        assert!(one.contains("node: docker-2") && one.contains("timestamp: "), "who and since when: {one}");
    });
}

#[test]
fn damage_of_every_kind_is_found_in_the_datastore() {
    World::both(|world| {
        with_pool(world);
        let ip = assign(world, "docker-1", "h");
        endpoint(world, "docker-1", "e1", ip);
        let block = world.keys("/calico/ipam/v2/assignment/").remove(0);
        let claim = world.keys("/calico/ipam/v2/host/").remove(0);
        let handle = "/calico/ipam/v2/handle/h";
        let value = |key: &str| world.text(key).unwrap();
        let (sound_block, sound_claim, sound_handle) = (value(&block), value(&claim), value(handle));
        let finds = |kind: FindingKind| {
            let found = world.audit();
            assert!(
                found.findings.iter().any(|finding| finding.kind == kind),
                "{kind:?} in {:?}",
                found.findings
            );
            let told = world.fails(1, &["ipam", "check", "--grace", "0s"], "");
            assert!(told.contains(kind.title()), "{told}");
        };
        world.delete(&claim);
        finds(FindingKind::BlockWithoutClaim);
        world.put(&claim, &sound_claim);
        world.overwrite(handle, &sound_handle.replace(":1}", ":2}"));
        finds(FindingKind::HandleCount);
        world.overwrite(handle, &sound_handle);
        world.delete(&block);
        finds(FindingKind::ClaimWithoutBlock);
        finds(FindingKind::UnallocatedAddress);
        world.put(&block, &sound_block.replace("\"unallocated\":[1", "\"unallocated\":[0,1"));
        finds(FindingKind::DamagedBlock);
        world.overwrite(&block, &sound_block);
        endpoint(world, "docker-1", "e2", ip);
        finds(FindingKind::DuplicateAddress);
        world.delete(&format!("{ROOT}/workloadendpoints/libnetwork/docker--1-libnetwork-libnetwork-e2"));
        world.delete(&format!("{ROOT}/ippools/a"));
        finds(FindingKind::OutsidePools);
    });
}
