//! Settings: environment in, checked [`Config`] out. Managed plugins are configured by `docker plugin set NAME=value`,
//! so the environment is the one source; every setting is declared once in [`SETTINGS`], from which `--help`, the
//! README's table and `config.json` are made (a test compares them).

use crate::model::{Cidr, EncapMode, IpVersion, NodeName};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

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
}

const fn setting(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default, managed: None, help }
}

const fn placed(
    name: &'static str,
    default: &'static str,
    managed: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, default, managed: Some(managed), help }
}

/// Every setting. Names that calico/node or the Go plugin had keep their names and meaning.
pub const SETTINGS: &[Setting] = &[
    setting("LOG_LEVEL", "info", "Least severe level that is logged: error, warn, info, debug or trace"),
    setting("CALICO_DEBUG", "false", "Same as LOG_LEVEL=debug, as the Go plugin had it"),
    setting(
        "NODENAME",
        "",
        "Calico node name; empty: /var/lib/calico/nodename, then the host's name in lower case",
    ),
    setting(
        "DATASTORE_TYPE",
        "",
        "embedded or etcdv3; empty: etcdv3 if ETCD_ENDPOINTS is set, else embedded",
    ),
    setting("ETCD_ENDPOINTS", "", "Comma list of etcd URLs, e.g. http://10.0.0.1:2379"),
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
        "MTU of container interfaces; empty: the host's, less what encapsulation needs",
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
        "CALICO_LIBNETWORK_FORWARD_ACCEPT",
        "auto",
        "Let accepted packets pass a FORWARD chain that Docker or the distribution set to DROP: auto or never",
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
    placed(
        "CALICO_LIBNETWORK_SOCKET",
        "",
        "/run/docker/plugins/calico.sock",
        "Socket of the managed plugin; empty in a plain daemon",
    ),
    placed(
        "CALICO_LIBNETWORK_HOST_RUN",
        "/run",
        "/host/run",
        "The host's /run: Docker's API socket and the v1 sockets' folder are below it",
    ),
    placed(
        "CALICO_LIBNETWORK_HOST_VAR_LIB",
        "/var/lib",
        "/host/var/lib",
        "The host's /var/lib: calico/nodename is read below it",
    ),
    placed(
        "CALICO_LIBNETWORK_SYSNET",
        "/proc/sys/net",
        "/host/sysnet",
        "A writable /proc/sys/net of the host",
    ),
    setting("CALICO_LIBNETWORK_STATE_DIR", "/var/lib/calico-libnetwork", "Folder of the embedded datastore"),
];

/// Where settings come from; a map in tests, the environment in production.
pub trait Strings {
    /// The value of a name, if it is set.
    fn get(&self, name: &str) -> Option<String>;
    /// All names that are set.
    fn names(&self) -> Vec<String>;
}

/// The process's environment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Environment;

impl Strings for Environment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Strings for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// All that is wrong with the settings, at once.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}", self.sentence())]
pub struct ConfigError {
    /// One sentence for each wrong setting.
    pub problems: Vec<String>,
}

impl ConfigError {
    fn sentence(&self) -> String {
        let mut text = String::from("the settings cannot be used:");
        for problem in &self.problems {
            let _ = write!(text, "\n  {problem}");
        }
        text
    }
}

/// Which datastore holds Calico's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datastore {
    /// A file of this machine.
    Embedded,
    /// etcd v3.
    Etcd(EtcdConfig),
}

/// How etcd is reached. Secrets are paths, except the password that Calico's variables hold.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// URLs.
    pub endpoints: Vec<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// CA certificate.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and key.
    pub client_files: Option<(PathBuf, PathBuf)>,
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish_non_exhaustive()
    }
}

/// A pool to create at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultPool {
    /// The pool's prefix; `None` to choose one.
    pub cidr: Option<Cidr>,
    /// Prefix length of a block.
    pub block_size: u8,
    /// Masquerade.
    pub nat_outgoing: bool,
    /// VXLAN mode.
    pub vxlan: EncapMode,
    /// Nodes that may use it.
    pub node_selector: String,
}

/// Who assigns addresses, and whether swarm's service discovery is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The node that runs the container.
    Local,
    /// The swarm's leader.
    Global,
}

impl Scope {
    /// Docker's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
        }
    }
}

/// Where things are on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The managed plugin's socket.
    pub socket: Option<PathBuf>,
    /// The host's /run.
    pub host_run: PathBuf,
    /// The host's /var/lib.
    pub host_var_lib: PathBuf,
    /// The host's /proc/sys/net, writable.
    pub sysnet: PathBuf,
    /// Folder of the embedded datastore.
    pub state_dir: PathBuf,
}

/// All settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Least severe level that is logged.
    pub log_level: String,
    /// The node's name, if it was given.
    pub node_name: Option<NodeName>,
    /// Which datastore.
    pub datastore: Datastore,
    /// IPv4 pool to create at start.
    pub ipv4_pool: Option<DefaultPool>,
    /// IPv6 pool to create at start.
    pub ipv6_pool: Option<DefaultPool>,
    /// Whether `--subnet` may make a pool.
    pub create_pools: bool,
    /// Whether networks get a profile.
    pub create_profiles: bool,
    /// MTU of container interfaces.
    pub veth_mtu: Option<u32>,
    /// What interface names in containers begin with.
    pub iface_prefix: String,
    /// Who assigns addresses.
    pub scope: Scope,
    /// Whether swarm's service discovery is on.
    pub connectivity_scope: Scope,
    /// Whether the Go plugin's names are served.
    pub v1_sockets: bool,
    /// Whether the host's FORWARD chain is taken care of.
    pub forward_accept: bool,
    /// Deadline of a call.
    pub request_timeout: Duration,
    /// Pause between two collections; `None` for never.
    pub gc_interval: Option<Duration>,
    /// Least age of what is collected.
    pub gc_grace: Duration,
    /// Where things are.
    pub places: Places,
}

/// Folder below the host's /run in which Docker looks for v1 plugins.
const V1_FOLDER: &str = "docker/plugins";

impl Places {
    /// Docker's API socket.
    #[must_use]
    pub fn docker_socket(&self) -> PathBuf {
        self.host_run.join("docker.sock")
    }

    /// The sockets under which Docker finds the v1 plugins `calico` and `calico-ipam`.
    #[must_use]
    pub fn v1_sockets(&self) -> [PathBuf; 2] {
        ["calico.sock", "calico-ipam.sock"].map(|name| self.host_run.join(V1_FOLDER).join(name))
    }

    /// The embedded datastore's file.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.state_dir.join("state.redb")
    }
}

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
            let given = strings.get(setting.name);
            let is_given = given.is_some();
            let value = given.unwrap_or_else(|| setting.default.to_owned());
            let masked =
                if setting.name == "ETCD_PASSWORD" && !value.is_empty() { "(set)".to_owned() } else { value };
            (setting, masked, is_given)
        };
        SETTINGS.iter().map(shown).collect()
    }
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
        let twin =
            if name.starts_with("CALICO_") { None } else { self.strings.get(&format!("CALICO_{name}")) };
        twin.or_else(|| self.strings.get(name))
            .map_or_else(|| default.to_owned(), |text| text.trim().to_owned())
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
            datastore,
            ipv4_pool,
            ipv6_pool,
            create_pools: self.parse("CALICO_LIBNETWORK_CREATE_POOLS", embedded, |text| match text {
                "" => Ok(embedded),
                text => parse_flag(text),
            }),
            create_profiles: self.flag("CALICO_LIBNETWORK_CREATE_PROFILES"),
            veth_mtu: self.parse("CALICO_LIBNETWORK_VETH_MTU", None, parse_mtu),
            iface_prefix: self.parse("CALICO_LIBNETWORK_IFPREFIX", "cali".to_owned(), parse_iface_prefix),
            scope: self.scope("CALICO_LIBNETWORK_SCOPE"),
            connectivity_scope: self.scope("CALICO_LIBNETWORK_CONNECTIVITY_SCOPE"),
            v1_sockets: self.flag("CALICO_LIBNETWORK_V1_SOCKETS"),
            forward_accept: self.parse("CALICO_LIBNETWORK_FORWARD_ACCEPT", true, |text| match text {
                "auto" => Ok(true),
                "never" => Ok(false),
                _ => Err("auto or never is expected".to_owned()),
            }),
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
            places: self.places(),
        }
    }

    fn places(&mut self) -> Places {
        Places {
            socket: self.optional("CALICO_LIBNETWORK_SOCKET").map(PathBuf::from),
            host_run: self.path("CALICO_LIBNETWORK_HOST_RUN"),
            host_var_lib: self.path("CALICO_LIBNETWORK_HOST_VAR_LIB"),
            sysnet: self.path("CALICO_LIBNETWORK_SYSNET"),
            state_dir: self.path("CALICO_LIBNETWORK_STATE_DIR"),
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
        let endpoints = self.etcd_endpoints();
        let kind = self.text("DATASTORE_TYPE");
        match (kind.as_str(), endpoints.is_empty()) {
            ("", true) | ("embedded", true) => Datastore::Embedded,
            ("", false) | ("etcdv3", false) => Datastore::Etcd(self.etcd(endpoints)),
            ("embedded", false) => {
                self.datastore_problem("ETCD_ENDPOINTS is set, but DATASTORE_TYPE=embedded")
            }
            ("etcdv3", true) => self.datastore_problem("DATASTORE_TYPE=etcdv3 needs ETCD_ENDPOINTS"),
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

    fn etcd_endpoints(&mut self) -> Vec<String> {
        self.parse("ETCD_ENDPOINTS", Vec::new(), |text| {
            let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
            urls.map(|url| match url.starts_with("http://") || url.starts_with("https://") {
                true => Ok(url.to_owned()),
                false => Err(format!("{url} has no scheme; http://{url} or https://{url} is expected")),
            })
            .collect()
        })
    }

    fn etcd(&mut self, endpoints: Vec<String>) -> EtcdConfig {
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
        EtcdConfig { endpoints, user, ca_file, client_files }
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

fn parse_flag(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("true or false is expected".to_owned()),
    }
}

/// IPv6 needs 1280 bytes (RFC 8200), IPv4 68 (RFC 791); an interface holds at most 65535.
fn parse_mtu(text: &str) -> Result<Option<u32>, String> {
    match text {
        "" | "0" => Ok(None),
        text => match text.parse() {
            Ok(mtu @ 68..=65535) => Ok(Some(mtu)),
            _ => Err("68 to 65535 is expected".to_owned()),
        },
    }
}

/// Docker adds a number, and an interface name holds 15 bytes.
fn parse_iface_prefix(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric());
    match plain && (1..=12).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err("1 to 12 letters or digits are expected".to_owned()),
    }
}

fn parse_encap(text: &str) -> Result<EncapMode, String> {
    match text.to_lowercase().as_str() {
        "never" | "off" | "" => Ok(EncapMode::Never),
        "always" => Ok(EncapMode::Always),
        "crosssubnet" => Ok(EncapMode::CrossSubnet),
        _ => Err("Never, Always or CrossSubnet is expected".to_owned()),
    }
}

fn parse_pool_cidr(text: &str, version: IpVersion) -> Result<Option<Cidr>, String> {
    match text {
        "" => Ok(None),
        text => match Cidr::from_str(text) {
            Ok(cidr) if cidr.version() == version => Ok(Some(cidr)),
            Ok(_) => Err(format!("an {version} prefix is expected")),
            Err(error) => Err(error.to_string()),
        },
    }
}

fn parse_block_size(text: &str, version: IpVersion) -> Result<u8, String> {
    let range = match version {
        IpVersion::V4 => 20..=32,
        IpVersion::V6 => 116..=128,
    };
    match text.parse() {
        Ok(size) if range.contains(&size) => Ok(size),
        _ => Err(format!("{} to {} is expected", range.start(), range.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let map: BTreeMap<String, String> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::read(&map)
    }

    fn problems(pairs: &[(&str, &str)]) -> String {
        read(pairs).unwrap_err().to_string()
    }

    #[test]
    fn nothing_set_is_a_working_single_machine() {
        let config = read(&[]).unwrap();
        assert_eq!(config.datastore, Datastore::Embedded);
        assert!(config.create_pools && config.create_profiles && config.v1_sockets);
        assert_eq!(config.ipv4_pool.unwrap().block_size, 26);
        assert_eq!(config.places.docker_socket(), PathBuf::from("/run/docker.sock"));
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let text = problems(&[
            ("LOG_LEVEL", "loud"),
            ("CALICO_IPV4POOL_CIDR", "10.0.0.1/8"),
            ("CALICO_LIBNETWORK_REQUEST_TIMEOUT", "1h"),
            ("CALICO_LIBNETWORK_VETHMTU", "1400"),
        ]);
        for part in ["LOG_LEVEL=loud", "host bits", "1s to 25s", "CALICO_LIBNETWORK_VETHMTU is not a setting"]
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn calicos_twin_names_win() {
        let config =
            read(&[("CALICO_ETCD_ENDPOINTS", "http://a:1"), ("ETCD_ENDPOINTS", "http://b:1")]).unwrap();
        let Datastore::Etcd(etcd) = config.datastore else { panic!("etcd is expected") };
        assert_eq!(etcd.endpoints, ["http://a:1"]);
        assert!(!config.create_pools);
    }

    #[test]
    fn an_endpoint_without_scheme_is_refused_with_the_right_form() {
        assert!(problems(&[("ETCD_ENDPOINTS", "10.0.0.1:2379")]).contains("http://10.0.0.1:2379"));
    }

    #[test]
    fn the_kubernetes_datastore_is_refused() {
        assert!(problems(&[("DATASTORE_TYPE", "kubernetes")]).contains("embedded"));
    }

    #[test]
    fn passwords_are_not_shown() {
        let map = BTreeMap::from([("ETCD_PASSWORD".to_owned(), "hunter2".to_owned())]);
        assert!(Config::effective(&map).iter().all(|(_, value, _)| !value.contains("hunter2")));
    }
}
