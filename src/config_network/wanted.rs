//! What a config-only network is to Docker, and whether one that exists is the one that is wanted. Pure.

use crate::config::ConfigNetwork;
use crate::docker::{DockerNetwork, NetworkPrefix};
use crate::model::Cidr;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The body of `POST /networks/create`. `CheckDuplicate` makes engines before 25 refuse a second one of the name.
pub(super) fn request(network: &ConfigNetwork, ipam_driver: &str) -> Value {
    let prefix = |(subnet, range): &(Cidr, Option<Cidr>)| match range {
        Some(range) => json!({"Subnet": subnet.to_string(), "IPRange": range.to_string()}),
        None => json!({"Subnet": subnet.to_string()}),
    };
    json!({
        "Name": network.name,
        "CheckDuplicate": true,
        "ConfigOnly": true,
        "EnableIPv6": network.ipv6,
        "IPAM": {"Driver": ipam_driver, "Config": network.subnets.iter().map(prefix).collect::<Vec<_>>()},
        "Options": network.options,
    })
}

/// In what a network that bears the name is another one; `None` if it is as wanted.
pub(super) fn difference(
    network: &ConfigNetwork,
    ipam_driver: &str,
    found: &DockerNetwork,
) -> Option<&'static str> {
    let of = |prefix: &NetworkPrefix| {
        let range = Cidr::parse_masking(&prefix.ip_range).ok();
        Some((Cidr::parse_masking(&prefix.subnet).ok()?, range))
    };
    let has: BTreeSet<_> = found.ipam.config.iter().flatten().filter_map(of).collect();
    let wants: BTreeSet<_> = network.subnets.iter().copied().collect();
    let options = found.options.clone().unwrap_or_default();
    [
        (!found.config_only, "it is not config-only"),
        (found.ipam.driver != ipam_driver, "its IPAM driver is another one"),
        (has != wants, "its prefixes are others"),
        (found.ipv6 != network.ipv6, "it differs in ipv6"),
        (options != network.options, "its options are others"),
    ]
    .into_iter()
    .find_map(|(differs, what)| differs.then_some(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_what_is_wanted() {
        let network = ConfigNetwork {
            name: "web-config".to_owned(),
            subnets: vec![
                ("10.44.0.0/16".parse().unwrap(), Some("10.44.5.0/24".parse().unwrap())),
                ("fd00::/64".parse().unwrap(), None),
            ],
            ipv6: true,
            ..ConfigNetwork::default()
        };
        let asked = request(&network, "calico:latest");
        let mut found: DockerNetwork = serde_json::from_value(asked.clone()).unwrap();
        assert_eq!(difference(&network, "calico:latest", &found), None);
        assert_eq!(difference(&network, "calico:v2", &found), Some("its IPAM driver is another one"));
        found.ipv6 = false;
        assert_eq!(difference(&network, "calico:latest", &found), Some("it differs in ipv6"));
        found.config_only = false;
        assert_eq!(difference(&network, "calico:latest", &found), Some("it is not config-only"));
        assert_eq!(asked["IPAM"]["Config"][0]["IPRange"], "10.44.5.0/24");
    }
}
