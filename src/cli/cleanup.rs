//! `cleanup`: take everything of this plugin out of the kernel, for an uninstall.

use crate::app;
use crate::bgp;
use crate::config::Config;
use crate::dataplane::{Dataplane, felix_programming};
use crate::driver::parse_alias;
use crate::net::{EndpointRef, Host, KernelHost};
use crate::routes;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

pub(super) fn run(config: Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&[error.to_string()]),
    };
    match runtime.block_on(remove(&config)).as_slice() {
        [] => ExitCode::SUCCESS,
        errors => failed(errors),
    }
}

fn failed(errors: &[String]) -> ExitCode {
    super::print(&errors.join("\n"));
    ExitCode::FAILURE
}

/// Takes the routes between nodes away, unless they are those of calico/node, which has the same devices and protocols.
async fn remove_routes(config: &Config, host: &KernelHost) -> Vec<String> {
    let places = app::bgp_places(config);
    let felix = match felix_programming(&app::dataplane_options(config)).await {
        Ok(found) => found.signs.into_iter().next(),
        Err(error) => return vec![format!("routes between nodes stay: {error}")],
    };
    if let Some(sign) = felix {
        super::print(&format!(
            "{sign}: Felix of calico/node programs this host; routes between nodes are its own and stay"
        ));
        return bgp::hand_over(&places).await.err().map(|error| error.to_string()).into_iter().collect();
    }
    let mut errors = Vec::new();
    match bgp::withdraw(&places, host).await {
        Ok(stays) => stays.iter().for_each(|sentence| super::print(sentence)),
        Err(error) => errors.push(error.to_string()),
    }
    errors.extend(routes::remove_all(host).await.err().map(|error| error.to_string()));
    errors
}

/// Goes on after an error: the rest is removed all the same.
async fn remove(config: &Config) -> Vec<String> {
    let mut errors = Vec::new();
    let host = match KernelHost::open(config.places.sysnet.clone()).await {
        Ok(host) => host,
        Err(error) => return vec![error.to_string()],
    };
    match host.links().await {
        Ok(links) => {
            for link in links {
                let Some(alias) = link.alias else { continue };
                let Some((id, _)) = parse_alias(&alias) else { continue };
                let endpoint = EndpointRef {
                    host: id.host_iface(),
                    temp: id.temp_iface(),
                    alias,
                    addresses: Vec::new(),
                };
                errors.extend(host.release_endpoint(&endpoint).await.err().map(|error| error.to_string()));
            }
        }
        Err(error) => errors.push(error.to_string()),
    }

    errors.extend(remove_routes(config, &host).await);
    errors.extend(host.remove_next_hops().await.err().map(|error| error.to_string()));
    let stop = CancellationToken::new();
    let (dataplane, worker) = Dataplane::new(app::dataplane_options(config));
    let (removed, ()) = futures::future::join(
        async {
            let removed = dataplane.remove_all().await;
            stop.cancel();
            removed
        },
        worker.run(stop.clone()),
    )
    .await;
    errors.extend(removed.err().map(|error| error.to_string()));
    errors
}
