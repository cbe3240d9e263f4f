//! What Docker's answers say of a container and its endpoints. Pure.

use crate::docker::ContainerSummary;
use crate::driver::ContainerFacts;
use crate::model::EndpointId;
use std::collections::BTreeMap;

/// A container and its endpoints, those of other drivers included.
pub(super) fn read(container: &ContainerSummary) -> (ContainerFacts, Vec<EndpointId>) {
    // A name with a second slash is a link (`--link`) of another container to this one.
    let own = |name: &&str| !name.contains('/');
    let mut names = container.names.iter().flatten().map(|name| name.trim_start_matches('/'));
    let facts = ContainerFacts {
        id: container.id.clone(),
        name: names.find(own).unwrap_or_default().to_owned(),
        labels: container.labels.clone().unwrap_or_default(),
    };
    (facts, container.endpoint_ids().filter_map(|id| EndpointId::new(id).ok()).collect())
}

/// All endpoints with their containers.
pub(super) fn read_all(containers: &[ContainerSummary]) -> BTreeMap<EndpointId, ContainerFacts> {
    let of = |container| {
        let (facts, ids) = read(container);
        ids.into_iter().map(move |id| (id, facts.clone()))
    };
    containers.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_and_a_container_say_the_same() {
        let networks =
            r#""NetworkSettings":{"Networks":{"web":{"EndpointID":"e1"},"off":{"EndpointID":""}}}"#;
        let listed: ContainerSummary = serde_json::from_str(&format!(
            r#"{{"Id":"c1","Names":["/other/alias","/web-1"],"State":"running","Labels":{{"a":"b"}},{networks}}}"#
        ))
        .unwrap();
        let detail: crate::docker::ContainerDetail = serde_json::from_str(&format!(
            r#"{{"Id":"c1","Name":"/web-1","Config":{{"Labels":{{"a":"b"}}}},{networks}}}"#
        ))
        .unwrap();
        let (facts, ids) = read(&listed);
        assert_eq!((facts.name.as_str(), facts.labels["a"].as_str()), ("web-1", "b"));
        assert_eq!(ids, [EndpointId::new("e1").unwrap()]);
        assert_eq!(read(&detail.summary()), (facts.clone(), ids));
        assert_eq!(read_all(&[listed]), BTreeMap::from([(EndpointId::new("e1").unwrap(), facts)]));
    }
}
