//! The endpoints of this node by interface. If several claim one interface, the lowest key has it
//! (`felix/dataplane/linux/endpoint_mgr.go`).

use super::changes::EndpointShapes;
use super::label_index::ItemNumber;
use super::problems::Problems;
use super::update::ResourceId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Local endpoints, and what was told about their interfaces.
#[derive(Debug, Default)]
pub(super) struct Locals {
    claims: BTreeMap<Arc<str>, BTreeMap<ResourceId, ItemNumber>>,
    interfaces: HashMap<ItemNumber, Arc<str>>,
    dirty: BTreeSet<Arc<str>>,
    told: BTreeMap<Arc<str>, EndpointShapes>,
    shadowed: Problems,
}

impl Locals {
    /// An endpoint changed, and with it perhaps its interface; no interface means that it does not live here.
    pub(super) fn place(
        &mut self,
        id: &ResourceId,
        number: ItemNumber,
        old: Option<Arc<str>>,
        new: Option<Arc<str>>,
    ) {
        if old != new {
            if let Some(interface) = old {
                if let Some(claims) = self.claims.get_mut(&interface) {
                    claims.remove(id);
                    if claims.is_empty() {
                        self.claims.remove(&interface);
                    }
                }
                self.interfaces.remove(&number);
                self.dirty.insert(interface);
                self.shadowed.set(id, Vec::new());
            }
            if let Some(interface) = &new {
                self.claims.entry(Arc::clone(interface)).or_default().insert(id.clone(), number);
                self.interfaces.insert(number, Arc::clone(interface));
            }
        }
        // Its profiles may have changed, which its labels need not show.
        self.dirty.extend(new);
    }

    /// Whether the endpoint lives here.
    pub(super) fn contains(&self, number: ItemNumber) -> bool {
        self.interfaces.contains_key(&number)
    }

    /// Other policies apply to the endpoint.
    pub(super) fn touch(&mut self, number: ItemNumber) {
        if let Some(interface) = self.interfaces.get(&number) {
            self.dirty.insert(Arc::clone(interface));
        }
    }

    /// Interfaces to look at, each of which afterwards has to be told.
    pub(super) fn take_dirty(&mut self) -> BTreeSet<Arc<str>> {
        let dirty = std::mem::take(&mut self.dirty);
        for interface in &dirty {
            self.note_shadowed(interface);
        }
        dirty
    }

    fn note_shadowed(&mut self, interface: &str) {
        let mut claims = self.claims.get(interface).into_iter().flat_map(BTreeMap::keys);
        let Some(owner) = claims.next() else { return };
        self.shadowed.set(owner, Vec::new());
        for loser in claims {
            let problem = format!("is not served here: interface {interface} belongs to {owner}");
            self.shadowed.set(loser, vec![problem]);
        }
    }

    /// The endpoint that has an interface.
    pub(super) fn owner(&self, interface: &str) -> Option<(&ResourceId, ItemNumber)> {
        self.claims.get(interface)?.first_key_value().map(|(id, number)| (id, *number))
    }

    /// Interface of an endpoint that lives here.
    pub(super) fn interface(&self, number: ItemNumber) -> Option<&Arc<str>> {
        self.interfaces.get(&number)
    }

    /// What was told last about an interface.
    pub(super) fn told(&self, interface: &str) -> Option<&EndpointShapes> {
        self.told.get(interface)
    }

    /// Notes what is told about an interface.
    pub(super) fn tell(&mut self, interface: &Arc<str>, shapes: Option<EndpointShapes>) {
        match shapes {
            Some(shapes) => self.told.insert(Arc::clone(interface), shapes),
            None => self.told.remove(interface),
        };
    }

    /// Everything that was told.
    pub(super) fn all(&self) -> &BTreeMap<Arc<str>, EndpointShapes> {
        &self.told
    }

    /// Sentences about endpoints whose interface another has, not told yet.
    pub(super) fn take_problems(&mut self) -> Vec<String> {
        self.shadowed.take_fresh()
    }

    /// Sentences about endpoints whose interface another has.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.shadowed.all()
    }
}
