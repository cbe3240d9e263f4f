//! Pools: what is wrong with one, alone and beside others.

use super::document::Document;
use super::shape::Problems;
use crate::ipam::is_block_size;
use crate::model::{Cidr, EncapMode, IpPoolSpec, IpVersion, Resource, key};
use crate::store::{Store, StoreError, typed};
use serde_json::{Map, Value};

/// What is wrong with a pool's spec, whose fields have their forms.
pub(super) fn check(spec: &Map<String, Value>, problems: &mut Problems) {
    let spec: IpPoolSpec = match serde_json::from_value(Value::Object(spec.clone())) {
        Ok(spec) => spec,
        Err(error) => return problems.say("spec", error),
    };
    let (cidr, version) = (spec.cidr, spec.cidr.version());
    let size = if spec.block_size.is_none_or(|size| size == 0) {
        IpPoolSpec::default_block_size(cidr)
    } else {
        spec.block_size()
    };
    if !is_block_size(version, size) {
        let range = match version {
            IpVersion::V4 => "20 to 32",
            IpVersion::V6 => "116 to 128",
        };
        problems.say("spec.blockSize", format!("{range} is expected for {version}, not {size}"));
    } else if cidr.prefix_len() > size && !spec.disabled {
        problems.say("spec.cidr", format!("{cidr} is smaller than one block of /{size}"));
    }
    let linked = match version {
        IpVersion::V4 => "169.254.0.0/16",
        IpVersion::V6 => "fe80::/10",
    };
    if linked.parse::<Cidr>().is_ok_and(|linked| linked.overlaps(&cidr)) {
        problems.say("spec.cidr", format!("{cidr} overlaps {linked}, the addresses of single links"));
    }
    encapsulation(&spec, problems);
    uses(&spec, problems);
}

fn encapsulation(spec: &IpPoolSpec, problems: &mut Problems) {
    let on = |mode: Option<EncapMode>| mode.is_some_and(|mode| mode != EncapMode::Never);
    if on(spec.ipip_mode) && spec.cidr.version() == IpVersion::V6 {
        problems.say("spec.ipipMode", "there is no IP in IP for IPv6; vxlanMode works");
    }
    if on(spec.ipip_mode) && on(spec.vxlan_mode) {
        problems.say("spec.ipipMode", "it cannot be on together with vxlanMode");
    }
}

fn uses(spec: &IpPoolSpec, problems: &mut Problems) {
    let uses = spec.allowed_uses.as_deref().unwrap_or_default();
    let has = |use_: &str| uses.iter().any(|it| it == use_);
    if has("LoadBalancer") && uses.len() > 1 {
        problems.say("spec.allowedUses", "LoadBalancer stands alone");
    }
    if has("LoadBalancer") && spec.node_selector.as_deref().is_some_and(|it| !matches!(it, "" | "all()")) {
        problems.say("spec.nodeSelector", "all() is expected with LoadBalancer");
    }
    // A pool whose uses are left out is for workloads and tunnels.
    if (has("Tunnel") || uses.is_empty())
        && spec.namespace_selector.as_deref().is_some_and(|it| !it.is_empty())
    {
        problems.say("spec.namespaceSelector", "it cannot stand together with Tunnel in allowedUses");
    }
    for (field, selector) in
        [("nodeSelector", &spec.node_selector), ("namespaceSelector", &spec.namespace_selector)]
    {
        if selector.as_deref().is_some_and(|selector| selector.contains("global(")) {
            problems.say(&format!("spec.{field}"), "global() means nothing here");
        }
    }
}

/// What Calico refuses of an IPAMConfiguration.
pub(super) fn configuration(spec: &Map<String, Value>, problems: &mut Problems) {
    let flag = |field: &str| spec.get(field).and_then(Value::as_bool).unwrap_or_default();
    if !flag("strictAffinity") && !flag("autoAllocateBlocks") {
        problems.say("spec.autoAllocateBlocks", "it must be true without strictAffinity");
    }
    let limit = spec.get("maxBlocksPerHost").and_then(Value::as_u64).unwrap_or_default();
    if limit > 0 && !flag("strictAffinity") {
        problems.say("spec.maxBlocksPerHost", "a limit needs strictAffinity");
    }
}

/// What keeps a completed pool out of the datastore: other pools, blocks of another size, its own former self.
pub(super) async fn beside_others(
    store: &dyn Store,
    document: &Document,
    former: Option<&Value>,
) -> Result<Vec<String>, StoreError> {
    let mut problems = Problems::default();
    let spec = document.value.get("spec").cloned().unwrap_or_default();
    let Ok(spec) = serde_json::from_value::<IpPoolSpec>(spec) else { return Ok(Vec::new()) };
    if let Some(former) = former.and_then(|value| value.get("spec")).cloned()
        && let Ok(former) = serde_json::from_value::<IpPoolSpec>(former)
    {
        if former.cidr != spec.cidr {
            let why = format!("it is {} and cannot be changed; make another pool", former.cidr);
            problems.say("spec.cidr", why);
        }
        if former.block_size() != spec.block_size() {
            let why = format!("it is {} and cannot be changed; make another pool", former.block_size());
            problems.say("spec.blockSize", why);
        }
        return Ok(problems.0);
    }
    for pool in typed::list::<Resource<IpPoolSpec>>(store, &key::resources::<IpPoolSpec>()).await? {
        let other = &pool.value;
        if other.name() != document.name && other.spec.cidr.overlaps(&spec.cidr) {
            let why = format!("{} overlaps pool {} ({})", spec.cidr, other.name(), other.spec.cidr);
            problems.say("spec.cidr", why);
        }
    }
    let blocks = store.list(&key::blocks(spec.cidr.version())).await?;
    let other_size = blocks
        .entries
        .iter()
        .filter_map(|entry| key::parse_block(&entry.key))
        .find(|block| block.overlaps(&spec.cidr) && block.prefix_len() != spec.block_size());
    if let Some(block) = other_size {
        let why = format!("block {block} of a former pool has another size; release its addresses first");
        problems.say("spec.blockSize", why);
    }
    Ok(problems.0)
}

#[cfg(test)]
mod tests {
    use crate::resource::{check, read};

    #[track_caller]
    fn wrong(spec: &str, sentence: &str) {
        let text =
            format!("kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {{name: a}}\nspec: {spec}\n");
        assert_eq!(check(&read(&text).unwrap()[0]), [sentence], "{spec}");
    }

    #[test]
    fn pools_that_cannot_work_are_refused() {
        wrong(
            "{cidr: 10.1.2.3/16}",
            r#"spec.cidr: the host's bits are set: 10.1.0.0/16 is expected, not "10.1.2.3/16""#,
        );
        wrong("{cidr: 10.1/16}", r#"spec.cidr: an IP prefix such as 10.1.0.0/24 is expected, not "10.1/16""#);
        wrong("{cidr: 10.1.0.0/16, blockSize: 8}", "spec.blockSize: 20 to 32 is expected for IPv4, not 8");
        wrong(
            "{cidr: 'fd00::/64', blockSize: 64}",
            "spec.blockSize: 116 to 128 is expected for IPv6, not 64",
        );
        wrong(
            "{cidr: 10.1.0.0/28, blockSize: 26}",
            "spec.cidr: 10.1.0.0/28 is smaller than one block of /26",
        );
        wrong(
            "{cidr: 169.254.8.0/24}",
            "spec.cidr: 169.254.8.0/24 overlaps 169.254.0.0/16, the addresses of single links",
        );
        wrong(
            "{cidr: 'fd00::/64', ipipMode: Always}",
            "spec.ipipMode: there is no IP in IP for IPv6; vxlanMode works",
        );
        wrong(
            "{cidr: 10.1.0.0/16, ipipMode: Always, vxlanMode: Always}",
            "spec.ipipMode: it cannot be on together with vxlanMode",
        );
        wrong(
            "{cidr: 10.1.0.0/16, nodeSelector: global()}",
            "spec.nodeSelector: global() means nothing here",
        );
    }

    #[test]
    fn a_pool_for_namespaces_is_not_for_tunnels() {
        for uses in ["", ", allowedUses: []", ", allowedUses: [Workload, Tunnel]"] {
            wrong(
                &format!("{{cidr: 10.1.0.0/16, namespaceSelector: has(a){uses}}}"),
                "spec.namespaceSelector: it cannot stand together with Tunnel in allowedUses",
            );
        }
    }

    #[test]
    fn a_pool_without_prefix_is_refused() {
        let text = "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: a}\nspec: {}\n";
        let found = check(&read(text).unwrap()[0]);
        assert!(found.len() == 1 && found[0].contains("cidr"), "{found:?}");
    }
}
