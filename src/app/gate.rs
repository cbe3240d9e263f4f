//! Calls wait here until the drivers are there, for less than their deadline: then they fail with what is missing.

use crate::driver::{self, Drivers};
use crate::protocol::{Request, Response};
use crate::server::Handler;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// So much less than the deadline do calls wait, so that the answer is the gate's and not the server's.
const MARGIN: Duration = Duration::from_millis(300);

#[derive(Debug, Clone)]
enum State {
    Starting(String),
    Ready(Arc<Drivers>),
}

/// The handler of the sockets.
#[derive(Debug)]
pub(super) struct Gate {
    options: driver::Options,
    wait: Duration,
    state: watch::Receiver<State>,
}

/// Opens a gate.
#[derive(Debug)]
pub(super) struct GateKey(watch::Sender<State>);

impl Gate {
    /// A closed gate and its key.
    pub(super) fn new(options: driver::Options, deadline: Duration) -> (Self, GateKey) {
        let (sender, state) = watch::channel(State::Starting("it has just been started".to_owned()));
        (Self { options, wait: deadline.saturating_sub(MARGIN), state }, GateKey(sender))
    }

    async fn drivers(&self) -> Result<Arc<Drivers>, String> {
        let mut state = self.state.clone();
        let ready = state.wait_for(|state| matches!(state, State::Ready(_)));
        let found = match tokio::time::timeout(self.wait, ready).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => self.state.borrow().clone(),
        };
        match found {
            State::Ready(drivers) => Ok(drivers),
            State::Starting(obstacle) => Err(format!("the plugin is not ready yet: {obstacle}")),
        }
    }
}

impl GateKey {
    /// Says what the start waits for.
    pub(super) fn waits_for(&self, obstacle: String) {
        self.0.send_replace(State::Starting(obstacle));
    }

    /// Lets the calls through.
    pub(super) fn open(&self, drivers: Arc<Drivers>) {
        self.0.send_replace(State::Ready(drivers));
    }
}

impl Handler for Gate {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Response, String>> {
        async move {
            // dockerd asks for capabilities while it waits for the plugin to come up.
            if let Some(answer) = driver::answer_at_once(&self.options, &request) {
                return Ok(answer);
            }
            self.drivers().await?.handle(request).await.map_err(|error| error.to_string())
        }
        .boxed()
    }
}
