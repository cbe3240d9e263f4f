//! A small cluster to try policies on: endpoints `a`, `b`, … of node `here`, with an IPv4 and an IPv6 address each.

use super::kernel::Kernel;
use crate::model::key::RESOURCE_ROOT;
use crate::policy::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;

/// An outside host.
pub(super) const EXT: &str = "ext";

pub(super) struct World {
    pub(super) graph: Graph,
    pub(super) kernel: Kernel,
    pub(super) problems: Vec<String>,
    endpoints: BTreeMap<String, Value>,
}

/// A rule that does this to everything.
pub(super) fn rule(action: &str) -> Value {
    json!({"action": action})
}

/// A rule for traffic from a selector.
pub(super) fn from(action: &str, selector: &str) -> Value {
    json!({"action": action, "source": {"selector": selector}})
}

/// A rule for traffic to a selector.
pub(super) fn to(action: &str, selector: &str) -> Value {
    json!({"action": action, "destination": {"selector": selector}})
}

fn address(name: &str, v6: bool) -> IpAddr {
    let text = match (name, v6) {
        (EXT, false) => "192.0.2.1".to_owned(),
        (EXT, true) => "2001:db8::1".to_owned(),
        (name, v6) => {
            let number = u32::from(name.as_bytes()[0] - b'a') + 1;
            if v6 { format!("fd00::{number:x}") } else { format!("10.65.0.{number}") }
        }
    };
    text.parse().unwrap()
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            graph: Graph::new("here"),
            kernel: Kernel::default(),
            problems: Vec::new(),
            endpoints: BTreeMap::new(),
        }
    }

    /// Endpoints a, b, c, each labelled with its name (`name=a`) and with a profile that allows everything.
    pub(super) fn open_mesh() -> Self {
        let mut world = Self::new();
        world.profile("open", json!([rule("Allow")]), json!([rule("Allow")]), json!({}));
        for name in ["a", "b", "c"] {
            world.endpoint(name, json!({"name": name}), &["open"]);
        }
        world
    }

    pub(super) fn entry(&mut self, key: &str, value: Option<&Value>) {
        let key = format!("{RESOURCE_ROOT}{key}");
        let bytes = value.map(|value| serde_json::to_vec(value).unwrap());
        self.graph.update(Update::from_entry(&key, bytes.as_deref()).expect("a key of policy"));
        self.flush();
    }

    pub(super) fn flush(&mut self) -> Changes {
        let changes = self.graph.flush();
        self.kernel.apply(&changes);
        self.problems.extend(changes.problems.iter().cloned());
        changes
    }

    pub(super) fn resource(&mut self, key: &str, labels: Value, spec: Value) {
        self.entry(key, Some(&json!({"metadata": {"name": "x", "labels": labels}, "spec": spec})));
    }

    pub(super) fn delete(&mut self, key: &str) {
        self.entry(key, None);
    }

    pub(super) fn endpoint(&mut self, name: &str, labels: Value, profiles: &[&str]) {
        self.endpoint_with(name, labels, profiles, json!({}));
    }

    /// An endpoint with more fields in its spec.
    pub(super) fn endpoint_with(&mut self, name: &str, mut labels: Value, profiles: &[&str], more: Value) {
        let own = labels.as_object_mut().unwrap();
        own.insert("projectcalico.org/namespace".to_owned(), "libnetwork".into());
        own.insert("projectcalico.org/orchestrator".to_owned(), "libnetwork".into());
        let mut spec = json!({
            "node": "here",
            "ipNetworks": [address(name, false), address(name, true)],
            "profiles": profiles,
            "interfaceName": format!("cali{name}"),
        });
        spec.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        self.endpoints.insert(name.to_owned(), json!(null));
        let node = spec["node"].as_str().unwrap();
        let key = format!("workloadendpoints/libnetwork/{node}-libnetwork-libnetwork-{name}");
        self.resource(&key, labels, spec);
    }

    pub(super) fn profile(&mut self, name: &str, ingress: Value, egress: Value, labels: Value) {
        let spec = json!({"ingress": ingress, "egress": egress, "labelsToApply": labels});
        self.resource(&format!("profiles/{name}"), json!({}), spec);
    }

    pub(super) fn policy(&mut self, name: &str, spec: Value) {
        self.resource(&format!("globalnetworkpolicies/{name}"), json!({}), spec);
    }

    pub(super) fn tier(&mut self, name: &str, order: u32, default_action: &str) {
        let spec = json!({"order": order, "defaultAction": default_action});
        self.resource(&format!("tiers/{name}"), json!({}), spec);
    }

    pub(super) fn trace(&self, source: &str, destination: &str, protocol: u8, port: u16, v6: bool) -> Trace {
        self.graph.evaluate(address(source, v6), address(destination, v6), protocol, port)
    }

    /// Whether a flow passes, in one family.
    pub(super) fn passes_in(&self, v6: bool, flow: (&str, &str, u8, u16)) -> bool {
        self.trace(flow.0, flow.1, flow.2, flow.3, v6).allowed()
    }

    /// Whether a flow passes, the same in both families.
    pub(super) fn passes(&self, source: &str, destination: &str, protocol: u8, port: u16) -> bool {
        let flow = (source, destination, protocol, port);
        let v4 = self.passes_in(false, flow);
        assert_eq!(v4, self.passes_in(true, flow), "{source} to {destination} differs between the families");
        v4
    }

    /// Whether TCP to port 80 passes.
    pub(super) fn tcp(&self, source: &str, destination: &str) -> bool {
        self.passes(source, destination, TCP, 80)
    }

    /// All pairs between which TCP to port 80 passes, as `a>b`, the outside host included.
    pub(super) fn pairs(&self) -> BTreeSet<String> {
        let names: Vec<&str> = self.endpoints.keys().map(String::as_str).chain([EXT]).collect();
        let mut pairs = BTreeSet::new();
        for source in &names {
            for destination in names.iter().filter(|it| *it != source) {
                if (*source, *destination) != (EXT, EXT) && self.tcp(source, destination) {
                    pairs.insert(format!("{source}>{destination}"));
                }
            }
        }
        pairs
    }

    /// Asserts which pairs are blocked; all others must pass.
    #[track_caller]
    pub(super) fn blocked(&self, blocked: &[&str]) {
        let names: Vec<&str> = self.endpoints.keys().map(String::as_str).chain([EXT]).collect();
        let all =
            names.iter().flat_map(|s| names.iter().filter(move |d| *d != s).map(move |d| format!("{s}>{d}")));
        let passing = self.pairs();
        let found: BTreeSet<String> = all.filter(|pair| !passing.contains(pair)).collect();
        assert_eq!(found, blocked.iter().map(|pair| (*pair).to_owned()).collect());
    }

    /// Asserts which pairs pass; all others must be blocked.
    #[track_caller]
    pub(super) fn only(&self, passing: &[&str]) {
        assert_eq!(self.pairs(), passing.iter().map(|pair| (*pair).to_owned()).collect());
    }
}
