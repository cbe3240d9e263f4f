//! Client of the Docker API, for background tasks only.
//!
//! Never in a request path: dockerd calls plugins while it starts, before its API answers, so a handler that asks
//! the API hangs the engine (projectcalico/libnetwork-plugin#49). The layering test keeps `driver` and `server` from
//! importing this module.

mod client;
mod types;

pub use client::{DockerClient, DockerError};
pub use types::{Attachment, ContainerSummary, DockerNetwork, ManagedPlugin, NetworkIpam, NetworkPrefix};
