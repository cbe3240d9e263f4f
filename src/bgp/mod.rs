//! BGP: announces this node's blocks to routers and to other hosts, and learns theirs, through BIRD.
//!
//! ```text
//! datastore -> feed -> World -> render -> bird.conf -> BIRD -> peers, kernel (protocol 12)
//!                                 ^ settings, sessions, filter      |
//!                        watched <- status <- control socket <------+
//! ```
//!
//! BIRD programs routes to pools without encapsulation; tunnels, and the blackholes of own blocks, are `routes`'.

mod bird;
mod control;
mod feed;
mod filter;
mod render;
mod reply;
mod session;
mod sessions;
mod settings;
mod status;
mod text;
mod watched;
mod worker;
mod world;

pub use bird::{BirdError, Places};
pub use control::ControlError;
pub use render::{Rendering, render};
pub use status::SessionStatus;
pub use worker::{Parts, Worker};
pub use world::World;

/// How all sessions of the BIRD stand that runs in these places.
///
/// # Errors
/// No BIRD runs there, or it does not answer.
pub async fn sessions(places: &Places) -> Result<Vec<SessionStatus>, ControlError> {
    control::Control::connect(&places.socket()).await?.sessions().await
}

/// Whether a BIRD has run in these places since the host was started, and its routes may be in the kernel.
#[must_use]
pub fn has_run(places: &Places) -> bool {
    places.has_run()
}

/// Takes away what a BIRD that is gone has left in these places, besides routes.
///
/// # Errors
/// What could not be removed.
pub async fn forget(places: &Places) -> Result<(), BirdError> {
    bird::forget(places).await
}

/// Takes all routes of a BIRD that ran in these places out of the kernel, and its file; does nothing where none ran.
///
/// # Errors
/// What could not be done.
pub async fn withdraw(places: &Places) -> Result<(), BirdError> {
    bird::withdraw(places).await
}
