//! The plugin sockets seen from outside: real sockets, raw bytes, a scripted handler behind the server.
//!
//! `replay` sends what engines 20.10, 26.1, 28.5 and 29.7 sent; `transport` are statements 1 to 11 of the conformance
//! list; `lifetime` is bind, stop and everything in between; `arbitrary` sends bytes that no engine sends;
//! `log_lines` reads what is logged.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails"
)]

mod arbitrary;
mod client;
mod handler;
mod lifetime;
mod log_lines;
mod replay;
mod transport;
mod wire;

/// Methods that need arguments.
const WITH_ARGUMENTS: [&str; 18] = [
    "/NetworkDriver.GwAllocCheck",
    "/NetworkDriver.AllocateNetwork",
    "/NetworkDriver.FreeNetwork",
    "/NetworkDriver.CreateNetwork",
    "/NetworkDriver.DeleteNetwork",
    "/NetworkDriver.CreateEndpoint",
    "/NetworkDriver.DeleteEndpoint",
    "/NetworkDriver.EndpointOperInfo",
    "/NetworkDriver.Join",
    "/NetworkDriver.Leave",
    "/NetworkDriver.ProgramExternalConnectivity",
    "/NetworkDriver.RevokeExternalConnectivity",
    "/NetworkDriver.DiscoverNew",
    "/NetworkDriver.DiscoverDelete",
    "/IpamDriver.RequestPool",
    "/IpamDriver.ReleasePool",
    "/IpamDriver.RequestAddress",
    "/IpamDriver.ReleaseAddress",
];

/// Methods without arguments.
const WITHOUT_ARGUMENTS: [&str; 4] = [
    "/Plugin.Activate",
    "/NetworkDriver.GetCapabilities",
    "/IpamDriver.GetCapabilities",
    "/IpamDriver.GetDefaultAddressSpaces",
];
