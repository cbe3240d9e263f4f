//! Config-only networks as the settings name them: `NAME,subnet=10.44.0.0/16,ipv6,opt=KEY=VALUE;...`, in the words of
//! `docker network create`. Pure.

use crate::model::Cidr;
use std::collections::BTreeMap;

/// A config-only network: what `docker network create --config-only` would be given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigNetwork {
    /// Its name.
    pub name: String,
    /// `--subnet`, each with the `--ip-range` that follows it.
    pub subnets: Vec<(Cidr, Option<Cidr>)>,
    /// `--ipv6`.
    pub ipv6: bool,
    /// `-o KEY=VALUE`.
    pub options: BTreeMap<String, String>,
}

/// Reads the list; names are not given twice.
pub(super) fn parse_config_networks(text: &str) -> Result<Vec<ConfigNetwork>, String> {
    let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    let networks = parts.map(parse_network).collect::<Result<Vec<_>, _>>()?;
    for (at, network) in networks.iter().enumerate() {
        if networks.iter().take(at).any(|other| other.name == network.name) {
            return Err(format!("{} is named twice", network.name));
        }
    }
    Ok(networks)
}

fn parse_network(text: &str) -> Result<ConfigNetwork, String> {
    let mut words = text.split(',').map(str::trim);
    let mut network =
        ConfigNetwork { name: words.next().unwrap_or_default().to_owned(), ..ConfigNetwork::default() };
    if !is_network_name(&network.name) {
        return Err(format!(
            "{:?} is no name of a network: letters, digits, '_', '.' and '-', the first a letter or digit, are expected",
            network.name
        ));
    }
    for word in words {
        take_word(&mut network, word).map_err(|why| format!("{}: {why}", network.name))?;
    }
    if network.subnets.iter().any(|(subnet, _)| subnet.base().is_ipv6()) && !network.ipv6 {
        return Err(format!("{}: an IPv6 subnet needs the word ipv6 too", network.name));
    }
    Ok(network)
}

/// As Docker demands it (moby `daemon/names`).
fn is_network_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    name.bytes().all(inner) && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn take_word(network: &mut ConfigNetwork, word: &str) -> Result<(), String> {
    let cidr = |text: &str| Cidr::parse_masking(text).map_err(|error| error.to_string());
    match word.split_once('=') {
        None if word == "ipv6" => network.ipv6 = true,
        // Docker: "Network operator fields like [ ingress | internal | attachable | scope ] are not supported".
        None if word == "internal" => {
            return Err("internal belongs to the network that is made with --config-from".to_owned());
        }
        Some(("subnet", text)) => network.subnets.push((cidr(text)?, None)),
        Some(("ip-range", text)) => {
            let range = cidr(text)?;
            let inside = network.subnets.iter_mut().find(|(subnet, _)| subnet.contains_cidr(&range));
            let (_, of) = inside.ok_or_else(|| format!("ip-range={range} is in no subnet before it"))?;
            *of = Some(range);
        }
        Some(("opt", option)) => {
            let (key, value) =
                option.split_once('=').ok_or_else(|| format!("opt={option}: KEY=VALUE is expected"))?;
            network.options.insert(key.to_owned(), value.to_owned());
        }
        None | Some(_) => {
            return Err(format!(
                "{word:?} is not one of subnet=PREFIX, ip-range=PREFIX, opt=KEY=VALUE and ipv6"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_in_dockers_words() {
        let text = "web,subnet=10.44.0.0/16,ip-range=10.44.5.0/24,ipv6,subnet=fd00:44::/64,opt=com.docker.network.driver.mtu=1400; plain;";
        let networks = parse_config_networks(text).unwrap();
        assert_eq!(
            networks.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(),
            ["web", "plain"]
        );
        let web = &networks[0];
        assert!(web.ipv6);
        assert_eq!(web.subnets[0].1, Some("10.44.5.0/24".parse().unwrap()));
        assert_eq!(web.subnets[1], ("fd00:44::/64".parse().unwrap(), None));
        assert_eq!(web.options["com.docker.network.driver.mtu"], "1400");
        assert_eq!(parse_config_networks("").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, part) in [
            ("web,subnet=ten", "web"),
            ("web,color=red", "subnet=PREFIX"),
            ("-x", "no name"),
            ("a;b;a", "twice"),
            ("a,ip-range=10.0.0.0/24", "in no subnet"),
            ("a,subnet=fd00::/64", "ipv6"),
            ("a,opt=x", "KEY=VALUE"),
            ("a,internal", "--config-from"),
        ] {
            let error = parse_config_networks(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
