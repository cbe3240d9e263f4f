//! What BIRD's configuration is made of: resources of the datastore, and the blocks of this node.

use crate::model::{
    AffinityState, BgpConfigurationSpec, BgpFilterSpec, BgpPeerSpec, BlockAffinity, Cidr, IpPoolSpec,
    IpVersion, Kind, NodeName, NodeSpec, Resource, key,
};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// Resources of one kind, by name.
type Named<S> = BTreeMap<String, Resource<S>>;

/// Everything that stands in the datastore and matters to BGP on one node.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// This node.
    pub node: NodeName,
    /// All nodes, this one too.
    pub nodes: Named<NodeSpec>,
    /// `default` and `node.NAME`.
    pub configurations: Named<BgpConfigurationSpec>,
    /// Peers besides the mesh, of all nodes.
    pub peers: Named<BgpPeerSpec>,
    /// Filters that peers name.
    pub filters: Named<BgpFilterSpec>,
    /// All pools, also those that are closed.
    pub pools: Named<IpPoolSpec>,
    /// The blocks that this node has claimed for good.
    pub blocks: BTreeSet<Cidr>,
    /// Why documents cannot be read, by key.
    pub unreadable: BTreeMap<String, String>,
}

impl World {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            nodes: Named::new(),
            configurations: Named::new(),
            peers: Named::new(),
            filters: Named::new(),
            pools: Named::new(),
            blocks: BTreeSet::new(),
            unreadable: BTreeMap::new(),
        }
    }

    /// Prefixes of all keys that matter.
    #[must_use]
    pub fn prefixes(node: &NodeName) -> Vec<String> {
        vec![
            key::resources::<NodeSpec>(),
            key::resources::<BgpConfigurationSpec>(),
            key::resources::<BgpPeerSpec>(),
            key::resources::<BgpFilterSpec>(),
            key::resources::<IpPoolSpec>(),
            key::affinities(node, IpVersion::V4),
            key::affinities(node, IpVersion::V6),
        ]
    }

    /// Takes in one key: its value, or that it is gone.
    pub fn update(&mut self, key: &str, value: Option<&[u8]>) {
        self.unreadable.remove(key);
        let read = if let Some((node, block)) = key::parse_affinity(key) {
            if node == self.node { self.update_block(block, value) } else { Ok(()) }
        } else {
            put(&mut self.nodes, key, value)
                .or_else(|| put(&mut self.configurations, key, value))
                .or_else(|| put(&mut self.peers, key, value))
                .or_else(|| put(&mut self.filters, key, value))
                .or_else(|| put(&mut self.pools, key, value))
                .unwrap_or(Ok(()))
        };
        if let Err(why) = read {
            self.unreadable.insert(key.to_owned(), why);
        }
    }

    /// Why nothing can be made of this world: without settings that are there and cannot be read there would be another AS number
    /// or a mesh that was switched off, and without a pool routes that it keeps back or leaves to a tunnel.
    pub(super) fn obstacle(&self) -> Option<&str> {
        let settings = ["default".to_owned(), format!("node.{}", self.node)];
        let settings = settings.map(|name| key::resource::<BgpConfigurationSpec>(&name));
        let pools = key::resources::<IpPoolSpec>();
        let needed = |key: &String| settings.contains(key) || key.starts_with(&pools);
        self.unreadable.iter().find(|(key, _)| needed(key)).map(|(_, why)| why.as_str())
    }

    /// Whether a resource is there and cannot be read.
    pub(super) fn is_unreadable<S: Kind>(&self, name: &str) -> bool {
        self.unreadable.contains_key(&key::resource::<S>(name))
    }

    /// Only claims that are confirmed count: a pending block may still become another node's.
    fn update_block(&mut self, block: Cidr, value: Option<&[u8]>) -> Result<(), String> {
        self.blocks.remove(&block);
        let Some(value) = value else { return Ok(()) };
        let claim = BlockAffinity::decode(value)
            .map_err(|error| format!("this node's claim on block {block} cannot be read: {error}"))?;
        if claim.state == AffinityState::Confirmed && !claim.deleted {
            self.blocks.insert(block);
        }
        Ok(())
    }
}

/// Puts a document in the map of its kind, or takes it out; `None` if the key is of another kind.
fn put<S>(map: &mut Named<S>, key: &str, value: Option<&[u8]>) -> Option<Result<(), String>>
where
    S: Kind + DeserializeOwned,
{
    let root = key::resources::<S>();
    let name = key.strip_prefix(&root)?;
    let Some(value) = value else {
        map.remove(name);
        return Some(Ok(()));
    };
    // What was there before is not what is there now: a document that cannot be read is not used in its older form.
    map.remove(name);
    match serde_json::from_slice::<Resource<S>>(value) {
        Ok(document) => {
            map.insert(name.to_owned(), document);
            Some(Ok(()))
        }
        Err(error) => Some(Err(format!("{} {name} cannot be read: {error}", S::KIND))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World::new(NodeName::new("n1").unwrap())
    }

    #[test]
    fn only_confirmed_claims_of_this_node_count() {
        let mut world = world();
        let key = |node: &str, block: &str| format!("/calico/ipam/v2/host/{node}/ipv4/block/{block}");
        world.update(&key("n1", "10.1.0.0-26"), Some(br#"{"state":"confirmed","deleted":false}"#));
        world.update(&key("n1", "10.1.0.64-26"), Some(br#"{"state":"pending","deleted":false}"#));
        world.update(&key("n1", "10.1.0.128-26"), Some(b""));
        world.update(&key("n2", "10.1.0.192-26"), Some(br#"{"state":"confirmed","deleted":false}"#));
        let blocks: Vec<String> = world.blocks.iter().map(ToString::to_string).collect();
        assert_eq!(blocks, ["10.1.0.0/26", "10.1.0.128/26"]);
        world.update(&key("n1", "10.1.0.0-26"), Some(br#"{"state":"pendingDeletion","deleted":false}"#));
        world.update(&key("n1", "10.1.0.128-26"), None);
        assert!(world.blocks.is_empty());
    }

    #[test]
    fn a_document_that_cannot_be_read_is_named_until_it_can() {
        let mut world = world();
        let key = "/calico/resources/v3/projectcalico.org/bgppeers/tor";
        world.update(key, Some(br#"{"metadata":{"name":"tor"},"spec":{"asNumber":"many"}}"#));
        assert!(world.unreadable[key].starts_with("BGPPeer tor cannot be read"), "{:?}", world.unreadable);
        world.update(key, Some(br#"{"metadata":{"name":"tor"},"spec":{"asNumber":65001}}"#));
        assert!(world.unreadable.is_empty());
        assert!(world.peers.contains_key("tor"));
        world.update(key, None);
        assert!(world.peers.is_empty());
    }
}
