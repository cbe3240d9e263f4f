//! The few fields of Docker's API answers that this plugin reads.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// One container, from `GET /containers/json?all=1`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSummary {
    /// Container ID.
    pub id: String,
    /// Names, each with a `/` in front.
    pub names: Option<Vec<String>>,
    /// `running`, `created`, `exited`, `paused`, `restarting`, `removing` or `dead`.
    pub state: String,
    /// Its labels: its own, compose's, and a swarm task's `--container-label`s.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its networks.
    pub network_settings: Option<NetworkSettings>,
}

/// The networks of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    /// Network name to attachment.
    pub networks: Option<BTreeMap<String, Attachment>>,
}

/// One attachment of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Endpoint ID; empty while the container is not attached.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Network ID.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// IPv4 address.
    #[serde(rename = "IPAddress")]
    pub ipv4: String,
    /// Prefix length of the IPv4 address.
    #[serde(rename = "IPPrefixLen")]
    pub ipv4_prefix: u8,
    /// IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub ipv6: String,
    /// Prefix length of the IPv6 address.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub ipv6_prefix: u8,
    /// MAC address.
    #[serde(rename = "MacAddress")]
    pub mac: String,
    /// `driver-opt`s of the attachment.
    #[serde(rename = "DriverOpts")]
    pub driver_options: Option<BTreeMap<String, String>>,
}

impl ContainerSummary {
    /// Whether its processes exist.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "restarting")
    }

    /// Whether a word of the command line means it: its name, its ID, or how its ID begins.
    #[must_use]
    pub fn is_called(&self, word: &str) -> bool {
        let names = self.names.iter().flatten().any(|name| name.trim_start_matches('/') == word);
        names || (word.len() >= 4 && self.id.starts_with(word))
    }

    /// The container's endpoints.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        let networks = self.network_settings.iter().flat_map(|settings| &settings.networks).flatten();
        networks.map(|(_, attachment)| attachment).filter(|attachment| !attachment.endpoint_id.is_empty())
    }

    /// IDs of the container's endpoints.
    pub fn endpoint_ids(&self) -> impl Iterator<Item = &str> {
        self.attachments().map(|attachment| attachment.endpoint_id.as_str())
    }
}

/// One container, from `GET /containers/ID/json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerDetail {
    /// Container ID.
    pub id: String,
    /// Its name, with a `/` in front.
    pub name: String,
    /// What it was made from.
    pub config: Option<ContainerConfig>,
    /// Its networks.
    pub network_settings: Option<NetworkSettings>,
}

/// The part of a container's configuration that is read here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Its labels.
    pub labels: Option<BTreeMap<String, String>>,
}

impl ContainerDetail {
    /// The same as an entry of the list of containers.
    #[must_use]
    pub fn summary(self) -> ContainerSummary {
        ContainerSummary {
            id: self.id,
            names: Some(vec![self.name]),
            state: String::new(),
            labels: self.config.unwrap_or_default().labels,
            network_settings: self.network_settings,
        }
    }
}

/// What is attached to one network, from `GET /networks/ID`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAttachments {
    /// Container ID, or `ep-` and the endpoint's where no container has it, to attachment.
    pub containers: Option<BTreeMap<String, Attachment>>,
}

impl NetworkAttachments {
    /// IDs of the endpoints that containers have, or get in a start that is under way.
    #[must_use]
    pub fn endpoint_ids(self) -> BTreeSet<String> {
        let attached = self.containers.into_iter().flatten().filter(|(holder, _)| !holder.starts_with("ep-"));
        attached.map(|(_, attachment)| attachment.endpoint_id).collect()
    }
}

/// One network, from `GET /networks`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DockerNetwork {
    /// Network ID.
    #[serde(rename = "Id")]
    pub id: String,
    /// Network name.
    #[serde(rename = "Name")]
    pub name: String,
    /// Driver name.
    #[serde(rename = "Driver")]
    pub driver: String,
    /// `-o` options.
    #[serde(rename = "Options")]
    pub options: Option<BTreeMap<String, String>>,
    /// `--ipv6`.
    #[serde(rename = "EnableIPv6")]
    pub ipv6: bool,
    /// `--internal`.
    #[serde(rename = "Internal")]
    pub internal: bool,
    /// `--config-only`: a template, which no driver ever sees.
    #[serde(rename = "ConfigOnly")]
    pub config_only: bool,
    /// Address management.
    #[serde(rename = "IPAM")]
    pub ipam: NetworkIpam,
}

/// Address management of a network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkIpam {
    /// IPAM driver name; `default` is Docker's own.
    pub driver: String,
    /// Its prefixes.
    pub config: Option<Vec<NetworkPrefix>>,
}

/// One prefix of a network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkPrefix {
    /// Prefix.
    pub subnet: String,
    /// `--ip-range`.
    #[serde(rename = "IPRange")]
    pub ip_range: String,
    /// Gateway, with or without prefix length.
    pub gateway: String,
    /// `--aux-address`.
    pub auxiliary_addresses: Option<BTreeMap<String, String>>,
}

/// One managed plugin, from `GET /plugins`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ManagedPlugin {
    /// Name with tag: what networks call their driver.
    pub name: String,
    /// Whether it runs.
    pub enabled: bool,
    /// Its manifest.
    pub config: PluginManifest,
}

/// The part of a plugin's manifest that tells whose it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PluginManifest {
    /// What it runs.
    pub entrypoint: Option<Vec<String>>,
}

/// What this plugin runs as in a managed plugin; tells under which name the engine knows it.
const ENTRYPOINT: &str = "/calico-libnetwork";

impl ManagedPlugin {
    /// Whether it is this plugin, under whatever name.
    #[must_use]
    pub fn is_this(&self) -> bool {
        self.config.entrypoint.iter().flatten().next().is_some_and(|word| word == ENTRYPOINT)
    }
}

impl DockerNetwork {
    /// The Linux bridge of a network of the bridge driver: named by the user, or `br-` and twelve digits of the ID.
    #[must_use]
    pub fn bridge_name(&self) -> Option<String> {
        if self.driver != "bridge" {
            return None;
        }
        let named =
            self.options.as_ref().and_then(|options| options.get("com.docker.network.bridge.name")).cloned();
        named.or_else(|| self.id.get(..12).map(|id| format!("br-{id}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_ids_of_attached_networks_only() {
        let text = r#"{"Id":"c","NetworkSettings":{"Networks":{"web":{"EndpointID":"e1"},"idle":{"EndpointID":""}}}}"#;
        let container: ContainerSummary = serde_json::from_str(text).unwrap();
        assert_eq!(container.endpoint_ids().collect::<Vec<_>>(), ["e1"]);
    }

    #[test]
    fn bridges_are_named_by_the_user_or_by_the_id() {
        let of = |text: &str| serde_json::from_str::<DockerNetwork>(text).unwrap().bridge_name();
        let id = "0123456789abcdef";
        assert_eq!(
            of(&format!(r#"{{"Id":"{id}","Driver":"bridge","Options":null}}"#)).unwrap(),
            "br-0123456789ab"
        );
        let named = r#"{"Id":"x","Driver":"bridge","Options":{"com.docker.network.bridge.name":"docker0"}}"#;
        assert_eq!(of(named).unwrap(), "docker0");
        assert_eq!(of(r#"{"Id":"x","Driver":"overlay"}"#), None);
    }
}
