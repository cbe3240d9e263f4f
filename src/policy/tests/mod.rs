//! The behaviours of dataplane 6.1 to 6.5 as decisions of the graph, and the properties that hold for any input.

mod kernel;
mod peers;
mod ports;
mod profiles;
mod properties;
mod reports;
mod tiers;
mod types;
mod world;
