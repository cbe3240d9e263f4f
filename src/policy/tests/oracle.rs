//! Policy worked out from the documents alone, the long way round: no index, no sets, no shared anything. Knows the
//! documents that [`super::properties`] makes, and nothing more.

use crate::model::Cidr;
use crate::policy::Flow;
use crate::selector::Selector;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

const NAMESPACE: &str = "projectcalico.org/namespace";
const ALLOW_ALL: &str = "projectcalico-default-allow";

type Labels = BTreeMap<String, String>;

/// Something that selectors can match.
struct Thing {
    key: String,
    labels: Labels,
    nets: Vec<Cidr>,
    spec: Value,
}

pub(super) struct Oracle {
    things: Vec<Thing>,
    docs: BTreeMap<String, Value>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn nets(value: &Value) -> Vec<Cidr> {
    texts(value).iter().filter_map(|text| Cidr::parse_masking(text).ok()).collect()
}

/// The only thing that the generator makes wrong about rules.
fn is_bad(rules: &Value) -> bool {
    list(rules).iter().any(|rule| rule["action"] == "Permit")
}

impl Oracle {
    pub(super) fn new(docs: BTreeMap<String, Value>) -> Self {
        let mut oracle = Self { things: Vec::new(), docs };
        for (key, doc) in &oracle.docs {
            let spec = &doc["spec"];
            let mut profiles = texts(&spec["profiles"]);
            let mut labels: Labels =
                serde_json::from_value(doc["metadata"]["labels"].clone()).unwrap_or_default();
            let parts: Vec<&str> = key.split('/').collect();
            let nets = match parts[0] {
                "workloadendpoints" => {
                    labels.retain(|label, _| !label.starts_with("pcns."));
                    nets(&spec["ipNetworks"])
                }
                "globalnetworksets" => nets(&spec["nets"]),
                "networksets" => {
                    labels.insert(NAMESPACE.to_owned(), parts[1].to_owned());
                    profiles.push(format!("kns.{}", parts[1]));
                    nets(&spec["nets"])
                }
                "hostendpoints" => nets(&spec["expectedIPs"])
                    .into_iter()
                    .filter(|net| net.prefix_len() == net.version().bits())
                    .collect(),
                _ => continue,
            };
            for profile in profiles.iter().filter_map(|name| oracle.profile(name)) {
                let more: Labels =
                    serde_json::from_value(profile["labelsToApply"].clone()).unwrap_or_default();
                for (label, value) in more {
                    labels.entry(label).or_insert(value);
                }
            }
            oracle.things.push(Thing { key: key.clone(), labels, nets, spec: spec.clone() });
        }
        oracle
    }

    /// A profile that is there and can be read.
    fn profile(&self, name: &str) -> Option<&Value> {
        let spec = &self.docs.get(&format!("profiles/{name}"))?["spec"];
        (!is_bad(&spec["ingress"]) && !is_bad(&spec["egress"])).then_some(spec)
    }

    /// What the endpoint of this node that has the address says; `None` if there is none.
    pub(super) fn decide(&self, address: IpAddr, direction: &str, flow: &Flow) -> Option<bool> {
        let here =
            |thing: &&Thing| thing.key.starts_with("workloadendpoints/") && thing.spec["node"] == "here";
        let mut workloads = self.things.iter().filter(here).filter(|thing| !thing.nets.is_empty());
        let endpoint = workloads.clone().find(|thing| thing.nets.contains(&Cidr::host(address)))?;
        let owner =
            workloads.find(|thing| thing.spec["interfaceName"] == endpoint.spec["interfaceName"]).unwrap();
        Some(owner.key == endpoint.key && self.endpoint_decides(endpoint, direction, flow))
    }

    fn endpoint_decides(&self, endpoint: &Thing, direction: &str, flow: &Flow) -> bool {
        'tiers: for (_, (pass, mut policies)) in self.tiers(endpoint, direction) {
            policies.sort_by(|one, other| one.0.partial_cmp(&other.0).unwrap());
            for (_, namespace, spec) in &policies {
                if is_bad(&spec["ingress"]) || is_bad(&spec["egress"]) {
                    return false;
                }
                match self.first(&spec[direction], namespace.as_deref(), flow) {
                    Some("Pass") => continue 'tiers,
                    Some(action) => return action == "Allow",
                    None => {}
                }
            }
            if !pass {
                return false;
            }
        }
        for name in texts(&endpoint.spec["profiles"]) {
            if name == ALLOW_ALL {
                return true;
            }
            let Some(profile) = self.profile(&name) else { return false };
            match self.first(&profile[direction], None, flow) {
                None | Some("Pass") => {}
                Some(action) => return action == "Allow",
            }
        }
        false
    }

    /// Tiers in order, each with whether it passes at its end, and its policies.
    #[expect(clippy::type_complexity, reason = "a table of one test")]
    fn tiers<'a>(
        &'a self,
        endpoint: &Thing,
        direction: &str,
    ) -> BTreeMap<(bool, u64, String), (bool, Vec<((f64, String), Option<String>, &'a Value)>)> {
        let mut tiers: BTreeMap<_, (bool, Vec<_>)> = BTreeMap::new();
        for (key, doc) in &self.docs {
            let parts: Vec<&str> = key.split('/').collect();
            let (namespace, kind) = match parts[0] {
                "globalnetworkpolicies" => (None, "GlobalNetworkPolicy"),
                "networkpolicies" => (Some(parts[1].to_owned()), "NetworkPolicy"),
                _ => continue,
            };
            let spec = &doc["spec"];
            let host_only = spec["doNotTrack"] == true && namespace.is_none()
                || spec["preDNAT"] == true && namespace.is_none();
            let selected = Selector::parse(spec["selector"].as_str().unwrap())
                .is_ok_and(|selector| selector.matches(&endpoint.labels));
            let inside = namespace.is_none() || endpoint.labels.get(NAMESPACE) == namespace.as_ref();
            let types = texts(&spec["types"]);
            let applies = types.is_empty() || types.iter().any(|it| it.eq_ignore_ascii_case(direction));
            if host_only || !selected || !inside || !applies {
                continue;
            }
            let name = match spec["tier"].as_str().unwrap() {
                "" => "default",
                name => name,
            };
            let tier = self.docs.get(&format!("tiers/{name}")).map(|doc| &doc["spec"]);
            let order = tier.and_then(|tier| tier["order"].as_u64()).unwrap_or(u64::MAX);
            let pass = tier.is_some_and(|tier| tier["defaultAction"] == "Pass");
            let place = spec["order"].as_f64().unwrap_or(f64::INFINITY);
            let text = format!("{}/{}/{kind}", parts[parts.len() - 1], namespace.as_deref().unwrap_or(""));
            let entry = tiers.entry((tier.is_none(), order, name.to_owned())).or_insert((pass, Vec::new()));
            entry.1.push(((place, text), namespace, spec));
        }
        tiers
    }

    fn first<'a>(&self, rules: &'a Value, namespace: Option<&str>, flow: &Flow) -> Option<&'a str> {
        let deciding = list(rules).iter().filter(|rule| rule["action"] != "Log");
        let mut matching = deciding.filter(|rule| self.matches(rule, namespace, flow));
        matching.next().and_then(|rule| rule["action"].as_str())
    }

    fn matches(&self, rule: &Value, namespace: Option<&str>, flow: &Flow) -> bool {
        let protocol = match &rule["protocol"] {
            Value::String(name) if name == "TCP" => 6,
            Value::String(_) => 17,
            number => u8::try_from(number.as_u64().unwrap()).unwrap(),
        };
        let source = (flow.source, flow.source_port);
        let destination = (flow.destination, flow.destination_port);
        protocol == flow.protocol
            && self.side(&rule["source"], namespace, source, protocol)
            && self.side(&rule["destination"], namespace, destination, protocol)
    }

    fn side(
        &self,
        side: &Value,
        namespace: Option<&str>,
        (address, port): (IpAddr, u16),
        protocol: u8,
    ) -> bool {
        let (inside, outside) = (nets(&side["nets"]), nets(&side["notNets"]));
        for nets in [&inside, &outside] {
            if !nets.is_empty() && !nets.iter().any(|net| net.version() == Cidr::host(address).version()) {
                return false;
            }
        }
        let holds = |nets: &[Cidr]| nets.iter().any(|net| net.contains(address));
        let has = |thing: &Thing| holds(&thing.nets);
        let selector = |field: &str| {
            side[field].as_str().filter(|text| !text.is_empty()).map(|text| Selector::parse(text).unwrap())
        };
        let (wanted, unwanted, across) =
            (selector("selector"), selector("notSelector"), side["namespaceSelector"].as_str());
        let selects = wanted.is_some() || unwanted.is_some() || across.is_some();
        let positive = wanted.is_some() || across.is_some() || (selects && namespace.is_some());
        let meant = |thing: &&Thing| {
            let own = thing.labels.get(NAMESPACE).map(String::as_str);
            let place = match across {
                Some("all()") => own.is_some(),
                Some("global()") => own.is_none(),
                Some(_) => thing.labels.get("pcns.a").is_some_and(|value| value == "1"),
                None => namespace.is_none() || !selects || own == namespace,
            };
            place
                && wanted.as_ref().is_none_or(|selector| selector.matches(&thing.labels))
                && !(positive && unwanted.as_ref().is_some_and(|selector| selector.matches(&thing.labels)))
        };
        let known = self.things.iter().filter(meant).any(has);
        let refused = unwanted.as_ref().is_some_and(|selector| {
            !positive && self.things.iter().filter(|thing| selector.matches(&thing.labels)).any(has)
        });
        let port_is = |text: &str| match text.split_once(':') {
            Some((first, last)) => (first.parse().unwrap()..=last.parse().unwrap()).contains(&port),
            None => text.parse().map_or_else(
                |_| {
                    self.things
                        .iter()
                        .filter(meant)
                        .filter(|thing| has(thing))
                        .any(|thing| named(thing, text, protocol, port))
                },
                |number: u16| number == port,
            ),
        };
        let (ports, not_ports) = (texts(&side["ports"]), texts(&side["notPorts"]));
        (inside.is_empty() || holds(&inside))
            && !holds(&outside)
            && (!positive || known)
            && !refused
            && (ports.is_empty() || ports.iter().any(|text| port_is(text)))
            && !not_ports.iter().any(|text| port_is(text))
    }
}

fn named(thing: &Thing, name: &str, protocol: u8, port: u16) -> bool {
    list(&thing.spec["ports"]).iter().any(|own| {
        let number = if own["protocol"] == "TCP" { 6 } else { 17 };
        own["name"] == name && number == protocol && own["port"] == port
    })
}
