//! Several hosts with engines of their own, joined by a switch (`tools/lab.sh`), with the plugin and etcd.
//!
//! The lab ends when the pipe to its script closes: at the end of the test, in a panic, and also when the test process is killed.

use super::engine::{Engine, able, text};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const TOP: &str = env!("CARGO_MANIFEST_DIR");

/// A running lab.
pub(crate) struct Lab {
    dir: PathBuf,
    script: Child,
    hosts: Vec<(String, Engine)>,
    names: Option<Names>,
}

/// The lab's server of names, on its router: there are none.
///
/// What Docker does not know it asks outside, also for the IPv6 address of a name that has none. Its engine 20.10 gives a container no
/// answer where nobody listens there, and each look-up waits for five seconds; 26.1 and 28.5 tell it at once.
struct Names {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Names {
    fn start(namespace: File) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let mut message = [0; 1500];
            while !told.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut message) else { continue };
                // RFC 1035: an authoritative answer, recursion as it was asked for and available, no such name.
                message[2] = 0x84 | (message[2] & 1);
                message[3] = 0x83;
                let _ = socket.send_to(&message[..length], from);
            }
        });
        Self { ends, thread }
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

impl Lab {
    /// A lab of the given hosts (`name[=suite][@subnet]`) and members of etcd, without the plugin; `None` (and a line that
    /// says so) where the machine cannot run it.
    pub(crate) fn up(etcd: usize, specs: &[&str]) -> Option<Self> {
        if let Err(lack) = specs.iter().try_for_each(|spec| able(suite(spec).as_deref())) {
            let required = std::env::var("REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == "lab"), "lab is required but {lack}");
            println!("SKIP: lab ({lack})");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("calico-lab-{}", fresh_name()));
        let mut up = command(&dir, "up");
        up.args(["--etcd", &etcd.to_string()]).args(specs).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = up.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said.trim(), "up", "tools/lab.sh could not make a lab of {specs:?}");
        let host = |spec: &&str| {
            let name = spec.split(['=', '@']).next().unwrap().to_owned();
            let engine = Engine::held_elsewhere(dir.join("hosts").join(&name), suite(spec));
            (name, engine)
        };
        let hosts = specs.iter().map(host).collect();
        let mut lab = Self { dir, script, hosts, names: None };
        lab.names = Some(Names::start(File::open(lab.network_namespace("router")).unwrap()));
        Some(lab)
    }

    /// Installs the plugin on all hosts, with the lab's etcd and the given settings.
    #[track_caller]
    pub(crate) fn install(&self, settings: &[&str]) {
        self.install_on(settings, &self.names());
    }

    /// As [`Lab::install`], on some of the hosts.
    #[track_caller]
    pub(crate) fn install_on(&self, settings: &[&str], hosts: &[&str]) {
        self.run("install", &[settings, &["--"], hosts].concat());
    }

    /// Makes a swarm of all hosts, the first `managers` of them managers.
    #[track_caller]
    pub(crate) fn swarm(&self, managers: usize) {
        let managers = managers.to_string();
        self.run("swarm", &[&[managers.as_str()], &self.names()[..]].concat());
    }

    /// Names of the hosts in the order given.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.hosts.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The engines in the order given.
    pub(crate) fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.hosts.iter().map(|(_, engine)| engine)
    }

    /// A host's engine.
    #[track_caller]
    pub(crate) fn engine(&self, name: &str) -> &Engine {
        let found = self.hosts.iter().find(|(host, _)| host == name);
        &found.unwrap_or_else(|| panic!("there is no host {name}")).1
    }

    /// A host's IPv4 address.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> String {
        self.run("address", &[name])
    }

    /// The file by which a host's, the router's or a member's network namespace is entered.
    pub(crate) fn network_namespace(&self, name: &str) -> PathBuf {
        let pid = std::fs::read_to_string(self.dir.join("hosts").join(name).join("pid")).unwrap();
        format!("/proc/{}/ns/net", pid.trim()).into()
    }

    /// Runs a command on a host, the router or a member of etcd, and returns what it prints; it must work.
    #[track_caller]
    pub(crate) fn on(&self, name: &str, command: &[&str]) -> String {
        self.run("in", &[&[name], command].concat())
    }

    /// Runs a command on a host, the router or a member of etcd.
    pub(crate) fn try_on(&self, name: &str, args: &[&str]) -> Output {
        command(&self.dir, "in").arg(name).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a verb of `tools/lab.sh`, which must work, and returns what it prints.
    #[track_caller]
    pub(crate) fn run(&self, verb: &str, args: &[&str]) -> String {
        let done = command(&self.dir, verb).args(args).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "lab.sh {verb} {}: {}", args.join(" "), text(&done));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        self.names.take().into_iter().for_each(Names::end);
        self.hosts.clear(); // each tells its engine's log where the test has failed
        drop(self.script.stdin.take());
        let ended = self.script.wait();
        let clean = ended.is_ok_and(|status| status.success()) && !self.dir.exists();
        assert!(clean || failed, "the lab's script left something of {}", self.dir.display());
    }
}

/// The Debian in a host's specification.
fn suite(spec: &str) -> Option<String> {
    let (_, rest) = spec.split_once('=')?;
    rest.split('@').next().map(str::to_owned)
}

/// Unique among all processes and their threads.
fn fresh_name() -> String {
    let dir = tempfile::Builder::new().prefix("").rand_bytes(6).tempdir().unwrap();
    dir.path().file_name().unwrap().to_str().unwrap().to_owned()
}

fn command(dir: &std::path::Path, verb: &str) -> Command {
    let mut command = Command::new(format!("{TOP}/tools/lab.sh"));
    command.arg(verb).env("LAB", dir);
    command
}
