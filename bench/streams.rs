//! Compares what links between network namespaces get through: `bench/run.sh` calls it for containers of one host.
//!
//! ```text
//! streams ROUNDS (WHAT FROM TO ADDRESS)...     FROM and TO are files of network namespaces, ADDRESS is TO's
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a figure that cannot be taken ends the run"
)]

mod traffic;

fn main() {
    // `cargo bench` adds an option of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    // All benchmarks run when none is named; this one has nothing to compare then.
    let Some((rounds, links)) = arguments.split_first() else { return };
    let links: Vec<traffic::Link> = links
        .chunks(4)
        .map(|link| traffic::Link {
            what: link[0].clone(),
            from: link[1].clone().into(),
            to: link[2].clone().into(),
            address: link[3].parse().unwrap(),
        })
        .collect();
    traffic::compare("two containers of one host", &links, rounds.parse().unwrap());
}
