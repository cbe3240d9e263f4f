//! Forms of values, and what a value that has not the form of its field is told.

use crate::model::{Cidr, is_resource_name};
use crate::selector::Selector;
use serde_json::{Map, Value};

/// The form of a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// Whatever: nothing here looks at it.
    Any,
    Text,
    Flag,
    /// A whole number between two.
    Whole(i64, i64),
    /// Any number.
    Number,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A lower-case DNS subdomain.
    Name,
    /// An IP prefix; an address stands for itself.
    Net,
    /// An IP prefix without host bits.
    StrictNet,
    Selector,
    Protocol,
    Port,
    /// The name of a port.
    PortName,
    /// One IP address.
    Address,
    /// A number of 32 bits, or as text, also in two halves as `1.10`.
    AsNumber,
    /// A time as Go writes it.
    Duration,
    /// `1:2` or, of a large one, `1:2:3`.
    Community,
    /// Texts by text, as labels are.
    Labels,
    List(&'static Shape),
    Object(&'static [(&'static str, Shape)]),
}

/// A name of the form that Kubernetes gives labels: an optional DNS prefix, `/`, 63 characters.
pub(super) fn is_label_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_resource_name) && !name.is_empty() && is_label_value(name)
}

/// Up to 63 letters, digits, `-`, `_` and `.`, the first and last a letter or digit; or nothing.
pub(super) fn is_label_value(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63 && text.bytes().all(plain) && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
}

/// What is wrong, one sentence for each field.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<String>);

impl Problems {
    /// Says what is wrong with a field.
    pub(super) fn say(&mut self, path: &str, why: impl std::fmt::Display) {
        self.0.push(format!("{path}: {why}"));
    }

    /// Compares a value with the form of its field. `null` counts as absent.
    pub(super) fn fit(&mut self, path: &str, value: &Value, shape: Shape) {
        let wanted = match (shape, value) {
            (_, Value::Null) | (Shape::Any, _) | (Shape::Text, Value::String(_)) => return,
            (Shape::Flag, Value::Bool(_)) | (Shape::Number, Value::Number(_)) => return,
            (Shape::List(item), Value::Array(items)) => {
                return items
                    .iter()
                    .enumerate()
                    .for_each(|(at, it)| self.fit(&format!("{path}[{at}]"), it, *item));
            }
            (Shape::Object(fields), Value::Object(map)) => return self.fields(path, map, fields),
            (Shape::Labels, Value::Object(map)) => return self.labels(path, map),
            (Shape::Whole(least, most), value) => match value.as_i64() {
                Some(number) if (least..=most).contains(&number) => return,
                _ => format!("a whole number from {least} to {most} is expected"),
            },
            (Shape::Protocol, value) if is_protocol(value) => return,
            (Shape::Port, value) if is_port(value) => return,
            (Shape::AsNumber, value) if is_as_number(value) => return,
            (_, Value::String(text)) => match misfit(text, shape) {
                Some(why) => why,
                None => return,
            },
            (shape, _) => format!("{} is expected", noun(shape)),
        };
        self.say(path, format!("{wanted}, not {value}"));
    }

    fn fields(&mut self, path: &str, map: &Map<String, Value>, fields: &[(&'static str, Shape)]) {
        for (name, value) in map {
            let path = format!("{path}.{name}");
            match fields.iter().find(|(field, _)| field == name) {
                Some((_, shape)) => self.fit(&path, value, *shape),
                None => {
                    let near = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
                    let hint = near.map(|(field, _)| format!("; {field} is meant")).unwrap_or_default();
                    self.say(&path, format!("there is no such field{hint}"));
                }
            }
        }
    }

    fn labels(&mut self, path: &str, map: &Map<String, Value>) {
        for (name, value) in map {
            let path = format!("{path}[{name}]");
            if !is_label_name(name) {
                self.say(&path, "a label's name is up to 63 letters, digits, '-', '_' and '.', after an optional DNS name and '/'");
            }
            match value {
                Value::String(text) if is_label_value(text) => {}
                Value::String(_) => {
                    self.say(
                        &path,
                        format!("a label's value is up to 63 letters, digits, '-', '_' and '.', not {value}"),
                    );
                }
                _ => self.say(&path, format!("a text is expected, not {value}; put it in quotes")),
            }
        }
    }
}

/// Why a text has not the form; `None` if it has.
fn misfit(text: &str, shape: Shape) -> Option<String> {
    match shape {
        Shape::Word(words) if words.contains(&text) => None,
        Shape::Word(words) => Some(format!("one of {} is expected", words.join(", "))),
        Shape::Name if is_resource_name(text) => None,
        Shape::Name => Some("lower case letters, digits, '-' and '.' are expected".to_owned()),
        Shape::Net => Cidr::parse_masking(text.trim()).err().map(|_| format!("{} is expected", noun(shape))),
        Shape::StrictNet => match Cidr::parse_masking(text) {
            Ok(cidr) if cidr.to_string() == text || text.parse::<Cidr>().is_ok_and(|it| it == cidr) => None,
            Ok(cidr) => Some(format!("the host's bits are set: {cidr} is expected")),
            Err(_) => Some(format!("{} is expected", noun(shape))),
        },
        Shape::PortName if is_port_name(text) => None,
        // Neither a number nor a range, so a name was meant, or a range in another tool's form.
        Shape::Port if !text.contains(':') && !text.bytes().all(|b| b.is_ascii_digit()) => {
            Some(format!("{} is expected, or a range such as 80:90", noun(Shape::PortName)))
        }
        Shape::Address if text.parse::<std::net::IpAddr>().is_ok() => None,
        Shape::Duration if is_duration(text) => None,
        Shape::Community if is_community(text) => None,
        Shape::Selector => Selector::parse(text).err().map(|error| error.to_string()),
        _ => Some(format!("{} is expected", noun(shape))),
    }
}

fn noun(shape: Shape) -> &'static str {
    match shape {
        Shape::Any => "anything",
        Shape::Text | Shape::Word(_) | Shape::Name => "a text",
        Shape::Flag => "true or false",
        Shape::Whole(..) | Shape::Number => "a number",
        Shape::Net | Shape::StrictNet => "an IP prefix such as 10.1.0.0/24",
        Shape::Selector => "a selector such as role == 'web'",
        Shape::Protocol => "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255",
        Shape::Port => "a port from 1 to 65535, a range such as 80:90 or the name of a port",
        Shape::PortName => {
            "a port's name of up to 15 lower case letters, digits and single '-', with a letter in it,"
        }
        Shape::Address => "an IP address",
        Shape::AsNumber => "an AS number such as 64512 or 1.10",
        Shape::Duration => "a time with its unit such as 90s or 2m0s",
        Shape::Community => "a BGP community such as 64512:120 or 64512:120:1",
        Shape::Labels | Shape::Object(_) => "an object",
        Shape::List(_) => "a list",
    }
}

/// Calico's names of protocols.
pub(super) const PROTOCOLS: [&str; 6] = ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"];

/// The case of letters does not matter, for it is put right afterwards; a number may come as text.
fn is_protocol(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64().is_some_and(|number| (1..=255).contains(&number)),
        Value::String(text) => {
            PROTOCOLS.iter().any(|name| name.eq_ignore_ascii_case(text))
                || text.parse::<u8>().is_ok_and(|number| number > 0)
        }
        _ => false,
    }
}

/// Whether a field is there with something in it.
pub(super) fn is_given(field: Option<&Value>) -> bool {
    match field {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    }
}

/// Whether packets of a protocol, by name or number, have ports.
pub(super) fn has_ports(protocol: &Value) -> bool {
    let text = protocol.as_str().map_or_else(|| protocol.to_string(), str::to_lowercase);
    ["tcp", "udp", "sctp", "6", "17", "132"].contains(&text.as_str())
}

fn is_port(value: &Value) -> bool {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match value {
        Value::Number(port) => port.as_u64().is_some_and(|port| (1..=65535).contains(&port)),
        Value::String(text) => match text.split_once(':') {
            Some((first, last)) => {
                matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
            }
            None if text.bytes().all(|b| b.is_ascii_digit()) => number(text).is_some(),
            None => is_port_name(text),
        },
        _ => false,
    }
}

/// Whether a port is given by name, and not as a number or a range.
pub(super) fn is_named_port(port: &Value) -> bool {
    port.as_str().is_some_and(is_port_name)
}

/// A port's name as Kubernetes has it, which calicoctl asks for; Felix takes a policy with another name for missing
/// (`validatePortName` in `libcalico-go/lib/validator/v3/validator.go`, `felix/calc/validation_filter.go`).
fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Calico takes the number, its text, and its two halves with a dot between (`numorstring.ASNumber`).
fn is_as_number(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64().is_some_and(|number| u32::try_from(number).is_ok()),
        Value::String(text) => match text.split_once('.') {
            Some((high, low)) => high.parse::<u16>().is_ok() && low.parse::<u16>().is_ok(),
            None => text.parse::<u32>().is_ok(),
        },
        _ => false,
    }
}

/// What Go's `time.ParseDuration` takes, without sign: Calico's own programs cannot read a resource with anything else.
fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 8] = ["h", "m", "s", "ms", "us", "µs", "μs", "ns"];
    let mut rest = text;
    while !rest.is_empty() {
        let of_number = |letter: char| letter.is_ascii_digit() || letter == '.';
        let (number, tail) = rest.split_at(rest.find(|letter| !of_number(letter)).unwrap_or(rest.len()));
        let (unit, tail) = tail.split_at(tail.find(of_number).unwrap_or(tail.len()));
        let digits = number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() <= 1;
        if !digits || !UNITS.contains(&unit) {
            return text == "0";
        }
        rest = tail;
    }
    !text.is_empty()
}

fn is_community(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.len() {
        2 => parts.iter().all(|part| part.parse::<u16>().is_ok()),
        3 => parts.iter().all(|part| part.parse::<u32>().is_ok()),
        _ => false,
    }
}
