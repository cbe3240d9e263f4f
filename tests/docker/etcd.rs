//! The same plugin with its data in etcd.

use crate::engine::{Container, Engine, IMAGE, Ping, text, wait_for};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// An engine without the plugin, on a machine that has etcd.
pub(crate) fn engine() -> Option<Engine> {
    if crate::engine::has("etcd") { Engine::plain(&[]) } else { None }
}

/// An etcd of the host's own, on its loopback.
pub(crate) struct Etcd<'a> {
    engine: &'a Engine,
    process: Child,
}

impl<'a> Etcd<'a> {
    pub(crate) const URL: &'static str = "http://127.0.0.1:2379";

    pub(crate) fn start(engine: &'a Engine) -> Self {
        Self::start_with(engine, &[])
    }

    /// The same with more options.
    pub(crate) fn start_with(engine: &'a Engine, more: &[&str]) -> Self {
        let data = engine.dir().join("etcd").display().to_string();
        let urls = ["--listen-client-urls", Self::URL, "--advertise-client-urls", Self::URL];
        let quiet =
            ["--logger", "zap", "--log-outputs", "/dev/null", "--listen-peer-urls", "http://127.0.0.1:2380"];
        let command = [&["etcd", "--data-dir", &data], &urls[..], &quiet[..], more].concat();
        let process = engine.host_command(&command).spawn().unwrap();
        wait_for("etcd", Duration::from_secs(20), || {
            engine.try_on_host(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/2379"]).status.success()
        });
        Self { engine, process }
    }

    /// Writes `datastoreReady` as calicoctl does around a migration, through the JSON gateway of etcd.
    pub(crate) fn set_ready(&self, ready: bool) {
        let script = r#"
            call() { busybox wget -q -O - --post-data "$2" "$URL/v3/kv/$1"; }
            key=$(printf %s /calico/resources/v3/projectcalico.org/clusterinformations/default | base64 -w0)
            value=$(call range "{\"key\":\"$key\"}" | sed 's/.*"value":"\([^"]*\)".*/\1/' | base64 -d)
            value=$(printf %s "$value" | sed "s/\"datastoreReady\":[a-z]*/\"datastoreReady\":$READY/" | base64 -w0)
            call put "{\"key\":\"$key\",\"value\":\"$value\"}""#;
        let (url, ready) = (format!("URL={}", Self::URL), format!("READY={ready}"));
        self.engine.on_host(&["env", &url, &ready, "bash", "-euo", "pipefail", "-c", script]);
    }

    /// What stands under a key; empty if there is none.
    pub(crate) fn value(&self, key: &str) -> String {
        let script = r#"
            busybox wget -q -O - --post-data "{\"key\":\"$(printf %s "$KEY" | base64 -w0)\"}" "$URL/v3/kv/range" |
                sed -n 's/.*"value":"\([^"]*\)".*/\1/p' | base64 -d"#;
        let (url, key) = (format!("URL={}", Self::URL), format!("KEY={key}"));
        self.engine.on_host(&["env", &url, &key, "bash", "-euo", "pipefail", "-c", script])
    }

    /// Keeps a key alive as Felix does its heartbeat, each time under a new lease of some seconds, and reports the same under
    /// another key for good; until [`Beats::stop`].
    pub(crate) fn beat(&self, key: &str, last: &str, seconds: u32) -> Beats<'a> {
        let script = r#"
            call() { busybox wget -q -O - --post-data "$2" "$URL/v3/$1"; }
            report() { printf '{"time":"%s","uptime":40.01,"first_update":false}' "$(date -u +%FT%TZ)" | base64 -w0; }
            put() { call kv/put "{\"key\":\"$(printf %s "$1" | base64 -w0)\",\"value\":\"$(report)\",\"lease\":\"$2\"}"; }
            while test -e "$ALIVE"; do
                lease=$(call lease/grant "{\"TTL\":$SECONDS_TO_LIVE}" | sed 's/.*"ID":"\([0-9]*\)".*/\1/')
                put "$KEY" "$lease"; put "$LAST" 0
                sleep 1
            done"#;
        let alive = self.engine.dir().join("felix-is-alive").display().to_string();
        self.engine.on_host(&["touch", &alive]);
        let settings = [
            format!("URL={}", Self::URL),
            format!("KEY={key}"),
            format!("LAST={last}"),
            format!("ALIVE={alive}"),
            format!("SECONDS_TO_LIVE={seconds}"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let command = [&["env"], &settings[..], &["bash", "-euo", "pipefail", "-c", script]].concat();
        let process = self.engine.host_command(&command).stdout(Stdio::null()).spawn().unwrap();
        Beats { engine: self.engine, alive, process }
    }

    /// Leaves it to the host, with which it ends.
    pub(crate) fn leave_running(self) {}

    /// As a crash of its machine: no farewell.
    pub(crate) fn kill(mut self) {
        self.engine.on_host(&["sh", "-c", "kill -KILL $(pidof etcd)"]);
        self.process.wait().unwrap();
    }
}

/// Somebody who writes heartbeats.
pub(crate) struct Beats<'a> {
    engine: &'a Engine,
    alive: String,
    process: Child,
}

impl Beats<'_> {
    /// No farewell: what was written last stays until its lease ends.
    pub(crate) fn stop(mut self) {
        self.engine.on_host(&["rm", &self.alive]);
        assert!(self.process.wait().unwrap().success(), "the heartbeats failed");
    }
}

/// Waits until a new container starts, and reaches the other.
#[track_caller]
fn starts_again(engine: &Engine, other: &Container<'_>) {
    let address = other.v4("web");
    wait_for("containers to start again", Duration::from_secs(30), || {
        let run = ["run", "--rm", "--network", "web", IMAGE, "ping", "-c", "1", "-W", "1", &address];
        engine.try_docker(&run).status.success()
    });
}

#[test]
fn networks_and_containers_live_with_their_data_in_etcd_and_outlive_its_outage() {
    let Some(engine) = engine() else { return };
    let etcd = Etcd::start(&engine);
    engine.install(&[&format!("CALICO_ETCD_ENDPOINTS={}", Etcd::URL)]);
    engine.network("web", &["--ipv6"]);
    let (one, two) = (engine.run("one", "web", &[]), engine.run("two", "web", &[]));
    one.reaches(&two.v4("web"));
    one.reaches(&two.v6("web"));
    let refused = engine.docker_fails(&["network", "create", "--driver", crate::engine::DRIVER, "plain"]);
    assert!(refused.contains("--ipam-driver"), "Docker's IPAM on a shared datastore: {refused}");

    etcd.set_ready(false);
    let mut refused = String::new();
    wait_for("starts to be refused", Duration::from_secs(10), || {
        let run = engine.try_docker(&["run", "--rm", "--network", "web", IMAGE, "true"]);
        refused = text(&run);
        !run.status.success()
    });
    assert!(refused.contains("datastoreReady of ClusterInformation is false"), "{refused}");
    one.reaches(&two.v4("web"));
    etcd.set_ready(true);
    starts_again(&engine, &two);

    let ping = Ping::start(&one, &two.v4("web"), 40);
    etcd.kill();
    let asked = Instant::now();
    let failed = engine.docker_fails(&["run", "--rm", "--network", "web", IMAGE, "true"]);
    assert!(failed.contains("datastore"), "the error does not name the datastore: {failed}");
    assert!(asked.elapsed() < Duration::from_secs(25), "the command hung for {:?}", asked.elapsed());
    ping.lost_none();

    let etcd = Etcd::start(&engine);
    starts_again(&engine, &two);
    one.remove();
    two.remove();
    engine.docker(&["network", "rm", "web"]);
    etcd.kill();
}
