//! Calico's documents into what routes depend on. Pure.

use super::view::{Block, Encap, Face, Felix, Node, NodeAddress, Pool};
use crate::model::{
    AllocationBlock, BgpConfigurationSpec, Cidr, EncapMode, FelixConfigurationSpec, IpPoolSpec, IpVersion,
    MacAddress, NodeSpec, Resource, key,
};
use serde::de::DeserializeOwned;
use std::net::IpAddr;

/// What a key holds.
pub(super) enum Kind<'a> {
    Pool(&'a str),
    Node(&'a str),
    Felix(&'a str),
    Bgp(&'a str),
    Block(Cidr),
}

pub(super) fn kind_of(key: &str) -> Option<Kind<'_>> {
    if key.starts_with(key::BLOCK_ROOT) {
        return key::parse_block(key).map(Kind::Block);
    }
    let name = |prefix: String| key.strip_prefix(prefix.as_str()).filter(|name| !name.contains('/'));
    name(key::resources::<IpPoolSpec>())
        .map(Kind::Pool)
        .or_else(|| name(key::resources::<NodeSpec>()).map(Kind::Node))
        .or_else(|| name(key::resources::<FelixConfigurationSpec>()).map(Kind::Felix))
        .or_else(|| name(key::resources::<BgpConfigurationSpec>()).map(Kind::Bgp))
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

pub(super) fn pool(value: &[u8]) -> Result<Pool, String> {
    let pool: Resource<IpPoolSpec> = read(value)?;
    let spec = &pool.spec;
    let encap = match (spec.vxlan(), spec.ipip()) {
        (EncapMode::Never, EncapMode::Never) => Encap::None,
        (EncapMode::Never, mode) => Encap::Ipip { cross_subnet: mode == EncapMode::CrossSubnet },
        (mode, _) => Encap::Vxlan { cross_subnet: mode == EncapMode::CrossSubnet },
    };
    Ok(Pool {
        cidr: spec.cidr,
        encap,
        // Of those for manual assignment, too: a tunnel's address is asked for by its pool
        // (`node/pkg/allocateip/allocateip.go`, `determineEnabledPoolCIDRs`).
        tunnels: pool.is_enabled() && spec.allows_use("Tunnel"),
        node_selector: spec.node_selector.clone().unwrap_or_default(),
    })
}

/// Whether BIRD, where it runs, programs routes of pools without encapsulation.
pub(super) fn bgp(value: &[u8]) -> Result<bool, String> {
    Ok(read::<Resource<BgpConfigurationSpec>>(value)?.spec.programs_no_encap())
}

pub(super) fn felix(value: &[u8]) -> Result<Felix, String> {
    let spec = read::<Resource<FelixConfigurationSpec>>(value)?.spec;
    let given = |number: Option<u32>| number.filter(|number| *number != 0);
    let external = spec.external_nodes_list.map(|listed| {
        let read = |text: &String| Cidr::parse_masking(text).map_err(|error| error.to_string());
        listed.iter().map(read).collect::<Result<Vec<Cidr>, String>>()
    });
    Ok(Felix {
        vni: given(spec.vxlan_vni),
        port: spec.vxlan_port.filter(|port| *port != 0),
        mtu: given(spec.vxlan_mtu),
        mtu_v6: given(spec.vxlan_mtu_v6),
        enabled: spec.vxlan_enabled,
        external: external.transpose()?,
    })
}

pub(super) fn node(name: &str, value: &[u8]) -> Result<Node, String> {
    let node: Resource<NodeSpec> = read(value)?;
    let spec = &node.spec;
    let bgp = spec.bgp.as_ref();
    let given =
        [bgp.and_then(|bgp| bgp.ipv4_address.as_deref()), bgp.and_then(|bgp| bgp.ipv6_address.as_deref())];
    let [v4, v6] = [IpVersion::V4, IpVersion::V6];
    let tunnel = |text: &Option<String>, version| text.as_deref().map(|text| ip(text, version)).transpose();
    let face = |version, given: Option<&str>, tunnel: Option<IpAddr>, mac: &Option<String>| {
        let address = match given.filter(|text| !text.is_empty()) {
            Some(text) => Some(address(text, version)?),
            None => other_address(spec, version),
        };
        let mac = match mac.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => text.parse().map_err(|_| format!("{text:?} is no Ethernet address"))?,
            None => mac_of(name, version),
        };
        Ok::<Face, String>(Face { address, tunnel, mac: tunnel.map(|_| mac) })
    };
    let tunnels = [tunnel(&spec.ipv4_vxlan_tunnel_addr, v4)?, tunnel(&spec.ipv6_vxlan_tunnel_addr, v6)?];
    let ([given4, given6], [tunnel4, tunnel6]) = (given, tunnels);
    Ok(Node {
        v4: face(v4, given4, tunnel4.flatten(), &spec.vxlan_tunnel_mac_addr)?,
        v6: face(v6, given6, tunnel6.flatten(), &spec.vxlan_tunnel_mac_addr_v6)?,
        labels: node.metadata.labels.clone().unwrap_or_default(),
    })
}

fn ip(text: &str, version: IpVersion) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<IpAddr>() {
        Ok(ip) if IpVersion::of(ip) == version => Ok(Some(ip)),
        _ => Err(format!("{text:?} is no {version} address")),
    }
}

/// `192.0.2.1/24`; without a length the node is alone in its subnet.
fn address(text: &str, version: IpVersion) -> Result<NodeAddress, String> {
    let plain = text.split('/').next().unwrap_or(text);
    let subnet = Cidr::parse_masking(text).map_err(|error| error.to_string())?;
    match ip(plain, version)? {
        Some(ip) => Ok(NodeAddress { ip, subnet }),
        None => Err(format!("{text:?} is no {version} address")),
    }
}

/// The address of a node that has none for BGP (`updateprocessors/felixnodeprocessor.go`).
fn other_address(spec: &NodeSpec, version: IpVersion) -> Option<NodeAddress> {
    let of_kind = |kind: &str| {
        let of_kind = spec.addresses.iter().flatten().filter(|other| other.kind.as_deref() == Some(kind));
        of_kind.filter_map(|other| address(&other.address, version).ok()).next()
    };
    of_kind("InternalIP").or_else(|| of_kind("ExternalIP"))
}

/// The Ethernet address that follows from a node's name: 0x66 and five bytes of its SHA-1
/// (`felix/dataplane/linux/vxlan_mgr.go`, `hardwareAddrForNode`).
pub(super) fn mac_of(node: &str, version: IpVersion) -> MacAddress {
    let suffix = if version == IpVersion::V4 { "" } else { "-v6" };
    let [a, b, c, d, e, ..] = sha1_smol::Sha1::from(format!("{node}{suffix}")).digest().bytes();
    MacAddress([0x66, a, b, c, d, e])
}

pub(super) fn block(cidr: Cidr, value: &[u8]) -> Result<Block, String> {
    let block: AllocationBlock = read(value)?;
    if block.cidr != cidr {
        return Err(format!("it says that it is block {}", block.cidr));
    }
    let owner = block.owner().map(str::to_owned);
    let mut found = Block { owner, ..Block::default() };
    for (ordinal, index) in block.allocations.iter().enumerate() {
        let holder = index
            .and_then(|index| block.attributes.get(index))
            .and_then(|attribute| attribute.secondary.as_ref().and_then(|secondary| secondary.get("node")));
        let Some(holder) = holder.filter(|holder| Some(holder.as_str()) != found.owner.as_deref()) else {
            continue;
        };
        let ip = u128::try_from(ordinal).ok().and_then(|ordinal| cidr.nth(ordinal));
        let ip = ip.ok_or_else(|| format!("it has more than the {} addresses of its prefix", cidr.size()))?;
        found.borrowed.insert(ip, holder.clone());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_addresses_are_felixs() {
        // `printf docker-1 | sha1sum` begins with 96381779bb.
        assert_eq!(mac_of("docker-1", IpVersion::V4).to_string(), "66:96:38:17:79:bb");
        assert_ne!(mac_of("docker-1", IpVersion::V6), mac_of("docker-1", IpVersion::V4));
    }

    #[test]
    fn tunnel_addresses_come_from_pools_that_allow_it() {
        let tunnels = |fields: &str| {
            let text = format!(
                r#"{{"metadata": {{"name": "p"}}, "spec": {{"cidr": "10.0.0.0/16", "vxlanMode": "Always"{fields}}}}}"#
            );
            pool(text.as_bytes()).unwrap().tunnels
        };
        assert!(tunnels("") && tunnels(r#", "assignmentMode": "Manual""#));
        assert!(!tunnels(r#", "disabled": true"#) && !tunnels(r#", "allowedUses": ["Workload"]"#));
    }

    #[test]
    fn a_nodes_address_has_a_subnet() {
        let found = address("192.0.2.7/25", IpVersion::V4).unwrap();
        assert_eq!(
            (found.ip.to_string(), found.subnet.to_string()),
            ("192.0.2.7".into(), "192.0.2.0/25".into())
        );
        assert_eq!(address("192.0.2.7", IpVersion::V4).unwrap().subnet.prefix_len(), 32);
        assert!(address("fd00::1/64", IpVersion::V4).is_err() && address("here", IpVersion::V4).is_err());
    }

    #[test]
    fn who_borrows_is_found() {
        let text = br#"{"cidr":"10.0.0.0/30","affinity":"host:a","allocations":[0,1,2,null],"attributes":[
            {"secondary":{"node":"a"}},{"secondary":{"node":"b"}},{}],"unallocated":[3]}"#;
        let cidr = "10.0.0.0/30".parse().unwrap();
        let found = block(cidr, text).unwrap();
        assert_eq!(found.owner.as_deref(), Some("a"));
        assert_eq!(found.borrowed, [("10.0.0.1".parse().unwrap(), "b".to_owned())].into());
        assert!(block("10.0.0.4/30".parse().unwrap(), text).is_err());
    }
}
