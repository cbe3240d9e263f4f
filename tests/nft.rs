//! nf_tables: what we encode, the kernel understands, and what it sends back, we decode to the same.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::too_many_lines
)]

#[path = "support/nsrun.rs"]
#[allow(dead_code)]
mod nsrun;

use calico_libnetwork::nft::{
    BaseChain, Batch, Chain, ChainKind, Change, CmpOp, Data, DataType, Element, Expr, Family, Hook, MetaKey,
    Monitor, NatKind, NftError, Op, Reg, Rule, Set, SetData, Socket, TableId, Verdict, concat, ifname,
    interval_elements,
};
use nsrun::{have, in_namespace, run};
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn open() -> Socket {
    Socket::open(Duration::from_secs(60)).unwrap()
}

fn table() -> TableId {
    TableId::new(Family::Inet, "t")
}

fn chain(name: &str, base: Option<(ChainKind, Hook, i32)>) -> Op {
    let base = base.map(|(kind, hook, priority)| BaseChain { kind, hook, priority, drop: false });
    Op::AddChain(Chain { name: name.to_owned(), base })
}

fn set(name: &str, key: &[DataType], data: SetData, interval: bool) -> Op {
    Op::AddSet(Set { name: name.to_owned(), key: key.to_vec(), data, interval })
}

fn skeleton() -> Batch {
    use DataType::{Icmpv6Type, Ifname, InetProto, InetService, Ipv4Addr, Ipv6Addr};
    let mut batch = Batch::new(table());
    batch.ops = vec![
        Op::AddTable,
        set("bridges", &[Ifname], SetData::None, false),
        set("types", &[Icmpv6Type], SetData::None, false),
        set("pools4", &[Ipv4Addr], SetData::None, true),
        set("pools6", &[Ipv6Addr], SetData::None, true),
        set("pairs4", &[Ipv4Addr, Ipv4Addr], SetData::None, false),
        set("pairs6", &[Ipv6Addr, Ipv6Addr], SetData::None, false),
        set("sources4", &[Ifname, Ipv4Addr], SetData::None, false),
        set("sources6", &[Ifname, Ipv6Addr], SetData::None, false),
        set("dispatch", &[Ifname], SetData::Verdict, false),
        set("ports4", &[InetProto, InetService], SetData::Value(vec![Ipv4Addr, InetService]), false),
        set(
            "ports6",
            &[Ipv6Addr, InetProto, InetService],
            SetData::Value(vec![Ipv6Addr, InetService]),
            false,
        ),
        chain("other", None),
        chain("raw", Some((ChainKind::Filter, Hook::Prerouting, -300))),
        chain("forward", Some((ChainKind::Filter, Hook::Forward, -10))),
        chain("dnat", Some((ChainKind::Nat, Hook::Prerouting, -105))),
        chain("out", Some((ChainKind::Nat, Hook::Output, -105))),
        chain("post", Some((ChainKind::Nat, Hook::Postrouting, 110))),
        chain("reroute", Some((ChainKind::Route, Hook::Output, -150))),
    ];
    batch
}

/// Each rule, and what `nft` shall say about it.
fn rules() -> Vec<(Rule, &'static str)> {
    let raw = || Rule::in_chain("raw");
    let forward = || Rule::in_chain("forward");
    let post = || Rule::in_chain("post");
    let v4 = |rule: Rule| rule.family(Family::Ip);
    let v6 = |rule: Rule| rule.family(Family::Ip6);
    let mut snat = v4(post()).address(Family::Ip, true, (vec![10, 9, 0, 0], vec![255, 255, 0, 0]));
    snat.exprs.push(Expr::Load { dreg: Reg::FIRST, data: vec![192, 0, 2, 1] });
    snat.exprs.push(Expr::Nat { kind: NatKind::Snat, family: Family::Ip, addr: Reg::FIRST, port: None });
    let mut range = forward().l4proto(6);
    range.exprs.push(Expr::Payload {
        base: calico_libnetwork::nft::PayloadBase::Transport,
        offset: 2,
        len: 2,
        dreg: Reg::FIRST,
    });
    range.exprs.push(Expr::Range {
        sreg: Reg::FIRST,
        op: CmpOp::Neq,
        from: 1000_u16.to_be_bytes().to_vec(),
        to: 2000_u16.to_be_bytes().to_vec(),
    });
    let mut less = forward();
    less.exprs.push(Expr::Meta { key: MetaKey::Nfproto, dreg: Reg::word(1) });
    less.exprs.push(Expr::Cmp { sreg: Reg::word(1), op: CmpOp::Lt, data: vec![10] });
    vec![
        (raw().set_mark(0x30000, 0), "meta mark set meta mark & 0xfffcffff"),
        (raw().set_mark(0x30000, 0x10000), "meta mark set meta mark & 0xfffdffff | 0x00010000"),
        (raw().dport(17, 4789).notrack(), "udp dport 4789 notrack"),
        (
            raw().spoofed().drop_because("RPF"),
            "fib saddr . mark . iif oif 0 counter packets 0 bytes 0 drop comment \"RPF\"",
        ),
        (forward().iifname("cali*").jump("other"), "iifname \"cali*\" jump other"),
        (forward().oifname("eth0").goto("other"), "oifname \"eth0\" goto other"),
        (forward().oifname_in("bridges").accept(), "oifname @bridges accept"),
        (forward().iifname_vmap("dispatch"), "iifname vmap @dispatch"),
        (forward().oifname_vmap("dispatch"), "oifname vmap @dispatch"),
        (forward().ct_state(6).goto("other"), "ct state established,related goto other"),
        (forward().marked(0x10000).verdict(Verdict::Return), "meta mark & 0x00010000 == 0x00010000 return"),
        (forward().icmpv6_in("types").accept(), "icmpv6 type @types accept"),
        (forward().icmpv6(135).accept(), "icmpv6 type nd-neighbor-solicit"),
        (forward().log("refused: ", 4), "log prefix \"refused: \""),
        (range.drop_because("outside"), "tcp dport != 1000-2000"),
        (less.accept(), "meta nfproto < ipv6 accept"),
        (
            v4(post())
                .address_in(Family::Ip, true, "pools4", false)
                .address_in(Family::Ip, false, "pools4", true)
                .masquerade(),
            "ip saddr @pools4 ip daddr != @pools4 masquerade fully-random",
        ),
        (
            v6(post()).address_in(Family::Ip6, true, "pools6", false).masquerade(),
            "ip6 saddr @pools6 masquerade fully-random",
        ),
        (
            v4(post()).address_pair_in(Family::Ip, "pairs4").masquerade(),
            "ip saddr . ip daddr @pairs4 masquerade",
        ),
        (
            v6(post()).address_pair_in(Family::Ip6, "pairs6").masquerade(),
            "ip6 saddr . ip6 daddr @pairs6 masquerade",
        ),
        (
            v4(raw()).iifname_and_source_in(Family::Ip, "sources4").verdict(Verdict::Return),
            "iifname . ip saddr @sources4 return",
        ),
        (
            v6(raw()).iifname_and_source_in(Family::Ip6, "sources6").verdict(Verdict::Return),
            "iifname . ip6 saddr @sources6 return",
        ),
        (snat, "ip saddr 10.9.0.0/16 snat ip to 192.0.2.1"),
        (
            v4(Rule::in_chain("dnat").to_this_host()).dnat_by_port(Family::Ip, false, "ports4"),
            "dnat ip to meta l4proto . th dport map @ports4",
        ),
        (
            v6(Rule::in_chain("out")).dnat_by_port(Family::Ip6, true, "ports6"),
            "dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6",
        ),
        (Rule::in_chain("reroute").set_mark(0, 1), "meta mark set"),
    ]
}

#[test]
fn every_expression_comes_back_from_the_kernel_as_it_was_sent() {
    in_namespace("every_expression_comes_back_from_the_kernel_as_it_was_sent", || {
        block_on(async {
            let mut socket = open();
            let mut batch = skeleton();
            batch.ops.extend(rules().into_iter().map(|(rule, _)| Op::AddRule(rule)));
            socket.commit(&batch).await.unwrap();
            let found = socket.dump(&table()).await.unwrap().0.unwrap();
            for op in &batch.ops {
                match op {
                    Op::AddChain(chain) => assert_eq!(&found.chains[&chain.name], chain),
                    Op::AddSet(set) => assert_eq!(&found.sets[&set.name].set, set),
                    _ => {}
                }
            }
            for chain in found.chains.keys() {
                let sent: Vec<Rule> =
                    rules().into_iter().map(|(r, _)| r).filter(|r| &r.chain == chain).collect();
                let read: Vec<Rule> =
                    found.rules[chain].iter().cloned().map(|r| Rule { handle: None, ..r }).collect();
                assert_eq!(read, sent, "chain {chain}");
            }
        });
        if !have("nft", "nft") {
            return;
        }
        let text = run("nft list ruleset");
        for (rule, want) in rules() {
            assert!(text.contains(want), "{rule:?}\nis not printed as {want:?} in\n{text}");
        }
    });
}

#[test]
fn a_match_of_iptables_comes_back() {
    in_namespace("a_match_of_iptables_comes_back", || {
        block_on(async {
            let mut socket = open();
            let table = TableId::new(Family::Ip, "filter");
            let mut batch = Batch::new(table.clone());
            let mut comment = b"hello".to_vec();
            comment.resize(256, 0);
            let rule = Rule::in_chain("c").xt_match("comment", 0, comment).counter().accept();
            batch.ops = vec![Op::AddTable, chain("c", None), Op::AddRule(rule.clone())];
            socket.commit(&batch).await.unwrap();
            assert!(socket.rules(&table, Some("c")).await.unwrap()[0].same_as(&rule));
        });
    });
}

fn prefixes(list: &[(&str, u8)]) -> Vec<Element> {
    interval_elements(list.iter().map(|(ip, len)| (ip.parse::<IpAddr>().unwrap(), *len)))
}

async fn keys(socket: &mut Socket, set: &str) -> Vec<Element> {
    let table = socket.dump(&table()).await.unwrap().0.unwrap();
    table.sets[set]
        .elements
        .iter()
        .map(|(key, data)| Element { key: key.clone(), data: data.clone() })
        .collect()
}

#[test]
fn elements_of_every_kind_of_set_come_back() {
    in_namespace("elements_of_every_kind_of_set_come_back", || {
        block_on(async {
            let mut socket = open();
            socket.commit(&skeleton()).await.unwrap();
            let pools4 = prefixes(&[("10.0.0.0", 8), ("192.168.0.0", 16), ("255.0.0.0", 8), ("0.0.0.0", 32)]);
            let pools6 = prefixes(&[("fd00::", 64), ("ff00::", 8)]);
            let pair = concat(&[&[10, 0, 0, 1], &[10, 0, 0, 2]]);
            let goto = Data::Verdict(Verdict::Goto("other".to_owned()));
            let to4 = Data::Value(concat(&[&[10, 0, 0, 1], &80_u16.to_be_bytes()]));
            let mut ip6 = [0_u8; 16];
            ip6[0] = 0xfd;
            let to6 = Data::Value(concat(&[&ip6, &80_u16.to_be_bytes()]));
            let all = [
                ("pools4", pools4),
                ("pools6", pools6),
                ("bridges", vec![Element::member(ifname("docker0"))]),
                ("types", vec![Element::member(vec![135])]),
                ("pairs4", vec![Element::member(pair)]),
                (
                    "dispatch",
                    vec![
                        Element::entry(ifname("cali1"), goto),
                        Element::entry(ifname("cali2"), Data::Verdict(Verdict::Drop)),
                    ],
                ),
                ("ports4", vec![Element::entry(concat(&[&[6], &8080_u16.to_be_bytes()]), to4)]),
                ("ports6", vec![Element::entry(concat(&[&ip6, &[6], &8080_u16.to_be_bytes()]), to6)]),
            ];
            let mut batch = Batch::new(table());
            for (set, elements) in &all {
                batch.elements(set, Vec::new(), elements.clone());
            }
            socket.commit(&batch).await.unwrap();
            for (set, elements) in &all {
                let mut want = elements.clone();
                want.sort();
                assert_eq!(keys(&mut socket, set).await, want, "{set}");
            }
        });
        if have("nft", "nft") {
            let text = run("nft list ruleset");
            for want in [
                "0.0.0.0, 10.0.0.0/8",
                "192.168.0.0/16, 255.0.0.0/8",
                "fd00::/64",
                "\"docker0\"",
                "nd-neighbor-solicit",
                "10.0.0.1 . 10.0.0.2",
                "\"cali1\" : goto other",
                "\"cali2\" : drop",
                "tcp . 8080 : 10.0.0.1 . 80",
                "fd00:: . tcp . 8080 : fd00:: . 80",
            ] {
                assert!(text.contains(want), "{want} is not in\n{text}");
            }
        }
    });
}

#[test]
fn overlapping_intervals_are_exchanged_in_one_batch() {
    in_namespace("overlapping_intervals_are_exchanged_in_one_batch", || {
        block_on(async {
            let mut socket = open();
            socket.commit(&skeleton()).await.unwrap();
            let steps: [&[(&str, u8)]; 5] = [
                &[("10.0.0.0", 16)],
                &[("10.0.0.0", 8), ("11.1.0.0", 16)],
                &[("10.0.0.0", 16), ("10.1.0.0", 17), ("10.2.0.0", 16)],
                &[("0.0.0.0", 0)],
                &[],
            ];
            let mut present = Vec::new();
            for step in steps {
                let want = prefixes(step);
                let mut batch = Batch::new(table());
                let gone = present.iter().filter(|e| !want.contains(e)).cloned().collect();
                let new = want.iter().filter(|e| !present.contains(e)).cloned().collect();
                batch.elements("pools4", gone, new);
                socket.commit(&batch).await.unwrap();
                let mut sorted = want.clone();
                sorted.sort();
                assert_eq!(keys(&mut socket, "pools4").await, sorted);
                present = want;
            }
        });
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_names_the_operation() {
    in_namespace("a_refused_batch_changes_nothing_and_names_the_operation", || {
        block_on(async {
            let mut socket = open();
            let mut batch = Batch::new(table());
            batch.ops = vec![
                Op::AddTable,
                chain("c", None),
                Op::AddRule(Rule::in_chain("c").jump("nowhere").comment("lost")),
                chain("d", None),
            ];
            let error = socket.commit(&batch).await.unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("table inet t: add rule of chain c (\"lost\"), jump nowhere: the kernel refused: No such file"), "{text}");
            assert!(error.is_missing());
            assert!(socket.dump(&table()).await.unwrap().0.is_none());

            batch.ops = vec![
                Op::AddTable,
                Op::DeleteElements { set: "s".to_owned(), elements: vec![Element::member(vec![1])] },
            ];
            let text = socket.commit(&batch).await.unwrap_err().to_string();
            assert!(text.starts_with("table inet t: delete 1 element of set s"), "{text}");
        });
    });
}

#[test]
fn a_commit_against_a_changed_ruleset_is_stale() {
    in_namespace("a_commit_against_a_changed_ruleset_is_stale", || {
        block_on(async {
            let mut socket = open();
            socket.commit(&skeleton()).await.unwrap();
            let (_, generation) = socket.dump(&table()).await.unwrap();
            let mut batch = Batch::new(table());
            batch.ops = vec![chain("late", None)];
            let mut foreign = Batch::new(TableId::new(Family::Ip6, "foreign"));
            foreign.ops = vec![Op::AddTable];
            open().commit(&foreign).await.unwrap();
            assert!(matches!(socket.commit_at(&batch, generation).await, Err(NftError::Stale)));
            let now = socket.generation().await.unwrap();
            socket.commit_at(&batch, now).await.unwrap();
        });
    });
}

#[test]
fn changes_of_others_are_heard_and_ours_are_not() {
    in_namespace("changes_of_others_are_heard_and_ours_are_not", || {
        block_on(async {
            let mut socket = open();
            let monitor = Monitor::open().unwrap();
            socket.commit(&skeleton()).await.unwrap();
            let mut batch = Batch::new(table());
            batch.ops = vec![Op::DeleteTable];
            open().commit(&batch).await.unwrap();
            loop {
                let wait = monitor.changes(socket.port());
                let heard = tokio::time::timeout(Duration::from_secs(2), wait).await.unwrap().unwrap();
                if !heard.is_empty() {
                    let sets = skeleton().ops.into_iter().filter_map(|op| match op {
                        Op::AddSet(set) => Some(Change::Set(table(), set.name)),
                        _ => None,
                    });
                    let want: HashSet<Change> = sets.chain([Change::Table(table())]).collect();
                    assert_eq!(heard.into_iter().collect::<HashSet<_>>(), want);
                    break;
                }
            }
        });
    });
}

#[test]
fn a_hundred_thousand_elements_go_in_one_batch() {
    in_namespace("a_hundred_thousand_elements_go_in_one_batch", || {
        block_on(async {
            let mut socket = open();
            let mut batch = skeleton();
            let goto = Data::Verdict(Verdict::Goto("other".to_owned()));
            let many =
                (0..100_000).map(|n| Element::entry(ifname(&format!("cali{n}")), goto.clone())).collect();
            batch.elements("dispatch", Vec::new(), many);
            let started = Instant::now();
            socket.commit(&batch).await.unwrap();
            println!("100000 elements committed in {:?}", started.elapsed());
            // The kernel grows the hash table in the background; until it has, a dump misses elements.
            while keys(&mut socket, "dispatch").await.len() < 100_000 {
                assert!(started.elapsed() < Duration::from_secs(120));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // Adding what is there is no error, whatever a dump said.
            let mut again = Batch::new(table());
            let goto = Data::Verdict(Verdict::Goto("other".to_owned()));
            again.elements("dispatch", Vec::new(), vec![Element::entry(ifname("cali7"), goto)]);
            socket.commit(&again).await.unwrap();
            again.elements(
                "dispatch",
                Vec::new(),
                vec![Element::entry(ifname("cali7"), Data::Verdict(Verdict::Drop))],
            );
            socket.commit(&again).await.unwrap_err();
        });
    });
}
