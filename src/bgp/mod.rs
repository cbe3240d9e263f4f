//! BGP: announces this node's blocks to routers and to other hosts, and learns theirs, through BIRD.
//!
//! ```text
//! datastore -> feed -> World -> render -> bird.conf -> BIRD -> peers, kernel (protocol 12)
//!                                 ^ settings, sessions, filter      |
//!                        watched <- status <- control socket <------+
//! ```
//!
//! BIRD programs routes to pools without encapsulation; tunnels, and the blackholes of own blocks, are `routes`'. What lies
//! in `/run` says which routes are to go when BGP is switched off (`reach`, `withdraw`).

mod bird;
mod control;
mod feed;
mod filter;
mod leftover;
mod reach;
mod render;
mod rendering;
mod reply;
mod session;
mod sessions;
mod settings;
mod status;
mod text;
mod watched;
mod withdraw;
mod worker;
mod world;

pub use bird::{BirdError, Places};
pub use control::ControlError;
pub use reach::Reach;
pub use render::render;
pub use rendering::{Rendering, Setup};
pub use status::SessionStatus;
pub use withdraw::{WithdrawError, hand_over, withdraw};
pub use worker::{Parts, Worker};
pub use world::World;

/// How all sessions of the BIRD stand that runs in these places.
///
/// # Errors
/// No BIRD runs there, or it does not answer.
pub async fn sessions(places: &Places) -> Result<Vec<SessionStatus>, ControlError> {
    control::Control::connect(&places.socket()).await?.sessions().await
}
