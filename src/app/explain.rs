//! A managed plugin whose settings cannot be used, or whose host has no name for a node, stays up and says so in answer to
//! every call. Ending would make the engine start it again and again for 12 s and then report a missing socket, with the
//! reason nowhere but in its log.

use super::AppError;
use crate::driver::{Scopes, answer_at_once};
use crate::protocol::{Request, Response};
use crate::server::{self, Handler, Server};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Explainer {
    sentence: String,
}

impl Handler for Explainer {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Response, String>> {
        // Whatever the settings are to be, these calls only let the engine register the plugin.
        let scopes = Scopes { network: "local", connectivity: "global" };
        let answer = answer_at_once(scopes, &request).ok_or_else(|| self.sentence.clone());
        async move { answer }.boxed()
    }
}

/// Serves the managed plugin's socket until SIGTERM and answers calls with what is wrong.
pub async fn explain(socket: &Path, error: &dyn std::error::Error) -> Result<(), AppError> {
    let mut server = Server::new(server::Options::default());
    server.bind(socket).map_err(AppError::Sockets)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let stop = CancellationToken::new();
    let sentence = format!("{error}\ncorrect them with `docker plugin set` while the plugin is disabled");
    let serving = server.serve(Arc::new(Explainer { sentence }), stop.clone());
    let (served, _) = futures::future::join(serving, async {
        terminate.recv().await;
        stop.cancel();
    })
    .await;
    served.map_err(AppError::Sockets)
}
