//! The simulated world outside of a node: what differs from the real one, and all that differs.

pub mod disk;
