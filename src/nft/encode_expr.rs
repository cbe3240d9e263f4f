//! Expressions and verdicts into attributes. Pure.

use super::attr::Writer;
use super::wire::{self, data};
use super::{Expr, Verdict};

pub(super) fn put_verdict(w: &mut Writer, verdict: &Verdict) {
    w.nest(data::VERDICT, |w| {
        let (code, target) = match verdict {
            Verdict::Drop => (0_i32, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        w.raw(data::VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = target {
            w.text(data::VERDICT_CHAIN, chain);
        }
    });
}

fn put_value(w: &mut Writer, kind: u16, bytes: &[u8]) {
    w.nest(kind, |w| w.raw(data::VALUE, bytes));
}

pub(super) fn put_expr(w: &mut Writer, expr: &Expr) {
    w.text(wire::EXPR_NAME, name_of(expr));
    match expr {
        Expr::Notrack => {}
        Expr::Other { data, .. } => w.raw(wire::EXPR_DATA, data),
        _ => w.nest(wire::EXPR_DATA, |w| put_expr_data(w, expr)),
    }
}

fn name_of(expr: &Expr) -> &str {
    match expr {
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Cmp { .. } => "cmp",
        Expr::Range { .. } => "range",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Payload { .. } => "payload",
        Expr::Ct { .. } => "ct",
        Expr::Lookup { .. } | Expr::MapLookup { .. } | Expr::VerdictLookup { .. } => "lookup",
        Expr::Load { .. } | Expr::Verdict(_) => "immediate",
        Expr::Counter { .. } => "counter",
        Expr::Masquerade { .. } => "masq",
        Expr::Nat { .. } => "nat",
        Expr::Fib { .. } => "fib",
        Expr::Notrack => "notrack",
        Expr::Limit { .. } => "limit",
        Expr::Log { .. } => "log",
        Expr::Match { .. } => "match",
        Expr::Other { name, .. } => name,
    }
}

/// Attribute numbers are those of `enum nft_<name>_attributes`, in that order.
fn put_expr_data(w: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Meta { key, dreg } => {
            w.u32(1, dreg.number());
            w.u32(2, key.number());
        }
        Expr::MetaSet { key, sreg } => {
            w.u32(2, key.number());
            w.u32(3, sreg.number());
        }
        Expr::Cmp { sreg, op, data } => {
            w.u32(1, sreg.number());
            w.u32(2, op.number());
            put_value(w, 3, data);
        }
        Expr::Range { sreg, op, from, to } => {
            w.u32(1, sreg.number());
            w.u32(2, op.number());
            put_value(w, 3, from);
            put_value(w, 4, to);
        }
        Expr::Bitwise { sreg, dreg, mask, xor } => {
            w.u32(1, sreg.number());
            w.u32(2, dreg.number());
            w.u32(3, u32::try_from(mask.len()).unwrap_or(0));
            put_value(w, 4, mask);
            put_value(w, 5, xor);
        }
        Expr::Payload { base, offset, len, dreg } => {
            w.u32(1, dreg.number());
            w.u32(2, base.number());
            w.u32(3, *offset);
            w.u32(4, *len);
        }
        Expr::Ct { key, dreg } => {
            w.u32(1, dreg.number());
            w.u32(2, key.number());
        }
        other => put_action_data(w, other),
    }
}

/// The register that stands for the verdict, `NFT_REG_VERDICT`.
const VERDICT_REG: u32 = 0;

fn put_action_data(w: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Lookup { set, sreg, invert } => {
            w.text(1, set);
            w.u32(2, sreg.number());
            if *invert {
                w.u32(5, 1);
            }
        }
        Expr::MapLookup { map, sreg, dreg } => {
            w.text(1, map);
            w.u32(2, sreg.number());
            w.u32(3, dreg.number());
        }
        Expr::VerdictLookup { map, sreg } => {
            w.text(1, map);
            w.u32(2, sreg.number());
            w.u32(3, VERDICT_REG);
        }
        Expr::Load { dreg, data } => {
            w.u32(1, dreg.number());
            put_value(w, 2, data);
        }
        Expr::Verdict(verdict) => {
            w.u32(1, VERDICT_REG);
            w.nest(2, |w| put_verdict(w, verdict));
        }
        Expr::Counter { packets, bytes } => {
            w.u64(1, *bytes);
            w.u64(2, *packets);
        }
        Expr::Nat { kind, family, addr, port } => {
            w.u32(1, kind.number());
            w.u32(2, u32::from(family.number()));
            w.u32(3, addr.number());
            if let Some(port) = port {
                w.u32(5, port.number());
            }
        }
        Expr::Fib { flags, result, dreg } => {
            w.u32(1, dreg.number());
            w.u32(2, result.number());
            w.u32(3, *flags);
        }
        other => put_effect_data(w, other),
    }
}

fn put_effect_data(w: &mut Writer, expr: &Expr) {
    match expr {
        Expr::Masquerade { random, ports } => {
            let random = if *random { RANDOM_FULLY } else { 0 };
            w.u32(1, random | if ports.is_some() { PROTO_SPECIFIED } else { 0 });
            if let Some((first, last)) = ports {
                w.u32(2, first.number());
                w.u32(3, last.number());
            }
        }
        Expr::Limit { rate, seconds, burst } => {
            w.u64(1, *rate);
            w.u64(2, *seconds);
            w.u32(3, *burst);
        }
        Expr::Log { prefix, level } => {
            w.text(2, prefix);
            w.u32(5, *level);
        }
        Expr::Match { name, revision, info } => {
            w.text(1, name);
            w.u32(2, *revision);
            w.raw(3, info);
        }
        _ => {}
    }
}

/// `NF_NAT_RANGE_PROTO_SPECIFIED` of `include/uapi/linux/netfilter/nf_nat.h`.
pub(crate) const PROTO_SPECIFIED: u32 = 1 << 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY` of `include/uapi/linux/netfilter/nf_nat.h`.
pub(crate) const RANDOM_FULLY: u32 = 1 << 4;
