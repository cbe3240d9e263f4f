//! Many requests at once, in one process and on many nodes; callers that give up; races that are lost.

use crate::double::Fault;
use crate::world::{World, cidr, handle, ip, owner, wanted};
use calico_libnetwork::ipam::{Expect, IpamError, Released};
use calico_libnetwork::store::retry::ATTEMPTS;
use futures::future::join_all;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// One pool of one block of 256.
fn wide() -> World {
    let world = World::empty();
    world.node("docker-1", "{}");
    world.pool("wide", r#"{"cidr":"10.10.0.0/24","blockSize":24}"#);
    world
}

#[tokio::test]
async fn twenty_requests_at_once_cost_a_few_writes() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    world.auto(&ipam).await.unwrap();
    world.store.take_log();
    let ips: BTreeSet<IpAddr> =
        join_all((0..20).map(|_| world.auto(&ipam))).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(ips.len(), 20);
    assert!(world.store.take_log().len() <= 2, "coalesced");
    let any = Expect::default();
    let released = join_all(ips.iter().map(|ip| ipam.release(*ip, &any))).await;
    assert!(released.into_iter().all(|released| matches!(released, Ok(Released::Freed(_)))));
    assert!(world.store.take_log().len() <= 2, "coalesced");
    assert_eq!(world.check().len(), 1);
}

#[tokio::test]
async fn more_requests_than_a_transaction_holds_are_served_in_several() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    let got = join_all((0..300).map(|_| world.auto(&ipam))).await;
    let ips: BTreeSet<IpAddr> = got.iter().filter_map(|got| got.as_ref().ok().copied()).collect();
    assert_eq!(ips.len(), 256, "every address once");
    let errors: Vec<&IpamError> = got.iter().filter_map(|got| got.as_ref().err()).collect();
    assert_eq!(errors.len(), 44);
    assert!(errors.iter().all(|error| {
        error.to_string() == "no free address in pool wide (10.10.0.0/24): 256 of 256 used"
    }));
    assert_eq!(world.check().len(), 256);
}

#[tokio::test]
async fn requests_of_different_ranges_are_served_each_from_its_own() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    let ranges = ["10.10.0.0/28", "10.10.0.16/28", "10.10.0.32/28"].map(cidr);
    let requests = (0..30).map(|n| calico_libnetwork::ipam::AutoAssign {
        within: Some(ranges[n % 3]),
        ..wanted(&format!("h{n}"))
    });
    let requests: Vec<_> = requests.collect();
    let got = join_all(requests.iter().map(|request| ipam.auto_assign(request))).await;
    for (request, got) in requests.iter().zip(got) {
        assert!(request.within.unwrap().contains(got.unwrap()));
    }
    assert_eq!(world.check().len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_nodes_never_get_the_same_address() {
    // (32)
    let world = World::empty();
    world.pool("shared", r#"{"cidr":"10.10.0.0/25","blockSize":28}"#);
    let nodes: Vec<String> = (0..8).map(|n| format!("docker-{n}")).collect();
    nodes.iter().for_each(|node| world.node(node, "{}"));
    let ipams: Vec<_> = nodes.iter().map(|node| world.ipam(node)).collect();
    let got = join_all(ipams.iter().flat_map(|ipam| (0..20).map(|_| world.auto(ipam)))).await;
    let ips: Vec<IpAddr> = got.into_iter().filter_map(Result::ok).collect();
    assert_eq!(ips.len(), 128, "160 ask for 128");
    assert_eq!(ips.iter().collect::<BTreeSet<_>>().len(), 128);
    assert_eq!(world.check().len(), 128);
    let world = &world;
    let work = ips.iter().enumerate().map(|(n, ip)| {
        let ipam = &ipams[n % 8];
        async move {
            ipam.release(*ip, &Expect::default()).await.unwrap();
            world.auto(ipam).await
        }
    });
    let again: BTreeSet<IpAddr> = join_all(work).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(again.len(), 128);
    assert_eq!(world.check().len(), 128);
}

#[tokio::test]
async fn an_address_that_nobody_waits_for_is_released_again() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    let requests: Vec<_> = (0..6).map(|n| wanted(&format!("h{n}"))).collect();
    let mut waiting: Vec<_> = requests.iter().map(|request| Box::pin(ipam.auto_assign(request))).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    // The first is being served, the others wait; one of each gives up.
    tokio::task::yield_now().await;
    drop(waiting.remove(4));
    drop(waiting.remove(0));
    let got = join_all(waiting).await;
    assert_eq!(got.into_iter().filter_map(Result::ok).collect::<BTreeSet<_>>().len(), 4);
    ipam.drain().await;
    let held: BTreeSet<String> = world.check().into_iter().filter_map(|held| held.handle).collect();
    assert_eq!(held, ["h1", "h2", "h3", "h5"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_drained_ipam_takes_no_more_requests() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    let (got, ()) = tokio::join!(world.auto(&ipam), ipam.drain());
    got.unwrap();
    let error = world.auto(&ipam.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "the address request was not finished: the plugin is stopping");
}

#[tokio::test(start_paused = true)]
async fn too_many_waiting_requests_are_refused_and_not_kept() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    let got = join_all((0..1200).map(|_| world.auto(&ipam))).await;
    assert_eq!(got.iter().filter(|got| matches!(got, Err(IpamError::Busy))).count(), 200);
    assert_eq!(world.check().len(), 256);
}

#[tokio::test(start_paused = true)]
async fn lost_races_are_tried_again_until_it_is_enough() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    world.store.befall([Fault::Conflict; 7]);
    let first = world.auto(&ipam).await.unwrap();
    world.store.befall([Fault::Conflict; 5]);
    ipam.assign(ip("10.10.0.9"), None, &owner("h")).await.unwrap();
    world.store.befall([Fault::Conflict; 5]);
    assert!(matches!(ipam.release(first, &Expect::default()).await, Ok(Released::Freed(_))));
    assert_eq!(world.check().len(), 1);
    world.store.befall([Fault::Conflict; ATTEMPTS as usize]);
    let error = world.auto(&ipam).await.unwrap_err();
    assert_eq!(error.to_string(), "injected was changed by someone else");
    assert_eq!(world.check().len(), 1);
}

#[tokio::test]
async fn an_address_whose_answer_was_lost_can_be_found_and_released_by_its_handle() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    world.auto(&ipam).await.unwrap();
    world.store.befall([Fault::AnswerLost]);
    assert!(ipam.auto_assign(&wanted("lost")).await.is_err());
    let all = ipam.allocations_of_node().await.unwrap();
    let lost = all.iter().find(|held| held.handle.as_deref() == Some("lost")).unwrap();
    assert_eq!(ipam.release_by_handle(&handle("lost")).await.unwrap(), [lost.ip]);
    assert_eq!(world.check().len(), 1);
}

#[tokio::test]
async fn a_handle_that_exists_counts_one_more() {
    let world = wide();
    let ipam = world.ipam("docker-1");
    let (first, second) = (wanted("same"), wanted("same"));
    ipam.auto_assign(&first).await.unwrap();
    let (a, b) = tokio::join!(ipam.auto_assign(&first), ipam.auto_assign(&second));
    assert_ne!(a.unwrap(), b.unwrap());
    assert_eq!(world.store.json("/calico/ipam/v2/handle/same")["block"]["10.10.0.0/24"], 3);
    world.check();
}
