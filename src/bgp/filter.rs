//! BGPFilters in BIRD's words (pure).
//!
//! ```text
//! function 'import4_NAME'(bool same_as)
//! {
//!   if (CONDITIONS) then { OPERATIONS; accept; }
//! }
//! ```
//!
//! A rule that cannot be said in full is not said at all, and the whole filter with it: half a filter lets through what
//! it should not.

use super::text::{community, interface_pattern, symbol};
use crate::model::{AsNumber, BgpFilterOperation, BgpFilterRule, BgpFilterSpec, Cidr, IpVersion};
use std::fmt::Write as _;

/// Calico turns metrics into local preferences, of which the larger wins, by taking them from this
/// (`confd/pkg/resource/template/template_funcs.go`).
pub(super) const LARGEST_PREFERENCE: u32 = 2_147_483_647;

/// Which way routes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the peer.
    Import,
    /// To the peer.
    Export,
}

/// The rules of a filter for one direction and version.
pub(super) fn rules(spec: &BgpFilterSpec, direction: Direction, version: IpVersion) -> &[BgpFilterRule] {
    let rules = match (direction, version) {
        (Direction::Import, IpVersion::V4) => &spec.import_v4,
        (Direction::Import, IpVersion::V6) => &spec.import_v6,
        (Direction::Export, IpVersion::V4) => &spec.export_v4,
        (Direction::Export, IpVersion::V6) => &spec.export_v6,
    };
    rules.as_deref().unwrap_or_default()
}

/// The name of a filter's function.
pub(super) fn function_name(name: &str, direction: Direction, version: IpVersion) -> String {
    let prefix = match (direction, version) {
        (Direction::Import, IpVersion::V4) => "import4",
        (Direction::Import, IpVersion::V6) => "import6",
        (Direction::Export, IpVersion::V4) => "export4",
        (Direction::Export, IpVersion::V6) => "export6",
    };
    symbol(prefix, name)
}

/// The functions of a filter for one version.
///
/// # Errors
/// Why a rule cannot be said.
pub(super) fn functions(name: &str, spec: &BgpFilterSpec, version: IpVersion) -> Result<String, String> {
    if let Some(field) = spec.extra.keys().next() {
        return Err(format!("{field:?} is not known"));
    }
    let mut text = String::new();
    for direction in [Direction::Import, Direction::Export] {
        let rules = rules(spec, direction, version);
        if rules.is_empty() {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "function {}(bool same_as)\n{{", function_name(name, direction, version));
        for (place, rule) in rules.iter().enumerate() {
            let line = statement(rule, version).map_err(|why| {
                let way = if direction == Direction::Import { "import" } else { "export" };
                format!("rule {} of {way} over {version}: {why}", place + 1)
            })?;
            let _ = writeln!(text, "  {line}");
        }
        text.push_str("}\n");
    }
    Ok(text)
}

fn statement(rule: &BgpFilterRule, version: IpVersion) -> Result<String, String> {
    if let Some(field) = rule.extra.keys().next() {
        return Err(format!("{field:?} is not known"));
    }
    let operations = rule.operations.as_deref().unwrap_or_default();
    let mut body = String::new();
    for operation in operations {
        operate(operation, &mut body)?;
    }
    match rule.action.as_str() {
        "Accept" => body.push_str("accept;"),
        "Reject" if operations.is_empty() => body.push_str("reject;"),
        "Reject" => return Err("operations stand only beside action Accept".to_owned()),
        other => return Err(format!("action {other:?} is neither Accept nor Reject")),
    }
    let conditions = conditions(rule, version)?;
    Ok(match conditions.is_empty() {
        true => body,
        false => format!("if ({}) then {{ {body} }}", conditions.join(" && ")),
    })
}

fn conditions(rule: &BgpFilterRule, version: IpVersion) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    match rule.peer_type.as_str() {
        "" => {}
        "iBGP" => all.push("same_as".to_owned()),
        "eBGP" => all.push("!same_as".to_owned()),
        other => return Err(format!("peerType {other:?} is neither eBGP nor iBGP")),
    }
    if !rule.cidr.is_empty() {
        all.push(prefix(rule, version)?);
    } else if rule.prefix_length.is_some() {
        return Err("prefixLength needs cidr".to_owned());
    }
    match rule.source.as_str() {
        "" => {}
        "RemotePeers" => all.push("(source = RTS_BGP)".to_owned()),
        other => return Err(format!("source {other:?} is not RemotePeers")),
    }
    if !rule.interface.is_empty() {
        all.push(format!("(defined(ifname) && ifname ~ \"{}\")", interface_pattern(&rule.interface)?));
    }
    if let Some(wanted) = &rule.communities {
        let [value] = wanted.values.as_slice() else {
            return Err("communities needs exactly one value".to_owned());
        };
        let found = community(value)?;
        all.push(format!("({} ~ {})", found.value, found.attribute));
    }
    if let Some(path) = rule.as_path_prefix.as_deref().filter(|path| !path.is_empty()) {
        let numbers: Vec<String> = path.iter().map(AsNumber::to_string).collect();
        all.push(format!("(bgp_path ~ [= {} * =])", numbers.join(" ")));
    }
    if let Some(priority) = rule.priority {
        let preference = preference(priority)?;
        all.push(format!("(defined(bgp_local_pref) && bgp_local_pref = {preference})"));
    }
    Ok(all)
}

fn prefix(rule: &BgpFilterRule, version: IpVersion) -> Result<String, String> {
    let cidr = Cidr::parse_masking(&rule.cidr).map_err(|error| error.to_string())?;
    if cidr.version() != version {
        return Err(format!("{cidr} is no {version} prefix"));
    }
    let operator = match rule.match_operator.as_str() {
        "Equal" => "=",
        "NotEqual" => "!=",
        "In" => "~",
        "NotIn" => "!~",
        other => return Err(format!("matchOperator {other:?} is not Equal, NotEqual, In or NotIn")),
    };
    let Some(lengths) = &rule.prefix_length else { return Ok(format!("(net {operator} {cidr})")) };
    if matches!(operator, "=" | "!=") {
        return Err("prefixLength needs matchOperator In or NotIn".to_owned());
    }
    let least = lengths.min.unwrap_or(0).max(cidr.prefix_len());
    let most = lengths.max.unwrap_or_else(|| version.bits()).min(version.bits());
    if least > most {
        return Err(format!("no prefix inside {cidr} is {least} to {most} bits long"));
    }
    Ok(format!("(net {operator} [{cidr}{{{least},{most}}}])"))
}

fn operate(operation: &BgpFilterOperation, body: &mut String) -> Result<(), String> {
    if let Some(field) = operation.extra.keys().next() {
        return Err(format!("operation {field:?} is not known"));
    }
    // Writing to a String cannot fail.
    match (&operation.add_community, &operation.prepend_as_path, &operation.set_priority) {
        (Some(add), None, None) => {
            let community = community(&add.value)?;
            let _ = write!(body, "{}.add({}); ", community.attribute, community.value);
        }
        (None, Some(prepend), None) => {
            // Each goes in front of those before it.
            for number in prepend.prefix.iter().rev() {
                let _ = write!(body, "bgp_path.prepend({number}); ");
            }
        }
        (None, None, Some(set)) => {
            let _ = write!(body, "bgp_local_pref = {}; ", preference(set.value)?);
        }
        _ => return Err("an operation says exactly one thing".to_owned()),
    }
    Ok(())
}

fn preference(priority: u32) -> Result<u32, String> {
    match priority {
        1..LARGEST_PREFERENCE => Ok(LARGEST_PREFERENCE - priority),
        other => Err(format!("priority {other} is not within 1 and {}", LARGEST_PREFERENCE - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rule: &str) -> BgpFilterSpec {
        serde_json::from_str(&format!(r#"{{"exportV4":[{rule}]}}"#)).unwrap()
    }

    fn line(rule: &str) -> Result<String, String> {
        let text = functions("f", &spec(rule), IpVersion::V4)?;
        Ok(text.lines().nth(2).unwrap_or_default().trim().to_owned())
    }

    #[test]
    fn rules_say_what_calico_means() {
        for (rule, expected) in [
            (r#"{"action":"Reject"}"#, "reject;"),
            (
                r#"{"cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"min":16,"max":24},"action":"Accept"}"#,
                "if ((net ~ [10.0.0.0/8{16,24}])) then { accept; }",
            ),
            (
                r#"{"peerType":"eBGP","source":"RemotePeers","interface":"eth*","action":"Reject"}"#,
                "if (!same_as && (source = RTS_BGP) && (defined(ifname) && ifname ~ \"eth*\")) then { reject; }",
            ),
            (
                r#"{"communities":{"values":["1:2"]},"action":"Accept","operations":[{"prependASPath":{"prefix":[65000,65001]}},{"setPriority":{"value":100}}]}"#,
                "if (((1, 2) ~ bgp_community)) then { bgp_path.prepend(65001); bgp_path.prepend(65000); bgp_local_pref = 2147483547; accept; }",
            ),
        ] {
            assert_eq!(line(rule).unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_be_said_in_full_is_not_said() {
        for (rule, why) in [
            (r#"{"action":"Maybe"}"#, "neither Accept nor Reject"),
            (r#"{"action":"Accept","later":1}"#, "\"later\" is not known"),
            (r#"{"action":"Accept","cidr":"fd00::/8","matchOperator":"In"}"#, "is no IPv4 prefix"),
            (r#"{"action":"Accept","cidr":"10.0.0.0/8"}"#, "matchOperator \"\""),
            (r#"{"action":"Accept","interface":"\"; accept; #"}"#, "is no pattern"),
            (
                r#"{"action":"Reject","operations":[{"setPriority":{"value":1}}]}"#,
                "only beside action Accept",
            ),
            (r#"{"action":"Accept","operations":[{}]}"#, "exactly one thing"),
            (r#"{"action":"Accept","priority":0}"#, "is not within"),
        ] {
            let told = line(rule).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
