//! `check`: print what the plugin would work with, and what is missing. Changes nothing, also not in the datastore.

use super::node_report;
use crate::app;
use crate::bgp;
use crate::config::{Config, Datastore, Environment, EtcdConfig, HostDataplane, Scope};
use crate::dataplane::felix_programming;
use crate::docker::DockerClient;
use crate::model::{BgpPeerSpec, IpPoolSpec, Resource, key};
use crate::net::{Host, KernelHost, host_mtu};
use crate::routes;
use crate::store::{SharedStore, StoreError, typed};
use std::fmt::Write as _;
use std::process::ExitCode;

/// Something is missing: the plugin would run, though not with everything it can do.
const EX_MISSING: u8 = 1;

pub(super) fn run(config: Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            super::print(&format!("missing: {error}"));
            return ExitCode::from(EX_MISSING);
        }
    };
    let mut report = Report::default();
    report.settings();
    runtime.block_on(report.examine(&config));
    super::print(report.text.trim_end());
    if report.missing == 0 { ExitCode::SUCCESS } else { ExitCode::from(EX_MISSING) }
}

#[derive(Debug, Default)]
struct Report {
    text: String,
    missing: usize,
}

impl Report {
    fn say(&mut self, what: &str, how: &str) {
        let _ = writeln!(self.text, "{what:<14} {how}");
    }

    fn miss(&mut self, what: &str, why: &str) {
        self.missing += 1;
        self.say(what, &format!("MISSING: {why}"));
    }

    fn settings(&mut self) {
        for (setting, value, given) in Config::effective(&Environment) {
            let origin = if given { "set" } else { "default" };
            let _ = writeln!(self.text, "{}={value} ({origin})", setting.name);
        }
        self.text.push('\n');
    }

    async fn examine(&mut self, config: &Config) {
        match app::node_name(config) {
            Ok(node) => {
                self.say("node", node.as_str());
                if let Some(conflict) = app::name_conflict(config) {
                    self.miss("node", &conflict);
                }
            }
            Err(why) => self.miss("node", &why),
        }
        self.datastore(config).await;
        self.kernel(config).await;
        self.docker(config).await;
        self.bgp(config).await;
    }

    /// The embedded datastore belongs to one process: while the plugin runs it cannot be looked into from here.
    async fn datastore(&mut self, config: &Config) {
        if config.datastore == Datastore::Embedded && !config.places.state_file().exists() {
            let file = config.places.state_file();
            return self
                .say("datastore", &format!("embedded, {} will be made at the first start", file.display()));
        }
        if let Datastore::Etcd(etcd) = &config.datastore
            && !self.etcd(etcd).await
        {
            return;
        }
        let opened = app::open_local(config).await.and_then(|local| app::open_store(config, &local));
        let store = match opened {
            Ok(store) => store,
            Err(error) if in_use(&error) => {
                return self.say("datastore", "embedded, in use by the running plugin");
            }
            Err(error) => return self.miss("datastore", &error.to_string()),
        };
        for (what, line) in node_report::lines(config, &store).await {
            match line {
                Ok(how) => self.say(what, &how),
                Err(why) => self.miss(what, &why),
            }
        }
        match typed::list::<Resource<IpPoolSpec>>(&*store, &key::resources::<IpPoolSpec>()).await {
            Ok(pools) => {
                self.say("datastore", "answers");
                for pool in pools {
                    let state = if pool.value.is_enabled() { "" } else { ", closed for allocation" };
                    self.say("pool", &format!("{} {}{state}", pool.value.name(), pool.value.spec.cidr));
                }
            }
            Err(error) => self.miss("datastore", &error.to_string()),
        }
        self.routes(config, &store).await;
        if !config.bird
            && let Ok(peers) =
                typed::list::<Resource<BgpPeerSpec>>(&*store, &key::resources::<BgpPeerSpec>()).await
            && !peers.is_empty()
        {
            let why = format!("{} BGPPeers have no effect; set CALICO_NETWORKING_BACKEND=bird", peers.len());
            self.miss("BGP", &why);
        }
    }

    /// What leads to other nodes. On one machine there is nothing to compare.
    async fn routes(&mut self, config: &Config, store: &SharedStore) {
        if config.datastore == Datastore::Embedded {
            return;
        }
        if !config.routes {
            return self.say("routes", "not this plugin's (CALICO_LIBNETWORK_ROUTES)");
        }
        let (Ok(node), Ok(host)) =
            (app::node_name(config), KernelHost::open(config.places.sysnet.clone()).await)
        else {
            return;
        };
        if tokio::net::UnixStream::connect(config.places.admin_socket()).await.is_err() {
            return self.say("routes", "the plugin does not run here, and keeps none");
        }
        if is_felixs(config).await {
            return self.say("routes", "left to Felix of calico/node");
        }
        match routes::examine(&**store, &host, &node, config.bird).await {
            Ok(found) => {
                let tunnels =
                    found.tunnels.iter().map(|(name, behind)| format!(", {name} to {behind} nodes"));
                let tunnels: String = tunnels.collect();
                self.say(
                    "routes",
                    &format!("{} in place, {} other nodes{tunnels}", found.right, found.others),
                );
                found.problems.iter().for_each(|problem| self.miss("routes", problem));
            }
            Err(error) => self.miss("routes", &error.to_string()),
        }
    }

    /// Each session, up or not, as the running BIRD tells it.
    async fn bgp(&mut self, config: &Config) {
        if !config.bird {
            return self.say("BGP", "off (CALICO_NETWORKING_BACKEND)");
        }
        match bgp::sessions(&app::bgp_places(config)).await {
            Ok(sessions) if sessions.is_empty() => self.say("BGP", "BIRD runs and has no sessions"),
            Ok(sessions) => {
                for session in sessions {
                    match session.up {
                        true => self.say("BGP", &session.to_string()),
                        false => self.miss("BGP", &session.to_string()),
                    }
                }
            }
            Err(_) if is_felixs(config).await => self.say("BGP", "left to BIRD of calico/node"),
            Err(error) => self.miss("BGP", &error.to_string()),
        }
    }

    /// Dials each member of etcd, and asks what our user may do. Says whether one of them can be worked with.
    async fn etcd(&mut self, config: &EtcdConfig) -> bool {
        let store = app::open_etcd(config);
        let members = match store.examine().await {
            Ok(members) => members,
            Err(error) => {
                self.miss("etcd", &error.to_string());
                return false;
            }
        };
        let mut usable = false;
        for member in members {
            match member.found {
                Ok(version) => {
                    usable = true;
                    self.say("etcd", &format!("{} answers, version {version}", member.url));
                }
                Err(why) => self.miss("etcd", &format!("{}: {why}", member.url)),
            }
        }
        for prefix in [key::RESOURCE_ROOT, key::IPAM_ROOT] {
            if usable && let Err(error) = store.examine_access(prefix).await {
                usable = false;
                self.miss("etcd", &format!("{prefix} is closed to us: {error}"));
            }
        }
        usable
    }

    async fn kernel(&mut self, config: &Config) {
        let host = match KernelHost::open(config.places.sysnet.clone()).await {
            Ok(host) => host,
            Err(error) => return self.miss("kernel", &error.to_string()),
        };
        match host.check().await {
            Ok(facts) => {
                self.say("kernel", if facts.ipv6 { "IPv4 and IPv6" } else { "IPv4 only" });
                if facts.strict_containers {
                    let why = "containers inherit net.ipv4.conf.all/default.rp_filter, which is 1 here: one on several \
                               networks is reached over IPv4 on one of them only; set both to 0 or 2";
                    self.miss("source check", why);
                }
            }
            Err(error) => self.miss("kernel", &error.to_string()),
        }
        match host.links().await {
            Ok(links) => self.say("MTU", &config.veth_mtu.unwrap_or_else(|| host_mtu(&links)).to_string()),
            Err(error) => self.miss("links", &error.to_string()),
        }
        match felix_programming(&app::dataplane_options(config)).await {
            Ok(found) => {
                for sign in found.signs {
                    self.say("packet filter", &format!("{sign}: Felix of calico/node filters on this host"));
                }
            }
            Err(error) => self.miss("packet filter", &error.to_string()),
        }
    }

    async fn docker(&mut self, config: &Config) {
        if config.scope == Scope::Global {
            let why = "global: virtual IPs of services reach nobody, as Docker balances load for its own drivers only; \
                       create services with --endpoint-mode dnsrr";
            self.say("scope", why);
        }
        let socket = config.places.docker_socket();
        match DockerClient::new(&socket).networks().await {
            Ok(networks) => self.say("Docker", &format!("answers, {} networks", networks.len())),
            Err(error) => self.miss("Docker", &format!("{error}; leaks are then found by the kernel alone")),
        }
    }
}

/// Whether Felix programs this host: then routes and BGP are calico/node's.
async fn is_felixs(config: &Config) -> bool {
    match config.dataplane {
        HostDataplane::Builtin => false,
        HostDataplane::Felix => true,
        HostDataplane::Auto => {
            let felix = felix_programming(&app::dataplane_options(config)).await;
            felix.is_ok_and(|found| !found.signs.is_empty())
        }
    }
}

/// Whether another process, the plugin itself, has the embedded datastore open.
fn in_use(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { why } if why.contains("is used by another process"))
}
