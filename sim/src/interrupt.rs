//! Ctrl-C in what runs long: what is under way comes to its end, and what was found so far is told.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::INTERRUPTED;
use crate::output::say;

/// Whether it came.
pub(crate) static CAME: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C sets [`CAME`], and the second one ends the process.
pub(crate) fn listen() -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build().context("cannot wait for Ctrl-C")?;
    let mut signals = {
        let _inside = runtime.enter();
        signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            signals.recv().await;
            CAME.store(true, Ordering::Relaxed);
            say("\ninterrupted: what runs comes to its end; again to end at once");
            signals.recv().await;
            process::exit(INTERRUPTED.into());
        });
    });
    Ok(())
}
