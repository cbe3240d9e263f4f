//! What a container's own labels make of its WorkloadEndpoint. Pure.
//!
//! A label of the attachment (`driver-opt`) wins over the container's label of the same name. Which labels came from the
//! container stands in an annotation, so that one that the container has no more is taken away, and nobody else's is.

use super::options::{LABEL_PREFIX, check_label, check_reserved};
use crate::model::{ObjectMeta, Resource, WorkloadEndpointSpec};
use std::collections::{BTreeMap, BTreeSet};

/// Annotation of a WorkloadEndpoint: ID of its container.
pub(super) const CONTAINER_ID: &str = "org.projectcalico.docker.container-id";
/// Annotation of a WorkloadEndpoint: name of its container, without the `/` in front.
pub(super) const CONTAINER_NAME: &str = "org.projectcalico.docker.container-name";
/// Annotation of a WorkloadEndpoint: names of the labels that came from the container, with commas between.
pub(super) const CONTAINER_LABELS: &str = "org.projectcalico.docker.container-labels";

/// What Docker knows of a container and a driver is not told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Container ID.
    pub id: String,
    /// Name without the `/` in front.
    pub name: String,
    /// All of its labels as Docker has them, `org.projectcalico.label.` in front of those that are meant for us.
    pub labels: BTreeMap<String, String>,
}

/// The labels that a container gives to its endpoints, and a sentence for each that it cannot give. `reserved` are those
/// by which endpoints of networks of the Go plugin know each other.
pub(super) fn labels_of(
    container: &ContainerFacts,
    reserved: &BTreeSet<String>,
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut labels = BTreeMap::new();
    let mut problems = Vec::new();
    let meant =
        container.labels.iter().filter_map(|(key, value)| Some((key.strip_prefix(LABEL_PREFIX)?, value)));
    for (label, value) in meant {
        match check_label(label, value).and_then(|()| check_reserved(label, reserved)) {
            Ok(()) => {
                labels.insert(label.to_owned(), value.clone());
            }
            Err(error) => {
                problems.push(format!("container {}: it goes without a label: {error}", container.name))
            }
        }
    }
    (labels, problems)
}

/// The WorkloadEndpoint with the labels, ID and name of its container; `None` if it has them already.
pub(super) fn merge(
    stored: &Resource<WorkloadEndpointSpec>,
    container: &ContainerFacts,
    labels: &BTreeMap<String, String>,
) -> Option<Resource<WorkloadEndpointSpec>> {
    let mut merged = stored.clone();
    let metadata = &mut merged.metadata;
    let mut all = metadata.labels.take().unwrap_or_default();
    for synced in synced(&stored.metadata) {
        all.remove(synced);
    }
    let given: BTreeMap<_, _> = labels.iter().filter(|(name, _)| !all.contains_key(*name)).collect();
    let names: Vec<&str> = given.keys().map(|name| name.as_str()).collect();
    annotate(metadata, CONTAINER_LABELS, &names.join(","));
    annotate(metadata, CONTAINER_ID, &container.id);
    annotate(metadata, CONTAINER_NAME, &container.name);
    all.extend(given.into_iter().map(|(name, value)| (name.clone(), value.clone())));
    metadata.labels = Some(all);
    (merged != *stored).then_some(merged)
}

/// Sets an annotation, or takes an empty one away.
fn annotate(metadata: &mut ObjectMeta, name: &str, value: &str) {
    match (value, &mut metadata.annotations) {
        ("", Some(annotations)) => drop(annotations.remove(name)),
        ("", None) => {}
        (value, _) => metadata.annotate(name, value),
    }
}

/// The labels that came from the container.
fn synced(metadata: &ObjectMeta) -> impl Iterator<Item = &str> {
    let names = metadata.annotation(CONTAINER_LABELS).unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn container(labels: &[(&str, &str)]) -> ContainerFacts {
        ContainerFacts { id: "c1".to_owned(), name: "web-1".to_owned(), labels: map(labels) }
    }

    fn endpoint(labels: &[(&str, &str)]) -> Resource<WorkloadEndpointSpec> {
        let metadata = ObjectMeta { labels: Some(map(labels)), ..ObjectMeta::default() };
        Resource::new(metadata, WorkloadEndpointSpec::default())
    }

    fn after(
        stored: &Resource<WorkloadEndpointSpec>,
        container: &ContainerFacts,
    ) -> Resource<WorkloadEndpointSpec> {
        let (labels, _) = labels_of(container, &BTreeSet::new());
        let merged = merge(stored, container, &labels).unwrap_or_else(|| stored.clone());
        assert_eq!(merge(&merged, container, &labels), None, "merged once is merged for good");
        merged
    }

    #[test]
    fn labels_of_the_attachment_win_and_labels_that_are_gone_go() {
        let stored = endpoint(&[("projectcalico.org/orchestrator", "libnetwork"), ("role", "db")]);
        let one = container(&[
            ("org.projectcalico.label.role", "web"),
            ("org.projectcalico.label.tier", "front"),
            ("com.docker.compose.service", "web"),
        ]);
        let merged = after(&stored, &one);
        let expected = [("projectcalico.org/orchestrator", "libnetwork"), ("role", "db"), ("tier", "front")];
        assert_eq!(merged.metadata.labels, Some(map(&expected)));
        assert_eq!(merged.metadata.annotation(CONTAINER_LABELS), Some("tier"));
        assert_eq!(merged.metadata.annotation(CONTAINER_NAME), Some("web-1"));

        let changed = after(&merged, &container(&[("org.projectcalico.label.tier", "back")]));
        assert_eq!(changed.metadata.labels.as_ref().unwrap()["tier"], "back");
        let bare = after(&changed, &container(&[]));
        assert_eq!(bare.metadata.labels, stored.metadata.labels);
        assert_eq!(bare.metadata.annotation(CONTAINER_LABELS), None);
        assert_eq!(bare.metadata.annotation(CONTAINER_ID), Some("c1"));
    }

    #[test]
    fn a_label_that_cannot_be_one_is_named_and_left_out() {
        let odd = container(&[
            ("org.projectcalico.label.ok", "1"),
            ("org.projectcalico.label.color", "dark blue"),
            ("org.projectcalico.label.projectcalico.org/orchestrator", "k8s"),
            ("org.projectcalico.label.network.projectcalico.org/abc", ""),
            ("org.projectcalico.label.pcns.x", "y"),
            ("org.projectcalico.label.old-pool", ""),
        ]);
        let (labels, problems) = labels_of(&odd, &BTreeSet::from(["old-pool".to_owned()]));
        assert_eq!(labels, map(&[("ok", "1")]));
        assert_eq!(problems.len(), 5);
        assert!(problems[0].contains("web-1") && problems[0].contains("dark blue"), "{}", problems[0]);
        assert!(problems[1].contains("reserved"), "{}", problems[1]);
    }
}
