//! Statements 1 to 11 of the conformance list, and what garbage does.

use crate::client::{Running, post, until, within};
use crate::handler::{Act, Scripted};
use crate::{WITH_ARGUMENTS, WITHOUT_ARGUMENTS};
use calico_libnetwork::protocol::Request;
use calico_libnetwork::server::Options;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

const LEAVE: &str = r#"{"NetworkID":"n1","EndpointID":"e1"}"#;
const LEAVE_PATH: &str = "/NetworkDriver.Leave";
const CAPABILITIES: &str = "/NetworkDriver.GetCapabilities";

/// Limits short enough for a test; deadlines that no test wants to meet stay long.
fn quick() -> Options {
    Options { read_timeout: Duration::from_millis(200), ..Options::default() }
}

fn prompt() -> (Arc<Scripted>, Running) {
    let handler = Scripted::prompt();
    let running = Running::start(quick(), &handler);
    (handler, running)
}

#[tokio::test]
async fn statement_1_empty_host_no_content_type_and_no_body_are_accepted() {
    let (_, server) = prompt();
    for path in WITHOUT_ARGUMENTS {
        let answer = server.post(path, "").await;
        assert!(answer.is_success(), "{path}: {answer:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn statement_2_connect_and_close_leaves_nothing_behind() {
    let handler = Scripted::prompt();
    let server = Running::start(Options { connections: 2, ..quick() }, &handler);
    for _ in 0..50 {
        drop(server.connect().await);
    }
    assert!(server.post(LEAVE_PATH, LEAVE).await.is_success());
    assert_eq!(handler.seen().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn statement_3_activate_names_both_interfaces_and_is_not_needed() {
    let (_, server) = prompt();
    assert!(server.post(LEAVE_PATH, LEAVE).await.is_success());
    let answer = server.post("/Plugin.Activate", "").await;
    assert_eq!(answer.body, serde_json::json!({"Implements": ["NetworkDriver", "IpamDriver"]}));
    server.stop().await;
}

#[tokio::test]
async fn statement_4_capabilities_are_answered_any_number_of_times() {
    let (_, server) = prompt();
    let mut client = server.connect().await;
    for path in ["/NetworkDriver.GetCapabilities", "/IpamDriver.GetCapabilities"] {
        let first = client.post(path, "").await;
        assert!(first.is_success());
        for _ in 0..20 {
            assert_eq!(client.post(path, "").await.body, first.body);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn statement_5_every_success_is_status_200_with_a_json_object() {
    let (handler, server) = prompt();
    let mut client = server.connect().await;
    for path in WITH_ARGUMENTS {
        let answer = client.post(path, "{}\n").await;
        assert!(answer.is_success(), "{path}: {answer:?}");
    }
    for path in WITHOUT_ARGUMENTS {
        assert!(client.post(path, "").await.is_success(), "{path}");
    }
    assert_eq!(handler.seen().len(), WITH_ARGUMENTS.len() + WITHOUT_ARGUMENTS.len());
    server.stop().await;
}

#[tokio::test]
async fn statement_6_only_unknown_paths_are_404_and_failures_set_both_keys() {
    let handler = Scripted::new(|_| Act::Fail("no free address in pool web"));
    let server = Running::start(quick(), &handler);
    let mut client = server.connect().await;
    for path in ["/", "/NetworkDriver.Teleport", "/networkdriver.join", "/NetworkDriver.Join/", "/_ping"] {
        let answer = client.post(path, LEAVE).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.sentence().contains("not a method"), "{answer:?}");
    }
    assert!(handler.seen().is_empty());
    for path in WITH_ARGUMENTS {
        assert_eq!(client.post(path, "{}").await.error(), "no free address in pool web", "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn statement_7_an_empty_body_is_an_error_and_reaches_nobody() {
    let (handler, server) = prompt();
    let mut client = server.connect().await;
    for path in WITH_ARGUMENTS {
        for body in ["", "\n", "  \r\n"] {
            let answer = client.post(path, body).await;
            assert!(answer.error().contains("without arguments"), "{path}: {answer:?}");
        }
    }
    assert!(handler.seen().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn statement_8_malformed_json_and_wrong_types_are_errors_and_reach_nobody() {
    let (handler, server) = prompt();
    let mut client = server.connect().await;
    let deep = format!(r#"{{"Options":{{"a":{}1{}}}}}"#, "[".repeat(5000), "]".repeat(5000));
    for path in WITH_ARGUMENTS {
        for body in ["{", "null", "[]", "7", r#""x""#, "{}{}", "\u{0}", r#"{"a":1"#] {
            client.post(path, body).await.error();
        }
    }
    for (path, body) in [
        ("/NetworkDriver.Leave", r#"{"NetworkID":7,"EndpointID":"e"}"#),
        ("/NetworkDriver.Leave", r#"{"NetworkID":["n"],"EndpointID":"e"}"#),
        ("/NetworkDriver.CreateNetwork", r#"{"NetworkID":"n","Options":[]}"#),
        ("/NetworkDriver.CreateNetwork", r#"{"NetworkID":"n","IPv4Data":{}}"#),
        ("/NetworkDriver.CreateNetwork", deep.as_str()),
        ("/NetworkDriver.CreateEndpoint", r#"{"Interface":"eth0"}"#),
        ("/IpamDriver.RequestPool", r#"{"V6":"yes"}"#),
        ("/IpamDriver.RequestAddress", r#"{"Address":1}"#),
        ("/NetworkDriver.DiscoverNew", r#"{"DiscoveryType":"node"}"#),
    ] {
        let answer = client.post(path, body).await;
        assert!(answer.error().contains("cannot be read"), "{path} {body}: {answer:?}");
    }
    assert!(handler.seen().is_empty());
    assert!(client.post(LEAVE_PATH, LEAVE).await.is_success());
    server.stop().await;
}

#[tokio::test]
async fn statement_8_null_options_and_unknown_keys_are_accepted() {
    let (handler, server) = prompt();
    let mut client = server.connect().await;
    for (path, body) in [
        (
            "/NetworkDriver.CreateNetwork",
            r#"{"NetworkID":"n","Options":null,"IPv4Data":null,"IPv6Data":null}"#,
        ),
        (
            "/NetworkDriver.AllocateNetwork",
            r#"{"NetworkID":"n","Options":null,"IPv4Data":[],"IPv6Data":null}"#,
        ),
        (
            "/NetworkDriver.CreateEndpoint",
            r#"{"NetworkID":"n","EndpointID":"e","Interface":null,"Options":null}"#,
        ),
        ("/NetworkDriver.Join", r#"{"NetworkID":"n","EndpointID":"e","SandboxKey":null,"Future":{"a":[1]}}"#),
        (
            "/NetworkDriver.ProgramExternalConnectivity",
            r#"{"NetworkID":"n","EndpointID":"e","Options":null}"#,
        ),
        ("/NetworkDriver.GwAllocCheck", r#"{"Options":null}"#),
        ("/IpamDriver.RequestPool", r#"{"Options":null,"V6":null,"Pool":null,"X":1}"#),
        ("/IpamDriver.RequestAddress", r#"{"PoolID":"p","Address":"","Options":null}"#),
        ("/NetworkDriver.DiscoverNew", r#"{"DiscoveryType":1,"DiscoveryData":null}"#),
    ] {
        assert!(client.post(path, body).await.is_success(), "{path} {body}");
    }
    assert_eq!(handler.seen().len(), 9);
    server.stop().await;
}

/// Ten minutes in conformance terms: here six times the time in which a request must be complete.
#[tokio::test]
async fn statement_9_an_idle_connection_stays_usable() {
    let (_, server) = prompt();
    let mut fresh = server.connect().await;
    let mut used = server.connect().await;
    assert!(used.post(LEAVE_PATH, LEAVE).await.is_success());
    let mut bodiless = server.connect().await;
    assert!(bodiless.post(CAPABILITIES, "").await.is_success());
    tokio::time::sleep(6 * quick().read_timeout).await;
    for client in [&mut fresh, &mut used, &mut bodiless] {
        assert!(client.post(LEAVE_PATH, LEAVE).await.is_success());
    }
    server.stop().await;
}

#[tokio::test]
async fn statement_9_a_call_longer_than_the_read_timeout_keeps_its_connection() {
    let handler = Scripted::new(|_| Act::After(3 * quick().read_timeout));
    let server = Running::start(quick(), &handler);
    let mut client = server.connect().await;
    for _ in 0..2 {
        assert!(client.post(LEAVE_PATH, LEAVE).await.is_success());
    }
    server.stop().await;
}

#[tokio::test]
async fn statement_10_fifty_requests_on_separate_connections_run_at_the_same_time() {
    let pause = Duration::from_millis(300);
    let handler = Scripted::new(move |_| Act::After(pause));
    let server = Running::start(quick(), &handler);
    let started = Instant::now();
    let posts = (0..50).map(|n| {
        let (server, body) = (&server, format!(r#"{{"NetworkID":"n","EndpointID":"e{n}"}}"#));
        async move { server.post(LEAVE_PATH, &body).await }
    });
    let answers = within(futures::future::join_all(posts)).await;
    assert!(answers.iter().all(crate::client::Answer::is_success));
    assert!(started.elapsed() < 50 * pause / 3, "one after the other: {:?}", started.elapsed());
    assert_eq!(handler.ended(), 50);
    server.stop().await;
}

#[tokio::test]
async fn statement_10_a_slow_call_is_answered_at_its_deadline_and_runs_to_its_end() {
    let told = Arc::new(Notify::new());
    let waits = Arc::clone(&told);
    let handler = Scripted::new(move |call| match call {
        Request::Join(_) => Act::When(Arc::clone(&waits)),
        _ => Act::Answer,
    });
    let options = Options { deadline: Duration::from_millis(200), ..quick() };
    let server = Running::start(options, &handler);
    let mut client = server.connect().await;
    let answer = client.post("/NetworkDriver.Join", LEAVE).await;
    assert!(answer.error().starts_with("Join is not done after 200ms"), "{answer:?}");
    assert_eq!(handler.ended(), 0);
    assert!(client.post(LEAVE_PATH, LEAVE).await.is_success(), "the connection goes on");
    told.notify_one();
    until(|| handler.ended() == 2).await;
    server.stop().await;
}

/// The restart is an own server in this process: what counts is that the path answers again.
#[tokio::test]
async fn statement_11_the_same_request_succeeds_after_a_restart() {
    let handler = Scripted::new(|_| Act::When(Arc::new(Notify::new())));
    let first = Running::start(Options { drain: Duration::ZERO, ..quick() }, &handler);
    let mut client = first.connect().await;
    client.send(post(LEAVE_PATH, LEAVE)).await;
    until(|| handler.seen().len() == 1).await;
    let second = first.restart(quick(), &Scripted::prompt()).await;
    client.until_closed().await;
    assert!(second.post(LEAVE_PATH, LEAVE).await.is_success());
    second.stop().await;
}

#[tokio::test]
async fn other_verbs_than_post_are_errors_and_reach_nobody() {
    let (handler, server) = prompt();
    let mut client = server.connect().await;
    for verb in ["GET", "PUT", "DELETE", "PATCH"] {
        client.send(format!("{verb} {LEAVE_PATH} HTTP/1.1\r\nHost:\r\nContent-Length: 2\r\n\r\n{{}}")).await;
        assert!(client.answer().await.error().contains("called with POST"));
    }
    client.send("GET /status HTTP/1.1\r\nHost:\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 404);
    assert!(handler.seen().is_empty());
    server.stop().await;
}

/// `nc -U` closes its writing half after the request and waits for the answer.
#[tokio::test]
async fn a_client_that_closes_its_writing_half_gets_its_answer() {
    let handler = Scripted::new(|_| Act::After(Duration::from_millis(100)));
    let server = Running::start(quick(), &handler);
    let mut client = server.connect().await;
    client.send(post(LEAVE_PATH, LEAVE)).await;
    client.0.shutdown().await.unwrap();
    assert!(client.answer().await.is_success());
    assert!(client.until_closed().await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn garbage_on_one_connection_harms_no_other() {
    let (handler, server) = prompt();
    let mut good = server.connect().await;
    assert!(good.post(LEAVE_PATH, LEAVE).await.is_success());
    let long = format!("POST /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000));
    let headers = format!("POST / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
    let tls: &[u8] = &[0x16, 3, 1, 0, 0xa5, 1, 0, 0, 0xa1, 3, 3, 0x0d, 0x0a, 0x0d, 0x0a];
    for garbage in [
        b"\0\0\0\0\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /NetworkDriver.Leave HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /NetworkDriver.Leave HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        long.as_bytes(),
        headers.as_bytes(),
        tls,
    ] {
        let mut bad = server.connect().await;
        // The server may close before it has taken all of it.
        let _ = bad.0.write_all(garbage).await;
        let _ = bad.0.shutdown().await;
        bad.until_closed().await;
    }
    assert!(good.post(LEAVE_PATH, LEAVE).await.is_success());
    assert!(server.post(LEAVE_PATH, LEAVE).await.is_success());
    assert_eq!(handler.seen().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn half_a_head_and_then_silence_is_closed_in_time() {
    let handler = Scripted::prompt();
    let server = Running::start(Options { connections: 1, ..quick() }, &handler);
    let mut client = server.connect().await;
    client.send("POST /NetworkDriver.Leave HT").await;
    client.until_closed().await;
    assert!(server.post(LEAVE_PATH, LEAVE).await.is_success(), "its slot is free again");
    let mut late = server.connect().await;
    assert!(late.post(LEAVE_PATH, LEAVE).await.is_success());
    late.send("POST /NetworkDriver.Leave HT").await;
    late.until_closed().await;
    server.stop().await;
}

#[tokio::test]
async fn a_head_in_pieces_is_served() {
    let server = Running::start(Options::default(), &Scripted::prompt());
    let mut client = server.connect().await;
    for piece in post(LEAVE_PATH, LEAVE).as_bytes().chunks(40) {
        client.send(piece).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(client.answer().await.is_success());
    server.stop().await;
}

#[tokio::test]
async fn half_a_body_and_then_silence_is_answered_with_an_error() {
    let (handler, server) = prompt();
    let mut client = server.connect().await;
    let whole = post(LEAVE_PATH, LEAVE);
    client.send(&whole[..whole.len() - 5]).await;
    assert!(client.answer().await.error().contains("did not come within"));
    assert!(handler.seen().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_huge_body_is_answered_with_an_error() {
    let handler = Scripted::prompt();
    let server = Running::start(Options::default(), &handler);
    let huge = format!(r#"{{"NetworkID":"{}"}}"#, "x".repeat(4 * 1024 * 1024));
    let mut client = server.connect().await;
    assert!(client.post(LEAVE_PATH, &huge).await.error().contains("larger than 1048576 bytes"));
    assert!(client.post(LEAVE_PATH, LEAVE).await.is_success(), "the connection goes on");
    assert_eq!(handler.seen().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_chunked_body_is_read() {
    let (handler, server) = prompt();
    let mut client = server.connect().await;
    client
        .send(format!(
            "POST {LEAVE_PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{LEAVE}\r\n0\r\n\r\n",
            LEAVE.len()
        ))
        .await;
    assert!(client.answer().await.is_success());
    assert_eq!(handler.seen().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_panic_is_answered_and_harms_no_other_call() {
    let handler = Scripted::new(|call| match call {
        Request::Join(_) => Act::PanicAtOnce,
        Request::CreateEndpoint(_) => Act::PanicLater,
        _ => Act::Answer,
    });
    let server = Running::start(quick(), &handler);
    let mut client = server.connect().await;
    for method in ["Join", "CreateEndpoint"] {
        let answer = client.post(&format!("/NetworkDriver.{method}"), LEAVE).await;
        assert!(answer.error().starts_with(&format!("{method} failed inside the plugin")), "{answer:?}");
    }
    assert!(client.post(LEAVE_PATH, LEAVE).await.is_success());
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_its_call() {
    let told = Arc::new(Notify::new());
    let waits = Arc::clone(&told);
    let handler = Scripted::new(move |_| Act::When(Arc::clone(&waits)));
    let server = Running::start(quick(), &handler);
    let mut client = server.connect().await;
    client.send(post(LEAVE_PATH, LEAVE)).await;
    until(|| handler.seen().len() == 1).await;
    drop(client);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(handler.ended(), 0);
    told.notify_one();
    until(|| handler.ended() == 1).await;
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_are_never_refused() {
    let handler = Scripted::prompt();
    let server = Running::start(Options { connections: 2, ..quick() }, &handler);
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    assert!(first.post(LEAVE_PATH, LEAVE).await.is_success());
    assert!(second.post(LEAVE_PATH, LEAVE).await.is_success());
    let mut third = server.connect().await;
    third.send(post(LEAVE_PATH, LEAVE)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(handler.seen().len(), 2);
    drop(first);
    assert!(third.answer().await.is_success());
    server.stop().await;
}
