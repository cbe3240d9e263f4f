//! Segments that no socket of TCP would send, and SCTP where the kernel has none.

use crate::lab::address;
use crate::nsrun::inside;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const TCP: u8 = 6;
const SCTP: u8 = 132;
/// For a packet that must come, on a machine that may be very busy.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SYN: u8 = 2;
pub(crate) const FIN: u8 = 1;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;
pub(crate) const INIT: u8 = 1;
pub(crate) const INIT_ACK: u8 = 2;
/// The kernel's own clients have ports from here on (`ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;
/// The tag that the answer to an INIT must bear.
const TAG: u32 = 0x0102_0304;

/// What there is to a segment: its ports, and the flags of TCP or the type of SCTP's first chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) what: u8,
}

/// Where one protocol's segments come in and go out, in one namespace and family.
pub(crate) struct Wire {
    socket: Socket,
    own: IpAddr,
    protocol: u8,
}

impl Wire {
    pub(crate) fn tcp(name: &'static str, family: u8) -> Self {
        Self::open(name, family, TCP)
    }

    pub(crate) fn sctp(name: &'static str, family: u8) -> Self {
        Self::open(name, family, SCTP)
    }

    fn open(name: &'static str, family: u8, protocol: u8) -> Self {
        let own = address(name, family);
        let socket = inside(name, move || {
            let at = SocketAddr::new(own, 0);
            let socket =
                Socket::new(Domain::for_address(at), Type::RAW, Some(Protocol::from(i32::from(protocol))))
                    .unwrap();
            socket.bind(&at.into()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        Self { socket, own, protocol }
    }

    pub(crate) fn send(&self, to: &Self, segment: Segment) {
        let ports = [segment.from.to_be_bytes(), segment.to.to_be_bytes()].concat();
        let bytes = match self.protocol {
            TCP => {
                let mut bytes =
                    [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, segment.what, 1, 0, 0, 0, 0, 0]].concat();
                let sum =
                    internet_checksum(&[&pseudo_header(self.own, to.own, bytes.len()), &bytes[..]].concat());
                bytes[16..18].copy_from_slice(&sum.to_be_bytes());
                bytes
            }
            _ => {
                // The answer to an INIT bears its tag; an INIT bears none.
                let tag = if segment.what == INIT { 0 } else { TAG };
                let chunk = [
                    &[segment.what, 0, 0, 20],
                    &TAG.to_be_bytes()[..],
                    &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1],
                ]
                .concat();
                let mut bytes = [&ports[..], &tag.to_be_bytes(), &[0; 4], &chunk].concat();
                let sum = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                bytes
            }
        };
        self.socket.send_to(&bytes, &SocketAddr::new(to.own, 0).into()).unwrap();
    }

    /// The next segment that comes in and is none of the kernel's own flows.
    pub(crate) fn receive(&self) -> Segment {
        loop {
            let segment = self.next();
            if segment.from.max(segment.to) < EPHEMERAL {
                return segment;
            }
        }
    }

    fn next(&self) -> Segment {
        let mut bytes = [0; 256];
        let len = (&self.socket).read(&mut bytes).unwrap();
        // Of IPv4 the header is there, too.
        let start = if self.own.is_ipv4() { usize::from(bytes[0] & 15) * 4 } else { 0 };
        let segment = &bytes[start..len];
        let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let what = if self.protocol == TCP { segment[13] } else { segment[12] };
        Segment { from: port(0), to: port(2), what }
    }

    /// The next segment that is the one.
    pub(crate) fn receives(&self, what: Segment) {
        while self.receive() != what {}
    }
}

fn pseudo_header(from: IpAddr, to: IpAddr, len: usize) -> Vec<u8> {
    let len = u32::try_from(len).unwrap().to_be_bytes();
    let octets = |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::octets(&ip).to_vec(),
    };
    // Both families' headers add up to the same: zeros do not count.
    [octets(from), octets(to), len.to_vec(), vec![0, 0, 0, TCP]].concat()
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Castagnoli's, as RFC 9260 asks for.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82F6_3B78 * (sum & 1)))
    })
}
