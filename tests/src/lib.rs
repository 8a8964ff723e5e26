//! Starts real `quorate` processes for tests, in temporary folders, and ends them.
//!
//! [`Cluster`] runs nodes, [`run`] and its kin run commands, [`numbered`] sends lines with numbers and judges what is
//! read back, [`load`] sends as much as is taken, [`content`] says what a topic holds and what it takes of a disk,
//! [`sample`] keeps folders of earlier releases. Nothing here waits on a sleep: [`wait::until`] looks again until a
//! deadline. Only processes that were started here are ever ended, by their own id.

pub mod cluster;
pub mod command;
pub mod content;
pub mod http;
pub mod judge;
pub mod load;
pub mod numbered;
pub mod ports;
pub mod sample;
pub mod small_disk;
pub mod wait;
pub mod wire;

pub use cluster::{Cluster, Shape};
pub use command::{Ran, quorate, run};
