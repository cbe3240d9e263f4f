//! Keeps this host's Node resource as the host is.

use super::detect::Seen;
use super::node_plan::{ASKED_ANNOTATION, Facts, MACHINE_ANNOTATION, plan};
use crate::config::{Detection, NodeConfig};
use crate::model::{IpVersion, NodeName, NodeSpec, ObjectMeta, Resource, key};
use crate::net::{Host, HostAddress, NetError};
use crate::store::{SharedStore, Store, StoreError, Txn, retry, typed};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Longest look-up of the name in `can-reach=`.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Why the Node could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The datastore.
    #[error("keep the Node resource: {0}")]
    Store(#[from] StoreError),
    /// The kernel.
    #[error("find this node's addresses: {0}")]
    Net(#[from] NetError),
}

impl retry::Conflicting for ClusterError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_conflict())
    }
}

/// How the Node stands after it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// The addresses that other nodes see, with prefix length: IPv4, then IPv6.
    pub addresses: [Option<String>; 2],
    /// What is wrong, each in a sentence.
    pub problems: Vec<String>,
    /// Which host wrote the Node last, if it was another one.
    pub taken_from: Option<String>,
    /// Which host has asked whether one lives under this name, and is answered by this.
    pub asked_by: Option<String>,
    /// Whether anything was written.
    pub written: bool,
}

/// Publishes this host as a Node. See [`super`] for who else writes it.
#[derive(Debug, Clone)]
pub struct NodeKeeper {
    store: SharedStore,
    host: Arc<dyn Host>,
    name: NodeName,
    config: NodeConfig,
    machine: String,
}

/// Who this host is, in its current life: two that bear one node name are told apart by it. `local` is this host's own
/// state; the boot's ID is in it because machines are cloned with their state.
///
/// # Errors
/// The local state cannot be read or written.
pub async fn machine_id(local: &dyn Store) -> Result<String, StoreError> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let stored = local.get(key::MACHINE).await?;
    let id = match stored.and_then(|entry| String::from_utf8(entry.value.to_vec()).ok()) {
        Some(id) => id,
        None => {
            let fresh = uuid::Uuid::new_v4().simple().to_string();
            local.commit(Txn::new().put(key::MACHINE, fresh.clone())).await?;
            fresh
        }
    };
    let short = |text: &str| text.chars().filter(char::is_ascii_hexdigit).take(8).collect::<String>();
    Ok(format!("{}-{}", short(&id), short(&boot)))
}

impl NodeKeeper {
    /// A keeper; `machine` is [`machine_id`].
    #[must_use]
    pub fn new(
        store: SharedStore,
        host: Arc<dyn Host>,
        name: NodeName,
        config: NodeConfig,
        machine: String,
    ) -> Self {
        Self { store, host, name, config, machine }
    }

    /// The Node's key.
    #[must_use]
    pub fn key(&self) -> String {
        key::resource::<NodeSpec>(self.name.as_str())
    }

    /// Writes what differs between the Node and the host, by compare-and-swap; nothing if nothing does.
    ///
    /// # Errors
    /// Kernel or datastore; the Node is as it was.
    pub async fn publish(&self) -> Result<Published, ClusterError> {
        let addresses = self.host.addresses().await?;
        let sources = [self.source(IpVersion::V4).await?, self.source(IpVersion::V6).await?];
        retry::on_conflict(|| self.attempt(&addresses, sources, true)).await
    }

    /// What [`NodeKeeper::publish`] would find; changes nothing.
    ///
    /// # Errors
    /// Kernel or datastore.
    pub async fn examine(&self) -> Result<Published, ClusterError> {
        let addresses = self.host.addresses().await?;
        let sources = [self.source(IpVersion::V4).await?, self.source(IpVersion::V6).await?];
        self.attempt(&addresses, sources, false).await
    }

    /// The machine that the Node says it is, if that is another one than this.
    ///
    /// # Errors
    /// The datastore.
    pub async fn other_machine(&self) -> Result<Option<String>, ClusterError> {
        Ok(self.read().await?.and_then(|node| self.other(&node)))
    }

    /// Who this host is.
    pub(super) fn machine(&self) -> &str {
        &self.machine
    }

    pub(super) async fn addresses(&self) -> Result<Vec<HostAddress>, ClusterError> {
        Ok(self.host.addresses().await?)
    }

    pub(super) async fn read(&self) -> Result<Option<Resource<NodeSpec>>, ClusterError> {
        let node = typed::get::<Resource<NodeSpec>>(&*self.store, &self.key()).await?;
        Ok(node.map(|node| node.value))
    }

    /// Notes in the Node, where there is one, that this host asks who lives under its name.
    pub(super) async fn ask(&self) -> Result<(), ClusterError> {
        let attempt = || async {
            let Some(node) = typed::get::<Resource<NodeSpec>>(&*self.store, &self.key()).await? else {
                return Ok(());
            };
            let mut asked = node.value;
            asked.metadata.annotate(ASKED_ANNOTATION, self.machine.clone());
            let value = typed::encode(&self.key(), &asked)?;
            self.store.commit(Txn::new().upsert(self.key(), Some(node.revision), value)).await?;
            Ok(())
        };
        retry::on_conflict(attempt).await
    }

    /// The machine that a Node says it is, if that is another one than this.
    pub(super) fn other(&self, node: &Resource<NodeSpec>) -> Option<String> {
        let machine = node.metadata.annotation(MACHINE_ANNOTATION)?;
        (machine != self.machine).then(|| machine.to_owned())
    }

    async fn attempt(
        &self,
        addresses: &[HostAddress],
        sources: [Option<IpAddr>; 2],
        write: bool,
    ) -> Result<Published, ClusterError> {
        let nodes = typed::list::<Resource<NodeSpec>>(&*self.store, &key::resources::<NodeSpec>()).await?;
        let own = key::resource::<NodeSpec>(self.name.as_str());
        let (mine, others): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.key == own);
        let mine = mine.into_iter().next();
        let others: Vec<Resource<NodeSpec>> = others.into_iter().map(|node| node.value).collect();
        let before = mine.as_ref().map_or_else(|| self.fresh(), |mine| mine.value.clone());
        let [v4, v6] = sources;
        let facts = Facts {
            config: &self.config,
            machine: &self.machine,
            seen: [Seen { addresses, source: v4 }, Seen { addresses, source: v6 }],
            others: &others,
        };
        let (after, problems) = plan(&before, facts);
        let written = mine.is_none() || after != before;
        if written && write {
            let value = typed::encode(&own, &after)?;
            let at = mine.as_ref().map(|mine| mine.revision);
            self.store.commit(Txn::new().upsert(own, at, value)).await?;
        }
        let bgp = after.spec.bgp.unwrap_or_default();
        let addresses = [bgp.ipv4_address, bgp.ipv6_address];
        let asked_by = before.metadata.annotation(ASKED_ANNOTATION).map(str::to_owned);
        let asked_by = asked_by.filter(|asker| *asker != self.machine);
        let taken_from = self.other(&before);
        Ok(Published { addresses, problems, taken_from, asked_by, written: written && write })
    }

    fn fresh(&self) -> Resource<NodeSpec> {
        let timestamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let uid = uuid::Uuid::new_v4().to_string();
        Resource::new(ObjectMeta::created(self.name.as_str(), uid, timestamp), NodeSpec::default())
    }

    /// The address that packets to the destination of `can-reach=` leave with.
    async fn source(&self, version: IpVersion) -> Result<Option<IpAddr>, ClusterError> {
        let Detection::CanReach(destination) = &self.config.of(version).detection else { return Ok(None) };
        let Some(address) = look_up(destination, version).await else { return Ok(None) };
        Ok(self.host.source_to(address).await?)
    }
}

/// The first address of a name, or the address that it is.
async fn look_up(destination: &str, version: IpVersion) -> Option<IpAddr> {
    if let Ok(address) = destination.parse::<IpAddr>() {
        return Some(address).filter(|address| IpVersion::of(*address) == version);
    }
    let looked_up = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((destination, 0))).await;
    match looked_up {
        Ok(Ok(mut found)) => found.find(|found| IpVersion::of(found.ip()) == version).map(|found| found.ip()),
        Ok(Err(error)) => {
            log::warn!("look up {destination}: {error}");
            None
        }
        Err(_elapsed) => {
            log::warn!("look up {destination}: no answer within {LOOK_UP:?}");
            None
        }
    }
}
