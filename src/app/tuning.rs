//! FelixConfiguration and this node's settings to what the packet filter does, and to what becomes of others' routes.
//!
//! As in Felix a setting of the node wins over the FelixConfiguration `node.NAME`, and that over `default`.

use crate::config::{Config, parse_rate};
use crate::dataplane::{Dataplane, HostAction, LogRate, LogTuning, NatTuning, Tuning};
use crate::model::{NodeName, key};
use crate::store::{Revision, SharedStore, StoreError};
use crate::task::Backoff;
use futures::StreamExt;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;

/// Pauses after a watch broke or a list failed.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Felix's `logActionRateLimitBurst`.
const BURST: u32 = 5;

type Fields = Map<String, Value>;

/// Keeps the packet filter's behaviour in step with the datastore.
pub(super) struct TuningFeed {
    store: SharedStore,
    dataplane: Dataplane,
    node: NodeName,
    own: Fields,
    /// Whether routes of others to endpoints are taken away.
    removes: watch::Sender<bool>,
}

impl TuningFeed {
    pub(super) fn new(config: &Config, store: SharedStore, dataplane: Dataplane, node: NodeName) -> Self {
        Self { store, dataplane, node, own: own(config), removes: watch::Sender::new(false) }
    }

    /// Whether routes of others to endpoints are taken away; not before the first reading.
    pub(super) fn removes_external_routes(&self) -> watch::Receiver<bool> {
        self.removes.subscribe()
    }

    /// Reads it and tells the dataplane. Gives the revision of what was read, and whether addresses of hosts matter.
    ///
    /// # Errors
    /// The datastore cannot be read.
    pub(super) async fn load(&self) -> Result<(Revision, bool), StoreError> {
        let felix = self.store.list(&prefix("felixconfigurations")).await?;
        let find = |name: &str| {
            let key = format!("{}{name}", prefix("felixconfigurations"));
            let entry = felix.entries.iter().find(|entry| entry.key == key)?;
            spec(&entry.value)
        };
        let mut fields = find("default").unwrap_or_default();
        fields.extend(find(&format!("node.{}", self.node)).unwrap_or_default());
        fields.extend(self.own.clone());
        let spares = text(&fields, "natOutgoingExclusions").as_deref() == Some("IPPoolsAndHostIPs");
        let hosts = if spares { self.hosts().await? } else { BTreeSet::new() };
        let (tuning, mut warnings) = tuning(&fields, hosts);
        let (removes, warning) = removes_external_routes(&fields);
        warnings.extend(warning);
        warnings.iter().for_each(|warning| log::warn!("FelixConfiguration: {warning}"));
        if let Err(error) = self.dataplane.tune(tuning).await {
            log::warn!("the packet filter is not as FelixConfiguration says: {error}");
        }
        self.removes.send_if_modified(|known| std::mem::replace(known, removes) != removes);
        Ok((felix.revision, spares))
    }

    async fn hosts(&self) -> Result<BTreeSet<IpAddr>, StoreError> {
        let nodes = self.store.list(&prefix("nodes")).await?;
        Ok(nodes
            .entries
            .iter()
            .filter_map(|entry| spec(&entry.value))
            .flat_map(|node| addresses(&node))
            .collect())
    }

    /// Follows the datastore for ever.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.follow(&mut backoff).await {
                Ok(()) | Err(StoreError::Compacted { .. }) => log::debug!("FelixConfiguration is read again"),
                Err(error) => log::warn!("FelixConfiguration is not followed for a moment: {error}"),
            }
            backoff.pause().await;
        }
    }

    async fn follow(&self, backoff: &mut Backoff) -> Result<(), StoreError> {
        loop {
            let (revision, spares) = self.load().await?;
            let mut felix = self.store.watch(&prefix("felixconfigurations"), revision);
            let mut nodes = self.store.watch(&prefix("nodes"), revision);
            let event = tokio::select! {
                event = felix.next() => event,
                event = nodes.next(), if spares => event,
            };
            match event {
                Some(Ok(_)) => backoff.reset(),
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
    }
}

fn prefix(plural: &str) -> String {
    format!("{}{plural}/", key::RESOURCE_ROOT)
}

fn spec(document: &[u8]) -> Option<Fields> {
    let document: Value = serde_json::from_slice(document).ok()?;
    document.get("spec")?.as_object().cloned()
}

/// The settings in FelixConfiguration's words.
fn own(config: &Config) -> Fields {
    let given = [
        ("defaultEndpointToHostAction", &config.endpoint_to_host),
        ("logPrefix", &config.log_prefix),
        ("logActionRateLimit", &config.log_rate),
    ];
    let some = given.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
    let texts = some.map(|(name, text)| (name.to_owned(), Value::String(text.clone())));
    let removes = config.remove_external_routes;
    texts.chain(removes.map(|it| ("removeExternalRoutes".to_owned(), Value::Bool(it)))).collect()
}

/// The addresses of a node that its peers use.
fn addresses(node: &Fields) -> Vec<IpAddr> {
    let bgp = |field: &str| node.get("bgp")?.get(field)?.as_str();
    let listed = node.get("addresses").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().filter_map(|it| it.get("address")?.as_str());
    let all = ["ipv4Address", "ipv6Address"].into_iter().filter_map(bgp).chain(listed);
    all.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

fn text(fields: &Fields, name: &str) -> Option<String> {
    match fields.get(name)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What fields mean, and what is wrong with them.
fn tuning(fields: &Fields, spared: BTreeSet<IpAddr>) -> (Tuning, Vec<String>) {
    let mut warnings = Vec::new();
    let defaults = Tuning::default();
    let host_action = match text(fields, "defaultEndpointToHostAction") {
        Some(word) => HostAction::read(&word).unwrap_or_else(|| {
            warnings.push(format!("defaultEndpointToHostAction {word:?} is none of Drop, Return, Accept: packets to the host are dropped"));
            HostAction::Drop
        }),
        None => defaults.host_action,
    };
    let mut read = |name: &str, parse: fn(&str) -> Option<Knob>| {
        let word = text(fields, name)?;
        let found = parse(&word);
        if found.is_none() {
            warnings.push(format!("{name} {word:?} cannot be read and is not followed"));
        }
        found
    };
    let rate = match read("logActionRateLimit", |word| {
        parse_rate(word).ok().map(|(lines, seconds)| Knob::Rate(lines, seconds))
    }) {
        Some(Knob::Rate(lines, seconds)) => Some(LogRate { lines, seconds, burst: burst(fields) }),
        _ => None,
    };
    let ports =
        match read("natPortRange", |word| port_range(word).map(|(first, last)| Knob::Ports(first, last))) {
            Some(Knob::Ports(first, last)) => Some((first, last)),
            _ => None,
        };
    let address = match read("natOutgoingAddress", |word| word.parse().ok().map(Knob::Address)) {
        Some(Knob::Address(address)) => Some(address),
        _ => None,
    };
    let port = |word: &str| word.parse().ok().filter(|port| *port != 0).map(Knob::Port);
    let vxlan_port = match read("vxlanPort", port) {
        Some(Knob::Port(port)) => port,
        _ => defaults.vxlan_port,
    };
    if let Some(word) = text(fields, "programClusterRoutes") {
        warnings.push(format!(
            "programClusterRoutes {word:?} has no effect here: routes between nodes are this plugin's, or BIRD's as \
             BGPConfiguration says"
        ));
    }
    // iptables writes a wildcard as `+`.
    let interface =
        text(fields, "iptablesNATOutgoingInterfaceFilter").map(|name| match name.strip_suffix('+') {
            Some(start) => format!("{start}*"),
            None => name,
        });
    let prefix = text(fields, "logPrefix").unwrap_or(defaults.log.prefix);
    let nat = NatTuning { spared, address, ports, interface };
    (Tuning { host_action, log: LogTuning { prefix, rate }, nat, vxlan_port }, warnings)
}

/// Whether routes of others to endpoints are taken away, and what is wrong with the field: by default they are, as Felix
/// does.
fn removes_external_routes(fields: &Fields) -> (bool, Option<String>) {
    match fields.get("removeExternalRoutes") {
        None | Some(Value::Null) => (true, None),
        Some(Value::Bool(removes)) => (*removes, None),
        Some(other) => {
            let why = format!(
                "removeExternalRoutes {other} is neither true nor false: routes of others to containers are kept"
            );
            (false, Some(why))
        }
    }
}

enum Knob {
    Rate(u64, u64),
    Ports(u16, u16),
    Address(std::net::Ipv4Addr),
    Port(u16),
}

fn burst(fields: &Fields) -> u32 {
    let given = fields.get("logActionRateLimitBurst").and_then(Value::as_u64);
    given.and_then(|burst| u32::try_from(burst).ok()).unwrap_or(BURST)
}

/// `1000:2000`, or one port.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 < first && first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(fields: Value) -> (Tuning, Vec<String>) {
        tuning(fields.as_object().unwrap(), BTreeSet::new())
    }

    #[test]
    fn fields_are_followed() {
        let (tuning, warnings) = of(json!({
            "defaultEndpointToHostAction": "Accept", "logPrefix": "%t/%n", "logActionRateLimit": "10/minute",
            "natPortRange": "2000:3000", "natOutgoingAddress": "192.0.2.9", "iptablesNATOutgoingInterfaceFilter": "eth+",
            "vxlanPort": 8472,
        }));
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(tuning.host_action, HostAction::Accept);
        let rate = Some(LogRate { lines: 10, seconds: 60, burst: 5 });
        assert_eq!(tuning.log, LogTuning { prefix: "%t/%n".to_owned(), rate });
        assert_eq!((tuning.nat.ports, tuning.nat.interface.as_deref()), (Some((2000, 3000)), Some("eth*")));
        assert_eq!(tuning.vxlan_port, 8472);
        assert_eq!(of(json!({})).0, Tuning::default());
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_host_stays_protected() {
        let (tuning, warnings) = of(
            json!({"defaultEndpointToHostAction": "Maybe", "natPortRange": "9:1", "logActionRateLimit": "fast",
                "vxlanPort": 70_000, "programClusterRoutes": "Disabled"}),
        );
        assert_eq!((tuning.host_action, warnings.len()), (HostAction::Drop, 5));
        assert_eq!(tuning.vxlan_port, 4789);
        assert_eq!((tuning.nat.ports, tuning.log.rate), (None, None));
    }

    #[test]
    fn routes_of_others_are_taken_away_unless_a_field_says_no() {
        let of = |fields: Value| {
            let (removes, warning) = removes_external_routes(fields.as_object().unwrap());
            (removes, warning.is_some())
        };
        assert_eq!(of(json!({})), (true, false));
        assert_eq!(of(json!({"removeExternalRoutes": true})), (true, false));
        assert_eq!(of(json!({"removeExternalRoutes": false})), (false, false));
        assert_eq!(of(json!({"removeExternalRoutes": "never"})), (false, true));
    }

    #[test]
    fn a_node_has_addresses() {
        let node = json!({"bgp": {"ipv4Address": "192.0.2.1/24"}, "addresses": [{"address": "2001:db8::1"}]});
        let want: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(addresses(node.as_object().unwrap()), want);
    }
}
