//! The page over HTTP.

use super::MetricsPage;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Where the page is.
pub const METRICS_PATH: &str = "/metrics";
/// Readers at the same time: a collector or two, and a person.
const CONNECTIONS: usize = 4;
/// Longest that a reader may take for a request and its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, as it does when file descriptors run out.
const PAUSE: Duration = Duration::from_millis(200);

/// The page as an answer.
pub async fn metrics_reply(page: &MetricsPage) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::from(page.text().await));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}

/// Serves the page until `shutdown`. Whoever reaches the address may read.
pub async fn serve_metrics(
    listener: TcpListener,
    page: MetricsPage,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let accept = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let page = page.clone();
                    let task = async move {
                        // Who takes longer is cut off.
                        let _ = tokio::time::timeout(PATIENCE, converse(stream, &page)).await;
                        drop(slot);
                    };
                    tokio::spawn(shutdown.clone().run_until_cancelled_owned(task));
                }
                Err(error) => {
                    log::warn!("accept a reader of metrics: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accept).await;
    Ok(())
}

async fn converse(stream: TcpStream, page: &MetricsPage) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, page).await) });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        log::debug!("a reader of metrics went away: {error}");
    }
}

async fn answer(request: &Request<Incoming>, page: &MetricsPage) -> Response<Full<Bytes>> {
    if request.method() == Method::GET && request.uri().path() == METRICS_PATH {
        return metrics_reply(page).await;
    }
    let mut reply = Response::new(Full::from(format!("only GET {METRICS_PATH} is served\n")));
    *reply.status_mut() = StatusCode::NOT_FOUND;
    reply
}
