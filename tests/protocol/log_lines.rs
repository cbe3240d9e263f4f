//! One line a request, with whom it concerned.

use crate::client::{Running, until};
use crate::handler::{Act, Scripted};
use calico_libnetwork::logging;
use calico_libnetwork::protocol::Request;
use calico_libnetwork::server::Options;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

#[derive(Debug, Clone)]
struct Line {
    level: Level,
    text: String,
    fields: BTreeMap<String, String>,
    request: Option<u64>,
}

#[derive(Default)]
struct Capture(Mutex<Vec<Line>>);

struct Collect(BTreeMap<String, String>);

impl<'kvs> VisitSource<'kvs> for Collect {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

impl Log for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut fields = Collect(BTreeMap::new());
        record.key_values().visit(&mut fields).unwrap();
        self.0.lock().unwrap().push(Line {
            level: record.level(),
            text: record.args().to_string(),
            fields: fields.0,
            request: logging::request(),
        });
    }

    fn flush(&self) {}
}

/// All lines of the process; other tests log, too, so look for an ID of your own.
fn lines() -> &'static Capture {
    static CAPTURE: OnceLock<&'static Capture> = OnceLock::new();
    CAPTURE.get_or_init(|| {
        let capture: &'static Capture = Box::leak(Box::default());
        log::set_logger(capture).unwrap();
        log::set_max_level(LevelFilter::Info);
        capture
    })
}

fn lines_of(network: &str) -> Vec<Line> {
    let all = lines().0.lock().unwrap();
    let ours = all.iter().filter(|line| line.fields.get("network").is_some_and(|id| id == network));
    ours.cloned().collect()
}

const ENDPOINT: &str = "2c0eb37d48dc382b857c83066285e2ffe3c28380dfb5c08d05ca1d02645039c2";

fn body(network: &str) -> String {
    format!(r#"{{"NetworkID":"{network}0123456789","EndpointID":"{ENDPOINT}"}}"#)
}

#[tokio::test]
async fn a_finished_call_writes_one_line_with_short_ids_and_its_number() {
    lines();
    let server = Running::start(Options::default(), &Scripted::prompt());
    assert!(server.post("/NetworkDriver.Join", &body("a10000000000")).await.is_success());
    server.stop().await;
    let [line] = lines_of("a10000000000").try_into().unwrap();
    assert_eq!(line.level, Level::Info);
    assert_eq!(line.text, "Join done");
    assert_eq!(line.fields["endpoint"], &ENDPOINT[..12]);
    assert!(line.fields["ms"].parse::<f64>().unwrap() >= 0.0, "milliseconds, with tenths");
    assert_eq!(line.request, Some(1));
    assert!(!line.fields.contains_key("err"));
}

#[tokio::test]
async fn a_failed_call_writes_one_warning_with_its_sentence_once() {
    lines();
    let handler = Scripted::new(|_| Act::Fail("no free address in pool web"));
    let server = Running::start(Options::default(), &handler);
    server.post("/NetworkDriver.Join", &body("a20000000000")).await.error();
    server.stop().await;
    let [line] = lines_of("a20000000000").try_into().unwrap();
    assert_eq!(line.level, Level::Warn);
    assert_eq!(line.text, "Join failed");
    assert_eq!(line.fields["err"], "no free address in pool web");
}

#[tokio::test]
async fn a_panic_writes_one_error_with_its_text() {
    lines();
    let handler = Scripted::new(|_| Act::PanicAtOnce);
    let server = Running::start(Options::default(), &handler);
    let answer = server.post("/NetworkDriver.Leave", &body("a30000000000")).await;
    assert!(!answer.error().contains("the script says so"), "what a panic says is not for users");
    server.stop().await;
    let [line] = lines_of("a30000000000").try_into().unwrap();
    assert_eq!(line.level, Level::Error);
    assert_eq!(line.fields["err"], "the script says so");
}

#[tokio::test]
async fn a_call_that_ends_after_its_deadline_is_marked_late() {
    lines();
    let handler = Scripted::new(|call| match call {
        Request::Join(_) => Act::After(Duration::from_millis(300)),
        _ => Act::Answer,
    });
    let options = Options { deadline: Duration::from_millis(100), ..Options::default() };
    let server = Running::start(options, &handler);
    server.post("/NetworkDriver.Join", &body("a40000000000")).await.error();
    until(|| !lines_of("a40000000000").is_empty()).await;
    server.stop().await;
    let [line] = lines_of("a40000000000").try_into().unwrap();
    assert_eq!(line.text, "Join done");
    assert_eq!(line.fields["late"], "true");
}
