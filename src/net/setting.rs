//! Changes of kernel settings below `net/ipv4/conf` and `net/ipv6/conf`, as the kernel announces them: messages
//! `RTM_NEWNETCONF` (kernel `include/uapi/linux/netconf.h`), which `netlink-packet-route` does not read.

use netlink_packet_core::NlasIterator;

/// `RTM_NEWNETCONF` (kernel `include/uapi/linux/rtnetlink.h`).
pub(crate) const CHANGED: u16 = 80;

/// `RTM_DELNETCONF`: the settings went with their link.
pub(crate) const GONE: u16 = 81;

/// Bytes of `struct netconfmsg`, with its padding.
const HEADER: usize = 4;

const IFINDEX: u16 = 1;
const FORWARDING: u16 = 2;
const RP_FILTER: u16 = 3;
const PROXY_NEIGH: u16 = 5;

/// `NETCONFA_IFINDEX_ALL`, the index of `conf/all`; `conf/default` has -2.
const ALL: i32 = -1;

/// Whose setting got a value that may be wrong for endpoints: forwarding or answering for others was turned off, or the
/// source check is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingOf {
    /// `conf/all`: with its forwarding that of all links was changed.
    All,
    /// One link, by its index.
    Link(u32),
}

/// Whose setting a message's payload tells of, if it concerns endpoints.
pub(crate) fn decode(payload: &[u8]) -> Option<SettingOf> {
    if !matches!(i32::from(*payload.first()?), nix::libc::AF_INET | nix::libc::AF_INET6) {
        return None;
    }
    let (mut index, mut values) = (None, Vec::new());
    for attribute in NlasIterator::new(payload.get(HEADER..)?) {
        let attribute = attribute.ok()?;
        let value = i32::from_ne_bytes(attribute.value().try_into().ok()?);
        match attribute.kind() {
            IFINDEX => index = Some(value),
            kind => values.push((kind, value)),
        }
    }
    // All values together are those of a new link, which its maker has yet to set; a change tells one.
    let [value] = values[..] else { return None };
    match (index?, value) {
        (ALL, (FORWARDING, 0)) => Some(SettingOf::All),
        (link, (FORWARDING | PROXY_NEIGH, 0) | (RP_FILTER, _)) => {
            u32::try_from(link).ok().map(SettingOf::Link)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(family: i32, attributes: &[(u16, i32)]) -> Option<SettingOf> {
        let mut payload = vec![u8::try_from(family).unwrap(), 0, 0, 0];
        for (kind, value) in attributes {
            payload.extend(8_u16.to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(value.to_ne_bytes());
        }
        decode(&payload)
    }

    #[test]
    fn a_change_counts_if_endpoints_cannot_do_with_it() {
        let (v4, v6) = (nix::libc::AF_INET, nix::libc::AF_INET6);
        let link = Some(SettingOf::Link(7));
        assert_eq!(told(v4, &[(IFINDEX, 7), (FORWARDING, 0)]), link);
        assert_eq!(told(v6, &[(IFINDEX, 7), (PROXY_NEIGH, 0)]), link);
        assert_eq!(told(v4, &[(IFINDEX, 7), (RP_FILTER, 1)]), link);
        assert_eq!(told(v6, &[(IFINDEX, ALL), (FORWARDING, 0)]), Some(SettingOf::All));
        for fine in [
            &[(IFINDEX, 7), (FORWARDING, 1)][..],
            &[(IFINDEX, 7), (PROXY_NEIGH, 1)],
            &[(IFINDEX, ALL), (FORWARDING, 1)],
            &[(IFINDEX, ALL), (PROXY_NEIGH, 0)],
            &[(IFINDEX, ALL), (RP_FILTER, 1)],
            &[(IFINDEX, -2), (FORWARDING, 0)],
            &[(IFINDEX, 7), (FORWARDING, 0), (RP_FILTER, 0), (PROXY_NEIGH, 0)],
            &[(FORWARDING, 0)],
            &[],
        ] {
            assert_eq!(told(v4, fine), None, "{fine:?}");
        }
        assert_eq!(told(nix::libc::AF_BRIDGE, &[(IFINDEX, 7), (FORWARDING, 0)]), None);
        assert_eq!(decode(&[]), None);
    }
}
