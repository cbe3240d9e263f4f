//! Notifications: who changed which table.

use super::attr::Reader;
use super::decode;
use super::wire::{self, msg};
use super::{NftError, TableId};
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;

/// Room for notifications; when it overflows, that is told as [`Change::Lost`] and nothing else is needed.
const BUFFER: usize = 2 << 20;

/// What happened to the ruleset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// Something in this table, or the table itself.
    Table(TableId),
    /// A set of this table, or its elements. Comes besides [`Change::Table`].
    Set(TableId, String),
    /// Notifications were lost: anything may have changed.
    Lost,
}

/// A socket that hears of every change of nf_tables in its network namespace.
pub struct Monitor {
    inner: TokioSocket,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Monitor")
    }
}

impl Monitor {
    /// Subscribes. Must be called inside a tokio runtime.
    pub fn open() -> Result<Self, NftError> {
        let failed = |source| NftError::socket("subscribe to changes of nf_tables", source);
        let mut inner = TokioSocket::new(wire::NETLINK_NETFILTER).map_err(failed)?;
        inner.socket_mut().bind_auto().map_err(failed)?;
        let socket = inner.socket_ref();
        // A smaller buffer only means that changes are lost, and noticed as lost, sooner.
        let _ = setsockopt(socket, sockopt::RcvBufForce, &BUFFER);
        socket.add_membership(wire::GROUP).map_err(failed)?;
        Ok(Self { inner })
    }

    /// Waits for changes; those made through the socket with netlink port `own` are left out, so the list may be empty.
    pub async fn changes(&self, own: u32) -> Result<Vec<Change>, NftError> {
        const ENOBUFS: i32 = 105;
        match self.inner.recv_from_full().await {
            Ok((bytes, _)) => Ok(decode_changes(&bytes, own)),
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => Ok(vec![Change::Lost]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(source) => Err(NftError::socket("hear of changes of nf_tables", source)),
        }
    }
}

fn decode_changes(bytes: &[u8], own: u32) -> Vec<Change> {
    let mut found = Vec::new();
    for message in decode::messages(bytes) {
        let Some(kind) = message.nft_kind().filter(|kind| *kind != msg::NEWGEN) else {
            if message.kind == wire::NLMSG_OVERRUN {
                found.push(Change::Lost);
            }
            continue;
        };
        // In each kind of message the first attribute is the name of the table.
        let table = Reader::text(message.attributes(), 1);
        if let (Some(family), Some(name)) = (message.family(), table) {
            let table = TableId { family, name };
            let of_sets = [msg::NEWSET, msg::DELSET, msg::NEWSETELEM, msg::DELSETELEM].contains(&kind);
            // In those about sets the second is the name of the set.
            let set = Reader::text(message.attributes(), 2).filter(|_| of_sets);
            let changes = [Some(Change::Table(table.clone())), set.map(|set| Change::Set(table, set))];
            for change in changes.into_iter().flatten() {
                if message.port != own && !found.contains(&change) {
                    log::trace!("nf_tables message {kind} from port {} about {change:?}", message.port);
                    found.push(change);
                }
            }
        }
    }
    found
}
