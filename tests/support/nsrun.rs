//! Runs a test in namespaces of its own: the test binary starts itself again under `unshare` with a network, mount and
//! process namespace in which nothing outside can be touched and which takes everything with it when it ends.

use std::fs::File;
use std::process::{Command, Stdio};

const MARK: &str = "CALICO_TEST_INSIDE";

/// Runs `body` in fresh namespaces as root, with `/run` empty and `lo` up. `test` is the name of the calling test as
/// the test runner knows it. Without the rights or tools for that, prints `SKIP` and returns, unless `REQUIRE` names
/// `netns`.
pub(crate) fn in_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var(MARK).as_deref() == Ok(test) {
        run("mount -t tmpfs none /run");
        run("mkdir -p /run/netns");
        run("ip link set lo up");
        body();
        return;
    }
    if !available() {
        let required = std::env::var("REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|r| r == "netns"),
            "netns is required, and unshare as root does not work"
        );
        println!("SKIP: network namespaces (unshare as root)");
        return;
    }
    let status = Command::new("timeout")
        .args([
            "--kill-after=5",
            "120",
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace: {status}");
}

fn available() -> bool {
    let mut probe = Command::new("unshare");
    probe
        .args(["--net", "--mount", "--pid", "--fork", "ip", "link"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Runs a command line and gives its output; fails the test if it fails.
pub(crate) fn run(line: &str) -> String {
    let (ok, text) = try_run(line);
    assert!(ok, "{line}: {text}");
    text
}

/// Runs a command line: whether it succeeded, and what it printed.
pub(crate) fn try_run(line: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Whether a program is there; if not, says so as [`in_namespace`] does. `REQUIRE` names it by `requirement`.
pub(crate) fn have(program: &str, requirement: &str) -> bool {
    if try_run(&format!("command -v {program}")).0 {
        return true;
    }
    let required = std::env::var("REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r == requirement), "{program} is required");
    println!("SKIP: {program}");
    false
}

/// Runs `work` on a thread inside a namespace made by `ip netns add`.
pub(crate) fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    let thread = std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().unwrap()
}
