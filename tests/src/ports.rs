//! Free ports on this machine.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range that the system hands out to outgoing connections, which would otherwise take a port between the
/// moment that it was found free and the moment that a node listens on it.
const RANGE: std::ops::Range<u16> = 10_000..30_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 on which nobody listens, another one at each call in this process.
///
/// # Panics
/// If none is free.
pub fn free() -> u16 {
    let length = RANGE.end - RANGE.start;
    // Test processes that run at the same time begin at different places.
    let spread = u16::try_from(std::process::id() * 97 % u32::from(length)).expect("below the length");
    (0..length)
        .map(|_| {
            let taken = NEXT.fetch_add(1, Ordering::Relaxed) % length;
            RANGE.start + (spread + taken) % length
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

/// The first of `count` free ports in a row.
///
/// # Panics
/// If there is no such row.
pub fn free_row(count: u16) -> u16 {
    for _ in 0..1_000 {
        let row: Vec<u16> = (0..count).map(|_| free()).collect();
        if row.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            return row[0];
        }
    }
    panic!("no {count} free ports in a row");
}

/// The first of `count` ports in a row, and who listens on the last of them. Whoever looks for free ports at the same
/// moment listens on each for an instant: then it is another row.
///
/// # Panics
/// If there is no such row.
pub fn row_in_use(count: u16) -> (u16, TcpListener) {
    let found = (0..100).find_map(|_| {
        let base = free_row(count);
        let listener = TcpListener::bind(("127.0.0.1", base + count - 1)).ok()?;
        Some((base, listener))
    });
    found.expect("a row of free ports")
}
