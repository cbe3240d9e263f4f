//! Documents into the datastore and out of it, each change guarded by what was read.

use super::complete::{DEFAULT_TIER, complete, tier_of};
use super::document::{Document, Stored, key, title};
use super::kind::{KindInfo, kind_of_document};
use super::{check, pool};
use crate::ipam::{Ipam, IpamError};
use crate::model::{IpPoolSpec, NodeName};
use crate::store::{SharedStore, Store, StoreError, Txn};
use serde_json::{Map, Value};
use std::time::Duration;

/// How long a pool that is being deleted stays disabled before its blocks are given back, so that every node's cache
/// has heard of it; Calico's client waits as long (`clientv3/ippool.go`).
const POOL_SETTLES: Duration = Duration::from_millis(500);

/// What is to be done with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Make it; it must not exist.
    Create,
    /// Put it in the place of the one that exists.
    Replace,
    /// Make it, or put it in the place of the one that exists.
    Apply,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It is new.
    Created,
    /// It stands in the place of its former self.
    Replaced,
    /// It is as it was.
    Unchanged,
    /// It is gone.
    Deleted,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        })
    }
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The document is wrong.
    #[error("{title}: {}", problems.join("\n  and "))]
    Wrong {
        /// The resource.
        title: String,
        /// One sentence for each field.
        problems: Vec<String>,
    },
    /// It is there already.
    #[error("{0} exists already; replace or apply changes it")]
    Exists(String),
    /// It is not there.
    #[error("there is no {0}")]
    Missing(String),
    /// Somebody else changed it since it was read.
    #[error("{0} was changed by someone else since it was read; get it again")]
    Conflict(String),
    /// Something else still needs it.
    #[error("{title} stays: {why}")]
    Needed {
        /// The resource.
        title: String,
        /// Who needs it, and what helps.
        why: String,
    },
    /// Nobody may write it.
    #[error("{0} belongs to the nodes and can only be read")]
    ReadOnly(String),
    /// The datastore fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Addresses cannot be given back.
    #[error(transparent)]
    Ipam(#[from] IpamError),
}

/// Reads one resource by the name that users know.
///
/// # Errors
/// The datastore fails, or what stands there cannot be read.
pub async fn find(
    store: &dyn Store,
    kind: &'static KindInfo,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Stored>, StoreError> {
    // Up to v3.31 Calico put the tier in front of a policy's name in the key (datamodel 1.8).
    let with_tier = format!("{DEFAULT_TIER}.{name}");
    let names = if kind.is_policy() { vec![name, &with_tier] } else { vec![name] };
    for name in names {
        let key = key(kind, namespace, name);
        if let Some(entry) = store.get(&key).await? {
            let why = "it is no JSON object".to_owned();
            return Stored::read(kind, &entry).map(Some).ok_or(StoreError::Corrupt { key, why });
        }
    }
    Ok(None)
}

/// Reads all resources of a kind, or of one of its namespaces, sorted by namespace and name. One that cannot be read
/// is left out and named in the second list.
///
/// # Errors
/// The datastore fails.
pub async fn list(
    store: &dyn Store,
    kind: &'static KindInfo,
    namespace: Option<&str>,
) -> Result<(Vec<Stored>, Vec<String>), StoreError> {
    let prefix = match namespace.filter(|_| kind.namespaced) {
        Some(namespace) => format!("{}{namespace}/", kind.root()),
        None => kind.root(),
    };
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for entry in store.list(&prefix).await?.entries {
        match Stored::read(kind, &entry) {
            Some(stored) => found.push(stored),
            None => unreadable.push(format!("{} cannot be read", entry.key)),
        }
    }
    found.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    Ok((found, unreadable))
}

/// Writes resources.
#[derive(Debug)]
pub struct Writer {
    store: SharedStore,
    /// RFC 3339, whole seconds.
    now: String,
}

impl Writer {
    /// A writer; `now` becomes the creation time of what is new.
    #[must_use]
    pub fn new(store: SharedStore, now: String) -> Self {
        Self { store, now }
    }

    /// Writes one document.
    ///
    /// # Errors
    /// Nothing was changed; the reason is in the error.
    pub async fn write(&self, verb: Verb, mut document: Document) -> Result<Done, WriteError> {
        let title = document.title();
        if !document.kind.writable {
            return Err(WriteError::ReadOnly(title));
        }
        let wrong = |problems: Vec<String>| match problems.is_empty() {
            true => Ok(()),
            false => Err(WriteError::Wrong { title: title.clone(), problems }),
        };
        wrong(check(&document))?;
        let former = find(&*self.store, document.kind, document.namespace.as_deref(), &document.name).await?;
        match (verb, &former) {
            (Verb::Create, Some(_)) => return Err(WriteError::Exists(title)),
            (Verb::Replace, None) => return Err(WriteError::Missing(title)),
            _ => {}
        }
        wrong(self.revision(&mut document, former.as_ref())?)?;
        complete(&mut document);
        wrong(self.beside_others(&document, former.as_ref()).await?)?;
        self.commit(document, former).await
    }

    /// The revision that a document was read at must be the present one; it is never stored.
    fn revision(&self, document: &mut Document, former: Option<&Stored>) -> Result<Vec<String>, WriteError> {
        let title = document.title();
        let mut given = None;
        document.edit_metadata(|metadata| given = metadata.remove("resourceVersion"));
        let given = given.as_ref().and_then(Value::as_str).filter(|given| !given.is_empty());
        match (given, former) {
            (None, _) => Ok(Vec::new()),
            (Some(given), Some(former)) if given == former.revision.to_string() => Ok(Vec::new()),
            (Some(_), Some(_)) => Err(WriteError::Conflict(title)),
            (Some(_), None) => Ok(vec![
                "metadata.resourceVersion: it does not exist, so it has none; leave it out".to_owned(),
            ]),
        }
    }

    async fn beside_others(
        &self,
        document: &Document,
        former: Option<&Stored>,
    ) -> Result<Vec<String>, StoreError> {
        if document.kind.word == "IPPool" {
            return pool::beside_others(&*self.store, document, former.map(|former| &former.value)).await;
        }
        if !document.kind.is_policy() {
            return Ok(Vec::new());
        }
        let mut problems = Vec::new();
        let tier = tier_of(document.spec());
        if let Some(former) = former {
            let before = tier_of(former.value.get("spec").and_then(Value::as_object));
            if before != tier {
                problems.push(format!(
                    "spec.tier: it is {before} and cannot be changed; delete the policy first"
                ));
            }
        }
        if let Some(kind) = kind_of_document("Tier")
            && self.store.get(&key(kind, None, &tier)).await?.is_none()
        {
            problems.push(format!("spec.tier: there is no Tier {tier}; create it first"));
        }
        Ok(problems)
    }

    async fn commit(&self, mut document: Document, former: Option<Stored>) -> Result<Done, WriteError> {
        let title = document.title();
        let before =
            former.as_ref().and_then(|former| former.value.get("metadata")).and_then(Value::as_object);
        document.edit_metadata(|metadata| self.identify(metadata, before));
        let txn = match &former {
            Some(former) => {
                if let (Some(root), Some(status)) =
                    (document.value.as_object_mut(), former.value.get("status"))
                {
                    root.insert("status".to_owned(), status.clone());
                }
                if document.value == former.value {
                    return Ok(Done::Unchanged);
                }
                Txn::new().update(&former.key, former.revision, encode(&former.key, &document.value)?)
            }
            None => {
                let key = document.key(&document.name);
                Txn::new().create(&key, encode(&key, &document.value)?)
            }
        };
        match self.store.commit(txn).await {
            Ok(_) if former.is_some() => Ok(Done::Replaced),
            Ok(_) => Ok(Done::Created),
            Err(StoreError::Conflict { .. }) => Err(WriteError::Conflict(title)),
            Err(error) => Err(error.into()),
        }
    }

    /// What Calico keeps for the life of a resource: its uid, its age, and the name in its key.
    fn identify(&self, metadata: &mut Map<String, Value>, before: Option<&Map<String, Value>>) {
        let kept = |field: &str| before.and_then(|before| before.get(field)).filter(|kept| !kept.is_null());
        let uid = kept("uid").cloned().unwrap_or_else(|| uuid::Uuid::new_v4().to_string().into());
        let age = kept("creationTimestamp").cloned().unwrap_or_else(|| self.now.clone().into());
        if let Some(name) = kept("name").cloned() {
            metadata.insert("name".to_owned(), name);
        }
        for (field, value) in [("uid", uid), ("creationTimestamp", age)] {
            metadata.insert(field.to_owned(), value);
        }
        for foreign in ["selfLink", "generation", "managedFields"] {
            metadata.remove(foreign);
        }
        for map in ["labels", "annotations"] {
            if metadata.get(map).is_some_and(|it| it.is_null() || it.as_object().is_some_and(Map::is_empty)) {
                metadata.remove(map);
            }
        }
    }

    /// Deletes one resource, unless something else still needs it.
    ///
    /// # Errors
    /// The reason; a pool may be left disabled when its addresses are in use.
    pub async fn delete(
        &self,
        kind: &'static KindInfo,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Done, WriteError> {
        let title = title(kind, namespace, name);
        if !kind.writable {
            return Err(WriteError::ReadOnly(title));
        }
        let found = find(&*self.store, kind, namespace, name).await?;
        let Some(mut found) = found else { return Err(WriteError::Missing(title)) };
        if let Some(why) = self.need(kind, &found).await? {
            return Err(WriteError::Needed { title, why });
        }
        if kind.word == "IPPool" {
            self.empty_pool(&mut found, &title).await?;
        }
        match self.store.commit(Txn::new().delete(&found.key, found.revision)).await {
            Ok(_) => Ok(Done::Deleted),
            Err(StoreError::Conflict { .. }) => Err(WriteError::Conflict(title)),
            Err(error) => Err(error.into()),
        }
    }

    /// Who still needs a resource.
    async fn need(&self, kind: &KindInfo, found: &Stored) -> Result<Option<String>, StoreError> {
        match kind.word {
            "Tier" if found.name == DEFAULT_TIER => {
                Ok(Some("policies that name no tier stand in it".to_owned()))
            }
            "Tier" => {
                for word in ["GlobalNetworkPolicy", "NetworkPolicy"] {
                    let Some(policies) = kind_of_document(word) else { continue };
                    let (all, _) = list(&*self.store, policies, None).await?;
                    let spec = |policy: &Stored| policy.value.get("spec").and_then(Value::as_object).cloned();
                    if let Some(policy) =
                        all.iter().find(|policy| tier_of(spec(policy).as_ref()) == found.name)
                    {
                        let title = title(policies, policy.namespace.as_deref(), &policy.name);
                        return Ok(Some(format!("{title} stands in it; delete its policies first")));
                    }
                }
                Ok(None)
            }
            "Profile" => {
                let Some(endpoints) = kind_of_document("WorkloadEndpoint") else { return Ok(None) };
                let (all, _) = list(&*self.store, endpoints, None).await?;
                let profiles = |endpoint: &Stored| endpoint.field("spec.profiles").cloned();
                let uses = |endpoint: &&Stored| {
                    profiles(endpoint).is_some_and(|it| {
                        it.as_array().is_some_and(|it| it.contains(&found.name.clone().into()))
                    })
                };
                let count = all.iter().filter(uses).count();
                Ok((count > 0).then(|| {
                    format!("{count} endpoints have it, and a missing profile denies everything; remove their containers first")
                }))
            }
            _ => Ok(None),
        }
    }

    /// Closes a pool and gives its blocks back, in the order of Calico's client.
    async fn empty_pool(&self, found: &mut Stored, title: &str) -> Result<(), WriteError> {
        let spec = found.value.get("spec").cloned().unwrap_or_default();
        let corrupt =
            |error: serde_json::Error| StoreError::Corrupt { key: found.key.clone(), why: error.to_string() };
        let spec: IpPoolSpec = serde_json::from_value(spec).map_err(corrupt)?;
        let needed = |why: String| WriteError::Needed { title: title.to_owned(), why };
        let node = NodeName::new("calicoctl").map_err(|error| needed(error.to_string()))?;
        let ipam = Ipam::new(self.store.clone(), node);
        let usage = ipam.usage(&spec.cidr, &spec.cidr).await?;
        if usage.used > usage.cooling {
            let why = format!(
                "{} of its addresses are in use; `ipam show` tells whose",
                usage.used - usage.cooling
            );
            return Err(needed(why));
        }
        if !spec.disabled {
            let mut closed = found.value.clone();
            super::document::edit(&mut closed, "spec", |spec| {
                drop(spec.insert("disabled".to_owned(), true.into()))
            });
            let txn = Txn::new().update(&found.key, found.revision, encode(&found.key, &closed)?);
            found.revision = self.store.commit(txn).await.map_err(|error| match error {
                StoreError::Conflict { .. } => WriteError::Conflict(title.to_owned()),
                error => error.into(),
            })?;
            tokio::time::sleep(POOL_SETTLES).await;
        }
        let stay = ipam.release_pool(&spec.cidr).await?;
        if stay.is_empty() {
            return Ok(());
        }
        let blocks: Vec<String> = stay.iter().map(ToString::to_string).collect();
        Err(needed(format!("blocks {} are in use; it is disabled now", blocks.join(", "))))
    }
}

/// A document's bytes. What YAML and JSON can hold always serialises.
fn encode(key: &str, value: &Value) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|error| StoreError::Corrupt { key: key.to_owned(), why: error.to_string() })
}
