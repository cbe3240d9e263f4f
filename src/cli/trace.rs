//! `policy trace`: what would be decided about a new connection, from the graph that renders the rules.

use super::policy::{KERNEL, ask, odd};
use super::print;
use super::session::{Failure, Session};
use super::target::targets;
use crate::admin::{DecisionReport, PolicyAnswer, PolicyQuestion, TraceReport};
use crate::dataplane::{self, PortMap};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// A protocol and its port, 0 if it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protocol {
    number: u8,
    port: u16,
}

impl Protocol {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (name, port) = match text.split_once('/') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let number = match name.to_lowercase().as_str() {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            "icmp" => 1,
            "icmpv6" => 58,
            "udplite" => 136,
            other => other.parse::<u8>().ok().filter(|number| *number > 0).ok_or_else(|| {
                format!(
                    "{text:?} is no protocol; tcp/80, udp/53, sctp/9, icmp, icmpv6 or a number is expected"
                )
            })?,
        };
        let has_ports = matches!(number, 6 | 17 | 132);
        let port = match (has_ports, port) {
            (true, Some(port)) => port
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| format!("{port:?} is no port; a number from 1 to 65535 is expected"))?,
            (true, None) => return Err(format!("{name} needs a port, such as {name}/80")),
            (false, Some(_)) => return Err(format!("{name} has no ports")),
            (false, None) => 0,
        };
        Ok(Self { number, port })
    }

    /// A ping, in the words of an address's family.
    fn ping(address: IpAddr) -> Self {
        Self { number: if address.is_ipv4() { 1 } else { 58 }, port: 0 }
    }
}

pub(super) async fn trace(
    session: &Session,
    source: &str,
    destination: &str,
    flow: Option<Protocol>,
) -> Result<(), Failure> {
    let (from, to) = (targets(session, source).await?, targets(session, destination).await?);
    let pairs: Vec<(IpAddr, IpAddr)> = from
        .iter()
        .flat_map(|one| &one.addresses)
        .flat_map(|one| to.iter().flat_map(|other| &other.addresses).map(move |other| (*one, *other)))
        .filter(|(one, other)| one.is_ipv4() == other.is_ipv4())
        .collect();
    if pairs.is_empty() {
        return Err(Failure::Failed(format!(
            "{source} and {destination} have no addresses of one IP version"
        )));
    }
    let mut text = String::new();
    for (one, other) in pairs {
        let flow = flow.unwrap_or_else(|| Protocol::ping(one));
        let published = behind(to.iter().all(|target| target.endpoint.is_none()), other, flow).await?;
        let (destination, port) = published.map_or((other, flow.port), |to| (to.ip(), to.port()));
        let question = PolicyQuestion::Trace {
            source: one,
            destination,
            protocol: flow.number,
            port,
            published: published.is_some(),
        };
        let PolicyAnswer::Trace(report) = ask(session, question).await? else { return Err(odd()) };
        if let Some(to) = published {
            let _ = writeln!(text, "port {} of {other} leads to {to}", flow.port);
        }
        describe_trace(&mut text, (one, destination), &report);
    }
    print(text.trim_end());
    Ok(())
}

/// Where the host's published port leads, if it is one: an address that no endpoint has and this host has.
async fn behind(
    no_endpoint: bool,
    destination: IpAddr,
    flow: Protocol,
) -> Result<Option<SocketAddr>, Failure> {
    // Only an address of the host's own can be bound.
    if !no_endpoint || flow.port == 0 || UdpSocket::bind((destination, 0)).is_err() {
        return Ok(None);
    }
    let maps = dataplane::published_ports(KERNEL).await.map_err(|error| Failure::of(&error))?;
    Ok(chosen(&maps, destination, flow))
}

/// Ports of one address of the host come before ports of all its addresses.
fn chosen(maps: &[PortMap], destination: IpAddr, flow: Protocol) -> Option<SocketAddr> {
    let fits = |map: &&PortMap| {
        map.protocol.number() == flow.number
            && map.host_port == flow.port
            && map.container.is_ipv4() == destination.is_ipv4()
            && map.particular_host().is_none_or(|host| host == destination)
    };
    maps.iter().filter(fits).max_by_key(|map| map.particular_host().is_some()).map(|map| map.container)
}

fn describe_trace(text: &mut String, (source, destination): (IpAddr, IpAddr), report: &TraceReport) {
    let word = |allowed: bool| if allowed { "allow" } else { "deny" };
    let _ = writeln!(text, "{} {source} -> {destination}", word(report.allowed));
    let sides = [("egress", &report.egress, source), ("ingress", &report.ingress, destination)];
    for (direction, decision, address) in sides {
        match decision {
            None => {
                let _ = writeln!(text, "  {direction}: {address} is no endpoint, so no policy is asked");
            }
            Some(DecisionReport { endpoint, node, allowed, reason, on_the_way }) => {
                for passed in on_the_way {
                    let _ = writeln!(text, "  {direction}: passed {passed}");
                }
                let _ = writeln!(text, "  {direction}: {} by {reason}", word(*allowed));
                let _ = writeln!(text, "    endpoint {endpoint} on node {node}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_one_address_comes_first() {
        let map = |host: Option<&str>, to: &str| PortMap {
            protocol: crate::dataplane::Protocol::Tcp,
            host_ip: host.map(|host| host.parse().unwrap()),
            host_port: 80,
            container: to.parse().unwrap(),
        };
        let maps = [map(None, "10.0.0.1:1"), map(Some("192.0.2.1"), "10.0.0.2:2"), map(None, "[fd00::1]:3")];
        let of = |ip: &str, number| {
            chosen(&maps, ip.parse().unwrap(), Protocol { number, port: 80 }).map(|to| to.to_string())
        };
        assert_eq!(of("192.0.2.1", 6).unwrap(), "10.0.0.2:2");
        assert_eq!(of("192.0.2.9", 6).unwrap(), "10.0.0.1:1");
        assert_eq!(of("2001:db8::1", 6).unwrap(), "[fd00::1]:3");
        assert_eq!(of("192.0.2.1", 17), None);
    }

    #[test]
    fn protocols_are_read() {
        let of = |text| Protocol::read(text);
        assert_eq!(of("TCP/80"), Ok(Protocol { number: 6, port: 80 }));
        assert_eq!(of("icmp"), Ok(Protocol { number: 1, port: 0 }));
        assert_eq!(of("47"), Ok(Protocol { number: 47, port: 0 }));
        for (wrong, part) in [
            ("tcp", "needs a port"),
            ("tcp/0", "is no port"),
            ("tcp/70000", "is no port"),
            ("icmp/8", "has no ports"),
            ("gre", "is no protocol"),
            ("0", "is no protocol"),
            ("", "is no protocol"),
        ] {
            assert!(of(wrong).unwrap_err().contains(part), "{wrong}");
        }
    }
}
