//! The endpoints of this node, by ID and by address: a view of the WorkloadEndpoints that the driver wrote, plus where
//! each is joined. One owner; what is lost with the process is read back from the datastore and the kernel.

use crate::model::{EndpointId, IfaceName, NetworkId};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// An endpoint of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Docker's endpoint ID.
    pub id: EndpointId,
    /// The network that it is in; `None` for an endpoint that the Go plugin wrote.
    pub network: Option<NetworkId>,
    /// Host side of its veth.
    pub iface: IfaceName,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The container interface's address.
    pub mac: crate::model::MacAddress,
    /// Where it is joined.
    pub sandbox: Option<Sandbox>,
    /// The name that the user wants for the interface in the container.
    pub ifname: Option<IfaceName>,
}

impl LocalEndpoint {
    fn is_in(&self, key: &str) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| sandbox.key == key)
    }
}

/// A container's network namespace, as Docker names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Docker's sandbox key; a name, it need not exist as a file.
    pub key: String,
    /// Which next hop of the sandbox is the endpoint's.
    pub hop: u8,
}

/// Longest sandbox key that fits an interface's alias beside what else stands there.
const LONGEST_KEY: usize = 128;

impl Sandbox {
    /// The name of a sandbox as it is compared and kept: Docker's key, or the end of one that is too long (an engine
    /// with a very long `--exec-root`), which is where the keys of one engine differ.
    #[must_use]
    pub fn name(key: &str) -> &str {
        let start = key.len().saturating_sub(LONGEST_KEY);
        (start..=key.len()).find_map(|at| key.get(at..)).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Inner {
    endpoints: HashMap<EndpointId, LocalEndpoint>,
    by_ip: HashMap<IpAddr, EndpointId>,
    /// Addresses handed out that no endpoint has taken yet.
    reserved: HashMap<IpAddr, Instant>,
    /// Host sides of joined endpoints that could not be programmed again.
    unrepaired: BTreeSet<IfaceName>,
    /// What kernel and packet filter were told of the other addresses of an endpoint's container: nothing for most, and
    /// `None` while that is not certain.
    told: HashMap<EndpointId, Option<BTreeSet<IpAddr>>>,
}

/// All endpoints of this node.
#[derive(Debug, Default)]
pub(super) struct EndpointIndex {
    /// Guards the maps, which change together; held for look-ups only, never over an await.
    inner: Mutex<Inner>,
}

impl EndpointIndex {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The maps are whole between any two statements, so a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds or replaces an endpoint.
    pub(super) fn insert(&self, endpoint: LocalEndpoint) {
        let mut inner = self.lock();
        for ip in &endpoint.ips {
            inner.by_ip.insert(*ip, endpoint.id.clone());
            inner.reserved.remove(ip);
        }
        inner.endpoints.insert(endpoint.id.clone(), endpoint);
    }

    /// Forgets an endpoint.
    pub(super) fn remove(&self, id: &EndpointId) -> Option<LocalEndpoint> {
        let mut inner = self.lock();
        inner.told.remove(id);
        let gone = inner.endpoints.remove(id)?;
        inner.unrepaired.remove(&gone.iface);
        for ip in &gone.ips {
            if inner.by_ip.get(ip) == Some(id) {
                inner.by_ip.remove(ip);
            }
        }
        Some(gone)
    }

    /// One endpoint.
    pub(super) fn get(&self, id: &EndpointId) -> Option<LocalEndpoint> {
        self.lock().endpoints.get(id).cloned()
    }

    /// The endpoint behind an interface of the host.
    pub(super) fn behind(&self, iface: &IfaceName) -> Option<EndpointId> {
        self.lock().endpoints.values().find(|endpoint| endpoint.iface == *iface).map(|e| e.id.clone())
    }

    /// All endpoints.
    pub(super) fn all(&self) -> Vec<LocalEndpoint> {
        self.lock().endpoints.values().cloned().collect()
    }

    /// The endpoint that has an address.
    pub(super) fn owner_of(&self, ip: IpAddr) -> Option<EndpointId> {
        self.lock().by_ip.get(&ip).cloned()
    }

    /// Makes an address an endpoint's that is being created, unless another one has it, which is returned then.
    pub(super) fn claim(&self, ip: IpAddr, id: &EndpointId) -> Result<(), EndpointId> {
        match self.lock().by_ip.entry(ip).or_insert_with(|| id.clone()) {
            owner if owner == id => Ok(()),
            owner => Err(owner.clone()),
        }
    }

    /// Takes claims back that came to nothing: the endpoint does not exist.
    pub(super) fn unclaim(&self, ips: &[IpAddr], id: &EndpointId) {
        let mut inner = self.lock();
        if inner.endpoints.contains_key(id) {
            return;
        }
        for ip in ips {
            if inner.by_ip.get(ip) == Some(id) {
                inner.by_ip.remove(ip);
            }
        }
    }

    /// Notes that an address was handed out.
    pub(super) fn reserve(&self, ip: IpAddr, now: Instant) {
        self.lock().reserved.insert(ip, now);
    }

    /// Forgets that an address was handed out.
    pub(super) fn unreserve(&self, ip: IpAddr) {
        self.lock().reserved.remove(&ip);
    }

    /// When an address was handed out that no endpoint has taken yet.
    pub(super) fn reserved_since(&self, ip: IpAddr) -> Option<Instant> {
        self.lock().reserved.get(&ip).copied()
    }

    /// Puts an endpoint into a sandbox (named as by [`Sandbox::name`]) and gives it the lowest next hop that no other endpoint there has. An endpoint
    /// that is there already keeps its own.
    pub(super) fn join(&self, id: &EndpointId, key: &str) -> Option<Sandbox> {
        let mut inner = self.lock();
        let here = |endpoint: &LocalEndpoint| {
            endpoint.sandbox.as_ref().filter(|sandbox| sandbox.key == key).cloned()
        };
        if let Some(sandbox) = inner.endpoints.get(id).and_then(here) {
            return Some(sandbox);
        }
        let taken: BTreeSet<u8> = inner.endpoints.values().filter_map(|e| Some(here(e)?.hop)).collect();
        let hop = (1..=254).find(|hop| !taken.contains(hop))?;
        let sandbox = Sandbox { key: key.to_owned(), hop };
        inner.endpoints.get_mut(id)?.sandbox = Some(sandbox.clone());
        Some(sandbox)
    }

    /// Notes where an endpoint was found joined.
    pub(super) fn found_joined(&self, id: &EndpointId, sandbox: Sandbox) {
        if let Some(endpoint) = self.lock().endpoints.get_mut(id) {
            endpoint.sandbox = Some(sandbox);
        }
    }

    /// Takes an endpoint out of its sandbox.
    pub(super) fn leave(&self, id: &EndpointId) {
        let mut inner = self.lock();
        let Some(endpoint) = inner.endpoints.get_mut(id) else { return };
        endpoint.sandbox = None;
        let iface = endpoint.iface.clone();
        inner.unrepaired.remove(&iface);
        inner.told.remove(id);
    }

    /// Notes whether the endpoint behind an interface could be programmed again.
    pub(super) fn note_repair(&self, iface: &IfaceName, done: bool) {
        let mut inner = self.lock();
        match done {
            true => inner.unrepaired.remove(iface),
            false => inner.unrepaired.insert(iface.clone()),
        };
    }

    /// The host sides of endpoints that could not be programmed again.
    pub(super) fn unrepaired(&self) -> Vec<IfaceName> {
        self.lock().unrepaired.iter().cloned().collect()
    }

    /// Whether an endpoint is not the only one of its sandbox.
    pub(super) fn has_siblings(&self, id: &EndpointId, key: &str) -> bool {
        self.lock().endpoints.values().any(|endpoint| endpoint.id != *id && endpoint.is_in(key))
    }

    /// The endpoints of a sandbox.
    pub(super) fn in_sandbox(&self, key: &str) -> Vec<LocalEndpoint> {
        self.lock().endpoints.values().filter(|endpoint| endpoint.is_in(key)).cloned().collect()
    }

    /// The endpoints of a sandbox that were told otherwise of the addresses of all others there, with these; without
    /// one that is about to leave.
    pub(super) fn untold(
        &self,
        key: &str,
        leaving: Option<&EndpointId>,
    ) -> Vec<(LocalEndpoint, BTreeSet<IpAddr>)> {
        let inner = self.lock();
        let stays = |e: &&LocalEndpoint| e.is_in(key) && leaving != Some(&e.id);
        let here: Vec<&LocalEndpoint> = inner.endpoints.values().filter(stays).collect();
        let others = |of: &LocalEndpoint| -> BTreeSet<IpAddr> {
            here.iter().filter(|other| other.id != of.id).flat_map(|other| other.ips.clone()).collect()
        };
        let knows = |id: &EndpointId, others: &BTreeSet<IpAddr>| match inner.told.get(id) {
            None => others.is_empty(),
            Some(told) => told.as_ref() == Some(others),
        };
        here.iter()
            .map(|endpoint| ((*endpoint).clone(), others(endpoint)))
            .filter(|(endpoint, others)| !knows(&endpoint.id, others))
            .collect()
    }

    /// Notes what an endpoint is told; `None` before that, as it may come to nothing or half of it.
    pub(super) fn tell(&self, id: &EndpointId, others: Option<BTreeSet<IpAddr>>) {
        let mut inner = self.lock();
        match others.as_ref().is_some_and(BTreeSet::is_empty) {
            true => inner.told.remove(id),
            false => inner.told.insert(id.clone(), others),
        };
    }

    /// What was told to an endpoint, if anything was, has to be told again.
    pub(super) fn doubt_told(&self, id: &EndpointId) {
        if let Some(told) = self.lock().told.get_mut(id) {
            *told = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MacAddress;

    fn endpoint(id: &str, ip: &str) -> LocalEndpoint {
        let id = EndpointId::new(id).unwrap();
        LocalEndpoint {
            iface: id.host_iface(),
            mac: MacAddress::of_endpoint(&id),
            id,
            network: None,
            ips: vec![ip.parse().unwrap()],
            sandbox: None,
            ifname: None,
        }
    }

    #[test]
    fn endpoints_of_one_sandbox_have_next_hops_of_their_own() {
        let index = EndpointIndex::default();
        let [a, b, c] = [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")].map(|(id, ip)| {
            index.insert(endpoint(id, ip));
            EndpointId::new(id).unwrap()
        });
        assert_eq!(index.join(&a, "s1").unwrap().hop, 1);
        assert_eq!(index.join(&b, "s1").unwrap().hop, 2);
        assert_eq!(index.join(&b, "s1").unwrap().hop, 2);
        assert_eq!(index.join(&c, "s2").unwrap().hop, 1);
        index.leave(&a);
        assert_eq!(index.join(&a, "s1").unwrap().hop, 1);
    }

    #[test]
    fn a_claim_stands_against_others_until_it_is_taken_back() {
        let index = EndpointIndex::default();
        let [a, b] = ["a", "b"].map(|id| EndpointId::new(id).unwrap());
        let ip = "10.0.0.1".parse().unwrap();
        assert_eq!(index.claim(ip, &a), Ok(()));
        assert_eq!(index.claim(ip, &a), Ok(()));
        assert_eq!(index.claim(ip, &b), Err(a.clone()));
        index.unclaim(&[ip], &b);
        assert_eq!(index.owner_of(ip), Some(a.clone()));
        index.unclaim(&[ip], &a);
        assert_eq!(index.claim(ip, &b), Ok(()));
        index.insert(endpoint("b", "10.0.0.1"));
        index.unclaim(&[ip], &b);
        assert_eq!(index.owner_of(ip), Some(b), "an endpoint that exists keeps its address");
    }

    #[test]
    fn a_long_sandbox_key_is_known_by_its_end() {
        let key = format!("/{}/netns/9ce6ebc00fc1", "ä".repeat(200));
        let name = Sandbox::name(&key);
        assert!(name.len() <= LONGEST_KEY && name.ends_with("/netns/9ce6ebc00fc1"), "{name}");
        assert_eq!(Sandbox::name("/run/docker/netns/1"), "/run/docker/netns/1");
        assert_eq!(Sandbox::name(""), "");
    }

    #[test]
    fn endpoints_of_one_sandbox_are_told_of_each_other_once() {
        let index = EndpointIndex::default();
        let [a, b, c] = [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")].map(|(id, ip)| {
            index.insert(endpoint(id, ip));
            EndpointId::new(id).unwrap()
        });
        let untold = |key: &str| {
            let mut all: Vec<(String, BTreeSet<IpAddr>)> =
                index.untold(key, None).into_iter().map(|(e, others)| (e.id.to_string(), others)).collect();
            all.sort();
            all
        };
        let set = |ip: &str| BTreeSet::from([ip.parse().unwrap()]);
        index.join(&a, "s1");
        index.join(&c, "s2");
        assert_eq!(untold("s1"), [], "one alone needs nothing");
        index.join(&b, "s1");
        assert_eq!(untold("s1"), [("a".to_owned(), set("10.0.0.2")), ("b".to_owned(), set("10.0.0.1"))]);
        assert!(index.has_siblings(&a, "s1") && !index.has_siblings(&c, "s2"));
        index.tell(&a, None);
        index.tell(&b, Some(set("10.0.0.1")));
        assert_eq!(untold("s1"), [("a".to_owned(), set("10.0.0.2"))]);
        index.tell(&a, Some(set("10.0.0.2")));
        assert_eq!(untold("s1"), []);
        index.doubt_told(&a);
        assert_eq!(untold("s1"), [("a".to_owned(), set("10.0.0.2"))]);
        assert_eq!(index.untold("s1", Some(&b)).len(), 1, "one that is leaving counts no more");
        index.tell(&a, Some(set("10.0.0.2")));
        index.leave(&b);
        assert_eq!(untold("s1"), [("a".to_owned(), BTreeSet::new())]);
        index.tell(&a, Some(BTreeSet::new()));
        index.doubt_told(&a);
        assert_eq!(untold("s1"), [], "one that was never told anything needs no word");
        assert_eq!(index.join(&b, "s2").unwrap().hop, 2);
        assert_eq!(untold("s2").len(), 2, "what was told in another sandbox is forgotten");
    }

    #[test]
    fn an_address_belongs_to_its_last_endpoint() {
        let index = EndpointIndex::default();
        let ip = "10.0.0.1".parse().unwrap();
        index.reserve(ip, Instant::now());
        index.insert(endpoint("a", "10.0.0.1"));
        assert_eq!(index.reserved_since(ip), None);
        index.insert(endpoint("b", "10.0.0.1"));
        index.remove(&EndpointId::new("a").unwrap());
        assert_eq!(index.owner_of(ip).unwrap().as_str(), "b");
    }
}
