//! Published ports. The engine publishes nothing for a driver that brings its own gateway: it hands the port map over in
//! ProgramExternalConnectivity, and the Go plugin dropped it there. Ours become DNAT rules; each host port is held by a
//! bound socket, so that no process of the host takes it and a second container is told who has it.

use super::Drivers;
use super::error::{DriverError, refused};
use super::firewall::PublishedPort;
use super::index::LocalEndpoint;
use super::locks::Key;
use crate::model::{EndpointId, IpVersion, key};
use crate::protocol::{EndpointRef, PortBinding, ProgramExternalConnectivity};
use crate::store::{Entry, StoreError, Txn, typed};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// What the kernel answers where it has no SCTP.
const EPROTONOSUPPORT: i32 = 93;

/// How often a number is looked for that is free for both IP versions.
const ANY_PORT_TRIES: usize = 16;

/// A socket bound to a host port, which keeps the port from everyone else for as long as it lives. Nothing is ever read
/// from it: DNAT comes first. `None` where the kernel has no such protocol or the port was lost meanwhile.
type Hold = Option<Socket>;

/// The published ports of this node's endpoints.
#[derive(Debug, Default)]
pub(super) struct PortBook {
    /// Guards the map; held for one statement at a time.
    held: Mutex<HashMap<EndpointId, Published>>,
}

/// The published ports of one endpoint.
#[derive(Debug, Default)]
struct Published {
    ports: Vec<(PublishedPort, Hold)>,
    /// What Docker asked for, once it is done; empty for ports of a former process.
    asked: Vec<PortBinding>,
}

/// One published port as it is kept over a restart of the plugin.
#[derive(Debug, Serialize, Deserialize)]
struct StoredPort {
    proto: u8,
    host_ip: Option<IpAddr>,
    host_port: u16,
    to_ip: IpAddr,
    to_port: u16,
}

impl From<&PublishedPort> for StoredPort {
    fn from(port: &PublishedPort) -> Self {
        let PublishedPort { proto, host_ip, host_port, to_ip, to_port } = *port;
        Self { proto, host_ip, host_port, to_ip, to_port }
    }
}

impl From<StoredPort> for PublishedPort {
    fn from(port: StoredPort) -> Self {
        let StoredPort { proto, host_ip, host_port, to_ip, to_port } = port;
        Self { proto, host_ip, host_port, to_ip, to_port }
    }
}

impl PortBook {
    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Published>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &EndpointId) -> Vec<PublishedPort> {
        self.lock()
            .get(id)
            .into_iter()
            .flat_map(|published| &published.ports)
            .map(|(port, _)| *port)
            .collect()
    }

    fn put(&self, id: &EndpointId, ports: Vec<(PublishedPort, Hold)>) {
        self.lock().insert(id.clone(), Published { ports, asked: Vec::new() });
    }

    /// Notes that what was asked for is done.
    fn done(&self, id: &EndpointId, asked: Vec<PortBinding>) {
        if let Some(published) = self.lock().get_mut(id) {
            published.asked = asked;
        }
    }

    /// Whether an endpoint has what is asked for already.
    fn is_done(&self, id: &EndpointId, asked: &[PortBinding]) -> bool {
        self.lock().get(id).is_some_and(|published| published.asked == asked)
    }

    fn remove(&self, id: &EndpointId) {
        self.lock().remove(id);
    }

    /// Whether a port is published already where no socket could be held for it.
    fn has(&self, wanted: &PublishedPort) -> bool {
        let held = self.lock();
        let same = |port: &PublishedPort| {
            (port.proto, port.host_port, port.to_ip.is_ipv4())
                == (wanted.proto, wanted.host_port, wanted.to_ip.is_ipv4())
                && (port.host_ip == wanted.host_ip || port.host_ip.is_none() || wanted.host_ip.is_none())
        };
        held.values().flat_map(|published| &published.ports).any(|(port, _)| same(port))
    }
}

impl Drivers {
    pub(super) async fn program_ports(&self, call: &ProgramExternalConnectivity) -> Result<(), DriverError> {
        let id = EndpointId::new(&call.endpoint_id)?;
        let bindings =
            call.port_map().map_err(|error| refused(format!("the port map cannot be read: {error}")))?;
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        if bindings.is_empty() {
            return self.release_ports(&id).await;
        }
        let endpoint =
            self.endpoints.get(&id).ok_or_else(|| DriverError::UnknownEndpoint(id.short().to_owned()))?;
        if self.ports.is_done(&id, &bindings) {
            // A repeated call. The rules are as they were, and port 0 stays the port that it has become.
            return self.firewall.publish(&id, self.ports.get(&id)).await.map_err(DriverError::Firewall);
        }
        // Other ports than before: the first ones are let go, so that the same can be taken again.
        self.release_ports(&id).await?;
        let mut taken = Vec::new();
        for binding in &bindings {
            taken.extend(self.take(&endpoint, binding)?);
        }
        let ports: Vec<PublishedPort> = taken.iter().map(|(port, _)| *port).collect();
        self.ports.put(&id, taken);
        if let Err(error) = self.write_ports(&id, &ports).await {
            if let Err(undo) = self.release_ports(&id).await {
                log::warn!("ports of endpoint {} are not let go: {undo}", id.short());
            }
            return Err(error);
        }
        self.ports.done(&id, bindings);
        for port in &ports {
            log::info!(
                "endpoint {}: host port {} goes to {} port {}",
                id.short(),
                port.host_port,
                port.to_ip,
                port.to_port
            );
        }
        Ok(())
    }

    async fn write_ports(&self, id: &EndpointId, ports: &[PublishedPort]) -> Result<(), DriverError> {
        let key = key::ports(id);
        let stored: Vec<StoredPort> = ports.iter().map(StoredPort::from).collect();
        self.local.commit(Txn::new().put(&key, typed::encode(&key, &stored)?)).await?;
        self.firewall.publish(id, ports.to_vec()).await.map_err(DriverError::Firewall)
    }

    pub(super) async fn revoke_ports(&self, call: &EndpointRef) -> Result<(), DriverError> {
        let id = EndpointId::new(&call.endpoint_id)?;
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        self.release_ports(&id).await
    }

    /// Lets an endpoint's ports go, if it has any.
    pub(super) async fn release_ports(&self, id: &EndpointId) -> Result<(), DriverError> {
        if self.ports.get(id).is_empty() {
            return Ok(());
        }
        self.firewall.publish(id, Vec::new()).await.map_err(DriverError::Firewall)?;
        self.local.commit(Txn::new().remove(key::ports(id))).await?;
        self.ports.remove(id);
        Ok(())
    }

    /// Publishes again what a former process published; what belongs to nobody any more is forgotten.
    pub(super) async fn restore_ports(&self) -> Result<(), DriverError> {
        for entry in self.local.list(&key::all_ports()).await?.entries {
            let owner = key::parse_ports(&entry.key).filter(|id| self.endpoints.get(id).is_some());
            let (Some(id), Ok(stored)) = (owner, readable(&entry)) else {
                self.local.commit(Txn::new().remove(entry.key)).await?;
                continue;
            };
            let ports: Vec<PublishedPort> = stored.into_iter().map(PublishedPort::from).collect();
            self.firewall.publish(&id, ports.clone()).await.map_err(DriverError::Firewall)?;
            // Somebody may have taken a port while the plugin was down; the rule stands all the same.
            self.ports.put(&id, ports.into_iter().map(|port| (port, hold_again(&port))).collect());
        }
        Ok(())
    }

    /// Takes a host port for each of the endpoint's addresses that the binding means.
    fn take(
        &self,
        endpoint: &LocalEndpoint,
        binding: &PortBinding,
    ) -> Result<Vec<(PublishedPort, Hold)>, DriverError> {
        if !matches!(binding.proto, TCP | UDP | SCTP) {
            return Err(refused(format!(
                "protocol {} cannot be published; TCP, UDP and SCTP can",
                binding.proto
            )));
        }
        let host_ip = parse_host_ip(&binding.host_ip)?;
        let fits = |ip: &&IpAddr| host_ip.is_none_or(|host| host.is_ipv4() == ip.is_ipv4());
        let targets: Vec<IpAddr> = endpoint.ips.iter().filter(fits).copied().collect();
        if targets.is_empty() {
            return Err(refused(format!(
                "port {} cannot be published on {}: the container has no address of that IP version",
                binding.port, binding.host_ip
            )));
        }
        let last = binding.host_port_end.max(binding.host_port);
        // A number that is free for one IP version may be taken for the other.
        let tries = if binding.host_port == 0 { ANY_PORT_TRIES } else { 1 };
        let mut refusal = io::Error::from(io::ErrorKind::AddrInUse);
        for candidate in (binding.host_port..=last).flat_map(|port| std::iter::repeat_n(port, tries)) {
            match self.take_one(binding, host_ip, candidate, &targets) {
                Ok(taken) => return Ok(taken),
                Err(error) => refusal = error,
            }
        }
        Err(refused(refusal_text(binding, &refusal)))
    }

    /// Takes one host port for all targets, or none; port 0 means any, the same for all.
    fn take_one(
        &self,
        binding: &PortBinding,
        host_ip: Option<IpAddr>,
        candidate: u16,
        targets: &[IpAddr],
    ) -> io::Result<Vec<(PublishedPort, Hold)>> {
        let mut host_port = candidate;
        let mut taken = Vec::new();
        for to_ip in targets {
            let host_ip = host_ip.filter(|ip| !ip.is_unspecified());
            let mut port = PublishedPort {
                proto: binding.proto,
                host_ip,
                host_port,
                to_ip: *to_ip,
                to_port: binding.port,
            };
            if host_port != 0 && self.ports.has(&port) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let held = hold(&port)?;
            host_port = held_port(&held).unwrap_or(host_port);
            if host_port == 0 {
                // SCTP without the kernel's help: no number can be found.
                return Err(io::Error::from_raw_os_error(EPROTONOSUPPORT));
            }
            port.host_port = host_port;
            taken.push((port, held));
        }
        Ok(taken)
    }
}

/// The ports of a former process; a record that cannot be read is as good as none, and named.
fn readable(entry: &Entry) -> Result<Vec<StoredPort>, StoreError> {
    typed::decode(entry)
        .map(|stored| stored.value)
        .inspect_err(|error| log::warn!("published ports are forgotten: {error}"))
}

/// Why a host port was not taken, for whoever asked for it.
fn refusal_text(binding: &PortBinding, why: &io::Error) -> String {
    let PortBinding { port, host_port: first, host_port_end: last, host_ip, .. } = binding;
    let range = if last > first { format!("{first}-{last}") } else { first.to_string() };
    let place = if host_ip.is_empty() { String::new() } else { format!(" of {host_ip}") };
    match why.kind() {
        io::ErrorKind::AddrInUse => {
            format!("host port {range}{place} for container port {port} is already in use on this host")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("container port {port} cannot be published on {host_ip}: this host has no such address")
        }
        io::ErrorKind::PermissionDenied => format!(
            "host port {range}{place} for container port {port} cannot be taken: ports below 1024 need \
             CAP_NET_BIND_SERVICE"
        ),
        _ => format!("host port {range}{place} for container port {port} cannot be taken: {why}"),
    }
}

/// Holds a port of a former process again. Somebody may have taken it while the plugin was down; the rule stands all
/// the same.
fn hold_again(port: &PublishedPort) -> Hold {
    hold(port).unwrap_or_else(|error| {
        log::warn!(
            "host port {} goes to {} as before, though it cannot be kept from others: {error}",
            port.host_port,
            port.to_ip
        );
        None
    })
}

/// Docker sends the unspecified address of one IP version for "all addresses of this version".
fn parse_host_ip(text: &str) -> Result<Option<IpAddr>, DriverError> {
    match text {
        "" => Ok(None),
        text => {
            text.parse().map(Some).map_err(|_| refused(format!("host address {text:?} is not an IP address")))
        }
    }
}

/// Binds the host port for the IP version of the container's address only, and listens on it: a bound socket that does
/// not listen would let another process with SO_REUSEADDR in.
fn hold(port: &PublishedPort) -> io::Result<Hold> {
    let (domain, any) = match IpVersion::of(port.to_ip) {
        IpVersion::V4 => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpVersion::V6 => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let kind = if port.proto == UDP { Type::DGRAM } else { Type::STREAM };
    let socket = match Socket::new(domain, kind, Some(Protocol::from(i32::from(port.proto)))) {
        Err(error) if port.proto == SCTP && error.raw_os_error() == Some(EPROTONOSUPPORT) => return Ok(None),
        made => made?,
    };
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SocketAddr::new(port.host_ip.unwrap_or(any), port.host_port).into())?;
    if kind == Type::STREAM {
        socket.listen(1)?;
    }
    Ok(Some(socket))
}

fn held_port(held: &Hold) -> Option<u16> {
    held.as_ref()?.local_addr().ok()?.as_socket().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(to_ip: &str, host_port: u16) -> PublishedPort {
        PublishedPort { proto: TCP, host_ip: None, host_port, to_ip: to_ip.parse().unwrap(), to_port: 80 }
    }

    #[test]
    fn both_ip_versions_of_a_container_hold_one_port_number() {
        let v4 = hold(&port("10.0.0.1", 0)).unwrap();
        let number = held_port(&v4).unwrap();
        let v6 = hold(&port("fd00::1", number)).unwrap();
        assert_eq!(held_port(&v6), Some(number));
        assert!(hold(&port("10.0.0.2", number)).is_err(), "a second container got the same port");
        drop(v4);
        assert!(hold(&port("10.0.0.2", number)).is_ok());
    }
}
