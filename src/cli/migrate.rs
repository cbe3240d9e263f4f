//! `migrate`: from the embedded datastore to etcd, and back.

use super::print;
use super::session::{Failure, Session};
use crate::app;
use crate::config::Datastore;
use crate::migrate::{Migration, Moved, reopen};
use crate::store::SharedStore;
use clap::{Args, Subcommand};

/// Which way.
#[derive(Debug, Subcommand)]
pub(super) enum Migrate {
    /// From this host's embedded datastore to the etcd that the settings name
    ToEtcd(Options),
    /// From the etcd that the settings name to this host's embedded datastore; the plugin must be off
    ToEmbedded(Options),
    /// Let a datastore be used again that a move closed
    Abort,
}

/// How.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(session: Session, question: Migrate) -> Result<(), Failure> {
    match question {
        Migrate::ToEtcd(options) => {
            let source = embedded(&session).await?;
            let etcd = etcd(&session)?;
            let migration = Migration { source: &*source, target: &*etcd, only_node: None };
            done(migration, &options, "Now: docker plugin disable -f, set ETCD_ENDPOINTS, enable").await
        }
        Migrate::ToEmbedded(options) => {
            if session.daemon_answers().await {
                let why = "the plugin runs and holds its state file: docker plugin disable -f it first; containers keep their traffic";
                return Err(Failure::Failed(why.to_owned()));
            }
            let node = app::node_name(&session.config).map_err(Failure::Failed)?;
            let (etcd, target) = (etcd(&session)?, state_file(&session).await?);
            let migration = Migration { source: &*etcd, target: &*target, only_node: Some(node.as_str()) };
            done(migration, &options, "Now: unset ETCD_ENDPOINTS, and docker plugin enable").await
        }
        Migrate::Abort => {
            let store = match session.config.datastore {
                Datastore::Embedded => embedded(&session).await?,
                Datastore::Etcd(_) => session.store.clone(),
            };
            let changed = reopen(&*store).await.map_err(|error| Failure::of(&error))?;
            print(if changed { "the datastore can be used again" } else { "the datastore was not closed" });
            Ok(())
        }
    }
}

fn etcd(session: &Session) -> Result<SharedStore, Failure> {
    match session.config.datastore {
        Datastore::Etcd(_) => Ok(session.store.clone()),
        Datastore::Embedded => Err(Failure::Usage(
            "which etcd? give the settings that the plugin gets or had: ETCD_ENDPOINTS=http://... migrate"
                .to_owned(),
        )),
    }
}

/// The embedded datastore: of the running plugin, or, while it is off, its file.
async fn embedded(session: &Session) -> Result<SharedStore, Failure> {
    if session.daemon_answers().await { Ok(session.served()) } else { state_file(session).await }
}

async fn state_file(session: &Session) -> Result<SharedStore, Failure> {
    let path = session.config.places.state_file();
    // Opening would make a file that is not there.
    if !path.exists() {
        return Err(Failure::Failed(format!("there is no state file {}", path.display())));
    }
    app::open_local(&session.config).await.map_err(|error| Failure::of(&error))
}

async fn done(migration: Migration<'_>, options: &Options, next: &str) -> Result<(), Failure> {
    let ended = if options.dry_run { migration.try_out().await } else { migration.run().await };
    let Moved { copied, same, removed, kept } = ended.map_err(|error| Failure::of(&error))?;
    let verb = if options.dry_run { "would copy" } else { "copied" };
    let mut text = format!("{verb} {copied} keys; {same} were there already");
    if removed > 0 {
        text.push_str(&format!("; {removed} of an earlier move are removed"));
    }
    for key in kept {
        text.push_str(&format!("\n{key} stays as it is there"));
    }
    if !options.dry_run {
        text.push_str(&format!("\n{next}"));
    }
    print(&text);
    Ok(())
}
