//! What the kernel sends, into our types. Pure.
//!
//! Objects that use what we never use (foreign types, hooks of a device) are still listed, as [`Expr::Other`] or with an
//! empty type: a comparison then finds them different, and nothing is misread.

use super::attr::{Reader, text};
use super::encode_expr::{PROTO_SPECIFIED, RANDOM_FULLY};
use super::wire::{self, chain, data, elem, rule, set, table};
use super::{
    BaseChain, Chain, ChainKind, CmpOp, CtKey, Data, DataType, Element, ElementKey, Expr, Family, FibResult,
    Hook, MetaKey, NatKind, NftError, PayloadBase, Reg, Rule, Set, SetData, TableId, Verdict,
};

/// One netlink message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// Port of the socket whose request this answers or, in a notification, whose change it tells.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The number inside nf_tables, for its messages.
    pub(crate) fn nft_kind(&self) -> Option<u8> {
        (self.kind >> 8 == wire::SUBSYS).then(|| self.kind.to_le_bytes()).map(|[low, _]| low)
    }

    /// `nfgen_family`.
    pub(crate) fn family(&self) -> Option<Family> {
        self.payload.first().and_then(|n| Family::from_number(*n))
    }

    /// Attributes after `struct nfgenmsg`.
    pub(crate) fn attributes(&self) -> Reader<'a> {
        Reader::new(self.payload.get(4..).unwrap_or_default())
    }
}

/// The messages of one datagram.
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut found = Vec::new();
    while let Some((message, rest)) = next_message(bytes) {
        found.push(message);
        bytes = rest;
    }
    found
}

fn next_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let half = |at: usize| bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let len = usize::try_from(word(0)?).ok()?;
    let payload = bytes.get(16..len)?;
    let message = Message { kind: half(4)?, flags: half(6)?, seq: word(8)?, port: word(12)?, payload };
    Some((message, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// `NLMSG_ERROR`: the error number (0 is an acknowledgement) and the kernel's explanation.
pub(crate) fn error(message: &Message<'_>) -> (i32, Option<String>) {
    let code = message.payload.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    let request = message.payload.get(4..8).and_then(|b| b.try_into().ok()).map_or(16, u32::from_ne_bytes);
    let body =
        if message.flags & wire::flag::CAPPED == 0 { usize::try_from(request).unwrap_or(16) } else { 16 };
    let tlvs = message.payload.get(4 + body.next_multiple_of(4)..).unwrap_or_default();
    let hint =
        (message.flags & wire::flag::ACK_TLVS != 0).then(|| Reader::new(tlvs).text(wire::ERR_MSG)).flatten();
    (code.saturating_neg(), hint)
}

/// A table and its flags.
pub(crate) fn table(message: &Message<'_>) -> Result<(TableId, u32), NftError> {
    let attributes = message.attributes();
    let family = message.family().ok_or(NftError::Malformed { what: "a table of an unknown family" })?;
    let name = attributes.name(table::NAME, "a table without name")?;
    Ok((TableId { family, name }, attributes.u32(table::FLAGS).unwrap_or(0)))
}

/// A chain, with the name of its table.
pub(crate) fn chain(message: &Message<'_>) -> Result<(String, Chain), NftError> {
    let attributes = message.attributes();
    let table = attributes.name(chain::TABLE, "a chain without table")?;
    let name = attributes.name(chain::NAME, "a chain without name")?;
    let base = attributes.nested(chain::HOOK).and_then(|hook| {
        let priority = hook.get(chain::HOOK_PRIORITY)?.try_into().ok().map(i32::from_be_bytes)?;
        Some(BaseChain {
            kind: ChainKind::from_name(&attributes.text(chain::TYPE)?)?,
            hook: Hook::from_number(hook.u32(chain::HOOK_NUM)?)?,
            priority,
            drop: attributes.u32(chain::POLICY) == Some(0),
        })
    });
    Ok((table, Chain { name, base }))
}

/// A rule, with the name of its table.
pub(crate) fn rule(message: &Message<'_>) -> Result<(String, Rule), NftError> {
    let attributes = message.attributes();
    let exprs = attributes
        .nested(rule::EXPRESSIONS)
        .into_iter()
        .flatten()
        .map(|(_, bytes)| expr(Reader::new(bytes)))
        .collect::<Result<_, _>>()?;
    let found = Rule {
        chain: attributes.name(rule::CHAIN, "a rule without chain")?,
        exprs,
        comment: attributes.get(rule::USERDATA).and_then(comment),
        handle: attributes.u64(rule::HANDLE),
    };
    Ok((attributes.name(rule::TABLE, "a rule without table")?, found))
}

fn comment(mut udata: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = udata {
        let value = rest.get(..usize::from(*len))?;
        if *kind == rule::UDATA_COMMENT {
            return Some(text(value));
        }
        udata = rest.get(usize::from(*len)..)?;
    }
    None
}

/// A set or map, with the name of its table.
pub(crate) fn set(message: &Message<'_>) -> Result<(String, Set), NftError> {
    let attributes = message.attributes();
    let flags = attributes.u32(set::FLAGS).unwrap_or(0);
    let data = match (flags & set::FLAG_MAP != 0, attributes.u32(set::DATA_TYPE)) {
        (false, _) => SetData::None,
        (true, Some(set::TYPE_VERDICT)) => SetData::Verdict,
        (true, number) => SetData::Value(types(number.unwrap_or(0))),
    };
    let known = flags & !(set::FLAG_INTERVAL | set::FLAG_MAP) == 0;
    let found = Set {
        name: attributes.name(set::NAME, "a set without name")?,
        key: if known { types(attributes.u32(set::KEY_TYPE).unwrap_or(0)) } else { Vec::new() },
        data,
        interval: flags & set::FLAG_INTERVAL != 0,
    };
    Ok((attributes.name(set::TABLE, "a set without table")?, found))
}

/// The parts of a concatenation; empty if one of them is none of ours.
fn types(mut packed: u32) -> Vec<DataType> {
    let mut found = Vec::new();
    while packed != 0 {
        let Some(one) = DataType::from_number(packed & 0x3f) else { return Vec::new() };
        found.insert(0, one);
        packed >>= 6;
    }
    found
}

/// The elements of one message of a dump.
pub(crate) fn elements(message: &Message<'_>) -> Result<Vec<Element>, NftError> {
    let list = message.attributes().nested(elem::LIST_ELEMENTS);
    list.into_iter().flatten().map(|(_, bytes)| element(Reader::new(bytes))).collect()
}

fn element(attributes: Reader<'_>) -> Result<Element, NftError> {
    let key = attributes.nested(elem::KEY).and_then(|k| k.get(data::VALUE));
    let bytes = key.ok_or(NftError::Malformed { what: "an element without key" })?.to_vec();
    let end = attributes.u32(elem::FLAGS).unwrap_or(0) & elem::FLAG_INTERVAL_END != 0;
    let data = match attributes.nested(elem::DATA) {
        None => None,
        Some(inner) => match inner.get(data::VALUE) {
            Some(value) => Some(Data::Value(value.to_vec())),
            None => Some(Data::Verdict(
                verdict(inner).ok_or(NftError::Malformed { what: "an element's verdict" })?,
            )),
        },
    };
    Ok(Element { key: ElementKey { bytes, end }, data })
}

fn verdict(attributes: Reader<'_>) -> Option<Verdict> {
    let inner = attributes.nested(data::VERDICT)?;
    let code = inner.get(data::VERDICT_CODE)?.try_into().ok().map(i32::from_be_bytes)?;
    match code {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -3 => inner.text(data::VERDICT_CHAIN).map(Verdict::Jump),
        -4 => inner.text(data::VERDICT_CHAIN).map(Verdict::Goto),
        -5 => Some(Verdict::Return),
        _ => None,
    }
}

fn expr(attributes: Reader<'_>) -> Result<Expr, NftError> {
    let name = attributes.name(wire::EXPR_NAME, "an expression without name")?;
    let bytes = attributes.get(wire::EXPR_DATA).unwrap_or_default();
    let inner = Reader::new(bytes);
    let known = match name.as_str() {
        "meta" | "cmp" | "range" | "bitwise" | "payload" | "ct" => test(&name, inner),
        _ => action(&name, inner),
    };
    Ok(known.unwrap_or_else(|| Expr::Other { name, data: bytes.to_vec() }))
}

fn reg(inner: Reader<'_>, kind: u16) -> Option<Reg> {
    inner.u32(kind).and_then(Reg::from_number)
}

fn value(inner: Reader<'_>, kind: u16) -> Option<Vec<u8>> {
    inner.nested(kind)?.get(data::VALUE).map(<[u8]>::to_vec)
}

/// Expressions that load and compare; `None` for a form that we never write.
fn test(name: &str, inner: Reader<'_>) -> Option<Expr> {
    Some(match name {
        "meta" => {
            let key = MetaKey::from_number(inner.u32(2)?)?;
            match reg(inner, 3) {
                Some(sreg) => Expr::MetaSet { key, sreg },
                None => Expr::Meta { key, dreg: reg(inner, 1)? },
            }
        }
        "cmp" => {
            Expr::Cmp { sreg: reg(inner, 1)?, op: CmpOp::from_number(inner.u32(2)?)?, data: value(inner, 3)? }
        }
        "range" => Expr::Range {
            sreg: reg(inner, 1)?,
            op: CmpOp::from_number(inner.u32(2)?)?,
            from: value(inner, 3)?,
            to: value(inner, 4)?,
        },
        "bitwise" if inner.u32(6).unwrap_or(0) == 0 => Expr::Bitwise {
            sreg: reg(inner, 1)?,
            dreg: reg(inner, 2)?,
            mask: value(inner, 4)?,
            xor: value(inner, 5)?,
        },
        "payload" => Expr::Payload {
            dreg: reg(inner, 1)?,
            base: PayloadBase::from_number(inner.u32(2)?)?,
            offset: inner.u32(3)?,
            len: inner.u32(4)?,
        },
        "ct" if inner.u32(3).is_none() => {
            Expr::Ct { key: CtKey::from_number(inner.u32(2)?)?, dreg: reg(inner, 1)? }
        }
        _ => return None,
    })
}

/// Expressions that look up, decide and change; `None` for a form that we never write.
fn action(name: &str, inner: Reader<'_>) -> Option<Expr> {
    Some(match name {
        "lookup" => lookup(inner)?,
        "immediate" => match inner.u32(1)? {
            0 => Expr::Verdict(verdict(inner.nested(2)?)?),
            number => Expr::Load { dreg: Reg::from_number(number)?, data: value(inner, 2)? },
        },
        "counter" => Expr::Counter { packets: inner.u64(2)?, bytes: inner.u64(1)? },
        "masq" => masquerade(inner)?,
        "limit" => limit(inner)?,
        "nat" => nat(inner)?,
        "fib" => Expr::Fib {
            dreg: reg(inner, 1)?,
            result: FibResult::from_number(inner.u32(2)?)?,
            flags: inner.u32(3)?,
        },
        "notrack" => Expr::Notrack,
        "log" if inner.get(1).is_none() => Expr::Log { prefix: inner.text(2)?, level: inner.u32(5)? },
        "match" => {
            Expr::Match { name: inner.text(1)?, revision: inner.u32(2)?, info: inner.get(3)?.to_vec() }
        }
        _ => return None,
    })
}

fn masquerade(inner: Reader<'_>) -> Option<Expr> {
    let flags = inner.u32(1).unwrap_or(0);
    let ports = reg(inner, 2).map(|first| (first, reg(inner, 3).unwrap_or(first)));
    let known = flags & !(RANDOM_FULLY | PROTO_SPECIFIED) == 0;
    known.then_some(Expr::Masquerade { random: flags & RANDOM_FULLY != 0, ports })
}

/// Of packets, and for those below the limit.
fn limit(inner: Reader<'_>) -> Option<Expr> {
    let plain = inner.u32(4).unwrap_or(0) == 0 && inner.u32(5).unwrap_or(0) == 0;
    let expr = Expr::Limit { rate: inner.u64(1)?, seconds: inner.u64(2)?, burst: inner.u32(3)? };
    plain.then_some(expr)
}

fn lookup(inner: Reader<'_>) -> Option<Expr> {
    let name = inner.text(1)?;
    let sreg = reg(inner, 2)?;
    Some(match inner.u32(3) {
        Some(0) => Expr::VerdictLookup { map: name, sreg },
        Some(number) => Expr::MapLookup { map: name, sreg, dreg: Reg::from_number(number)? },
        None => Expr::Lookup { set: name, sreg, invert: inner.u32(5).unwrap_or(0) == 1 },
    })
}

/// The kernel tells both ends of a range and, in the flags, that there is one; ours are single values.
fn nat(inner: Reader<'_>) -> Option<Expr> {
    const GIVEN: u32 = 0x3; // NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED
    let addr = reg(inner, 3)?;
    let port = reg(inner, 5);
    let single =
        reg(inner, 4).is_none_or(|max| max == addr) && reg(inner, 6).is_none_or(|max| Some(max) == port);
    if !single || inner.u32(7).unwrap_or(0) & !GIVEN != 0 {
        return None;
    }
    let family = u8::try_from(inner.u32(2)?).ok().and_then(Family::from_number)?;
    Some(Expr::Nat { kind: NatKind::from_number(inner.u32(1)?)?, family, addr, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{Batch, Op, encode};
    use proptest::prelude::*;

    /// The rule of a batch's only operation, as the kernel would see it.
    fn through(rule: &Rule) -> Rule {
        let mut batch = Batch::new(TableId::new(Family::Inet, "t"));
        batch.push(Op::AddRule(rule.clone()));
        let encoded = encode::batch(&batch, 1, None);
        let found = messages(&encoded.bytes);
        assert_eq!(found.iter().map(|m| m.seq).collect::<Vec<_>>(), [1, 2, 3]);
        super::rule(&found[1]).unwrap().1
    }

    #[test]
    fn long_comments_are_cut_at_a_character() {
        let comment = "ä".repeat(100);
        let found = through(&Rule::in_chain("c").accept().comment(&comment));
        assert_eq!(found.comment.unwrap(), "ä".repeat(63));
    }

    #[test]
    fn a_batch_numbers_its_messages_by_operation() {
        let mut batch = Batch::new(TableId::new(Family::Inet, "t"));
        batch.push(Op::AddTable);
        let many = (0..1200_u16).map(|n| Element::member(n.to_be_bytes().to_vec())).collect();
        batch.elements("s", Vec::new(), many);
        batch.push(Op::DeleteTable);
        let encoded = encode::batch(&batch, 7, Some(3));
        assert_eq!(encoded.owners, [0, 1, 1, 1, 2]);
        assert_eq!(messages(&encoded.bytes).len(), 7);
    }

    #[test]
    fn errors_carry_the_kernels_hint() {
        let mut payload = (-2_i32).to_ne_bytes().to_vec();
        payload.extend([16, 0, 0, 0].iter().chain(&[0; 12]));
        payload.extend([9, 0, 1, 0]);
        payload.extend(b"why?\0\0\0\0");
        let flags = wire::flag::CAPPED | wire::flag::ACK_TLVS;
        let message = Message { kind: wire::NLMSG_ERROR, flags, seq: 1, port: 0, payload: &payload };
        assert_eq!(error(&message), (2, Some("why?".to_owned())));
        let cut = Message { payload: &payload[..3], ..message };
        assert_eq!(error(&cut), (0, None));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_breaks(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for found in messages(&bytes) {
                let _ = error(&found);
            }
            let message = Message { kind: 0, flags: 0xffff, seq: 0, port: 0, payload: &bytes };
            let _ = (error(&message), table(&message).is_ok(), chain(&message).is_ok(), rule(&message).is_ok());
            let _ = (set(&message).is_ok(), elements(&message).is_ok(), comment(&bytes));
            for name in ["meta", "cmp", "range", "bitwise", "payload", "ct", "lookup", "immediate", "nat", "log", "match", "masq", "limit"] {
                let _ = (test(name, Reader::new(&bytes)), action(name, Reader::new(&bytes)));
            }
        }

        #[test]
        fn rules_survive_encoding(
            interface in "[a-z]{1,15}",
            mark in any::<u32>(),
            port in any::<u16>(),
            prefix in "[ -~]{0,100}",
        ) {
            let sent = Rule::in_chain("c")
                .iifname(&interface)
                .marked(mark)
                .dport(6, port)
                .dnat_by_port(Family::Ip6, true, "m")
                .limit(10, 60, 5)
                .log(&prefix, 3)
                .counter()
                .goto("d")
                .comment(&interface);
            prop_assert_eq!(through(&sent), sent);
        }
    }
}
