//! The driver from outside: bodies as an engine sends them in, answers out, over a datastore in memory, a host and a
//! packet filter that remember.
//!
//! Statements are those of the protocol's conformance list: `// 18` names one. Of the list, 1 to 11 are `tests/protocol`'s,
//! 12 to 41 stand here as far as they concern driver and IPAM (13's engine loop, 17's second node and 34's and 35's traffic
//! need engines or kernels; IPAM's own races are `tests/ipam`'s), the life cycle needs engines.
//!
//! The sixteen defects of the Go plugin:
//!
//! | # | defect | where it is ruled out |
//! |---|---|---|
//! | 1 | allocations without handle and attributes | `networks::every_allocation_says_whose_it_is` |
//! | 2 | the network's label is applied to nobody | `networks::a_network_has_a_profile_that_lets_its_own_endpoints_in` |
//! | 3 | one pool annotation for all networks | `networks::several_networks_share_one_pool` |
//! | 4 | a network without `--subnet` cannot run containers | `networks::a_network_without_a_subnet_serves_from_every_pool` |
//! | 5 | the profile of a dual-stack network flips | `networks::a_network_has_a_profile_that_lets_its_own_endpoints_in` |
//! | 6 | two notions of the node's name | one setting; `endpoints::the_workload_endpoint_is_final_when_it_is_created` |
//! | 7 | an IPv6 gateway for endpoints without IPv6 | `endpoints::join_gives_what_the_endpoint_has_addresses_for` |
//! | 8 | `log.Fatal` on a netlink hiccup | `faults::*` |
//! | 9 | labels polled from Docker's API | `endpoints::labels_are_there_before_the_first_packet`, `merge` in `src/driver`, and `labels` in `tests/docker` |
//! | 10 | `-p` ignored | `ports::*` |
//! | 11 | driver options and flags rejected | `networks::options_are_taken_or_refused_by_name`, `::a_range_confines_addresses_that_nobody_named`, `endpoints::an_internal_network_has_no_gateway` |
//! | 12 | `--ip` outside the network accepted | `networks::an_address_outside_the_network_is_refused_by_name` |
//! | 13 | veth leak in a failed Join | `faults::*` |
//! | 14 | DeleteEndpoint not idempotent | `endpoints::what_is_gone_can_be_removed_again` |
//! | 15 | panic on a configuration error | level of settings and start: unit tests of `config` |
//! | 16 | no tests of restart, concurrency, swarm | `restart::*`, `concurrency::*`, `replay::*`, `swarm::*` |
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy's leave for tests ends at the helpers of an integration test"
)]

mod collector;
mod concurrency;
mod docker;
mod endpoints;
mod engine;
mod faults;
mod go_plugin;
mod golden;
mod host;
mod networks;
mod ports;
mod replay;
mod restart;
mod siblings;
mod swarm;
mod world;
