//! What the kernel writes before a packet that a Log rule matches (`felix/rules/policy.go`, generateLogPrefix).

use super::resolved::{RuleList, RuleListId};
use super::update::ResourceKind;

/// The kernel's limit without the closing NUL (`NF_LOG_PREFIXLEN` in `include/uapi/linux/netfilter/nf_log.h`).
const MAX_PREFIX: usize = 127;

/// The prefix for one rule list. In the template, `%t` is the tier, `%k` a short word for the kind, `%n` the name and
/// `%p` the name with its namespace; `: ` is put behind it. Cut to what the kernel takes; control characters become
/// blanks, so that nobody can forge a line.
#[must_use]
pub fn log_prefix(template: &str, id: &RuleListId, list: &RuleList) -> String {
    let owner = &id.owner;
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let mut letters = after.chars();
        match letters.next() {
            Some('t') => text.push_str(list.tier.as_deref().unwrap_or_default()),
            Some('k') => text.push_str(short_kind(owner.kind)),
            Some('n') => text.push_str(&owner.name),
            Some('p') => {
                if let Some(namespace) = &owner.namespace {
                    text.push_str(namespace);
                    text.push('/');
                }
                text.push_str(&owner.name);
            }
            _ => {
                text.push('%');
                rest = after;
                continue;
            }
        }
        rest = letters.as_str();
    }
    text.push_str(rest);
    const END: &str = ": ";
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    while text.len() > MAX_PREFIX - END.len() {
        text.pop();
    }
    text.push_str(END);
    text
}

fn short_kind(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::GlobalNetworkPolicy => "gnp",
        ResourceKind::NetworkPolicy => "np",
        ResourceKind::Profile => "pro",
        ResourceKind::WorkloadEndpoint
        | ResourceKind::HostEndpoint
        | ResourceKind::NetworkSet
        | ResourceKind::GlobalNetworkSet
        | ResourceKind::Tier => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Direction, ResourceId};

    fn prefix(template: &str, owner: ResourceId) -> String {
        let list = RuleList { tier: Some("t1".into()), ..RuleList::default() };
        log_prefix(template, &RuleListId { owner, direction: Direction::Ingress }, &list)
    }

    #[test]
    fn specifiers_are_filled_in() {
        let np = || ResourceId::namespaced(ResourceKind::NetworkPolicy, "ns", "p");
        assert_eq!(prefix("calico-packet", np()), "calico-packet: ");
        assert_eq!(prefix("%t %k %n %p", np()), "t1 np p ns/p: ");
        let gnp = ResourceId::global(ResourceKind::GlobalNetworkPolicy, "g");
        assert_eq!(prefix("100%% %x %p%", gnp), "100%% %x g%: ");
    }

    #[test]
    fn the_prefix_fits_the_kernel_and_one_line() {
        let long = ResourceId::global(ResourceKind::GlobalNetworkPolicy, &"é".repeat(200));
        let text = prefix("%n", long);
        assert!(text.len() <= MAX_PREFIX && text.ends_with("é: "));
        let evil = ResourceId::global(ResourceKind::GlobalNetworkPolicy, "a\nb");
        assert_eq!(prefix("%n", evil), "a b: ");
    }
}
