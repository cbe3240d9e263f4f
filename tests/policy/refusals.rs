//! What the kernel does not take, and what is more than it takes at once.

use crate::lab::{Documents, Lab, Probe, address, ask, endpoint, open_mesh};
use crate::nsrun::{have, in_namespace, run};
use calico_libnetwork::dataplane::{Options, Timing};
use calico_libnetwork::model::IfaceName;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn isolated(test: &str, body: impl FnOnce()) {
    if have("nft", "nft") {
        in_namespace(test, body);
    }
}

fn from_role(name: &str, role: &str) -> (String, Value) {
    let ingress = json!([{"action": "Allow", "source": {"selector": format!("role == '{role}'")}}]);
    let spec = json!({"selector": format!("name == '{name}'"), "types": ["Ingress"], "ingress": ingress});
    (format!("globalnetworkpolicies/to-{name}"), json!({"spec": spec}))
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_policy_that_the_kernel_refuses_holds_nothing_else_back() {
    isolated("refusals::a_policy_that_the_kernel_refuses_holds_nothing_else_back", || {
        let mut lab = Lab::start();
        let mut documents = open_mesh();
        documents.extend([from_role("b", "x"), endpoint("a", &json!({"role": "x"}), &["open"])]);
        // The kernel is not told of the set that the rule asks for, so it refuses the rule, as often as it is asked.
        lab.become_tampered(&documents, |changes| changes.sets.clear());
        let status = || lab.dataplane.status().borrow().clone();
        let [sentence] = status().refused.try_into().unwrap();
        let want = "GlobalNetworkPolicy to-b ingress denies everything: table inet calico-docker: add rule of chain pol-in-";
        assert!(sentence.starts_with(want) && sentence.contains("No such file"), "{sentence}");
        assert!(status().in_force && status().refusals > 0);
        lab.expect("whom it selects is closed, all others are as they should be", "tcp/80: all -*>b");
        // Others' changes go through: a new policy, a label, an endpoint.
        documents.extend([from_role("c", "y"), endpoint("b", &json!({"role": "y"}), &["open"])]);
        lab.become_(&documents);
        lab.expect("a later policy is in force", "tcp/80: all -*>b -*>c +b>c");
        let iface = IfaceName::new("calia").unwrap();
        lab.block(lab.dataplane.remove_endpoint(&iface)).unwrap();
        lab.open("a");
        lab.expect("an endpoint opens", "tcp/80: all -*>b -*>c +b>c");
        let shown = run("nft list table inet calico-docker");
        assert!(
            shown.contains("comment \"refused: table inet calico-docker: add rule of chain pol-in-"),
            "{shown}"
        );
        // Somebody flushes the ruleset: all of it comes back but the refused rules.
        run("nft flush ruleset");
        eventually("it is repaired", || run("nft list tables").contains("calico-docker"));
        lab.block(lab.dataplane.resync()).unwrap();
        lab.expect("after a flush", "tcp/80: all -*>b -*>c +b>c");
        // Its author writes it anew.
        documents.extend([from_role("b", "y")]);
        lab.become_(&documents);
        assert_eq!(lab.dataplane.status().borrow().refused, Vec::<String>::new());
        lab.expect("written anew", "tcp/80: all -*>b -*>c +b>c");
        documents.remove("globalnetworkpolicies/to-b");
        documents.remove("globalnetworkpolicies/to-c");
        lab.become_(&documents);
        lab.expect("removed", "tcp/80: all");
    });
}

/// Five sets of 20 000 addresses each beside container a, from all of which b takes packets, and nobody else.
fn many_of_role_x() -> Documents {
    let mut documents = open_mesh();
    for part in 0..5_u32 {
        let nets: Vec<String> = (0..20_000_u32)
            .map(|n| std::net::Ipv4Addr::from_bits(0x6440_0000 + part * 40_000 + n * 2).to_string())
            .collect();
        let set = json!({"metadata": {"labels": {"role": "x"}}, "spec": {"nets": nets}});
        documents.insert(format!("globalnetworksets/s{part}"), set);
    }
    documents.extend([from_role("b", "x"), endpoint("a", &json!({"role": "x"}), &["open"])]);
    documents
}

fn members_in_kernel() -> usize {
    let text = run("nft list table inet calico-docker");
    let words = text.split(|letter: char| !(letter.is_ascii_digit() || letter == '.'));
    words.filter(|word| word.starts_with("100.6")).count()
}

#[test]
fn a_set_of_hundreds_of_thousands_goes_in_pieces() {
    isolated("refusals::a_set_of_hundreds_of_thousands_goes_in_pieces", || {
        // A transaction with all of it would take longer than this on a busy machine.
        let timing = Timing { deadline: Duration::from_secs(2), ..Options::default().timing };
        let mut lab = Lab::start_with(Options { timing, ..Options::default() });
        let documents = many_of_role_x();
        println!("100 000 members: {:?}", lab.become_(&documents));
        assert_eq!(lab.dataplane.status().borrow().refused, Vec::<String>::new());
        lab.expect("a large set", "tcp/80: all -*>b +a>b");
        assert_eq!(members_in_kernel(), 100_000);
        // The whole table is made anew, and nobody passes meanwhile who may not.
        let started = Instant::now();
        run("nft delete table inet calico-docker");
        let b = address("b", 4);
        eventually("it is repaired", || {
            // Without the table the bare kernel of this namespace forwards everything.
            let there = run("nft list tables").contains("calico-docker");
            assert!(!there || !ask("c", b, Probe::Udp(80)));
            there && ask("a", b, Probe::Udp(80))
        });
        println!("made anew after {:?}", started.elapsed());
        lab.block(lab.dataplane.resync()).unwrap();
        assert_eq!(members_in_kernel(), 100_000);
        println!("taken out: {:?}", lab.become_(&open_mesh()));
        lab.expect("the open mesh", "tcp/80: all");
        assert!(!run("nft list sets table inet calico-docker").contains("sel-"));
    });
}

#[test]
fn a_large_set_that_others_change_is_put_right_while_endpoints_come_and_go() {
    isolated("refusals::a_large_set_that_others_change_is_put_right_while_endpoints_come_and_go", || {
        let mut lab = Lab::start();
        lab.become_(&many_of_role_x());
        lab.expect("a large set", "tcp/80: all -*>b +a>b");
        let sets = run("nft list sets table inet calico-docker");
        let set = sets.split_whitespace().find(|word| word.starts_with("sel-") && word.ends_with("-4"));
        let set = set.expect("the selector's set").to_owned();
        // Nobody else has touched it: a comparison need not read it.
        lab.block(lab.dataplane.resync()).unwrap();
        let repairs = || lab.dataplane.status().borrow().repairs;
        let (before, since) = (repairs(), Instant::now());
        let (a, c) = (address("a", 4), address("c", 4));
        run(&format!("nft delete element inet calico-docker {set} {{ {a} }}"));
        run(&format!("nft add element inet calico-docker {set} {{ {c} }}"));
        let iface = IfaceName::new("calic").unwrap();
        let right =
            || ask("a", address("b", 4), Probe::Udp(80)) && !ask("c", address("b", 4), Probe::Udp(80));
        let mut rounds = 0;
        loop {
            lab.block(lab.dataplane.remove_endpoint(&iface)).unwrap();
            assert!(!ask("c", a, Probe::Udp(80)), "closed at once");
            lab.open("c");
            assert!(ask("c", a, Probe::Udp(80)), "opened at once");
            rounds += 1;
            if repairs() > before && right() {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(120), "after {rounds} rounds");
        }
        println!("right after {:?}, {rounds} rounds of an endpoint", since.elapsed());
        lab.expect("the large set again", "tcp/80: all -*>b +a>b");
        assert_eq!(members_in_kernel(), 100_000);
        let before = repairs();
        // More notifications than anybody can take.
        run(&format!("nft flush set inet calico-docker {set}"));
        let flushed = Instant::now();
        eventually("what was flushed is put back", || repairs() > before);
        println!("there again after {:?}", flushed.elapsed());
        assert_eq!(members_in_kernel(), 100_000);
        lab.expect("after a flush", "tcp/80: all -*>b +a>b");
        assert_eq!(lab.dataplane.status().borrow().refused, Vec::<String>::new());
    });
}

#[test]
fn a_new_process_puts_a_large_set_right_that_it_finds() {
    isolated("refusals::a_new_process_puts_a_large_set_right_that_it_finds", || {
        let mut lab = Lab::start();
        lab.become_(&many_of_role_x());
        // While nobody runs the role goes from a to c.
        let mut documents = many_of_role_x();
        documents
            .extend([endpoint("a", &json!({}), &["open"]), endpoint("c", &json!({"role": "x"}), &["open"])]);
        lab.restart(&documents);
        eventually("the role is c's", || {
            ask("c", address("b", 4), Probe::Udp(80)) && !ask("a", address("b", 4), Probe::Udp(80))
        });
        lab.expect("the role went over", "tcp/80: all -*>b +c>b");
        assert_eq!(members_in_kernel(), 100_000);
    });
}
