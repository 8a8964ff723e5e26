//! Standard output and standard error, which may be closed or full: neither may end a run, nor hide what it found.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use crate::{BROKEN, FAILED};

/// What a command's results are printed on, and whether that went well.
#[derive(Debug, Default)]
pub(crate) struct Output {
    failed: bool,
}

impl Output {
    /// Prints on standard output. Whoever closed it wants no more; that it is full is said, once.
    pub(crate) fn print(&mut self, text: &str) {
        if self.failed {
            return;
        }
        let mut out = io::stdout().lock();
        let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.note("standard output", printed);
    }

    /// Writes lines to a file.
    pub(crate) fn write(&mut self, name: &str, file: File, lines: &[String]) {
        let mut file = io::BufWriter::new(file);
        let written = lines.iter().try_for_each(|line| writeln!(file, "{line}")).and_then(|()| file.flush());
        self.note(name, written);
    }

    fn note(&mut self, name: &str, done: io::Result<()>) {
        match done {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                self.failed = true;
                say(format_args!("quorate-sim: cannot write to {name}: {error}"));
            }
            _ => {}
        }
    }

    /// The exit status: a broken promise is one even if it could not be printed.
    pub(crate) fn exit(&self, status: u8) -> ExitCode {
        ExitCode::from(if self.failed && status != BROKEN { FAILED } else { status })
    }
}

/// Says something on standard error, if anybody listens.
pub(crate) fn say(line: impl Display) {
    writeln!(io::stderr().lock(), "{line}").unwrap_or_default();
}
