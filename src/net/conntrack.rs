//! Connection tracking entries, over ctnetlink: forgets the flows of an address whose owner changes, as Felix does
//! (`felix/conntrack/conntrack.go`), without the `conntrack` program.
//!
//! Numbers are those of `linux/netfilter/nfnetlink_conntrack.h`. The whole table is listed and looked through here. The
//! kernel could filter (`CTA_FILTER`, since Linux 5.8), but it compares IPv6 addresses the wrong way round and leaves
//! out just the entries that were asked for (`ctnetlink_filter_match_tuple`, seen on 6.18); and each of its lists walks
//! the hash table again, which costs as much (10 to 20 ms for 262144 buckets) as to read some thousand entries.

use super::error::{Meaning, NetError};
use super::sysctl::Sysctl;
use netlink_packet_core::{NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// How long a flush may take. A full table of 262144 entries was read at 3 microseconds each by a debug build.
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
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Length of `struct nlmsghdr` and of `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const BODY: usize = HEADER + 4;

/// One entry of the table, as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<'a> {
    /// Source of the first direction.
    original: IpAddr,
    /// Source of the other direction: where the flow leads, behind a destination NAT.
    reply: IpAddr,
    tuple: &'a [u8],
    attributes: &'a [u8],
}

/// An entry that is to go.
#[derive(Debug)]
struct Doomed {
    sources: [IpAddr; 2],
    delete: Vec<u8>,
}

/// How many entries there are; `None` without connection tracking.
fn count(sysctl: &Sysctl) -> Option<usize> {
    sysctl.get("netfilter/nf_conntrack_count").ok()?.parse().ok()
}

/// Whether the kernel tracks connections now.
pub(crate) fn is_available(sysctl: &Sysctl) -> bool {
    count(sysctl).is_some()
}

/// One round of [`super::Host::flush_conntrack`]: the addresses of each caller, and each caller's count.
pub(crate) async fn flush(sysctl: Sysctl, asked: Vec<Vec<IpAddr>>) -> Vec<Result<usize, NetError>> {
    if count(&sysctl) == Some(0) {
        return asked.iter().map(|_| Ok(0)).collect();
    }
    let wanted: BTreeSet<IpAddr> = asked.iter().flatten().copied().collect();
    let late =
        || NetError::Timeout { what: "flush the connection tracking table".to_owned(), after: DEADLINE };
    let flushed = tokio::time::timeout(DEADLINE, flush_all(&wanted)).await.unwrap_or_else(|_| Err(late()));
    let of = |entries: &[Doomed], addresses: &[IpAddr]| {
        entries.iter().filter(|entry| entry.sources.iter().any(|ip| addresses.contains(ip))).count()
    };
    let outcome = |addresses: &Vec<IpAddr>| match &flushed {
        Ok(entries) => Ok(of(entries, addresses)),
        Err(error) => Err(error.duplicate()),
    };
    asked.iter().map(outcome).collect()
}

async fn flush_all(wanted: &BTreeSet<IpAddr>) -> Result<Vec<Doomed>, NetError> {
    let mut found = Vec::new();
    list(|entry| {
        if wanted.contains(&entry.original) || wanted.contains(&entry.reply) {
            found.push(Doomed { sources: [entry.original, entry.reply], delete: entry.deletion() });
        }
    })
    .await?;
    let requests: Vec<&[u8]> = found.iter().map(|entry| entry.delete.as_slice()).collect();
    delete(&requests).await?;
    Ok(found)
}

/// Shows all entries; none without connection tracking.
async fn list(mut show: impl FnMut(Entry<'_>)) -> Result<(), NetError> {
    let what = "list connections";
    let mut socket = match TokioSocket::new(NETLINK_NETFILTER) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error().map(Meaning::of) == Some(Meaning::Unsupported) => return Ok(()),
        Err(error) => return Err(NetError::of_io("open the ctnetlink socket", error)),
    };
    send(&mut socket, &message(CT_GET, NLM_F_DUMP, AF_UNSPEC, &[]))
        .await
        .map_err(|error| NetError::of_io(what, error))?;
    loop {
        let datagram = receive(&mut socket).await.map_err(|error| NetError::of_io(what, error))?;
        for message in messages(&datagram) {
            match message.kind {
                CT_NEW => decode(message.bytes).into_iter().for_each(&mut show),
                NLMSG_ERROR | NLMSG_DONE => {
                    return match code_of(message.bytes) {
                        0 => Ok(()),
                        // nfnetlink without the conntrack subsystem (kernel nfnetlink_rcv_msg).
                        errno if is_absent(errno) => Ok(()),
                        errno => Err(NetError::of_errno(what, errno, "")),
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

async fn delete(requests: &[&[u8]]) -> Result<(), NetError> {
    if requests.is_empty() {
        return Ok(());
    }
    let what = "delete connections";
    let io = |error| NetError::of_io(what, error);
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
                    return Err(NetError::of_errno(what, errno, ""));
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

/// The value of the first attribute of a kind, without copying: this runs for every connection of the host.
fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    loop {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = rest.get(4..len)?;
        if found == kind {
            return Some(value);
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

/// The source address of a tuple.
fn source_of(tuple: &[u8]) -> Option<IpAddr> {
    let addresses = find(tuple, CTA_TUPLE_IP)?;
    let v4 = find(addresses, CTA_IP_V4_SRC).and_then(|octets| <[u8; 4]>::try_from(octets).ok());
    let v6 = || find(addresses, CTA_IP_V6_SRC).and_then(|octets| <[u8; 16]>::try_from(octets).ok());
    v4.map(IpAddr::from).or_else(|| v6().map(IpAddr::from))
}

/// Reads an entry. The kernel takes a deletion without a tuple for one of the whole table, so an entry without one is
/// none.
fn decode(bytes: &[u8]) -> Option<Entry<'_>> {
    let attributes = bytes.get(BODY..)?;
    let tuple = find(attributes, CTA_TUPLE_ORIG)?;
    let (original, reply) = (source_of(tuple)?, source_of(find(attributes, CTA_TUPLE_REPLY)?)?);
    Some(Entry { original, reply, tuple, attributes })
}

impl Entry<'_> {
    /// The request that deletes this entry and no other: with its ID, not one that has taken its place.
    fn deletion(&self) -> Vec<u8> {
        let mut body = attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, self.tuple);
        for extra in [CTA_ID, CTA_ZONE] {
            if let Some(value) = find(self.attributes, extra) {
                body.extend(attribute(extra, value));
            }
        }
        message(CT_DELETE, NLM_F_ACK, family_of(self.original), &body)
    }
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
    fn an_entry_has_the_sources_of_both_its_directions() {
        let bytes = entry();
        let entry = decode(&bytes).unwrap();
        assert_eq!((entry.original, entry.reply), (IpAddr::from(A), IpAddr::from(B)));
    }

    #[test]
    fn a_deletion_names_the_whole_tuple_and_the_id() {
        let delete = decode(&entry()).unwrap().deletion();
        let body = &delete[BODY..];
        assert_eq!(find(body, CTA_TUPLE_ORIG).unwrap(), &tuple(CTA_TUPLE_ORIG, A)[4..]);
        assert_eq!(find(body, CTA_ID).unwrap(), [1, 2, 3, 4]);
        assert_eq!(find(body, CTA_ZONE), None);
        assert_eq!(delete.len(), u32_at(&delete, 0).unwrap() as usize);
    }

    #[test]
    fn attributes_that_are_cut_short_end_the_search() {
        for bytes in [&[][..], &[4], &[0, 0, 0, 0], &[3, 0, 1, 0], &[8, 0, 1, 0, 9], &[4, 0, 2, 0]] {
            assert_eq!(find(bytes, 1), None, "{bytes:?}");
        }
        assert_eq!(find(&[4, 0, 2, 0, 5, 0, 1, 0, 9], 1), Some(&[9][..]));
    }

    #[test]
    fn an_entry_without_tuple_is_never_deleted() {
        let bare = message(CT_NEW, 0, AF_INET, &attribute(CTA_ID, &[1, 2, 3, 4]));
        assert_eq!(decode(&bare), None);
        assert_eq!(decode(&[]), None);
    }

    #[tokio::test]
    async fn an_empty_table_is_not_even_listed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("netfilter")).unwrap();
        std::fs::write(root.path().join("netfilter/nf_conntrack_count"), "0\n").unwrap();
        let sysctl = Sysctl::new(root.path());
        assert!(is_available(&sysctl));
        let counts = flush(sysctl, vec![vec![IpAddr::from(A)], Vec::new()]).await;
        assert_eq!(counts.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [0, 0]);
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
