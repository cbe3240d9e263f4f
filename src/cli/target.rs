//! Who is meant: an address, an endpoint, or a container.

use super::session::{Failure, Session};
use crate::docker::DockerClient;
use crate::model::{Resource, WorkloadEndpointSpec, key};
use crate::store::typed;
use std::net::IpAddr;

/// One end of a flow, or what is to be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// How it was called.
    pub(super) word: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// Interface and node, if it is an endpoint.
    pub(super) endpoint: Option<(String, String)>,
}

type Endpoint = Resource<WorkloadEndpointSpec>;

/// Finds out who is meant by a word: an address; an endpoint by its ID or the beginning of it, its interface or its
/// resource's name; a container by its name or ID, which stands for all of its endpoints.
pub(super) async fn targets(session: &Session, word: &str) -> Result<Vec<Target>, Failure> {
    let endpoints = typed::list::<Endpoint>(&*session.store, &key::resources::<WorkloadEndpointSpec>()).await;
    let endpoints: Vec<Endpoint> =
        endpoints.map_err(|error| Failure::of(&error))?.into_iter().map(|it| it.value).collect();
    if let Ok(address) = word.parse::<IpAddr>() {
        let holder = endpoints.iter().find(|endpoint| addresses(endpoint).contains(&address));
        let endpoint = holder.map(|it| (it.spec.interface_name.clone(), it.spec.node.clone()));
        return Ok(vec![Target { word: word.to_owned(), addresses: vec![address], endpoint }]);
    }
    let called = |endpoint: &&Endpoint| {
        endpoint.spec.interface_name == word
            || endpoint.name() == word
            || (word.len() >= 4 && endpoint.spec.endpoint.starts_with(word))
    };
    let found: Vec<Target> = endpoints.iter().filter(called).map(|it| target(word, it)).collect();
    match found.len() {
        0 => of_container(session, word, &endpoints).await,
        1 => Ok(found),
        count => Err(Failure::Failed(format!("{word} means {count} endpoints; name one of them in full"))),
    }
}

async fn of_container(session: &Session, word: &str, endpoints: &[Endpoint]) -> Result<Vec<Target>, Failure> {
    let docker = DockerClient::new(&session.config.places.docker_socket());
    let containers = docker
        .containers()
        .await
        .map_err(|error| Failure::Failed(format!("{word} is no endpoint; is it a container? {error}")))?;
    let called: Vec<_> = containers.iter().filter(|container| container.is_called(word)).collect();
    let [container] = called.as_slice() else {
        let why = match called.len() {
            0 => "neither an address nor an endpoint nor a container",
            _ => "more than one container",
        };
        return Err(Failure::Failed(format!("{word} is {why}")));
    };
    let ids: Vec<&str> = container.endpoint_ids().collect();
    let own = |endpoint: &&Endpoint| ids.contains(&endpoint.spec.endpoint.as_str());
    let found: Vec<Target> = endpoints.iter().filter(own).map(|it| target(word, it)).collect();
    match found.is_empty() {
        true => {
            Err(Failure::Failed(format!("container {word} has no endpoint of this plugin; does it run?")))
        }
        false => Ok(found),
    }
}

fn addresses(endpoint: &Endpoint) -> Vec<IpAddr> {
    let texts = endpoint.spec.ip_networks.iter();
    texts.filter_map(|net| net.split('/').next().unwrap_or_default().parse().ok()).collect()
}

fn target(word: &str, endpoint: &Endpoint) -> Target {
    Target {
        word: word.to_owned(),
        addresses: addresses(endpoint),
        endpoint: Some((endpoint.spec.interface_name.clone(), endpoint.spec.node.clone())),
    }
}
