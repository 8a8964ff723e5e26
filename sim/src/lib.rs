//! Real nodes on a simulated clock, disk and network, from one seed.

#[cfg(not(any(tokio_unstable, doc, doctest)))]
compile_error!(
    "quorate-sim needs tokio's seeded runtime: build it with RUSTFLAGS=\"--cfg tokio_unstable\", as `make sim` does"
);

pub mod check;
pub mod classes;
pub mod cluster;
pub mod dice;
pub mod env;
pub mod exhaust;
pub mod explain;
pub mod history;
pub mod marks;
pub mod nemesis;
pub mod observe;
pub mod report;
pub mod run;
pub mod scenario;
pub mod sweep;
pub mod tally;
pub mod trace;
pub mod wire;
pub mod workload;
