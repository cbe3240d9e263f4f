//! Batches and requests into bytes. Pure.

use super::attr::Writer;
use super::encode_expr::{put_expr, put_verdict};
use super::wire::{self, chain, data, elem, flag, msg, rule, set, table};
use super::{Batch, Chain, Data, DataType, Element, Op, Rule, Set, SetData, TableId};

/// Elements in one message: the 16-bit length of the list's attribute holds 600 of the longest kind used (about 100
/// bytes).
const ELEMENTS_A_MESSAGE: usize = 500;

/// Messages of a batch, and which operation each belongs to.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Ready to send, in one piece: the kernel takes a batch from one buffer.
    pub(crate) bytes: Vec<u8>,
    /// For each message after the opening one, the index of its operation.
    pub(crate) owners: Vec<usize>,
}

/// The whole transaction: message `first_seq` opens it, each following message has the next number. Only the last
/// operation asks for an acknowledgement; kernels before 6.10 acknowledge no batch end
/// (`net/netfilter/nfnetlink.c`, `nfnetlink_rcv_batch`), all acknowledge operations. With `generation` the kernel
/// refuses the batch if the ruleset has changed since.
pub(crate) fn batch(batch: &Batch, first_seq: u32, generation: Option<u32>) -> Encoded {
    let mut parts: Vec<(usize, Message)> = Vec::new();
    for (index, op) in batch.ops.iter().enumerate() {
        parts.extend(operation(&batch.table, op, index).into_iter().map(|m| (index, m)));
    }
    let last = parts.len().saturating_sub(1);
    let mut bytes = edge(wire::BATCH_BEGIN, first_seq, generation);
    let mut seq = first_seq;
    let mut owners = Vec::with_capacity(parts.len());
    for (position, (owner, part)) in parts.into_iter().enumerate() {
        seq = seq.wrapping_add(1);
        let ack = if position == last { flag::ACK } else { 0 };
        let head = Head {
            kind: (wire::SUBSYS << 8) | u16::from(part.kind),
            flags: flag::REQUEST | part.flags | ack,
            seq,
        };
        bytes.extend(frame(&head, batch.table.family.number(), 0, &part.body));
        owners.push(owner);
    }
    bytes.extend(edge(wire::BATCH_END, seq.wrapping_add(1), None));
    Encoded { bytes, owners }
}

/// A request outside a batch.
pub(crate) fn request(kind: u8, flags: u16, family: u8, body: Writer, seq: u32) -> Vec<u8> {
    let head = Head { kind: (wire::SUBSYS << 8) | u16::from(kind), flags: flag::REQUEST | flags, seq };
    frame(&head, family, 0, &body.into_bytes())
}

struct Head {
    kind: u16,
    flags: u16,
    seq: u32,
}

fn edge(kind: u16, seq: u32, generation: Option<u32>) -> Vec<u8> {
    let mut body = Writer::default();
    if let Some(generation) = generation {
        body.u32(wire::BATCH_GENID, generation);
    }
    frame(&Head { kind, flags: flag::REQUEST, seq }, 0, wire::SUBSYS, &body.into_bytes())
}

/// `struct nlmsghdr` and `struct nfgenmsg` before the attributes.
fn frame(head: &Head, family: u8, resource: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 20).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(body.len() + 20);
    bytes.extend(len.to_ne_bytes());
    bytes.extend(head.kind.to_ne_bytes());
    bytes.extend(head.flags.to_ne_bytes());
    bytes.extend(head.seq.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

struct Message {
    kind: u8,
    flags: u16,
    body: Vec<u8>,
}

fn one(kind: u8, flags: u16, fill: impl FnOnce(&mut Writer)) -> Vec<Message> {
    let mut body = Writer::default();
    fill(&mut body);
    vec![Message { kind, flags, body: body.into_bytes() }]
}

fn operation(id: &TableId, op: &Op, index: usize) -> Vec<Message> {
    match op {
        Op::AddTable => one(msg::NEWTABLE, flag::CREATE, |w| {
            w.text(table::NAME, &id.name);
            w.u32(table::FLAGS, 0);
        }),
        Op::DeleteTable => one(msg::DELTABLE, 0, |w| w.text(table::NAME, &id.name)),
        Op::AddChain(new) => one(msg::NEWCHAIN, flag::CREATE, |w| put_chain(w, id, new)),
        Op::DeleteChain(name) => one(msg::DELCHAIN, 0, |w| {
            w.text(chain::TABLE, &id.name);
            w.text(chain::NAME, name);
        }),
        Op::FlushChain(name) => one(msg::DELRULE, 0, |w| {
            w.text(rule::TABLE, &id.name);
            w.text(rule::CHAIN, name);
        }),
        Op::AddRule(new) => one(msg::NEWRULE, flag::CREATE | flag::APPEND, |w| put_rule(w, id, new)),
        Op::InsertRule { rule: new, before } => one(msg::NEWRULE, flag::CREATE, |w| {
            put_rule(w, id, new);
            w.u64(rule::POSITION, *before);
        }),
        Op::DeleteRule { chain, handle } => one(msg::DELRULE, 0, |w| {
            w.text(rule::TABLE, &id.name);
            w.text(rule::CHAIN, chain);
            w.u64(rule::HANDLE, *handle);
        }),
        Op::AddSet(new) => one(msg::NEWSET, flag::CREATE, |w| put_set(w, id, new, index)),
        Op::DeleteSet(name) => one(msg::DELSET, 0, |w| {
            w.text(set::TABLE, &id.name);
            w.text(set::NAME, name);
        }),
        Op::AddElements { set, elements } => put_elements(id, set, elements, true),
        Op::DeleteElements { set, elements } => put_elements(id, set, elements, false),
    }
}

fn put_chain(w: &mut Writer, id: &TableId, new: &Chain) {
    w.text(chain::TABLE, &id.name);
    w.text(chain::NAME, &new.name);
    let Some(base) = &new.base else { return };
    w.nest(chain::HOOK, |w| {
        w.u32(chain::HOOK_NUM, base.hook.number());
        w.raw(chain::HOOK_PRIORITY, &base.priority.to_be_bytes());
    });
    w.u32(chain::POLICY, u32::from(!base.drop));
    w.text(chain::TYPE, base.kind.name());
}

fn put_rule(w: &mut Writer, id: &TableId, new: &Rule) {
    w.text(rule::TABLE, &id.name);
    w.text(rule::CHAIN, &new.chain);
    w.nest(rule::EXPRESSIONS, |w| {
        for expr in &new.exprs {
            w.nest(wire::LIST_ELEM, |w| put_expr(w, expr));
        }
    });
    if let Some(comment) = &new.comment {
        w.raw(rule::USERDATA, &comment_udata(comment));
    }
}

/// One entry of libnftnl's user data: type, length, value. A longer comment is cut where a character begins.
fn comment_udata(comment: &str) -> Vec<u8> {
    const LONGEST: usize = 126;
    let mut end = comment.len().min(LONGEST);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let mut text = comment.get(..end).unwrap_or_default().as_bytes().to_vec();
    text.push(0);
    let mut bytes = vec![rule::UDATA_COMMENT, u8::try_from(text.len()).unwrap_or(0)];
    bytes.extend(text);
    bytes
}

fn put_set(w: &mut Writer, id: &TableId, new: &Set, index: usize) {
    let interval = if new.interval { set::FLAG_INTERVAL } else { 0 };
    let map = if new.data == SetData::None { 0 } else { set::FLAG_MAP };
    w.text(set::TABLE, &id.name);
    w.text(set::NAME, &new.name);
    w.u32(set::FLAGS, interval | map);
    w.u32(set::KEY_TYPE, type_number(&new.key));
    w.u32(set::KEY_LEN, type_len(&new.key));
    match &new.data {
        SetData::None => {}
        SetData::Verdict => {
            w.u32(set::DATA_TYPE, set::TYPE_VERDICT);
            w.u32(set::DATA_LEN, 0);
        }
        SetData::Value(types) => {
            w.u32(set::DATA_TYPE, type_number(types));
            w.u32(set::DATA_LEN, type_len(types));
        }
    }
    w.u32(set::ID, u32::try_from(index + 1).unwrap_or(u32::MAX));
    let mut udata = byte_order(set::UDATA_KEY_ORDER, &new.key);
    if let SetData::Value(types) = &new.data {
        udata.extend(byte_order(set::UDATA_DATA_ORDER, types));
    }
    w.raw(set::USERDATA, &udata);
}

/// `nft` packs the types of a concatenation into one number, six bits each (`concat_type_alloc`).
fn type_number(types: &[DataType]) -> u32 {
    types.iter().fold(0, |packed, one| (packed << 6) | one.number())
}

fn type_len(types: &[DataType]) -> u32 {
    match types {
        [single] => single.len(),
        many => many.iter().map(|t| t.len().next_multiple_of(4)).sum(),
    }
}

fn byte_order(entry: u8, types: &[DataType]) -> Vec<u8> {
    let order: u32 = match types {
        [single] if !single.big_endian() => 1,
        [_] => 2,
        _ => 0,
    };
    let mut bytes = vec![entry, 4];
    bytes.extend(order.to_ne_bytes());
    bytes
}

fn put_elements(id: &TableId, name: &str, elements: &[Element], add: bool) -> Vec<Message> {
    let (kind, flags) = if add { (msg::NEWSETELEM, flag::CREATE) } else { (msg::DELSETELEM, 0) };
    elements
        .chunks(ELEMENTS_A_MESSAGE)
        .flat_map(|chunk| {
            one(kind, flags, |w| {
                w.text(elem::LIST_TABLE, &id.name);
                w.text(elem::LIST_SET, name);
                w.nest(elem::LIST_ELEMENTS, |w| {
                    for element in chunk {
                        w.nest(wire::LIST_ELEM, |w| put_element(w, element, add));
                    }
                });
            })
        })
        .collect()
}

fn put_element(w: &mut Writer, element: &Element, with_data: bool) {
    w.nest(elem::KEY, |w| w.raw(data::VALUE, &element.key.bytes));
    if element.key.end {
        w.u32(elem::FLAGS, elem::FLAG_INTERVAL_END);
    }
    match &element.data {
        Some(Data::Value(bytes)) if with_data => w.nest(elem::DATA, |w| w.raw(data::VALUE, bytes)),
        Some(Data::Verdict(verdict)) if with_data => w.nest(elem::DATA, |w| put_verdict(w, verdict)),
        _ => {}
    }
}
