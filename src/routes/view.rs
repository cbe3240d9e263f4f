//! What the datastore says about blocks, pools, nodes and settings, and what each change of it touches. Pure.
//!
//! A document that cannot be read leaves what was known of it as it was, and is told as a problem: a typing error must
//! not cut traffic.

use super::parse;
use crate::model::{Cidr, IpVersion, MacAddress, key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How traffic between nodes of a pool is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encap {
    /// As it is.
    None,
    /// In VXLAN; only between nodes of different subnets if `cross_subnet`.
    Vxlan {
        /// `CrossSubnet` and not `Always`.
        cross_subnet: bool,
    },
    /// In IP, which this version does not do.
    Ipip {
        /// `CrossSubnet` and not `Always`.
        cross_subnet: bool,
    },
}

/// A pool, as far as routes depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) cidr: Cidr,
    pub(super) encap: Encap,
    /// Whether tunnel addresses may be taken from it, by the nodes that its selector selects.
    pub(super) tunnels: bool,
    pub(super) node_selector: String,
}

/// An address of a node with the subnet that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeAddress {
    pub(super) ip: IpAddr,
    pub(super) subnet: Cidr,
}

/// What routes depend on of one IP version of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Face {
    pub(super) address: Option<NodeAddress>,
    /// Address of its VXLAN device.
    pub(super) tunnel: Option<IpAddr>,
    /// Ethernet address of that device.
    pub(super) mac: Option<MacAddress>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) v4: Face,
    pub(super) v6: Face,
    pub(super) labels: BTreeMap<String, String>,
}

impl Node {
    pub(super) fn face(&self, version: IpVersion) -> &Face {
        match version {
            IpVersion::V4 => &self.v4,
            IpVersion::V6 => &self.v6,
        }
    }
}

/// A block: its owner, and who has borrowed addresses of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) owner: Option<String>,
    /// Addresses that belong to another node than the block does.
    pub(super) borrowed: BTreeMap<IpAddr, String>,
}

/// Settings from FelixConfiguration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Felix {
    pub(super) vni: Option<u32>,
    pub(super) port: Option<u16>,
    pub(super) mtu: Option<u32>,
    pub(super) mtu_v6: Option<u32>,
    /// Whether there is VXLAN at all.
    pub(super) enabled: Option<bool>,
    /// Who may send VXLAN besides nodes.
    pub(super) external: Option<Vec<Cidr>>,
}

/// What a change touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Touched {
    Nothing,
    /// The routes of these blocks.
    Blocks(BTreeSet<Cidr>),
    /// What is behind the tunnels, and the routes of these blocks.
    Node(BTreeSet<Cidr>),
    /// Everything.
    All,
}

/// Who claims an address; the same for tunnel and Ethernet addresses.
type Claims<K> = BTreeMap<K, BTreeSet<String>>;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// This node.
    pub(super) me: String,
    pub(super) pools: BTreeMap<String, Pool>,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) blocks: BTreeMap<Cidr, Block>,
    /// Whether BIRD runs on this node.
    pub(super) bird: bool,
    /// Whether the cluster takes routes of pools without encapsulation from it.
    bird_is_barred: bool,
    felix_default: Felix,
    felix_own: Felix,
    /// Whether there is a FelixConfiguration `default`.
    pub(super) has_felix_default: bool,
    /// Blocks by the nodes that own or borrow of them.
    blocks_of: BTreeMap<String, BTreeSet<Cidr>>,
    hosts: Claims<IpAddr>,
    tunnels: Claims<IpAddr>,
    macs: Claims<MacAddress>,
    /// What cannot be read, by key.
    pub(super) broken: BTreeMap<String, String>,
}

impl View {
    pub(super) fn new(me: &str) -> Self {
        Self { me: me.to_owned(), ..Self::default() }
    }

    /// The same with the knowledge whether BIRD runs on this node.
    pub(super) fn beside(self, bird: bool) -> Self {
        Self { bird, ..self }
    }

    /// Takes in a document, or that it is gone.
    pub(super) fn update(&mut self, key: &str, value: Option<&[u8]>) -> Touched {
        let outcome = match parse::kind_of(key) {
            Some(parse::Kind::Pool(name)) => self.put_pool(name, value),
            Some(parse::Kind::Node(name)) => self.put_node(name, value),
            Some(parse::Kind::Felix(name)) => self.put_felix(name, value),
            Some(parse::Kind::Bgp(name)) => self.put_bgp(name, value),
            Some(parse::Kind::Block(cidr)) => self.put_block(cidr, value),
            None => Ok(Touched::Nothing),
        };
        match outcome {
            Ok(touched) => {
                self.broken.remove(key);
                touched
            }
            Err(why) => {
                self.broken
                    .insert(key.to_owned(), format!("{key} cannot be read and stays without effect: {why}"));
                Touched::Nothing
            }
        }
    }

    fn put_pool(&mut self, name: &str, value: Option<&[u8]>) -> Result<Touched, String> {
        let before = self.pools.get(name).cloned();
        let after = value.map(parse::pool).transpose()?;
        if before == after {
            return Ok(Touched::Nothing);
        }
        match after {
            Some(pool) => self.pools.insert(name.to_owned(), pool),
            None => self.pools.remove(name),
        };
        Ok(Touched::All)
    }

    fn put_bgp(&mut self, name: &str, value: Option<&[u8]>) -> Result<Touched, String> {
        let barred = value.map(parse::bgp).transpose()?.is_some_and(|programs| !programs);
        if name != "default" || barred == self.bird_is_barred {
            return Ok(Touched::Nothing);
        }
        self.bird_is_barred = barred;
        Ok(if self.bird { Touched::All } else { Touched::Nothing })
    }

    /// Whether routes to other nodes' addresses in a pool are BIRD's: each destination has one owner.
    pub(super) fn is_of_bird(&self, pool: &Pool) -> bool {
        self.bird && !self.bird_is_barred && pool.encap == Encap::None
    }

    fn put_felix(&mut self, name: &str, value: Option<&[u8]>) -> Result<Touched, String> {
        let after = value.map(parse::felix).transpose()?;
        let own = name.strip_prefix("node.") == Some(self.me.as_str());
        let before = (self.felix(), self.has_felix_default);
        match name {
            "default" => {
                self.has_felix_default = after.is_some();
                self.felix_default = after.unwrap_or_default();
            }
            _ if own => self.felix_own = after.unwrap_or_default(),
            _ => return Ok(Touched::Nothing),
        }
        let changed = before != (self.felix(), self.has_felix_default);
        Ok(if changed { Touched::All } else { Touched::Nothing })
    }

    fn put_node(&mut self, name: &str, value: Option<&[u8]>) -> Result<Touched, String> {
        let after = value.map(|value| parse::node(name, value)).transpose()?;
        let before = self.nodes.get(name).cloned();
        if before == after {
            return Ok(Touched::Nothing);
        }
        // Whoever shared an address with it may win or lose it.
        let mut touched = self.rivals(name, before.as_ref());
        before.iter().for_each(|node| self.unclaim(name, node));
        match after {
            Some(node) => {
                self.claim(name, &node);
                touched.extend(self.rivals(name, Some(&node)));
                self.nodes.insert(name.to_owned(), node);
            }
            None => drop(self.nodes.remove(name)),
        }
        if name == self.me {
            return Ok(Touched::All);
        }
        touched.insert(name.to_owned());
        let blocks = touched.iter().filter_map(|node| self.blocks_of.get(node)).flatten();
        Ok(Touched::Node(blocks.copied().collect()))
    }

    fn rivals(&self, name: &str, node: Option<&Node>) -> BTreeSet<String> {
        let mut rivals = BTreeSet::new();
        for face in node.into_iter().flat_map(|node| [&node.v4, &node.v6]) {
            let of_host = face.address.and_then(|address| self.hosts.get(&address.ip));
            let of_tunnel = face.tunnel.and_then(|ip| self.tunnels.get(&ip));
            let of_mac = face.mac.and_then(|mac| self.macs.get(&mac));
            rivals.extend([of_host, of_tunnel, of_mac].into_iter().flatten().flatten().cloned());
        }
        rivals.remove(name);
        rivals
    }

    fn claim(&mut self, name: &str, node: &Node) {
        for face in [&node.v4, &node.v6] {
            let name = || name.to_owned();
            face.address.map(|address| self.hosts.entry(address.ip).or_default().insert(name()));
            face.tunnel.map(|ip| self.tunnels.entry(ip).or_default().insert(name()));
            face.mac.map(|mac| self.macs.entry(mac).or_default().insert(name()));
        }
    }

    fn unclaim(&mut self, name: &str, node: &Node) {
        fn forget<K: Ord>(claims: &mut Claims<K>, key: Option<K>, name: &str) {
            let Some(key) = key else { return };
            let Some(names) = claims.get_mut(&key) else { return };
            names.remove(name);
            if names.is_empty() {
                claims.remove(&key);
            }
        }
        for face in [&node.v4, &node.v6] {
            forget(&mut self.hosts, face.address.map(|address| address.ip), name);
            forget(&mut self.tunnels, face.tunnel, name);
            forget(&mut self.macs, face.mac, name);
        }
    }

    fn put_block(&mut self, cidr: Cidr, value: Option<&[u8]>) -> Result<Touched, String> {
        let after = value.map(|value| parse::block(cidr, value)).transpose()?;
        if self.blocks.get(&cidr) == after.as_ref() {
            return Ok(Touched::Nothing);
        }
        let names = |block: &Block| -> Vec<String> {
            block.owner.iter().chain(block.borrowed.values()).cloned().collect()
        };
        for name in self.blocks.get(&cidr).map(names).unwrap_or_default() {
            if let Some(blocks) = self.blocks_of.get_mut(&name) {
                blocks.remove(&cidr);
            }
        }
        match after {
            Some(block) => {
                for name in names(&block) {
                    self.blocks_of.entry(name).or_default().insert(cidr);
                }
                self.blocks.insert(cidr, block);
            }
            None => drop(self.blocks.remove(&cidr)),
        }
        Ok(Touched::Blocks(BTreeSet::from([cidr])))
    }

    /// The settings of this node: its own before those of all.
    pub(super) fn felix(&self) -> Felix {
        let (own, all) = (&self.felix_own, &self.felix_default);
        Felix {
            vni: own.vni.or(all.vni),
            port: own.port.or(all.port),
            mtu: own.mtu.or(all.mtu),
            mtu_v6: own.mtu_v6.or(all.mtu_v6),
            enabled: own.enabled.or(all.enabled),
            external: own.external.clone().or_else(|| all.external.clone()),
        }
    }

    /// The narrowest pool that holds a prefix.
    pub(super) fn pool_of(&self, cidr: &Cidr) -> Option<(&str, &Pool)> {
        let holding = self.pools.iter().filter(|(_, pool)| pool.cidr.contains_cidr(cidr));
        holding.max_by_key(|(_, pool)| pool.cidr.prefix_len()).map(|(name, pool)| (name.as_str(), pool))
    }

    /// Whether FelixConfiguration forbids VXLAN, whatever pools ask for.
    pub(super) fn bars_vxlan(&self) -> bool {
        self.felix_own.enabled.or(self.felix_default.enabled) == Some(false)
    }

    /// Whether any pool of a version asks for VXLAN, and there may be any.
    pub(super) fn wants_vxlan(&self, version: IpVersion) -> bool {
        if self.bars_vxlan() {
            return false;
        }
        let of_version = self.pools.values().filter(|pool| pool.cidr.version() == version);
        of_version.into_iter().any(|pool| matches!(pool.encap, Encap::Vxlan { .. }))
    }

    /// The node to which an address is known to belong: this one, or the first by name.
    pub(super) fn host(&self, ip: IpAddr) -> Option<&str> {
        self.winner(self.hosts.get(&ip)?)
    }

    /// As [`View::host`], for the address of a VXLAN device.
    pub(super) fn tunnel(&self, ip: IpAddr) -> Option<&str> {
        self.winner(self.tunnels.get(&ip)?)
    }

    /// As [`View::host`], for the Ethernet address of a VXLAN device.
    pub(super) fn mac(&self, mac: MacAddress) -> Option<&str> {
        self.winner(self.macs.get(&mac)?)
    }

    fn winner<'a>(&'a self, names: &'a BTreeSet<String>) -> Option<&'a str> {
        names.get(&self.me).or_else(|| names.first()).map(String::as_str)
    }

    /// A node whose own address lies in a prefix.
    pub(super) fn host_within(&self, cidr: &Cidr) -> Option<(IpAddr, &str)> {
        let (ip, names) = self.hosts.range(cidr.base()..=cidr.last()).next()?;
        Some((*ip, self.winner(names)?))
    }

    /// All keys under which documents of interest stand.
    pub(super) fn prefixes() -> [String; 5] {
        use crate::model::{BgpConfigurationSpec, FelixConfigurationSpec, IpPoolSpec, NodeSpec};
        [
            key::BLOCK_ROOT.to_owned(),
            key::resources::<IpPoolSpec>(),
            key::resources::<NodeSpec>(),
            key::resources::<FelixConfigurationSpec>(),
            key::resources::<BgpConfigurationSpec>(),
        ]
    }
}
