//! From the text of one setting to its value; the error is what is expected instead. Pure.

use crate::model::{Cidr, EncapMode, IpVersion};
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
