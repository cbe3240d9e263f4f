//! The administrator's commands as processes, against an administrator's socket over a datastore in memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test"
)]

mod addresses;
#[path = "../support/etcd_server.rs"]
mod etcd_server;
mod kinds;
mod migrate;
mod nodes;
mod world;

use calico_libnetwork::admin::{AdminClient, AdminParts, AdminServer, AdminStore, policy_desk};
use calico_libnetwork::metrics::MetricsPage;
use calico_libnetwork::policy::{Graph, Update};
use calico_libnetwork::store::{MemoryStore, SharedStore, Store, StoreError, Txn};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const ROOT: &str = "/calico/resources/v3/projectcalico.org";
const ENDPOINT: &str = "docker--1-libnetwork-libnetwork-736ccfa7cd61";
const OTHER: &str = "docker--1-libnetwork-libnetwork-aaaabbbbcccc";

/// A daemon's administrator's socket without the rest of the daemon.
struct Daemon {
    dir: tempfile::TempDir,
    store: SharedStore,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(MemoryStore::new());
        let stop = CancellationToken::new();
        let (socket, served, token) = (socket(dir.path()), store.clone(), stop.clone());
        let (ready, wait) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(&socket, served, token, ready));
        });
        wait.recv().unwrap();
        let daemon = Self { dir, store, stop, thread: Some(thread) };
        daemon.put("tiers/default", r#"{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{"name":"default"},"spec":{"order":1000000,"defaultAction":"Deny"},"status":{}}"#);
        daemon
    }

    /// With two endpoints of one network each.
    fn with_endpoints() -> Self {
        let daemon = Self::start();
        for (network, id, name, ip) in
            [("web", "736ccfa7cd61", ENDPOINT, "10.1.0.1"), ("shop", "aaaabbbbcccc", OTHER, "10.1.0.2")]
        {
            daemon.put(&format!("profiles/{network}"), &format!(r#"{{"kind":"Profile","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{network}"}},"spec":{{"ingress":[{{"action":"Allow","source":{{"selector":"net == '{network}'"}}}}],"egress":[{{"action":"Allow"}}],"labelsToApply":{{"net":"{network}"}}}}}}"#));
            daemon.put(&format!("workloadendpoints/libnetwork/{name}"), &format!(r#"{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}","namespace":"libnetwork","labels":{{"role":"{network}"}}}},"spec":{{"orchestrator":"libnetwork","workload":"libnetwork","node":"docker-1","endpoint":"{id}","ipNetworks":["{ip}/32"],"profiles":["{network}"],"interfaceName":"cali{}"}}}}"#, &id[..11]));
        }
        daemon
    }

    fn put(&self, key: &str, value: &str) {
        let key = format!("{ROOT}/{key}");
        block_on(self.store.commit(Txn::new().create(key, value.to_owned()))).unwrap();
    }

    fn stored(&self, key: &str) -> serde_json::Value {
        let entry = block_on(async { self.store.get(&format!("{ROOT}/{key}")).await }).unwrap();
        serde_json::from_slice(&entry.unwrap_or_else(|| panic!("there is no {key}")).value).unwrap()
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        run(self.dir.path(), &[], arguments, input)
    }

    /// What a command that must work prints.
    #[track_caller]
    fn does(&self, arguments: &[&str], input: &str) -> String {
        let done = self.run(arguments, input);
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    }

    /// What a command that must fail with an exit code complains of.
    #[track_caller]
    fn fails(&self, code: i32, arguments: &[&str], input: &str) -> String {
        let done = self.run(arguments, input);
        let complaint = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {complaint}");
        complaint.trim_end().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
        assert!(std::thread::panicking() || !socket(self.dir.path()).exists(), "the socket is left");
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("calico-libnetwork/admin.sock")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn serve(
    socket: &Path,
    store: SharedStore,
    stop: CancellationToken,
    ready: std::sync::mpsc::SyncSender<()>,
) {
    let server = AdminServer::bind(socket).unwrap();
    let (desk, mut inbox) = policy_desk();
    let metrics = MetricsPage::new(|| Box::pin(async { "a_figure 7\n".to_owned() }));
    let (_parts, receiver) = watch::channel(Some(AdminParts { store: store.clone(), policy: desk, metrics }));
    ready.send(()).unwrap();
    let answering = async {
        loop {
            let request = inbox.next().await;
            let mut graph = Graph::new("docker-1");
            for entry in store.list(ROOT).await.unwrap().entries {
                if let Some(update) = Update::from_entry(&entry.key, Some(&entry.value)) {
                    graph.update(update);
                }
            }
            graph.flush();
            request.answer(&graph);
        }
    };
    tokio::select! {
        served = server.serve(receiver, stop) => served.unwrap(),
        () = answering => {}
    }
}

fn run(host_run: &Path, settings: &[(&str, &str)], arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calico-libnetwork"))
        .args(arguments)
        .env_clear()
        .env("CALICO_LIBNETWORK_HOST_RUN", host_run)
        .envs(settings.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: shop-to-web
spec:
  order: 10
  selector: role == 'web'
  ingress:
  - action: Allow
    protocol: TCP
    source:
      selector: role == 'shop'
    destination:
      ports: [80]
";

#[test]
fn a_policy_is_applied_listed_changed_and_deleted() {
    let daemon = Daemon::start();
    assert_eq!(daemon.does(&["apply", "-f", "-"], POLICY), "created GlobalNetworkPolicy shop-to-web");
    let stored = daemon.stored("globalnetworkpolicies/shop-to-web");
    assert_eq!(stored["metadata"]["labels"]["projectcalico.org/tier"], "default");
    assert_eq!(stored["metadata"]["annotations"]["projectcalico.org/metadata"], r#"{"name":"shop-to-web"}"#);
    assert_eq!(stored["spec"]["types"], serde_json::json!(["Ingress"]));
    let uid = stored["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(uid.len(), 36);

    assert_eq!(
        daemon.does(&["get", "gnp"], ""),
        "NAME          TIER      ORDER   SELECTOR\nshop-to-web   default   10      role == 'web'"
    );
    assert_eq!(
        daemon.does(&["get", "gnp", "shop-to-web", "-o", "name"], ""),
        "GlobalNetworkPolicy/shop-to-web"
    );
    assert_eq!(daemon.does(&["apply", "-f", "-"], POLICY), "unchanged GlobalNetworkPolicy shop-to-web");

    let changed = POLICY.replace("[80]", "[81]");
    assert_eq!(daemon.does(&["replace", "-f", "-"], &changed), "replaced GlobalNetworkPolicy shop-to-web");
    let again = daemon.stored("globalnetworkpolicies/shop-to-web");
    assert_eq!(again["metadata"]["uid"], uid.as_str(), "the uid stays");
    assert_eq!(again["metadata"]["creationTimestamp"], stored["metadata"]["creationTimestamp"]);
    assert_eq!(again["spec"]["ingress"][0]["destination"]["ports"], serde_json::json!([81]));

    assert!(daemon.fails(1, &["create", "-f", "-"], POLICY).contains("exists already"));
    assert_eq!(daemon.does(&["delete", "-f", "-"], POLICY), "deleted GlobalNetworkPolicy shop-to-web");
    assert_eq!(
        daemon.fails(1, &["delete", "gnp", "shop-to-web"], ""),
        "there is no GlobalNetworkPolicy shop-to-web"
    );
    daemon.does(&["delete", "gnp", "shop-to-web", "--skip-not-exists"], "");
    assert!(daemon.fails(1, &["replace", "-f", "-"], POLICY).contains("there is no"));
}

#[test]
fn what_get_prints_can_be_applied_until_somebody_else_changes_it() {
    let daemon = Daemon::start();
    daemon.does(&["apply", "-f", "-"], POLICY);
    for form in ["yaml", "json"] {
        let read = daemon.does(&["get", "gnp", "shop-to-web", "-o", form], "");
        assert!(read.contains("resourceVersion") && !read.contains("projectcalico.org/metadata"), "{read}");
        assert_eq!(daemon.does(&["apply", "-f", "-"], &read), "unchanged GlobalNetworkPolicy shop-to-web");
    }
    let old = daemon.does(&["get", "gnp", "shop-to-web", "-o", "yaml"], "");
    daemon.does(&["apply", "-f", "-"], &POLICY.replace("[80]", "[81]"));
    let conflict = daemon.fails(1, &["apply", "-f", "-"], &old);
    assert!(conflict.contains("was changed by someone else"), "{conflict}");
    let list = daemon.does(&["get", "gnp", "-o", "json"], "");
    assert!(list.contains("GlobalNetworkPolicyList"), "{list}");
}

/// calicoctl reads YAML 1.1, in which some texts are none without quotes.
#[test]
fn what_get_prints_is_the_same_to_readers_of_yaml_1_1() {
    let daemon = Daemon::start();
    let set = "kind: GlobalNetworkSet\napiVersion: projectcalico.org/v3\nmetadata: {name: a, labels: {yes: 'no', n: '1_000', a: '2001-01-01'}}\nspec: {nets: [10.0.0.0/8]}\n";
    daemon.does(&["apply", "-f", "-"], set);
    let read = daemon.does(&["get", "gns", "a", "-o", "yaml"], "");
    for part in ["'yes': 'no'\n", "'n': '1_000'\n", "a: '2001-01-01'\n", "- 10.0.0.0/8"] {
        assert!(read.contains(part), "{part} is missing in\n{read}");
    }
    assert_eq!(daemon.does(&["apply", "-f", "-"], &read), "unchanged GlobalNetworkSet a");
}

#[test]
fn a_policy_under_an_old_calicos_key_is_the_same_policy() {
    // (52) of tests/conformance.md
    let daemon = Daemon::start();
    daemon.put("globalnetworkpolicies/default.shop-to-web", r#"{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"default.shop-to-web","uid":"u","creationTimestamp":"2026-11-21T00:51:43Z"},"spec":{"selector":"all()"}}"#);
    assert_eq!(daemon.does(&["apply", "-f", "-"], POLICY), "replaced GlobalNetworkPolicy shop-to-web");
    let stored = daemon.stored("globalnetworkpolicies/default.shop-to-web");
    assert_eq!(stored["metadata"]["name"], "default.shop-to-web");
    assert_eq!(stored["metadata"]["uid"], "u");
    assert_eq!(daemon.does(&["get", "gnp", "-o", "name"], ""), "GlobalNetworkPolicy/shop-to-web");
    daemon.does(&["delete", "gnp", "shop-to-web"], "");
}

#[test]
fn several_documents_are_all_right_or_none_is_written() {
    let daemon = Daemon::start();
    let tier =
        "---\nkind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: first}\nspec: {order: 5}\n";
    let set = "---\nkind: NetworkSet\napiVersion: projectcalico.org/v3\nmetadata: {name: ext}\nspec: {nets: [198.51.100.0/28]}\n";
    let wrong = "---\nkind: NetworkSet\napiVersion: projectcalico.org/v3\nmetadata: {name: bad}\nspec: {nets: [300.1.1.1]}\n";
    let complaint = daemon.fails(1, &["apply", "-f", "-"], &format!("{tier}{set}{wrong}"));
    assert_eq!(
        complaint,
        "NetworkSet libnetwork/bad: spec.nets[0]: an IP prefix such as 10.1.0.0/24 is expected, not \"300.1.1.1\"\nnothing was written"
    );
    assert_eq!(daemon.does(&["get", "netsets"], ""), "NAMESPACE   NAME");
    assert_eq!(
        daemon.does(&["apply", "-f", "-"], &format!("{tier}{set}")),
        "created Tier first\ncreated NetworkSet libnetwork/ext"
    );
    assert_eq!(
        daemon.does(&["get", "tiers"], ""),
        "NAME      ORDER     DEFAULTACTION\ndefault   1000000   Deny\nfirst     5         Deny"
    );
}

#[test]
fn pools_are_guarded_against_each_other_and_their_past() {
    let daemon = Daemon::start();
    let pool = |name: &str, spec: &str| {
        format!("kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    daemon.does(&["create", "-f", "-"], &pool("a", "{cidr: 10.1.0.0/16, natOutgoing: true}"));
    assert_eq!(
        daemon.does(&["get", "pool", "-o", "wide"], ""),
        "NAME   CIDR          NAT    IPIPMODE   VXLANMODE   DISABLED   DISABLEBGPEXPORT   SELECTOR\na      10.1.0.0/16   true   Never      Never       false      false              all()"
    );
    for (document, sentence) in [
        (
            pool("b", "{cidr: 10.1.128.0/17}"),
            "IPPool b: spec.cidr: 10.1.128.0/17 overlaps pool a (10.1.0.0/16)",
        ),
        (
            pool("a", "{cidr: 10.2.0.0/16}"),
            "IPPool a: spec.cidr: it is 10.1.0.0/16 and cannot be changed; make another pool",
        ),
        (
            pool("a", "{cidr: 10.1.0.0/16, blockSize: 28}"),
            "IPPool a: spec.blockSize: it is 26 and cannot be changed; make another pool",
        ),
    ] {
        assert_eq!(daemon.fails(1, &["apply", "-f", "-"], &document), sentence);
    }
    assert_eq!(daemon.does(&["delete", "ippool", "a"], ""), "deleted IPPool a");
}

#[test]
fn what_is_still_needed_stays() {
    let daemon = Daemon::with_endpoints();
    assert!(daemon.fails(1, &["delete", "profile", "web"], "").contains("1 endpoints have it"));
    assert!(daemon.fails(1, &["delete", "tier", "default"], "").contains("stays"));
    daemon.does(
        &["apply", "-f", "-"],
        "kind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: t}\nspec: {order: 5}\n",
    );
    let policy = POLICY.replace("order: 10", "tier: t");
    daemon.does(&["apply", "-f", "-"], &policy);
    assert!(daemon.fails(1, &["delete", "tier", "t"], "").contains("GlobalNetworkPolicy shop-to-web"));
    let moved = daemon.fails(1, &["apply", "-f", "-"], POLICY);
    assert!(moved.contains("spec.tier: it is t and cannot be changed"), "{moved}");
    daemon.does(&["delete", "gnp", "shop-to-web"], "");
    daemon.does(&["delete", "tier", "t"], "");
    let unknown = daemon.fails(1, &["apply", "-f", "-"], &policy);
    assert!(unknown.contains("spec.tier: there is no Tier t; create it first"), "{unknown}");
    let read_only = daemon.fails(1, &["delete", "wep", ENDPOINT], "");
    assert!(read_only.contains("can only be read"), "{read_only}");
}

#[test]
fn endpoints_are_listed() {
    let daemon = Daemon::with_endpoints();
    assert_eq!(
        daemon.does(&["get", "wep"], ""),
        "NAMESPACE    WORKLOAD     NODE       NETWORKS      INTERFACE\n\
         libnetwork   libnetwork   docker-1   10.1.0.1/32   cali736ccfa7cd6\n\
         libnetwork   libnetwork   docker-1   10.1.0.2/32   caliaaaabbbbccc"
    );
}

#[test]
fn addresses_are_counted_and_their_holders_named() {
    let daemon = Daemon::with_endpoints();
    let pool = "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: a}\nspec: {cidr: 10.1.0.0/24, blockSize: 29}\n";
    daemon.does(&["apply", "-f", "-"], pool);
    let block = r#"{"cidr":"10.1.0.0/29","affinity":"host:docker-1","allocations":[null,0,null,null,null,null,null,null],"unallocated":[0,2,3,4,5,6,7],"attributes":[{"handle_id":"h1","secondary":{"node":"docker-1"}}],"sequenceNumber":5,"sequenceNumberForAllocation":{"1":4},"deleted":false}"#;
    let key = "/calico/ipam/v2/assignment/ipv4/block/10.1.0.0-29";
    block_on(daemon.store.commit(Txn::new().create(key, block))).unwrap();
    assert_eq!(
        daemon.does(&["ipam", "show", "--show-blocks"], ""),
        "GROUPING   CIDR          IPS TOTAL   IPS IN USE   IPS FREE   NODE\n\
         IP Pool    10.1.0.0/24   256         1            255\n\
         Block      10.1.0.0/29   8           1            7          docker-1"
    );
    let one = daemon.does(&["ipam", "show", "--ip", "10.1.0.1"], "");
    assert_eq!(
        one,
        format!(
            "10.1.0.1 is in use, of block 10.1.0.0/29\nhandle: h1\nnode: docker-1\nused by: WorkloadEndpoint {ENDPOINT} on node docker-1"
        )
    );
    assert_eq!(daemon.does(&["ipam", "show", "--ip", "10.1.0.2"], ""), "10.1.0.2 is not assigned");
    assert!(daemon.fails(1, &["delete", "ippool", "a"], "").contains("1 of its addresses are in use"));
    daemon.fails(64, &["ipam", "show", "--ip", "10.1.0"], "");
}

#[test]
fn a_trace_names_the_rule_that_decides() {
    let daemon = Daemon::with_endpoints();
    let trace = |flow: &str| daemon.does(&["policy", "trace", "aaaabbbb", "10.1.0.1", flow], "");
    assert_eq!(
        trace("tcp/80"),
        format!(
            "deny 10.1.0.2 -> 10.1.0.1\n  egress: allow by Profile shop egress rule 1\n    endpoint libnetwork/{OTHER} on node docker-1\n  ingress: deny by no profile allowed it\n    endpoint libnetwork/{ENDPOINT} on node docker-1"
        )
    );
    daemon.does(&["apply", "-f", "-"], POLICY);
    assert!(trace("tcp/80").starts_with("allow "), "{}", trace("tcp/80"));
    assert!(trace("tcp/80").contains("ingress: allow by GlobalNetworkPolicy shop-to-web ingress rule 1"));
    assert!(trace("tcp/81").contains("ingress: deny by the end of tier default"), "{}", trace("tcp/81"));
    let ping = daemon.does(&["policy", "trace", "cali736ccfa7cd6", "192.0.2.7"], "");
    assert!(ping.contains("192.0.2.7 is no endpoint"), "{ping}");
}

#[test]
fn an_explanation_tells_labels_policies_rules_and_profiles() {
    let daemon = Daemon::with_endpoints();
    daemon.does(&["apply", "-f", "-"], POLICY);
    let text = daemon.does(&["policy", "explain", "736ccfa7"], "");
    for part in [
        "interface cali736ccfa7cd6\n",
        "  net = 'web'  (from Profile web)\n",
        "  role = 'web'\n",
        "ingress\n  tier default, order 1000000\n    GlobalNetworkPolicy shop-to-web, order 10\n      1. Allow TCP from selector role == 'shop' to ports 80\n    what no policy of the tier decides: Deny",
        "egress\n    Profile web\n      1. Allow\n  what no profile allows: Deny\n",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

/// A tier that denies what its policies do not decide ends an explanation only if none of their rules passes.
#[test]
fn an_explanation_goes_on_behind_a_tier_with_pass_rules() {
    let daemon = Daemon::with_endpoints();
    let tier =
        "kind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: sec}\nspec: {order: 500}\n---\n";
    let policy = |egress: &str| {
        format!(
            "{tier}kind: GlobalNetworkPolicy\napiVersion: projectcalico.org/v3\nmetadata: {{name: sec.pass}}\nspec: {{tier: sec, ingress: [{{action: Pass}}], egress: [{{action: {egress}}}]}}\n"
        )
    };
    daemon.does(&["apply", "-f", "-"], &policy("Pass"));
    let sec = "  tier sec, order 500\n    GlobalNetworkPolicy sec.pass, last\n      1. Pass\n    what no policy of the tier decides: Deny\n    what a Pass rule of the tier takes: to what follows\n";
    let profile = "    Profile web\n      1. Allow";
    let text = daemon.does(&["policy", "explain", "736ccfa7"], "");
    for direction in ["egress", "ingress"] {
        assert!(text.contains(&format!("{direction}\n{sec}{profile}")), "{direction} is missing in\n{text}");
    }
    daemon.does(&["apply", "-f", "-"], &policy("Allow"));
    let text = daemon.does(&["policy", "explain", "736ccfa7"], "");
    assert!(
        text.contains("      1. Allow\n    what no policy of the tier decides: Deny\ningress\n"),
        "{text}"
    );
    assert!(text.contains(&format!("ingress\n{sec}{profile}")), "{text}");

    let default = POLICY.replace("shop-to-web", "default.shop");
    daemon.does(&["apply", "-f", "-"], &default);
    let text = daemon.does(&["policy", "explain", "736ccfa7"], "");
    assert!(text.contains(&format!("ingress\n{sec}  tier default, order 1000000\n")), "{text}");
}

#[test]
fn metrics_are_printed_as_the_daemon_writes_them() {
    assert_eq!(Daemon::start().does(&["metrics"], ""), "a_figure 7");
}

#[test]
fn wrong_arguments_end_with_64_and_a_sentence() {
    let daemon = Daemon::start();
    for (arguments, part) in [
        (&["get", "pods"][..], "is no kind of resource"),
        (&["get", "gnp", "-n", "x"], "has no namespaces"),
        (&["delete", "gnp"], ""),
        (&["apply"], "--filename"),
        (&["policy", "trace", "a", "b", "tcp"], "needs a port"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let complaint = daemon.fails(64, arguments, "");
        assert!(complaint.contains(part), "{arguments:?}: {complaint}");
    }
    assert!(daemon.fails(1, &["apply", "-f", "/nonexistent"], "").starts_with("read /nonexistent: "));
}

#[test]
fn without_a_daemon_the_sentence_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let done = run(dir.path(), &[], &["get", "gnp"], "");
    let complaint = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(complaint.contains("there is no such socket; does the plugin run?"), "{complaint}");
}

#[test]
fn the_socket_serves_only_what_is_calicos_and_guarded() {
    let daemon = Daemon::start();
    let path = socket(daemon.dir.path());
    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap()) & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = AdminStore::new(AdminClient::new(&path));
        assert!(store.get("/libnetwork/v1/network/x").await.is_err());
        assert!(store.list("/").await.is_err());
        let bare = store.commit(Txn::new().put("/calico/a", "x")).await;
        assert!(matches!(bare, Err(StoreError::Invalid { .. })), "{bare:?}");
        let revision = store.commit(Txn::new().create("/calico/a", "x")).await.unwrap();
        let read = store.get("/calico/a").await.unwrap().unwrap();
        assert_eq!((&read.value[..], read.revision), (&b"x"[..], revision));
        let twice = store.commit(Txn::new().create("/calico/a", "y")).await.unwrap_err();
        assert!(twice.is_conflict(), "{twice}");
        assert_eq!(store.get("/calico/none").await.unwrap(), None);
    });
}
