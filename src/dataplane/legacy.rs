//! The FORWARD chains of the old iptables, by its own tools: the kernel's interface to it is theirs alone. Nothing is
//! run unless the kernel says that the old iptables has a filter table, because running it would make one.

use super::guard::{COMMENT, Passing};
use super::{ForwardAccept, LegacyTools};
use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// The tool of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Legacy<'a> {
    tool: &'a Path,
    names: &'static str,
    proc_net: &'a Path,
    lock: &'a Path,
    deadline: Duration,
}

/// Both families.
pub(super) fn families(tools: &LegacyTools, deadline: Duration) -> [Legacy<'_>; 2] {
    let (proc_net, lock) = (tools.proc_net.as_path(), tools.lock.as_path());
    [
        Legacy { tool: &tools.iptables, names: "ip_tables_names", proc_net, lock, deadline },
        Legacy { tool: &tools.ip6tables, names: "ip6_tables_names", proc_net, lock, deadline },
    ]
}

impl Legacy<'_> {
    /// Appends what is missing, then removes our rules of the other kind. Says whether anything was appended; an error
    /// is a sentence for a person.
    pub(super) async fn ensure(
        &self,
        mode: ForwardAccept,
        accept: u32,
        passing: Passing,
    ) -> Result<bool, String> {
        if !self.in_use().await? || (mode == ForwardAccept::Never && !self.tool.exists()) {
            return Ok(false);
        }
        let forward = self.listing().await?;
        let wanted = match mode {
            ForwardAccept::Never => false,
            ForwardAccept::Always => true,
            ForwardAccept::Auto => forward.starts_with("-P FORWARD DROP") || forward.contains("DOCKER"),
        };
        if !wanted {
            self.delete_kind(&forward, accept, Passing::Endpoints).await?;
            return Ok(false);
        }
        let mut appended = false;
        for rule in ours(accept, passing) {
            if !self.has(&rule).await? {
                self.run("-A", &rule).await?;
                appended = true;
            }
        }
        let other = match passing {
            Passing::Marked => Passing::Endpoints,
            Passing::Endpoints => Passing::Marked,
        };
        self.delete_kind(&forward, accept, other).await?;
        Ok(appended)
    }

    /// Removes our rules.
    pub(super) async fn remove(&self, accept: u32) -> Result<(), String> {
        if !self.in_use().await? || !self.tool.exists() {
            return Ok(());
        }
        self.delete(&ours(accept, Passing::Marked)).await?;
        self.delete(&ours(accept, Passing::Endpoints)).await
    }

    /// Deletes our rules of one kind if the listing has any: few hosts ever do, and to ask for each is a process more.
    async fn delete_kind(&self, listing: &str, accept: u32, kind: Passing) -> Result<(), String> {
        let marked = kind == Passing::Marked;
        match listing.lines().any(|line| is_ours(line) && line.contains("--mark") == marked) {
            true => self.delete(&ours(accept, kind)).await,
            false => Ok(()),
        }
    }

    async fn delete(&self, rules: &[Vec<String>]) -> Result<(), String> {
        /// More than once only if somebody restored a saved ruleset on top of ours.
        const COPIES: u32 = 16;
        for rule in rules {
            for _ in 0..COPIES {
                if !self.has(rule).await? {
                    break;
                }
                self.run("-D", rule).await?;
            }
        }
        Ok(())
    }

    /// `iptables -S FORWARD`: the policy, then the rules.
    pub(super) async fn listing(&self) -> Result<String, String> {
        self.run("-S", &["FORWARD".to_owned()]).await
    }

    /// `iptables -S`: the chains and rules of the whole filter table.
    pub(super) async fn everything(&self) -> Result<String, String> {
        self.run("-S", &[]).await
    }

    /// Whether the kernel has a filter table of the old iptables. The file is there only with the module.
    pub(super) async fn in_use(&self) -> Result<bool, String> {
        let path = self.proc_net.join(self.names);
        match tokio::fs::read_to_string(&path).await {
            Ok(names) => Ok(names.lines().any(|line| line == "filter")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("read {}: {error}", path.display())),
        }
    }

    /// `-C` ends with 1 where the rule is not there, with more where it could not look (a lock, for example).
    async fn has(&self, rule: &[String]) -> Result<bool, String> {
        let output = self.output("-C", rule).await?;
        match output.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(self.failure("-C", rule, &output)),
        }
    }

    async fn run(&self, command: &str, rule: &[String]) -> Result<String, String> {
        let output = self.output(command, rule).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failure(command, rule, &output))
    }

    fn failure(&self, command: &str, rule: &[String], output: &Output) -> String {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("{} {command} {}: {}", self.tool.display(), rule.join(" "), said.trim())
    }

    async fn output(&self, command: &str, rule: &[String]) -> Result<Output, String> {
        let tool = self.tool.display();
        let child = Command::new(self.tool)
            .env("XTABLES_LOCKFILE", self.lock)
            .args(["-w", "2", command])
            .args(rule)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(self.deadline, child).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(format!(
                "the old iptables filters forwarded packets on this host, and there is no {tool} to let ours pass"
            )),
            Ok(Err(error)) => Err(format!("run {tool}: {error}")),
            Err(_) => Err(format!("{tool} {command} did not end within {:?}", self.deadline)),
        }
    }
}

/// Whether a line of `iptables -S` is a rule of ours.
fn is_ours(line: &str) -> bool {
    line.split_whitespace().any(|word| word == COMMENT)
}

fn ours(accept: u32, passing: Passing) -> [Vec<String>; 2] {
    let mark = format!("{accept:#x}/{accept:#x}");
    let mark: &[&str] = match passing {
        Passing::Marked => &["-m", "mark", "--mark", &mark],
        Passing::Endpoints => &[],
    };
    ["-i", "-o"].map(|direction| {
        let comment = ["-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"];
        [&["FORWARD", direction, "cali+"], mark, &comment].concat().into_iter().map(str::to_owned).collect()
    })
}
