//! The words of a rule to numbers, or why that cannot be (`libcalico-go/lib/validator/v3`, `numorstring`).

use super::resolved::{Action, IcmpMatch, PortRange};
use crate::model::{Cidr, CidrError, EntityRule, IcmpFields, IpVersion, NumberOrText, Rule};
use crate::selector::SelectorError;

/// Why a rule means nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum RuleError {
    #[error("action {0:?} is none of Allow, Deny, Log, Pass")]
    Action(String),
    #[error("ipVersion {0} is neither 4 nor 6")]
    IpVersion(i64),
    #[error("protocol {0:?} is neither a known name nor a number from 1 to 255")]
    Protocol(String),
    #[error("port {0:?} is neither a number from 1 to 65535, nor a range such as 80:90, nor a name")]
    Port(String),
    #[error("ports need a protocol that has ports: TCP, UDP or SCTP")]
    PortsWithoutProtocol,
    #[error("ICMP fields need protocol ICMP or ICMPv6")]
    IcmpWithoutProtocol,
    #[error("ICMP code {0} stands without a type")]
    IcmpCodeAlone(i64),
    #[error("ICMP {0} {1} is out of range")]
    IcmpRange(&'static str, i64),
    #[error(transparent)]
    Net(#[from] CidrError),
    #[error(transparent)]
    Selector(#[from] SelectorError),
}

/// A protocol by number, and the family that its name implies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) number: u8,
    pub(super) implies: Option<IpVersion>,
}

/// TCP.
pub(super) const TCP: u8 = 6;
/// UDP.
pub(super) const UDP: u8 = 17;
/// SCTP.
pub(super) const SCTP: u8 = 132;
/// ICMP.
pub(super) const ICMP: u8 = 1;
/// ICMPv6.
pub(super) const ICMP_V6: u8 = 58;

const NAMES: [(&str, u8, Option<IpVersion>); 6] = [
    ("tcp", TCP, None),
    ("udp", UDP, None),
    ("icmp", ICMP, Some(IpVersion::V4)),
    ("icmpv6", ICMP_V6, Some(IpVersion::V6)),
    ("sctp", SCTP, None),
    ("udplite", 136, None),
];

/// Reads a protocol.
pub(super) fn protocol(word: &NumberOrText) -> Result<Protocol, RuleError> {
    let refuse = || RuleError::Protocol(word.to_string());
    let number = match word {
        NumberOrText::Number(number) => u8::try_from(*number).ok(),
        NumberOrText::Text(text) => {
            if let Some((_, number, implies)) =
                NAMES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(text))
            {
                return Ok(Protocol { number: *number, implies: *implies });
            }
            text.parse().ok()
        }
    };
    let number = number.filter(|number| *number > 0).ok_or_else(refuse)?;
    Ok(Protocol { number, implies: None })
}

/// Whether packets of the protocol have ports by which a rule can tell them apart.
pub(super) fn has_ports(protocol: u8) -> bool {
    [TCP, UDP, SCTP].contains(&protocol)
}

/// Reads `ipVersion`.
pub(super) fn family(version: Option<i64>) -> Result<Option<IpVersion>, RuleError> {
    match version {
        None => Ok(None),
        Some(4) => Ok(Some(IpVersion::V4)),
        Some(6) => Ok(Some(IpVersion::V6)),
        Some(other) => Err(RuleError::IpVersion(other)),
    }
}

/// Ports by number and by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ports {
    /// Sorted, merged where they overlap or touch.
    pub(super) ranges: Vec<PortRange>,
    pub(super) names: Vec<String>,
}

/// One side's prefixes and ports.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) nets: Vec<Cidr>,
    pub(super) not_nets: Vec<Cidr>,
    pub(super) ports: Ports,
    pub(super) not_ports: Ports,
}

/// Everything of a rule but its selectors.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) action: Action,
    pub(super) protocol: Option<Protocol>,
    pub(super) not_protocol: Option<Protocol>,
    pub(super) icmp: Option<IcmpMatch>,
    pub(super) not_icmp: Option<IcmpMatch>,
    pub(super) source: Side,
    pub(super) destination: Side,
}

impl Parts {
    /// Reads and checks a rule.
    pub(super) fn of(rule: &Rule, source: &EntityRule, destination: &EntityRule) -> Result<Self, RuleError> {
        let parts = Self {
            action: action(&rule.action)?,
            protocol: rule.protocol.as_ref().map(protocol).transpose()?,
            not_protocol: rule.not_protocol.as_ref().map(protocol).transpose()?,
            icmp: rule.icmp.as_ref().map(icmp).transpose()?.flatten(),
            not_icmp: rule.not_icmp.as_ref().map(icmp).transpose()?.flatten(),
            source: side(source)?,
            destination: side(destination)?,
        };
        parts.check()?;
        Ok(parts)
    }

    fn check(&self) -> Result<(), RuleError> {
        let protocol = self.protocol.map(|protocol| protocol.number);
        let all = [
            &self.source.ports,
            &self.source.not_ports,
            &self.destination.ports,
            &self.destination.not_ports,
        ];
        let refused = match protocol {
            Some(number) if has_ports(number) => false,
            Some(_) => all.iter().any(|ports| !ports.ranges.is_empty() || !ports.names.is_empty()),
            None => all.iter().any(|ports| !ports.ranges.is_empty()),
        };
        if refused {
            return Err(RuleError::PortsWithoutProtocol);
        }
        let icmp = self.icmp.is_some() || self.not_icmp.is_some();
        if icmp && !protocol.is_some_and(|number| number == ICMP || number == ICMP_V6) {
            return Err(RuleError::IcmpWithoutProtocol);
        }
        Ok(())
    }
}

/// An absent action allows, as Felix reads it.
fn action(word: &str) -> Result<Action, RuleError> {
    const WORDS: [(&str, Action); 5] = [
        ("", Action::Allow),
        ("allow", Action::Allow),
        ("deny", Action::Deny),
        ("pass", Action::Pass),
        ("log", Action::Log),
    ];
    let found = WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, action)| *action).ok_or_else(|| RuleError::Action(word.to_owned()))
}

fn icmp(fields: &IcmpFields) -> Result<Option<IcmpMatch>, RuleError> {
    let Some(icmp_type) = fields.icmp_type else {
        return fields.code.map_or(Ok(None), |code| Err(RuleError::IcmpCodeAlone(code)));
    };
    let range = |what, value| move |_| RuleError::IcmpRange(what, value);
    let code = fields.code.map(|code| u8::try_from(code).map_err(range("code", code))).transpose()?;
    // Type 255 is reserved, and Calico refuses it.
    let icmp_type = u8::try_from(icmp_type).ok().filter(|it| *it < u8::MAX);
    let icmp_type = icmp_type.ok_or(RuleError::IcmpRange("type", fields.icmp_type.unwrap_or_default()))?;
    Ok(Some(IcmpMatch { icmp_type, code }))
}

fn side(entity: &EntityRule) -> Result<Side, RuleError> {
    Ok(Side {
        nets: nets(entity.nets.as_deref())?,
        not_nets: nets(entity.not_nets.as_deref())?,
        ports: ports(entity.ports.as_deref())?,
        not_ports: ports(entity.not_ports.as_deref())?,
    })
}

fn nets(texts: Option<&[String]>) -> Result<Vec<Cidr>, RuleError> {
    let texts = texts.unwrap_or_default();
    texts.iter().map(|text| Cidr::parse_masking(text).map_err(RuleError::from)).collect()
}

fn ports(words: Option<&[NumberOrText]>) -> Result<Ports, RuleError> {
    let mut ports = Ports::default();
    for word in words.unwrap_or_default() {
        match port(word)? {
            Port::Range(range) => ports.ranges.push(range),
            Port::Name(name) => ports.names.push(name),
        }
    }
    ports.ranges = merged(ports.ranges);
    ports.names.sort_unstable();
    ports.names.dedup();
    Ok(ports)
}

enum Port {
    Range(PortRange),
    Name(String),
}

/// The longest name of a port that Calico accepts.
const MAX_PORT_NAME: usize = 128;

fn port(word: &NumberOrText) -> Result<Port, RuleError> {
    let refuse = || RuleError::Port(word.to_string());
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(refuse);
    let text = match word {
        NumberOrText::Number(port) => {
            let port = u16::try_from(*port).ok().filter(|port| *port > 0).ok_or_else(refuse)?;
            return Ok(Port::Range(PortRange { first: port, last: port }));
        }
        NumberOrText::Text(text) => text,
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let port = number(text)?;
        return Ok(Port::Range(PortRange { first: port, last: port }));
    }
    if let Some((first, last)) = text.split_once(':') {
        let range = PortRange { first: number(first)?, last: number(last)? };
        return if range.first <= range.last { Ok(Port::Range(range)) } else { Err(refuse()) };
    }
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if plain && (1..=MAX_PORT_NAME).contains(&text.len()) {
        Ok(Port::Name(text.clone()))
    } else {
        Err(refuse())
    }
}

/// Sorted ranges, joined where they overlap or touch.
fn merged(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut joined: Vec<PortRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(before) if range.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(range.last)
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> NumberOrText {
        NumberOrText::Text(text.to_owned())
    }

    #[test]
    fn protocols_are_read_by_name_and_number() {
        for (name, number, implies) in NAMES {
            assert_eq!(protocol(&word(&name.to_uppercase())), Ok(Protocol { number, implies }));
        }
        assert_eq!(protocol(&NumberOrText::Number(1)), Ok(Protocol { number: 1, implies: None }));
        assert_eq!(protocol(&word("47")), Ok(Protocol { number: 47, implies: None }));
        for bad in [
            NumberOrText::Number(0),
            NumberOrText::Number(256),
            NumberOrText::Number(-1),
            word("gre"),
            word(""),
        ] {
            assert!(protocol(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_read_and_joined() {
        let words =
            [word("80:90"), NumberOrText::Number(91), word("85"), word("http"), word("1000"), word("http")];
        let read = ports(Some(&words)).unwrap();
        let ranges = [PortRange { first: 80, last: 91 }, PortRange { first: 1000, last: 1000 }];
        assert_eq!(read, Ports { ranges: ranges.to_vec(), names: vec!["http".to_owned()] });
        for bad in ["0", "65536", "90:80", "80:", ":80", "1:2:3", "", "a b", "0:5"] {
            assert!(ports(Some(&[word(bad)])).is_err(), "{bad}");
        }
        assert!(ports(Some(&[NumberOrText::Number(0)])).is_err());
        assert!(ports(Some(&[NumberOrText::Number(65536)])).is_err());
        let highest = ports(Some(&[NumberOrText::Number(65535), word("65534:65535")])).unwrap();
        assert_eq!(highest.ranges, [PortRange { first: 65534, last: 65535 }]);
    }

    fn refused(rule: &str) -> String {
        let rule: Rule = serde_json::from_str(rule).unwrap();
        let none = EntityRule::default();
        let source = rule.source.as_ref().unwrap_or(&none);
        let destination = rule.destination.as_ref().unwrap_or(&none);
        Parts::of(&rule, source, destination).unwrap_err().to_string()
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        assert_eq!(refused(r#"{"action":"Permit"}"#), r#"action "Permit" is none of Allow, Deny, Log, Pass"#);
        let needs = "ports need a protocol that has ports: TCP, UDP or SCTP";
        assert_eq!(refused(r#"{"action":"Allow","destination":{"ports":[80]}}"#), needs);
        assert_eq!(refused(r#"{"action":"Allow","protocol":"ICMP","source":{"notPorts":["http"]}}"#), needs);
        let needs = "ICMP fields need protocol ICMP or ICMPv6";
        assert_eq!(refused(r#"{"action":"Allow","icmp":{"type":8}}"#), needs);
        assert_eq!(refused(r#"{"action":"Allow","protocol":"TCP","notICMP":{"type":8}}"#), needs);
        let alone = "ICMP code 3 stands without a type";
        assert_eq!(refused(r#"{"action":"Allow","protocol":"ICMP","icmp":{"code":3}}"#), alone);
        assert_eq!(
            refused(r#"{"action":"Allow","protocol":"ICMP","icmp":{"type":255}}"#),
            "ICMP type 255 is out of range"
        );
        assert_eq!(
            refused(r#"{"action":"Allow","source":{"nets":["10.0.0.0/33"]}}"#),
            r#""10.0.0.0/33" is not an IP prefix such as 10.1.0.0/24"#
        );
    }
}
