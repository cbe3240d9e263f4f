//! What is counted, and the page of all figures.

use crate::admin::{PolicyAnswer, PolicyDesk, PolicyQuestion};
use crate::config::Config;
use crate::dataplane::{self, Dataplane, RuleCount, Status};
use crate::ipam::{Census, Ipam, PoolUsage};
use crate::metrics::{Calls, Exposition, MetricsPage, serve_metrics};
use crate::protocol::{Request, Response};
use crate::server::Handler;
use crate::store::{Entry, Event, Listing, Revision, SharedStore, Store, StoreError, Txn};
use crate::task::Supervisor;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Longest that the kernel, the datastore or the owner of the policy graph may take for their part of the page.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is counted in this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    calls: Arc<Calls>,
    requests: Arc<Calls>,
    census: Arc<OnceLock<Census>>,
}

impl Metrics {
    /// Counts the addresses of the pools as well, from now on: before, nobody has opened the datastore.
    pub(super) fn count_addresses(&self, ipam: Ipam) {
        // Only the first counts; both would read the same.
        let _ = self.census.set(Census::new(ipam));
    }

    /// Counts the calls that a handler answers.
    pub(super) fn handler(&self, inner: impl Handler) -> impl Handler {
        CountedHandler { inner, calls: Arc::clone(&self.calls) }
    }

    /// Counts what a datastore is asked.
    pub(super) fn store(&self, inner: SharedStore) -> SharedStore {
        Arc::new(CountedStore { inner, requests: Arc::clone(&self.requests) })
    }

    /// The page.
    pub(super) fn page(&self, dataplane: Dataplane, desk: PolicyDesk) -> MetricsPage {
        let counts = self.clone();
        MetricsPage::new(move || {
            let (counts, dataplane, desk) = (counts.clone(), dataplane.clone(), desk.clone());
            async move { counts.write(&dataplane, &desk).await }.boxed()
        })
    }

    async fn write(&self, dataplane: &Dataplane, desk: &PolicyDesk) -> String {
        let mut page = Exposition::default();
        page.gauge("build_info", "The version that runs.");
        page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        self.calls.write(&mut page, "calls", "method", "Calls of the engine");
        self.requests.write(&mut page, "datastore_requests", "operation", "Requests to the datastore");
        write_status(&mut page, &dataplane.status().borrow().clone());
        let problems = tokio::time::timeout(PATIENCE, desk.ask(PolicyQuestion::Problems)).await;
        if let Ok(Ok(PolicyAnswer::Problems(problems))) = problems {
            page.gauge(
                "policy_problems",
                "Resources of policy that are wrong or not enforced, one for each sentence.",
            );
            page.sample("policy_problems", &[], problems.len());
        }
        if let Some(census) = self.census.get()
            && let Ok(Some(pools)) = tokio::time::timeout(PATIENCE, census.pools()).await
        {
            write_pools(&mut page, &pools);
        }
        if let Ok(Ok(counts)) = tokio::time::timeout(PATIENCE, dataplane::rule_counts(PATIENCE)).await {
            write_denied(&mut page, &counts);
        }
        if let Ok(Ok(chains)) = tokio::time::timeout(PATIENCE, dataplane::endpoint_chains(PATIENCE)).await {
            page.gauge(
                "endpoint_info",
                "The chain that decides about an endpoint's packets, by its interface.",
            );
            for (interface, chain) in &chains {
                page.sample("endpoint_info", &[("interface", interface), ("chain", chain)], 1);
            }
        }
        page.finish()
    }
}

fn write_status(page: &mut Exposition, status: &Status) {
    page.gauge("filter_in_force", "Whether the kernel had what is wanted when last seen.");
    page.sample("filter_in_force", &[], u8::from(status.in_force));
    page.counter("filter_commits_total", "Transactions that the kernel took.");
    page.sample("filter_commits_total", &[], status.commits);
    page.counter("filter_refusals_total", "Transactions that the kernel refused.");
    page.sample("filter_refusals_total", &[], status.refusals);
    page.counter("filter_repairs_total", "Times that what others had changed was put right.");
    page.sample("filter_repairs_total", &[], status.repairs);
    page.gauge("filter_refused", "Policies, sets and shapes that the kernel does not take: they deny.");
    page.sample("filter_refused", &[], status.refused.len());
    page.gauge(
        "filter_filling",
        "Members of sets that a change of policy under way has yet to add or delete.",
    );
    page.sample("filter_filling", &[], status.filling);
    page.gauge("filter_warnings", "What is wrong with the FORWARD chains.");
    page.sample("filter_warnings", &[], status.warnings.len());
    page.gauge("endpoints", "Endpoints that are open.");
    page.sample("endpoints", &[], status.endpoints);
}

/// Each address of a pool is in one state, so that the states add up to the pool.
fn write_pools(page: &mut Exposition, pools: &[PoolUsage]) {
    const NAME: &str = "ipam_pool_addresses";
    page.gauge(NAME, "Addresses of a pool, by state.");
    for PoolUsage { name, cidr, usage, .. } in pools {
        let cidr = cidr.to_string();
        for (state, count) in [
            ("held", usage.used.saturating_sub(usage.cooling)),
            ("cooling", usage.cooling),
            ("reserved", usage.reserved),
            ("free", usage.free()),
        ] {
            page.sample(NAME, &[("pool", name), ("cidr", &cidr), ("state", state)], count);
        }
    }
}

fn write_denied(page: &mut Exposition, counts: &[RuleCount]) {
    let drops = || counts.iter().filter(|count| count.drops);
    page.counter("denied_packets_total", "Packets that were dropped, by chain and reason.");
    for count in drops() {
        page.sample(
            "denied_packets_total",
            &[("chain", &count.chain), ("reason", &count.what)],
            count.packets,
        );
    }
    page.counter("denied_bytes_total", "Bytes of packets that were dropped, by chain and reason.");
    for count in drops() {
        page.sample("denied_bytes_total", &[("chain", &count.chain), ("reason", &count.what)], count.bytes);
    }
}

/// Serves the page where the setting says. Containers need no metrics: a port that is taken is logged, and the daemon
/// goes on without it.
pub(super) async fn listen(
    supervisor: &mut Supervisor,
    config: &Config,
    page: &MetricsPage,
    shutdown: &CancellationToken,
) {
    let Some(address) = config.metrics_listen else { return };
    match TcpListener::bind(address).await {
        Ok(listener) => {
            log::info!("metrics are at http://{address}/metrics");
            supervisor.spawn("metrics", serve_metrics(listener, page.clone(), shutdown.clone()));
        }
        Err(error) => log::warn!("metrics cannot be served at {address}: {error}"),
    }
}

struct CountedHandler<H> {
    inner: H,
    calls: Arc<Calls>,
}

impl<H: Handler> Handler for CountedHandler<H> {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Response, String>> {
        let method = request.method();
        async move {
            let started = Instant::now();
            let answer = self.inner.handle(request).await;
            self.calls.record(method, answer.is_ok(), started.elapsed());
            answer
        }
        .boxed()
    }
}

#[derive(Debug)]
struct CountedStore {
    inner: SharedStore,
    requests: Arc<Calls>,
}

impl CountedStore {
    /// A conflict is an answer.
    async fn counted<T>(
        &self,
        name: &'static str,
        work: BoxFuture<'_, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let outcome = work.await;
        let ok = outcome.as_ref().err().is_none_or(StoreError::is_conflict);
        self.requests.record(name, ok, started.elapsed());
        outcome
    }
}

impl Store for CountedStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        self.counted("get", self.inner.get(key)).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.counted("list", self.inner.list(prefix)).boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.counted("commit", self.inner.commit(txn)).boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxStream<'static, Result<Event, StoreError>> {
        self.inner.watch(prefix, from)
    }
}
