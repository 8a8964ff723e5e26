//! Three nodes.
