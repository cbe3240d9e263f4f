//! Options of networks and endpoints: what is taken, and one sentence for what is not. Pure.

use super::error::{DriverError, refused};
use crate::model::IfaceName;
use crate::protocol::Options;
use std::collections::{BTreeMap, BTreeSet};

/// MTU of the network's container interfaces.
const MTU: &str = "com.docker.network.driver.mtu";
/// What interface names in the network's containers begin with.
const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
/// A profile that networks of several hosts share, instead of one of the network's own.
const PROFILE: &str = "org.projectcalico.profile";
/// `driver-opt=org.projectcalico.label.role=db` at an endpoint: a label before the first packet. A label of this name at a
/// container: the same for all its endpoints, a moment after the start.
pub(super) const LABEL_PREFIX: &str = "org.projectcalico.label.";
/// `driver-opt=com.docker.network.endpoint.ifname=eth7`: the interface's name in the container.
const IFNAME: &str = "com.docker.network.endpoint.ifname";
/// What engines send of themselves, or carry out themselves: exposed ports, DNS servers, sysctls, the MAC address.
const OF_THE_ENGINE: &str = "com.docker.network.endpoint.";
/// The port map, which comes again in ProgramExternalConnectivity.
const PORT_MAP: &str = "com.docker.network.portmap";
/// Prefixes of labels that Calico or this plugin sets; no user can (Felix itself drops the first two).
const RESERVED_LABELS: [&str; 3] = ["pcns.", "pcsa.", "projectcalico.org/"];
/// Longest label value and longest name part of a label, as in Kubernetes.
const LABEL_MAX: usize = 63;

/// The options of a network that mean something here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NetworkOptions {
    /// MTU in bytes.
    pub(super) mtu: Option<u32>,
    /// What interface names begin with.
    pub(super) iface_prefix: Option<String>,
    /// Name of a shared profile.
    pub(super) profile: Option<String>,
}

impl NetworkOptions {
    /// Reads the `-o` options of `docker network create`; an unknown one is refused, never ignored.
    pub(super) fn parse(options: &BTreeMap<String, String>, ipv6: bool) -> Result<Self, DriverError> {
        let mut parsed = Self::default();
        for (key, value) in options {
            match key.as_str() {
                MTU => parsed.mtu = parse_mtu(value, ipv6)?,
                IFACE_PREFIX => parsed.iface_prefix = Some(parse_iface_prefix(value)?),
                PROFILE => parsed.profile = Some(parse_profile(value)?),
                _ => {
                    return Err(refused(format!(
                        "option {key} is not one of this driver's, which are {MTU}, {IFACE_PREFIX} and {PROFILE}"
                    )));
                }
            }
        }
        Ok(parsed)
    }
}

/// An IPv6 link carries at least 1280 bytes (RFC 8200 section 5), an IPv4 link 68 (RFC 791).
fn parse_mtu(value: &str, ipv6: bool) -> Result<Option<u32>, DriverError> {
    let least = if ipv6 { 1280 } else { 68 };
    match value.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(mtu) if (least..=65535).contains(&mtu) => Ok(Some(mtu)),
        _ => Err(refused(format!("{MTU}={value}: {least} to 65535 is expected"))),
    }
}

fn parse_iface_prefix(value: &str) -> Result<String, DriverError> {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric());
    match plain && (1..=12).contains(&value.len()) {
        true => Ok(value.to_owned()),
        false => Err(refused(format!("{IFACE_PREFIX}={value}: 1 to 12 letters or digits are expected"))),
    }
}

/// The name becomes a label too, so it obeys both rules: a DNS label sequence of at most 63 characters.
fn parse_profile(value: &str) -> Result<String, DriverError> {
    match crate::model::is_resource_name(value) && value.len() <= LABEL_MAX {
        true => Ok(value.to_owned()),
        false => Err(refused(format!(
            "{PROFILE}={value}: lower-case letters, digits, '-' and '.', at most {LABEL_MAX} characters, are expected"
        ))),
    }
}

/// The options of an endpoint that mean something here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EndpointOptions {
    /// The user's labels.
    pub(super) labels: BTreeMap<String, String>,
    /// The name that the interface is to have in the container.
    pub(super) ifname: Option<IfaceName>,
    /// Options of Docker's that have no effect here.
    pub(super) unused: Vec<String>,
}

impl EndpointOptions {
    /// Reads what an engine sends of itself and what a user gave by `driver-opt`. Reserved, malformed and unknown options
    /// are refused; one of Docker's own that is not known may be a future engine's and is only named.
    pub(super) fn parse(options: &Options) -> Result<Self, DriverError> {
        let mut parsed = Self::default();
        for (key, value) in options {
            let text = || value.as_str().ok_or_else(|| refused(format!("option {key}: a text is expected")));
            if let Some(label) = key.strip_prefix(LABEL_PREFIX) {
                check_label(label, text()?)?;
                parsed.labels.insert(label.to_owned(), text()?.to_owned());
            } else if key == IFNAME {
                parsed.ifname = Some(IfaceName::new(text()?)?);
            } else if !key.starts_with("com.docker.") {
                return Err(refused(format!(
                    "driver-opt {key} is not one of this driver's; {LABEL_PREFIX}NAME=VALUE sets a label"
                )));
            } else if !key.starts_with(OF_THE_ENGINE) && key != PORT_MAP {
                parsed.unused.push(key.clone());
            }
        }
        Ok(parsed)
    }
}

/// Whether a user can set a label, to this value.
pub(super) fn check_label(label: &str, value: &str) -> Result<(), DriverError> {
    if RESERVED_LABELS.iter().any(|prefix| label.starts_with(prefix)) || label.contains(".projectcalico.org/")
    {
        return Err(refused(format!("label {label} is reserved: Calico or this plugin sets it")));
    }
    let (prefix, name) = label.rsplit_once('/').map_or((None, label), |(prefix, name)| (Some(prefix), name));
    if !prefix.is_none_or(crate::model::is_resource_name) || name.is_empty() || !is_label_part(name) {
        return Err(refused(format!(
            "label {label:?}: letters, digits, '-', '_' and '.', at most {LABEL_MAX}, after an optional DNS prefix and '/', \
             are expected"
        )));
    }
    match is_label_part(value) {
        true => Ok(()),
        false => Err(refused(format!(
            "label {label}={value:?}: a value has at most {LABEL_MAX} letters, digits, '-', '_' and '.'"
        ))),
    }
}

/// Whether a label is none of those by which endpoints of networks of the Go plugin know each other.
pub(super) fn check_reserved(label: &str, reserved: &BTreeSet<String>) -> Result<(), DriverError> {
    match reserved.contains(label) {
        true => Err(refused(format!("label {label} is reserved: the endpoints of a network have it"))),
        false => Ok(()),
    }
}

/// A label's name or value: at most 63 of `[-A-Za-z0-9_.]`, first and last a letter or digit, or nothing.
fn is_label_part(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= LABEL_MAX && inner && edge(text.chars().next()) && edge(text.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn network(pairs: &[(&str, &str)]) -> Result<NetworkOptions, DriverError> {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        NetworkOptions::parse(&map, true)
    }

    fn labels(value: &serde_json::Value) -> Result<BTreeMap<String, String>, DriverError> {
        EndpointOptions::parse(value.as_object().unwrap()).map(|options| options.labels)
    }

    #[test]
    fn an_unknown_option_is_refused_and_the_known_ones_are_named() {
        let error = network(&[("parent", "eth0")]).unwrap_err().to_string();
        assert!(error.contains("parent") && error.contains(MTU) && error.contains(PROFILE), "{error}");
    }

    #[test]
    fn an_mtu_below_what_ipv6_needs_is_refused() {
        assert_eq!(network(&[(MTU, "1450")]).unwrap().mtu, Some(1450));
        assert!(network(&[(MTU, "1000")]).is_err());
        assert!(network(&[(MTU, "big")]).is_err());
    }

    #[test]
    fn a_profile_name_must_do_as_a_label_too() {
        assert!(network(&[(PROFILE, "Web_1")]).is_err());
        assert!(network(&[(PROFILE, &"a".repeat(64))]).is_err());
        assert_eq!(network(&[(PROFILE, "web")]).unwrap().profile.as_deref(), Some("web"));
    }

    #[test]
    fn labels_come_from_driver_opts_and_dockers_own_options_pass() {
        let given =
            json!({"org.projectcalico.label.role": "db", "com.docker.network.endpoint.exposedports": []});
        assert_eq!(labels(&given).unwrap(), BTreeMap::from([("role".to_owned(), "db".to_owned())]));
    }

    #[test]
    fn an_interface_name_is_taken_and_what_has_no_effect_is_named() {
        let given = json!({IFNAME: "eth7", "com.docker.network.driver.mtu": "1400", PORT_MAP: [],
            "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"});
        let options = EndpointOptions::parse(given.as_object().unwrap()).unwrap();
        assert_eq!(options.ifname.unwrap().as_str(), "eth7");
        assert_eq!(options.unused, [MTU]);
        for bad in [json!({IFNAME: "sixteen-letters-"}), json!({IFNAME: 7})] {
            assert!(EndpointOptions::parse(bad.as_object().unwrap()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_cannot_forge_a_reserved_label() {
        for label in ["network.projectcalico.org/abc", "projectcalico.org/namespace", "pcns.x", "pcsa.x"] {
            let error = labels(&json!({format!("{LABEL_PREFIX}{label}"): ""})).unwrap_err();
            assert!(error.to_string().contains("reserved"), "{error}");
        }
    }

    #[test]
    fn malformed_labels_are_refused() {
        for (key, value) in [("", "x"), ("a b", "x"), ("-a", "x"), ("a", "no spaces"), ("x/y/z", "v")] {
            assert!(labels(&json!({format!("{LABEL_PREFIX}{key}"): value})).is_err(), "{key}={value}");
        }
        assert!(labels(&json!({"color": "red"})).is_err());
    }
}
