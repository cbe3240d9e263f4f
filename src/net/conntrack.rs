//! Connection tracking entries, over ctnetlink: forgets the flows of an address whose owner changes, as Felix does
//! (`felix/conntrack/conntrack.go`), without the `conntrack` program.
//!
//! Numbers are those of `linux/netfilter/nfnetlink_conntrack.h`. The kernel filters the dump since Linux 5.8
//! (`CTA_FILTER`); an older one ignores the filter, so every entry is looked at here again.

use super::error::{Meaning, NetError};
use netlink_packet_core::{NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use std::net::IpAddr;
use std::time::Duration;

/// How long a flush may take. A table of 262144 entries is read in about 0.1 s.
const DEADLINE: Duration = Duration::from_secs(5);

/// Largest datagram of a dump (kernel `netlink_dump`: 32 KiB), with room to spare.
const DATAGRAM: usize = 64 * 1024;

/// Deletions sent in one datagram: their acknowledgements fit the smallest receive buffer.
const DELETES: usize = 64;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SUBSYS_CTNETLINK: u16 = 1 << 8;
const CT_NEW: u16 = SUBSYS_CTNETLINK;
const CT_GET: u16 = SUBSYS_CTNETLINK | 1;
const CT_DELETE: u16 = SUBSYS_CTNETLINK | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_FLAG(CTA_IP_SRC)` of `net/netfilter/nf_conntrack_netlink.c`.
const FILTER_SOURCE: u32 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Length of `struct nlmsghdr` and of `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const BODY: usize = HEADER + 4;

/// In which direction of a flow an address is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// It opened the flow.
    Original,
    /// It answers, after any destination NAT.
    Reply,
}

impl Side {
    fn tuple(self) -> u16 {
        match self {
            Self::Original => CTA_TUPLE_ORIG,
            Self::Reply => CTA_TUPLE_REPLY,
        }
    }

    fn flags(self) -> (u32, u32) {
        match self {
            Self::Original => (FILTER_SOURCE, 0),
            Self::Reply => (0, FILTER_SOURCE),
        }
    }
}

/// Whether the kernel tracks connections now.
pub(crate) async fn is_available() -> Result<bool, NetError> {
    match tokio::time::timeout(DEADLINE, list(IpAddr::from([0, 0, 0, 0]), Side::Original)).await {
        Ok(Ok(found)) => Ok(found.is_some()),
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => Err(late()),
    }
}

/// See [`super::Host::flush_conntrack`].
pub(crate) async fn flush(addresses: &[IpAddr]) -> Result<usize, NetError> {
    tokio::time::timeout(DEADLINE, flush_all(addresses)).await.map_err(|_elapsed| late())?
}

fn late() -> NetError {
    NetError::Timeout { what: "read the connection tracking table".to_owned(), after: DEADLINE }
}

async fn flush_all(addresses: &[IpAddr]) -> Result<usize, NetError> {
    let mut deleted = 0;
    for ip in addresses {
        for side in [Side::Original, Side::Reply] {
            // Without connection tracking there is nothing to forget.
            let Some(found) = list(*ip, side).await? else { return Ok(deleted) };
            deleted += found.len();
            delete(&found, *ip).await?;
        }
    }
    Ok(deleted)
}

/// The deletions for all entries with the address on that side; `None` without connection tracking.
async fn list(ip: IpAddr, side: Side) -> Result<Option<Vec<Vec<u8>>>, NetError> {
    let what = || format!("list the connections of {ip}");
    let mut socket = match TokioSocket::new(NETLINK_NETFILTER) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error().map(Meaning::of) == Some(Meaning::Unsupported) => return Ok(None),
        Err(error) => return Err(NetError::of_io("open the ctnetlink socket", error)),
    };
    send(&mut socket, &dump_request(ip, side)).await.map_err(|error| NetError::of_io(what(), error))?;
    let mut found = Vec::new();
    loop {
        let datagram = receive(&mut socket).await.map_err(|error| NetError::of_io(what(), error))?;
        for message in messages(&datagram) {
            match message.kind {
                CT_NEW => found.extend(matching(message.bytes, ip, side)),
                NLMSG_ERROR | NLMSG_DONE => {
                    return match code_of(message.bytes) {
                        0 => Ok(Some(found)),
                        // nfnetlink without the conntrack subsystem (kernel nfnetlink_rcv_msg).
                        errno if is_absent(errno) => Ok(None),
                        errno => Err(NetError::of_errno(what(), errno, "")),
                    };
                }
                _ => {}
            }
        }
    }
}

fn is_absent(errno: i32) -> bool {
    matches!(Errno::from_raw(errno.abs()), Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT)
}

async fn delete(requests: &[Vec<u8>], ip: IpAddr) -> Result<(), NetError> {
    if requests.is_empty() {
        return Ok(());
    }
    let what = || format!("delete the connections of {ip}");
    let io = |error| NetError::of_io(what(), error);
    let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(io)?;
    for chunk in requests.chunks(DELETES) {
        send(&mut socket, &chunk.concat()).await.map_err(io)?;
        let mut answered = 0;
        while answered < chunk.len() {
            let datagram = receive(&mut socket).await.map_err(io)?;
            for message in messages(&datagram).filter(|message| message.kind == NLMSG_ERROR) {
                answered += 1;
                let errno = code_of(message.bytes);
                // ENOENT: it ended by itself since the list.
                if errno != 0 && Meaning::of(errno) != Meaning::NotThere {
                    return Err(NetError::of_errno(what(), errno, ""));
                }
            }
        }
    }
    Ok(())
}

async fn send(socket: &mut TokioSocket, bytes: &[u8]) -> std::io::Result<()> {
    socket.send_to(bytes, &SocketAddr::new(0, 0)).await.map(drop)
}

async fn receive(socket: &mut TokioSocket) -> std::io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    socket.recv_from(&mut buffer).await?;
    Ok(buffer)
}

// ---- bytes ----

/// One netlink message of a datagram, with its header.
struct Message<'a> {
    kind: u16,
    bytes: &'a [u8],
}

fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(rest, 0)?).ok().filter(|len| *len >= HEADER)?;
        let bytes = rest.get(..len)?;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, bytes })
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The errno of an error or of the end of a dump: 0 or negative.
fn code_of(message: &[u8]) -> i32 {
    u32_at(message, HEADER).map_or(0, u32::cast_signed)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Attributes here are a few dozen bytes; the kernel refuses one whose length is wrong.
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(BODY + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), (NLM_F_REQUEST | flags).to_ne_bytes()].concat());
    // Sequence number and port: one question at a time on a socket of its own needs neither.
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend_from_slice(attributes);
    bytes
}

fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn source(ip: IpAddr) -> (u16, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (CTA_IP_V4_SRC, ip.octets().to_vec()),
        IpAddr::V6(ip) => (CTA_IP_V6_SRC, ip.octets().to_vec()),
    }
}

fn dump_request(ip: IpAddr, side: Side) -> Vec<u8> {
    let (kind, octets) = source(ip);
    let (orig, reply) = side.flags();
    let address = attribute(CTA_TUPLE_IP | NLA_F_NESTED, &attribute(kind, &octets));
    let flags = [
        attribute(CTA_FILTER_ORIG_FLAGS, &orig.to_ne_bytes()),
        attribute(CTA_FILTER_REPLY_FLAGS, &reply.to_ne_bytes()),
    ];
    let attributes = [
        attribute(side.tuple() | NLA_F_NESTED, &address),
        attribute(CTA_FILTER | NLA_F_NESTED, &flags.concat()),
    ];
    message(CT_GET, NLM_F_DUMP, family_of(ip), &attributes.concat())
}

fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    all.find(|nla| nla.kind() == kind).map(|nla| nla.value().to_vec())
}

/// The deletion of an entry, if it has the address on that side. The kernel takes a deletion without a tuple for one
/// of the whole table, so there is none without.
fn matching(entry: &[u8], ip: IpAddr, side: Side) -> Option<Vec<u8>> {
    let attributes = entry.get(BODY..)?;
    let (kind, octets) = source(ip);
    let addresses = find(&find(attributes, side.tuple())?, CTA_TUPLE_IP)?;
    if find(&addresses, kind)? != octets {
        return None;
    }
    let mut body = attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, &find(attributes, CTA_TUPLE_ORIG)?);
    for extra in [CTA_ID, CTA_ZONE] {
        if let Some(value) = find(attributes, extra) {
            body.extend(attribute(extra, &value));
        }
    }
    Some(message(CT_DELETE, NLM_F_ACK, family_of(ip), &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 4] = [10, 65, 0, 1];
    const B: [u8; 4] = [10, 65, 0, 2];

    fn tuple(kind: u16, source: [u8; 4]) -> Vec<u8> {
        let ip = attribute(CTA_TUPLE_IP | NLA_F_NESTED, &attribute(CTA_IP_V4_SRC, &source));
        attribute(kind | NLA_F_NESTED, &[ip, attribute(2 | NLA_F_NESTED, &attribute(1, &[6]))].concat())
    }

    fn entry() -> Vec<u8> {
        let parts = [tuple(CTA_TUPLE_ORIG, A), tuple(CTA_TUPLE_REPLY, B), attribute(CTA_ID, &[1, 2, 3, 4])];
        message(CT_NEW, 0, AF_INET, &parts.concat())
    }

    #[test]
    fn an_entry_matches_by_the_source_of_either_side() {
        assert!(matching(&entry(), IpAddr::from(A), Side::Original).is_some());
        assert!(matching(&entry(), IpAddr::from(B), Side::Reply).is_some());
        assert!(matching(&entry(), IpAddr::from(B), Side::Original).is_none());
        assert!(matching(&entry(), IpAddr::from(A), Side::Reply).is_none());
        assert!(matching(&entry(), "fe80::1".parse().unwrap(), Side::Original).is_none());
    }

    #[test]
    fn a_deletion_names_the_whole_tuple_and_the_id() {
        let delete = matching(&entry(), IpAddr::from(B), Side::Reply).unwrap();
        let body = &delete[BODY..];
        assert_eq!(find(body, CTA_TUPLE_ORIG).unwrap(), &tuple(CTA_TUPLE_ORIG, A)[4..]);
        assert_eq!(find(body, CTA_ID).unwrap(), [1, 2, 3, 4]);
        assert_eq!(find(body, CTA_ZONE), None);
        assert_eq!(delete.len(), u32_at(&delete, 0).unwrap() as usize);
    }

    #[test]
    fn an_entry_without_tuple_is_never_deleted() {
        let bare = message(CT_NEW, 0, AF_INET, &attribute(CTA_ID, &[1, 2, 3, 4]));
        assert!(matching(&bare, IpAddr::from(A), Side::Original).is_none());
        assert!(matching(&[], IpAddr::from(A), Side::Original).is_none());
    }

    #[test]
    fn a_datagram_splits_into_its_messages_and_garbage_ends_it() {
        let two = [entry(), entry()].concat();
        assert_eq!(messages(&two).count(), 2);
        assert_eq!(messages(&two[..two.len() - 1]).count(), 1);
        assert_eq!(messages(&[0; 40]).count(), 0);
        assert_eq!(messages(&[1, 0]).count(), 0);
    }
}
