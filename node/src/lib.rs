//! A node of Quorate: a Raft group under every partition, redb underneath.
//!
//! `ARCHITECTURE.md` has the map. Modules import modules of lower rank only, and never a sibling:
//! 5 wiring; 4 api, http; 3 partition, controller; 2 raft; 1 storage, metadata; 0 env, config, telemetry.

pub mod api;
pub mod config;
pub mod controller;
pub mod env;
pub mod http;
pub mod join;
pub mod metadata;
pub mod partition;
pub mod raft;
pub mod storage;
pub mod telemetry;
pub mod wiring;
