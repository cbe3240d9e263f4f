//! What is wrong with an etcd, before anything depends on it: each member by itself, then what our user may do.

use super::cluster::Cluster;
use super::failure::{Failure, unavailable};
use super::greet::{greet, speaks_tls};
use super::meaning::{explained, meaning};
use super::options::TlsFiles;
use super::{EtcdStore, kv};
use crate::store::{Guard, Revision, Store, StoreError, Txn};
use etcd_client::GetOptions;
use futures::FutureExt;
use std::time::Duration;
use tokio::time::timeout;

/// The oldest etcd that this is tested with.
const OLDEST: (u32, u32) = (3, 4);

/// How long a greeting may take.
const GREETING: Duration = Duration::from_secs(2);

/// A key that nobody has, to ask whether it may be written.
const PROBE: &str = "libnetwork-check";

/// One member, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberState {
    /// Its URL.
    pub url: String,
    /// Its version, or what is wrong with it.
    pub found: Result<String, String>,
}

impl EtcdStore {
    /// Dials every member.
    ///
    /// # Errors
    /// It is not known where the members are.
    pub async fn examine(&self) -> Result<Vec<MemberState>, StoreError> {
        let mut states = Vec::new();
        for url in self.cluster.urls().await? {
            let found = timeout(self.cluster.request_timeout(), version(&self.cluster, &url)).await;
            let found = found.unwrap_or_else(|_| {
                Err(format!("no answer within {} s", self.cluster.request_timeout().as_secs_f32()))
            });
            let found = match found {
                Ok(version) => check_version(version),
                Err(why) => Err(reason(&url, &self.cluster.options().tls, why).await),
            };
            states.push(MemberState { url, found });
        }
        Ok(states)
    }

    /// Whether our user may read and write below a prefix. Nothing is written: the condition of the write never holds,
    /// and etcd looks at permissions first.
    pub async fn examine_access(&self, prefix: &str) -> Result<(), StoreError> {
        let range = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
        self.read(prefix, Some(range)).await?;
        let key = format!("{prefix}{PROBE}");
        let never = Txn::new().guard(Guard::At(key.clone(), Revision(0))).put(key, "");
        match self.commit(never).await {
            Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                Err(unavailable(self.cluster.name(), "it applied a change whose condition did not hold"))
            }
        }
    }
}

async fn version(cluster: &Cluster, url: &str) -> Result<String, String> {
    let client = cluster.dial(url).await.map_err(|failure| failure.text().to_owned())?;
    // The member's version needs no permission; a read tells whether it knows us.
    let status = client.maintenance_client().status().await;
    let version = status.map_err(|error| Failure::from(error).text().to_owned())?;
    let read = async { kv(&client).get("/calico/", Some(GetOptions::new().with_count_only())).await }.boxed();
    match read.await {
        Ok(_) => Ok(version.version().to_owned()),
        Err(error) => Err(Failure::from(error).text().to_owned()),
    }
}

fn check_version(version: String) -> Result<String, String> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match found >= OLDEST {
        true => Ok(version),
        false => Err(format!("etcd {version} is too old: {}.{} or later is needed", OLDEST.0, OLDEST.1)),
    }
}

/// A better reason for a failure, if a greeting of our own finds one.
async fn reason(url: &str, tls: &TlsFiles, why: String) -> String {
    let greeting = async {
        match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(plain), _) if speaks_tls(plain).await => {
                Some("it speaks TLS: its URL begins with https://".to_owned())
            }
            // However the transport tells that it broke: what TLS had to say about it is not in that.
            (_, Some(authority)) if tls.ca.is_some() && meaning(&why).is_none() => {
                greet(authority, tls).await.err().map(explained)
            }
            _ => None,
        }
    };
    timeout(GREETING, greeting).await.ok().flatten().unwrap_or_else(|| why.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_etcd_is_named() {
        assert_eq!(check_version("3.5.16".to_owned()), Ok("3.5.16".to_owned()));
        assert!(check_version("4.0.0".to_owned()).is_ok() && check_version("3.10.1".to_owned()).is_ok());
        for old in ["3.3.27", "2.3.8", "nonsense"] {
            assert!(check_version(old.to_owned()).unwrap_err().contains("too old"), "{old}");
        }
    }
}
