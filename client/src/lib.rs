//! The Rust client of Quorate: producer, consumer, admin.
