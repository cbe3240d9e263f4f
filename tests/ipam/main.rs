//! Block IPAM against a datastore double: Calico's conformance statements, the states that Calico's own client
//! left in etcd, and a model that is followed through races and crashes.

mod concurrency;
mod double;
mod golden;
mod model;
mod statements;
mod world;
