//! What the kernel does not take, and what is more than it takes at once.

use crate::lab::{Documents, Lab, Probe, address, ask, endpoint, open_mesh};
use crate::nsrun::{have, in_namespace, run};
use calico_libnetwork::dataplane::{Options, PortMap, Protocol, Timing};
use calico_libnetwork::model::IfaceName;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Five sets of so many addresses each beside container a, from all of which b takes packets, and nobody else.
fn many_of_role_x(each: u32) -> Documents {
    let mut documents = open_mesh();
    for part in 0..5_u32 {
        let nets: Vec<String> = (0..each)
            .map(|n| std::net::Ipv4Addr::from_bits(0x6440_0000 + part * each * 2 + n * 2).to_string())
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
    words.filter(|word| word.starts_with("100.")).count()
}

#[test]
fn a_set_of_hundreds_of_thousands_goes_in_pieces() {
    isolated("refusals::a_set_of_hundreds_of_thousands_goes_in_pieces", || {
        // A transaction with all of it would take longer than this on a busy machine.
        let timing = Timing { deadline: Duration::from_secs(2), ..Options::default().timing };
        let mut lab = Lab::start_with(Options { timing, ..Options::default() });
        let documents = many_of_role_x(20_000);
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
        lab.become_(&many_of_role_x(20_000));
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
        lab.become_(&many_of_role_x(20_000));
        // While nobody runs the role goes from a to c.
        let mut documents = many_of_role_x(20_000);
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

#[test]
fn what_does_not_depend_on_a_very_large_change_is_served_while_it_is_made() {
    isolated("refusals::what_does_not_depend_on_a_very_large_change_is_served_while_it_is_made", || {
        let timing = Timing { policy: Duration::from_millis(300), ..Options::default().timing };
        let mut lab = Lab::start_with(Options { timing, ..Options::default() });
        let mut documents = open_mesh();
        documents.extend([from_role("b", "y"), endpoint("a", &json!({"role": "y"}), &["open"])]);
        lab.become_(&documents);
        lab.expect("b takes packets from a", "tcp/80: all -*>b +a>b");
        // From now on it takes them from another role, which a has, too, with 200 000 others.
        let mut documents = many_of_role_x(40_000);
        let filling = lab.begin_to_become(&documents);
        let stop = Arc::new(AtomicBool::new(false));
        let traffic = ["a", "c"].map(|from| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut passed = [0; 2];
                while !stop.load(Ordering::Relaxed) {
                    passed[usize::from(ask(from, address("b", 4), Probe::Udp(80)))] += 1;
                }
                passed
            })
        });
        // Another policy is edited; one endpoint closes and opens; a port is published; a container comes that has the
        // role, so that its policy has to wait; somebody has the table compared.
        documents.extend([from_role("c", "z")]);
        let unrelated = lab.begin_to_become(&documents);
        let spec = json!({"node": "here", "interfaceName": "calid", "profiles": ["open"], "ipNetworks": ["100.127.0.1"]});
        let key = "workloadendpoints/libnetwork/here-libnetwork-libnetwork-d".to_owned();
        documents.insert(key, json!({"metadata": {"labels": {"role": "x"}}, "spec": spec}));
        let dependent = lab.begin_to_become(&documents);
        let [c, d] = ["calic", "calid"].map(|name| IfaceName::new(name).unwrap());
        let container = SocketAddr::new(address("c", 4), 80);
        let map = PortMap { protocol: Protocol::Tcp, host_ip: None, host_port: 7000, container };
        let addresses = [4, 6].map(|family| address("c", family));
        let door = lab.dataplane.clone();
        let (closed, opened, published, compared, early) = lab.block(async {
            tokio::join!(
                door.remove_endpoint(&c),
                door.add_endpoint(&c, &addresses),
                door.publish_ports(&c, std::slice::from_ref(&map)),
                door.resync(),
                door.add_endpoint(&d, &[]),
            )
        });
        [closed, opened, published, compared].into_iter().for_each(|outcome| outcome.unwrap());
        lab.block(unrelated).unwrap().unwrap();
        assert!(!ask("a", address("c", 4), Probe::Tcp(80)), "the other policy is in force");
        assert!(ask("x", address("host", 4), Probe::Tcp(7000)) == ask("x", address("c", 4), Probe::Tcp(80)));
        let early = early.unwrap_err().to_string();
        assert!(
            early.starts_with(
                "endpoint calid stays closed: its policy waits for a change with 200002 members"
            ),
            "{early}"
        );
        assert!(lab.dataplane.status().borrow().filling > 0);
        assert!(!filling.is_finished() && !dependent.is_finished(), "all of that came before");
        lab.block(filling).unwrap().unwrap();
        lab.block(dependent).unwrap().unwrap();
        stop.store(true, Ordering::Relaxed);
        let [a, c] = traffic.map(|thread| thread.join().unwrap());
        assert!(a[0] == 0 && a[1] > 0, "a may at all times: {a:?}");
        assert!(c[1] == 0 && c[0] > 0, "c may at no time: {c:?}");
        lab.block(lab.dataplane.add_endpoint(&d, &[])).unwrap();
        lab.expect("the very large set", "tcp/80: all -*>b +a>b -*>c");
        assert_eq!(members_in_kernel(), 200_001);
        let status = lab.dataplane.status().borrow().clone();
        assert!(status.in_force && status.refused.is_empty() && status.filling == 0, "{status:?}");
    });
}

#[test]
fn a_new_process_does_not_trust_a_set_that_was_left_half_filled() {
    isolated("refusals::a_new_process_does_not_trust_a_set_that_was_left_half_filled", || {
        let mut lab = Lab::start();
        lab.expect("the open mesh", "4 udp/80: all");
        // Everybody may but many, the last of whom is x.
        let mut documents = many_of_role_x(30_000);
        let last = json!({"metadata": {"labels": {"role": "x"}}, "spec": {"nets": [address("x", 4)]}});
        documents.insert("globalnetworksets/last".to_owned(), last);
        let ingress = json!([{"action": "Deny", "source": {"selector": "role == 'x'"}}, {"action": "Allow"}]);
        let spec = json!({"selector": "name == 'b'", "types": ["Ingress"], "ingress": ingress});
        documents.insert("globalnetworkpolicies/to-b".to_owned(), json!({"spec": spec}));
        let filling = lab.begin_to_become(&documents);
        eventually("a part is there", || (1..150_000).contains(&lab.dataplane.status().borrow().filling));
        assert!(!filling.is_finished());
        lab.restart(&documents);
        assert!(lab.block(filling).unwrap().is_err(), "nobody makes the rest of it");
        lab.expect("in force at once", "4 udp/80: all -x>b -a>b");
        assert_eq!(members_in_kernel(), 150_000);
    });
}

#[test]
fn a_very_large_change_outlives_what_is_done_to_the_table_meanwhile() {
    isolated("refusals::a_very_large_change_outlives_what_is_done_to_the_table_meanwhile", || {
        let mut lab = Lab::start();
        let begun = |lab: &mut Lab, documents: &Documents| {
            let filling = lab.begin_to_become(documents);
            eventually("a part is there", || (1..75_000).contains(&lab.dataplane.status().borrow().filling));
            assert!(!filling.is_finished());
            filling
        };
        let right = |lab: &Lab, case: &str| {
            lab.expect(case, "4 tcp/80: all -*>b +a>b");
            assert_eq!(members_in_kernel(), 75_000, "{case}");
            let status = lab.dataplane.status().borrow().clone();
            assert!(status.in_force && status.refused.is_empty() && status.filling == 0, "{status:?}");
        };
        let filling = begun(&mut lab, &many_of_role_x(15_000));
        lab.block(lab.dataplane.remove_all()).unwrap();
        lab.block(filling).unwrap().unwrap();
        assert!(!run("nft list tables").contains("calico-docker"), "what is left to do is recorded only");
        lab.block(lab.dataplane.ensure()).unwrap();
        right(&lab, "removed meanwhile, and put in force again");
        lab.become_(&open_mesh());
        let filling = begun(&mut lab, &many_of_role_x(15_000));
        lab.block(lab.dataplane.stand_back()).unwrap();
        lab.block(filling).unwrap().unwrap();
        lab.block(lab.dataplane.take_over()).unwrap();
        right(&lab, "stood back meanwhile, and taken over");
        lab.become_(&open_mesh());
        let filling = begun(&mut lab, &many_of_role_x(15_000));
        run("nft delete table inet calico-docker");
        lab.block(filling).unwrap().unwrap();
        right(&lab, "deleted by others meanwhile");
    });
}
