//! Runs the binary `quorate`, with a deadline.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::wait;

/// Where the binary is: `QUORATE_BIN`, or beside the test's own target folder, where `make test` puts it.
///
/// # Panics
/// If it is not there.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let path = match std::env::var_os("QUORATE_BIN") {
            Some(path) => PathBuf::from(path),
            None => {
                let test = std::env::current_exe().expect("a process knows its own binary");
                // target/debug/deps/test-1234 or target/debug/tour.
                let folder = test.parent().expect("a binary lies in a folder");
                let folder = if folder.ends_with("deps") {
                    folder.parent().expect("deps lies in one")
                } else {
                    folder
                };
                folder.join("quorate")
            }
        };
        assert!(
            path.is_file(),
            "{} is missing: `make test` builds it, or `cargo build --bin quorate`; QUORATE_BIN names another",
            path.display()
        );
        path
    })
}

/// The binary with arguments; standard input is empty, and nothing of this process's environment steers it.
pub fn quorate<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("QUORATE_")) {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
    shown: String,
}

impl Ran {
    /// Its standard output as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("output is UTF-8")
    }

    /// Its standard output as one JSON document.
    ///
    /// # Panics
    /// If it is anything else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}): {self:?}"))
    }

    /// Its standard output as one JSON document a line.
    ///
    /// # Panics
    /// If it is anything else.
    pub fn json_lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line is a JSON document"))
            .collect()
    }

    /// Passes it on if the status is 0.
    ///
    /// # Panics
    /// On any other status.
    #[must_use]
    pub fn done(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:?}");
        self
    }

    /// Checks that it ended with `status` and that standard error holds `fragment`.
    ///
    /// # Panics
    /// If not.
    pub fn refused(&self, status: i32, fragment: &str) {
        assert_eq!(self.status, Some(status), "{} should end with {status}: {self:?}", self.shown);
        assert!(
            self.stderr.contains(fragment),
            "{} should say {fragment:?}, said: {}",
            self.shown,
            self.stderr
        );
    }
}

/// Runs a command to its end with nothing on standard input.
///
/// # Panics
/// If it cannot be started or does not end within [`wait::DEADLINE`]; it is killed then.
pub fn run(command: &mut Command) -> Ran {
    run_with(command, b"")
}

/// Runs a command to its end with `input` on standard input.
///
/// # Panics
/// As [`run`].
pub fn run_with(command: &mut Command, input: &[u8]) -> Ran {
    let mut running = Running::start(command);
    running.write(input);
    running.end()
}

/// A command that runs; killed when dropped.
pub struct Running {
    child: Child,
    stdin: Option<std::process::ChildStdin>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    shown: String,
}

impl Running {
    /// Starts a command, with pipes for all three streams.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        Self { child, stdin, stdout, stderr, shown }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input. A command that has ended before it read everything is no error here.
    pub fn write(&mut self, input: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            drop(stdin.write_all(input).and_then(|()| stdin.flush()));
        }
    }

    /// Closes its standard input and waits for its end.
    ///
    /// # Panics
    /// If it does not end within [`wait::DEADLINE`].
    pub fn end(self) -> Ran {
        self.end_within(wait::DEADLINE)
    }

    /// Closes its standard input and waits for its end for as long as `time`.
    ///
    /// # Panics
    /// If it does not end within `time`.
    pub fn end_within(mut self, time: Duration) -> Ran {
        drop(self.stdin.take());
        let shown = self.shown.clone();
        let status = wait::within(&format!("the end of {shown}"), time, || self.ended());
        let text = |stream: Option<JoinHandle<Vec<u8>>>| {
            stream.map(|thread| thread.join().expect("a reader does not panic")).unwrap_or_default()
        };
        Ran {
            status: status.code(),
            stdout: text(self.stdout.take()),
            stderr: String::from_utf8_lossy(&text(self.stderr.take())).into_owned(),
            shown,
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is.
        drop(stream.read_to_end(&mut bytes));
        bytes
    })
}
