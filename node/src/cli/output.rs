//! What commands print: results on standard output, remarks on standard error.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::time::Duration;

use comfy_table::{Table, presets};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::Failure;

/// How often it is looked whether somebody still reads.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Standard output, buffered. A reader that has gone away (`quorate consume t | head -1`) is no failure: the command
/// just has nothing left to do.
pub(crate) struct Output {
    out: BufWriter<Stdout>,
}

impl Output {
    /// Writes to standard output.
    pub(crate) fn new() -> Self {
        Self { out: BufWriter::with_capacity(64 << 10, io::stdout()) }
    }

    /// Writes one JSON document and a newline, and flushes.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_string(document).expect("our documents have string keys and finite numbers");
        self.line(text)
    }

    /// Writes a line, or several, and flushes.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        let written = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
        finish(written)
    }

    /// Writes bytes without flushing. `Ok(false)`: nobody reads any more.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        still_read(self.out.write_all(bytes))
    }

    /// Flushes. `Ok(false)`: nobody reads any more.
    pub(crate) fn flush(&mut self) -> Result<bool, Failure> {
        still_read(self.out.flush())
    }

    /// Ends when nobody reads standard output any more. A write would tell, but there may be nothing to write for long.
    pub(crate) async fn closed() {
        let stdout = io::stdout();
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
            // What cannot be polled is a file, whose reader does not matter.
            let errors = poll(&mut polled, Some(&Timespec::default())).is_ok_and(|count| count > 0);
            if errors && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                return;
            }
        }
    }

    /// Writes a remark to standard error, where it never mixes with results.
    pub(crate) fn note(text: impl Display) {
        // Nobody can be told that standard error is closed.
        drop(writeln!(io::stderr(), "{text}"));
    }
}

fn finish(written: io::Result<()>) -> Result<(), Failure> {
    still_read(written).map(|_| ())
}

fn still_read(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::work(format!("cannot write to standard output: {error}"))),
    }
}

/// A table without lines, as people copy and cut it.
pub(crate) fn plain_table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// Milliseconds with three decimals.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3, 3)
}

/// Rounds to so many decimals.
pub(crate) fn rounded(number: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (number * scale).round() / scale
}
