//! Keeps BIRD as the datastore wants it.

use super::bird::{Bird, BirdError, Places, note, noted, write};
use super::feed::Feed;
use super::leftover::Leftover;
use super::reach::Reach;
use super::render::render;
use super::rendering::Setup;
use super::watched::Watched;
use crate::model::NodeName;
use crate::net::SharedUnderlay;
use crate::store::SharedStore;
use crate::task::Backoff;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often sessions are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often BIRD is asked by which routers its routes go; it is asked at its end, too, unless it is killed.
const NOTE: Duration = Duration::from_secs(30);
/// The first time after its start.
const SETTLED: Duration = Duration::from_secs(5);
/// Pauses before BIRD is started again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Before a configuration that could not be written, or that BIRD could not be told of, is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// A BIRD that has run for this long may be started again at once.
const SOUND: Duration = Duration::from_secs(60);

/// What the worker works with.
#[derive(Debug)]
pub struct Parts {
    /// The datastore.
    pub store: SharedStore,
    /// The kernel.
    pub host: SharedUnderlay,
    /// This node.
    pub node: NodeName,
    /// Whether this plugin programs the host; where Felix does, BIRD is calico/node's.
    pub active: watch::Receiver<bool>,
    /// What the settings say.
    pub setup: Setup,
    /// Where BIRD's things are.
    pub places: Places,
}

/// The owner of BIRD.
pub struct Worker {
    feed: Feed,
    host: SharedUnderlay,
    active: watch::Receiver<bool>,
    setup: Setup,
    places: Places,
    /// What BIRD runs with, once it was written.
    written: Option<String>,
    /// Whether it was written after BIRD read its file.
    unread: bool,
    /// When it is tried again, where that failed.
    again_at: Option<Instant>,
    /// The sentence about that.
    failure: String,
    /// Where its routes may lead by that.
    reach: Reach,
    /// By which routers they went when BIRD was asked last.
    routers: BTreeSet<IpAddr>,
    note_at: Instant,
    /// What is to become of its routes while somebody else programs this host.
    leftover: Leftover,
    bird: Option<Bird>,
    started: Instant,
    start_at: Instant,
    backoff: Backoff,
    watched: Watched,
    /// Sentences that were logged and still hold.
    problems: BTreeSet<String>,
}

impl Worker {
    /// A worker that has done nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, host, node, active, setup, places } = parts;
        let now = Instant::now();
        Self {
            feed: Feed::new(store, node),
            host,
            active,
            setup,
            places,
            written: None,
            unread: false,
            again_at: None,
            failure: String::new(),
            reach: Reach::default(),
            routers: BTreeSet::new(),
            note_at: now,
            leftover: Leftover::new(),
            bird: None,
            started: now,
            start_at: now,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            watched: Watched::default(),
            problems: BTreeSet::new(),
        }
    }

    /// Runs until it is told to stop. Then BIRD ends so that routes stay, here and at its peers: this process is about to
    /// be started again, or replaced.
    pub async fn run(mut self, stop: CancellationToken) {
        let began = Instant::now();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signalled = true;
        if !*self.active.borrow() {
            self.stand_back().await;
        }
        loop {
            let active = *self.active.borrow_and_update();
            let idle = active && self.written.is_some() && self.bird.is_none();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                switched = self.active.changed(), if signalled => {
                    signalled = switched.is_ok();
                    if signalled {
                        self.switch().await;
                    }
                }
                () = ended(&mut self.bird) => self.ended("it ended by itself"),
                () = sleep_until(self.start_at), if idle => self.start().await,
                () = self.leftover.due() => self.leftover.settle(&self.places, &self.host).await,
                () = due(self.again_at) => self.follow().await,
                _ = look.tick(), if self.bird.is_some() => self.look(began.elapsed()).await,
                () = self.feed.changed() => self.follow().await,
            }
        }
        self.leave().await;
    }

    /// Ends BIRD, if it runs, so that its routes stay.
    async fn leave(&mut self) {
        if self.bird.is_some() {
            self.note().await;
        }
        if let Some(bird) = self.bird.take() {
            bird.leave().await;
        }
    }

    /// Another begins or ends to program this host.
    async fn switch(&mut self) {
        if *self.active.borrow() {
            log::info!("BGP is this plugin's");
            self.leftover.take_back();
            self.start_at = Instant::now();
        } else {
            self.stand_back().await;
        }
    }

    /// Leaves BGP to calico/node's BIRD.
    async fn stand_back(&mut self) {
        log::info!("BGP is left to calico/node");
        if self.bird.is_none() {
            // That of a former process of this plugin.
            self.bird = Bird::adopt(&self.places).await.ok();
        }
        self.leave().await;
        self.watched.forget();
        self.leftover.leave(&self.places);
    }

    /// The datastore has changed, or what failed is tried again.
    async fn follow(&mut self) {
        self.again_at = None;
        let rendering = match render(self.feed.world(), self.setup) {
            Ok(rendering) => rendering,
            Err(why) => return self.tell([format!("BGP stays as it is: {why}")].into()),
        };
        self.leftover.learn(rendering.ends, rendering.patience);
        self.tell(rendering.problems.into_iter().map(|problem| format!("BGP: {problem}")).collect());
        if self.written.as_ref() != Some(&rendering.text) {
            if let Err(error) = write(&self.places, &rendering.text).await {
                // A program that is missing may come, a full disk be emptied.
                return self.fail(&error);
            }
            log::info!("BGP: configuration with {} sessions written", rendering.sessions.len());
            self.written = Some(rendering.text);
            self.reach = rendering.reach;
            self.unread = true;
            self.failure.clear();
            if self.bird.is_some() {
                self.note().await;
            }
        }
        self.configure().await;
    }

    /// Lets BIRD read its file, if it has not; one that is started does that by itself.
    async fn configure(&mut self) {
        let Some(bird) = self.bird.as_mut().filter(|_| self.unread) else { return self.failure.clear() };
        match bird.configure().await {
            Ok(()) => {
                self.unread = false;
                self.failure.clear();
            }
            Err(error) => self.fail(&error.into()),
        }
    }

    fn fail(&mut self, error: &BirdError) {
        let sentence = format!("BGP stays as it is: {error}");
        if sentence != self.failure {
            log::error!("{sentence}");
        }
        self.failure = sentence;
        self.again_at = Some(Instant::now() + AGAIN);
    }

    /// Logs what has not been said, and forgets what no longer holds.
    fn tell(&mut self, problems: BTreeSet<String>) {
        for problem in problems.difference(&self.problems) {
            log::warn!("{problem}");
        }
        self.problems = problems;
    }

    /// Keeps what tells this BIRD's routes from those of others, for when they are to go and it cannot be asked.
    async fn note(&mut self) {
        self.note_at = Instant::now() + NOTE;
        if let Some(bird) = &mut self.bird {
            match bird.control.routers().await {
                Ok(routers) => self.routers = routers,
                Err(error) => log::debug!("{error}"),
            }
        }
        let Reach { pools, routers } = &self.reach;
        let reach = Reach { pools: pools.clone(), routers: routers | &self.routers };
        if let Err(error) = note(&self.places, &reach).await {
            log::warn!("routes of BIRD may stay when BGP is switched off: {error}");
        }
    }

    async fn start(&mut self) {
        // Routes of a BIRD before it may still be there.
        match noted(&self.places).await {
            Ok(reach) => self.routers = reach.routers,
            Err(error) => {
                log::warn!("routes of a BIRD before this one may stay when BGP is switched off: {error}")
            }
        }
        self.note().await;
        let started = match Bird::adopt(&self.places).await {
            Ok(mut bird) => {
                log::info!("BIRD of a former process of this plugin goes on");
                bird.configure().await.map(|()| bird).map_err(BirdError::from)
            }
            Err(_) => Bird::start(&self.places).await,
        };
        match started {
            Ok(bird) => {
                self.note_at = Instant::now() + SETTLED;
                log::info!("BIRD runs; its control socket is {}", self.places.socket().display());
                self.bird = Some(bird);
                // A newer configuration that could not be written is still to come.
                self.unread = false;
                self.started = Instant::now();
            }
            Err(error) => {
                log::error!("BGP does not run: {error}");
                self.start_at = Instant::now() + self.pause();
            }
        }
    }

    fn pause(&mut self) -> Duration {
        self.backoff.next(uuid::Uuid::new_v4().as_fields().0)
    }

    fn ended(&mut self, why: &str) {
        log::error!("BIRD is started again: {why}");
        self.bird = None;
        self.watched.forget();
        if self.started.elapsed() > SOUND {
            self.backoff.reset();
        }
        self.start_at = Instant::now() + self.pause();
    }

    async fn look(&mut self, now: Duration) {
        if self.note_at <= Instant::now() {
            self.note().await;
        }
        let Some(bird) = &mut self.bird else { return };
        match bird.control.sessions().await {
            Ok(sessions) => {
                for told in self.watched.look(now, &sessions) {
                    let level = if told.bad { log::Level::Warn } else { log::Level::Info };
                    log::log!(level, "{}", told.sentence);
                }
            }
            Err(error) if bird.is_adopted() => self.ended(&error.to_string()),
            // Its end is noticed by itself; a connection that broke is made anew.
            Err(error) => log::warn!("{error}"),
        }
    }
}

async fn ended(bird: &mut Option<Bird>) {
    match bird {
        Some(bird) => match bird.ended().await {
            Ok(status) => log::warn!("BIRD ended: {status}"),
            Err(error) => log::warn!("wait for BIRD: {error}"),
        },
        None => std::future::pending().await,
    }
}

/// Returns at a time; never if there is none.
async fn due(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RouterId;
    use crate::net::KernelHost;
    use crate::store::{MemoryStore, Store, Txn};
    use std::sync::Arc;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixListener;

    /// A worker that has read a datastore with its node, and the folder of all its places.
    async fn worker() -> (Worker, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let places = Places { program: path("bird"), folder: path("state"), run: path("run") };
        std::fs::create_dir(&places.run).unwrap();
        let store = MemoryStore::new();
        let key = "/calico/resources/v3/projectcalico.org/nodes/n1";
        let node = r#"{"metadata":{"name":"n1"},"spec":{"bgp":{"ipv4Address":"172.16.0.1/24"}}}"#;
        store.commit(Txn::new().create(key, node)).await.unwrap();
        let mut worker = Worker::new(Parts {
            store: Arc::new(store),
            host: Arc::new(KernelHost::open("/proc/sys/net").await.unwrap()),
            node: NodeName::new("n1").unwrap(),
            active: watch::channel(true).1,
            setup: Setup { router_id: RouterId::NodeAddress, blackholes: false },
            places,
        });
        worker.feed.changed().await;
        (worker, folder)
    }

    /// A program that takes every configuration.
    fn install(worker: &Worker) {
        std::os::unix::fs::symlink("/bin/true", &worker.places.program).unwrap();
    }

    #[tokio::test]
    async fn a_configuration_that_could_not_be_written_is_written_later() {
        let (mut worker, _folder) = worker().await;
        worker.follow().await;
        assert!(worker.written.is_none() && worker.again_at.is_some());
        install(&worker);
        worker.follow().await;
        assert!(worker.written.is_some() && worker.again_at.is_none());
    }

    #[tokio::test]
    async fn a_configuration_that_could_not_be_written_is_not_forgotten_when_bird_is_started() {
        let (mut worker, _folder) = worker().await;
        worker.written = Some("an older one".to_owned());
        worker.follow().await;
        let listener = UnixListener::bind(worker.places.socket()).unwrap();
        tokio::spawn(async move {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            stream.get_mut().write_all(b"0001 BIRD 2.0.12 ready.\n").await.unwrap();
            stream.read_line(&mut String::new()).await.unwrap();
            stream.get_mut().write_all(b"0003 Reconfigured\n").await.unwrap();
            std::future::pending::<()>().await;
        });
        worker.start().await;
        assert!(worker.bird.is_some() && worker.again_at.is_some());
    }

    #[tokio::test]
    async fn a_bird_that_did_not_hear_of_its_configuration_is_told_again() {
        let (mut worker, _folder) = worker().await;
        install(&worker);
        let listener = UnixListener::bind(worker.places.socket()).unwrap();
        tokio::spawn(async move {
            // Two questions about routes are answered on the first connection; the third, `configure`, is not.
            for answers in [&["0000 \n", "0000 \n"][..], &["0003 Reconfigured\n"]] {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                stream.get_mut().write_all(b"0001 BIRD 2.0.12 ready.\n").await.unwrap();
                for answer in answers {
                    stream.read_line(&mut String::new()).await.unwrap();
                    stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        worker.bird = Some(Bird::adopt(&worker.places).await.unwrap());
        worker.follow().await;
        assert!(worker.written.is_some() && worker.unread && worker.again_at.is_some());
        worker.follow().await;
        assert!(!worker.unread && worker.again_at.is_none());
    }
}
