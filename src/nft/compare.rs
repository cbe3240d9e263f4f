//! What rules compare, as policy needs it: everything can be negated.

use super::{CmpOp, CtKey, Expr, Family, MetaKey, PayloadBase, Reg, Rule};

impl Rule {
    /// `meta l4proto PROTOCOL`, or with `invert` `!=`.
    #[must_use]
    pub fn l4proto_is(self, protocol: u8, invert: bool) -> Self {
        let load = Expr::Meta { key: MetaKey::L4proto, dreg: Reg::FIRST };
        self.then([load]).equals(vec![protocol], invert)
    }

    /// `ip saddr [!=] ADDRESS/len` as a masked comparison; guard with [`Rule::family`] first.
    #[must_use]
    pub fn net(
        self,
        family: Family,
        source: bool,
        (address, mask): (Vec<u8>, Vec<u8>),
        invert: bool,
    ) -> Self {
        let rule = self.load_address(family, source, Reg::FIRST);
        let rule = if mask.iter().all(|byte| *byte == 0xff) {
            rule
        } else {
            let xor = vec![0; mask.len()];
            rule.then([Expr::Bitwise { sreg: Reg::FIRST, dreg: Reg::FIRST, mask, xor }])
        };
        rule.equals(address, invert)
    }

    /// `th sport [!=] FIRST-LAST`, or `dport`; guard with a protocol that has ports first.
    #[must_use]
    pub fn port_between(self, source: bool, (first, last): (u16, u16), invert: bool) -> Self {
        let rule = self.load_port(source, Reg::FIRST);
        if first == last {
            return rule.equals(first.to_be_bytes().to_vec(), invert);
        }
        let (from, to) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
        rule.then([Expr::Range { sreg: Reg::FIRST, op: equality(invert), from, to }])
    }

    /// `th sport [!=] @SET`, or `dport`; guard with a protocol that has ports first.
    #[must_use]
    pub fn port_in(self, source: bool, set: &str, invert: bool) -> Self {
        self.load_port(source, Reg::FIRST).lookup(set, invert)
    }

    /// `ip saddr . meta l4proto . th sport [!=] @SET`, or `daddr` and `dport`; guard with [`Rule::family`] first.
    #[must_use]
    pub fn address_port_in(self, family: Family, source: bool, set: &str, invert: bool) -> Self {
        let words = if family == Family::Ip6 { 4 } else { 1 };
        self.load_address(family, source, Reg::FIRST)
            .then([Expr::Meta { key: MetaKey::L4proto, dreg: Reg::word(words) }])
            .load_port(source, Reg::word(words + 1))
            .lookup(set, invert)
    }

    /// `icmp type [!=] TYPE`, or `icmp type . icmp code [!=] TYPE . CODE`: one comparison of the two bytes that begin
    /// every ICMP message of both versions. Guard with the protocol first.
    #[must_use]
    pub fn icmp(self, kind: u8, code: Option<u8>, invert: bool) -> Self {
        let data: Vec<u8> = std::iter::once(kind).chain(code).collect();
        let len = if code.is_some() { 2 } else { 1 };
        let load = Expr::Payload { base: PayloadBase::Transport, offset: 0, len, dreg: Reg::FIRST };
        self.then([load]).equals(data, invert)
    }

    /// `ct status` has one of these bits (see [`CtKey::Status`]).
    #[must_use]
    pub fn ct_status(self, bits: u32) -> Self {
        self.then([Expr::Ct { key: CtKey::Status, dreg: Reg::FIRST }]).any_bit(bits)
    }

    fn load_port(self, source: bool, dreg: Reg) -> Self {
        let offset = if source { 0 } else { 2 };
        self.then([Expr::Payload { base: PayloadBase::Transport, offset, len: 2, dreg }])
    }

    fn equals(self, data: Vec<u8>, invert: bool) -> Self {
        self.then([Expr::Cmp { sreg: Reg::FIRST, op: equality(invert), data }])
    }

    fn lookup(self, set: &str, invert: bool) -> Self {
        self.then([Expr::Lookup { set: set.to_owned(), sreg: Reg::FIRST, invert }])
    }
}

fn equality(invert: bool) -> CmpOp {
    if invert { CmpOp::Neq } else { CmpOp::Eq }
}
