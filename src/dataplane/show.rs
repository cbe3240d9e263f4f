//! What the kernel has, for people: our table as text, what its rules have counted, which ports are published.
//! Only reads; needs no running daemon.

use super::{DataplaneError, PortMap, Protocol, render};
use crate::nft::{Data, Expr, Family, NftError, Rule, Socket, Table, Verdict, print_table};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What one rule of our table has counted since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCount {
    /// The chain that it belongs to.
    pub chain: String,
    /// The rule's comment: what it is for.
    pub what: String,
    /// Whether packets that come this far are dropped.
    pub drops: bool,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

fn failed(source: NftError) -> DataplaneError {
    DataplaneError::Kernel { attempt: "read the packet filter", source }
}

/// Our table as `nft list table inet calico-docker` writes it; `None` if there is none.
///
/// # Errors
/// The kernel does not answer within the deadline, or not to this user.
pub async fn show_table(deadline: Duration) -> Result<Option<String>, DataplaneError> {
    let id = render::table_id();
    Ok(read(deadline).await?.map(|table| print_table(&id, &table)))
}

/// What the rules of our table have counted, in the order in which they stand; empty if there is no table.
///
/// # Errors
/// As [`show_table`].
pub async fn rule_counts(deadline: Duration) -> Result<Vec<RuleCount>, DataplaneError> {
    let mut socket = Socket::open(deadline).map_err(failed)?;
    match socket.rules(&render::table_id(), None).await {
        Ok(rules) => Ok(rules.iter().filter_map(count).collect()),
        Err(error) if error.is_missing() => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// The ports of this host that are published, as the kernel translates them.
///
/// # Errors
/// As [`show_table`].
pub async fn published_ports(deadline: Duration) -> Result<Vec<PortMap>, DataplaneError> {
    let mut socket = Socket::open(deadline).map_err(failed)?;
    let mut found = Vec::new();
    for (set, family, by_address) in render::port_maps() {
        let elements = match socket.elements(&render::table_id(), set).await {
            Ok(elements) => elements,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(failed(error)),
        };
        found.extend(elements.iter().filter_map(|element| {
            let Some(Data::Value(target)) = &element.data else { return None };
            port_map(&element.key.bytes, target, (family, by_address))
        }));
    }
    Ok(found)
}

/// The chains that decide about packets from and to each interface that is open.
///
/// # Errors
/// As [`show_table`].
pub async fn endpoint_chains(deadline: Duration) -> Result<Vec<(String, String)>, DataplaneError> {
    let mut socket = Socket::open(deadline).map_err(failed)?;
    let mut found = Vec::new();
    for map in render::DISPATCH {
        match socket.elements(&render::table_id(), map).await {
            Ok(elements) => found.extend(elements.iter().filter_map(|element| {
                let Some(Data::Verdict(Verdict::Goto(chain))) = &element.data else { return None };
                let name: Vec<u8> = element.key.bytes.iter().copied().take_while(|byte| *byte != 0).collect();
                Some((String::from_utf8_lossy(&name).into_owned(), chain.clone()))
            })),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(failed(error)),
        }
    }
    found.sort();
    Ok(found)
}

async fn read(deadline: Duration) -> Result<Option<Table>, DataplaneError> {
    let mut socket = Socket::open(deadline).map_err(failed)?;
    let (table, _) = socket.dump(&render::table_id()).await.map_err(failed)?;
    Ok(table)
}

fn count(rule: &Rule) -> Option<RuleCount> {
    let counted = rule.exprs.iter().find_map(|expr| match expr {
        Expr::Counter { packets, bytes } => Some((*packets, *bytes)),
        _ => None,
    });
    let (packets, bytes) = counted?;
    let drops = matches!(rule.exprs.last(), Some(Expr::Verdict(Verdict::Drop)));
    let what = rule.comment.clone().unwrap_or_default();
    Some(RuleCount { chain: rule.chain.clone(), what, drops, packets, bytes })
}

/// `[address .] protocol . port` and `address . port`, each part padded to four bytes.
fn port_map(key: &[u8], target: &[u8], (family, by_address): (Family, bool)) -> Option<PortMap> {
    let width = if family == Family::Ip6 { 16 } else { 4 };
    let (host_ip, key) = if by_address {
        let (host, rest) = key.split_at_checked(width)?;
        (Some(address(host)?), rest)
    } else {
        (None, key)
    };
    let (protocol, port) = key.split_at_checked(4)?;
    let protocol = match protocol.first()? {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    let (container, to) = target.split_at_checked(width)?;
    let container = SocketAddr::new(address(container)?, number(to)?);
    Some(PortMap { protocol, host_ip, host_port: number(port)?, container })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn number(bytes: &[u8]) -> Option<u16> {
    bytes.get(..2).and_then(|port| <[u8; 2]>::try_from(port).ok()).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::concat;

    #[test]
    fn published_ports_read_back_as_they_were_written() {
        let four = concat(&[&[192, 0, 2, 1], &[6], &8080_u16.to_be_bytes()]);
        let to = concat(&[&[10, 0, 0, 1], &80_u16.to_be_bytes()]);
        let map = port_map(&four, &to, (Family::Ip, true)).unwrap();
        assert_eq!(map.to_string(), "192.0.2.1:8080/tcp to 10.0.0.1:80");
        let any = concat(&[&[17], &53_u16.to_be_bytes()]);
        let to6 = concat(&[&[0xfd; 16], &5353_u16.to_be_bytes()]);
        let map = port_map(&any, &to6, (Family::Ip6, false)).unwrap();
        assert_eq!((map.host_ip, map.host_port, map.container.port()), (None, 53, 5353));
        assert_eq!(port_map(&[6, 0], &to, (Family::Ip, true)), None);
    }
}
