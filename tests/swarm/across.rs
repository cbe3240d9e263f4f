//! Traffic and policy between three hosts, of which the third is behind a router: directly in one subnet, over VXLAN to the other.

use crate::engine::{Container, Ping, wait_for};
use crate::lab::Lab;
use crate::{ENGINES_OF_TWO_SUBNETS, FAST_COLLECTOR, create_network};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// BIRD leaves routes of pools with VXLAN to the plugin: with it nothing else differs.
const VXLAN: [&str; 2] = ["CALICO_IPV4POOL_VXLAN=CrossSubnet", "CALICO_IPV6POOL_VXLAN=CrossSubnet"];
/// Longest time until every host knows of a change.
const KNOWN: Duration = Duration::from_secs(30);

/// `role=shop` may call `role=web` on port 80, whatever their networks; as the README has it.
const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: shop-to-web}
spec:
  selector: role == 'web'
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: role == 'shop'}, destination: {ports: [80]}}
";

/// A set of containers, one on each host.
pub(crate) struct Group<'a> {
    pub(crate) network: &'static str,
    pub(crate) containers: Vec<Container<'a>>,
}

impl<'a> Group<'a> {
    /// Starts `NAME-HOST` on every host, with a label `role` if one is given.
    fn start(lab: &'a Lab, name: &str, network: &'static str, role: Option<&str>) -> Self {
        let attachment = role.map_or_else(
            || format!("name={network}"),
            |role| format!("name={network},driver-opt=org.projectcalico.label.role={role}"),
        );
        let start = |host: &str| lab.engine(host).run(&format!("{name}-{host}"), &attachment, &[]);
        Self { network, containers: lab.names().into_iter().map(start).collect() }
    }

    /// The addresses of all but `caller`, both versions, as they stand in URLs.
    fn addresses_for(&self, caller: &Container<'_>) -> BTreeSet<String> {
        let of = |c: &Container<'_>| [c.v4(self.network), format!("[{}]", c.v6(self.network))];
        self.containers.iter().filter(|c| c.name() != caller.name()).flat_map(of).collect()
    }

    /// Waits until each of these calls over TCP exactly the expected ones of `others` successfully.
    #[track_caller]
    pub(crate) fn calls(&self, others: &Group<'_>, expected: bool) {
        for from in &self.containers {
            let addresses = others.addresses_for(from);
            let wanted = if expected { addresses.clone() } else { BTreeSet::new() };
            let begun = Instant::now();
            loop {
                let answered = answers(from, &addresses);
                if answered == wanted {
                    break;
                }
                assert!(
                    begun.elapsed() < KNOWN,
                    "{} gets answers of {answered:?}, not of {wanted:?}",
                    from.name()
                );
            }
        }
    }
}

/// Which of the addresses answer a call over TCP, all asked at once.
fn answers(from: &Container<'_>, addresses: &BTreeSet<String>) -> BTreeSet<String> {
    let ask =
        r#"for a; do (timeout 2 wget -q -O /dev/null "http://$a/cgi-bin/who" && echo "$a") & done; wait"#;
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let said = from.exec(&[&["sh", "-c", ask, "sh"], &addresses[..]].concat());
    said.lines().map(str::to_owned).collect()
}

/// Runs the administrator's command on the first host, with the lab's etcd; `document` is its standard input.
#[track_caller]
pub(crate) fn administer(lab: &Lab, args: &[&str], document: &str) -> String {
    let file = lab.engine("one").dir().join("document");
    std::fs::write(&file, document).unwrap();
    let command = format!(
        "ETCD_ENDPOINTS={} {}/plugin/rootfs/calico-libnetwork {} <{}",
        lab.run("endpoints", &[]),
        env!("CARGO_MANIFEST_DIR"),
        args.join(" "),
        file.display()
    );
    lab.on("one", &["sh", "-c", &command])
}

#[test]
fn containers_of_three_hosts_and_two_subnets_reach_each_other_as_policy_says() {
    let Some(lab) = Lab::up(1, &ENGINES_OF_TWO_SUBNETS) else { return };
    lab.swarm(1);
    lab.install(&[&FAST_COLLECTOR[..], &VXLAN, &["CALICO_NETWORKING_BACKEND=bird"]].concat());
    for name in ["web", "shop"] {
        create_network(&lab, "one", name, &["--ipv6"]);
    }
    let web = Group::start(&lab, "web", "web", Some("web"));
    let shop = Group::start(&lab, "shop", "shop", Some("shop"));
    let other = Group::start(&lab, "other", "shop", None);
    web.calls(&web, true);
    shop.calls(&other, true);
    shop.calls(&web, false);
    keep_their_addresses(&web);

    administer(&lab, &["apply", "-f", "-"], POLICY);
    shop.calls(&web, true);
    other.calls(&web, false);
    web.calls(&web, false);
    a_label_changes(&lab, &web, &other);
    administer(&lab, &["delete", "gnp", "shop-to-web"], "");
    web.calls(&web, true);
    shop.calls(&web, false);
    crate::fabric::reaches(&lab, &web);
    loses_a_host(&lab, &web);
}

/// No NAT between hosts: the callee sees the caller's own address.
fn keep_their_addresses(group: &Group<'_>) {
    for from in &group.containers {
        for to in &group.containers {
            assert_eq!(from.seen_by(&to.v4(group.network)), from.v4(group.network));
            assert_eq!(from.seen_by(&to.v6(group.network)), from.v6(group.network));
        }
    }
}

/// The network's profile labels its endpoints on all hosts, and stops to.
fn a_label_changes(lab: &Lab, web: &Group<'_>, other: &Group<'_>) {
    let id = lab.engine("one").docker(&["network", "inspect", "--format", "{{.Id}}", "shop"]);
    let name = format!("network-{}", id.to_lowercase());
    let profile = administer(lab, &["get", "profile", &name, "-o", "json"], "");
    let mut labelled: Value = serde_json::from_str(&profile).unwrap();
    labelled["spec"]["labelsToApply"]["role"] = "shop".into();
    labelled["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    administer(lab, &["apply", "-f", "-"], &labelled.to_string());
    other.calls(web, true);
    labelled["spec"]["labelsToApply"].as_object_mut().unwrap().remove("role");
    administer(lab, &["apply", "-f", "-"], &labelled.to_string());
    other.calls(web, false);
}

/// A host that is off keeps what is its own until its node is removed; then nobody routes to it any more, and nothing else changes.
fn loses_a_host(lab: &Lab, web: &Group<'_>) {
    let gone = web.containers[2].v4("web");
    let way = || lab.on("one", &["ip", "route", "get", &gone]);
    lab.run("kill", &["three"]);
    assert!(way().contains("vxlan"), "{}", way());
    let ping = Ping::start(&web.containers[0], &web.containers[1].v4("web"), 50);
    administer(lab, &["node", "remove", "--force", "three"], "");
    wait_for("the route to go", KNOWN, || !way().contains("vxlan"));
    ping.lost_none();
    assert_eq!(web.containers[1].seen_by(&web.containers[0].v4("web")), web.containers[1].v4("web"));
}
