use super::*;
use crate::dataplane::delta::tests::commit;
use crate::dataplane::desired::Desired;
use crate::dataplane::{Options, delta, render};
use crate::nft::{CmpOp, Data, Expr, Op, Rule, Verdict};
use crate::policy::{Changes, Graph};
use proptest::prelude::*;
use serde_json::json;

fn marks() -> Marks {
    Options::default().marks
}

/// A table in force, what is desired, and the graph that both follow.
struct World {
    graph: Graph,
    desired: Desired,
    table: Table,
}

impl World {
    fn new(graph: Graph) -> Self {
        let mut desired = Desired::default();
        for name in ["cali1", "cali2", "cali3"] {
            desired.endpoints.insert(name.parse().unwrap(), BTreeSet::new());
        }
        let table = render::table(&desired, &Options::default(), &BTreeSet::new());
        let mut world = Self { graph, desired, table };
        world.flush();
        world
    }

    /// Commits what changed, and holds the outcome against the whole table rendered anew.
    fn flush(&mut self) -> Vec<Vec<Op>> {
        let changes = self.graph.flush();
        self.apply(&changes)
    }

    fn apply(&mut self, changes: &Changes) -> Vec<Vec<Op>> {
        let batches = switch(&mut self.desired, changes, marks());
        for batch in &batches {
            self.table = commit(Some(std::mem::take(&mut self.table)), batch).unwrap();
        }
        assert_eq!(self.table, render::table(&self.desired, &Options::default(), &BTreeSet::new()));
        batches.into_iter().map(|batch| batch.ops).collect()
    }

    fn policy(&mut self, name: &str, spec: &serde_json::Value) {
        sample::put(&mut self.graph, &format!("globalnetworkpolicies/{name}"), &json!({"spec": spec}));
    }
}

fn rules_of(spec: &serde_json::Value) -> Vec<Rule> {
    let mut graph = Graph::new("here");
    sample::endpoint(&mut graph, 1, &json!({}));
    let policy = json!({"spec": {"selector": "all()", "types": ["Ingress"], "ingress": [spec]}});
    sample::put(&mut graph, "globalnetworkpolicies/one", &policy);
    let changes: Changes = graph.flush();
    assert!(changes.problems.is_empty(), "{:?}", changes.problems);
    let (id, rules) = changes
        .rule_lists
        .iter()
        .find(|(id, _)| id.owner.kind != crate::policy::ResourceKind::Profile)
        .unwrap();
    list::render(id, rules, marks(), &LogTuning::default()).rules
}

#[test]
fn a_change_of_one_label_touches_elements_only() {
    let mut world = World::new(sample::graph());
    sample::endpoint(&mut world.graph, 3, &json!({}));
    world.flush();
    sample::endpoint(&mut world.graph, 3, &json!({"unrelated": "yes"}));
    assert_eq!(world.flush(), Vec::<Vec<Op>>::new());
    // Another node's endpoint: a member of sets, nothing else.
    let elsewhere = |labels| {
        json!({"metadata": {"labels": labels}, "spec": {
            "node": "there", "interfaceName": "cali9", "ipNetworks": ["10.65.9.9/32"], "profiles": [],
        }})
    };
    let key = "workloadendpoints/libnetwork/there-libnetwork-libnetwork-9";
    sample::put(&mut world.graph, key, &elsewhere(json!({})));
    world.flush();
    sample::put(&mut world.graph, key, &elsewhere(json!({"role": "web"})));
    let batches = world.flush();
    assert_eq!(batches.len(), 1);
    assert!(batches[0].iter().all(|op| matches!(op, Op::AddElements { set, .. } if set.starts_with("sel-"))));
    assert_eq!(batches[0].len(), 1);
}

#[test]
fn new_shapes_are_there_before_anything_leads_to_them() {
    let mut world = World::new(sample::graph());
    world
        .policy("more", &json!({"selector": "all()", "types": ["Ingress"], "ingress": [{"action": "Deny"}]}));
    let batches = world.flush();
    assert_eq!(batches.len(), 2);
    let adds = |op: &Op| matches!(op, Op::AddSet(_) | Op::AddChain(_) | Op::AddRule(_));
    assert!(batches[0].iter().all(adds), "{:?}", batches[0]);
    assert!(batches[1].iter().any(|op| matches!(op, Op::AddElements { set, .. } if set == "to-wl")));
    // Rules edited: the chain alone, in one batch.
    world.policy(
        "more",
        &json!({"selector": "all()", "types": ["Ingress"], "ingress": [{"action": "Allow"}]}),
    );
    let batches = world.flush();
    assert_eq!(batches.len(), 1);
    assert!(matches!(batches[0].as_slice(), [Op::FlushChain(_), Op::AddRule(_)]), "{:?}", batches[0]);
}

#[test]
fn sets_written_out_in_rules_are_shared_and_go_with_the_last_rule() {
    let mut world = World::new(Graph::new("here"));
    sample::endpoint(&mut world.graph, 1, &json!({}));
    let ports = |list: serde_json::Value| {
        json!({"selector": "all()", "types": ["Ingress"],
            "ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": list}}]})
    };
    world.policy("a", &ports(json!([80, 443])));
    world.policy("b", &ports(json!([80, 443])));
    world.flush();
    let literals = |world: &World| world.table.sets.keys().filter(|name| name.starts_with("ports-")).count();
    assert_eq!(literals(&world), 1);
    // One lets go of it, and the other takes it up, in one change.
    world.policy("b", &ports(json!([81])));
    world.flush();
    world.policy("a", &ports(json!([82])));
    world.policy("b", &ports(json!([80, 443])));
    world.flush();
    assert_eq!(literals(&world), 1);
    world.policy("b", &ports(json!([80])));
    world.flush();
    assert_eq!(literals(&world), 0);
}

#[test]
fn what_touches_in_a_set_comes_and_goes_alone() {
    let mut world = World::new(Graph::new("here"));
    sample::endpoint(&mut world.graph, 1, &json!({}));
    world.policy(
        "a",
        &json!({"selector": "all()", "types": ["Ingress"],
        "ingress": [{"action": "Allow", "source": {"selector": "all()"}}]}),
    );
    world.flush();
    sample::endpoint(&mut world.graph, 2, &json!({}));
    let elements: usize = world
        .flush()
        .iter()
        .flatten()
        .map(|op| match op {
            Op::AddElements { set, elements } if set.starts_with("sel-") => elements.len(),
            Op::DeleteElements { .. } => panic!("{op}"),
            _ => 0,
        })
        .sum();
    assert_eq!(elements, 4, "a start and an end for each family");
}

#[test]
fn ports_by_number_or_by_name_are_one_rule_for_each_way() {
    let rules = rules_of(&json!({"action": "Allow", "protocol": "TCP", "ipVersion": 4,
        "source": {"ports": [1, "web"]}, "destination": {"ports": [2, "web"]}}));
    assert_eq!(rules.len(), 4);
    // A packet that matches by number and by name is logged once.
    let rules = rules_of(&json!({"action": "Log", "protocol": "TCP", "ipVersion": 4,
        "destination": {"ports": [2, "web"]}}));
    assert_eq!(rules.len(), 2);
    let negated = |rule: &Rule| rule.exprs.iter().any(|e| matches!(e, Expr::Cmp { op: CmpOp::Neq, .. }));
    assert_eq!((negated(&rules[0]), negated(&rules[1])), (false, true));
}

#[test]
fn an_icmp_type_and_code_are_negated_together() {
    let rules = rules_of(&json!({"action": "Deny", "protocol": "ICMP", "notICMP": {"type": 3, "code": 4}}));
    let compared = |e: &Expr| matches!(e, Expr::Cmp { op: CmpOp::Neq, data, .. } if data == &[3, 4]);
    assert!(rules[0].exprs.iter().any(compared), "{:?}", rules[0]);
}

#[test]
fn comments_read_back_as_they_were_written() {
    assert_eq!(list::comment("policy \"a\"\n\u{e4}\0 rule"), "policy \"a\"??? rule");
    assert_eq!(list::comment(&"x".repeat(300)).len(), 126);
}

#[test]
fn an_endpoint_without_known_policy_is_closed() {
    let mut world = World::new(sample::graph());
    let led = |world: &World| world.table.sets["from-wl"].elements.len();
    assert_eq!(led(&world), 2, "cali3 has no WorkloadEndpoint");
    sample::endpoint(&mut world.graph, 3, &json!({}));
    world.flush();
    assert_eq!(led(&world), 3);
    assert!(
        world.table.sets["to-wl"].elements.values().flatten().all(
            |data| matches!(data, Data::Verdict(Verdict::Goto(shape)) if shape.starts_with("shape-to-"))
        )
    );
}

#[derive(Debug, Clone)]
enum Stroke {
    Label(u8, bool),
    Remove(u8),
    Policy(u8, u8, bool),
    Unpolicy(u8),
}

fn strokes() -> impl Strategy<Value = Vec<Vec<Stroke>>> {
    let stroke = prop_oneof![
        (1_u8..4, any::<bool>()).prop_map(|(n, web)| Stroke::Label(n, web)),
        (1_u8..4).prop_map(Stroke::Remove),
        (0_u8..3, 0_u8..11, any::<bool>()).prop_map(|(n, rule, web)| Stroke::Policy(n, rule, web)),
        (0_u8..3).prop_map(Stroke::Unpolicy),
    ];
    proptest::collection::vec(proptest::collection::vec(stroke, 1..5), 1..8)
}

impl Stroke {
    fn on(&self, world: &mut World) {
        let mut gone = |key: String| {
            let key = format!("{}{key}", crate::model::key::RESOURCE_ROOT);
            world.graph.update(crate::policy::Update::from_entry(&key, None).unwrap());
        };
        match self {
            Self::Label(n, web) => {
                let labels = if *web { json!({"role": "web"}) } else { json!({}) };
                sample::endpoint(&mut world.graph, *n, &labels);
            }
            Self::Remove(n) => gone(format!("workloadendpoints/libnetwork/here-libnetwork-libnetwork-{n}")),
            Self::Policy(n, rule, web) => {
                let all = sample::rules();
                let rules = json!([all[usize::from(*rule)], all[usize::from(rule + n) % 11]]);
                let selector = if *web { "role == 'web'" } else { "all()" };
                let spec = json!({"selector": selector, "types": ["Ingress"], "ingress": rules});
                world.policy(&format!("p{n}"), &spec);
            }
            Self::Unpolicy(n) => gone(format!("globalnetworkpolicies/p{n}")),
        }
    }
}

/// Members from which on a change is made a piece at a time.
const MANY: usize = 10;

/// A change that is made a piece at a time, as [`crate::dataplane::Worker`] does it.
struct Underway {
    pieces: std::collections::VecDeque<Changes>,
    scope: Scope,
    behind: Vec<Changes>,
}

/// Makes a change, begins it, or puts it behind the one that it depends on. Says whether it overtook one.
fn make(world: &mut World, underway: &mut Option<Underway>, changes: Changes, most: usize) -> bool {
    let state = &world.desired.policy;
    let ahead = state.going_ahead(&changes, most);
    let scope = Scope::of(state, &changes);
    match underway {
        Some(it) if !ahead.is_empty() || it.scope.holds_up(&scope) => {
            it.scope.extend(scope);
            it.behind.push(changes);
            return false;
        }
        None if !ahead.is_empty() => {
            *underway =
                Some(Underway { pieces: apart(changes, &ahead, 1).into(), scope, behind: Vec::new() });
            return false;
        }
        _ => drop(world.apply(&changes)),
    }
    underway.is_some()
}

/// The next piece of what is under way; with the last, what waited behind.
fn go_on(world: &mut World, underway: &mut Option<Underway>, most: usize) {
    let Some(it) = underway else { return };
    if let Some(piece) = it.pieces.pop_front() {
        world.apply(&piece);
        return;
    }
    for changes in underway.take().map(|it| it.behind).unwrap_or_default() {
        make(world, underway, changes, most);
    }
}

proptest! {
    #[test]
    fn whatever_changes_the_kernel_takes_the_batches_and_has_what_is_wanted(rounds in strokes()) {
        let mut world = World::new(sample::graph());
        for round in rounds {
            round.iter().for_each(|stroke| stroke.on(&mut world));
            world.flush();
        }
        let table = render::table(&world.desired, &Options::default(), &BTreeSet::new());
        prop_assert!(delta::repair(&render::table_id(), &table, Some(&world.table)).is_none());
    }

    #[test]
    fn changes_that_overtake_a_large_one_end_where_all_end_in_order(rounds in strokes()) {
        let (mut ordered, mut world) = (World::new(sample::graph()), World::new(sample::graph()));
        let mut underway = None;
        for round in rounds {
            round.iter().for_each(|stroke| stroke.on(&mut ordered));
            ordered.flush();
            round.iter().for_each(|stroke| stroke.on(&mut world));
            let changes = world.graph.flush();
            // The model of the kernel refuses what mentions something that is not there, and to delete what is mentioned.
            make(&mut world, &mut underway, changes, 1);
            go_on(&mut world, &mut underway, 1);
        }
        while underway.is_some() {
            go_on(&mut world, &mut underway, 1);
        }
        prop_assert_eq!(&world.table, &ordered.table);
        prop_assert_eq!(&world.desired, &ordered.desired);
    }
}

/// A policy that lets into endpoints of role web only who is in a set with very many members, begun.
fn begun() -> (World, Option<Underway>) {
    let mut world = World::new(sample::graph());
    let nets: Vec<String> = (0..50).map(|n| format!("100.64.0.{}/32", n * 2)).collect();
    sample::put(
        &mut world.graph,
        "globalnetworksets/large",
        &json!({"metadata": {"labels": {"large": "yes"}}, "spec": {"nets": nets}}),
    );
    let from = |selector: &str| json!([{"action": "Allow", "source": {"selector": selector}}]);
    world.policy(
        "other",
        &json!({"selector": "role == 'other'", "types": ["Ingress"], "ingress": from("x == 'y'")}),
    );
    sample::endpoint(&mut world.graph, 3, &json!({"role": "other"}));
    world.flush();
    world.policy(
        "large",
        &json!({"selector": "role == 'web'", "types": ["Ingress"], "ingress": from("large == 'yes'")}),
    );
    let changes = world.graph.flush();
    let mut underway = None;
    make(&mut world, &mut underway, changes, MANY);
    assert!(underway.is_some());
    (world, underway)
}

#[test]
fn the_members_of_a_new_set_go_ahead_in_pieces_and_what_leads_to_it_comes_last() {
    let (mut world, mut underway) = begun();
    let rules = world.table.rules.clone();
    let mut pieces = 0;
    while underway.as_ref().is_some_and(|it| it.pieces.len() > 1) {
        go_on(&mut world, &mut underway, MANY);
        assert_eq!(world.table.rules, rules, "no rule has changed");
        pieces += 1;
    }
    assert_eq!(pieces, 50);
    go_on(&mut world, &mut underway, MANY);
    assert_ne!(world.table.rules, rules);
}

#[test]
fn what_does_not_depend_on_a_large_change_overtakes_it() {
    let overtakes = |stroke: &dyn Fn(&mut World)| {
        let (mut world, mut underway) = begun();
        stroke(&mut world);
        let changes = world.graph.flush();
        assert!(!changes.is_empty());
        make(&mut world, &mut underway, changes, MANY)
    };
    let from = |role: &str, rules: serde_json::Value| json!({"selector": format!("role == '{role}'"), "types": ["Ingress"], "ingress": rules});
    let deny = || json!([{"action": "Deny"}]);
    assert!(
        overtakes(&|world| sample::endpoint(&mut world.graph, 4, &json!({"role": "other"}))),
        "an endpoint"
    );
    assert!(overtakes(&|world| sample::endpoint(&mut world.graph, 3, &json!({}))), "another's label");
    assert!(overtakes(&|world| world.policy("other", &from("other", deny()))), "a policy of others edited");
    assert!(overtakes(&|world| world.policy("more", &from("other", deny()))), "a policy more for others");
    let member = json!({"metadata": {"labels": {"large": "yes"}}, "spec": {"nets": ["100.65.0.1/32"]}});
    assert!(
        !overtakes(&|world| sample::put(&mut world.graph, "globalnetworksets/more", &member)),
        "a member more"
    );
    assert!(!overtakes(&|world| world.policy("large", &from("web", deny()))), "its own policy edited");
    assert!(
        !overtakes(&|world| world.policy("all-kinds", &from("web", deny()))),
        "another policy of its endpoints"
    );
    assert!(
        !overtakes(&|world| sample::endpoint(&mut world.graph, 1, &json!({}))),
        "the label of its endpoint"
    );
    assert!(
        !overtakes(&|world| sample::endpoint(&mut world.graph, 4, &json!({"role": "web"}))),
        "an endpoint of its shape"
    );
    let asks = json!([{"action": "Allow", "source": {"selector": "large == 'yes'"}}]);
    assert!(
        !overtakes(&|world| world.policy("more", &from("other", asks.clone()))),
        "a policy that asks for its set"
    );
}
