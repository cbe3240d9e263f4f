//! The selectors of policies and rules, with namespaces and service accounts worked in
//! (`libcalico-go/lib/backend/syncersv1/updateprocessors/{rules,networkpolicyprocessor,
//! globalnetworkpolicyprocessor}.go`).

use crate::model::{EntityRule, GlobalNetworkPolicySpec, ServiceAccountMatch};
use crate::selector::{Comparison, Selector, SelectorError};

/// Label that holds the namespace of an endpoint or network set.
pub(super) const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// Label that holds the service account of an endpoint.
pub(super) const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";
/// Prefix of the labels of an endpoint's namespace.
pub(super) const NAMESPACE_PREFIX: &str = "pcns.";
/// Prefix of the labels of an endpoint's service account.
pub(super) const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";

/// Whom one side of a rule means: in `positive`, and not in `negative`.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) positive: Option<Selector>,
    pub(super) negative: Option<Selector>,
}

/// Whom one side of a rule means. A rule of a namespaced policy means its own namespace unless it says otherwise.
pub(super) fn peers(entity: &EntityRule, namespace: Option<&str>) -> Result<Peers, SelectorError> {
    let selector = parse(entity.selector.as_ref())?;
    let negative = parse(entity.not_selector.as_ref())?;
    let across = parse(entity.namespace_selector.as_ref())?;
    let accounts = entity.service_accounts.as_ref().map(service_accounts).transpose()?.flatten();

    let own_words = and(accounts, selector);
    let limited = own_words.is_some() || negative.is_some() || across.is_some();
    let namespaces = match (across, namespace) {
        (Some(across), _) => Some(in_namespaces(across)),
        (None, Some(namespace)) => Some(is_namespace(namespace)),
        (None, None) => None,
    };
    let positive = if limited { and(namespaces, own_words) } else { own_words };
    Ok(match (positive, negative) {
        // Only what a positive selector limits to known addresses can take the negative one in.
        (Some(positive), Some(negative)) => Peers {
            positive: Some(Selector::And(vec![positive, Selector::Not(Box::new(negative))])),
            negative: None,
        },
        (positive, negative) => Peers { positive, negative },
    })
}

/// Whom a policy is for.
pub(super) fn subjects(
    spec: &GlobalNetworkPolicySpec,
    namespace: Option<&str>,
) -> Result<Selector, SelectorError> {
    let mut selector = parse(spec.selector.as_ref())?;
    if let Some(namespace) = namespace {
        selector = and(selector, Some(is_namespace(namespace)));
    }
    if let Some(namespaces) = parse(spec.namespace_selector.as_ref())? {
        let namespaces = replace(prefixed(namespaces, NAMESPACE_PREFIX), &|leaf| match leaf {
            Selector::Global => Some(has_not(NAMESPACE_LABEL)),
            _ => None,
        });
        // Calico replaces "all()" in the text of the whole selector.
        selector = and(selector, Some(namespaces)).map(|whole| all_means(whole, NAMESPACE_LABEL));
    }
    if let Some(accounts) = parse(spec.service_account_selector.as_ref())? {
        selector = and(selector, Some(prefixed(accounts, SERVICE_ACCOUNT_PREFIX)));
        if namespace.is_none() {
            selector = selector.map(|whole| all_means(whole, SERVICE_ACCOUNT_LABEL));
        }
    }
    Ok(selector.unwrap_or(Selector::All))
}

/// An absent or empty selector is none; a blank one is `all()`.
fn parse(text: Option<&String>) -> Result<Option<Selector>, SelectorError> {
    text.filter(|text| !text.is_empty()).map(|text| Selector::parse(text)).transpose()
}

fn service_accounts(accounts: &ServiceAccountMatch) -> Result<Option<Selector>, SelectorError> {
    let by_label = parse(accounts.selector.as_ref())?.map(|it| prefixed(it, SERVICE_ACCOUNT_PREFIX));
    let names = accounts.names.as_ref().filter(|names| !names.is_empty());
    let by_name = names.map(|names| Selector::In {
        label: SERVICE_ACCOUNT_LABEL.to_owned(),
        values: names.iter().cloned().collect(),
    });
    Ok(and(by_label, by_name))
}

fn and(one: Option<Selector>, other: Option<Selector>) -> Option<Selector> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Selector::And(vec![one, other])),
        (one, other) => one.or(other),
    }
}

fn is_namespace(namespace: &str) -> Selector {
    Selector::Compare {
        label: NAMESPACE_LABEL.to_owned(),
        comparison: Comparison::Equal,
        text: namespace.to_owned(),
    }
}

/// A rule's namespaceSelector: `all()` is whatever stands in a namespace, `global()` whatever does not.
fn in_namespaces(selector: Selector) -> Selector {
    replace(prefixed(selector, NAMESPACE_PREFIX), &|leaf| match leaf {
        Selector::All => Some(Selector::Has(NAMESPACE_LABEL.to_owned())),
        Selector::Global => Some(has_not(NAMESPACE_LABEL)),
        _ => None,
    })
}

fn all_means(selector: Selector, label: &str) -> Selector {
    replace(selector, &|leaf| match leaf {
        Selector::All => Some(Selector::Has(label.to_owned())),
        _ => None,
    })
}

fn has_not(label: &str) -> Selector {
    Selector::Not(Box::new(Selector::Has(label.to_owned())))
}

/// The same selector over labels with a prefix.
fn prefixed(selector: Selector, prefix: &str) -> Selector {
    let with = |label: &str| format!("{prefix}{label}");
    replace(selector, &|leaf| match leaf {
        Selector::Has(label) => Some(Selector::Has(with(label))),
        Selector::Compare { label, comparison, text } => {
            Some(Selector::Compare { label: with(label), comparison: *comparison, text: text.clone() })
        }
        Selector::In { label, values } => Some(Selector::In { label: with(label), values: values.clone() }),
        Selector::NotIn { label, values } => {
            Some(Selector::NotIn { label: with(label), values: values.clone() })
        }
        _ => None,
    })
}

/// The same tree with some leaves replaced.
fn replace(selector: Selector, leaf: &dyn Fn(&Selector) -> Option<Selector>) -> Selector {
    let all = |parts: Vec<Selector>| parts.into_iter().map(|part| replace(part, leaf)).collect();
    match selector {
        Selector::Not(inner) => Selector::Not(Box::new(replace(*inner, leaf))),
        Selector::And(parts) => Selector::And(all(parts)),
        Selector::Or(parts) => Selector::Or(all(parts)),
        other => leaf(&other).unwrap_or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn shown(peers: &Peers) -> (String, String) {
        let text =
            |selector: &Option<Selector>| selector.as_ref().map_or_else(String::new, ToString::to_string);
        (text(&peers.positive), text(&peers.negative))
    }

    fn of(entity: &EntityRule, namespace: Option<&str>) -> (String, String) {
        shown(&peers(entity, namespace).unwrap())
    }

    #[test]
    fn a_namespaced_rule_means_its_own_namespace_as_soon_as_it_selects() {
        let selecting = EntityRule { selector: some("role == 'web'"), ..EntityRule::default() };
        assert_eq!(of(&selecting, None).0, r#"role == "web""#);
        assert_eq!(of(&selecting, Some("ns")).0, r#"(projectcalico.org/namespace == "ns" && role == "web")"#);
        let nets = EntityRule { nets: Some(vec!["10.0.0.0/8".to_owned()]), ..EntityRule::default() };
        assert_eq!(of(&nets, Some("ns")), (String::new(), String::new()));
        let not = EntityRule { not_selector: some("has(a)"), ..EntityRule::default() };
        assert_eq!(of(&not, None), (String::new(), "has(a)".to_owned()));
        assert_eq!(of(&not, Some("ns")).0, r#"(projectcalico.org/namespace == "ns" && !has(a))"#);
    }

    #[test]
    fn a_namespace_selector_replaces_the_own_namespace() {
        let entity =
            |selector: &str| EntityRule { namespace_selector: some(selector), ..EntityRule::default() };
        assert_eq!(of(&entity("all()"), Some("ns")).0, "has(projectcalico.org/namespace)");
        assert_eq!(of(&entity("global()"), None).0, "!has(projectcalico.org/namespace)");
        assert_eq!(of(&entity("team == 'a' && has(b)"), None).0, r#"(pcns.team == "a" && has(pcns.b))"#);
        let both = EntityRule { selector: some("x == '1'"), ..entity("has(t)") };
        assert_eq!(of(&both, Some("ns")).0, r#"(has(pcns.t) && x == "1")"#);
    }

    #[test]
    fn service_accounts_are_labels() {
        let entity = EntityRule {
            service_accounts: Some(ServiceAccountMatch {
                names: Some(vec!["b".to_owned(), "a".to_owned()]),
                selector: some("k == 'v'"),
                ..ServiceAccountMatch::default()
            }),
            ..EntityRule::default()
        };
        assert_eq!(
            of(&entity, None).0,
            r#"(pcsa.k == "v" && projectcalico.org/serviceaccount in {"a", "b"})"#
        );
    }

    #[test]
    fn policies_select_in_their_namespace() {
        let spec = GlobalNetworkPolicySpec { selector: some("a == 'b'"), ..Default::default() };
        assert_eq!(subjects(&spec, None).unwrap().to_string(), r#"a == "b""#);
        let text = subjects(&spec, Some("ns")).unwrap().to_string();
        assert_eq!(text, r#"(a == "b" && projectcalico.org/namespace == "ns")"#);
        let empty = GlobalNetworkPolicySpec::default();
        assert_eq!(subjects(&empty, None).unwrap(), Selector::All);
        assert_eq!(
            subjects(&empty, Some("ns")).unwrap().to_string(),
            r#"projectcalico.org/namespace == "ns""#
        );
    }

    #[test]
    fn a_policys_namespace_and_service_account_selectors_narrow_it() {
        let spec = GlobalNetworkPolicySpec {
            selector: some("all()"),
            namespace_selector: some("has(team)"),
            ..Default::default()
        };
        let text = subjects(&spec, None).unwrap().to_string();
        assert_eq!(text, "(has(projectcalico.org/namespace) && has(pcns.team))");
        let spec = GlobalNetworkPolicySpec { service_account_selector: some("all()"), ..Default::default() };
        assert_eq!(subjects(&spec, None).unwrap().to_string(), "has(projectcalico.org/serviceaccount)");
        let spec = GlobalNetworkPolicySpec { namespace_selector: some("global()"), ..Default::default() };
        assert_eq!(subjects(&spec, None).unwrap().to_string(), "!has(projectcalico.org/namespace)");
    }
}
