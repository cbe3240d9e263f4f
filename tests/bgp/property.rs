//! Whatever stands in the datastore, BIRD takes what comes out.

use crate::{bird_is_there, refusal};
use calico_libnetwork::bgp::{Setup, World, render};
use calico_libnetwork::model::{NodeName, RouterId};
use proptest::prelude::*;
use serde_json::{Value, json};

const ROOT: &str = "/calico/resources/v3/projectcalico.org";

fn one_of<const N: usize>(words: [&'static str; N]) -> impl Strategy<Value = Value> {
    proptest::sample::select(words.to_vec()).prop_map(|word| json!(word))
}

/// Texts that somebody may write, some to do harm.
fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        one_of([
            "",
            "f1",
            "f2",
            "'; accept; #",
            "\"",
            "}",
            "*/",
            "a\nb",
            "eth*",
            "all()",
            "role == 'rr'",
            "10.0.0.1"
        ]),
        "[ -~]{0,70}".prop_map(Value::from),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    proptest::sample::select(vec![0_u32, 1, 2, 32, 33, 128, 179, 1024, 4095, 64_512, 65_001, u32::MAX])
        .prop_map(Value::from)
}

fn cidr() -> impl Strategy<Value = Value> {
    one_of([
        "10.0.0.0/8",
        "10.1.0.0/26",
        "10.1.2.3/32",
        "0.0.0.0/0",
        "fd00::/8",
        "fd00:1::/122",
        "::/0",
        "10.1.2.3/8",
        "x",
    ])
}

fn address() -> impl Strategy<Value = Value> {
    one_of([
        "10.9.0.2",
        "10.9.0.3:178",
        "[fd09::3]:178",
        "fd09::2",
        "10.9.0.1",
        "224.0.0.1",
        "fe80::1",
        "::",
        "x; y",
    ])
}

fn duration() -> impl Strategy<Value = Value> {
    one_of(["1s", "2m0s", "1h", "4095s", "100s", "-1s", "soon"])
}

fn maybe(
    name: &'static str,
    value: impl Strategy<Value = Value> + 'static,
) -> BoxedStrategy<(&'static str, Value)> {
    prop_oneof![Just((name, Value::Null)), value.prop_map(move |value| (name, value))].boxed()
}

fn object(fields: Vec<BoxedStrategy<(&'static str, Value)>>) -> impl Strategy<Value = Value> {
    fields.prop_map(|fields| {
        let set = fields.into_iter().filter(|(_, value)| !value.is_null());
        Value::Object(set.map(|(name, value)| (name.to_owned(), value)).collect())
    })
}

fn list(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    proptest::collection::vec(value, 0..3).prop_map(Value::from)
}

fn community() -> impl Strategy<Value = Value> {
    one_of(["1:2", "65535:65535", "65536:1", "1:2:3", "4294967295:1:1", "named", "1:2); reject; ("])
}

fn rule() -> impl Strategy<Value = Value> {
    object(vec![
        maybe("cidr", cidr()),
        maybe("matchOperator", one_of(["Equal", "NotEqual", "In", "NotIn"])),
        maybe("prefixLength", object(vec![maybe("min", number()), maybe("max", number())])),
        maybe("source", one_of(["RemotePeers", "x"])),
        maybe("interface", text()),
        maybe("peerType", one_of(["eBGP", "iBGP"])),
        maybe("communities", list(community()).prop_map(|values| json!({ "values": values }))),
        maybe("asPathPrefix", list(number())),
        maybe("priority", number()),
        one_of(["Accept", "Reject"]).prop_map(|word| ("action", word)).boxed(),
        maybe("operations", list(community().prop_map(|value| json!({"addCommunity": {"value": value}})))),
    ])
}

fn filter() -> impl Strategy<Value = Value> {
    object(vec![
        maybe("importV4", list(rule())),
        maybe("exportV4", list(rule())),
        maybe("importV6", list(rule())),
        maybe("exportV6", list(rule())),
    ])
}

fn peer() -> impl Strategy<Value = Value> {
    object(vec![
        maybe("peerIP", address()),
        maybe("asNumber", number()),
        maybe("localASNumber", number()),
        maybe("peerSelector", text()),
        maybe("nodeSelector", text()),
        maybe("keepOriginalNextHop", any::<bool>().prop_map(Value::from)),
        maybe("nextHopMode", one_of(["Auto", "Self", "Keep", "x"])),
        maybe("sourceAddress", one_of(["UseNodeIP", "None", "x"])),
        maybe("maxRestartTime", duration()),
        maybe("keepaliveTime", duration()),
        maybe("numAllowedLocalASNumbers", proptest::sample::select(vec![-1, 0, 1, 10]).prop_map(Value::from)),
        maybe("ttlSecurity", proptest::sample::select(vec![0, 1, 2, 255]).prop_map(Value::from)),
        maybe("reachableBy", address()),
        maybe("filters", list(one_of(["f1", "f2", "f3", "'; accept; #"]))),
    ])
}

fn node() -> impl Strategy<Value = Value> {
    object(vec![
        maybe("asNumber", number()),
        maybe("ipv4Address", one_of(["10.9.0.1/24", "10.9.0.2/24", "10.9.0.3/24", "x"])),
        maybe("ipv6Address", one_of(["fd09::1/64", "fd09::2/64", "fd09::3/64", "x"])),
        maybe("routeReflectorClusterID", one_of(["1.0.0.1", "0.0.0.0", "x"])),
    ])
    .prop_map(|bgp| json!({ "bgp": bgp }))
}

fn pool() -> impl Strategy<Value = Value> {
    object(vec![
        one_of(["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "fd00:1::/64"])
            .prop_map(|cidr| ("cidr", cidr))
            .boxed(),
        maybe("vxlanMode", one_of(["Never", "Always", "CrossSubnet"])),
        maybe("ipipMode", one_of(["Never", "Always", "CrossSubnet"])),
        maybe("disableBGPExport", any::<bool>().prop_map(Value::from)),
    ])
}

fn configuration() -> impl Strategy<Value = Value> {
    object(vec![
        maybe("logSeverityScreen", one_of(["None", "Debug", "Info", "Warning", "Error", "Fatal", "x"])),
        maybe("nodeToNodeMeshEnabled", any::<bool>().prop_map(Value::from)),
        maybe("asNumber", number()),
        maybe("communities", Just(json!([{"name": "named", "value": "7:7"}]))),
        maybe(
            "prefixAdvertisements",
            list((cidr(), list(community())).prop_map(|(cidr, of)| json!({"cidr": cidr, "communities": of}))),
        ),
        maybe("listenPort", proptest::sample::select(vec![0, 1, 179, 65_535]).prop_map(Value::from)),
        maybe("nodeMeshMaxRestartTime", duration()),
        maybe("bindMode", one_of(["None", "NodeIP", "x"])),
        maybe("ignoredInterfaces", list(text())),
        maybe(
            "programClusterRoutes",
            one_of(["Disabled", "Enabled", "EnabledIPIPOnly", "EnabledNoEncapOnly", "x"]),
        ),
        maybe("ipv4NormalRoutePriority", number()),
        maybe("ipv6NormalRoutePriority", number()),
    ])
}

fn worlds() -> impl Strategy<Value = World> {
    let several = |spec| proptest::collection::vec(spec, 0..4);
    let parts = (
        several(node().boxed()),
        several(peer().boxed()),
        several(filter().boxed()),
        several(pool().boxed()),
        proptest::collection::vec(configuration(), 2),
        proptest::sample::subsequence(
            vec!["ipv4/block/10.1.0.0-26", "ipv4/block/10.1.2.3-32", "ipv6/block/fd00:1::-122"],
            0..=3,
        ),
    );
    parts.prop_map(|(nodes, peers, filters, pools, configurations, blocks)| {
        let mut world = World::new(NodeName::new("n0").unwrap());
        let mut put = |plural: &str, name: String, spec: &Value| {
            let document = json!({"metadata": {"name": name, "labels": {"role": "rr"}}, "spec": spec});
            world.update(&format!("{ROOT}/{plural}/{name}"), Some(document.to_string().as_bytes()));
        };
        for (plural, initial, specs) in
            [("nodes", "n", &nodes), ("bgppeers", "p", &peers), ("ippools", "i", &pools)]
        {
            for (place, spec) in specs.iter().enumerate() {
                put(plural, format!("{initial}{place}"), spec);
            }
        }
        for (name, spec) in ["f1", "f2", "'; accept; #"].into_iter().zip(&filters) {
            put("bgpfilters", name.to_owned(), spec);
        }
        for (name, spec) in ["default", "node.n0"].into_iter().zip(&configurations) {
            put("bgpconfigurations", name.to_owned(), spec);
        }
        for block in blocks {
            world.update(&format!("/calico/ipam/v2/host/n0/{block}"), Some(b""));
        }
        world
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bird_takes_whatever_comes_out(world in worlds()) {
        if let Ok(rendering) = render(&world, Setup { router_id: RouterId::Hash, blackholes: false })
            && bird_is_there()
        {
            let refused = refusal(&rendering.text);
            prop_assert!(refused.is_empty(), "{}\n{}", refused, rendering.text);
        }
    }
}
