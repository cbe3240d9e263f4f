//! A rule as `nft list` writes it. Pure.
//!
//! A rule is read as the kernel runs it: what each register holds is kept as the expression that loaded it, and a
//! comparison writes it down. What only says of which protocol a packet is, is left out where the next word says it too
//! (`tcp dport` needs no `meta l4proto tcp` before it), as `nft` does.

use super::print::{icmp_code, icmp_type, icmpv6_code, icmpv6_type, protocol, quoted, value, values};
use super::{
    CmpOp, CtKey, DataType, Expr, Family, FibResult, MetaKey, NatKind, PayloadBase, Reg, Rule, SetContents,
    fib,
};
use std::collections::BTreeMap;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// The rule without its chain.
pub(super) fn line(rule: &Rule, sets: &BTreeMap<String, SetContents>) -> String {
    let mut reading = Reading { sets, registers: BTreeMap::new(), words: Vec::new(), family: None, l4: None };
    rule.exprs.iter().for_each(|expr| reading.take(expr));
    let mut words: Vec<String> = reading.words.into_iter().flatten().collect();
    if let Some(comment) = &rule.comment {
        words.push(format!("comment \"{comment}\""));
    }
    words.join(" ")
}

/// What a register holds.
#[derive(Debug, Clone)]
enum Held {
    Meta(MetaKey),
    Payload(PayloadBase, u32, u32),
    Ct(CtKey),
    Fib(u32, FibResult),
    Masked(Box<Held>, Vec<u8>, Vec<u8>),
    Constant(Vec<u8>),
    /// Text of a map lookup.
    Mapped(String),
}

struct Reading<'a> {
    sets: &'a BTreeMap<String, SetContents>,
    registers: BTreeMap<Reg, Held>,
    /// Words that turned out to be said by a later one are `None`.
    words: Vec<Option<String>>,
    /// Which family or protocol is known, and the word that says so.
    family: Option<(Family, usize)>,
    l4: Option<(u8, usize)>,
}

impl Reading<'_> {
    fn say(&mut self, words: String) {
        self.words.push(Some(words));
    }

    fn take(&mut self, expr: &Expr) {
        match expr {
            Expr::Meta { key, dreg } => self.load(*dreg, Held::Meta(*key)),
            Expr::Payload { base, offset, len, dreg } => {
                self.load(*dreg, Held::Payload(*base, *offset, *len))
            }
            Expr::Ct { key, dreg } => self.load(*dreg, Held::Ct(*key)),
            Expr::Fib { flags, result, dreg } => self.load(*dreg, Held::Fib(*flags, *result)),
            Expr::Load { dreg, data } => self.load(*dreg, Held::Constant(data.clone())),
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                let held = Box::new(self.held(*sreg));
                self.load(*dreg, Held::Masked(held, mask.clone(), xor.clone()));
            }
            Expr::Cmp { sreg, op, data } => self.compare(*sreg, *op, data),
            Expr::Range { sreg, op, from, to } => {
                let held = self.held(*sreg);
                let (from, to) = (self.constant(&held, from), self.constant(&held, to));
                let left = self.text(&held);
                self.say(format!("{left} {}{from}-{to}", operator(*op)));
            }
            Expr::Lookup { set, sreg, invert } => {
                let key = self.key(set, *sreg);
                self.say(format!("{key} {}@{set}", if *invert { "!= " } else { "" }));
            }
            Expr::VerdictLookup { map, sreg } => {
                let key = self.key(map, *sreg);
                self.say(format!("{key} vmap @{map}"));
            }
            Expr::MapLookup { map, sreg, dreg } => {
                let key = self.key(map, *sreg);
                self.load(*dreg, Held::Mapped(format!("{key} map @{map}")));
            }
            other => self.act(other),
        }
    }

    fn act(&mut self, expr: &Expr) {
        let words = match expr {
            Expr::MetaSet { sreg, .. } => self.set_mark(*sreg),
            Expr::Counter { packets, bytes } => format!("counter packets {packets} bytes {bytes}"),
            Expr::Masquerade { random, ports } => self.masquerade(*random, *ports),
            Expr::Limit { rate, seconds, burst } => {
                // nft leaves its default out.
                let burst = if *burst == 5 { String::new() } else { format!(" burst {burst} packets") };
                format!("limit rate {rate}/{}{burst}", unit(*seconds))
            }
            Expr::Nat { kind, family, addr, .. } => {
                let held = self.held(*addr);
                let kind = if *kind == NatKind::Snat { "snat" } else { "dnat" };
                let target = match &held {
                    Held::Constant(data) => self.constant(&Held::Payload(PayloadBase::Network, 0, 0), data),
                    _ => self.text(&held),
                };
                format!("{kind} {family} to {target}")
            }
            Expr::Notrack => "notrack".to_owned(),
            Expr::Log { prefix, level } => format!("log prefix \"{prefix}\"{}", level_word(*level)),
            Expr::Match { name, .. } => format!("xt match \"{name}\""),
            Expr::Verdict(verdict) => verdict.to_string(),
            Expr::Other { name, .. } => format!("xt \"{name}\""),
            _ => return,
        };
        self.say(words);
    }

    fn masquerade(&self, random: bool, ports: Option<(Reg, Reg)>) -> String {
        let port = |register: Reg| match self.held(register) {
            Held::Constant(data) => values(&[DataType::InetService], &data),
            _ => String::new(),
        };
        let range = match ports {
            Some((first, last)) if first == last => format!(" to :{}", port(first)),
            Some((first, last)) => format!(" to :{}-{}", port(first), port(last)),
            None => String::new(),
        };
        format!("masquerade{range}{}", if random { " fully-random" } else { "" })
    }

    fn load(&mut self, register: Reg, held: Held) {
        self.registers.insert(register, held);
    }

    fn held(&self, register: Reg) -> Held {
        self.registers.get(&register).cloned().unwrap_or(Held::Constant(Vec::new()))
    }

    fn compare(&mut self, register: Reg, op: CmpOp, data: &[u8]) {
        let held = self.held(register);
        let place = self.words.len();
        match (&held, op, data) {
            (Held::Meta(MetaKey::Nfproto), CmpOp::Eq, [number]) => {
                self.family = Family::from_number(*number).map(|family| (family, place));
            }
            (Held::Meta(MetaKey::L4proto), CmpOp::Eq, [number]) => self.l4 = Some((*number, place)),
            _ => {}
        }
        let words = match &held {
            Held::Payload(PayloadBase::Transport, 0, 2) if op == CmpOp::Eq => {
                self.icmp_type_and_code(&held, data)
            }
            Held::Masked(inner, mask, xor) => self.compare_bits(inner, (mask, xor), op, data),
            _ => {
                let right = self.constant(&held, data);
                format!("{} {}{right}", self.text(&held), operator(op))
            }
        };
        self.say(words);
    }

    /// Both in one comparison. Only where they are to be equal: for what both together must not be `nft` has no words,
    /// and lists it as if neither might be.
    fn icmp_type_and_code(&mut self, held: &Held, data: &[u8]) -> String {
        let protocol = self.l4.map(|(number, _)| number);
        let ([kind, code], Some(ICMP | ICMPV6)) = (data, protocol) else {
            return format!("{} {}", self.text(held), self.constant(held, data));
        };
        let name = self.text(&Held::Payload(PayloadBase::Transport, 0, 1));
        let word = self.constant(&Held::Payload(PayloadBase::Transport, 0, 1), &[*kind]);
        let code = if protocol == Some(ICMP) { icmp_code(*code) } else { icmpv6_code(*code) };
        format!("{name} {word} {} {code}", name.replace("type", "code"))
    }

    /// Bits of a state, a prefix of an address, or bits of a number.
    fn compare_bits(
        &mut self,
        held: &Held,
        (mask, _): (&Vec<u8>, &Vec<u8>),
        op: CmpOp,
        data: &[u8],
    ) -> String {
        let left = self.text(held);
        match held {
            Held::Ct(key) if op == CmpOp::Neq => format!("{left} {}", bit_names(*key, native(mask))),
            Held::Payload(..) => {
                let bits: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
                format!("{left} {}{}/{bits}", operator(op), self.constant(held, data))
            }
            _ => {
                let sign = if op == CmpOp::Eq { "==" } else { "!=" };
                format!("{left} & 0x{:08x} {sign} 0x{:08x}", native(mask), native(data))
            }
        }
    }

    fn set_mark(&self, register: Reg) -> String {
        match self.held(register) {
            Held::Masked(_, mask, xor) => {
                let (mask, xor) = (native(&mask), native(&xor));
                // Bits that are set need not be kept first.
                let kept =
                    if mask | xor == u32::MAX { String::new() } else { format!(" & 0x{:08x}", mask | xor) };
                let set = if xor == 0 { String::new() } else { format!(" | 0x{xor:08x}") };
                format!("meta mark set meta mark{kept}{set}")
            }
            Held::Constant(data) => format!("meta mark set 0x{:08x}", native(&data)),
            _ => "meta mark set meta mark".to_owned(),
        }
    }

    /// What is looked up: as many values as the set's key has.
    fn key(&mut self, set: &str, register: Reg) -> String {
        let types = self.sets.get(set).map(|contents| contents.set.key.clone()).unwrap_or_default();
        let mut word = register.index();
        let mut parts = Vec::new();
        for kind in &types {
            let held = self.held(Reg::word(word));
            parts.push(self.text(&held));
            word = word.saturating_add(u8::try_from(kind.len().div_ceil(4)).unwrap_or(1));
        }
        if parts.is_empty() {
            let held = self.held(register);
            parts.push(self.text(&held));
        }
        parts.join(" . ")
    }

    /// What is compared; a word before that said no more than this does is taken back.
    fn text(&mut self, held: &Held) -> String {
        match held {
            Held::Meta(key) => match key {
                MetaKey::Mark => "meta mark",
                MetaKey::Iifname => "iifname",
                MetaKey::Oifname => "oifname",
                MetaKey::Nfproto => "meta nfproto",
                MetaKey::L4proto => "meta l4proto",
            }
            .to_owned(),
            Held::Payload(PayloadBase::Network, offset, len) => self.network(*offset, *len),
            Held::Payload(PayloadBase::Transport, offset, len) => self.transport(*offset, *len),
            Held::Ct(CtKey::State) => "ct state".to_owned(),
            Held::Ct(CtKey::Status) => "ct status".to_owned(),
            Held::Fib(flags, result) => fib_text(*flags, *result),
            Held::Masked(inner, ..) => self.text(inner),
            Held::Constant(data) => format!("0x{:x}", native(data)),
            Held::Mapped(text) => text.clone(),
        }
    }

    fn network(&mut self, offset: u32, len: u32) -> String {
        let family = self.family.map(|(family, _)| family);
        let words = match (family, offset, len) {
            (Some(Family::Ip), 12, 4) => "ip saddr",
            (Some(Family::Ip), 16, 4) => "ip daddr",
            (Some(Family::Ip6), 8, 16) => "ip6 saddr",
            (Some(Family::Ip6), 24, 16) => "ip6 daddr",
            _ => return format!("@nh,{},{}", offset * 8, len * 8),
        };
        self.take_back(self.family.map(|(_, place)| place));
        words.to_owned()
    }

    fn transport(&mut self, offset: u32, len: u32) -> String {
        let port = match (offset, len) {
            (0, 2) => Some("sport"),
            (2, 2) => Some("dport"),
            _ => None,
        };
        let protocol = self.l4.map(|(number, _)| number);
        let words = match (protocol, port, (offset, len)) {
            (Some(TCP), Some(port), _) => format!("tcp {port}"),
            (Some(UDP), Some(port), _) => format!("udp {port}"),
            (Some(SCTP), Some(port), _) => format!("sctp {port}"),
            (Some(ICMP), _, (0, 1)) => "icmp type".to_owned(),
            (Some(ICMPV6), _, (0, 1)) => "icmpv6 type".to_owned(),
            (Some(ICMP | ICMPV6), ..) | (_, None, _) => return format!("@th,{},{}", offset * 8, len * 8),
            (_, Some(port), _) => return format!("th {port}"),
        };
        self.take_back(self.l4.map(|(_, place)| place));
        if matches!(protocol, Some(ICMP | ICMPV6)) {
            self.take_back(self.family.map(|(_, place)| place));
        }
        words
    }

    fn take_back(&mut self, place: Option<usize>) {
        if let Some(word) = place.and_then(|place| self.words.get_mut(place)) {
            *word = None;
        }
    }

    fn constant(&self, held: &Held, data: &[u8]) -> String {
        let number = || data.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        match held {
            Held::Meta(MetaKey::Iifname | MetaKey::Oifname) => quoted(data, 16),
            Held::Meta(MetaKey::Nfproto) => if data == [2] { "ipv4" } else { "ipv6" }.to_owned(),
            Held::Meta(MetaKey::L4proto) => protocol(number()),
            Held::Meta(MetaKey::Mark) => format!("0x{:08x}", native(data)),
            Held::Payload(PayloadBase::Network, ..) if data.len() == 4 => value(DataType::Ipv4Addr, data),
            Held::Payload(PayloadBase::Network, ..) if data.len() == 16 => value(DataType::Ipv6Addr, data),
            Held::Payload(PayloadBase::Transport, 0, 1) if self.is(ICMP) => icmp_type(number()),
            Held::Payload(PayloadBase::Transport, 0, 1) if self.is(ICMPV6) => icmpv6_type(number()),
            Held::Payload(PayloadBase::Transport, _, 3) => format!("0x{:x}", number()),
            Held::Payload(_, 0, 2) if self.is(ICMP) || self.is(ICMPV6) => format!("0x{:x}", number()),
            Held::Fib(_, FibResult::AddrType) if native(data) == 2 => "local".to_owned(),
            Held::Fib(..) => native(data).to_string(),
            Held::Masked(inner, ..) => self.constant(inner, data),
            _ => values(&[DataType::InetService], data),
        }
    }

    fn is(&self, protocol: u8) -> bool {
        self.l4.is_some_and(|(number, _)| number == protocol)
    }
}

fn operator(op: CmpOp) -> &'static str {
    match op {
        CmpOp::Eq => "",
        CmpOp::Neq => "!= ",
        CmpOp::Lt => "< ",
        CmpOp::Lte => "<= ",
        CmpOp::Gt => "> ",
        CmpOp::Gte => ">= ",
    }
}

fn unit(seconds: u64) -> String {
    match seconds {
        1 => "second".to_owned(),
        60 => "minute".to_owned(),
        3600 => "hour".to_owned(),
        86_400 => "day".to_owned(),
        other => format!("{other} seconds"),
    }
}

/// A number as the processor has it.
fn native(bytes: &[u8]) -> u32 {
    <[u8; 4]>::try_from(bytes).map(u32::from_ne_bytes).unwrap_or(0)
}

fn bit_names(key: CtKey, bits: u32) -> String {
    let known: &[(u32, &str)] = match key {
        CtKey::State => &[(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")],
        CtKey::Status => &[
            (1, "expected"),
            (2, "seen-reply"),
            (4, "assured"),
            (8, "confirmed"),
            (16, "snat"),
            (32, "dnat"),
        ],
    };
    known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

fn fib_text(flags: u32, result: FibResult) -> String {
    let known = [
        (fib::SADDR, "saddr"),
        (fib::DADDR, "daddr"),
        (fib::MARK, "mark"),
        (fib::IIF, "iif"),
        (fib::OIF, "oif"),
    ];
    let used: Vec<&str> = known.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    let wanted = match result {
        FibResult::Oif => "oif",
        FibResult::AddrType => "type",
    };
    format!("fib {} {wanted}", used.join(" . "))
}

/// Syslog's levels; `warn` is what `nft` leaves out.
fn level_word(level: u32) -> String {
    let names = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];
    match usize::try_from(level).ok().and_then(|at| names.get(at)) {
        Some(&"warn") | None => String::new(),
        Some(name) => format!(" level {name}"),
    }
}
