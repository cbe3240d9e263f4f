//! The config-only networks that the settings name, made on this node in the background.
//!
//! A swarm network of a driver with local scope takes its prefix and options from a network that must exist on every node:
//! `docker network create --config-only` here, `--scope swarm --config-from` once on a manager. The first is what this
//! does. `wanted` (pure) compares, `maker` asks Docker. Docker never tells a driver of such networks.

mod maker;
mod wanted;

pub use maker::ConfigNetworks;
