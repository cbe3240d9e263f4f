//! The members of an etcd cluster and the connections to them. A call goes to the member that answered last, and to
//! the next one if that cannot be reached; nothing that may have been carried out is sent twice.

use super::discovery;
use super::failure::{Failure, unavailable};
use super::options::EtcdOptions;
use crate::store::StoreError;
use etcd_client::Client;
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};
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
    /// Found out at the first use.
    members: OnceCell<Vec<Member>>,
    /// The member that calls go to first.
    preferred: AtomicUsize,
    /// The endpoints, for sentences.
    name: String,
}

struct Member {
    url: String,
    /// Made by the first call, dropped when it is found dead. Held across the authentication, so that calls which
    /// come together authenticate once.
    client: Mutex<Option<Client>>,
}

impl Cluster {
    pub(super) fn new(options: EtcdOptions) -> Self {
        let name = match &options.discovery {
            Some(domain) => format!("what the SRV records of {domain} name"),
            None => options.urls().join(", "),
        };
        Self { options, members: OnceCell::new(), preferred: AtomicUsize::new(0), name }
    }

    /// The members, from the settings or from DNS.
    async fn members(&self) -> Result<&[Member], StoreError> {
        let found = self.members.get_or_try_init(|| async {
            let urls = match &self.options.discovery {
                None => self.options.urls(),
                Some(domain) => {
                    let found = discovery::discover(domain).await;
                    found.map_err(|why| StoreError::Unavailable { why })?
                }
            };
            let member = |url| Member { url, client: Mutex::new(None) };
            Ok::<Vec<Member>, StoreError>(urls.into_iter().map(member).collect())
        });
        Ok(found.await?.as_slice())
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
                break;
            }
        }
        Err(last)
    }

    fn forget(&self, index: usize) {
        let Some(members) = self.members.get() else { return };
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
