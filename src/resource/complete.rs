//! What calicoctl adds to a document before it writes it.

use super::document::{Document, NAME_ANNOTATION};
use super::shape::PROTOCOLS;
use crate::model::{Cidr, IpPoolSpec};
use serde_json::{Map, Value, json};

/// The tier of a policy that names none.
pub(super) const DEFAULT_TIER: &str = "default";
/// The order of tier `default`, and of every tier that names none.
pub(super) const DEFAULT_TIER_ORDER: u32 = 1_000_000;
const TIER_LABEL: &str = "projectcalico.org/tier";

/// Fills in what a document leaves open.
pub(super) fn complete(document: &mut Document) {
    if let Some(namespace) = document.namespace.clone() {
        document.edit_metadata(|metadata| drop(metadata.insert("namespace".to_owned(), namespace.into())));
    }
    match document.kind.word {
        "NetworkPolicy" | "GlobalNetworkPolicy" => {
            policy(document);
            document.edit_spec(rules);
        }
        "Profile" => document.edit_spec(rules),
        "HostEndpoint" => document.edit_spec(|spec| {
            for port in items(spec.get_mut("ports")) {
                port.get_mut("protocol").into_iter().for_each(protocol);
            }
        }),
        "IPPool" => pool(document),
        "Tier" => document.edit_spec(tier),
        _ => document.edit_spec(|_| {}),
    }
    if document.kind.empty_status
        && let Some(root) = document.value.as_object_mut()
    {
        root.entry("status").or_insert_with(|| json!({}));
    }
}

/// As `DefaultTierFields` in `libcalico-go/lib/resources/tier.go`.
fn tier(spec: &mut Map<String, Value>) {
    if spec.get("order").is_none_or(Value::is_null) {
        spec.insert("order".to_owned(), DEFAULT_TIER_ORDER.into());
    }
    if spec.get("defaultAction").and_then(Value::as_str).is_none_or(str::is_empty) {
        spec.insert("defaultAction".to_owned(), "Deny".into());
    }
}

/// The tier that a policy's spec names.
pub(super) fn tier_of(spec: Option<&Map<String, Value>>) -> String {
    let tier = spec.and_then(|spec| spec.get("tier")).and_then(Value::as_str).filter(|tier| !tier.is_empty());
    tier.unwrap_or(DEFAULT_TIER).to_owned()
}

fn policy(document: &mut Document) {
    let tier = tier_of(document.spec());
    let note = json!({ "name": document.name }).to_string();
    document.edit_metadata(|metadata| {
        put(metadata, "labels", TIER_LABEL, tier.clone());
        put(metadata, "annotations", NAME_ANNOTATION, note);
    });
    document.edit_spec(|spec| {
        spec.insert("tier".to_owned(), tier.into());
        let has =
            |field: &str| spec.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if !has("types") {
            // Ingress if there are ingress rules or none at all, and Egress if there are egress rules (datamodel 1.8).
            let types = match (has("ingress"), has("egress")) {
                (true, true) => json!(["Ingress", "Egress"]),
                (false, true) => json!(["Egress"]),
                (_, false) => json!(["Ingress"]),
            };
            spec.insert("types".to_owned(), types);
        }
    });
}

fn items(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

/// Gives rules the form that calicoctl asks for, so that it takes what it is given back: it knows protocols to the
/// letter's case only, and prefixes with their length and without host bits (`libcalico-go/lib/validator/v3`).
fn rules(spec: &mut Map<String, Value>) {
    for direction in ["ingress", "egress"] {
        for rule in items(spec.get_mut(direction)) {
            for field in ["protocol", "notProtocol"] {
                rule.get_mut(field).into_iter().for_each(protocol);
            }
            for side in ["source", "destination"] {
                for field in ["nets", "notNets"] {
                    items(rule.get_mut(side).and_then(|side| side.get_mut(field))).for_each(prefix);
                }
            }
        }
    }
}

fn protocol(value: &mut Value) {
    let name = value.as_str().and_then(|text| PROTOCOLS.iter().find(|name| name.eq_ignore_ascii_case(text)));
    if let Some(name) = name {
        *value = (*name).into();
    }
}

/// Text that is right stays as it was written.
fn prefix(value: &mut Value) {
    let Some(text) = value.as_str() else { return };
    if let Ok(cidr) = Cidr::parse_masking(text.trim())
        && !(text.contains('/') && text.parse::<Cidr>().is_ok())
    {
        *value = cidr.to_string().into();
    }
}

/// Sets one entry of a map in the metadata, which is made if there is none.
fn put(metadata: &mut Map<String, Value>, map: &str, name: &str, value: String) {
    let mut entries = match metadata.remove(map) {
        Some(Value::Object(entries)) => entries,
        _ => Map::new(),
    };
    entries.insert(name.to_owned(), value.into());
    metadata.insert(map.to_owned(), Value::Object(entries));
}

fn pool(document: &mut Document) {
    let spec = document.spec();
    let cidr =
        spec.and_then(|spec| spec.get("cidr")).and_then(Value::as_str).and_then(|text| text.parse().ok());
    let Some(cidr) = cidr else { return };
    let defaults = serde_json::to_value(IpPoolSpec::new(cidr)).unwrap_or_default();
    document.edit_spec(|spec| {
        for (field, value) in defaults.as_object().into_iter().flatten() {
            let open = match spec.get(field) {
                None | Some(Value::Null) => true,
                Some(Value::String(text)) => text.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                Some(Value::Number(number)) => field == "blockSize" && number.as_u64() == Some(0),
                Some(_) => false,
            };
            if open {
                spec.insert(field.clone(), value.clone());
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::read;

    fn completed(text: &str) -> Value {
        let mut document = read(text).unwrap().remove(0);
        complete(&mut document);
        document.value
    }

    #[test]
    fn policies_get_tier_types_and_their_names_note() {
        let value = completed(
            r#"{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"allow-web"},"spec":{"egress":[{"action":"Allow"}]}}"#,
        );
        assert_eq!(value["metadata"]["labels"]["projectcalico.org/tier"], "default");
        assert_eq!(value["metadata"]["annotations"][NAME_ANNOTATION], r#"{"name":"allow-web"}"#);
        assert_eq!(value["spec"]["types"], json!(["Egress"]));
        assert_eq!(value["spec"]["tier"], "default");
    }

    #[test]
    fn rules_get_the_form_that_calicoctl_takes() {
        let rule = |protocol: &str, nets: &str| {
            format!(
                r#"{{"action":"Allow","protocol":{protocol},"notProtocol":"SCTP","source":{{"nets":{nets}}},"destination":{{"notNets":{nets}}}}}"#
            )
        };
        for (kind, direction) in
            [("Profile", "egress"), ("NetworkPolicy", "ingress"), ("GlobalNetworkPolicy", "egress")]
        {
            let spec = |protocol: &str, nets: &str| {
                let text = format!(
                    r#"{{"kind":"{kind}","apiVersion":"projectcalico.org/v3","metadata":{{"name":"a"}},"spec":{{"{direction}":[{}]}}}}"#,
                    rule(protocol, nets)
                );
                completed(&text)["spec"][direction].clone()
            };
            for (given, protocol) in [
                ("\"udplite\"", "\"UDPLite\""),
                ("\"ICMPV6\"", "\"ICMPv6\""),
                ("6", "6"),
                ("\"17\"", "\"17\""),
            ] {
                let nets = r#"["10.0.0.1","10.1.2.3/8","fd00::1/64","fd00::1"," 10.2.0.0/16","FD00::/8"]"#;
                let right =
                    r#"["10.0.0.1/32","10.0.0.0/8","fd00::/64","fd00::1/128","10.2.0.0/16","FD00::/8"]"#;
                let expected: Value = serde_json::from_str(&format!("[{}]", rule(protocol, right))).unwrap();
                assert_eq!(spec(given, nets), expected, "{kind}");
            }
        }
        let endpoint = completed(
            r#"{"kind":"HostEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"a"},"spec":{"ports":[{"name":"a","protocol":"tcp","port":1}]}}"#,
        );
        assert_eq!(endpoint["spec"]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn pools_get_calicos_defaults_and_keep_what_is_said() {
        let value = completed(
            r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"a"},"spec":{"cidr":"10.0.0.0/16","vxlanMode":"Always","blockSize":0}}"#,
        );
        assert_eq!(
            value["spec"],
            json!({"cidr":"10.0.0.0/16","vxlanMode":"Always","ipipMode":"Never","blockSize":26,"nodeSelector":"all()",
                "allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"})
        );
    }

    #[test]
    fn tiers_deny_and_have_a_status() {
        let value = completed(
            r#"{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{"name":"a"},"spec":{"order":5}}"#,
        );
        assert_eq!((&value["spec"]["defaultAction"], &value["status"]), (&json!("Deny"), &json!({})));
    }
}
