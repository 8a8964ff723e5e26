//! What a node tells of itself in words: the log. Its numbers are in `env::metrics`.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is no log format: text or json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Below what is asked for, unless it is asked for by name: openraft warns of each heartbeat to a dead peer, ten times
/// a second and group. What follows from it is in our own events.
const QUIET: &str = "openraft=error";

/// The modules of a node, which a filter may name without the crate before them: `raft=debug`.
const MODULES: [&str; 10] =
    ["api", "controller", "env", "http", "join", "metadata", "partition", "raft", "storage", "wiring"];

/// With the crate's name before each module of ours that stands without it.
fn spelt_out(filter: &str) -> String {
    let directive = |directive: &str| {
        let directive = directive.trim();
        let module = directive.split(['=', ':', '[']).next().unwrap_or_default();
        let ours = MODULES.contains(&module);
        if ours { format!("quorate_node::{directive}") } else { directive.to_owned() }
    };
    filter.split(',').map(directive).collect::<Vec<_>>().join(",")
}

fn read_filter(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET},{}", spelt_out(filter)))
        .map_err(|error| format!("log filter {filter:?}: {error}"))
}

/// Checks a filter in the style of `RUST_LOG`; modules of the node need no crate before them.
///
/// # Errors
/// It cannot be read.
pub fn check_filter(filter: &str) -> Result<(), String> {
    read_filter(filter).map(drop)
}

/// Sends the log to standard error. `filter` is in the style of `RUST_LOG`, a level or `module=level` with commas between:
/// `info,raft=debug,storage=trace`.
///
/// # Errors
/// The filter cannot be read, or a log was set up before.
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = read_filter(filter)?;
    // A line that cannot be written is lost: to say so on standard error, which is where it went, would panic.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let set = match format {
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(colour).with_target(false).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_the_node_need_no_crate() {
        let check = |filter: &str, spelt: &str| assert_eq!(spelt_out(filter), spelt);
        check("info", "info");
        check("info, raft=debug", "info,quorate_node::raft=debug");
        check(
            "warn,storage::keeper=trace,openraft=info",
            "warn,quorate_node::storage::keeper=trace,openraft=info",
        );
        check("quorate_node::raft=debug", "quorate_node::raft=debug");
        check("rafts=debug", "rafts=debug");
        assert_eq!(check_filter("info,raft=debug,storage=trace"), Ok(()));
        assert!(check_filter("raft=loud").is_err());
    }
}
