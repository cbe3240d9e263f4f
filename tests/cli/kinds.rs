//! Every kind: written as Calico's own client writes it, listed in calicoctl's columns, changed and deleted.

use crate::ROOT;
use crate::world::World;
use serde_json::Value;

const GOLDEN: &str = include_str!("../fixtures/calico-etcd-golden.txt");

/// A resource as Calico's client stored it.
fn golden(key: &str) -> Value {
    let mut lines = GOLDEN.lines();
    lines
        .find(|line| *line == format!("+ {ROOT}/{key}"))
        .unwrap_or_else(|| panic!("{key} is not in the file"));
    serde_json::from_str(lines.next().unwrap().trim()).unwrap()
}

/// What differs from run to run; and what Calico's own client leaves out of a policy in tier default.
fn comparable(mut value: Value) -> Value {
    for field in ["uid", "creationTimestamp"] {
        let metadata = value["metadata"].as_object_mut().unwrap();
        assert!(metadata.remove(field).is_some_and(|it| it.is_string()), "{field} is stored");
        assert!(!metadata.contains_key("resourceVersion"), "the revision is never stored");
    }
    value
}

const RESOURCES: [&str; 16] = [
    "nodes/docker-1",
    "nodes/docker-2",
    "ippools/front-end",
    "ippools/pool6",
    "ippools/tiny",
    "profiles/front-end",
    "bgpconfigurations/default",
    "bgppeers/rr1",
    "felixconfigurations/default",
    "felixconfigurations/node.docker-1",
    "globalnetworksets/ext",
    "hostendpoints/docker-1-eth0",
    "ipamconfigurations/default",
    "ipreservations/rsv",
    "networksets/libnetwork/ext",
    "tiers/kube-admin",
];

/// (9, 10)
#[test]
fn what_calicos_client_wrote_is_written_the_same() {
    World::both(|world| {
        for key in RESOURCES {
            let golden = golden(key);
            let mut document = golden.clone();
            for field in ["uid", "creationTimestamp"] {
                document["metadata"].as_object_mut().unwrap().remove(field);
            }
            document.as_object_mut().unwrap().remove("status");
            world.does(&["create", "-f", "-"], &document.to_string());
            let stored = world.json(&format!("{ROOT}/{key}"));
            assert_eq!(comparable(stored.clone()), comparable(golden), "{key}");

            // An update keeps uid and time, and takes new labels.
            document["metadata"]["labels"] = serde_json::json!({"changed": "yes"});
            world.does(&["replace", "-f", "-"], &document.to_string());
            let again = world.json(&format!("{ROOT}/{key}"));
            for field in ["uid", "creationTimestamp"] {
                assert_eq!(again["metadata"][field], stored["metadata"][field], "{key}");
            }
            assert_eq!(again["metadata"]["labels"]["changed"], "yes", "{key}");
        }
    });
}

#[test]
fn policies_are_written_as_calicos_client_does() {
    World::both(|world| {
        for key in ["globalnetworkpolicies/allow-web", "networkpolicies/libnetwork/np1"] {
            let golden = golden(key);
            let mut document = golden.clone();
            let metadata = document["metadata"].as_object_mut().unwrap();
            for field in ["uid", "creationTimestamp", "labels", "annotations"] {
                metadata.remove(field);
            }
            world.does(&["create", "-f", "-"], &document.to_string());
            let mut stored = comparable(world.json(&format!("{ROOT}/{key}")));
            // The client that wrote the file left an unnamed tier unnamed; newer and older ones name it.
            stored["spec"].as_object_mut().unwrap().remove("tier");
            assert_eq!(stored, comparable(golden), "{key}");
        }
    });
}

#[test]
fn tables_have_calicoctls_columns() {
    let world = World::served();
    for key in RESOURCES.iter().filter(|key| !key.starts_with("tiers/")) {
        world.does(&["create", "-f", "-"], &strip(golden(key)).to_string());
    }
    world.put(
        &format!("{ROOT}/clusterinformations/default"),
        &golden("clusterinformations/default").to_string(),
    );
    for (arguments, table) in [
        (
            &["get", "bgpconfig"][..],
            "NAME      LOGSEVERITY   MESHENABLED   ASNUMBER\ndefault                 -             -",
        ),
        (&["get", "bgppeers"], "NAME   PEERIP       NODE       ASN\nrr1    172.17.8.1   docker-1   64512"),
        (&["get", "hep"], "NAME            NODE\ndocker-1-eth0   docker-1"),
        (
            &["get", "hep", "-o", "wide"],
            "NAME            NODE       INTERFACE   IPS            PROFILES\ndocker-1-eth0   docker-1   eth0        172.17.8.101",
        ),
        (&["get", "clusterinfo"], "NAME\ndefault"),
        (&["get", "ipreservations", "-o", "name"], "IPReservation/rsv"),
        (&["get", "netsets", "-A"], "NAMESPACE    NAME\nlibnetwork   ext"),
        (
            &["get", "nodes", "-o", "wide"],
            "NAME       ASN     IPV4              IPV6\ndocker-1           172.17.8.101/24\ndocker-2   64512   172.17.8.102/24   fd80:24e2::102/64",
        ),
    ] {
        assert_eq!(world.does(arguments, ""), table, "{arguments:?}");
    }
    assert!(world.fails(64, &["get", "nodes", "-A"], "").contains("has no namespaces"));
    assert!(world.fails(1, &["delete", "clusterinfo", "default"], "").contains("can only be read"));
}

fn strip(mut document: Value) -> Value {
    for field in ["uid", "creationTimestamp"] {
        document["metadata"].as_object_mut().unwrap().remove(field);
    }
    document
}

/// Unknown fields of a newer Calico survive, and what is wrong is refused with the field's name.
#[test]
fn documents_of_other_versions_and_broken_ones() {
    World::both(|world| {
        world.put(&format!("{ROOT}/bgppeers/future"), r#"{"kind":"BGPPeer","apiVersion":"projectcalico.org/v3","metadata":{"name":"future","uid":"u","creationTimestamp":"2026-11-21T00:51:43Z"},"spec":{"peerIP":"192.0.2.1","asNumber":1,"fieldOfTomorrow":{"a":1}}}"#);
        let read = world.does(&["get", "bgppeer", "future", "-o", "yaml"], "");
        assert!(read.contains("fieldOfTomorrow"), "{read}");
        let refused = world.fails(1, &["apply", "-f", "-"], "kind: BGPPeer\napiVersion: projectcalico.org/v3\nmetadata: {name: p}\nspec: {peerIP: 192.0.2.300, asNumber: 1}\n");
        assert!(refused.contains("BGPPeer p: spec.peerIP: an address is expected"), "{refused}");
        assert_eq!(world.text(&format!("{ROOT}/bgppeers/p")), None);
        world.put(&format!("{ROOT}/bgppeers/broken"), "not json");
        let listed = world.run(&["get", "bgppeers", "-o", "name"], "");
        assert!(listed.status.success(), "one broken document hides no other");
        assert_eq!(String::from_utf8_lossy(&listed.stdout).trim_end(), "BGPPeer/future");
        assert!(String::from_utf8_lossy(&listed.stderr).contains("bgppeers/broken cannot be read"));
    });
}

/// Pools go in the order of Calico's client: closed, emptied, deleted.
#[test]
fn a_pool_with_blocks_of_several_nodes_is_deleted_and_one_in_use_stays() {
    use calico_libnetwork::ipam::{AutoAssign, Expect, Owner};
    use calico_libnetwork::model::{HandleId, IpVersion};
    World::both(|world| {
        world.does(&["create", "-f", "-"], "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: a}\nspec: {cidr: 10.1.0.0/24, blockSize: 29}\n");
        let mut ips = Vec::new();
        for node in ["docker-1", "docker-2"] {
            world.put(
                &format!("{ROOT}/nodes/{node}"),
                &format!(r#"{{"kind":"Node","metadata":{{"name":"{node}"}},"spec":{{}}}}"#),
            );
            let owner =
                Owner { handle: HandleId::new(node).unwrap(), attributes: std::collections::BTreeMap::new() };
            let request = AutoAssign { version: IpVersion::V4, pool: None, within: None, owner };
            ips.push((node, world.block_on(world.ipam(node).auto_assign(&request)).unwrap()));
        }
        assert!(world.fails(1, &["delete", "ippool", "a"], "").contains("2 of its addresses are in use"));
        let larger = "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: b}\nspec: {cidr: 10.1.0.0/16}\n";
        assert!(world.fails(1, &["create", "-f", "-"], larger).contains("overlaps pool a"));
        for (node, ip) in ips {
            world.block_on(world.ipam(node).release(ip, &Expect::default())).unwrap();
        }
        assert_eq!(world.keys("/calico/ipam/v2/assignment/").len(), 2);
        assert_eq!(world.does(&["delete", "ippool", "a"], ""), "deleted IPPool a");
        assert_eq!(world.keys("/calico/ipam/v2/"), Vec::<String>::new());
    });
}

#[test]
fn a_label_is_set_changed_and_taken_away_and_nothing_else_is_touched() {
    World::both(|world| {
        let key = format!("{ROOT}/nodes/docker-1");
        world.put(
            &key,
            r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"docker-1","uid":"u","fieldOfTomorrow":1},"spec":{"later":{}},"status":{}}"#,
        );
        let before = world.json(&key);
        assert_eq!(world.does(&["label", "nodes", "docker-1", "rack=r2"], ""), "replaced Node docker-1");
        assert_eq!(world.json(&key)["metadata"]["labels"], serde_json::json!({"rack": "r2"}));
        assert_eq!(world.does(&["label", "nodes", "docker-1", "rack=r2"], ""), "unchanged Node docker-1");
        let refused = world.fails(1, &["label", "nodes", "docker-1", "rack=r3"], "");
        assert!(refused.contains("label rack is \"r2\" already; --overwrite changes it"), "{refused}");
        world.does(&["label", "nodes", "docker-1", "rack=r3", "--overwrite"], "");
        world.does(&["label", "nodes", "docker-1", "rack", "--remove"], "");
        assert_eq!(world.json(&key), before, "as it was, unknown fields included");
        assert!(
            world
                .fails(1, &["label", "nodes", "docker-1", "rack", "--remove"], "")
                .contains("there is no label")
        );
        assert!(
            world.fails(1, &["label", "nodes", "docker-1", "a b=c"], "").contains("is no name of a label")
        );
        assert!(
            world.fails(1, &["label", "nodes", "docker-9", "a=b"], "").contains("there is no Node docker-9")
        );
        world.fails(64, &["label", "nodes", "docker-1", "rack"], "");
    });
}
