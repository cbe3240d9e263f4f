//! Every setting, declared once: `--help`, the README's table and `config.json` are made from this list.

use std::fmt::Write as _;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name in the environment.
    pub name: &'static str,
    /// Value of a plain daemon when it is not set.
    pub default: &'static str,
    /// Value in the managed plugin's `config.json`, where it differs.
    pub managed: Option<&'static str>,
    /// What it does, one line.
    pub help: &'static str,
    /// Whether users of the managed plugin can set it; a place is fixed by what `config.json` mounts there.
    pub settable: bool,
}

impl Setting {
    /// The name under which Calico's own clients read it as well, and first (`libcalico-go/lib/apiconfig/load.go`): where
    /// the datastore is. `config.json` declares it, empty, because engines let users set declared names only.
    #[must_use]
    pub fn twin(&self) -> Option<String> {
        let of_datastore = self.name == "DATASTORE_TYPE" || self.name.starts_with("ETCD_");
        of_datastore.then(|| format!("CALICO_{}", self.name))
    }
}

const fn setting(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default, managed: None, help, settable: true }
}

const fn place(
    name: &'static str,
    default: &'static str,
    managed: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting { name, default, managed, help, settable: false }
}

/// Every setting. Names that calico/node or the Go plugin had keep their names and meaning.
pub const SETTINGS: &[Setting] = &[
    setting("LOG_LEVEL", "info", "Least severe level that is logged: error, warn, info, debug or trace"),
    setting("CALICO_DEBUG", "false", "Same as LOG_LEVEL=debug, as the Go plugin had it"),
    setting(
        "NODENAME",
        "",
        "Calico node name; empty: the name in CALICO_NODENAME_FILE, then the host's name in lower case",
    ),
    setting(
        "CALICO_NODENAME_FILE",
        "/var/lib/calico/nodename",
        "File of the host in which calico/node leaves the node's name; a managed plugin sees only what is below /var/lib",
    ),
    setting(
        "IP",
        "",
        "This node's IPv4 address, with or without prefix length; autodetect: what is detected, whatever the Node says; none: what the Node says; empty: what is detected, unless somebody else set one",
    ),
    setting(
        "IP_AUTODETECTION_METHOD",
        "first-found",
        "How it is detected: first-found, can-reach=ADDRESS, interface=PATTERN, skip-interface=PATTERN or cidr=PREFIX",
    ),
    setting("IP6", "", "This node's IPv6 address, as IP"),
    setting("IP6_AUTODETECTION_METHOD", "first-found", "How it is detected, as IP_AUTODETECTION_METHOD"),
    setting("AS", "", "This node's AS number, e.g. 64512; empty: as the Node says"),
    setting(
        "DISABLE_NODE_IP_CHECK",
        "false",
        "Publish this node's address also where another Node has the same",
    ),
    setting(
        "DATASTORE_TYPE",
        "",
        "embedded or etcdv3; empty: etcdv3 if one of the next three settings says where etcd is, else embedded",
    ),
    setting("ETCD_ENDPOINTS", "", "Comma list of etcd URLs, e.g. http://10.0.0.1:2379"),
    setting(
        "ETCD_DISCOVERY_SRV",
        "",
        "Domain whose SRV records _etcd-client-ssl._tcp and _etcd-client._tcp name etcd, instead of ETCD_ENDPOINTS",
    ),
    setting(
        "ETCD_AUTHORITY",
        "",
        "host:port of one etcd, as the Go plugin had it, where neither ETCD_ENDPOINTS nor ETCD_DISCOVERY_SRV is set",
    ),
    setting("ETCD_SCHEME", "http", "http or https, for ETCD_AUTHORITY"),
    setting("ETCD_USERNAME", "", "etcd user; needs ETCD_PASSWORD"),
    setting("ETCD_PASSWORD", "", "Password of ETCD_USERNAME"),
    setting("ETCD_CA_CERT_FILE", "", "PEM file of the CA that signed etcd's certificate"),
    setting("ETCD_CERT_FILE", "", "PEM file of the client certificate for etcd"),
    setting("ETCD_KEY_FILE", "", "PEM file of the client certificate's key"),
    setting("NO_DEFAULT_POOLS", "false", "Do not create IP pools at start"),
    setting(
        "CALICO_IPV4POOL_CIDR",
        "",
        "IPv4 pool created at start if the datastore has none; empty: 192.168.0.0/16, or the next private prefix that overlaps no route of the host; none: no pool",
    ),
    setting("CALICO_IPV4POOL_BLOCK_SIZE", "26", "Prefix length of the IPv4 pool's blocks, 20 to 32"),
    setting(
        "CALICO_IPV4POOL_NAT_OUTGOING",
        "true",
        "Masquerade traffic from the IPv4 pool to outside all pools",
    ),
    setting("CALICO_IPV4POOL_VXLAN", "Never", "VXLAN mode of the IPv4 pool: Never, Always or CrossSubnet"),
    setting("CALICO_IPV4POOL_NODE_SELECTOR", "all()", "Nodes that may use the IPv4 pool"),
    setting(
        "CALICO_IPV6POOL_CIDR",
        "",
        "IPv6 pool created at start if the datastore has none; empty: fd80:24e2:f998:72d6::/64; none: no pool",
    ),
    setting("CALICO_IPV6POOL_BLOCK_SIZE", "122", "Prefix length of the IPv6 pool's blocks, 116 to 128"),
    setting(
        "CALICO_IPV6POOL_NAT_OUTGOING",
        "false",
        "Masquerade traffic from the IPv6 pool to outside all pools",
    ),
    setting("CALICO_IPV6POOL_VXLAN", "Never", "VXLAN mode of the IPv6 pool: Never, Always or CrossSubnet"),
    setting("CALICO_IPV6POOL_NODE_SELECTOR", "all()", "Nodes that may use the IPv6 pool"),
    setting(
        "CALICO_LIBNETWORK_CREATE_POOLS",
        "",
        "Whether --subnet outside every pool makes a pool: true or false; empty: true with the embedded datastore, false with etcd",
    ),
    setting(
        "CALICO_LIBNETWORK_CREATE_PROFILES",
        "true",
        "Create a Calico profile for each network that lets its containers reach each other",
    ),
    setting(
        "CALICO_LIBNETWORK_VETH_MTU",
        "",
        "MTU of container interfaces in bytes; empty: the smallest of the host's uplinks that are up",
    ),
    setting("CALICO_LIBNETWORK_IFPREFIX", "cali", "What interface names inside containers begin with"),
    setting(
        "CALICO_LIBNETWORK_SCOPE",
        "local",
        "Scope told to Docker: local (addresses are assigned on the node that runs the container) or global",
    ),
    setting(
        "CALICO_LIBNETWORK_CONNECTIVITY_SCOPE",
        "global",
        "Connectivity scope told to Docker: global switches swarm's service discovery on",
    ),
    setting(
        "CALICO_LIBNETWORK_V1_SOCKETS",
        "true",
        "Also serve the names calico and calico-ipam that the Go plugin had",
    ),
    setting(
        "CALICO_LIBNETWORK_DATAPLANE",
        "auto",
        "Who filters and routes on this host: builtin (this plugin), felix (Felix of calico/node; this plugin makes interfaces and published ports only), auto (Felix where it does)",
    ),
    setting(
        "CALICO_LIBNETWORK_FORWARD_ACCEPT",
        "auto",
        "Let accepted packets pass a FORWARD chain that Docker or the distribution set to DROP: auto or never",
    ),
    setting(
        "CALICO_LIBNETWORK_ROUTES",
        "auto",
        "Routes, VXLAN devices and tunnel addresses for traffic between nodes: auto, or off where somebody else makes them",
    ),
    setting(
        "CALICO_LIBNETWORK_LABEL_ENDPOINTS",
        "true",
        "Give endpoints the labels org.projectcalico.label.NAME=VALUE of their containers",
    ),
    setting(
        "CALICO_LIBNETWORK_LABEL_POLL_TIMEOUT",
        "5s",
        "How long Docker's word about one started container's labels is waited for",
    ),
    setting(
        "CALICO_LIBNETWORK_CONFIG_NETWORKS",
        "",
        "Config-only networks to create on this node, e.g. web-config,subnet=10.44.0.0/16,ipv6,subnet=fd00:44::/64,opt=KEY=VALUE;shop-config",
    ),
    setting(
        "CALICO_LIBNETWORK_REQUEST_TIMEOUT",
        "10s",
        "Time after which a call of Docker is answered with an error, 1s to 25s",
    ),
    setting(
        "CALICO_LIBNETWORK_GC_INTERVAL",
        "60s",
        "Time between two searches for endpoints and addresses that nobody owns; 0s: never",
    ),
    setting("CALICO_LIBNETWORK_GC_GRACE", "60s", "Least age of what is collected, 10s or more"),
    setting(
        "CALICO_LIBNETWORK_ENDPOINT_TO_HOST",
        "",
        "What becomes of packets from containers to their own host that policy allows: Drop, Return (the host's own rules decide) or Accept; empty: as FelixConfiguration says, else Return",
    ),
    setting(
        "CALICO_LIBNETWORK_REMOVE_EXTERNAL_ROUTES",
        "",
        "Whether routes that others make to containers' interfaces on this host are taken away: true or false; empty: as FelixConfiguration says, else true",
    ),
    setting(
        "CALICO_LIBNETWORK_LOG_PREFIX",
        "",
        "What lines of Log rules begin with; %t is the tier, %k the kind, %n the name, %p name with namespace; empty: as FelixConfiguration says, else calico-packet",
    ),
    setting(
        "CALICO_LIBNETWORK_LOG_RATE",
        "",
        "Most lines of one Log rule, e.g. 10/second; empty: as FelixConfiguration says, else no limit",
    ),
    setting(
        "CALICO_LIBNETWORK_METRICS_LISTEN",
        "",
        "Port of 127.0.0.1, or address and port, at which /metrics is served; empty: nowhere but on the administrator's socket",
    ),
    setting(
        "CALICO_NETWORKING_BACKEND",
        "none",
        "bird: announce this node's addresses by BGP and learn routes to others; none: the plugin's own routes alone (vxlan means the same)",
    ),
    setting(
        "CALICO_ROUTER_ID",
        "",
        "BGP router ID; empty: the node's IPv4 address; hash: from the node's name, for nodes without IPv4",
    ),
    place(
        "CALICO_LIBNETWORK_BIRD",
        "/usr/sbin/bird",
        None,
        "The program BIRD 2; the managed plugin brings its own",
    ),
    place(
        "CALICO_LIBNETWORK_SOCKET",
        "",
        Some("/run/docker/plugins/calico.sock"),
        "Socket of the managed plugin; empty in a plain daemon",
    ),
    place(
        "CALICO_LIBNETWORK_HOST_RUN",
        "/run",
        Some("/host/run"),
        "The host's /run: Docker's API socket and the v1 sockets' folder are below it",
    ),
    place("CALICO_LIBNETWORK_HOST_VAR_LIB", "/var/lib", Some("/host/var/lib"), "The host's /var/lib"),
    place(
        "CALICO_LIBNETWORK_SYSNET",
        "/proc/sys/net",
        Some("/host/sysnet"),
        "A writable /proc/sys/net of the host",
    ),
    place(
        "CALICO_LIBNETWORK_STATE_DIR",
        "/var/lib/calico-libnetwork",
        None,
        "Folder of this node's state, the embedded datastore included",
    ),
];

/// The table of all settings in Markdown, as it stands in the README.
#[must_use]
pub fn settings_table() -> String {
    let mut text = String::from("| setting | default | what it does |\n|---|---|---|\n");
    for Setting { name, default, managed, help, settable } in SETTINGS {
        let value = |value: &str| if value.is_empty() { "(empty)".to_owned() } else { format!("`{value}`") };
        let default = match managed {
            Some(managed) => format!("{}; managed plugin: {}", value(default), value(managed)),
            None => value(default),
        };
        let fixed = if *settable { "" } else { " (fixed in the managed plugin)" };
        let help = help.replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{name}` | {default} | {help}{fixed} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_setting() {
        let table = settings_table();
        assert_eq!(table.lines().count(), SETTINGS.len() + 2);
        assert!(table.contains("| `NODENAME` | (empty) | "), "{table}");
        assert!(table.contains("| `/run`; managed plugin: `/host/run` | "), "{table}");
    }

    #[test]
    fn no_setting_is_declared_twice() {
        let mut names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
