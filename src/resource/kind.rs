//! The kinds that can be read and written, under all the names that calicoctl knows.

use crate::model::{
    ClusterInformationSpec, GlobalNetworkPolicySpec, GlobalNetworkSetSpec, HostEndpointSpec, IpPoolSpec,
    IpReservationSpec, Kind, NetworkPolicySpec, NetworkSetSpec, NodeSpec, ProfileSpec, TierSpec,
    WorkloadEndpointSpec, key,
};

/// One kind.
#[derive(Debug, PartialEq, Eq)]
pub struct KindInfo {
    /// `kind` in documents, e.g. `IPPool`.
    pub word: &'static str,
    /// The word in keys, e.g. `ippools`.
    pub plural: &'static str,
    /// Short names, in lower case.
    pub aliases: &'static [&'static str],
    /// Whether its resources stand in namespaces.
    pub namespaced: bool,
    /// Whether its resources can be written; endpoints belong to the driver, ClusterInformation to all nodes.
    pub writable: bool,
    /// Whether Calico always writes `"status":{}`.
    pub empty_status: bool,
}

const fn info<S: Kind>(aliases: &'static [&'static str]) -> KindInfo {
    KindInfo {
        word: S::KIND,
        plural: S::PLURAL,
        aliases,
        namespaced: false,
        writable: true,
        empty_status: S::EMPTY_STATUS,
    }
}

/// A kind of which nothing but its documents is known here.
const fn plain(word: &'static str, plural: &'static str, aliases: &'static [&'static str]) -> KindInfo {
    KindInfo { word, plural, aliases, namespaced: false, writable: true, empty_status: false }
}

/// Every kind, in the order in which a list of them reads well.
static KINDS: [KindInfo; 17] = [
    info::<IpPoolSpec>(&["ipp", "ipps", "pool", "pools"]),
    info::<IpReservationSpec>(&["ipreservation", "reservation", "reservations"]),
    info::<ProfileSpec>(&["pro", "pros"]),
    info::<TierSpec>(&[]),
    info::<GlobalNetworkPolicySpec>(&["gnp", "gnps"]),
    KindInfo {
        namespaced: true,
        ..info::<NetworkPolicySpec>(&["np", "nps", "pol", "pols", "policy", "policies"])
    },
    info::<GlobalNetworkSetSpec>(&["gns", "globalnetset", "globalnetsets"]),
    KindInfo { namespaced: true, ..info::<NetworkSetSpec>(&["netset", "netsets"]) },
    info::<NodeSpec>(&["no", "nos"]),
    info::<HostEndpointSpec>(&["hep", "heps"]),
    plain("FelixConfiguration", "felixconfigurations", &["felixconfig", "felixconfigs"]),
    plain("BGPConfiguration", "bgpconfigurations", &["bgpconfig", "bgpconfigs"]),
    plain("BGPPeer", "bgppeers", &["bgpp", "bgpps", "bp", "bps"]),
    plain("BGPFilter", "bgpfilters", &[]),
    plain("IPAMConfiguration", "ipamconfigurations", &["ipamconfig", "ipamconfigs"]),
    KindInfo { writable: false, ..info::<ClusterInformationSpec>(&["clusterinfo", "clusterinfos"]) },
    KindInfo { namespaced: true, writable: false, ..info::<WorkloadEndpointSpec>(&["wep", "weps"]) },
];

impl KindInfo {
    /// Prefix of the keys of all its resources.
    #[must_use]
    pub fn root(&self) -> String {
        format!("{}{}/", key::RESOURCE_ROOT, self.plural)
    }

    /// Whether it is a policy, whose name in the key may have its tier in front.
    #[must_use]
    pub fn is_policy(&self) -> bool {
        self.word == GlobalNetworkPolicySpec::KIND || self.word == NetworkPolicySpec::KIND
    }
}

/// The kind that a document's `kind` names, to the letter.
pub(super) fn kind_of_document(word: &str) -> Option<&'static KindInfo> {
    KINDS.iter().find(|kind| kind.word == word)
}

/// The kind that a word of the command line names.
///
/// # Errors
/// A sentence with all the words.
pub fn kind_of_word(word: &str) -> Result<&'static KindInfo, String> {
    let lower = word.to_lowercase();
    let named = |kind: &&KindInfo| {
        kind.word.eq_ignore_ascii_case(word) || kind.plural == lower || kind.aliases.contains(&lower.as_str())
    };
    KINDS.iter().find(named).ok_or_else(|| format!("{word:?} is no kind of resource; there are {}", words()))
}

/// All kinds, for sentences.
pub(super) fn words() -> String {
    let words: Vec<&str> = KINDS.iter().map(|kind| kind.word).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calicoctls_words_name_kinds() {
        for (word, kind) in [
            ("gnp", "GlobalNetworkPolicy"),
            ("np", "NetworkPolicy"),
            ("policies", "NetworkPolicy"),
            ("wep", "WorkloadEndpoint"),
            ("ipPool", "IPPool"),
            ("ippools", "IPPool"),
            ("Nodes", "Node"),
            ("tiers", "Tier"),
            ("felixconfig", "FelixConfiguration"),
            ("bgpconfig", "BGPConfiguration"),
            ("bgpp", "BGPPeer"),
            ("bgpfilters", "BGPFilter"),
            ("hep", "HostEndpoint"),
            ("clusterinfo", "ClusterInformation"),
            ("ipamconfig", "IPAMConfiguration"),
        ] {
            assert_eq!(kind_of_word(word).unwrap().word, kind, "{word}");
        }
        assert!(kind_of_word("pod").unwrap_err().contains("GlobalNetworkPolicy"));
    }

    #[test]
    fn no_word_names_two_kinds() {
        let mut all: Vec<&str> =
            KINDS.iter().flat_map(|kind| kind.aliases.iter().chain([&kind.plural])).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
