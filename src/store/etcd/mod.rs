//! The datastore of a cluster: etcd v3, with the keys that Calico itself uses there.
//!
//! ```text
//! get, list, commit -> cluster: one connection, the next member if one is silent, a deadline -> etcd
//! watch             -> a connection of its own, resumed after the last revision seen       -> etcd
//! ```

mod cluster;
mod discovery;
mod examine;
mod failure;
mod greet;
mod meaning;
mod options;
mod watch;

pub use examine::MemberState;
pub use options::{EtcdOptions, TlsFiles};

use super::{Entry, Event, Guard, Listing, Op, Revision, Store, StoreError, Txn};
use bytes::Bytes;
use cluster::Cluster;
use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, KvClient, ResponseHeader, TxnOp, TxnOpResponse, TxnResponse,
};
use failure::{Repeat, unavailable};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::fmt;
use std::sync::Arc;

/// The largest answer that is accepted, in bytes: a list of some hundred thousand keys. gRPC's default is 4 MB.
const LARGEST_ANSWER: usize = 512 * 1024 * 1024;

/// A store in etcd.
#[derive(Clone)]
pub struct EtcdStore {
    cluster: Arc<Cluster>,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EtcdStore").field(&self.cluster.name()).finish()
    }
}

impl EtcdStore {
    /// A store that connects when it is first used. It returns at once and cannot fail; whatever is wrong (endpoints,
    /// files, credentials, network) is the [`StoreError::Unavailable`] of each call until it is right.
    #[must_use]
    pub fn connect(options: EtcdOptions) -> Self {
        Self { cluster: Arc::new(Cluster::new(options)) }
    }

    async fn read(&self, key: &str, options: Option<GetOptions>) -> Result<Listing, StoreError> {
        let key = key.to_owned();
        let call = move |client: etcd_client::Client| {
            let (key, options) = (key.clone(), options.clone());
            async move { kv(&client).get(key, options).await }.boxed()
        };
        let mut answer = self.cluster.call(Repeat::Harmless, call).await?;
        let revision = self.revision(answer.header())?;
        let entries = answer.take_kvs().into_iter().filter_map(entry).collect();
        Ok(Listing { entries, revision })
    }

    async fn write(&self, txn: Txn) -> Result<Revision, StoreError> {
        txn.validate()?;
        let request = etcd_client::Txn::new()
            .when(txn.guards.iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.ops.iter().map(operation).collect::<Vec<_>>())
            .or_else(
                txn.guards.iter().map(|guard| TxnOp::get(guard.key(), Some(keys_only()))).collect::<Vec<_>>(),
            );
        let call = move |client: etcd_client::Client| {
            let request = request.clone();
            async move { kv(&client).txn(request).await }.boxed()
        };
        let answer = self.cluster.call(Repeat::Never, call).await?;
        if !answer.succeeded() {
            let failed = failed_guard(&txn.guards, &answer);
            return Err(failed.map_or_else(
                || unavailable(self.cluster.name(), "it refused a transaction whose guards hold"),
                |guard| StoreError::Conflict { key: guard.key().to_owned() },
            ));
        }
        self.revision(answer.header())
    }

    fn revision(&self, header: Option<&ResponseHeader>) -> Result<Revision, StoreError> {
        let header = header.ok_or_else(|| unavailable(self.cluster.name(), "its answer has no header"))?;
        Ok(from_etcd(header.revision()))
    }
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move {
            if key.is_empty() {
                return Ok(None);
            }
            Ok(self.read(key, None).await?.entries.into_iter().next())
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.read(prefix, Some(GetOptions::new().with_prefix())).boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.write(txn).boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        watch::watch(Arc::clone(&self.cluster), prefix.to_owned(), from)
    }
}

fn kv(client: &etcd_client::Client) -> KvClient {
    client.kv_client().max_decoding_message_size(LARGEST_ANSWER)
}

fn keys_only() -> GetOptions {
    GetOptions::new().with_keys_only()
}

/// etcd counts in `i64` and never goes below 0.
fn from_etcd(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or_default())
}

fn to_etcd(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn compare(guard: &Guard) -> Compare {
    match guard {
        Guard::Absent(key) => Compare::version(key.as_str(), CompareOp::Equal, 0),
        // An absent key has modification revision 0 for etcd; for us it is at no revision: a version below 0 never is.
        Guard::At(key, Revision(0)) => Compare::version(key.as_str(), CompareOp::Less, 0),
        Guard::At(key, revision) => Compare::mod_revision(key.as_str(), CompareOp::Equal, to_etcd(*revision)),
    }
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Put(key, value) => TxnOp::put(key.as_str(), value.as_ref(), None),
        Op::Delete(key) => TxnOp::delete(key.as_str(), None),
    }
}

/// The first guard that does not hold, from the keys as the refused transaction found them.
fn failed_guard<'a>(guards: &'a [Guard], answer: &TxnResponse) -> Option<&'a Guard> {
    let found = answer.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Get(mut get) => get.take_kvs().first().map(KeyValue::mod_revision).map(from_etcd),
        _ => None,
    });
    let failed = guards.iter().zip(found).find(|(guard, found)| match guard {
        Guard::Absent(_) => found.is_some(),
        Guard::At(_, revision) => *found != Some(*revision),
    });
    failed.map(|(guard, _)| guard)
}

/// `None` for a key that is no text: it is none of Calico's.
fn entry(found: KeyValue) -> Option<Entry> {
    let revision = from_etcd(found.mod_revision());
    let (key, value) = found.into_key_value();
    match String::from_utf8(key) {
        Ok(key) => Some(Entry { key, value: Bytes::from(value), revision }),
        Err(error) => {
            log::warn!("key {} is not UTF-8 and is passed over", String::from_utf8_lossy(error.as_bytes()));
            None
        }
    }
}
