//! Rules, and a builder that reads as `nft` writes them.

use super::{
    CmpOp, CtKey, Expr, Family, FibResult, MetaKey, NatKind, PayloadBase, Reg, Verdict, fib, ifname,
};
use std::fmt;

/// A rule of a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// The chain it belongs to.
    pub chain: String,
    /// What it does, in order.
    pub exprs: Vec<Expr>,
    /// What `nft list` prints as `comment`; at most 126 bytes.
    pub comment: Option<String>,
    /// The kernel's number for it; only on rules that were read.
    pub handle: Option<u64>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of chain {}", self.chain)?;
        if let Some(comment) = &self.comment {
            write!(f, " ({comment:?})")?;
        }
        match self.exprs.last() {
            Some(Expr::Verdict(verdict)) => write!(f, ", {verdict}"),
            Some(last) => write!(f, ", ending in {last:?}"),
            None => Ok(()),
        }
    }
}

impl Rule {
    /// A rule without expressions.
    #[must_use]
    pub fn in_chain(chain: &str) -> Self {
        Self { chain: chain.to_owned(), ..Self::default() }
    }

    /// Whether both do the same, whatever they counted and whichever number they have.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let plain =
            |rule: &Self| -> Vec<Expr> { rule.exprs.iter().cloned().map(Expr::without_counts).collect() };
        self.chain == other.chain && self.comment == other.comment && plain(self) == plain(other)
    }

    pub(super) fn then(mut self, exprs: impl IntoIterator<Item = Expr>) -> Self {
        self.exprs.extend(exprs);
        self
    }

    fn meta_eq(self, key: MetaKey, data: Vec<u8>) -> Self {
        let dreg = Reg::FIRST;
        self.then([Expr::Meta { key, dreg }, Expr::Cmp { sreg: dreg, op: CmpOp::Eq, data }])
    }

    fn iface(self, key: MetaKey, pattern: &str) -> Self {
        let data =
            pattern.strip_suffix('*').map_or_else(|| ifname(pattern), |prefix| prefix.as_bytes().to_vec());
        self.meta_eq(key, data)
    }

    /// `iifname PATTERN`; a final `*` matches any rest.
    #[must_use]
    pub fn iifname(self, pattern: &str) -> Self {
        self.iface(MetaKey::Iifname, pattern)
    }

    /// `oifname PATTERN`; a final `*` matches any rest.
    #[must_use]
    pub fn oifname(self, pattern: &str) -> Self {
        self.iface(MetaKey::Oifname, pattern)
    }

    /// `oifname @SET`.
    #[must_use]
    pub fn oifname_in(self, set: &str) -> Self {
        let load = Expr::Meta { key: MetaKey::Oifname, dreg: Reg::FIRST };
        self.then([load, Expr::Lookup { set: set.to_owned(), sreg: Reg::FIRST, invert: false }])
    }

    /// `iifname vmap @MAP`.
    #[must_use]
    pub fn iifname_vmap(self, map: &str) -> Self {
        let load = Expr::Meta { key: MetaKey::Iifname, dreg: Reg::FIRST };
        self.then([load, Expr::VerdictLookup { map: map.to_owned(), sreg: Reg::FIRST }])
    }

    /// `oifname vmap @MAP`.
    #[must_use]
    pub fn oifname_vmap(self, map: &str) -> Self {
        let load = Expr::Meta { key: MetaKey::Oifname, dreg: Reg::FIRST };
        self.then([load, Expr::VerdictLookup { map: map.to_owned(), sreg: Reg::FIRST }])
    }

    /// `meta nfproto ipv4` or `ipv6`.
    #[must_use]
    pub fn family(self, family: Family) -> Self {
        self.meta_eq(MetaKey::Nfproto, vec![family.number()])
    }

    /// `meta l4proto PROTOCOL`.
    #[must_use]
    pub fn l4proto(self, protocol: u8) -> Self {
        self.meta_eq(MetaKey::L4proto, vec![protocol])
    }

    /// `udp dport PORT` and the like.
    #[must_use]
    pub fn dport(self, protocol: u8, port: u16) -> Self {
        let load = Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, dreg: Reg::FIRST };
        let cmp = Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, data: port.to_be_bytes().to_vec() };
        self.l4proto(protocol).then([load, cmp])
    }

    /// `@th,96,24 VNI`: the network of a VXLAN packet (RFC 7348, 5); guard with [`Rule::dport`] first.
    #[must_use]
    pub fn vni(self, vni: u32) -> Self {
        let load = Expr::Payload { base: PayloadBase::Transport, offset: 12, len: 3, dreg: Reg::FIRST };
        let [_, data @ ..] = vni.to_be_bytes();
        self.then([load, Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, data: data.to_vec() }])
    }

    fn icmpv6_type(self) -> Self {
        let load = Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 1, dreg: Reg::FIRST };
        self.family(Family::Ip6).l4proto(58).then([load])
    }

    /// `icmpv6 type TYPE`.
    #[must_use]
    pub fn icmpv6(self, kind: u8) -> Self {
        self.icmpv6_type().then([Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, data: vec![kind] }])
    }

    /// `icmpv6 type @SET`.
    #[must_use]
    pub fn icmpv6_in(self, set: &str) -> Self {
        self.icmpv6_type().then([Expr::Lookup { set: set.to_owned(), sreg: Reg::FIRST, invert: false }])
    }

    /// Loads source (`dnat` end: destination) address of the IP header; guard with [`Rule::family`] first.
    #[must_use]
    pub(super) fn load_address(self, family: Family, source: bool, dreg: Reg) -> Self {
        let (offset, len) = match (family, source) {
            (Family::Ip6, true) => (8, 16),
            (Family::Ip6, false) => (24, 16),
            (_, true) => (12, 4),
            (_, false) => (16, 4),
        };
        self.then([Expr::Payload { base: PayloadBase::Network, offset, len, dreg }])
    }

    /// `ip saddr ADDRESS/len` as a masked comparison; `mask` and `address` have the family's length. A mask of all
    /// ones is left out.
    #[must_use]
    pub fn address(self, family: Family, source: bool, (address, mask): (Vec<u8>, Vec<u8>)) -> Self {
        let rule = self.load_address(family, source, Reg::FIRST);
        let xor = vec![0; mask.len()];
        let whole = mask.iter().all(|b| *b == 0xff);
        let bits = Expr::Bitwise { sreg: Reg::FIRST, dreg: Reg::FIRST, mask, xor };
        let rule = if whole { rule } else { rule.then([bits]) };
        rule.then([Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, data: address }])
    }

    /// `ip saddr @SET` (`source`) or `ip daddr`; `invert` for `!=`.
    #[must_use]
    pub fn address_in(self, family: Family, source: bool, set: &str, invert: bool) -> Self {
        let lookup = Expr::Lookup { set: set.to_owned(), sreg: Reg::FIRST, invert };
        self.load_address(family, source, Reg::FIRST).then([lookup])
    }

    /// `ip saddr . ip daddr @SET`.
    #[must_use]
    pub fn address_pair_in(self, family: Family, set: &str) -> Self {
        let second = if family == Family::Ip6 { Reg::word(4) } else { Reg::word(1) };
        let lookup = Expr::Lookup { set: set.to_owned(), sreg: Reg::FIRST, invert: false };
        self.load_address(family, true, Reg::FIRST).load_address(family, false, second).then([lookup])
    }

    /// `iifname . ip saddr @SET`.
    #[must_use]
    pub fn iifname_and_source_in(self, family: Family, set: &str) -> Self {
        let load = Expr::Meta { key: MetaKey::Iifname, dreg: Reg::FIRST };
        let lookup = Expr::Lookup { set: set.to_owned(), sreg: Reg::FIRST, invert: false };
        self.then([load]).load_address(family, true, Reg::word(4)).then([lookup])
    }

    /// `fib daddr type local`.
    #[must_use]
    pub fn to_this_host(self) -> Self {
        /// `RTN_LOCAL`, host-endian in the register.
        const LOCAL: u32 = 2;
        let fib = Expr::Fib { flags: fib::DADDR, result: FibResult::AddrType, dreg: Reg::FIRST };
        self.then([fib, Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, data: LOCAL.to_ne_bytes().to_vec() }])
    }

    /// `fib saddr type local fib saddr . oif type != local`: the source is an address of this host, and not of the
    /// interface that the packet leaves by.
    #[must_use]
    pub fn from_this_host_elsewhere(self) -> Self {
        /// `RTN_LOCAL`, host-endian in the register.
        const LOCAL: u32 = 2;
        let fib = |flags| Expr::Fib { flags, result: FibResult::AddrType, dreg: Reg::FIRST };
        let cmp = |op| Expr::Cmp { sreg: Reg::FIRST, op, data: LOCAL.to_ne_bytes().to_vec() };
        self.then([fib(fib::SADDR), cmp(CmpOp::Eq), fib(fib::SADDR | fib::OIF), cmp(CmpOp::Neq)])
    }

    /// `fib saddr . mark . iif oif 0`: the source is not reached through the interface that it came from.
    #[must_use]
    pub fn spoofed(self) -> Self {
        let flags = fib::SADDR | fib::MARK | fib::IIF;
        let fib = Expr::Fib { flags, result: FibResult::Oif, dreg: Reg::FIRST };
        self.then([fib, Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, data: vec![0; 4] }])
    }

    /// `dnat ip to [ip daddr .] meta l4proto . th dport map @MAP`; the map's values are address and port.
    #[must_use]
    pub fn dnat_by_port(self, family: Family, by_address: bool, map: &str) -> Self {
        let words = if family == Family::Ip6 { 4 } else { 1 };
        let start = if by_address { words } else { 0 };
        let rule = if by_address { self.load_address(family, false, Reg::FIRST) } else { self };
        rule.then([
            Expr::Meta { key: MetaKey::L4proto, dreg: Reg::word(start) },
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, dreg: Reg::word(start + 1) },
            Expr::MapLookup { map: map.to_owned(), sreg: Reg::FIRST, dreg: Reg::FIRST },
            Expr::Nat { kind: NatKind::Dnat, family, addr: Reg::FIRST, port: Some(Reg::word(words)) },
        ])
    }

    /// `ct state` has one of these bits (see [`CtKey::State`]).
    #[must_use]
    pub fn ct_state(self, bits: u32) -> Self {
        let load = Expr::Ct { key: CtKey::State, dreg: Reg::FIRST };
        self.then([load]).any_bit(bits)
    }

    pub(super) fn any_bit(self, bits: u32) -> Self {
        let zero = vec![0; 4];
        self.then([
            Expr::Bitwise {
                sreg: Reg::FIRST,
                dreg: Reg::FIRST,
                mask: bits.to_ne_bytes().to_vec(),
                xor: zero.clone(),
            },
            Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Neq, data: zero },
        ])
    }

    /// `meta mark & BITS == BITS`.
    #[must_use]
    pub fn marked(self, bits: u32) -> Self {
        let bytes = bits.to_ne_bytes().to_vec();
        self.then([
            Expr::Meta { key: MetaKey::Mark, dreg: Reg::FIRST },
            Expr::Bitwise { sreg: Reg::FIRST, dreg: Reg::FIRST, mask: bytes.clone(), xor: vec![0; 4] },
            Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, data: bytes },
        ])
    }

    /// `meta mark & BITS == 0`.
    #[must_use]
    pub fn unmarked(self, bits: u32) -> Self {
        self.then([
            Expr::Meta { key: MetaKey::Mark, dreg: Reg::FIRST },
            Expr::Bitwise {
                sreg: Reg::FIRST,
                dreg: Reg::FIRST,
                mask: bits.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            Expr::Cmp { sreg: Reg::FIRST, op: CmpOp::Eq, data: vec![0; 4] },
        ])
    }

    /// `meta mark set meta mark & ~CLEAR | SET`.
    #[must_use]
    pub fn set_mark(self, clear: u32, set: u32) -> Self {
        let mask = (!(clear | set)).to_ne_bytes().to_vec();
        let xor = set.to_ne_bytes().to_vec();
        self.then([
            Expr::Meta { key: MetaKey::Mark, dreg: Reg::FIRST },
            Expr::Bitwise { sreg: Reg::FIRST, dreg: Reg::FIRST, mask, xor },
            Expr::MetaSet { key: MetaKey::Mark, sreg: Reg::FIRST },
        ])
    }

    /// `counter`.
    #[must_use]
    pub fn counter(self) -> Self {
        self.then([Expr::Counter { packets: 0, bytes: 0 }])
    }

    /// `notrack`.
    #[must_use]
    pub fn notrack(self) -> Self {
        self.then([Expr::Notrack])
    }

    /// `log prefix "..." level ...`.
    #[must_use]
    pub fn log(self, prefix: &str, level: u32) -> Self {
        self.then([Expr::Log { prefix: prefix.to_owned(), level }])
    }

    /// `masquerade fully-random`.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.then([Expr::Masquerade { random: true, ports: None }])
    }

    /// `masquerade to :FIRST-LAST fully-random`; guard with a protocol that has ports first.
    #[must_use]
    pub fn masquerade_ports(self, first: u16, last: u16) -> Self {
        let (from, to) = (Reg::FIRST, Reg::word(1));
        self.then([
            Expr::Load { dreg: from, data: first.to_be_bytes().to_vec() },
            Expr::Load { dreg: to, data: last.to_be_bytes().to_vec() },
            Expr::Masquerade { random: true, ports: Some((from, to)) },
        ])
    }

    /// `snat ip to ADDRESS`.
    #[must_use]
    pub fn snat(self, family: Family, address: Vec<u8>) -> Self {
        self.then([
            Expr::Load { dreg: Reg::FIRST, data: address },
            Expr::Nat { kind: NatKind::Snat, family, addr: Reg::FIRST, port: None },
        ])
    }

    /// `limit rate PACKETS/UNIT burst BURST packets`.
    #[must_use]
    pub fn limit(self, rate: u64, seconds: u64, burst: u32) -> Self {
        self.then([Expr::Limit { rate, seconds, burst }])
    }

    /// A match of iptables.
    #[must_use]
    pub fn xt_match(self, name: &str, revision: u32, info: Vec<u8>) -> Self {
        self.then([Expr::Match { name: name.to_owned(), revision, info }])
    }

    /// A verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.then([Expr::Verdict(verdict)])
    }

    /// `accept`.
    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// `counter drop comment WHY`.
    #[must_use]
    pub fn drop_because(self, why: &str) -> Self {
        self.counter().verdict(Verdict::Drop).comment(why)
    }

    /// `jump CHAIN`.
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(Verdict::Jump(chain.to_owned()))
    }

    /// `goto CHAIN`.
    #[must_use]
    pub fn goto(self, chain: &str) -> Self {
        self.verdict(Verdict::Goto(chain.to_owned()))
    }

    /// `comment TEXT`.
    #[must_use]
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }
}
