//! The members of an etcd cluster and the connections to them. A call goes to the member that answered last, and to
//! the next one if that cannot be reached; nothing that may have been carried out is sent twice. Members that DNS named
//! are looked up again when none of them answers: a cluster may have moved.

use super::discovery;
use super::failure::{Failure, unavailable};
use super::options::EtcdOptions;
use crate::store::StoreError;
use etcd_client::Client;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// What a caller has to know about a change whose answer was lost.
const DOUBT: &str = "; the change may still be applied";

/// Whether a call may be sent again when its answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It only reads.
    Harmless,
    /// It may have changed something.
    Never,
}

/// All members.
pub(super) struct Cluster {
    options: EtcdOptions,
    /// Found out at the first use. Held while DNS is asked, so that calls which come together ask once.
    members: Mutex<Option<Arc<Vec<Member>>>>,
    /// DNS is to be asked again before the next use.
    outdated: AtomicBool,
    /// Asks DNS for the members' URLs.
    lookup: Lookup,
    /// The member that calls go to first.
    preferred: AtomicUsize,
    /// The endpoints, for sentences.
    name: String,
}

type Lookup = Box<dyn Fn(String) -> BoxFuture<'static, Result<Vec<String>, String>> + Send + Sync>;

struct Member {
    url: String,
    /// Made by the first call, dropped when it is found dead. Held across the authentication, so that calls which
    /// come together authenticate once.
    client: Mutex<Option<Client>>,
}

impl Cluster {
    pub(super) fn new(options: EtcdOptions) -> Self {
        let lookup = |domain: String| async move { discovery::discover(&domain).await }.boxed();
        Self::with_lookup(options, Box::new(lookup))
    }

    fn with_lookup(options: EtcdOptions, lookup: Lookup) -> Self {
        let name = match &options.discovery {
            Some(domain) => format!("what the SRV records of {domain} name"),
            None => options.urls().join(", "),
        };
        Self {
            options,
            members: Mutex::new(None),
            outdated: AtomicBool::new(false),
            lookup,
            preferred: AtomicUsize::new(0),
            name,
        }
    }

    /// The members, from the settings or from DNS. Where DNS does not answer any more, what it said before is kept.
    async fn members(&self) -> Result<Arc<Vec<Member>>, StoreError> {
        let mut members = self.members.lock().await;
        // Asked once for each failure: a DNS that is silent, too, must not use up the time of every call.
        let outdated = self.outdated.swap(false, Ordering::Relaxed);
        if let Some(known) = members.as_ref().filter(|_| !outdated) {
            return Ok(Arc::clone(known));
        }
        let urls = match (&self.options.discovery, &*members) {
            (None, _) => self.options.urls(),
            (Some(domain), known) => match ((self.lookup)(domain.clone()).await, known) {
                (Ok(urls), _) => urls,
                (Err(why), Some(known)) => {
                    log::warn!("the endpoints that were found before are kept: {why}");
                    return Ok(Arc::clone(known));
                }
                (Err(why), None) => return Err(StoreError::Unavailable { why }),
            },
        };
        if let Some(known) = &*members {
            if known.iter().map(|member| &member.url).eq(&urls) {
                return Ok(Arc::clone(known));
            }
            log::info!("{} are {} now", self.name, urls.join(", "));
        }
        let member = |url| Member { url, client: Mutex::new(None) };
        let found = Arc::new(urls.into_iter().map(member).collect());
        *members = Some(Arc::clone(&found));
        Ok(found)
    }

    /// No member could be reached.
    fn doubt_members(&self) {
        if self.options.discovery.is_some() {
            self.outdated.store(true, Ordering::Relaxed);
        }
    }

    /// The members' URLs.
    pub(super) async fn urls(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.members().await?.iter().map(|member| member.url.clone()).collect())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.options.request_timeout
    }

    pub(super) fn options(&self) -> &EtcdOptions {
        &self.options
    }

    /// Makes a call, by the deadline.
    pub(super) async fn call<T>(
        &self,
        repeat: Repeat,
        call: impl Fn(Client) -> BoxFuture<'static, Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        match timeout(self.options.request_timeout, self.try_members(repeat, call)).await {
            Ok(done) => done,
            Err(_) => {
                // What is silent now is dialled anew next time, and the next member is asked first.
                self.forget(self.preferred.load(Ordering::Relaxed));
                self.doubt_members();
                let seconds = self.options.request_timeout.as_secs_f32();
                let doubt = if repeat == Repeat::Never { DOUBT } else { "" };
                Err(unavailable(&self.name, &format!("no answer within {seconds} s{doubt}")))
            }
        }
    }

    async fn try_members<T>(
        &self,
        repeat: Repeat,
        call: impl Fn(Client) -> BoxFuture<'static, Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = unavailable("no endpoint", "no endpoint is given");
        let members = self.members().await?;
        for offset in 0..members.len() {
            let index = first.wrapping_add(offset) % members.len();
            let Some(member) = members.get(index) else { continue };
            self.preferred.store(index, Ordering::Relaxed);
            let failure = match self.client(member).await {
                Ok(client) => match call(client).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => Failure::from(error),
                },
                Err(failure) => failure,
            };
            let next_may_do = match &failure {
                Failure::NotSent(_) => true,
                Failure::Doubtful(_) => repeat == Repeat::Harmless,
                Failure::Refused(_) | Failure::Invalid(_) => false,
            };
            let failure = match failure {
                Failure::Doubtful(what) if repeat == Repeat::Never => Failure::Doubtful(what + DOUBT),
                other => other,
            };
            if matches!(failure, Failure::NotSent(_) | Failure::Doubtful(_)) {
                *member.client.lock().await = None;
            }
            last = failure.of(&self.name);
            if !next_may_do {
                return Err(last);
            }
        }
        self.doubt_members();
        Err(last)
    }

    fn forget(&self, index: usize) {
        // Whoever looks them up right now finds out by himself.
        let members = self.members.try_lock().ok().and_then(|members| members.clone());
        let Some(members) = members else { return };
        if let Some(member) = members.get(index)
            // Someone who is dialling it right now will see for himself.
            && let Ok(mut client) = member.client.try_lock()
        {
            *client = None;
        }
        let next = index.wrapping_add(1) % members.len().max(1);
        self.preferred.store(next, Ordering::Relaxed);
    }

    async fn client(&self, member: &Member) -> Result<Client, Failure> {
        let mut client = member.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let made = self.dial(&member.url).await?;
        *client = Some(made.clone());
        Ok(made)
    }

    /// New connections to each member in turn, for a watch, until `open` succeeds on one. Each watch has its own: on
    /// a shared one, a slow watcher would fill the connection's flow-control window and stall every call.
    pub(super) async fn open<T>(
        &self,
        open: impl Fn(Client) -> BoxFuture<'static, Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = unavailable("no endpoint", "no endpoint is given");
        let members = self.members().await?;
        for offset in 0..members.len() {
            let Some(member) = members.get(first.wrapping_add(offset) % members.len()) else {
                continue;
            };
            let opened = timeout(self.options.request_timeout, async {
                let client = self.dial(&member.url).await?;
                open(client).await.map_err(Failure::from)
            });
            last = match opened.await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(failure)) => failure.of(&self.name),
                Err(_) => unavailable(&self.name, "no answer to a watch"),
            };
        }
        self.doubt_members();
        Err(last)
    }

    /// A client of one member. Connects only if it has to authenticate; else the first call does.
    pub(super) async fn dial(&self, url: &str) -> Result<Client, Failure> {
        let options = self.options.connect_options(url).map_err(|error| match error {
            StoreError::Unavailable { why } => Failure::NotSent(why),
            other => Failure::NotSent(other.to_string()),
        })?;
        match Client::connect([url], Some(options)).await {
            // As etcd's own client: credentials that are not needed are no mistake.
            Err(etcd_client::Error::GRpcStatus(status))
                if status.message().contains("authentication is not enabled") =>
            {
                let open = EtcdOptions { credentials: None, ..self.options.clone() };
                let options =
                    open.connect_options(url).map_err(|error| Failure::NotSent(error.to_string()))?;
                Ok(Client::connect([url], Some(options)).await?)
            }
            connected => Ok(connected?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;

    /// A cluster whose DNS gives these answers, one after the other.
    fn cluster(answers: Vec<Result<Vec<&'static str>, &'static str>>) -> Cluster {
        let answers = StdMutex::new(answers.into_iter());
        let lookup = move |domain: String| {
            assert_eq!(domain, "example.org");
            let answer = answers.lock().unwrap().next().expect("DNS is asked once more");
            let owned = |urls: Vec<&str>| urls.into_iter().map(str::to_owned).collect();
            std::future::ready(answer.map(owned).map_err(str::to_owned)).boxed()
        };
        let discovery = Some("example.org".to_owned());
        let options = EtcdOptions { discovery, ..EtcdOptions::new(Vec::new()) };
        Cluster::with_lookup(options, Box::new(lookup))
    }

    /// Nothing listens there.
    async fn fail(cluster: &Cluster) {
        let get = |client: Client| async move { client.kv_client().get("/", None).await }.boxed();
        assert!(cluster.call(Repeat::Harmless, get).await.is_err());
    }

    #[tokio::test]
    async fn members_are_looked_up_again_when_none_answers_and_not_before() {
        let (old, new) = (vec!["http://127.0.0.1:1"], vec!["http://127.0.0.1:2", "http://127.0.0.1:3"]);
        let cluster = cluster(vec![Ok(old.clone()), Err("DNS is silent"), Ok(new.clone())]);
        assert_eq!(cluster.urls().await.unwrap(), old);
        assert_eq!(cluster.urls().await.unwrap(), old, "they are known");
        fail(&cluster).await;
        assert_eq!(cluster.urls().await.unwrap(), old, "DNS is silent");
        assert_eq!(cluster.urls().await.unwrap(), old, "and is not asked for each call");
        fail(&cluster).await;
        assert_eq!(cluster.urls().await.unwrap(), new);
    }

    #[tokio::test]
    async fn endpoints_of_the_settings_are_not_looked_up() {
        let urls = vec!["http://127.0.0.1:1".to_owned()];
        let cluster = Cluster::with_lookup(
            EtcdOptions::new(urls.clone()),
            Box::new(|_| std::future::ready(Err("nobody asks".to_owned())).boxed()),
        );
        fail(&cluster).await;
        assert_eq!(cluster.urls().await.unwrap(), urls);
    }
}
