//! A container on a test's engine, and what it reaches.

use super::{Engine, fetch, text, unmapped};
use std::process::Output;

/// A container; removed with the engine, or by [`Container::remove`].
pub(crate) struct Container<'a> {
    engine: &'a Engine,
    name: String,
}

impl<'a> Container<'a> {
    pub(super) fn new(engine: &'a Engine, name: &str) -> Self {
        Self { engine, name: name.to_owned() }
    }

    /// The engine it runs on.
    pub(crate) fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// One field of its endpoint on a network, as `docker inspect` names it: `IPAddress`, `GlobalIPv6Address`, `MacAddress`.
    #[track_caller]
    pub(crate) fn endpoint(&self, network: &str, field: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}");
        self.engine.docker(&["inspect", "--format", &format, &self.name])
    }

    /// Its IPv4 address on a network.
    #[track_caller]
    pub(crate) fn v4(&self, network: &str) -> String {
        let address = self.endpoint(network, "IPAddress");
        assert!(!address.is_empty(), "{} has no IPv4 address on {network}", self.name);
        address
    }

    /// Its IPv6 address on a network.
    #[track_caller]
    pub(crate) fn v6(&self, network: &str) -> String {
        let address = self.endpoint(network, "GlobalIPv6Address");
        assert!(!address.is_empty(), "{} has no IPv6 address on {network}", self.name);
        address
    }

    /// Runs a command in it.
    pub(crate) fn try_exec(&self, command: &[&str]) -> Output {
        self.engine.try_docker(&[&["exec", &self.name], command].concat())
    }

    /// What a command in it prints; the command must work.
    #[track_caller]
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        let done = self.try_exec(command);
        assert!(done.status.success(), "{} in {}: {}", command.join(" "), self.name, text(&done));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// The address under which the server at `address` sees this container; fails the test when it does not answer.
    #[track_caller]
    pub(crate) fn seen_by(&self, address: &str) -> String {
        unmapped(&self.exec(&fetch(address)))
    }

    /// Asserts that ping and TCP to an address both work.
    #[track_caller]
    pub(crate) fn reaches(&self, address: &str) {
        self.exec(&["ping", "-c", "1", "-W", "3", address]);
        self.seen_by(address);
    }

    /// Asserts that neither ping nor TCP to an address works.
    #[track_caller]
    pub(crate) fn does_not_reach(&self, address: &str) {
        let ping = self.try_exec(&["ping", "-c", "1", "-W", "1", address]);
        assert!(!ping.status.success(), "{} reaches {address} by ping: {}", self.name, text(&ping));
        let call = self.try_exec(&fetch(address));
        assert!(!call.status.success(), "{} reaches {address} by TCP: {}", self.name, text(&call));
    }

    /// Removes it, running or not.
    #[track_caller]
    pub(crate) fn remove(self) {
        self.engine.docker(&["rm", "--force", &self.name]);
    }
}
