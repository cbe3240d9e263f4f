//! From what the datastore says to the text of BIRD's configuration file (pure). One BIRD serves both IP versions.
//!
//! What is announced follows confd (`bird_aggr.cfg.template`, `bird_ipam.cfg.template`): a host's blocks as wholes, and of
//! single addresses only those outside its own blocks, because they are borrowed. What goes into the kernel are routes to
//! pools without encapsulation, and whatever peers announce besides pools; tunnels are the plugin's own.

use super::filter::{Direction, LARGEST_PREFERENCE, function_name, functions, rules};
use super::reach::Reach;
use super::rendering::{PATIENCE, PORT, Rendering, Setup};
use super::session::{NextHop, Session};
use super::sessions::sessions;
use super::settings::{Local, Severity};
use super::text::{community, plain};
use super::world::World;
use crate::model::{BgpFilterSpec, Cidr, EncapMode, IpPoolSpec, IpVersion};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Seconds that BIRD waits for its peers after a restart before it takes away routes that nobody announces any more. Peers
/// come back within a few seconds; one that is dead must not hold up the others for BIRD's own four minutes.
const RECOVERY: u32 = 30;
/// BIRD's preference of a route that is to win over a route to a container of this host: Calico moves it elsewhere.
const OVERRIDING: u32 = 200;
/// The protocol number of this plugin's routes in the kernel.
const OUR_PROTOCOL: u8 = 80;

/// Makes the configuration of the world's node.
///
/// # Errors
/// Why there can be none.
pub fn render(world: &World, setup: Setup) -> Result<Rendering, String> {
    if let Some(why) = world.obstacle() {
        return Err(why.to_owned());
    }
    let mut problems: Vec<String> = world.unreadable.values().cloned().collect();
    let local = Local::read(world, &mut problems);
    let node = &world.node;
    let [v4, v6] = local.addresses;
    if v4.is_none() && v6.is_none() {
        return Err(format!("Node {node} has no address for BGP (spec.bgp.ipv4Address or ipv6Address)"));
    }
    let ipv4 = v4.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
    let Some(id) = setup.router_id.of(node.as_str(), ipv4) else {
        return Err(format!(
            "Node {node} has no IPv4 address for BGP to take the router ID from; set CALICO_ROUTER_ID=hash"
        ));
    };
    let planned = sessions(world, &local, &mut problems);
    let blackholes = setup.blackholes;
    let mut writer = Writer { world, local: &local, blackholes, text: String::new(), problems };
    let kept = writer.without_broken_filters(planned);
    writer.head(id);
    for version in [IpVersion::V4, IpVersion::V6] {
        writer.family(version, &kept);
    }
    for session in &kept {
        writer.session(session);
    }
    let sessions = kept.iter().map(Session::name).collect();
    let routers = kept.iter().flat_map(|session| [Some(session.address), session.reachable_by]);
    let pools = world.pools.values().map(|pool| pool.spec.cidr);
    let reach = Reach { pools: pools.collect(), routers: routers.flatten().collect() };
    let Writer { text, mut problems, .. } = writer;
    problems.sort();
    problems.dedup();
    let port = local.port.unwrap_or(PORT);
    let ends = local.addresses.iter().flatten().map(|ip| SocketAddr::new(*ip, port)).collect();
    let given = kept.iter().filter_map(|session| session.restart_time).max();
    let patience = given.map_or(PATIENCE, Duration::from_secs);
    Ok(Rendering { text, sessions, problems, reach, ends, patience })
}

struct Writer<'a> {
    world: &'a World,
    local: &'a Local,
    /// See [`Setup`].
    blackholes: bool,
    text: String,
    problems: Vec<String>,
}

/// The digit that tells names of both versions apart.
fn digit(version: IpVersion) -> u8 {
    match version {
        IpVersion::V4 => 4,
        IpVersion::V6 => 6,
    }
}

fn is_tunnelled(pool: &IpPoolSpec) -> bool {
    pool.vxlan() != EncapMode::Never || pool.ipip() != EncapMode::Never
}

impl Writer<'_> {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// A session whose filter cannot be said is left out: without it too much would pass.
    fn without_broken_filters(&mut self, planned: Vec<Session>) -> Vec<Session> {
        let mut kept = Vec::new();
        for session in planned {
            let mut broken = None;
            for name in &session.filters {
                match self.world.filters.get(name) {
                    Some(filter) => {
                        if let Err(why) = functions(name, &filter.spec, session.version()) {
                            broken = Some(format!("BGPFilter {name}: {why}"));
                        }
                    }
                    None if self.world.is_unreadable::<BgpFilterSpec>(name) => {
                        broken = Some(format!("BGPFilter {name} cannot be read"));
                    }
                    None => self.problems.push(format!(
                        "BGPPeer {} names BGPFilter {name}, which does not exist; nothing is filtered by it",
                        session.of
                    )),
                }
            }
            match broken {
                Some(why) => self.problems.push(format!("no session {}: {why}", session.name())),
                None => kept.push(session),
            }
        }
        kept
    }

    fn head(&mut self, id: Ipv4Addr) {
        let node = plain(self.world.node.as_str());
        self.line(&format!("# BGP of node {node}, written by calico-libnetwork: changes are lost"));
        let classes = match self.local.severity {
            Severity::None => None,
            Severity::Debug => Some("all"),
            Severity::Info => Some("{ info, remote, warning, error, auth, fatal, bug }"),
            Severity::Warning => Some("{ warning, error, auth, fatal, bug }"),
            Severity::Error => Some("{ error, auth, fatal, bug }"),
            Severity::Fatal => Some("{ fatal, bug }"),
        };
        if let Some(classes) = classes {
            self.line(&format!("log stderr {classes};"));
        }
        if self.local.severity == Severity::Debug {
            self.line("debug protocols all;");
        }
        self.line(&format!("router id {id};"));
        self.line("timeformat protocol iso long;");
        self.line(&format!("graceful restart wait {RECOVERY};"));
        self.line("\nprotocol device {\n  scan time 2;\n}");
        let mut interfaces: Vec<String> =
            self.local.ignored.iter().map(|pattern| format!("-\"{pattern}\"")).collect();
        interfaces.extend(["-\"cali*\"", "\"*\""].map(str::to_owned));
        self.line("\nprotocol direct {\n  ipv4;\n  ipv6;");
        self.line(&format!("  interface {};\n}}", interfaces.join(", ")));
        let port = self.local.port.map_or_else(String::new, |port| format!(" port {port}"));
        let bound = if self.local.bound { "\n  strict bind on;" } else { "" };
        self.line(&format!(
            "\ntemplate bgp peer {{\n  local{port} as {};\n  graceful restart on;\n  connect delay time 2;\n  \
             connect retry time 5;\n  error wait time 5, 30;{bound}\n}}",
            self.local.as_number
        ));
    }

    fn family(&mut self, version: IpVersion, sessions: &[Session]) {
        let of_version: Vec<&Session> =
            sessions.iter().filter(|session| session.version() == version).collect();
        self.statics(version, &of_version);
        self.communities(version);
        self.announcing(version);
        self.programming(version);
        let names: BTreeSet<&str> =
            of_version.iter().flat_map(|session| &session.filters).map(String::as_str).collect();
        for name in names {
            let Some(filter) = self.world.filters.get(name) else { continue };
            if let Ok(text) = functions(name, &filter.spec, version)
                && !text.is_empty()
            {
                self.line(&format!("\n# BGPFilter {}", plain(name)));
                self.text.push_str(&text);
            }
        }
    }

    /// This node's blocks of one version. A block of one address is announced as the route to its container is.
    fn blocks(&self, version: IpVersion) -> impl Iterator<Item = &Cidr> {
        self.world
            .blocks
            .iter()
            .filter(move |block| block.version() == version && block.prefix_len() < version.bits())
    }

    fn statics(&mut self, version: IpVersion, sessions: &[&Session]) {
        let digit = digit(version);
        let mut text = format!("\nprotocol static static{digit} {{\n  ipv{digit};\n");
        for block in self.blocks(version) {
            let _ = writeln!(text, "  route {block} blackhole;");
        }
        let by: BTreeSet<(IpAddr, IpAddr)> =
            sessions.iter().filter_map(|session| Some((session.address, session.reachable_by?))).collect();
        for (address, router) in by {
            let _ = writeln!(text, "  route {address}/{} via {router};", version.bits());
        }
        text.push('}');
        self.line(&text);
    }

    fn communities(&mut self, version: IpVersion) {
        let mut text = String::new();
        for advertisement in &self.local.advertisements {
            let cidr = match Cidr::parse_masking(&advertisement.cidr) {
                Ok(cidr) => cidr,
                Err(error) => {
                    self.problems.push(format!("BGPConfiguration: prefixAdvertisements: {error}"));
                    continue;
                }
            };
            if cidr.version() != version {
                continue;
            }
            for value in &advertisement.communities {
                match community(value) {
                    Ok(community) => {
                        let _ = writeln!(
                            text,
                            "  if (net ~ {cidr}) then {}.add({});",
                            community.attribute, community.value
                        );
                    }
                    Err(why) => {
                        self.problems.push(format!("BGPConfiguration: prefixAdvertisements of {cidr}: {why}"))
                    }
                }
            }
        }
        self.line(&format!("\nfunction communities{}()\n{{\n{text}}}", digit(version)));
    }

    /// All pools of a version, the narrowest first.
    fn pools(&self, version: IpVersion) -> Vec<&IpPoolSpec> {
        let mut pools: Vec<&IpPoolSpec> = self.world.pools.values().map(|pool| &pool.spec).collect();
        pools.retain(|pool| pool.cidr.version() == version);
        pools.sort_by_key(|pool| (std::cmp::Reverse(pool.cidr.prefix_len()), pool.cidr));
        pools
    }

    fn announcing(&mut self, version: IpVersion) {
        let (digit, metric, own) = (digit(version), self.local.metric(version), self.local.as_number);
        let mut text = format!("\nfunction announce{digit}(bool same_as)\n{{\n");
        for pool in self.pools(version).into_iter().filter(|pool| pool.disable_bgp_export) {
            let _ = writeln!(text, "  if (net ~ {}) then reject; # disableBGPExport", pool.cidr);
        }
        // Routes to other hosts that the plugin or Felix programmed are those hosts' to announce. Peers of another AS may
        // have no other way to them, and hear of it as of the longer one: this host need not forward, and where Docker
        // has set FORWARD to DROP it does not.
        let _ = writeln!(
            text,
            "  if (same_as && defined(ifname) && ifname ~ \"*.calico\") then reject;\n  \
             if (same_as && defined(ifname) && ifname ~ \"tunl0\") then reject;\n  \
             if (same_as && source = RTS_INHERIT && defined(krt_source) && krt_source = {OUR_PROTOCOL}\n    \
             && defined(ifname) && !(ifname ~ \"cali*\")) then reject;\n  \
             if (!same_as && ((defined(ifname) && ifname ~ \"*.calico\")\n    \
             || (source = RTS_INHERIT && defined(krt_source) && krt_source = {OUR_PROTOCOL} && defined(ifname) && !(ifname ~ \"cali*\"))\n    \
             || (source = RTS_BGP && bgp_path.len = 0))) then bgp_path.prepend({own});\n  communities{digit}();"
        );
        for block in self.blocks(version) {
            let _ = writeln!(
                text,
                "  if (net = {block}) then accept;\n  \
                 if (net ~ {block} && defined(krt_metric) && krt_metric < {metric}) then accept;\n  \
                 if (net ~ {block}) then reject;"
            );
        }
        for pool in self.pools(version).into_iter().filter(|pool| !pool.disable_bgp_export) {
            let _ = writeln!(text, "  if (net ~ {}) then accept;", pool.cidr);
        }
        text.push_str("  reject;\n}");
        self.line(&text);
    }

    fn programming(&mut self, version: IpVersion) {
        let (digit, metric) = (digit(version), self.local.metric(version));
        // Connected networks are the kernel's own.
        let mut text = format!("\nfilter program{digit}\n{{\n  if (source = RTS_DEVICE) then reject;\n");
        for block in self.blocks(version) {
            let (verdict, why) = match self.blackholes {
                true => ("accept", "its end"),
                false => ("reject", "the plugin's own blackhole route"),
            };
            let _ = writeln!(text, "  if (net = {block}) then {verdict}; # {why}");
        }
        let _ = writeln!(
            text,
            "  if (source = RTS_BGP && !defined(krt_metric)) then {{\n    krt_metric = {metric};\n    \
             if (defined(bgp_local_pref)) then krt_metric = {LARGEST_PREFERENCE} - bgp_local_pref;\n    \
             if (krt_metric < {metric}) then preference = {OVERRIDING};\n  }}"
        );
        for pool in self.pools(version) {
            let (verdict, why) = match (is_tunnelled(pool), self.local.programs) {
                (true, _) => ("reject", "the plugin's tunnel"),
                (false, true) => ("accept", "no encapsulation"),
                (false, false) => ("reject", "programClusterRoutes"),
            };
            let _ = writeln!(text, "  if (net ~ {}) then {verdict}; # {why}", pool.cidr);
        }
        let _ = write!(
            text,
            "  accept;\n}}\n\nprotocol kernel kernel{digit} {{\n  learn;\n  persist;\n  scan time 2;\n  metric 0;\n  \
             merge paths on;\n  graceful restart on;\n  ipv{digit} {{\n    import all;\n    \
             export filter program{digit};\n  }};\n}}"
        );
        self.line(&text);
    }

    fn session(&mut self, session: &Session) {
        let version = session.version();
        let of = plain(&session.of);
        let mut text = format!("\nprotocol bgp {} from peer {{\n  description \"{of}\";\n", session.name());
        let port = session.port.map_or_else(String::new, |port| format!(" port {port}"));
        let _ = writeln!(text, "  neighbor {}{port} as {};", session.address, session.as_number);
        if let Some(number) = session.local_as {
            let port = self.local.port.map_or_else(String::new, |port| format!(" port {port}"));
            let _ = writeln!(text, "  local{port} as {number};");
        }
        if (session.from_node_address || self.local.bound)
            && let Some(own) = self.local.address(version)
        {
            let _ = writeln!(text, "  source address {own};");
        }
        match session.hops {
            Some(hops) => _ = writeln!(text, "  ttl security on;\n  multihop {hops};"),
            None => text.push_str("  multihop;\n"),
        }
        if session.passive {
            text.push_str("  passive on;\n");
        }
        if let Some(seconds) = session.restart_time {
            let _ = writeln!(text, "  graceful restart time {seconds};");
        }
        if let Some(seconds) = session.keepalive {
            // A session ends when it hears nothing for three keepalive messages; BIRD's own 240 s go with 80 s.
            let hold = seconds.saturating_mul(3).max(3);
            if hold > 240 {
                let _ = writeln!(text, "  hold time {hold};");
            }
            let _ = writeln!(text, "  keepalive time {seconds};");
        }
        if let Some(id) = session.client_of {
            let _ = writeln!(text, "  rr client;\n  rr cluster id {id};");
        }
        if let Some(times) = session.allowed_own_as {
            let _ = writeln!(text, "  allow local as {times};");
        }
        self.channel(session, &mut text);
        text.push('}');
        self.line(&text);
    }

    fn channel(&self, session: &Session, text: &mut String) {
        let version = session.version();
        let (digit, metric) = (digit(version), self.local.metric(version));
        let same_as = session.as_number == session.local_as.unwrap_or(self.local.as_number);
        let called = |direction: Direction| {
            let mut calls = String::new();
            for name in &session.filters {
                let Some(filter) = self.world.filters.get(name) else { continue };
                if !rules(&filter.spec, direction, version).is_empty() {
                    let _ = writeln!(calls, "      {}({same_as});", function_name(name, direction, version));
                }
            }
            calls
        };
        let next_hop = match session.next_hop {
            NextHop::Auto => "",
            NextHop::Own => "    next hop self;\n",
            NextHop::Keep => "    next hop keep;\n",
        };
        let _ = write!(
            text,
            "  ipv{digit} {{\n    add paths on;\n    gateway recursive;\n{next_hop}    import filter {{\n{}      \
             if (defined(bgp_local_pref) && bgp_local_pref > {}) then preference = {OVERRIDING};\n      accept;\n    }};\n    \
             export filter {{\n      if (source = RTS_BGP && defined(bgp_local_pref)) then\n        \
             krt_metric = {LARGEST_PREFERENCE} - bgp_local_pref;\n      else {{\n        \
             if (!defined(krt_metric)) then krt_metric = {metric};\n        \
             bgp_local_pref = {LARGEST_PREFERENCE} - krt_metric;\n      }}\n{}      announce{digit}({same_as});\n    }};\n  }};\n",
            called(Direction::Import),
            LARGEST_PREFERENCE - metric,
            called(Direction::Export),
        );
    }
}
