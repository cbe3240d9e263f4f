//! A ping that runs while things happen, and tells afterwards whether a packet was lost.

use super::{Container, text};
use std::process::{Child, Stdio};

/// Ten packets a second out of a container's namespace, by a process that neither the engine nor the plugin knows.
pub(crate) struct Ping {
    process: Child,
    sent: u32,
}

impl Ping {
    /// Starts to send `count` packets from a container to an address.
    pub(crate) fn start(from: &Container<'_>, to: &str, count: u32) -> Self {
        let pid = from.engine().docker(&["inspect", "--format", "{{.State.Pid}}", from.name()]);
        let number = count.to_string();
        let ping = ["busybox", "ping", "-i", "0.1", "-W", "1", "-c", &number, to];
        let process = from
            .engine()
            .host_command(&[&["nsenter", "--target", &pid, "--net"], &ping[..]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { process, sent: count }
    }

    /// Waits for the last packet and asserts that every one was answered.
    #[track_caller]
    pub(crate) fn lost_none(self) {
        let sent = self.sent;
        let done = self.process.wait_with_output().unwrap();
        let all = format!("{sent} packets transmitted, {sent} packets received");
        assert!(text(&done).contains(&all), "packets were lost: {}", text(&done));
    }
}
