//! Routing policy rules: which table a packet is looked up in.

use super::route::ROUTE_PROTOCOL;
use super::rtnl::Ask;
use crate::model::IpVersion;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// One rule of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Rule {
    /// Lower is asked first.
    pub(crate) priority: u32,
    /// For packets from this address only.
    pub(crate) from: Option<IpAddr>,
    /// The table that is looked in.
    pub(crate) table: u32,
    /// Whether the table's default route does not count.
    pub(crate) without_default: bool,
}

fn family(version: IpVersion) -> AddressFamily {
    match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    }
}

/// The message that lists all rules of a family.
pub(crate) fn list(version: IpVersion) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(version);
    RouteNetlinkMessage::GetRule(message)
}

impl Rule {
    fn message(&self, version: IpVersion) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(version);
        message.header.action = RuleAction::ToTable;
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
        ];
        if let Some(from) = self.from {
            message.header.src_len = version.bits();
            message.attributes.push(RuleAttribute::Source(from));
        }
        if self.without_default {
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
        message
    }

    /// Adds it.
    pub(crate) fn add(&self, version: IpVersion) -> Ask {
        let message = RouteNetlinkMessage::NewRule(self.message(version));
        Ask::new(message, NLM_F_CREATE | NLM_F_EXCL, format!("add rule {self:?}"))
    }

    /// Deletes it.
    pub(crate) fn delete(&self, version: IpVersion) -> Ask {
        Ask::new(RouteNetlinkMessage::DelRule(self.message(version)), 0, format!("delete rule {self:?}"))
    }

    /// Reads a rule; `None` for one that is not ours.
    pub(crate) fn decode(message: &RuleMessage) -> Option<Self> {
        let mut rule =
            Self { priority: 0, from: None, table: message.header.table.into(), without_default: false };
        let mut ours = false;
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == ROUTE_PROTOCOL,
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Source(from) => rule.from = Some(*from),
                RuleAttribute::SuppressPrefixLen(len) => rule.without_default = *len == 0,
                _ => {}
            }
        }
        ours.then_some(rule)
    }
}
