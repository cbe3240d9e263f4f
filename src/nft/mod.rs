//! nf_tables over netlink: what a table is made of, how a batch of changes is put into bytes, sent and answered, and
//! how a table is read back. No `nft` program is needed.
//!
//! Everything but [`Socket`] and [`Monitor`] is pure. The wire format is `include/uapi/linux/netfilter/nf_tables.h`; all attribute
//! numbers stand in `wire.rs`. Both directions are written here, because what is sent must compare equal with what is
//! read back: that is how drift is found.
//!
//! ```text
//! Batch -> encode -> Socket::commit -> kernel -> Socket::dump -> decode -> Table
//! ```
//!
//! There are no anonymous sets: a named set serves, can be shared by rules, and compares equal after a dump.

mod attr;
mod batch;
mod compare;
mod decode;
mod encode;
mod encode_expr;
mod error;
mod expr;
mod interval;
mod monitor;
mod object;
mod print;
mod print_rule;
mod rule;
mod socket;
mod wire;

pub use batch::{Batch, Op};
pub use error::NftError;
pub use expr::{CmpOp, CtKey, Expr, FibResult, MetaKey, NatKind, PayloadBase, Reg, Verdict};
pub use interval::interval_elements;
pub use monitor::{Change, Monitor};
pub use object::{
    BaseChain, Chain, ChainKind, Data, DataType, Element, ElementKey, Family, Hook, Set, SetContents,
    SetData, Table, TableId, concat, ifname,
};
pub use print::print_table;
pub use rule::Rule;
pub use socket::Socket;
pub use wire::fib;
