//! From the text of one setting to its value; the error is what is expected instead. Pure.

use crate::model::{Cidr, EncapMode, IpVersion};
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

pub(super) fn parse_endpoints(text: &str) -> Result<Vec<String>, String> {
    let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
    urls.map(|url| match url.starts_with("http://") || url.starts_with("https://") {
        true => Ok(url.to_owned()),
        false => Err(format!("{url} has no scheme; http://{url} or https://{url} is expected")),
    })
    .collect()
}

pub(super) fn parse_flag(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("true or false is expected".to_owned()),
    }
}

/// Yes, no, or nothing said.
pub(super) fn parse_flag_or_none(text: &str) -> Result<Option<bool>, String> {
    match text {
        "" => Ok(None),
        text => parse_flag(text).map(Some),
    }
}

/// Whether BIRD runs. `vxlan` is Calico's word for routes without BGP.
pub(super) fn parse_backend(text: &str) -> Result<bool, String> {
    match text {
        "bird" => Ok(true),
        "none" | "vxlan" => Ok(false),
        _ => Err("none or bird is expected".to_owned()),
    }
}

/// IPv6 needs 1280 bytes (RFC 8200), IPv4 68 (RFC 791); an interface holds at most 65535.
pub(super) fn parse_mtu(text: &str) -> Result<Option<u32>, String> {
    match text {
        "" | "0" => Ok(None),
        text => match text.parse() {
            Ok(mtu @ 68..=65535) => Ok(Some(mtu)),
            _ => Err("68 to 65535 is expected".to_owned()),
        },
    }
}

/// Docker adds a number, and an interface name holds 15 bytes.
pub(super) fn parse_iface_prefix(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric());
    match plain && (1..=12).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err("1 to 12 letters or digits are expected".to_owned()),
    }
}

/// Calico's words for what becomes of packets to the host.
pub(super) fn parse_host_action(text: &str) -> Result<Option<String>, String> {
    match text {
        "" => Ok(None),
        "Drop" | "Return" | "Accept" => Ok(Some(text.to_owned())),
        _ => Err("Drop, Return or Accept is expected".to_owned()),
    }
}

/// `10/second`, as Felix's `logActionRateLimit` and iptables' `limit` have it: a number, and in how many seconds.
///
/// # Errors
/// What is expected instead.
pub fn parse_rate(text: &str) -> Result<(u64, u64), String> {
    let expected =
        || "a number for each second, minute, hour or day is expected, such as 10/second".to_owned();
    let (count, unit) = text.split_once('/').ok_or_else(expected)?;
    let seconds = match unit.trim().to_lowercase().as_str() {
        "s" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hour" => 3600,
        "d" | "day" => 86_400,
        _ => return Err(expected()),
    };
    match count.trim().parse() {
        Ok(count @ 1..) => Ok((count, seconds)),
        _ => Err(expected()),
    }
}

/// A rate, or none.
pub(super) fn parse_log_rate(text: &str) -> Result<Option<String>, String> {
    match text {
        "" => Ok(None),
        text => parse_rate(text).map(|_| Some(text.to_owned())),
    }
}

/// A port of this host's localhost, or an address and a port.
pub(super) fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let port = text.parse::<u16>().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    match port.map_or_else(|_| text.parse(), Ok) {
        Ok(address) if address.port() > 0 => Ok(Some(address)),
        _ => Err("a port, or an address and a port such as 127.0.0.1:9476, is expected".to_owned()),
    }
}

pub(super) fn parse_encap(text: &str) -> Result<EncapMode, String> {
    match text.to_lowercase().as_str() {
        "never" | "off" | "" => Ok(EncapMode::Never),
        "always" => Ok(EncapMode::Always),
        "crosssubnet" => Ok(EncapMode::CrossSubnet),
        _ => Err("Never, Always or CrossSubnet is expected".to_owned()),
    }
}

pub(super) fn parse_pool_cidr(text: &str, version: IpVersion) -> Result<Option<Cidr>, String> {
    match text {
        "" => Ok(None),
        text => match Cidr::from_str(text) {
            Ok(cidr) if cidr.version() == version => Ok(Some(cidr)),
            Ok(_) => Err(format!("an {version} prefix is expected")),
            Err(error) => Err(error.to_string()),
        },
    }
}

pub(super) fn parse_block_size(text: &str, version: IpVersion) -> Result<u8, String> {
    let range = match version {
        IpVersion::V4 => 20..=32,
        IpVersion::V6 => 116..=128,
    };
    match text.parse() {
        Ok(size) if range.contains(&size) => Ok(size),
        _ => Err(format!("{} to {} is expected", range.start(), range.end())),
    }
}
