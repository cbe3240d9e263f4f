//! Reads settings: texts in, a [`Config`] or all that is wrong with it out. Pure.

use super::node::{parse_address, parse_as_number, parse_detection};
use super::parse::{
    parse_backend, parse_block_size, parse_encap, parse_endpoints, parse_flag, parse_flag_or_none,
    parse_host_action, parse_iface_prefix, parse_listen, parse_log_rate, parse_mtu, parse_pool_cidr,
};
use super::{
    Config, ConfigError, Datastore, DefaultPool, Detection, EtcdConfig, EtcdMembers, HostDataplane,
    NodeAddress, NodeAddressConfig, NodeConfig, Places, SETTINGS, Scope, Setting, Strings,
};
use crate::model::{EncapMode, IpVersion, NodeName, RouterId};
use std::path::PathBuf;
use std::time::Duration;

impl Config {
    /// Reads and checks all settings; every problem is reported, not only the first.
    pub fn read(strings: &impl Strings) -> Result<Self, ConfigError> {
        let mut reader = Reader { strings, problems: Vec::new() };
        reader.refuse_unknown();
        let config = reader.config();
        match reader.problems.as_slice() {
            [] => Ok(config),
            _ => Err(ConfigError { problems: reader.problems }),
        }
    }

    /// Each setting's effective text and whether it was given; secrets are masked.
    pub fn effective(strings: &impl Strings) -> Vec<(&'static Setting, String, bool)> {
        let shown = |setting: &'static Setting| {
            let given = given(strings, setting.name);
            let is_given = given.is_some();
            let value = given.unwrap_or_else(|| setting.default.to_owned());
            let masked =
                if setting.name == "ETCD_PASSWORD" && !value.is_empty() { "(set)".to_owned() } else { value };
            (setting, masked, is_given)
        };
        SETTINGS.iter().map(shown).collect()
    }
}

/// What was given for a setting: `CALICO_NAME`, unless it is empty as the managed plugin has it, before `NAME`.
fn given(strings: &impl Strings, name: &str) -> Option<String> {
    let twin = if name.starts_with("CALICO_") { None } else { strings.get(&format!("CALICO_{name}")) };
    twin.filter(|text| !text.trim().is_empty()).or_else(|| strings.get(name))
}

struct Reader<'a, S: Strings> {
    strings: &'a S,
    problems: Vec<String>,
}

impl<S: Strings> Reader<'_, S> {
    /// A misspelt setting would be ignored silently otherwise. Calico's own names may carry the prefix `CALICO_`.
    fn refuse_unknown(&mut self) {
        let known = |name: &str| SETTINGS.iter().any(|setting| setting.name == name);
        let mut unknown: Vec<String> = self.strings.names();
        unknown.retain(|name| name.strip_prefix("CALICO_").is_some_and(|bare| !known(name) && !known(bare)));
        unknown.sort();
        self.problems
            .extend(unknown.iter().map(|name| format!("{name} is not a setting; see --help for all names")));
    }

    /// The text of a setting: `CALICO_NAME` before `NAME` before the default, as Calico's own clients read them.
    fn text(&mut self, name: &'static str) -> String {
        let default =
            SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default);
        given(self.strings, name).map_or_else(|| default.to_owned(), |text| text.trim().to_owned())
    }

    /// The setting's text, or `None` where it is empty.
    fn optional(&mut self, name: &'static str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// Parses a setting; on a problem it is noted and `fallback` goes on.
    fn parse<T>(
        &mut self,
        name: &'static str,
        fallback: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let text = self.text(name);
        read(&text).unwrap_or_else(|why| {
            self.problems.push(format!("{name}={text}: {why}"));
            fallback
        })
    }

    fn flag(&mut self, name: &'static str) -> bool {
        self.parse(name, false, parse_flag)
    }

    fn flag_or_none(&mut self, name: &'static str) -> Option<bool> {
        self.parse(name, None, parse_flag_or_none)
    }

    fn path(&mut self, name: &'static str) -> PathBuf {
        self.parse(name, PathBuf::new(), |text| match text.starts_with('/') {
            true => Ok(PathBuf::from(text)),
            false => Err("an absolute path is expected".to_owned()),
        })
    }

    fn scope(&mut self, name: &'static str) -> Scope {
        self.parse(name, Scope::Local, |text| match text {
            "local" => Ok(Scope::Local),
            "global" => Ok(Scope::Global),
            _ => Err("local or global is expected".to_owned()),
        })
    }

    fn duration(&mut self, name: &'static str, least: Duration, most: Duration) -> Duration {
        self.parse(name, least, |text| {
            let given = humantime::parse_duration(text).map_err(|error| format!("{error}; e.g. 10s"))?;
            let range = || {
                format!(
                    "{} to {} is expected",
                    humantime::format_duration(least),
                    humantime::format_duration(most)
                )
            };
            if (least..=most).contains(&given) { Ok(given) } else { Err(range()) }
        })
    }

    fn config(&mut self) -> Config {
        let datastore = self.datastore();
        let embedded = datastore == Datastore::Embedded;
        let no_pools = self.flag("NO_DEFAULT_POOLS");
        let gc_interval =
            self.duration("CALICO_LIBNETWORK_GC_INTERVAL", Duration::ZERO, Duration::from_secs(86_400));
        let pools =
            [self.pool(IpVersion::V4), self.pool(IpVersion::V6)].map(|pool| pool.filter(|_| !no_pools));
        let [ipv4_pool, ipv6_pool] = pools;
        Config {
            log_level: self.log_level(),
            node_name: self.node_name(),
            node: self.node(),
            datastore,
            ipv4_pool,
            ipv6_pool,
            create_pools: self.parse("CALICO_LIBNETWORK_CREATE_POOLS", embedded, |text| match text {
                "" => Ok(embedded),
                text => parse_flag(text),
            }),
            create_profiles: self.flag("CALICO_LIBNETWORK_CREATE_PROFILES"),
            bird: self.parse("CALICO_NETWORKING_BACKEND", false, parse_backend),
            router_id: self.parse("CALICO_ROUTER_ID", RouterId::NodeAddress, RouterId::parse),
            veth_mtu: self.parse("CALICO_LIBNETWORK_VETH_MTU", None, parse_mtu),
            iface_prefix: self.parse("CALICO_LIBNETWORK_IFPREFIX", "cali".to_owned(), parse_iface_prefix),
            scope: self.scope("CALICO_LIBNETWORK_SCOPE"),
            connectivity_scope: self.scope("CALICO_LIBNETWORK_CONNECTIVITY_SCOPE"),
            v1_sockets: self.flag("CALICO_LIBNETWORK_V1_SOCKETS"),
            dataplane: self.parse("CALICO_LIBNETWORK_DATAPLANE", HostDataplane::Auto, |text| match text {
                "auto" => Ok(HostDataplane::Auto),
                "builtin" => Ok(HostDataplane::Builtin),
                "felix" => Ok(HostDataplane::Felix),
                _ => Err("auto, builtin or felix is expected".to_owned()),
            }),
            forward_accept: self.auto_or("CALICO_LIBNETWORK_FORWARD_ACCEPT", "never"),
            routes: self.auto_or("CALICO_LIBNETWORK_ROUTES", "off"),
            label_patience: self.label_patience(),
            config_networks: self.parse(
                "CALICO_LIBNETWORK_CONFIG_NETWORKS",
                Vec::new(),
                super::network::parse_config_networks,
            ),
            request_timeout: self.duration(
                "CALICO_LIBNETWORK_REQUEST_TIMEOUT",
                Duration::from_secs(1),
                // dockerd gives a call 30 s by default and repeats it with an empty body after that.
                Duration::from_secs(25),
            ),
            gc_interval: Some(gc_interval).filter(|interval| !interval.is_zero()),
            gc_grace: self.duration(
                "CALICO_LIBNETWORK_GC_GRACE",
                Duration::from_secs(10),
                Duration::from_secs(86_400),
            ),
            endpoint_to_host: self.parse("CALICO_LIBNETWORK_ENDPOINT_TO_HOST", None, parse_host_action),
            remove_external_routes: self.flag_or_none("CALICO_LIBNETWORK_REMOVE_EXTERNAL_ROUTES"),
            log_prefix: self.optional("CALICO_LIBNETWORK_LOG_PREFIX"),
            log_rate: self.parse("CALICO_LIBNETWORK_LOG_RATE", None, parse_log_rate),
            metrics_listen: self.parse("CALICO_LIBNETWORK_METRICS_LISTEN", None, parse_listen),
            places: self.places(),
        }
    }

    /// A setting that is `auto` (true) or the word that switches it off.
    fn auto_or(&mut self, name: &'static str, off: &str) -> bool {
        self.parse(name, true, |text| match text {
            "auto" => Ok(true),
            text if text == off => Ok(false),
            _ => Err(format!("auto or {off} is expected")),
        })
    }

    fn label_patience(&mut self) -> Option<Duration> {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(600));
        let patience = self.duration("CALICO_LIBNETWORK_LABEL_POLL_TIMEOUT", least, most);
        self.flag("CALICO_LIBNETWORK_LABEL_ENDPOINTS").then_some(patience)
    }

    fn node(&mut self) -> NodeConfig {
        NodeConfig {
            ipv4: self.node_address("IP", "IP_AUTODETECTION_METHOD", IpVersion::V4),
            ipv6: self.node_address("IP6", "IP6_AUTODETECTION_METHOD", IpVersion::V6),
            as_number: self.parse("AS", None, parse_as_number),
            check_conflicts: !self.flag("DISABLE_NODE_IP_CHECK"),
        }
    }

    fn node_address(
        &mut self,
        address: &'static str,
        method: &'static str,
        version: IpVersion,
    ) -> NodeAddressConfig {
        NodeAddressConfig {
            address: self.parse(address, NodeAddress::WhereUnset, |text| parse_address(text, version)),
            detection: self.parse(method, Detection::FirstFound, |text| parse_detection(text, version)),
        }
    }

    fn places(&mut self) -> Places {
        let host_var_lib = self.path("CALICO_LIBNETWORK_HOST_VAR_LIB");
        // Named as on the host, whose /var/lib is elsewhere in a managed plugin.
        let nodename_file = self.path("CALICO_NODENAME_FILE");
        let nodename_file = match nodename_file.strip_prefix("/var/lib") {
            Ok(below) => host_var_lib.join(below),
            Err(_) => nodename_file,
        };
        Places {
            nodename_file,
            socket: self.optional("CALICO_LIBNETWORK_SOCKET").map(PathBuf::from),
            host_run: self.path("CALICO_LIBNETWORK_HOST_RUN"),
            host_var_lib,
            sysnet: self.path("CALICO_LIBNETWORK_SYSNET"),
            state_dir: self.path("CALICO_LIBNETWORK_STATE_DIR"),
            bird: self.path("CALICO_LIBNETWORK_BIRD"),
        }
    }

    fn log_level(&mut self) -> String {
        let debug = self.flag("CALICO_DEBUG");
        let level = self.parse("LOG_LEVEL", "info".to_owned(), |text| {
            let levels = ["off", "error", "warn", "info", "debug", "trace"];
            let level = text.to_lowercase();
            match levels.contains(&level.as_str()) {
                true => Ok(level),
                false => Err("error, warn, info, debug or trace is expected".to_owned()),
            }
        });
        if debug && level != "trace" { "debug".to_owned() } else { level }
    }

    fn node_name(&mut self) -> Option<NodeName> {
        self.parse("NODENAME", None, |text| match text {
            "" => Ok(None),
            text => NodeName::new(text).map(Some).map_err(|error| error.to_string()),
        })
    }

    fn datastore(&mut self) -> Datastore {
        let members = self.etcd_members();
        let kind = self.text("DATASTORE_TYPE");
        match (kind.as_str(), members) {
            ("" | "embedded", None) => Datastore::Embedded,
            ("" | "etcdv3", Some(members)) => Datastore::Etcd(self.etcd(members)),
            ("embedded", Some(_)) => self.datastore_problem(
                "DATASTORE_TYPE=embedded, but another setting says where etcd is (ETCD_ENDPOINTS, ETCD_DISCOVERY_SRV \
                 or ETCD_AUTHORITY)",
            ),
            ("etcdv3", None) => {
                self.datastore_problem("DATASTORE_TYPE=etcdv3 needs ETCD_ENDPOINTS or ETCD_DISCOVERY_SRV")
            }
            ("kubernetes", _) => self.datastore_problem(
                "DATASTORE_TYPE=kubernetes: Docker networks need Calico's etcd datastore or the embedded one",
            ),
            _ => self.datastore_problem("DATASTORE_TYPE: embedded or etcdv3 is expected"),
        }
    }

    fn datastore_problem(&mut self, sentence: &str) -> Datastore {
        self.problems.push(sentence.to_owned());
        Datastore::Embedded
    }

    /// Where etcd is; `None` if nothing says so.
    fn etcd_members(&mut self) -> Option<EtcdMembers> {
        let endpoints = self.parse("ETCD_ENDPOINTS", Vec::new(), parse_endpoints);
        let domain = self.optional("ETCD_DISCOVERY_SRV");
        let authority = self.etcd_authority();
        match domain {
            Some(_) if !endpoints.is_empty() => {
                self.problems.push("ETCD_ENDPOINTS and ETCD_DISCOVERY_SRV exclude each other".to_owned());
                Some(EtcdMembers::Urls(endpoints))
            }
            Some(domain) => Some(EtcdMembers::Srv(domain)),
            None if !endpoints.is_empty() => Some(EtcdMembers::Urls(endpoints)),
            None => authority.map(|url| EtcdMembers::Urls(vec![url])),
        }
    }

    /// The URL of the Go plugin's two settings.
    fn etcd_authority(&mut self) -> Option<String> {
        let scheme = self.parse("ETCD_SCHEME", "http", |text| match text {
            "http" => Ok("http"),
            "https" => Ok("https"),
            _ => Err("http or https is expected".to_owned()),
        });
        self.parse("ETCD_AUTHORITY", None, |text| match text.rsplit_once(':') {
            None if text.is_empty() => Ok(None),
            Some((host, port)) if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok() => {
                Ok(Some(format!("{scheme}://{text}")))
            }
            _ => Err("host:port is expected, as 10.0.0.1:2379".to_owned()),
        })
    }

    fn etcd(&mut self, members: EtcdMembers) -> EtcdConfig {
        let user = match (self.optional("ETCD_USERNAME"), self.optional("ETCD_PASSWORD")) {
            (Some(name), Some(password)) => Some((name, password)),
            (None, None) => None,
            _ => {
                self.problems.push("ETCD_USERNAME and ETCD_PASSWORD need each other".to_owned());
                None
            }
        };
        let client_files = match (self.optional("ETCD_CERT_FILE"), self.optional("ETCD_KEY_FILE")) {
            (Some(cert), Some(key)) => Some((PathBuf::from(cert), PathBuf::from(key))),
            (None, None) => None,
            _ => {
                self.problems.push("ETCD_CERT_FILE and ETCD_KEY_FILE need each other".to_owned());
                None
            }
        };
        let ca_file = self.optional("ETCD_CA_CERT_FILE").map(PathBuf::from);
        EtcdConfig { members, user, ca_file, client_files }
    }

    fn pool(&mut self, version: IpVersion) -> Option<DefaultPool> {
        let [cidr, block, nat, vxlan, nodes] = match version {
            IpVersion::V4 => [
                "CALICO_IPV4POOL_CIDR",
                "CALICO_IPV4POOL_BLOCK_SIZE",
                "CALICO_IPV4POOL_NAT_OUTGOING",
                "CALICO_IPV4POOL_VXLAN",
                "CALICO_IPV4POOL_NODE_SELECTOR",
            ],
            IpVersion::V6 => [
                "CALICO_IPV6POOL_CIDR",
                "CALICO_IPV6POOL_BLOCK_SIZE",
                "CALICO_IPV6POOL_NAT_OUTGOING",
                "CALICO_IPV6POOL_VXLAN",
                "CALICO_IPV6POOL_NODE_SELECTOR",
            ],
        };
        let wanted = self.text(cidr) != "none";
        let cidr = if wanted { self.parse(cidr, None, |text| parse_pool_cidr(text, version)) } else { None };
        let block_size = self.parse(block, 0, |text| parse_block_size(text, version));
        if let Some(pool) = cidr.filter(|pool| pool.prefix_len() > block_size) {
            self.problems
                .push(format!("{block}={block_size}: a block cannot be larger than the pool {pool}"));
        }
        let pool = DefaultPool {
            cidr,
            block_size,
            nat_outgoing: self.flag(nat),
            vxlan: self.parse(vxlan, EncapMode::Never, parse_encap),
            node_selector: self.text(nodes),
        };
        wanted.then_some(pool)
    }
}
