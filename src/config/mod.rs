//! Settings: environment in, checked [`Config`] out. Managed plugins are configured by `docker plugin set NAME=value`,
//! so the environment is the one source.
//!
//! `settings` declares every setting once, `read` reads and checks them all at once, `parse` knows the form of
//! each. All of that is pure; `environment` is where the texts come from.

mod environment;
mod network;
mod node;
mod parse;
mod read;
mod settings;

pub use environment::{Environment, Strings};
pub use network::ConfigNetwork;
pub use node::{Detection, NodeAddress, NodeAddressConfig, NodeConfig};
pub use parse::parse_rate;
pub use settings::{SETTINGS, Setting, settings_table};

use crate::model::{Cidr, EncapMode, NodeName, RouterId};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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

/// Where etcd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcdMembers {
    /// URLs.
    Urls(Vec<String>),
    /// The domain whose SRV records name the members.
    Srv(String),
}

/// How etcd is reached. Secrets are paths, except the password that Calico's variables hold.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Where it is.
    pub members: EtcdMembers,
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
            .field("members", &self.members)
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

/// Who programs this host for endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostDataplane {
    /// Felix where it does, this plugin elsewhere.
    Auto,
    /// This plugin.
    Builtin,
    /// Felix.
    Felix,
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
    /// The program BIRD.
    pub bird: PathBuf,
    /// The file in which calico/node leaves the node's name.
    pub nodename_file: PathBuf,
}

/// All settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Least severe level that is logged.
    pub log_level: String,
    /// The node's name, if it was given.
    pub node_name: Option<NodeName>,
    /// What this node says of itself.
    pub node: NodeConfig,
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
    /// Whether BIRD runs.
    pub bird: bool,
    /// How BIRD's router ID is found.
    pub router_id: RouterId,
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
    /// Who programs the host.
    pub dataplane: HostDataplane,
    /// Whether the host's FORWARD chain is taken care of.
    pub forward_accept: bool,
    /// Whether routes between nodes are this plugin's.
    pub routes: bool,
    /// How long Docker's word about one container's labels is waited for; `None` not to ask.
    pub label_patience: Option<Duration>,
    /// Config-only networks that this node is to have.
    pub config_networks: Vec<ConfigNetwork>,
    /// Deadline of a call.
    pub request_timeout: Duration,
    /// Pause between two collections; `None` for never.
    pub gc_interval: Option<Duration>,
    /// Least age of what is collected.
    pub gc_grace: Duration,
    /// What becomes of packets to the host, instead of what FelixConfiguration says; Drop, Return or Accept.
    pub endpoint_to_host: Option<String>,
    /// Whether routes of others to endpoints are taken away, instead of what FelixConfiguration says.
    pub remove_external_routes: Option<bool>,
    /// What lines of Log rules begin with, instead of what FelixConfiguration says.
    pub log_prefix: Option<String>,
    /// How many lines a Log rule writes, instead of what FelixConfiguration says, e.g. `10/second`.
    pub log_rate: Option<String>,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
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

    /// The socket over which the commands of this binary ask the daemon.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.host_run.join("calico-libnetwork/admin.sock")
    }

    /// The lock that all programs of the old iptables on the host share.
    #[must_use]
    pub fn xtables_lock(&self) -> PathBuf {
        self.host_run.join("xtables.lock")
    }

    /// The embedded datastore's file.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.state_dir.join("state.redb")
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

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
        // (55) of tests/conformance.md
        let config =
            read(&[("CALICO_ETCD_ENDPOINTS", "http://a:1"), ("ETCD_ENDPOINTS", "http://b:1")]).unwrap();
        let Datastore::Etcd(etcd) = config.datastore else { panic!("etcd is expected") };
        assert_eq!(etcd.members, EtcdMembers::Urls(vec!["http://a:1".to_owned()]));
        assert!(!config.create_pools);
        let empty = read(&[("CALICO_ETCD_ENDPOINTS", ""), ("ETCD_ENDPOINTS", "http://b:1")]).unwrap();
        let Datastore::Etcd(etcd) = empty.datastore else { panic!("etcd is expected") };
        assert_eq!(etcd.members, EtcdMembers::Urls(vec!["http://b:1".to_owned()]));
        let map = BTreeMap::from([("CALICO_ETCD_ENDPOINTS".to_owned(), "http://a:1".to_owned())]);
        let shown = Config::effective(&map);
        assert!(shown.iter().any(|(setting, value, given)| {
            setting.name == "ETCD_ENDPOINTS" && value == "http://a:1" && *given
        }));
    }

    #[test]
    fn the_go_plugins_way_to_say_where_etcd_is_works() {
        let members = |pairs: &[(&str, &str)]| match read(pairs).unwrap().datastore {
            Datastore::Etcd(etcd) => etcd.members,
            Datastore::Embedded => panic!("etcd is expected"),
        };
        let url = |url: &str| EtcdMembers::Urls(vec![url.to_owned()]);
        assert_eq!(members(&[("CALICO_ETCD_AUTHORITY", "10.0.0.1:2379")]), url("http://10.0.0.1:2379"));
        assert_eq!(
            members(&[("ETCD_AUTHORITY", "etcd:2379"), ("ETCD_SCHEME", "https")]),
            url("https://etcd:2379")
        );
        assert_eq!(
            members(&[("ETCD_AUTHORITY", "a:1"), ("ETCD_ENDPOINTS", "http://b:1")]),
            url("http://b:1")
        );
        for wrong in ["10.0.0.1", "http://10.0.0.1:2379", ":2379", "a:b"] {
            assert!(problems(&[("ETCD_AUTHORITY", wrong)]).contains("host:port is expected"), "{wrong}");
        }
        assert!(problems(&[("ETCD_SCHEME", "tls")]).contains("http or https is expected"));
    }

    #[test]
    fn srv_records_and_endpoints_exclude_each_other() {
        // (55) of tests/conformance.md
        let Datastore::Etcd(etcd) = read(&[("ETCD_DISCOVERY_SRV", "example.org")]).unwrap().datastore else {
            panic!("etcd is expected")
        };
        assert_eq!(etcd.members, EtcdMembers::Srv("example.org".to_owned()));
        let both = [("ETCD_DISCOVERY_SRV", "example.org"), ("ETCD_ENDPOINTS", "http://a:1")];
        assert!(problems(&both).contains("exclude each other"));
        let neither = problems(&[("DATASTORE_TYPE", "etcdv3")]);
        assert!(neither.contains("needs ETCD_ENDPOINTS or ETCD_DISCOVERY_SRV"), "{neither}");
        let embedded = [("DATASTORE_TYPE", "embedded"), ("ETCD_DISCOVERY_SRV", "example.org")];
        assert!(problems(&embedded).contains("says where etcd is"));
    }

    #[test]
    fn an_endpoint_without_scheme_is_refused_with_the_right_form() {
        // (54) of tests/conformance.md
        assert!(problems(&[("ETCD_ENDPOINTS", "10.0.0.1:2379")]).contains("http://10.0.0.1:2379"));
    }

    #[test]
    fn the_kubernetes_datastore_is_refused() {
        // (58) of tests/conformance.md
        assert!(problems(&[("DATASTORE_TYPE", "kubernetes")]).contains("embedded"));
    }

    #[test]
    fn passwords_are_not_shown() {
        let map = BTreeMap::from([("ETCD_PASSWORD".to_owned(), "hunter2".to_owned())]);
        assert!(Config::effective(&map).iter().all(|(_, value, _)| !value.contains("hunter2")));
    }
}
