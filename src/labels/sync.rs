//! Follows Docker's events and labels the endpoints of each container that something happened to.

use super::container::{read, read_all};
use crate::docker::{DockerClient, DockerError};
use crate::driver::{ContainerFacts, DriverError, Drivers};
use crate::model::EndpointId;
use crate::task::Backoff;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Pauses after the event stream broke.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often all containers are looked at: labels of an endpoint that was made anew, and what a full datastore refused.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How many containers are asked about at the same time: the engine answers for one only when its start is done, and the
/// others must not wait for that.
const AT_ONCE: usize = 16;
/// Labels that were complained about and are remembered so that it is said once.
const MOST_SAID: usize = 4096;

/// Why labels do not follow for a moment.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Docker(#[from] DockerError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("Docker's events: {0}")]
    Stream(String),
}

/// The task's state: which sentences were said.
#[derive(Debug)]
pub struct LabelSync {
    drivers: Arc<Drivers>,
    docker: DockerClient,
    /// How long the labels of one container are waited for.
    patience: Duration,
    said: BTreeSet<String>,
}

impl LabelSync {
    /// A task that waits up to `patience` for Docker's word about one container before it leaves it to the next look at
    /// all of them.
    #[must_use]
    pub fn new(drivers: Arc<Drivers>, docker: DockerClient, patience: Duration) -> Self {
        Self { drivers, docker, patience, said: BTreeSet::new() }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut said = String::new();
        loop {
            let Err(error) = self.follow(&mut backoff, &mut said).await;
            let sentence = error.to_string();
            if sentence != said {
                log::warn!("labels of containers do not follow for a moment: {sentence}");
                said = sentence;
            }
            backoff.pause().await;
        }
    }

    /// Follows one event stream to its end. It is there before all containers are looked at, so nothing happens between.
    async fn follow(
        &mut self,
        backoff: &mut Backoff,
        said: &mut String,
    ) -> Result<std::convert::Infallible, SyncError> {
        let mut events = self.docker.container_events().await?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A container is in at most one of the two: what happens to one that is asked about is asked again.
        let (mut waiting, mut asked) = (BTreeSet::<String>::new(), BTreeSet::<String>::new());
        let mut answers = FuturesUnordered::new();
        loop {
            let ready: Vec<String> =
                waiting.difference(&asked).take(AT_ONCE.saturating_sub(asked.len())).cloned().collect();
            for id in ready {
                waiting.remove(&id);
                asked.insert(id.clone());
                answers.push(label(self.drivers.clone(), self.docker.clone(), id, self.patience));
            }
            tokio::select! {
                event = events.next() => drop(waiting.insert(event.map_err(SyncError::Stream)?)),
                Some((id, outcome)) = answers.next() => {
                    asked.remove(&id);
                    match outcome {
                        Ok(problems) => self.say(problems),
                        Err(why) => log::warn!("container {id} is not labelled yet: {why}"),
                    }
                }
                _ = look.tick() => {
                    self.look_at_all().await?;
                    backoff.reset();
                    said.clear();
                }
            }
        }
    }

    /// Labels every endpoint that lacks something.
    async fn look_at_all(&mut self) -> Result<(), SyncError> {
        let containers = read_all(&self.docker.containers().await?);
        for id in self.drivers.unlabelled_endpoints(&containers).await? {
            if let Some(container) = containers.get(&id) {
                let problems = self.drivers.label_endpoint(&id, container).await?;
                self.say(problems);
            }
        }
        Ok(())
    }

    /// Says each sentence once.
    fn say(&mut self, problems: Vec<String>) {
        if self.said.len() > MOST_SAID {
            self.said.clear();
        }
        for problem in problems {
            if !self.said.contains(&problem) {
                log::warn!("{problem}");
                self.said.insert(problem);
            }
        }
    }
}

/// Asks Docker for one container and labels its endpoints.
async fn label(
    drivers: Arc<Drivers>,
    docker: DockerClient,
    id: String,
    patience: Duration,
) -> (String, Result<Vec<String>, String>) {
    let container = match tokio::time::timeout(patience, docker.container(&id)).await {
        Ok(Ok(Some(container))) => container,
        Ok(Ok(None)) => return (id, Ok(Vec::new())),
        Ok(Err(error)) => return (id, Err(error.to_string())),
        Err(_) => {
            let why = format!("Docker tells nothing of it within {}", humantime::format_duration(patience));
            return (id, Err(why));
        }
    };
    let (facts, endpoints) = read(&container);
    let outcome = label_all(&drivers, &facts, endpoints).await.map_err(|error| error.to_string());
    (id, outcome)
}

async fn label_all(
    drivers: &Drivers,
    facts: &ContainerFacts,
    endpoints: Vec<EndpointId>,
) -> Result<Vec<String>, DriverError> {
    let mut problems = Vec::new();
    for id in endpoints {
        problems.extend(drivers.label_endpoint(&id, facts).await?);
    }
    problems.sort();
    problems.dedup();
    Ok(problems)
}
