//! The members of an etcd cluster and the connections to them. Members that DNS named are looked up again when none of
//! them answers: a cluster may have moved.
//!
//! ```text
//! call  -> the member that answered last; the next one if that cannot be reached, or is silent and the call only reads
//! watch -> the same, over a connection of its own
//! ```
//!
//! Nothing that may have been carried out is sent twice. Who finds a member silent tells all others: calls go to the next
//! one, and so do watches. A member that packets are dropped on the way to is so passed over once, and not by each for
//! himself.

use super::discovery;
use super::failure::{DOUBT, Failure, Repeat, unavailable};
use super::options::EtcdOptions;
use crate::store::StoreError;
use etcd_client::{Client, GetOptions};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a member may be silent while there is another one to ask: longer than a busy etcd takes, and than the election
/// of a leader, for which all would wait.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// Counts how often it was passed over.
    passed_over: watch::Sender<u64>,
}

impl Member {
    fn new(url: String) -> Self {
        Self { url, client: Mutex::new(None), passed_over: watch::Sender::new(0) }
    }
}

/// The member that a watch is on.
pub(super) struct Place {
    members: Arc<Vec<Member>>,
    index: usize,
    passed_over: watch::Receiver<u64>,
}

impl Place {
    fn new(members: &Arc<Vec<Member>>, index: usize, member: &Member) -> Self {
        Self { members: Arc::clone(members), index, passed_over: member.passed_over.subscribe() }
    }

    /// Waits until somebody finds the member silent; for ever where there is no other one.
    pub(super) async fn passed_over(&mut self) {
        if self.members.len() < 2 || self.passed_over.changed().await.is_err() {
            std::future::pending().await
        }
    }
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
        let found = Arc::new(urls.into_iter().map(Member::new).collect());
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
        let deadline = Instant::now() + self.options.request_timeout;
        let answered = match timeout_at(deadline, self.members()).await {
            Ok(members) => self.try_members(&members?, repeat, call, deadline).await,
            Err(_) => None,
        };
        answered.unwrap_or_else(|| {
            self.doubt_members();
            let seconds = self.options.request_timeout.as_secs_f32();
            let doubt = if repeat == Repeat::Never { DOUBT } else { "" };
            Err(unavailable(&self.name, &format!("no answer within {seconds} s{doubt}")))
        })
    }

    /// Asks one member after the other until one answers; `None` if none does by the deadline.
    async fn try_members<T>(
        &self,
        members: &[Member],
        repeat: Repeat,
        call: impl Fn(Client) -> BoxFuture<'static, Result<T, etcd_client::Error>>,
        deadline: Instant,
    ) -> Option<Result<T, StoreError>> {
        let mut last = unavailable("no endpoint", "no endpoint is given");
        let mut order = self.order(members.len());
        let mut asked = FuturesUnordered::new();
        // Who of them has not answered, those that were asked first before the others.
        let mut silent: Vec<usize> = Vec::new();
        let mut is_next_asked = true;
        loop {
            if is_next_asked
                && let Some(index) = order.next()
                && let Some(member) = members.get(index)
            {
                silent.push(index);
                asked.push(self.ask((index, member), members.len() > 1, &call));
            }
            let patience = deadline.min(Instant::now() + PATIENCE);
            match timeout_at(patience, asked.next()).await {
                Ok(Some((index, Ok(answer)))) => {
                    let before = silent.iter().take_while(|silent| **silent != index);
                    before.for_each(|silent| self.pass_over(members, *silent));
                    return Some(Ok(answer));
                }
                Ok(Some((index, Err(failure)))) => {
                    silent.retain(|silent| *silent != index);
                    if failure.is_of_this_member() {
                        self.pass_over(members, index);
                    }
                    let ends = !failure.leaves_it_to_others(repeat);
                    last = failure.doubting(repeat).of(&self.name);
                    if ends {
                        return Some(Err(last));
                    }
                    is_next_asked = true;
                }
                Ok(None) => {
                    self.doubt_members();
                    return Some(Err(last));
                }
                Err(_) if Instant::now() >= deadline => {
                    silent.iter().for_each(|silent| self.pass_over(members, *silent));
                    return None;
                }
                Err(_) => {
                    // What is asked from now on need not wait as well.
                    silent.last().into_iter().for_each(|silent| self.prefer_another(members, *silent));
                    is_next_asked = repeat == Repeat::Harmless;
                }
            }
        }
    }

    /// Asks one member. Until a connection to it is made and authenticated nothing is sent, so that a change, too, can go to
    /// another one if there are `others`.
    async fn ask<T>(
        &self,
        (index, member): (usize, &Member),
        others: bool,
        call: impl Fn(Client) -> BoxFuture<'static, Result<T, etcd_client::Error>>,
    ) -> (usize, Result<T, Failure>) {
        let patience = if others { PATIENCE } else { self.options.request_timeout };
        let answer = match timeout(patience, self.client(member)).await {
            Ok(Ok(client)) => call(client).await.map_err(Failure::from),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::NotSent(format!("no connection within {} s", patience.as_secs_f32()))),
        };
        (index, answer)
    }

    /// Which members are asked, the first one first.
    fn order(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let first = self.preferred.load(Ordering::Relaxed);
        (0..count).map(move |offset| first.wrapping_add(offset) % count)
    }

    /// A member cannot be reached, or is silent: this one is dialled anew when its turn comes again.
    fn pass_over(&self, members: &[Member], index: usize) {
        let Some(member) = members.get(index) else { return };
        // Someone who is dialling it right now will see for himself.
        if let Ok(mut client) = member.client.try_lock() {
            *client = None;
        }
        self.warn_of(members, index);
    }

    /// The next one is asked first, and the watches on this one are opened elsewhere.
    fn warn_of(&self, members: &[Member], index: usize) {
        let Some(member) = members.get(index) else { return };
        member.passed_over.send_modify(|times| *times = times.wrapping_add(1));
        self.prefer_another(members, index);
    }

    /// Asks the next one first, unless somebody else has seen to that: of many calls that one member does not answer, only
    /// the first one moves on, or the last one would be back at it.
    fn prefer_another(&self, members: &[Member], index: usize) {
        let next = index.wrapping_add(1) % members.len().max(1);
        let _ = self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A watch has lost its member. The connection that calls share is another one, and may be the only one left: new ones
    /// may not come through any more.
    pub(super) fn leave(&self, place: &Place) {
        self.warn_of(&place.members, place.index);
    }

    /// Whether etcd answers a read below a prefix now.
    pub(super) async fn answers(&self, prefix: &str) -> bool {
        let prefix = prefix.to_owned();
        let read = move |client: Client| {
            let (prefix, one) =
                (prefix.clone(), GetOptions::new().with_prefix().with_limit(1).with_keys_only());
            async move { client.kv_client().get(prefix, Some(one)).await }.boxed()
        };
        self.call(Repeat::Harmless, read).await.is_ok()
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
        open: impl Fn(Client) -> BoxFuture<'static, Result<T, Failure>>,
    ) -> Result<(T, Place), StoreError> {
        let mut last = unavailable("no endpoint", "no endpoint is given");
        let members = self.members().await?;
        let mut order = self.order(members.len()).peekable();
        while let Some(index) = order.next() {
            let Some(member) = members.get(index) else { continue };
            let place = Place::new(&members, index, member);
            // The last one has the time of a call: a busy etcd must be watched, too.
            let patience = if order.peek().is_some() { PATIENCE } else { self.options.request_timeout };
            let opened = timeout(patience, async { open(self.dial(&member.url).await?).await });
            let failure = match opened.await {
                Ok(Ok(opened)) => return Ok((opened, place)),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Doubtful("no answer to a watch".to_owned()),
            };
            if failure.is_of_this_member() {
                self.leave(&place);
            }
            last = failure.of(&self.name);
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

    #[test]
    fn of_many_that_find_a_member_silent_only_the_first_moves_on() {
        let urls: Vec<String> = (1..4).map(|port| format!("http://127.0.0.1:{port}")).collect();
        let members: Arc<Vec<Member>> = Arc::new(urls.iter().cloned().map(Member::new).collect());
        let cluster = Cluster::new(EtcdOptions::new(urls));
        let [mut on_it, mut elsewhere] = [0, 1].map(|index| Place::new(&members, index, &members[index]));
        for _ in 0..3 {
            cluster.pass_over(&members, 0);
        }
        assert_eq!(cluster.order(3).collect::<Vec<_>>(), [1, 2, 0]);
        assert!(on_it.passed_over().now_or_never().is_some(), "a watch on it is told");
        assert!(elsewhere.passed_over().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_change_goes_to_another_member_where_one_accepts_connections_and_says_nothing() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let urls = vec![format!("http://{}", silent.local_addr().unwrap()), "http://127.0.0.1:1".to_owned()];
        let mut options = EtcdOptions::new(urls);
        options.credentials = Some(("calico".to_owned(), "secret".to_owned()));
        let cluster = Cluster::new(options);
        let put = |client: Client| async move { client.kv_client().put("/", "", None).await }.boxed();
        let asked = Instant::now();
        let said = cluster.call(Repeat::Never, put).await.unwrap_err().to_string();
        assert!(said.contains("nothing listens there") && !said.contains(DOUBT), "{said}");
        assert!(asked.elapsed() < PATIENCE * 2, "it took {:?}", asked.elapsed());
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
