//! The other way round: what Docker has and this plugin does not know. Pure: listings in, calls to repeat out.
//!
//! An engine tells a driver of a network once, when it is created. If the plugin's state is lost (the plugin was removed
//! and installed again, its file was damaged), networks and running containers are still there, so the calls that made
//! them are put together again from what Docker's API tells.

use crate::docker::{Attachment, ContainerSummary, DockerNetwork, ManagedPlugin, NetworkPrefix};
use crate::protocol::{CreateEndpoint, CreateNetwork, EndpointInterface, GENERIC_OPTIONS, IpamData, Options};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The names of the v1 plugins.
const V1_NAMES: [&str; 2] = ["calico", "calico-ipam"];

/// Under which names this engine knows this plugin.
pub(super) fn own_names(plugins: &[ManagedPlugin]) -> BTreeSet<String> {
    let managed = plugins.iter().filter(|plugin| plugin.is_this()).map(|plugin| plugin.name.clone());
    managed.chain(V1_NAMES.map(str::to_owned)).collect()
}

/// The calls that made networks of ours which are not known. `address_space` is our IPAM's. A manager lists networks of its swarm
/// that are not on this node as well, without prefixes if nodes assign their addresses.
pub(super) fn networks(
    docker: &[DockerNetwork],
    names: &BTreeSet<String>,
    known: &BTreeSet<String>,
    address_space: &str,
) -> Vec<CreateNetwork> {
    let unknown = |network: &&DockerNetwork| {
        names.contains(&network.driver)
            && !network.config_only
            && !known.contains(&network.id)
            && network.ipam.config.iter().flatten().next().is_some()
    };
    docker.iter().filter(unknown).map(|network| create_network(network, names, address_space)).collect()
}

fn create_network(network: &DockerNetwork, names: &BTreeSet<String>, address_space: &str) -> CreateNetwork {
    let space = if names.contains(&network.ipam.driver) { address_space } else { "LocalDefault" };
    let data = |prefix: &NetworkPrefix| IpamData {
        address_space: space.to_owned(),
        pool: prefix.subnet.clone(),
        gateway: prefix.gateway.clone(),
        aux_addresses: prefix.auxiliary_addresses.clone().unwrap_or_default(),
    };
    let prefixes = network.ipam.config.iter().flatten();
    let (ipv6_data, ipv4_data) = prefixes.map(data).partition(|data: &IpamData| data.pool.contains(':'));
    let mut options = Options::new();
    options.insert("com.docker.network.enable_ipv6".to_owned(), Value::Bool(network.ipv6));
    options.insert("com.docker.network.internal".to_owned(), Value::Bool(network.internal));
    options.insert(GENERIC_OPTIONS.to_owned(), json!(network.options.clone().unwrap_or_default()));
    CreateNetwork { network_id: network.id.clone(), options, ipv4_data, ipv6_data }
}

/// The calls that made endpoints of running containers which are not known, in networks that are.
pub(super) fn endpoints(
    containers: &[ContainerSummary],
    networks: &BTreeSet<String>,
    known: &BTreeSet<String>,
) -> Vec<CreateEndpoint> {
    let running = containers.iter().filter(|container| container.is_running());
    let unknown = |attachment: &&Attachment| {
        networks.contains(&attachment.network_id) && !known.contains(&attachment.endpoint_id)
    };
    running.flat_map(ContainerSummary::attachments).filter(unknown).map(create_endpoint).collect()
}

/// The container that has an endpoint.
pub(super) fn container_of<'a>(
    containers: &'a [ContainerSummary],
    endpoint: &str,
) -> Option<&'a ContainerSummary> {
    containers.iter().find(|container| container.endpoint_ids().any(|id| id == endpoint))
}

/// The call that made one endpoint of a container; `None` if the container has left its network.
pub(super) fn endpoint(container: &ContainerSummary, id: &str) -> Option<CreateEndpoint> {
    container.attachments().find(|attachment| attachment.endpoint_id == id).map(create_endpoint)
}

fn create_endpoint(attachment: &Attachment) -> CreateEndpoint {
    let with_prefix = |ip: &str, len: u8| if ip.is_empty() { String::new() } else { format!("{ip}/{len}") };
    let options = attachment.driver_options.iter().flatten();
    CreateEndpoint {
        network_id: attachment.network_id.clone(),
        endpoint_id: attachment.endpoint_id.clone(),
        interface: EndpointInterface {
            address: with_prefix(&attachment.ipv4, attachment.ipv4_prefix),
            address_ipv6: with_prefix(&attachment.ipv6, attachment.ipv6_prefix),
            mac_address: attachment.mac.clone(),
        },
        options: options.map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_lost_network_is_put_together_from_dockers_listing() {
        let plugins = r#"[{"Name":"calico:v2","Config":{"Entrypoint":["/calico-libnetwork","serve"]}},
                          {"Name":"other:latest","Config":{"Entrypoint":["/other"]}}]"#;
        let names = own_names(&serde_json::from_str::<Vec<ManagedPlugin>>(plugins).unwrap());
        assert_eq!(names, set(&["calico", "calico-ipam", "calico:v2"]));
        let listing = r#"[
            {"Id":"n1","Driver":"calico:v2","EnableIPv6":true,"Internal":true,"Options":{"com.docker.network.driver.mtu":"1400"},
             "IPAM":{"Driver":"calico:v2","Config":[{"Subnet":"10.1.0.0/24","Gateway":"169.254.1.1/32",
             "AuxiliaryAddresses":{"router":"10.1.0.9"}},{"Subnet":"fd00::/64"}]}},
            {"Id":"n2","Driver":"calico","Options":null,"IPAM":{"Driver":"default","Config":[{"Subnet":"172.18.0.0/16"}]}},
            {"Id":"n3","Driver":"bridge","IPAM":{"Driver":"default","Config":[]}},
            {"Id":"n4","Driver":"calico:v2","ConfigOnly":true,"IPAM":{"Config":[{"Subnet":"10.2.0.0/24"}]}},
            {"Id":"n5","Driver":"calico:v2","Scope":"swarm","IPAM":{"Driver":"default","Config":null}}]"#;
        let listing: Vec<DockerNetwork> = serde_json::from_str(listing).unwrap();
        let calls = networks(&listing, &names, &set(&[]), "Ours");
        assert_eq!(calls.iter().map(|call| call.network_id.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
        assert!(calls[0].ipv6_enabled() && calls[0].internal());
        assert_eq!(calls[0].driver_options()["com.docker.network.driver.mtu"], "1400");
        assert_eq!(calls[0].ipv4_data[0].address_space, "Ours");
        assert_eq!(calls[0].ipv4_data[0].aux_addresses["router"], "10.1.0.9");
        assert_eq!(calls[0].ipv6_data[0].pool, "fd00::/64");
        assert_eq!(calls[1].ipv4_data[0].address_space, "LocalDefault");
        assert!(networks(&listing, &names, &set(&["n1", "n2"]), "Ours").is_empty());
    }

    #[test]
    fn a_lost_endpoint_is_put_together_if_its_container_runs() {
        let listing = r#"[
            {"Id":"c1","State":"running","NetworkSettings":{"Networks":{"web":{"EndpointID":"e1","NetworkID":"n1",
             "IPAddress":"10.1.0.2","IPPrefixLen":32,"GlobalIPv6Address":"","MacAddress":"02:00:00:00:00:01",
             "DriverOpts":{"org.projectcalico.label.role":"db"}},"br":{"EndpointID":"e9","NetworkID":"n9"}}}},
            {"Id":"c2","State":"exited","NetworkSettings":{"Networks":{"web":{"EndpointID":"e2","NetworkID":"n1"}}}}]"#;
        let listing: Vec<ContainerSummary> = serde_json::from_str(listing).unwrap();
        let calls = endpoints(&listing, &set(&["n1"]), &set(&[]));
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].interface.address, "10.1.0.2/32");
        assert!(calls[0].interface.address_ipv6.is_empty());
        assert_eq!(calls[0].options["org.projectcalico.label.role"], "db");
        assert!(endpoints(&listing, &set(&["n1"]), &set(&["e1"])).is_empty());
    }
}
