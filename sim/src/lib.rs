//! Real nodes on a simulated clock, disk and network, from one seed.

pub mod dice;
pub mod env;
