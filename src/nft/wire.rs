//! Numbers of the wire format, from `include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h`.

#![allow(missing_docs)] // the names are the kernel's; a sentence for each would say the same again

/// `AF_NETLINK` protocol of netfilter.
pub(crate) const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES`, the high byte of each message type.
pub(crate) const SUBSYS: u16 = 10;
/// Multicast group of nf_tables (`NFNLGRP_NFTABLES`).
pub(crate) const GROUP: u32 = 7;

pub(crate) const BATCH_BEGIN: u16 = 0x10;
pub(crate) const BATCH_END: u16 = 0x11;
pub(crate) const BATCH_GENID: u16 = 1;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLMSG_OVERRUN: u16 = 4;

pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP_INTR: u16 = 0x10;
    pub(crate) const CAPPED: u16 = 0x100;
    pub(crate) const ACK_TLVS: u16 = 0x200;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

pub(crate) mod msg {
    pub(crate) const NEWTABLE: u8 = 0;
    pub(crate) const GETTABLE: u8 = 1;
    pub(crate) const DELTABLE: u8 = 2;
    pub(crate) const NEWCHAIN: u8 = 3;
    pub(crate) const GETCHAIN: u8 = 4;
    pub(crate) const DELCHAIN: u8 = 5;
    pub(crate) const NEWRULE: u8 = 6;
    pub(crate) const GETRULE: u8 = 7;
    pub(crate) const DELRULE: u8 = 8;
    pub(crate) const NEWSET: u8 = 9;
    pub(crate) const GETSET: u8 = 10;
    pub(crate) const DELSET: u8 = 11;
    pub(crate) const NEWSETELEM: u8 = 12;
    pub(crate) const GETSETELEM: u8 = 13;
    pub(crate) const DELSETELEM: u8 = 14;
    pub(crate) const NEWGEN: u8 = 15;
    pub(crate) const GETGEN: u8 = 16;
}

pub(crate) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
}

pub(crate) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUM: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
}

pub(crate) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const POSITION: u16 = 6;
    pub(crate) const USERDATA: u16 = 7;
    /// `NFTNL_UDATA_RULE_COMMENT` of libnftnl: what `nft list` prints as `comment`.
    pub(crate) const UDATA_COMMENT: u8 = 0;
}

pub(crate) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LEN: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LEN: u16 = 7;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USERDATA: u16 = 13;
    pub(crate) const FLAG_INTERVAL: u32 = 0x4;
    pub(crate) const FLAG_MAP: u32 = 0x8;
    /// `NFT_DATA_VERDICT`.
    pub(crate) const TYPE_VERDICT: u32 = 0xffff_ff00;
    /// `NFTNL_UDATA_SET_KEYBYTEORDER`, `..._DATABYTEORDER` of libnftnl: how `nft list` prints numbers.
    pub(crate) const UDATA_KEY_ORDER: u8 = 0;
    pub(crate) const UDATA_DATA_ORDER: u8 = 1;
}

pub(crate) mod elem {
    pub(crate) const LIST_TABLE: u16 = 1;
    pub(crate) const LIST_SET: u16 = 2;
    pub(crate) const LIST_ELEMENTS: u16 = 3;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const FLAG_INTERVAL_END: u32 = 1;
}

pub(crate) mod data {
    pub(crate) const VALUE: u16 = 1;
    pub(crate) const VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
}

/// `NFTA_LIST_ELEM`, the type of each member of a list.
pub(crate) const LIST_ELEM: u16 = 1;
pub(crate) const EXPR_NAME: u16 = 1;
pub(crate) const EXPR_DATA: u16 = 2;
/// `NFTA_GEN_ID`.
pub(crate) const GEN_ID: u16 = 1;
/// `NLMSGERR_ATTR_MSG`.
pub(crate) const ERR_MSG: u16 = 1;

/// Flags of the `fib` expression: what the route lookup is made with.
pub mod fib {
    pub const SADDR: u32 = 1;
    pub const DADDR: u32 = 2;
    pub const MARK: u32 = 4;
    pub const IIF: u32 = 8;
    pub const OIF: u32 = 16;
}
