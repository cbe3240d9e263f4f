//! Moving a cluster's data from one datastore to another: all of Calico's keys, IPAM included.
//!
//! ```text
//! compare -> lock the source (datastoreReady: false) -> copy -> compare again -> open the target
//! ```
//!
//! As Calico's `datastore migrate`, and without its files: both datastores are there. Nothing that exists in the target
//! and differs is overwritten, except what an earlier move left behind there. A move that was interrupted is finished by
//! the next: what is there already is the same. The source stays locked, so that nobody goes on writing to what was
//! left; it says in an annotation where its data went.

mod plan;

use crate::model::{ClusterInformationSpec, ObjectMeta, Resource, key};
use crate::store::typed::{self, Versioned};
use crate::store::{Entry, Store, StoreError, Txn, retry};
use plan::{Copy, Plan, cluster_key, plan};

/// Annotation of the ClusterInformation of a datastore that was left: the GUID of the cluster that has its data.
const MOVED_TO: &str = "org.projectcalico.docker.moved-to";
/// Keys and bytes of one transaction; etcd takes 128 operations and 1.5 MiB.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 512 << 10;
/// How often what was written meanwhile is copied after. The source is locked, so that hardly anything is.
const ROUNDS: usize = 20;
/// Obstacles that are told one by one.
const TOLD: usize = 20;

/// Why nothing was moved, or not all.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// One of the two datastores fails; doing it again goes on.
    #[error("{datastore}: {error}")]
    Store {
        /// Which.
        datastore: &'static str,
        /// Its error.
        error: StoreError,
    },
    /// Something stands in the way; nothing was moved.
    #[error("nothing was moved:\n  {}", listed(.0))]
    Obstacles(Vec<String>),
    /// There is nothing to move.
    #[error("the source holds no cluster: it has no ClusterInformation")]
    NoCluster,
    /// Somebody goes on writing to the source.
    #[error("the source is written to all the time; stop the plugins that use it and move again")]
    Busy,
}

fn listed(obstacles: &[String]) -> String {
    let mut told: Vec<String> = obstacles.iter().take(TOLD).cloned().collect();
    if obstacles.len() > TOLD {
        told.push(format!("and {} more", obstacles.len() - TOLD));
    }
    told.join("\n  ")
}

/// What a move does, or did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Keys that were copied.
    pub copied: usize,
    /// Keys that were there already.
    pub same: usize,
    /// Keys of an earlier move that were removed.
    pub removed: usize,
    /// Keys of nodes that the target knows already, otherwise than the source; they stay as they are there.
    pub kept: Vec<String>,
}

/// Source and target of a move.
#[derive(Debug, Clone, Copy)]
pub struct Migration<'a> {
    /// Where the data is.
    pub source: &'a dyn Store,
    /// Where it goes.
    pub target: &'a dyn Store,
    /// If the target serves one node only: its name.
    pub only_node: Option<&'a str>,
}

type Cluster = Versioned<Resource<ClusterInformationSpec>>;

fn of(datastore: &'static str) -> impl Fn(StoreError) -> MigrateError {
    move |error| MigrateError::Store { datastore, error }
}

impl Migration<'_> {
    /// What a move would do; changes nothing.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn try_out(&self) -> Result<Moved, MigrateError> {
        let (plan, _) = self.compare().await?;
        let (copied, removed) = (plan.copies.len(), plan.removals.len());
        Ok(Moved { copied, same: plan.same, removed, kept: plan.kept })
    }

    /// Moves.
    ///
    /// # Errors
    /// What stands in the way: then nothing was changed. A datastore that fails: then doing it again goes on.
    pub async fn run(&self) -> Result<Moved, MigrateError> {
        self.compare().await?;
        let source = cluster(self.source).await.map_err(of("source"))?.ok_or(MigrateError::NoCluster)?;
        let guid = self.prepare_target(&source).await?;
        set_ready(self.source, false, Some(&guid)).await.map_err(of("source"))?;
        let moved = match self.copy().await {
            Err(obstacles @ MigrateError::Obstacles(_)) => {
                set_ready(self.source, true, None).await.map_err(of("source"))?;
                return Err(obstacles);
            }
            copied => copied?,
        };
        set_ready(self.target, true, None).await.map_err(of("target"))?;
        Ok(moved)
    }

    /// What differs now, and the revision of the source at that moment.
    async fn compare(&self) -> Result<(Plan, u64), MigrateError> {
        let source = self.source.list(key::CALICO_ROOT).await.map_err(of("source"))?;
        let target = self.target.list(key::CALICO_ROOT).await.map_err(of("target"))?;
        if !source.entries.is_empty() && source.entries == target.entries {
            return Err(MigrateError::Obstacles(vec!["source and target are the same datastore".to_owned()]));
        }
        let (from, to) = (read(&source.entries), read(&target.entries));
        let from = from.ok_or(MigrateError::NoCluster)?;
        let mut plan = plan(&source.entries, &target.entries, is_stale(to.as_ref(), &from));
        if let Some(node) = self.only_node {
            plan.obstacles.extend(plan::other_nodes(&source.entries, node));
        }
        if plan.obstacles.is_empty() {
            Ok((plan, source.revision.0))
        } else {
            Err(MigrateError::Obstacles(plan.obstacles))
        }
    }

    /// Closes the target until it has everything; one that holds no cluster becomes this one. Returns its GUID.
    async fn prepare_target(&self, source: &Cluster) -> Result<String, MigrateError> {
        let target = cluster(self.target).await.map_err(of("target"))?;
        let stale = is_stale(target.as_ref().map(|target| &target.value), &source.value);
        if let Some(target) = target.as_ref().filter(|_| !stale) {
            set_ready(self.target, false, None).await.map_err(of("target"))?;
            return Ok(guid(&target.value));
        }
        let mut copy = source.value.clone();
        copy.spec.datastore_ready = Some(false);
        // Kept until everything is there, so that a move that is interrupted still finds a stale target.
        if let Some(target) = &target
            && let Some(mark) = target.value.metadata.annotation(MOVED_TO)
        {
            copy.metadata.annotate(MOVED_TO, mark);
        } else {
            unmark(&mut copy.metadata);
        }
        let key = cluster_key();
        let value = typed::encode(&key, &copy).map_err(of("source"))?;
        let txn = Txn::new().upsert(&key, target.map(|target| target.revision), value);
        self.target.commit(txn).await.map_err(of("target"))?;
        Ok(guid(&copy))
    }

    /// Copies until nothing differs and nothing was written meanwhile.
    async fn copy(&self) -> Result<Moved, MigrateError> {
        let mut moved = Moved::default();
        let mut seen = None;
        for _ in 0..ROUNDS {
            let (plan, revision) = self.compare().await?;
            if plan.copies.is_empty() && plan.removals.is_empty() && seen == Some(revision) {
                moved.kept = plan.kept;
                moved.same = plan.same.saturating_sub(moved.copied);
                return Ok(moved);
            }
            seen = Some(revision);
            for batch in batches(&plan.copies) {
                let put = |txn: Txn, copy: &Copy| txn.upsert(&copy.key, copy.at, copy.value.clone());
                if self.commit(batch.iter().fold(Txn::new(), put)).await? {
                    moved.copied += batch.len();
                }
            }
            for batch in plan.removals.chunks(BATCH) {
                let delete = |txn: Txn, (key, at): &(String, _)| txn.delete(key, *at);
                if self.commit(batch.iter().fold(Txn::new(), delete)).await? {
                    moved.removed += batch.len();
                }
            }
        }
        Err(MigrateError::Busy)
    }

    /// Whether the transaction was applied; one that lost a race is planned anew.
    async fn commit(&self, txn: Txn) -> Result<bool, MigrateError> {
        match self.target.commit(txn).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(of("target")(error)),
        }
    }
}

/// Opens a datastore that a move closed, and forgets that it was left. Whether there was anything to do.
///
/// # Errors
/// The datastore fails.
pub async fn reopen(store: &dyn Store) -> Result<bool, StoreError> {
    set_ready(store, true, None).await
}

fn batches(copies: &[Copy]) -> Vec<&[Copy]> {
    let mut found = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, copy) in copies.iter().enumerate() {
        let size = copy.key.len() + copy.value.len();
        if index > start && (index - start >= BATCH || bytes + size > BATCH_BYTES) {
            found.extend(copies.get(start..index));
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    found.extend(copies.get(start..).filter(|rest| !rest.is_empty()));
    found
}

async fn cluster(store: &dyn Store) -> Result<Option<Cluster>, StoreError> {
    typed::get(store, &cluster_key()).await
}

fn read(entries: &[Entry]) -> Option<Resource<ClusterInformationSpec>> {
    let own = cluster_key();
    let entry = entries.iter().find(|entry| entry.key == own)?;
    serde_json::from_slice(&entry.value).ok()
}

fn guid(cluster: &Resource<ClusterInformationSpec>) -> String {
    cluster.spec.cluster_guid.clone().unwrap_or_default()
}

/// Whether the target is what an earlier move away from it left behind, and its data is in the source now.
fn is_stale(
    target: Option<&Resource<ClusterInformationSpec>>,
    source: &Resource<ClusterInformationSpec>,
) -> bool {
    let mark = target.and_then(|target| target.metadata.annotation(MOVED_TO));
    mark.is_some_and(|mark| !mark.is_empty() && mark == guid(source))
}

fn unmark(metadata: &mut ObjectMeta) {
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(MOVED_TO);
    }
}

/// Opens or closes a datastore; `moved_to` is where its data went. Whether anything changed.
async fn set_ready(store: &dyn Store, ready: bool, moved_to: Option<&str>) -> Result<bool, StoreError> {
    retry::on_conflict(|| async {
        let Some(found) = cluster(store).await? else { return Ok(false) };
        let mut changed = found.value.clone();
        changed.spec.datastore_ready = Some(ready);
        match moved_to {
            Some(guid) => changed.metadata.annotate(MOVED_TO, guid),
            None if ready => unmark(&mut changed.metadata),
            None => {}
        }
        if serde_json::to_value(&changed).ok() == serde_json::to_value(&found.value).ok() {
            return Ok(false);
        }
        let value = typed::encode(&found.key, &changed)?;
        store.commit(Txn::new().update(&found.key, found.revision, value)).await?;
        Ok(true)
    })
    .await
}
