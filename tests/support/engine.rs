//! A Docker Engine of the test's own, on a host of its own (`tools/host.sh`), with the plugin of `make plugin` installed.
//!
//! Every test starts one (about two seconds) and shares nothing with other tests or with this machine. The host ends when the
//! pipe to its script closes: at the end of the test, in a panic, and also when the test process is killed.

#[path = "engine_container.rs"]
mod container;
#[path = "engine_ping.rs"]
mod ping;
#[path = "engine_state.rs"]
mod state;

pub(crate) use container::Container;
pub(crate) use ping::Ping;
pub(crate) use state::HostState;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Name under which the plugin is installed: its driver name, tag included.
pub(crate) const DRIVER: &str = "calico:latest";
/// The image every container runs; it serves the page `who`, which tells a caller its own address.
pub(crate) const IMAGE: &str = "busybox:local";
/// The host's own address towards the world outside.
pub(crate) const HOST_V4: &str = "198.51.100.1";
/// The host's own IPv6 address towards the world outside.
pub(crate) const HOST_V6: &str = "2001:db8:ffff::1";
/// An address in the world outside, which serves the page `who` and knows no way back to a container.
pub(crate) const OUTSIDE_V4: &str = "198.51.100.2";
/// An IPv6 address in the world outside.
pub(crate) const OUTSIDE_V6: &str = "2001:db8:ffff::2";

const TOP: &str = env!("CARGO_MANIFEST_DIR");
/// Longest time the daemon may take to answer after a start; its own budget for plugins is 12.5 seconds each.
const START: Duration = Duration::from_secs(40);

/// A running engine on its own host.
pub(crate) struct Engine {
    dir: PathBuf,
    suite: Option<String>,
    /// The script that holds the host; none where a lab holds it.
    host: Option<Child>,
    daemon: Option<Child>,
    helpers: Vec<Child>,
}

impl Engine {
    /// An engine with the plugin enabled, or `None` (and a line that says so) where the machine cannot run one.
    pub(crate) fn with_plugin() -> Option<Self> {
        Self::with_settings(&[])
    }

    /// As [`Engine::with_plugin`], with settings (`NAME=value`) of the plugin.
    pub(crate) fn with_settings(settings: &[&str]) -> Option<Self> {
        let engine = Self::plain(&[])?;
        engine.install(settings);
        Some(engine)
    }

    /// As [`Engine::with_plugin`], with a plugin that makes routes inside containers (`make plugin WITH_CONTAINER_ROUTES=1`).
    #[allow(dead_code, reason = "one of the test programs that share this file uses it")]
    pub(crate) fn with_container_routes() -> Option<Self> {
        let engine = Self::plain(&[])?;
        let plugin = engine.dir.join("plugin");
        let copied = Command::new("cp").arg("-a").arg(format!("{TOP}/plugin")).arg(&plugin).status().unwrap();
        assert!(copied.success(), "plugin/ cannot be copied: is it made?");
        let manifest = plugin.join("config.json");
        let plain = std::fs::read_to_string(&manifest).unwrap();
        let wide = plain.replace(r#"["CAP_NET_ADMIN"]"#, r#"["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]"#);
        assert_ne!(plain, wide);
        std::fs::write(&manifest, wide).unwrap();
        engine.install_from(&plugin, &[]);
        Some(engine)
    }

    /// An engine without the plugin, started with the given options of dockerd: this machine's, or that of the Debian which the
    /// environment variable `ENGINE` names.
    pub(crate) fn plain(options: &[&str]) -> Option<Self> {
        let suite = std::env::var("ENGINE").ok().filter(|suite| !suite.is_empty());
        Self::start("docker", suite, options)
    }

    /// The engine of another Debian, with the plugin enabled, or `None` (and a line that says so) where it cannot be run.
    pub(crate) fn of_debian(suite: &str) -> Option<Self> {
        let engine = Self::start("engines", Some(suite.to_owned()), &[])?;
        engine.install(&[]);
        Some(engine)
    }

    fn start(need: &str, suite: Option<String>, options: &[&str]) -> Option<Self> {
        if let Err(lack) = able(suite.as_deref()) {
            let required = std::env::var("REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == need), "{need} is required but {lack}");
            println!("SKIP: {need} ({lack})");
            return None;
        }
        let dir = fresh_dir();
        let mut up = script("up", &dir);
        up.env("ENGINE", suite.as_deref().unwrap_or_default());
        let mut host = up.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(host.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let mut engine = Self { dir, suite, host: Some(host), daemon: None, helpers: Vec::new() };
        assert_eq!(said.trim(), "up", "tools/host.sh could not make a host");
        engine.start_daemon(options);
        engine.import_image();
        Some(engine)
    }

    /// The engine of a host that something else holds and starts.
    #[allow(dead_code, reason = "one of the test programs that share this file uses it")]
    pub(crate) fn held_elsewhere(dir: PathBuf, suite: Option<String>) -> Self {
        Self { dir, suite, host: None, daemon: None, helpers: Vec::new() }
    }

    /// Starts dockerd and waits until its API answers.
    pub(crate) fn start_daemon(&mut self, options: &[&str]) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        self.daemon = Some(script("dockerd", &self.dir).args(options).stdin(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while !self.try_docker(&["version"]).status.success() {
            assert!(begun.elapsed() < START, "dockerd does not answer:\n{}", self.daemon_log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops dockerd with SIGTERM and waits for its end.
    pub(crate) fn stop_daemon(&mut self) {
        self.signal_daemon("TERM");
    }

    /// Kills dockerd with SIGKILL; what it started lives on.
    pub(crate) fn kill_daemon(&mut self) {
        self.signal_daemon("KILL");
    }

    fn signal_daemon(&mut self, signal: &str) {
        self.on_host(&["sh", "-c", &format!("kill -{signal} $(cat /run/docker.pid)")]);
        let mut daemon = self.daemon.take().unwrap();
        wait_for("dockerd to end", Duration::from_secs(30), || daemon.try_wait().unwrap().is_some());
    }

    fn import_image(&self) {
        let mut tar =
            Command::new(format!("{TOP}/tools/busybox-image.sh")).stdout(Stdio::piped()).spawn().unwrap();
        let import = ["import", "--change", r#"CMD ["httpd","-f","-p","80","-h","/www"]"#, "-", IMAGE];
        let done = self.docker_command(&import).stdin(tar.stdout.take().unwrap()).output().unwrap();
        assert!(tar.wait().unwrap().success() && done.status.success(), "no image: {}", text(&done));
    }

    /// Creates the plugin from `plugin/`, sets its settings and enables it.
    pub(crate) fn install(&self, settings: &[&str]) {
        self.install_from(Path::new(&format!("{TOP}/plugin")), settings);
    }

    fn install_from(&self, plugin: &Path, settings: &[&str]) {
        self.docker(&["plugin", "create", DRIVER, plugin.to_str().unwrap()]);
        if !settings.is_empty() {
            self.docker(&[&["plugin", "set", DRIVER], settings].concat());
        }
        self.docker(&["plugin", "enable", DRIVER]);
    }

    /// The directory everything of this host is in; seen under the same name inside and outside.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs the docker client against this engine.
    pub(crate) fn try_docker(&self, args: &[&str]) -> Output {
        self.docker_command(args).output().unwrap()
    }

    /// The client of the engine's own package where there is one: a newer one refuses an old engine `--mac-address`.
    fn client(&self) -> &'static str {
        let packaged = "/usr/bin/docker";
        if self.suite.is_some() || Path::new(packaged).is_file() { packaged } else { "docker" }
    }

    /// The engine's major version.
    pub(crate) fn major(&self) -> u32 {
        let version = self.docker(&["version", "--format", "{{.Server.Version}}"]);
        version.split('.').next().unwrap().parse().unwrap()
    }

    /// A docker client command against this engine, to be started by the caller.
    pub(crate) fn docker_command(&self, args: &[&str]) -> Command {
        let mut command = self.host_command(&[self.client()]);
        command.env("DOCKER_CONFIG", self.dir.join("client")).env_remove("DOCKER_HOST").args(args);
        command
    }

    /// What a docker command that must work prints.
    #[track_caller]
    pub(crate) fn docker(&self, args: &[&str]) -> String {
        let done = self.try_docker(args);
        assert!(done.status.success(), "docker {}: {}", args.join(" "), text(&done));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// What a docker command that must fail prints as its error.
    #[track_caller]
    pub(crate) fn docker_fails(&self, args: &[&str]) -> String {
        let done = self.try_docker(args);
        assert!(!done.status.success(), "docker {} worked but must not: {}", args.join(" "), text(&done));
        String::from_utf8(done.stderr).unwrap()
    }

    /// Creates a network of the plugin's driver and IPAM driver.
    #[track_caller]
    pub(crate) fn network(&self, name: &str, options: &[&str]) {
        let create = ["network", "create", "--driver", DRIVER, "--ipam-driver", DRIVER];
        self.docker(&[&create, options, &[name]].concat());
    }

    /// Starts a container of the local image on a network; `options` go to `docker run`.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, network: &str, options: &[&str]) -> Container<'_> {
        // The server is process 1 and has no handler for SIGTERM: a stop would take ten seconds.
        let run = ["run", "--detach", "--stop-signal", "KILL", "--name", name, "--network", network];
        self.docker(&[&run, options, &[IMAGE]].concat());
        Container::new(self, name)
    }

    /// A container of this engine that was made in another way than by [`Engine::run`].
    pub(crate) fn container(&self, name: &str) -> Container<'_> {
        Container::new(self, name)
    }

    /// Runs a command inside the host and returns what it prints; the command must work.
    #[track_caller]
    pub(crate) fn on_host(&self, command: &[&str]) -> String {
        let done = self.try_on_host(command);
        assert!(done.status.success(), "{} on the host: {}", command.join(" "), text(&done));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Runs a command inside the host.
    pub(crate) fn try_on_host(&self, command: &[&str]) -> Output {
        self.host_command(command).output().unwrap()
    }

    /// A command inside the host, to be started by the caller.
    pub(crate) fn host_command(&self, command: &[&str]) -> Command {
        let mut inside = script("in", &self.dir);
        inside.args(command).stdin(Stdio::null());
        inside
    }

    /// Runs a command in the world outside.
    pub(crate) fn try_outside(&self, command: &[&str]) -> Output {
        script("outside", &self.dir).args(command).stdin(Stdio::null()).output().unwrap()
    }

    /// Serves the page `who` on port 80 of the host itself until the host ends.
    pub(crate) fn serve_on_host(&mut self) {
        let www = self.dir.join("www").display().to_string();
        let server = self.host_command(&["busybox", "httpd", "-f", "-p", "80", "-h", &www]).spawn().unwrap();
        self.helpers.push(server);
        wait_for("the host's server", Duration::from_secs(5), || {
            self.try_on_host(&fetch(HOST_V4)).status.success()
        });
    }

    /// The address that a server at `address` sees when the host calls it.
    #[track_caller]
    pub(crate) fn seen_from_host(&self, address: &str) -> String {
        unmapped(&self.on_host(&fetch(address)))
    }

    /// Process ID of the running plugin, as the host counts them; `None` while there is none.
    pub(crate) fn plugin_pid(&self) -> Option<u32> {
        let id = self.docker(&["plugin", "inspect", "--format", "{{.Id}}", DRIVER]);
        let file =
            format!("/run/docker/containerd/daemon/io.containerd.runtime.v2.task/plugins.moby/{id}/init.pid");
        String::from_utf8(self.try_on_host(&["cat", &file]).stdout).unwrap().trim().parse().ok()
    }

    /// Kills the plugin with SIGKILL and waits until the engine has started it again and it answers.
    pub(crate) fn crash_plugin(&self) {
        let before = self.registrations();
        self.on_host(&["busybox", "kill", "-KILL", &self.plugin_pid().unwrap().to_string()]);
        // Only once the engine has registered it again: a second death before that switches a plugin off for good.
        wait_for("the plugin to come back", Duration::from_secs(15), || self.registrations() > before);
    }

    /// How often the engine has asked the plugin for its capabilities, which it does at each registration.
    fn registrations(&self) -> usize {
        self.daemon_log().matches("IpamDriver.GetCapabilities").count()
    }

    /// The kernel's state on the host: links, routes, rules, packet filter.
    pub(crate) fn state(&self) -> HostState {
        HostState::read(self)
    }

    /// Waits until the host's kernel state is `before` again; what differs after ten seconds fails the test.
    #[track_caller]
    pub(crate) fn assert_back_to(&self, before: &HostState) {
        self.assert_back_within(before, Duration::from_secs(10));
    }

    /// As [`Engine::assert_back_to`], for what the collector takes away after its grace period.
    #[track_caller]
    pub(crate) fn assert_back_within(&self, before: &HostState, limit: Duration) {
        let begun = Instant::now();
        loop {
            let left = before.difference(&self.state());
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < limit, "left on the host:\n{}", left.join("\n"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What dockerd has logged so far; the plugin's lines are among them.
    pub(crate) fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default()
    }

    fn report(&self) {
        let log = self.daemon_log();
        let from = log.len().saturating_sub(6000);
        let from = (from..log.len()).find(|&at| log.is_char_boundary(at)).unwrap_or(0);
        println!("--- end of dockerd's log ---\n{}", &log[from..]);
        if self.dir.join("pid").exists() {
            println!("--- host ---\n{}", HostState::read(self).text());
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.report();
        }
        let Some(host) = &mut self.host else { return };
        drop(host.stdin.take());
        let ended = host.wait();
        for child in self.daemon.iter_mut().chain(&mut self.helpers) {
            let _ = child.wait();
        }
        let clean = ended.is_ok_and(|status| status.success()) && !self.dir.exists();
        assert!(clean || failed, "the host's script left something of {}", self.dir.display());
    }
}

/// Whether a program is there that a test needs besides an engine; it must be if `REQUIRE` names it.
pub(crate) fn has(program: &str) -> bool {
    let look = format!("command -v {program}");
    let found = Command::new("sh").args(["-c", &look]).output().unwrap().status.success();
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(found || !required.split(',').any(|name| name == program), "{program} is required and not there");
    if !found {
        println!("SKIP: {program}");
    }
    found
}

/// Waits for a condition; fails the test with `what` when it does not come.
#[track_caller]
pub(crate) fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "waited {} s for {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The command that fetches the page `who` from an address.
pub(crate) fn fetch(address: &str) -> [&str; 6] {
    ["busybox", "sh", "-c", FETCH, "who", address]
}

/// Bounded by `timeout`: wget's own -T crashes Debian's static busybox.
const FETCH: &str = r#"case $1 in *:*) a="[$1]";; *) a=$1;; esac; exec busybox timeout 3 busybox wget -q -O - "http://$a/cgi-bin/who""#;

/// The address in what the page `who` printed: without brackets and without the prefix of an IPv4 address in IPv6 form.
pub(crate) fn unmapped(page: &str) -> String {
    let bare = page.trim().trim_start_matches('[').trim_end_matches(']');
    bare.strip_prefix("::ffff:").unwrap_or(bare).to_owned()
}

/// Everything a finished command printed.
pub(crate) fn text(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn script(command: &str, dir: &Path) -> Command {
    let mut script = Command::new(format!("{TOP}/tools/host.sh"));
    script.arg(command).arg(dir).env("PATH", path());
    script
}

/// Debian leaves the administrator's folders out of an ordinary user's PATH, and `su` keeps that.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Looks whether the root file system of another Debian is there.
fn engine_root(suite: &str) -> Result<(), String> {
    let tool = format!("{TOP}/tools/engine-rootfs.sh");
    let said =
        Command::new(&tool).args(["--where", suite]).output().map_err(|error| format!("{tool}: {error}"))?;
    let root = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    if said.status.success() && Path::new(&root).is_dir() {
        return Ok(());
    }
    Err(format!("there is no Debian {suite} in '{root}'; run 'tools/engine-rootfs.sh {suite}'"))
}

fn fresh_dir() -> PathBuf {
    let dir = tempfile::Builder::new().prefix("calico-host-").tempdir().unwrap().keep();
    // The container's root must be able to walk down to the engine's data.
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// Why this machine cannot run an engine with the plugin.
pub(crate) fn able(suite: Option<&str>) -> Result<(), String> {
    let commands = ["docker", "dockerd", "ip", "busybox", "nsenter", "unshare"];
    let needed = match suite {
        Some(suite) => {
            engine_root(suite)?;
            &commands[3..]
        }
        None => &commands[..],
    };
    for command in needed {
        let found = std::env::split_paths(&path()).any(|folder| folder.join(command).is_file());
        if !found {
            return Err(format!("there is no {command}"));
        }
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("this is not root".to_owned());
    }
    if !Path::new(TOP).join("plugin/rootfs").is_dir() {
        return Err("there is no plugin/rootfs; run 'make plugin'".to_owned());
    }
    let unshare = Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]).output();
    match unshare {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!("namespaces are refused: {}", text(&done).trim())),
        Err(error) => Err(format!("unshare cannot be run: {error}")),
    }
}
