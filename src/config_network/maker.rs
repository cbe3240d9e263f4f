//! Looks which of the wanted networks are there, and makes the others.

use super::wanted::{difference, request};
use crate::config::ConfigNetwork;
use crate::docker::{DockerClient, DockerError, DockerNetwork};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often it is looked whether they are still there.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same while something is missing: an engine that starts, a name that is taken and given up.
const TRY_EVERY: Duration = Duration::from_secs(2);
/// Under which name a plain daemon's IPAM driver is known; a managed plugin's has its own.
const V1_IPAM: &str = "calico-ipam";

/// The task's state: what is wanted, and which sentences were said.
#[derive(Debug)]
pub struct ConfigNetworks {
    wanted: Vec<ConfigNetwork>,
    docker: DockerClient,
    managed: bool,
    said: BTreeSet<String>,
}

impl ConfigNetworks {
    /// A task that makes these. `managed`: this runs as a managed plugin, whose name only the engine knows.
    #[must_use]
    pub fn new(wanted: Vec<ConfigNetwork>, docker: DockerClient, managed: bool) -> Self {
        Self { wanted, docker, managed, said: BTreeSet::new() }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        loop {
            let done = match self.pass().await {
                Ok(done) => done,
                Err(error) => {
                    Some(BTreeSet::from([format!("config-only networks are not looked at yet: {error}")]))
                }
            };
            let pause = if done.as_ref().is_some_and(BTreeSet::is_empty) { LOOK_EVERY } else { TRY_EVERY };
            if let Some(problems) = done {
                problems.difference(&self.said).for_each(|problem| log::warn!("{problem}"));
                self.said = problems;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes what is missing; answers a sentence for each network that is not as it should be, and nothing as long as the
    /// engine does not list this plugin as enabled, which takes it a moment after the start.
    async fn pass(&self) -> Result<Option<BTreeSet<String>>, DockerError> {
        let Some(ipam_driver) = self.ipam_driver().await? else { return Ok(None) };
        let networks = self.docker.networks().await?;
        let mut problems = BTreeSet::new();
        for wanted in &self.wanted {
            problems.extend(self.ensure(wanted, &ipam_driver, &networks).await);
        }
        Ok(Some(problems))
    }

    /// The name under which the engine knows this plugin, which networks call their IPAM driver.
    async fn ipam_driver(&self) -> Result<Option<String>, DockerError> {
        if !self.managed {
            return Ok(Some(V1_IPAM.to_owned()));
        }
        let plugins = self.docker.plugins().await?;
        Ok(plugins.into_iter().find(|plugin| plugin.enabled && plugin.is_this()).map(|plugin| plugin.name))
    }

    async fn ensure(
        &self,
        wanted: &ConfigNetwork,
        ipam_driver: &str,
        networks: &[DockerNetwork],
    ) -> Option<String> {
        let name = &wanted.name;
        if let Some(found) = networks.iter().find(|network| network.name == *name) {
            return difference(wanted, ipam_driver, found).map(|what| {
                format!(
                    "network {name} exists and is not what CALICO_LIBNETWORK_CONFIG_NETWORKS says: {what}; remove it, and \
                     it is made anew"
                )
            });
        }
        match self.docker.create_network(&request(wanted, ipam_driver)).await {
            Ok(()) => {
                log::info!("created config-only network {name}");
                None
            }
            // Somebody made it since the list; the next look compares it.
            Err(error) if error.is_conflict() => None,
            Err(error) => Some(format!("config-only network {name} is not made yet: {error}")),
        }
    }
}
