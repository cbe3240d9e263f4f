//! The same plugin with its data in etcd.

use crate::engine::{Engine, Ping, wait_for};
use std::process::Child;
use std::time::{Duration, Instant};

/// An etcd of the host's own, on its loopback.
pub(crate) struct Etcd<'a> {
    engine: &'a Engine,
    process: Child,
}

impl<'a> Etcd<'a> {
    pub(crate) const URL: &'static str = "http://127.0.0.1:2379";

    pub(crate) fn start(engine: &'a Engine) -> Self {
        let data = engine.dir().join("etcd").display().to_string();
        let urls = ["--listen-client-urls", Self::URL, "--advertise-client-urls", Self::URL];
        let quiet =
            ["--logger", "zap", "--log-outputs", "/dev/null", "--listen-peer-urls", "http://127.0.0.1:2380"];
        let command = [&["etcd", "--data-dir", &data], &urls[..], &quiet[..]].concat();
        let process = engine.host_command(&command).spawn().unwrap();
        wait_for("etcd", Duration::from_secs(20), || {
            engine.try_on_host(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/2379"]).status.success()
        });
        Self { engine, process }
    }

    /// As a crash of its machine: no farewell.
    pub(crate) fn kill(mut self) {
        self.engine.on_host(&["sh", "-c", "kill -KILL $(pidof etcd)"]);
        self.process.wait().unwrap();
    }
}

#[test]
fn networks_and_containers_live_with_their_data_in_etcd_and_outlive_its_outage() {
    let Some(engine) = Engine::plain(&[]) else { return };
    if !crate::engine::has("etcd") {
        return;
    }
    let etcd = Etcd::start(&engine);
    engine.install(&[&format!("ETCD_ENDPOINTS={}", Etcd::URL)]);
    engine.network("web", &["--ipv6"]);
    let (one, two) = (engine.run("one", "web", &[]), engine.run("two", "web", &[]));
    one.reaches(&two.v4("web"));
    one.reaches(&two.v6("web"));
    let refused = engine.docker_fails(&["network", "create", "--driver", crate::engine::DRIVER, "plain"]);
    assert!(refused.contains("--ipam-driver"), "Docker's IPAM on a shared datastore: {refused}");

    let ping = Ping::start(&one, &two.v4("web"), 40);
    etcd.kill();
    let asked = Instant::now();
    let failed = engine.docker_fails(&["run", "--rm", "--network", "web", crate::engine::IMAGE, "true"]);
    assert!(failed.contains("datastore"), "the error does not name the datastore: {failed}");
    assert!(asked.elapsed() < Duration::from_secs(25), "the command hung for {:?}", asked.elapsed());
    ping.lost_none();

    let etcd = Etcd::start(&engine);
    wait_for("containers to start again", Duration::from_secs(30), || {
        let run = ["run", "--rm", "--network", "web", crate::engine::IMAGE, "ping", "-c", "1", "-W", "1"];
        engine.try_docker(&[&run[..], &[&two.v4("web")]].concat()).status.success()
    });
    one.remove();
    two.remove();
    engine.docker(&["network", "rm", "web"]);
    etcd.kill();
}
