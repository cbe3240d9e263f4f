//! The netlink socket: commits batches, reads tables. One request at a time.

use super::attr::Writer;
use super::decode::{self, Message};
use super::encode::{self, Encoded};
use super::wire::{self, elem, flag, msg, rule};
use super::{Batch, Chain, Element, NftError, Rule, Set, SetContents, Table, TableId};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// Room for the largest batch: the kernel takes a batch from one buffer. 32 MiB hold about 400 000 elements.
const BUFFER: usize = 32 << 20;
/// Room for a piece of an answer. The kernel makes the pieces of a list as large as the room that it was offered, up to
/// 32 KiB (`netlink_recvmsg` in `net/netlink/af_netlink.c`), and for each piece it walks a set from its begin: small ones
/// make a large set dear.
const PIECE: usize = 64 << 10;
/// How often an interrupted dump is begun again.
const DUMP_ATTEMPTS: u32 = 20;

/// A socket to nf_tables, in the network namespace of the thread that opened it. Needs `CAP_NET_ADMIN` there.
pub struct Socket {
    inner: TokioSocket,
    port: u32,
    seq: u32,
    deadline: Duration,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket that waits for the kernel no longer than `deadline` at a time. Must be called inside a tokio runtime.
    pub fn open(deadline: Duration) -> Result<Self, NftError> {
        let failed = |source| NftError::socket("open a netlink socket to nf_tables", source);
        let mut inner = TokioSocket::new(wire::NETLINK_NETFILTER).map_err(failed)?;
        let port = inner.socket_mut().bind_auto().map_err(failed)?.port_number();
        let socket = inner.socket_ref();
        // Extended acknowledgements exist since Linux 4.12; without them errors have no hint.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // The forced sizes need CAP_NET_ADMIN, as all else here does; where refused, the default serves small batches.
        let _ = setsockopt(socket, sockopt::SndBufForce, &BUFFER);
        let _ = setsockopt(socket, sockopt::RcvBufForce, &BUFFER);
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        Ok(Self { inner, port, seq: 1, deadline })
    }

    /// The netlink port of this socket: notifications of changes made through it carry it.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Makes all changes of the batch, or none. An empty batch does nothing.
    pub async fn commit(&mut self, batch: &Batch) -> Result<(), NftError> {
        self.transact(batch, None).await
    }

    /// As [`Socket::commit`], but refused as [`NftError::Stale`] if the ruleset is no longer of that generation.
    pub async fn commit_at(&mut self, batch: &Batch, generation: u32) -> Result<(), NftError> {
        self.transact(batch, Some(generation)).await
    }

    async fn transact(&mut self, batch: &Batch, generation: Option<u32>) -> Result<(), NftError> {
        if batch.ops.is_empty() {
            return Ok(());
        }
        let first = self.seq;
        let encoded = encode::batch(batch, first, generation);
        let last = first.wrapping_add(u32::try_from(encoded.owners.len()).unwrap_or(u32::MAX));
        self.seq = last.wrapping_add(2);
        let what = format!("change table {}", batch.table);
        self.send(&what, &encoded.bytes).await?;
        self.outcome(&what, (first, last), (batch, &encoded)).await
    }

    /// Waits for the acknowledgement of the last operation, or for an error of the batch as a whole. The first error
    /// is the one to tell: those after it follow from it.
    async fn outcome(
        &self,
        what: &str,
        (first, last): (u32, u32),
        (batch, encoded): (&Batch, &Encoded),
    ) -> Result<(), NftError> {
        let mut failure = None;
        loop {
            let bytes = self.receive(what).await?;
            for message in decode::messages(&bytes) {
                let position = message.seq.wrapping_sub(first);
                if message.kind != wire::NLMSG_ERROR || position > last.wrapping_sub(first) {
                    continue;
                }
                let (code, hint) = decode::error(&message);
                if code == ERESTART {
                    return Err(NftError::Stale);
                }
                if code != 0 && failure.is_none() {
                    failure = Some(refused_at((batch, encoded), position, (code, hint)));
                }
                if position == 0 || message.seq == last {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Everything in a table, or `None` if there is no such table; and the generation of the ruleset that it is of.
    ///
    /// In the seconds after very many elements were added to a hash set, the kernel may still be growing its table and
    /// then leaves some elements out of the list (seen on 6.18: 95 180 of 100 000). So what is missing in a list may be
    /// added, which changes nothing if it is there after all; nothing may be concluded from it.
    pub async fn dump(&mut self, id: &TableId) -> Result<(Option<Table>, u32), NftError> {
        self.dump_without(id, &BTreeSet::new()).await
    }

    /// As [`Socket::dump`], but the elements of these sets are not read.
    pub async fn dump_without(
        &mut self,
        id: &TableId,
        unread: &BTreeSet<String>,
    ) -> Result<(Option<Table>, u32), NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            let before = self.generation().await?;
            let found = match self.read_table(id, unread).await {
                // Gone or changed under our hands.
                Err(NftError::Unsteady) => continue,
                Err(error) if error.is_missing() => None,
                other => Some(other?),
            };
            if self.generation().await? == before {
                return Ok((found.flatten(), before));
            }
        }
        Err(NftError::Unsteady)
    }

    async fn read_table(
        &mut self,
        id: &TableId,
        unread: &BTreeSet<String>,
    ) -> Result<Option<Table>, NftError> {
        let Some((_, flags)) = self.tables().await?.into_iter().find(|(found, _)| found == id) else {
            return Ok(None);
        };
        let mut table = Table { flags, ..Table::default() };
        for chain in self.chains(id).await? {
            table.rules.insert(chain.name.clone(), Vec::new());
            table.chains.insert(chain.name.clone(), chain);
        }
        for rule in self.rules(id, None).await? {
            table.rules.entry(rule.chain.clone()).or_default().push(rule);
        }
        for set in self.sets(id).await? {
            let elements = match unread.contains(&set.name) {
                true => Vec::new(),
                false => self.elements(id, &set.name).await?,
            };
            let elements = elements.into_iter().map(|e| (e.key, e.data)).collect();
            table.sets.insert(set.name.clone(), SetContents { set, elements });
        }
        Ok(Some(table))
    }

    /// Every table of the families known here, with its flags.
    pub async fn tables(&mut self) -> Result<Vec<(TableId, u32)>, NftError> {
        let mut found = Vec::new();
        let collect = |message: &Message<'_>| {
            if message.nft_kind() == Some(msg::NEWTABLE) && message.family().is_some() {
                found.push(decode::table(message)?);
            }
            Ok(())
        };
        self.query("list the tables", msg::GETTABLE, (0, Writer::default()), collect).await?;
        Ok(found)
    }

    /// The chains of a table; none if it does not exist.
    pub async fn chains(&mut self, id: &TableId) -> Result<Vec<Chain>, NftError> {
        let mut found = Vec::new();
        let what = format!("list the chains of table {id}");
        let collect = |message: &Message<'_>| {
            if message.nft_kind() == Some(msg::NEWCHAIN) {
                let (table, chain) = decode::chain(message)?;
                if table == id.name {
                    found.push(chain);
                }
            }
            Ok(())
        };
        self.query(&what, msg::GETCHAIN, (id.family.number(), Writer::default()), collect).await?;
        Ok(found)
    }

    /// The rules of a table, or of one of its chains, in order.
    pub async fn rules(&mut self, id: &TableId, chain: Option<&str>) -> Result<Vec<Rule>, NftError> {
        let mut found = Vec::new();
        let what = format!("list the rules of table {id}");
        let mut body = Writer::default();
        body.text(rule::TABLE, &id.name);
        if let Some(chain) = chain {
            body.text(rule::CHAIN, chain);
        }
        let collect = |message: &Message<'_>| {
            if message.nft_kind() == Some(msg::NEWRULE) {
                let (table, rule) = decode::rule(message)?;
                // The kernel's own filter came with 4.19.
                if table == id.name && chain.is_none_or(|name| name == rule.chain) {
                    found.push(rule);
                }
            }
            Ok(())
        };
        self.query(&what, msg::GETRULE, (id.family.number(), body), collect).await?;
        Ok(found)
    }

    async fn sets(&mut self, id: &TableId) -> Result<Vec<Set>, NftError> {
        let mut found = Vec::new();
        let what = format!("list the sets of table {id}");
        let mut body = Writer::default();
        body.text(wire::set::TABLE, &id.name);
        let collect = |message: &Message<'_>| {
            if message.nft_kind() == Some(msg::NEWSET) {
                let (table, set) = decode::set(message)?;
                if table == id.name {
                    found.push(set);
                }
            }
            Ok(())
        };
        self.query(&what, msg::GETSET, (id.family.number(), body), collect).await?;
        Ok(found)
    }

    /// The elements of a set or map.
    pub async fn elements(&mut self, id: &TableId, set: &str) -> Result<Vec<Element>, NftError> {
        match self.elements_meanwhile(id, set).await? {
            (found, true) => Ok(found),
            (_, false) => Err(NftError::Unsteady),
        }
    }

    /// The elements of a set or map, and whether the ruleset stayed as it was while they were listed. If only other sets
    /// changed, the list is right all the same; if this one did, elements may be missing from it or be there twice.
    pub async fn elements_meanwhile(
        &mut self,
        id: &TableId,
        set: &str,
    ) -> Result<(Vec<Element>, bool), NftError> {
        let mut found = Vec::new();
        let what = format!("list the elements of set {set} in table {id}");
        let mut body = Writer::default();
        body.text(elem::LIST_TABLE, &id.name);
        body.text(elem::LIST_SET, set);
        let collect = |message: &Message<'_>| {
            if message.nft_kind() == Some(msg::NEWSETELEM) {
                found.extend(decode::elements(message)?);
            }
            Ok(())
        };
        let steady =
            self.ask(&what, (msg::GETSETELEM, flag::DUMP), (id.family.number(), body), collect).await?;
        Ok((found, steady))
    }

    /// The generation of the ruleset: it grows with each commit, of anyone.
    pub async fn generation(&mut self) -> Result<u32, NftError> {
        let mut found = None;
        let collect = |message: &Message<'_>| {
            found = found.or_else(|| message.attributes().u32(wire::GEN_ID));
            Ok(())
        };
        let operation = "read the generation of the ruleset";
        self.ask(operation, (msg::GETGEN, flag::ACK), (0, Writer::default()), collect).await?;
        found.ok_or(NftError::Malformed { what: "a generation without number" })
    }

    async fn query(
        &mut self,
        what: &str,
        kind: u8,
        body: (u8, Writer),
        collect: impl FnMut(&Message<'_>) -> Result<(), NftError>,
    ) -> Result<(), NftError> {
        match self.ask(what, (kind, flag::DUMP), body, collect).await? {
            true => Ok(()),
            false => Err(NftError::Unsteady),
        }
    }

    /// One request and its answers, up to the end of the dump or the acknowledgement. Says whether the ruleset stayed the
    /// same meanwhile.
    async fn ask(
        &mut self,
        what: &str,
        (kind, flags): (u8, u16),
        (family, body): (u8, Writer),
        collect: impl FnMut(&Message<'_>) -> Result<(), NftError>,
    ) -> Result<bool, NftError> {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        self.send(what, &encode::request(kind, flags, family, body, seq)).await?;
        self.answers(what, seq, collect).await
    }

    async fn answers(
        &self,
        what: &str,
        seq: u32,
        mut collect: impl FnMut(&Message<'_>) -> Result<(), NftError>,
    ) -> Result<bool, NftError> {
        let mut interrupted = false;
        loop {
            let bytes = self.receive(what).await?;
            for message in decode::messages(&bytes).into_iter().filter(|m| m.seq == seq) {
                interrupted |= message.flags & flag::DUMP_INTR != 0;
                match message.kind {
                    wire::NLMSG_ERROR | wire::NLMSG_DONE => {
                        let (code, hint) = decode::error(&message);
                        return match code {
                            0 => Ok(!interrupted),
                            _ => Err(refused(what.to_owned(), code, hint)),
                        };
                    }
                    _ => collect(&message)?,
                }
            }
        }
    }

    async fn send(&self, what: &str, bytes: &[u8]) -> Result<(), NftError> {
        let sent = tokio::time::timeout(self.deadline, self.inner.send(bytes)).await;
        let sent =
            sent.map_err(|_| NftError::Timeout { operation: what.to_owned(), within: self.deadline })?;
        match sent.map_err(|source| NftError::socket(what, source))? {
            whole if whole == bytes.len() => Ok(()),
            _ => Err(NftError::socket(what, io::ErrorKind::WriteZero.into())),
        }
    }

    /// The next piece of an answer. Each has the whole deadline: a list of a million elements comes in thousands.
    async fn receive(&self, what: &str) -> Result<Vec<u8>, NftError> {
        let mut bytes = Vec::with_capacity(PIECE);
        let received = tokio::time::timeout(self.deadline, self.inner.recv_from(&mut bytes)).await;
        let received =
            received.map_err(|_| NftError::Timeout { operation: what.to_owned(), within: self.deadline })?;
        received.map_err(|source| NftError::socket(what, source))?;
        Ok(bytes)
    }
}

/// The kernel's internal number for "the generation is another" (`include/linux/errno.h`); it reaches user space.
const ERESTART: i32 = 85;

fn refused(operation: String, code: i32, hint: Option<String>) -> NftError {
    NftError::Refused { operation, index: None, why: io::Error::from_raw_os_error(code), hint }
}

/// The first message that was refused is about one operation, or about the batch as a whole.
fn refused_at(
    (batch, encoded): (&Batch, &Encoded),
    position: u32,
    (code, hint): (i32, Option<String>),
) -> NftError {
    let owner =
        usize::try_from(position).ok().and_then(|p| p.checked_sub(1)).and_then(|p| encoded.owners.get(p));
    let found = owner.and_then(|index| Some((*index, batch.ops.get(*index)?)));
    let (index, operation) = match found {
        Some((index, op)) => (Some(index), format!("table {}: {op}", batch.table)),
        None => (None, format!("table {}: commit {} operations", batch.table, batch.ops.len())),
    };
    NftError::Refused { operation, index, why: io::Error::from_raw_os_error(code), hint }
}
