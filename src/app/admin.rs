//! The administrator's socket: bound at the start, answering as soon as the parts are there.

use crate::admin::{AdminParts, AdminServer};
use crate::config::Config;
use crate::task::Supervisor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Serves the administrator's socket; the sender gives it the parts. Containers need no administrator: a socket that
/// cannot be bound is logged, and the daemon goes on without it.
pub(super) fn spawn(
    supervisor: &mut Supervisor,
    config: &Config,
    shutdown: &CancellationToken,
) -> watch::Sender<Option<AdminParts>> {
    let (sender, parts) = watch::channel(None);
    match AdminServer::bind(&config.places.admin_socket()) {
        Ok(server) => supervisor.spawn("admin", server.serve(parts, shutdown.clone())),
        Err(error) => log::warn!("the commands of the administrator cannot be served: {error}"),
    }
    sender
}
