//! Calico networking for Docker: a managed (v2) plugin that is network driver and IPAM driver in one.
//!
//! The tree is the table of contents. Pure modules decide and never do I/O; the others do and never decide:
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | what Calico stores: keys, JSON, ids, prefixes (pure) |
//! | [`selector`] | Calico's selector language (pure) |
//! | [`protocol`] | Docker's plugin protocol: twenty-two calls and their JSON (pure) |
//! | [`policy`] | what Calico policy says about each endpoint of this node (pure) |
//! | [`store`] | the datastore seam and its backends |
//! | [`ipam`] | Calico block IPAM over the store |
//! | [`routes`] | routes between nodes: blocks, VXLAN, tunnel addresses |
//! | [`net`] | links, routes, neighbours, sysctls of the host |
//! | [`nft`] | nf_tables over netlink |
//! | [`dataplane`] | the host's packet filter and NAT, kept as they should be |
//! | [`driver`] | what Docker's calls mean |
//! | [`resource`] | resources as people write and read them: checked, completed, written |
//! | [`migrate`] | a cluster's data from one datastore to another |
//! | [`server`] | the plugin sockets |
//! | [`docker`] | client of the Docker API, for background tasks only |
//! | [`labels`] | brings labels of containers to their endpoints |
//! | [`config_network`] | makes the config-only networks that the settings name |
//! | [`gc`] | finds and collects what nobody owns any more |
//! | [`cluster`] | what a Calico cluster needs before its first endpoint: Node, tiers, default pools |
//! | [`bgp`] | BGP through BIRD: its configuration, its process, its sessions |
//! | [`metrics`] | figures in Prometheus's text format |
//! | [`admin`] | the administrator's socket: datastore and policy for the commands |
//! | [`app`] | builds the parts, starts the tasks, waits, drains |
//! | [`cli`] | the administrator's door |
//!
//! `ARCHITECTURE.md` holds the layering table; `tests/architecture.rs` checks every import against it.

pub mod admin;
pub mod app;
pub mod bgp;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod config_network;
pub mod dataplane;
pub mod docker;
pub mod driver;
pub mod gc;
pub mod ipam;
pub mod labels;
pub mod logging;
pub mod metrics;
pub mod migrate;
pub mod model;
pub mod net;
pub mod nft;
pub mod policy;
pub mod protocol;
pub mod resource;
pub mod routes;
pub mod selector;
pub mod server;
pub mod store;
pub mod task;
