//! Client of the Docker API, for background tasks only.
//!
//! Never in a request path: dockerd calls plugins while it starts, before its API answers, so a handler that asks
//! the API hangs the engine (projectcalico/libnetwork-plugin#49). The layering test keeps `driver` and `server` from
//! importing this module.

mod client;
mod events;
mod types;

pub use client::{DockerClient, DockerError};
pub use events::ContainerEvents;
pub use types::{
    Attachment, ContainerConfig, ContainerDetail, ContainerSummary, DockerNetwork, ManagedPlugin,
    NetworkAttachments, NetworkIpam, NetworkPrefix,
};
