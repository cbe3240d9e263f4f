//! Open rtnetlink sockets: many requests in one datagram, one answer for each, always a deadline.
//!
//! The kernel works through a datagram in order, goes on after a request that failed, and answers each
//! (`net/netlink/af_netlink.c`, `netlink_rcv_skb`), so a batch costs one system call however long it is.

use super::error::NetError;
use futures::{Stream, StreamExt};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::AsyncSocket;
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::proto::sys::SocketAddr;
use std::io;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;

/// How long one datagram may take. The kernel answers in microseconds; a link deletion elsewhere on the machine can
/// hold its lock for tens of milliseconds, a dismantled namespace with thousands of links for seconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// Requests in one datagram: their acknowledgements fit the default receive buffer (212992 bytes, about 1 KiB each).
const BATCH: usize = 64;

/// How often a dump is repeated when the kernel says that it changed underneath.
const DUMP_TRIES: usize = 5;

/// Set on messages of a dump that is not consistent (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;

/// The attribute of an acknowledgement that holds the kernel's words (`linux/netlink.h`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One request of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    message: RouteNetlinkMessage,
    flags: u16,
    what: String,
}

impl Ask {
    /// `what` is the sentence of the error: "add route 10.0.0.1/32 dev cali0".
    pub(crate) fn new(message: RouteNetlinkMessage, flags: u16, what: impl Into<String>) -> Self {
        Self { message, flags, what: what.into() }
    }

    /// The same request with other flags.
    pub(crate) fn with_flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }
}

/// The answer to one request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What was asked for, if the request was a question.
    pub(crate) messages: Vec<RouteNetlinkMessage>,
    /// The kernel's refusal.
    pub(crate) refusal: Option<Refusal>,
}

/// Why the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Positive errno.
    pub(crate) errno: i32,
    /// The kernel's words, or empty.
    pub(crate) said: String,
    /// The sentence of the request.
    pub(crate) what: String,
}

impl From<Refusal> for NetError {
    fn from(refusal: Refusal) -> Self {
        Self::of_errno(refusal.what, refusal.errno, &refusal.said)
    }
}

type Framed = NetlinkMessage<RouteNetlinkMessage>;
type Conn = ConnectionHandle<RouteNetlinkMessage>;

/// A socket with one exchange at a time. A connection sends what it is given at once and reads only when its task gets
/// a turn: thirty link requests in flight overflow the receive buffer, and an answer that is lost there never comes.
/// The kernel works on one request after the other anyway. A second dump on a socket would be refused with EBUSY.
#[derive(Debug)]
struct Lane {
    /// Guards the handle while a broken connection is replaced; never held over an await.
    conn: StdMutex<Conn>,
    turn: Mutex<()>,
}

impl Lane {
    fn open() -> io::Result<Self> {
        Ok(Self { conn: StdMutex::new(connect()?), turn: Mutex::default() })
    }

    fn conn(&self) -> MutexGuard<'_, Conn> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn, no longer than for an answer.
    async fn turn(&self, what: &str) -> Result<tokio::sync::MutexGuard<'_, ()>, NetError> {
        let turn = tokio::time::timeout(DEADLINE, self.turn.lock()).await;
        turn.map_err(|_elapsed| NetError::Timeout { what: what.to_owned(), after: DEADLINE })
    }

    fn send(
        &self,
        messages: Vec<Framed>,
        what: &str,
    ) -> Result<impl Stream<Item = Framed> + use<>, NetError> {
        let kernel = SocketAddr::new(0, 0);
        let mut conn = self.conn();
        if let Ok(replies) = conn.request_batch(messages.clone(), kernel) {
            return Ok(replies);
        }
        // The connection ended before it took the request, so a new one may send it.
        *conn = connect().map_err(|error| NetError::of_io("open the rtnetlink socket", error))?;
        conn.request_batch(messages, kernel).map_err(|_closed| broken(what))
    }

    /// After an exchange without an end, whose late answers must not be taken for those of the next.
    fn reopen(&self) {
        match connect() {
            Ok(fresh) => *self.conn() = fresh,
            Err(error) => log::warn!("open the rtnetlink socket anew: {error}"),
        }
    }
}

/// The sockets: one for questions and changes, one for lists, which may be long. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Rtnl {
    requests: Arc<Lane>,
    dumps: Arc<Lane>,
}

impl Rtnl {
    /// Opens the sockets in the network namespace of the calling thread. Needs a tokio runtime, on which a task owns
    /// each until the last clone is dropped.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { requests: Arc::new(Lane::open()?), dumps: Arc::new(Lane::open()?) })
    }

    /// The same with one socket for both.
    pub(crate) fn open_one() -> io::Result<Self> {
        let lane = Arc::new(Lane::open()?);
        Ok(Self { requests: lane.clone(), dumps: lane })
    }

    /// Sends all requests in one datagram. The answers stand in the order of the requests.
    pub(crate) async fn batch(&self, asks: Vec<Ask>) -> Result<Vec<Answer>, NetError> {
        let mut answers = Vec::with_capacity(asks.len());
        let mut asks = asks.into_iter().peekable();
        let Some(what) = asks.peek().map(|ask| ask.what.clone()) else { return Ok(answers) };
        let _turn = self.requests.turn(&what).await?;
        while let Some(first) = asks.peek().map(|ask| ask.what.clone()) {
            let part: Vec<Ask> = asks.by_ref().take(BATCH).collect();
            let Ok(exchanged) = tokio::time::timeout(DEADLINE, exchange(&self.requests, part, &first)).await
            else {
                self.requests.reopen();
                return Err(NetError::Timeout { what: first, after: DEADLINE });
            };
            answers.extend(exchanged?);
        }
        Ok(answers)
    }

    /// Sends one request.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, NetError> {
        Ok(self.batch(vec![ask]).await?.into_iter().next().unwrap_or_default())
    }

    /// Asks for everything of a kind. Repeated when the kernel marks the list as interrupted by a change.
    pub(crate) async fn dump(
        &self,
        message: RouteNetlinkMessage,
        what: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let _turn = self.dumps.turn(what).await?;
        let mut listed = Vec::new();
        for _attempt in 0..DUMP_TRIES {
            let once = tokio::time::timeout(DEADLINE, dump_once(&self.dumps, message.clone(), what)).await;
            let Ok(listing) = once else {
                self.dumps.reopen();
                return Err(NetError::Timeout { what: what.to_owned(), after: DEADLINE });
            };
            let (list, consistent) = listing?;
            if consistent {
                return Ok(list);
            }
            listed = list;
        }
        // A table that never stands still: the last list is as good as any, and monitors bring what it lacks.
        log::debug!("{what}: the list changed during each of {DUMP_TRIES} reads");
        Ok(listed)
    }
}

async fn exchange(lane: &Lane, asks: Vec<Ask>, first: &str) -> Result<Vec<Answer>, NetError> {
    let whats: Vec<String> = asks.iter().map(|ask| ask.what.clone()).collect();
    let messages: Vec<_> = asks.into_iter().map(|ask| framed(ask.message, ask.flags | NLM_F_ACK)).collect();
    let mut answers: Vec<Answer> = whats.iter().map(|_| Answer::default()).collect();
    let mut replies = lane.send(messages, first)?;
    // Answers come in the order of the requests, and the sequence numbers are consecutive.
    let mut base = None;
    let mut closed = 0;
    while let Some(reply) = replies.next().await {
        let sequence = reply.header.sequence_number;
        let place = sequence.wrapping_sub(*base.get_or_insert(sequence)) as usize;
        let Some(answer) = answers.get_mut(place) else { continue };
        match reply.payload {
            NetlinkPayload::InnerMessage(message) => answer.messages.push(message),
            NetlinkPayload::Error(error) => {
                closed += 1;
                let what = whats.get(place).cloned().unwrap_or_default();
                answer.refusal = error.code.map(|code| Refusal {
                    errno: code.get().abs(),
                    said: kernel_words(&error.header),
                    what,
                });
            }
            _ => {}
        }
    }
    if closed == answers.len() { Ok(answers) } else { Err(broken(first)) }
}

async fn dump_once(
    lane: &Lane,
    message: RouteNetlinkMessage,
    what: &str,
) -> Result<(Vec<RouteNetlinkMessage>, bool), NetError> {
    let mut replies = lane.send(vec![framed(message, NLM_F_DUMP)], what)?;
    let (mut list, mut consistent, mut done) = (Vec::new(), true, false);
    while let Some(reply) = replies.next().await {
        consistent &= reply.header.flags & NLM_F_DUMP_INTR == 0;
        match reply.payload {
            NetlinkPayload::InnerMessage(message) => list.push(message),
            NetlinkPayload::Done(_) => done = true,
            NetlinkPayload::Error(error) => {
                return Err(NetError::of_errno(what, error.raw_code(), &kernel_words(&error.header)));
            }
            _ => {}
        }
    }
    if done { Ok((list, consistent)) } else { Err(broken(what)) }
}

/// The connection ended between request and answer.
fn broken(what: &str) -> NetError {
    let source =
        io::Error::new(io::ErrorKind::ConnectionAborted, "the rtnetlink socket closed without an answer");
    NetError::Kernel { what: what.to_owned(), said: String::new(), source }
}

fn framed(message: RouteNetlinkMessage, flags: u16) -> Framed {
    let mut framed = NetlinkMessage::from(message);
    framed.header.flags = NLM_F_REQUEST | flags;
    framed
}

fn connect() -> io::Result<Conn> {
    let (mut connection, handle, _unsolicited) =
        rtnetlink::proto::new_connection::<RouteNetlinkMessage>(NETLINK_ROUTE)?;
    let socket = connection.socket_mut().socket_mut();
    // Both since Linux 4.12; without them only the kernel's words are missing.
    let worded = socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true));
    if let Err(error) = worded {
        log::debug!("rtnetlink: no extended acknowledgements: {error}");
    }
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    // Ends by itself when the last handle is dropped.
    tokio::spawn(connection);
    Ok(handle)
}

/// The kernel's words in an acknowledgement: attributes behind the sixteen bytes of the request's header.
fn kernel_words(payload: &[u8]) -> String {
    let attributes = payload.get(16..).unwrap_or_default();
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
        .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned())
        .unwrap_or_default()
}
