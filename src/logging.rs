//! Log lines: one an event, on stdout, with `key=value` fields and the number of the request they belong to.
//!
//! ```text
//! INFO server Join done network=8ab3f1c09d12 endpoint=2c0eb37d48dc ms=7 req=12
//! ```
//!
//! stdout, because dockerd records a plugin's stderr as errors (moby `daemon/pkg/plugin/manager.go`); no time unless
//! asked for, because dockerd and journald put theirs. Keys come from one list: endpoint, network, pool, block, node,
//! iface, rev, ms, err, req. Values with spaces are quoted, and no line ever has a line break inside.
//!
//! Lines go through a bounded queue to a thread of their own: a reader that is slow, stopped or gone costs lines, and
//! the next line that gets through tells how many, but it never holds up a request.

use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use log::{LevelFilter, Record};
use std::fmt::Write as _;
use std::future::Future;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

/// Lines that wait for the reader: seconds of a busy daemon at level debug, less than 1 MiB.
const QUEUE: usize = 4096;

/// How long the last lines may take to get out when the daemon ends.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Prefix of our own log targets.
const CRATE: &str = "calico_libnetwork";

tokio::task_local! {
    static REQUEST: u64;
}

/// Runs `future` as part of a request: each line it logs carries `req=number`. Tasks that it spawns do not inherit it.
pub async fn with_request<F: Future>(number: u64, future: F) -> F::Output {
    REQUEST.scope(number, future).await
}

/// The number of the request that the current task works on.
#[must_use]
pub fn request() -> Option<u64> {
    REQUEST.try_with(|number| *number).ok()
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// Not a level.
    #[error("read log level {0:?}: off, error, warn, info, debug or trace expected")]
    Level(String),
    /// A logger is set already.
    #[error("set the logger: there is one already")]
    Twice(#[source] log::SetLoggerError),
    /// No thread.
    #[error("start the thread that writes log lines")]
    Thread(#[source] std::io::Error),
}

/// Keep it until the end of `main`: dropping it lets the last lines out.
#[derive(Debug)]
#[must_use = "dropping it at once may lose the last lines"]
pub struct Output {
    queue: SyncSender<Item>,
}

impl Output {
    /// Waits until all lines so far are written, for at most half a second; for exits that drop nothing.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        let step = Duration::from_millis(5);
        let mut left = LAST_LINES;
        while self.queue.try_send(Item::Flush(done.clone())).is_err() && !left.is_zero() {
            std::thread::sleep(step);
            left = left.saturating_sub(step);
        }
        // Nothing comes if the reader stands still: then the lines are lost, and the daemon ends all the same.
        drop(done);
        wait.recv_timeout(left).ok();
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts logging to stdout. `level` is of `off`, `error`, `warn`, `info`, `debug`, `trace` and counts for our own
/// lines; libraries speak from `warn` on, and at `trace` from `debug` on. `timestamps` puts UTC times in front.
///
/// # Errors
/// If `level` is none, or if the process has a logger already.
pub fn init(level: &str, timestamps: bool) -> Result<Output, LoggingError> {
    let level: LevelFilter = level.trim().parse().map_err(|_| LoggingError::Level(level.to_owned()))?;
    let libraries =
        if level == LevelFilter::Trace { LevelFilter::Debug } else { level.min(LevelFilter::Warn) };
    let (lines, output) = start_writer(std::io::stdout()).map_err(LoggingError::Thread)?;
    env_logger::Builder::new()
        .filter_level(libraries)
        .filter_module(CRATE, level)
        .target(env_logger::Target::Pipe(Box::new(lines)))
        .format(move |buffer, record| {
            let time = timestamps.then(SystemTime::now);
            buffer.write_all(render(record, time, request()).as_bytes())
        })
        .try_init()
        .map_err(LoggingError::Twice)?;
    Ok(output)
}

fn render(record: &Record<'_>, time: Option<SystemTime>, request: Option<u64>) -> String {
    let mut fields = Fields(String::new());
    if let Some(time) = time {
        fields.0.push_str(&format!("{} ", humantime::format_rfc3339_millis(time)));
    }
    let target = record.target();
    let target = target.strip_prefix(CRATE).map_or(target, |rest| rest.trim_start_matches(':'));
    let target = if target.is_empty() { "main" } else { target };
    fields.0.push_str(&format!("{} {target} ", record.level()));
    push_line(&mut fields.0, &record.args().to_string());
    // Neither writing to a string nor the visitor fails.
    let _ = record.key_values().visit(&mut fields);
    if let Some(request) = request {
        fields.push("req", &request.to_string());
    }
    fields.0.push('\n');
    fields.0
}

/// Appends text with its line breaks and other control characters escaped.
fn push_line(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

/// Appends ` key=value` for each field that has a value.
struct Fields(String);

impl Fields {
    fn push(&mut self, key: &str, value: &str) {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
        let quoted = value.is_empty() || !value.chars().all(plain);
        let _ = if quoted { write!(self.0, " {key}={value:?}") } else { write!(self.0, " {key}={value}") };
    }
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        value.visit(Field { fields: self, key: key.as_str() })
    }
}

struct Field<'a> {
    fields: &'a mut Fields,
    key: &'a str,
}

impl<'v> VisitValue<'v> for Field<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), Error> {
        self.fields.push(self.key, &value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// What waits for the writing thread.
#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The logger's end of the queue: takes a whole line at each write, waits for nobody.
#[derive(Debug)]
struct Lines {
    queue: SyncSender<Item>,
    lost: Arc<AtomicU64>,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if self.queue.try_send(Item::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn start_writer(to: impl Write + Send + 'static) -> std::io::Result<(Lines, Output)> {
    let (queue, items) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let lines = Lines { queue: queue.clone(), lost: Arc::clone(&lost) };
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(to, &items, &lost))?;
    Ok((lines, Output { queue }))
}

/// Writes until the logger is gone. A pipe that is closed takes no line and is no reason to end: it is the daemon's
/// stdout only, and Rust has the process ignore SIGPIPE.
fn write_all(mut to: impl Write, items: &Receiver<Item>, lost: &AtomicU64) {
    for item in items {
        match item {
            Item::Line(line) => {
                let lines = lost.swap(0, Ordering::Relaxed);
                if lines > 0 {
                    let _ = writeln!(
                        to,
                        "WARN logging log lines were lost, the reader is too slow lines={lines}"
                    );
                }
                let _ = to.write_all(&line).and_then(|()| to.flush());
            }
            Item::Flush(done) => {
                done.try_send(()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use log::kv::ToValue;
    use std::sync::Mutex;

    fn line(target: &str, text: &str, fields: &dyn log::kv::Source, request: Option<u64>) -> String {
        let args = format_args!("{text}");
        let mut record = Record::builder();
        record.level(Level::Info).target(target).key_values(&fields);
        render(&record.args(args).build(), None, request)
    }

    #[test]
    fn a_line_has_level_module_text_fields_and_request() {
        let fields = [("network", Value::from("8ab3f1c09d12")), ("ms", Value::from(7))];
        assert_eq!(
            line("calico_libnetwork::server", "Join done", &fields, Some(12)),
            "INFO server Join done network=8ab3f1c09d12 ms=7 req=12\n"
        );
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let fields = [("network", Value::null()), ("endpoint", None::<u64>.to_value())];
        assert_eq!(line("calico_libnetwork", "up", &fields, None), "INFO main up\n");
    }

    #[test]
    fn values_with_spaces_are_quoted_and_lines_are_never_broken() {
        let fields = [("err", Value::from("no \"free\"\naddress")), ("pool", Value::from(""))];
        assert_eq!(
            line("hyper::proto", "two\nlines\u{1b}[0m", &fields, None),
            "INFO hyper::proto two\\nlines\\u{1b}[0m err=\"no \\\"free\\\"\\naddress\" pool=\"\"\n"
        );
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let record = Record::builder().level(Level::Warn).target("calico_libnetwork::gc").build();
        assert_eq!(render(&record, Some(time), None), "1970-01-01T00:00:01.500Z WARN gc \n");
    }

    #[tokio::test]
    async fn the_request_is_known_deep_down_and_not_outside() {
        assert_eq!(request(), None);
        assert_eq!(with_request(3, async { request() }).await, Some(3));
    }

    #[test]
    fn a_word_that_is_no_level_is_an_error() {
        assert!(matches!(init("loud", false), Err(LoggingError::Level(_))));
    }

    /// A writer that waits until it is let go, then keeps what it gets.
    #[derive(Clone)]
    struct Gate {
        open: Arc<Mutex<()>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _open = self.open.lock().unwrap();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_not_time() {
        let gate = Gate { open: Arc::default(), written: Arc::default() };
        let (mut lines, output) = start_writer(gate.clone()).unwrap();
        let closed = gate.open.lock().unwrap();
        for _ in 0..QUEUE + 100 {
            lines.write_all(b"INFO a\n").unwrap();
        }
        drop(closed);
        output.flush();
        lines.write_all(b"INFO b\n").unwrap();
        output.flush();
        let written = String::from_utf8(gate.written.lock().unwrap().clone()).unwrap();
        let told: usize = written
            .lines()
            .filter_map(|line| line.split_once("lines=").map(|(_, lost)| lost.parse::<usize>().unwrap()))
            .sum();
        let through = written.lines().filter(|line| *line == "INFO a").count();
        assert_eq!(through + told, QUEUE + 100);
        assert!(told >= 99, "{told}");
        assert!(written.ends_with("INFO b\n"));
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_ends_nothing() {
        let (mut lines, output) = start_writer(Closed).unwrap();
        for _ in 0..10 {
            lines.write_all(b"INFO a\n").unwrap();
            output.flush();
        }
        assert_eq!(lines.lost.load(Ordering::Relaxed), 0);
    }
}
