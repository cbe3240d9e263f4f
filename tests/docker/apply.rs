//! Policy as an administrator sets it, and what packets then do.

use crate::engine::{Container, Engine, text};
use std::io::Write as _;
use std::process::{Output, Stdio};

/// The same binary that the plugin runs, on the host.
pub(crate) const BINARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugin/rootfs/calico-libnetwork");

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: shop-to-web}
spec:
  selector: role == 'web'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: role == 'shop'}, destination: {ports: [80]}}
  egress:
  - {action: Allow}
";

fn command(engine: &Engine, arguments: &[&str], input: &str) -> Output {
    let mut child = engine
        .host_command(&[&[BINARY], arguments].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
pub(crate) fn does(engine: &Engine, arguments: &[&str], input: &str) -> String {
    said(arguments, command(engine, arguments, input))
}

/// What a command said that did what it was told.
#[track_caller]
pub(crate) fn said(arguments: &[&str], done: Output) -> String {
    assert!(done.status.success(), "{arguments:?}: {}", text(&done));
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

/// Whether the server behind a port answers.
pub(crate) fn connects(from: &Container<'_>, address: &str, port: &str) -> bool {
    let page = format!("http://{address}:{port}/cgi-bin/who");
    from.try_exec(&["busybox", "timeout", "2", "busybox", "wget", "-q", "-O", "-", &page]).status.success()
}

/// Packets and `policy trace` agree about TCP to a port.
#[track_caller]
fn agree(from: &Container<'_>, to: &Container<'_>, address: &str, port: &str, allowed: bool) {
    let flow = format!("tcp/{port}");
    let answer = does(from.engine(), &["policy", "trace", from.name(), to.name(), &flow], "");
    let word = if allowed { "allow " } else { "deny " };
    assert!(answer.starts_with(word), "{flow} from {} to {}: {answer}", from.name(), to.name());
    assert_eq!(connects(from, address, port), allowed, "packets do otherwise than:\n{answer}");
}

#[test]
fn two_networks_are_isolated_until_a_policy_lets_one_port_through() {
    let Some(engine) = Engine::with_plugin() else { return };
    let before = engine.state();
    engine.network("web", &["--subnet", "10.77.0.0/16"]);
    engine.network("shop", &["--subnet", "10.78.0.0/16"]);
    let role = |network: &str| format!("name={network},driver-opt=org.projectcalico.label.role={network}");
    let (web_role, shop_role) = (role("web"), role("shop"));
    let web = engine.run("web", &web_role, &[]);
    let shop = engine.run("shop", &shop_role, &[]);
    let peer = engine.run("peer", "web", &[]);
    let address = web.v4("web");
    engine.docker(&["exec", "--detach", web.name(), "httpd", "-f", "-p", "81", "-h", "/www"]);
    crate::engine::wait_for("the second server", std::time::Duration::from_secs(5), || {
        connects(&peer, &address, "81")
    });

    agree(&peer, &web, &address, "80", true);
    agree(&shop, &web, &address, "80", false);

    assert_eq!(does(&engine, &["apply", "-f", "-"], POLICY), "created GlobalNetworkPolicy shop-to-web");
    crate::engine::wait_for("the policy to be in force", std::time::Duration::from_secs(5), || {
        connects(&shop, &address, "80")
    });
    agree(&shop, &web, &address, "80", true);
    agree(&shop, &web, &address, "81", false);
    agree(&peer, &web, &address, "80", false);
    let explained = does(&engine, &["policy", "explain", "web"], "");
    assert!(explained.contains("GlobalNetworkPolicy shop-to-web"), "{explained}");
    assert!(explained.contains("role = 'web'"), "{explained}");
    assert!(explained.contains(" packets"), "no rule tells what it has counted: {explained}");
    let table = does(&engine, &["policy", "show"], "");
    let kernels = engine.on_host(&["nft", "list", "chain", "inet", "calico-docker", "from-dispatch"]);
    let dispatch = kernels.lines().find(|line| line.contains("vmap")).unwrap().trim();
    assert!(table.contains(dispatch), "{dispatch:?} of the kernel is not in:\n{table}");
    let metrics = does(&engine, &["metrics"], "");
    assert!(metrics.contains("ipam_pool_addresses{"), "{metrics}");

    does(&engine, &["delete", "gnp", "shop-to-web"], "");
    crate::engine::wait_for("the policy to be gone", std::time::Duration::from_secs(5), || {
        !connects(&shop, &address, "80")
    });
    agree(&shop, &web, &address, "80", false);
    agree(&peer, &web, &address, "80", true);

    for container in [web, shop, peer] {
        container.remove();
    }
    engine.docker(&["network", "rm", "web", "shop"]);
    engine.assert_back_to(&before);
}
