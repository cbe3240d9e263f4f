//! Bind, stop, and who owns the socket's file.

use crate::client::{Client, Running, post, until, within};
use crate::handler::{Act, Scripted};
use calico_libnetwork::server::{Options, Server, ServerError};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const LEAVE: &str = r#"{"NetworkID":"n1","EndpointID":"e1"}"#;
const LEAVE_PATH: &str = "/NetworkDriver.Leave";

#[tokio::test]
async fn who_connects_before_there_is_a_handler_is_served_when_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calico.sock");
    let mut server = Server::new(Options::default());
    server.bind(&path).unwrap();
    let mut client = Client::connect(&path).await;
    client.send(post(LEAVE_PATH, LEAVE)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(server.serve(Scripted::prompt(), shutdown.clone()));
    assert!(client.answer().await.is_success());
    shutdown.cancel();
    within(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn several_sockets_are_served_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["calico.sock", "calico-ipam.sock", "managed/p.sock"].map(|name| dir.path().join(name));
    let mut server = Server::new(Options::default());
    for path in &paths {
        server.bind(path).unwrap();
    }
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(server.serve(Scripted::prompt(), shutdown.clone()));
    for path in &paths {
        assert!(Client::connect(path).await.post(LEAVE_PATH, LEAVE).await.is_success());
    }
    shutdown.cancel();
    within(served).await.unwrap().unwrap();
    assert!(paths.iter().all(|path| !path.exists()));
}

#[tokio::test]
async fn a_socket_file_that_nobody_listens_on_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calico.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut server = Server::new(Options::default());
    server.bind(&path).unwrap();
    Client::connect(&path).await;
}

#[tokio::test]
async fn a_socket_that_a_process_listens_on_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calico.sock");
    let live = UnixListener::bind(&path).unwrap();
    let error = Server::new(Options::default()).bind(&path).unwrap_err();
    assert!(matches!(error, ServerError::Busy(_)), "{error}");
    assert!(error.to_string().contains("another process listens on it"));
    Client::connect(&path).await;
    drop(live);
}

#[tokio::test]
async fn a_server_that_is_never_served_removes_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calico.sock");
    let mut server = Server::new(Options::default());
    server.bind(&path).unwrap();
    assert!(path.exists());
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn an_idle_server_stops_at_once_and_closes_idle_connections() {
    let server = Running::start(Options::default(), &Scripted::prompt());
    let mut fresh = server.connect().await;
    let mut used = server.connect().await;
    assert!(used.post(LEAVE_PATH, LEAVE).await.is_success());
    let path = server.path.clone();
    let stopped = server.stop().await;
    assert!(stopped < Duration::from_secs(1), "{stopped:?}");
    assert!(!path.exists());
    assert!(fresh.until_closed().await.is_empty());
    assert!(used.until_closed().await.is_empty());
}

#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_server_ends() {
    let told = Arc::new(Notify::new());
    let waits = Arc::clone(&told);
    let handler = Scripted::new(move |_| Act::When(Arc::clone(&waits)));
    let server = Running::start(Options::default(), &handler);
    let mut client = server.connect().await;
    client.send(post(LEAVE_PATH, LEAVE)).await;
    until(|| handler.seen().len() == 1).await;
    let path = server.path.clone();
    let stopping = tokio::spawn(server.stop());
    until(|| !path.exists()).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!stopping.is_finished());
    told.notify_one();
    assert!(client.answer().await.is_success());
    within(stopping).await.unwrap();
    assert!(client.until_closed().await.is_empty());
}

/// Nothing between the writing and the stop gives the server a chance to look.
#[tokio::test]
async fn a_request_written_just_before_the_stop_is_answered() {
    let handler = Scripted::prompt();
    let server = Running::start(Options::default(), &handler);
    let mut used = server.connect().await;
    assert!(used.post(LEAVE_PATH, LEAVE).await.is_success());
    let request = post(LEAVE_PATH, LEAVE);
    assert_eq!(used.0.try_write(request.as_bytes()).unwrap(), request.len());
    let mut fresh = std::os::unix::net::UnixStream::connect(&server.path).unwrap();
    fresh.write_all(request.as_bytes()).unwrap();
    server.shutdown.cancel();
    fresh.set_nonblocking(true).unwrap();
    let mut fresh = Client(UnixStream::from_std(fresh).unwrap());
    assert!(used.answer().await.is_success());
    assert!(fresh.answer().await.is_success());
    server.stop().await;
    assert_eq!(handler.seen().len(), 3);
}

#[tokio::test]
async fn a_server_without_sockets_serves_until_it_is_stopped() {
    let shutdown = CancellationToken::new();
    let server = Server::new(Options::default());
    let served = tokio::spawn(server.serve(Scripted::prompt(), shutdown.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!served.is_finished());
    shutdown.cancel();
    within(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_was_answered_at_its_deadline_is_waited_for() {
    let handler = Scripted::new(|_| Act::After(Duration::from_millis(600)));
    let options = Options { deadline: Duration::from_millis(100), ..Options::default() };
    let server = Running::start(options, &handler);
    server.post(LEAVE_PATH, LEAVE).await.error();
    assert_eq!(handler.ended(), 0);
    server.stop().await;
    assert_eq!(handler.ended(), 1);
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_off_after_the_drain_time() {
    let handler = Scripted::new(|_| Act::When(Arc::new(Notify::new())));
    let options = Options { drain: Duration::from_millis(200), ..Options::default() };
    let server = Running::start(options, &handler);
    let mut client = server.connect().await;
    client.send(post(LEAVE_PATH, LEAVE)).await;
    until(|| handler.seen().len() == 1).await;
    let stopped = server.stop().await;
    assert!(stopped >= Duration::from_millis(200) && stopped < Duration::from_secs(5), "{stopped:?}");
    assert!(client.answer().await.error().contains("cut off"));
    assert!(client.until_closed().await.is_empty());
    assert_eq!(handler.ended(), 0);
}

#[tokio::test]
async fn dropping_the_serving_future_stops_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calico.sock");
    let mut server = Server::new(Options::default());
    server.bind(&path).unwrap();
    let handler = Scripted::new(|_| Act::When(Arc::new(Notify::new())));
    let served = tokio::spawn(server.serve(handler.clone(), CancellationToken::new()));
    let mut client = Client::connect(&path).await;
    client.send(post(LEAVE_PATH, LEAVE)).await;
    until(|| handler.seen().len() == 1).await;
    served.abort();
    client.until_closed().await;
    until(|| !path.exists()).await;
    until(|| Arc::strong_count(&handler) == 1).await;
}
