//! Network namespaces for tests: about 2 ms each, in parallel, gone with the test.
//!
//! A namespace is a plain thread that called `unshare(CLONE_NEWNET)`. Threads, sockets and files below `/proc/sys/net`
//! that it opens are of its namespace. Needs root, or `unshare -Ur`.
//!
//! ```text
//! netns::run(|| async {              // the host's namespace, lo is up
//!     let ip = Ip::open();           // a few words of iproute2
//!     let web = Namespace::new();    // a container's
//!     web.enter(|| probe_udp(...));  // runs on the container's thread
//! });
//! ```

use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, IpVersion, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a probe waits before it says that nothing comes through.
const PATIENCE: Duration = Duration::from_secs(2);

fn enter_new() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("unshare(CLONE_NEWNET): {error}; be root, or use unshare -Ur"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs a test in a network namespace of its own, with `lo` up; skips it where namespaces cannot be made.
pub fn run<F, Fut>(test: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let outcome = std::thread::spawn(move || {
        if !super::available("netns", enter_new()) {
            return;
        }
        runtime().block_on(async {
            Ip::open().up("lo").await;
            test().await;
        });
    });
    if let Err(panic) = outcome.join() {
        std::panic::resume_unwind(panic);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A second namespace beside that of [`run`]: a container, or another host. Ends when dropped.
pub struct Namespace {
    jobs: Option<mpsc::SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    handle: File,
}

impl Namespace {
    /// Makes it, with `lo` up.
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let (ready, made) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            enter_new().unwrap();
            ready
                .send(File::open(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid())).unwrap())
                .unwrap();
            for job in queue {
                job();
            }
        });
        let namespace = Self { jobs: Some(jobs), thread: Some(thread), handle: made.recv().unwrap() };
        namespace.enter_async(|| async { Ip::open().up("lo").await });
        namespace
    }

    /// Runs something on the namespace's thread and waits for it. Threads and sockets that it makes stay there.
    pub fn enter<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::sync_channel(1);
        let job = Box::new(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            answer.send(outcome).unwrap();
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        answered.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The same for a future, on a runtime of its own.
    pub fn enter_async<T, F, Fut>(&self, job: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
    {
        self.enter(move || runtime().block_on(job()))
    }

    /// Moves a link of the calling thread's namespace here, and gives it another name, as Docker does in a container.
    pub async fn take(&self, link: &str, name: &str) {
        let ip = Ip::open();
        let index = ip.index(link).await.unwrap_or_else(|| panic!("no link {link} to move"));
        let moved =
            LinkUnspec::new_with_index(index).setns_by_fd(self.handle.as_raw_fd()).name(name.to_owned());
        ip.handle.link().set(moved.build()).execute().await.unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One interface of a container, as Docker configures it from a Join answer.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Name in the container.
    pub name: &'static str,
    /// Addresses, as /32 and /128.
    pub addresses: Vec<IpAddr>,
    /// Next hops, each with a connected host route.
    pub next_hops: Vec<IpAddr>,
    /// Whether the next hops are default gateways.
    pub default: bool,
}

impl Nic {
    /// Brings it up and adds addresses and routes, in Docker's order; runs in the container's namespace.
    pub async fn configure(&self) {
        let ip = Ip::open();
        for address in &self.addresses {
            ip.address(self.name, *address, if address.is_ipv4() { 32 } else { 128 }).await;
        }
        ip.up(self.name).await;
        for next_hop in &self.next_hops {
            ip.route(*next_hop, if next_hop.is_ipv4() { 32 } else { 128 }, None, self.name).await;
            if self.default {
                let any: IpAddr = if next_hop.is_ipv4() {
                    Ipv4Addr::UNSPECIFIED.into()
                } else {
                    Ipv6Addr::UNSPECIFIED.into()
                };
                ip.route(any, 0, Some(*next_hop), self.name).await;
            }
        }
    }
}

/// A few words of iproute2, in the namespace of the thread that opened it.
pub struct Ip {
    pub handle: Handle,
}

impl Ip {
    /// Opens a socket; needs a runtime.
    pub fn open() -> Self {
        let (connection, handle, _unsolicited) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        Self { handle }
    }

    /// The index of a link.
    pub async fn index(&self, name: &str) -> Option<u32> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        links.try_next().await.ok().flatten().map(|link| link.header.index)
    }

    async fn the_index(&self, name: &str) -> u32 {
        self.index(name).await.unwrap_or_else(|| panic!("no link {name}"))
    }

    /// `ip link set NAME up`
    pub async fn up(&self, name: &str) {
        let index = self.the_index(name).await;
        self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
    }

    /// `ip link set NAME down`
    pub async fn down(&self, name: &str) {
        let index = self.the_index(name).await;
        self.handle.link().set(LinkUnspec::new_with_index(index).down().build()).execute().await.unwrap();
    }

    /// `ip link add A type veth peer name B`
    pub async fn veth(&self, a: &str, b: &str) {
        self.handle.link().add(LinkVeth::new(a, b).build()).execute().await.unwrap();
    }

    /// `ip link add NAME type bridge`
    pub async fn bridge(&self, name: &str) {
        self.handle.link().add(rtnetlink::LinkBridge::new(name).build()).execute().await.unwrap();
    }

    /// `ip link set NAME alias ALIAS`
    pub async fn alias(&self, name: &str, alias: &str) {
        let index = self.the_index(name).await;
        self.handle
            .link()
            .set(LinkUnspec::new_with_index(index).alias(alias).build())
            .execute()
            .await
            .unwrap();
    }

    /// `ip link del NAME`
    pub async fn delete(&self, name: &str) {
        let index = self.the_index(name).await;
        self.handle.link().del(index).execute().await.unwrap();
    }

    /// `ip addr add ADDRESS/LEN dev NAME nodad`
    pub async fn address(&self, name: &str, address: IpAddr, len: u8) {
        let index = self.the_index(name).await;
        let mut request = self.handle.address().add(index, address, len);
        request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        request.execute().await.unwrap();
    }

    fn route_message(to: IpAddr, len: u8, via: Option<IpAddr>, index: u32) -> RouteMessage {
        match to {
            IpAddr::V4(to) => {
                let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(to, len)
                    .output_interface(index);
                route = match via {
                    Some(IpAddr::V4(via)) => route.gateway(via),
                    _ => route.scope(RouteScope::Link),
                };
                route.build()
            }
            IpAddr::V6(to) => {
                let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(to, len)
                    .output_interface(index);
                if let Some(IpAddr::V6(via)) = via {
                    route = route.gateway(via);
                }
                route.build()
            }
        }
    }

    /// `ip route add TO/LEN [via VIA] dev NAME`
    pub async fn route(&self, to: IpAddr, len: u8, via: Option<IpAddr>, name: &str) {
        let index = self.the_index(name).await;
        self.handle.route().add(Self::route_message(to, len, via, index)).execute().await.unwrap();
    }

    /// `ip route del TO/LEN dev NAME`
    pub async fn delete_route(&self, to: IpAddr, len: u8, name: &str) {
        let index = self.the_index(name).await;
        let mut route = Self::route_message(to, len, None, index);
        // Whoever made it.
        (route.header.protocol, route.header.scope) = (RouteProtocol::Unspec, RouteScope::NoWhere);
        self.handle.route().del(route).execute().await.unwrap();
    }

    /// All routes of a family, without those that expire by themselves.
    pub async fn routes(&self, version: IpVersion) -> Vec<RouteMessage> {
        let message = match version {
            IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        self.handle.route().get(message).execute().try_collect().await.unwrap()
    }

    /// All addresses.
    pub async fn addresses(&self) -> Vec<AddressMessage> {
        self.handle.address().get().execute().try_collect().await.unwrap()
    }

    /// All neighbour entries.
    pub async fn neighbours(&self) -> Vec<NeighbourMessage> {
        self.handle.neighbours().get().execute().try_collect().await.unwrap()
    }

    /// Links, addresses, routes and permanent neighbours as sorted text, without counters, times and what the kernel
    /// makes by itself: what to compare when nothing may be left behind.
    pub async fn everything(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.unwrap() {
            let told = link.attributes.iter().filter(|attribute| {
                use LinkAttribute::{Address, IfAlias, IfName, Mtu};
                matches!(attribute, IfName(_) | IfAlias(_) | Address(_) | Mtu(_))
            });
            let up = link.header.flags.contains(LinkFlags::Up);
            all.push(format!("link {} up {up} {:?}", link.header.index, told.collect::<Vec<_>>()));
        }
        for address in self.addresses().await {
            let told = address
                .attributes
                .iter()
                .filter(|attribute| !matches!(attribute, AddressAttribute::CacheInfo(_)));
            all.push(format!("address {:?} {:?}", address.header, told.collect::<Vec<_>>()));
        }
        for version in [IpVersion::V4, IpVersion::V6] {
            for route in self.routes(version).await {
                // What the kernel makes by itself follows the addresses, some of it a moment later.
                if route.header.protocol == RouteProtocol::Kernel {
                    continue;
                }
                let told = route
                    .attributes
                    .iter()
                    .filter(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
                all.push(format!("route {:?} {:?}", route.header, told.collect::<Vec<_>>()));
            }
        }
        for neighbour in self.neighbours().await {
            if neighbour.header.state == NeighbourState::Permanent {
                all.push(format!(
                    "neighbour {} {:?}",
                    neighbour.header.ifindex,
                    neighbour.attributes.first()
                ));
            }
        }
        all.sort();
        all
    }
}

// ---- sysctls ----

/// Reads a setting below `/proc/sys/net` in the calling thread's namespace.
pub fn sysctl(name: &str) -> String {
    let path = format!("/proc/sys/net/{name}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim_end().to_owned()
}

/// Writes a setting below `/proc/sys/net` in the calling thread's namespace.
pub fn set_sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

// ---- packets ----

/// Answers every UDP datagram and every TCP connection with the address that it came from, as text. Its threads end
/// with the server.
pub struct Echo {
    /// Where it listens, by UDP and by TCP.
    pub address: SocketAddr,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Listens on any address of the calling thread's namespace, both families, at one port.
    pub fn start(address: IpAddr, port: u16) -> Self {
        let address = SocketAddr::new(address, port);
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("bind {address}: {error}"));
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let tcp = TcpListener::bind(address).unwrap_or_else(|error| panic!("bind {address}: {error}"));
        tcp.set_nonblocking(true).unwrap();
        let (udp_stop, tcp_stop) = (stop.clone(), stop.clone());
        let by_udp = move || {
            let mut buffer = [0; 64];
            while !udp_stop.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(from.ip().to_string().as_bytes(), from);
                }
            }
        };
        let by_tcp = move || {
            while !tcp_stop.load(std::sync::atomic::Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((mut stream, from)) => {
                        let _ = stream.set_nonblocking(false);
                        let _ = stream.write_all(from.ip().to_string().as_bytes());
                    }
                    Err(_nobody) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        };
        Self { address, stop, threads: vec![std::thread::spawn(by_udp), std::thread::spawn(by_tcp)] }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Asks an [`Echo`] by UDP, from one address of the calling thread's namespace: the address that it saw. Repeats every
/// 100 ms, since a first datagram may be lost to a neighbour lookup.
pub fn probe_udp(from: IpAddr, to: SocketAddr) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (start, mut buffer) = (Instant::now(), [0; 64]);
    loop {
        let sent = socket.send_to(b"?", to);
        let answer = sent.and_then(|_| socket.recv_from(&mut buffer));
        match answer {
            Ok((len, _)) => return parse(&buffer[..len]),
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_again) => {}
        }
    }
}

/// One datagram and one answer, without a second try: how long it took.
pub fn first_udp(from: IpAddr, to: SocketAddr) -> io::Result<Duration> {
    let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    socket.send_to(b"?", to)?;
    socket.recv_from(&mut [0; 64])?;
    Ok(start.elapsed())
}

/// Asks an [`Echo`] by TCP, from one address of the calling thread's namespace: the address that it saw.
pub fn probe_tcp(from: IpAddr, to: SocketAddr) -> io::Result<IpAddr> {
    let connect = async move {
        let socket =
            if to.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(from, 0))?;
        tokio::time::timeout(PATIENCE, socket.connect(to)).await.map_err(io::Error::from)?
    };
    let mut stream = runtime().block_on(async { connect.await?.into_std() })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    parse(&text)
}

fn parse(text: &[u8]) -> io::Result<IpAddr> {
    String::from_utf8_lossy(text).parse().map_err(io::Error::other)
}
