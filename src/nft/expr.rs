//! Expressions: the instructions of a rule. Data flows through registers; a comparison that fails ends the rule.

use std::fmt;

/// A register, by its 32-bit word: sixteen of them, 0 to 15. Values of up to 16 bytes start at a multiple of four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(u8);

impl Reg {
    /// The first register.
    pub const FIRST: Self = Self(0);

    /// The register at a 32-bit word; words past the last are the last.
    #[must_use]
    pub const fn word(word: u8) -> Self {
        if word > 15 { Self(15) } else { Self(word) }
    }

    /// Its 32-bit word.
    pub(crate) fn index(self) -> u8 {
        self.0
    }

    /// As the kernel numbers it: 1 to 4 for the 16-byte registers, 8 to 23 for words between
    /// (`net/netfilter/nf_tables_api.c`, `nft_dump_register`).
    pub(crate) fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { u32::from(self.0) / 4 + 1 } else { u32::from(self.0) + 8 }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => u8::try_from((number - 1) * 4).ok().map(Self),
            8..=23 => u8::try_from(number - 8).ok().map(Self),
            _ => None,
        }
    }
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub(crate) fn number(self) -> u32 {
                match self { $(Self::$variant => $value,)* }
            }

            pub(crate) fn from_number(number: u32) -> Option<Self> {
                match number { $($value => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

numbered! {
    /// What `meta` loads. Numbers are host-endian in the register.
    MetaKey {
        /// Firewall mark, 4 bytes.
        Mark = 3,
        /// Name of the incoming interface, 16 bytes, NUL-padded.
        Iifname = 6,
        /// Name of the outgoing interface, 16 bytes, NUL-padded.
        Oifname = 7,
        /// `NFPROTO_*`, 1 byte: 2 for IPv4, 10 for IPv6.
        Nfproto = 15,
        /// Protocol above IP, 1 byte; extension headers of IPv6 are skipped.
        L4proto = 16,
    }
}

numbered! {
    /// What `ct` loads.
    CtKey {
        /// State as a bit mask, 4 bytes host-endian: 1 invalid, 2 established, 4 related, 8 new, 64 untracked.
        State = 0,
        /// `IPS_*` as a bit mask, 4 bytes host-endian: 32 says that the destination was translated.
        Status = 2,
    }
}

numbered! {
    /// Where a payload offset counts from.
    PayloadBase {
        /// The IP header.
        Network = 1,
        /// The header above it.
        Transport = 2,
    }
}

numbered! {
    /// How `cmp` compares; order is that of the bytes.
    CmpOp {
        /// Equal.
        Eq = 0,
        /// Not equal.
        Neq = 1,
        /// Less.
        Lt = 2,
        /// Less or equal.
        Lte = 3,
        /// Greater.
        Gt = 4,
        /// Greater or equal.
        Gte = 5,
    }
}

numbered! {
    /// Which end of a connection is translated.
    NatKind {
        /// The source.
        Snat = 0,
        /// The destination.
        Dnat = 1,
    }
}

numbered! {
    /// What `fib` puts in the register, 4 bytes host-endian.
    FibResult {
        /// Index of the outgoing interface, 0 if there is no route.
        Oif = 1,
        /// Type of the address: 2 is local.
        AddrType = 3,
    }
}

/// What happens to the packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Ends this base chain; later base chains at the hook still run.
    Accept,
    /// Ends it for good.
    Drop,
    /// Back to the caller, or to the policy from a base chain.
    Return,
    /// Calls a chain.
    Jump(String),
    /// Goes to a chain; its end returns to our caller.
    Goto(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Loads a fact about the packet.
    Meta {
        /// Which.
        key: MetaKey,
        /// Into which register.
        dreg: Reg,
    },
    /// Sets a fact (the mark).
    MetaSet {
        /// Which.
        key: MetaKey,
        /// From which register.
        sreg: Reg,
    },
    /// Goes on if the comparison holds.
    Cmp {
        /// The register.
        sreg: Reg,
        /// How.
        op: CmpOp,
        /// With what; its length is that of the comparison.
        data: Vec<u8>,
    },
    /// Goes on if the value lies between two others, both included.
    Range {
        /// The register.
        sreg: Reg,
        /// [`CmpOp::Eq`] for inside, [`CmpOp::Neq`] for outside.
        op: CmpOp,
        /// Lowest.
        from: Vec<u8>,
        /// Highest.
        to: Vec<u8>,
    },
    /// `dreg = (sreg & mask) ^ xor`; mask and xor have one length.
    Bitwise {
        /// Source.
        sreg: Reg,
        /// Destination.
        dreg: Reg,
        /// Bits kept.
        mask: Vec<u8>,
        /// Bits flipped afterwards.
        xor: Vec<u8>,
    },
    /// Loads bytes of the packet.
    Payload {
        /// Which header.
        base: PayloadBase,
        /// Where in it, in bytes.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// Into which register.
        dreg: Reg,
    },
    /// Loads a fact about the connection.
    Ct {
        /// Which.
        key: CtKey,
        /// Into which register.
        dreg: Reg,
    },
    /// Goes on if the value is in the set.
    Lookup {
        /// Name of the set.
        set: String,
        /// The value.
        sreg: Reg,
        /// Goes on if it is *not* there.
        invert: bool,
    },
    /// Looks the value up in a map and loads what it maps to; ends the rule if it is not there.
    MapLookup {
        /// Name of the map.
        map: String,
        /// The value.
        sreg: Reg,
        /// Where what it maps to is put.
        dreg: Reg,
    },
    /// Looks the value up in a verdict map and obeys; goes on if it is not there.
    VerdictLookup {
        /// Name of the map.
        map: String,
        /// The value.
        sreg: Reg,
    },
    /// Loads a constant.
    Load {
        /// Into which register.
        dreg: Reg,
        /// The constant.
        data: Vec<u8>,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Counts. Two counters compare equal whatever they counted only after [`Expr::without_counts`].
    Counter {
        /// Packets so far.
        packets: u64,
        /// Bytes so far.
        bytes: u64,
    },
    /// Source address becomes that of the outgoing interface.
    Masquerade {
        /// Source port chosen at random (`fully-random`).
        random: bool,
        /// Registers of the first and last source port, big-endian.
        ports: Option<(Reg, Reg)>,
    },
    /// Translates an address.
    Nat {
        /// Source or destination.
        kind: NatKind,
        /// Of which family, because an `inet` table has both.
        family: super::Family,
        /// Register of the new address.
        addr: Reg,
        /// Register of the new port, big-endian.
        port: Option<Reg>,
    },
    /// Asks the routing table.
    Fib {
        /// What the lookup uses, of [`super::fib`].
        flags: u32,
        /// What is wanted.
        result: FibResult,
        /// Into which register.
        dreg: Reg,
    },
    /// Exempts the packet from connection tracking.
    Notrack,
    /// Goes on for so many packets in a time, and ends the rule for the rest.
    Limit {
        /// Packets.
        rate: u64,
        /// In so many seconds.
        seconds: u64,
        /// Packets that may come at once.
        burst: u32,
    },
    /// Writes a line to the kernel's log.
    Log {
        /// Starts the line; at most 127 bytes.
        prefix: String,
        /// Syslog level, 0 to 7.
        level: u32,
    },
    /// A match of iptables (`nft_compat`): name, revision, and its struct as bytes.
    Match {
        /// For example `comment`.
        name: String,
        /// Revision of the struct.
        revision: u32,
        /// The struct.
        info: Vec<u8>,
    },
    /// Any other, read from a foreign table.
    Other {
        /// Name of the expression.
        name: String,
        /// Its attributes.
        data: Vec<u8>,
    },
}

impl Expr {
    /// The same with counters at zero, for comparisons.
    #[must_use]
    pub fn without_counts(self) -> Self {
        match self {
            Self::Counter { .. } => Self::Counter { packets: 0, bytes: 0 },
            other => other,
        }
    }

    /// The set or map that it asks.
    #[must_use]
    pub fn set(&self) -> Option<&str> {
        match self {
            Self::Lookup { set, .. }
            | Self::MapLookup { map: set, .. }
            | Self::VerdictLookup { map: set, .. } => Some(set),
            _ => None,
        }
    }
}
