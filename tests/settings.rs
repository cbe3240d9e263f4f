//! The settings as declared, as the README shows them and as `config.json` hands them to the engine are the same; and
//! the manifest asks for what the code needs and no more. `UPDATE_GOLDEN=1` writes both anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy only knows functions marked as tests"
)]

use calico_libnetwork::config::{Config, SETTINGS, Setting, settings_table};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const OPEN: &str = "<!-- settings -->\n";
const CLOSE: &str = "<!-- /settings -->";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
}

/// Compares a file with what it should be; `UPDATE_GOLDEN=1` makes it so.
#[track_caller]
fn golden(name: &str, wanted: &str) {
    let actual = read(name);
    if actual == wanted {
        return;
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        return std::fs::write(path(name), wanted).unwrap();
    }
    let differs = actual.lines().zip(wanted.lines()).position(|(have, want)| have != want);
    let line = differs.unwrap_or_else(|| actual.lines().count().min(wanted.lines().count()));
    panic!(
        "{name} is not what the settings make of it, from line {} on:\n  is        {:?}\n  should be {:?}\nUPDATE_GOLDEN=1 \
         cargo test --test settings writes it",
        line + 1,
        actual.lines().nth(line),
        wanted.lines().nth(line)
    );
}

/// What stands between two marks replaced.
fn spliced(text: &str, open: &str, close: &str, inside: &str) -> String {
    let (before, rest) = text.split_once(open).unwrap_or_else(|| panic!("{open:?} is missing"));
    let (_, after) = rest.split_once(close).unwrap_or_else(|| panic!("{close:?} is missing after {open:?}"));
    format!("{before}{open}{inside}{close}{after}")
}

fn manifest() -> Value {
    serde_json::from_str(&read("config.json")).unwrap()
}

/// What the manifest declares for each setting: name, description, value, and whether users can change it. After a setting
/// comes the name that Calico's own clients have for it.
fn declared() -> Vec<(String, String, &'static str, bool)> {
    let of = |setting: &Setting| {
        let value = setting.managed.unwrap_or(setting.default);
        let own = (setting.name.to_owned(), setting.help.to_owned(), value, setting.settable);
        let twin = |name| (name, format!("Same as {}, before it", setting.name), "", true);
        std::iter::once(own).chain(setting.twin().map(twin))
    };
    SETTINGS.iter().flat_map(of).collect()
}

#[test]
fn the_readme_shows_the_settings_as_they_are() {
    let readme = read("README.md");
    golden("README.md", &spliced(&readme, OPEN, CLOSE, &settings_table()));
}

#[test]
fn the_manifest_has_the_settings_as_they_are() {
    let text = |value: &str| serde_json::to_string(value).unwrap();
    let entry = |(name, help, value, settable): &(String, String, &str, bool)| {
        let settable = if *settable { "      \"settable\": [\"value\"],\n" } else { "" };
        format!(
            "    {{\n      \"name\": {},\n      \"description\": {},\n{settable}      \"value\": {}\n    }}",
            text(name),
            text(help),
            text(value)
        )
    };
    let entries: Vec<String> = declared().iter().map(entry).collect();
    let config = read("config.json");
    golden("config.json", &spliced(&config, "  \"env\": [\n", "\n  ]", &entries.join(",\n")));
}

#[test]
fn the_manifests_environment_reads_as_the_settings_say() {
    let manifest = manifest();
    let env = manifest["env"].as_array().unwrap();
    let declared = declared();
    assert_eq!(env.len(), declared.len());
    for (entry, (name, help, value, settable)) in env.iter().zip(&declared) {
        assert_eq!(entry["name"], *name);
        assert_eq!(entry["value"], *value, "{name}");
        assert_eq!(entry["description"], *help, "{name}");
        let settable = if *settable { json!(["value"]) } else { Value::Null };
        assert_eq!(entry["settable"], settable, "{name}");
    }
}

#[test]
fn the_manifest_lets_users_set_the_names_that_calicos_clients_read() {
    let twins: Vec<String> = SETTINGS.iter().filter_map(Setting::twin).collect();
    for name in [
        "CALICO_DATASTORE_TYPE",
        "CALICO_ETCD_ENDPOINTS",
        "CALICO_ETCD_CA_CERT_FILE",
        "CALICO_ETCD_AUTHORITY",
    ] {
        assert!(twins.iter().any(|twin| twin == name), "{name}: {twins:?}");
    }
}

/// What an installed plugin gets from the engine.
fn as_managed_plugin() -> Config {
    let env = manifest()["env"].clone();
    let pair = |entry: &Value| {
        (entry["name"].as_str().unwrap().to_owned(), entry["value"].as_str().unwrap().to_owned())
    };
    let strings: BTreeMap<String, String> = env.as_array().unwrap().iter().map(pair).collect();
    Config::read(&strings).unwrap()
}

#[test]
fn the_plugin_starts_with_the_manifests_settings_and_behaves_as_a_plain_daemon() {
    let managed = as_managed_plugin();
    let plain = Config::read(&BTreeMap::new()).unwrap();
    assert_ne!(managed.places, plain.places);
    assert_eq!(Config { places: plain.places.clone(), ..managed }, plain);
}

#[test]
fn places_are_fixed_and_everything_else_can_be_set() {
    let fixed: BTreeSet<&str> =
        SETTINGS.iter().filter(|setting| !setting.settable).map(|setting| setting.name).collect();
    let places = ["BIRD", "SOCKET", "HOST_RUN", "HOST_VAR_LIB", "SYSNET", "STATE_DIR"];
    let places: Vec<String> = places.iter().map(|place| format!("CALICO_LIBNETWORK_{place}")).collect();
    assert_eq!(fixed, places.iter().map(String::as_str).collect());
}

#[test]
fn the_manifest_starts_the_binary_on_the_socket_that_it_binds() {
    let manifest = manifest();
    assert_eq!(manifest["entrypoint"], json!(["/calico-libnetwork", "serve"]));
    assert_eq!(manifest["interface"]["types"], json!(["docker.networkdriver/1.0", "docker.ipamdriver/1.0"]));
    let socket = manifest["interface"]["socket"].as_str().unwrap();
    let bound = as_managed_plugin().places.socket.unwrap();
    assert_eq!(bound, Path::new("/run/docker/plugins").join(socket));
    assert!(
        read("contrib/calico-libnetwork.service")
            .contains("ExecStart=/usr/local/sbin/calico-libnetwork serve\n")
    );
}

#[test]
fn the_manifest_asks_for_one_capability_and_the_hosts_network_and_no_device() {
    let manifest = manifest();
    assert_eq!(manifest["linux"], json!({"capabilities": ["CAP_NET_ADMIN"]}));
    assert_eq!(manifest["network"], json!({"type": "host"}));
    for privilege in ["ipchost", "pidhost"] {
        assert_eq!(manifest[privilege], Value::Null, "{privilege}");
    }
}

/// An engine enables no plugin whose mount has a source that the host lacks.
#[test]
fn mounts_have_sources_on_every_host_and_hold_the_plugins_places() {
    let manifest = manifest();
    let places = as_managed_plugin().places;
    assert_eq!(manifest["propagatedMount"], places.state_dir.to_str().unwrap());
    // Namespaces of containers are mounts below /run that come and go.
    let expected: [(&str, &str, &Path, [&str; 2]); 3] = [
        ("run", "/run", &places.host_run, ["slave", "rw"]),
        ("sysnet", "/proc/sys/net", &places.sysnet, ["private", "rw"]),
        ("varlib", "/var/lib", &places.host_var_lib, ["private", "ro"]),
    ];
    let mounts = manifest["mounts"].as_array().unwrap();
    assert_eq!(mounts.len(), expected.len());
    for (mount, (name, source, destination, [propagation, mode])) in mounts.iter().zip(expected) {
        assert_eq!(mount["name"], name);
        assert_eq!(mount["source"], source);
        assert_eq!(mount["destination"], destination.to_str().unwrap());
        assert_eq!(mount["options"], json!(["bind", propagation, mode]));
        assert!(Path::new(source).is_dir(), "{source} is not on this host");
    }
    let assemble = read("rootfs-build/assemble.sh");
    for place in [places.host_run, places.host_var_lib, places.sysnet, places.state_dir] {
        let made = format!("$rootfs{}", place.display());
        assert!(assemble.contains(&made), "rootfs-build/assemble.sh does not make {made}");
    }
}

/// Targets of the Makefile with a line of help.
fn targets() -> BTreeSet<String> {
    let makefile = read("Makefile");
    let documented = makefile.lines().filter(|line| !line.starts_with('\t') && line.contains(" ## "));
    documented.filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn the_readme_names_the_targets_that_users_need_and_no_document_names_others() {
    let targets = targets();
    let readme = read("README.md");
    for needed in ["demo", "test", "setup", "plugin", "install", "uninstall", "bench", "help"] {
        assert!(targets.contains(needed), "the Makefile has no target {needed}");
        assert!(readme.contains(&format!("make {needed}")), "README.md does not mention make {needed}");
    }
    for document in ["README.md", "CONTRIBUTING.md", "docs/operations.md", "plugin/README.md"] {
        let text = read(document);
        let spans = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let indented = text.lines().filter_map(|line| line.strip_prefix("    "));
        for command in spans.chain(indented).filter_map(|code| code.trim().strip_prefix("make ")) {
            let target = command.split_whitespace().next().unwrap();
            assert!(targets.contains(target), "{document} names make {target}, which does not exist");
        }
    }
}

/// The messages in the trouble table stand in the code, word for word; `...` stands for what changes.
#[test]
fn the_trouble_table_quotes_messages_that_exist() {
    let readme = read("README.md");
    let table =
        readme.split_once("<!-- trouble -->").and_then(|(_, rest)| rest.split_once("<!-- /trouble -->"));
    let rows: Vec<&str> =
        table.expect("README.md has no trouble table").0.lines().filter(|l| l.starts_with("| `")).collect();
    assert!(rows.len() >= 10, "{rows:?}");
    let code = all_code();
    for row in rows {
        let message = row.split('`').nth(1).unwrap();
        for part in message.split("...").map(str::trim).filter(|part| !part.is_empty()) {
            assert!(code.contains(part), "no code says {part:?}, which README.md quotes in {message:?}");
        }
    }
}

/// All sources and scripts, with texts that span lines put together.
fn all_code() -> String {
    let mut code = String::new();
    let mut folders = vec![path("src"), path("tools")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut continued = false;
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let line = if continued { line.trim_start() } else { line };
                continued = line.ends_with('\\');
                code.push_str(line.strip_suffix('\\').unwrap_or(line));
                if !continued {
                    code.push('\n');
                }
            }
        }
    }
    code.replace("\\\"", "\"")
}
