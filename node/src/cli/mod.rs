//! The command line: what is typed, what it runs, and with which status it ends.
//!
//! Modules of the binary, never of the library. They alone in node/ import quorate-client, and they are not
//! simulated, so the ban on clocks, files and printing is lifted here.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "commands talk to people, files and processes; none of this runs in the simulator"
)]

mod bench;
mod cluster;
mod completion;
mod consume;
mod dev;
mod http_get;
mod lines;
mod log;
mod members;
mod node;
mod output;
mod pace;
mod produce;
mod reach;
mod start_at;
mod tally;
mod topic;

use std::fmt;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::str::FromStr;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Args, Parser, Subcommand};

/// A replicated log: topics and partitions like Kafka's, with a Raft group under every partition.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  quorate dev                                  three nodes on this machine
  quorate topic create lines --partitions 4
  echo hello | quorate produce lines
  quorate consume lines --from beginning --until-end

Exit status: 0 done, 1 the work failed, 2 wrong usage, 3 a node that stopped itself after a failed write or sync, \
130 Ctrl-C before the work was done. Without an end of their own, consume, node and dev end with 0 then; produce says \
what was acknowledged, and ends with 1.";

/// Where `quorate dev` and three nodes on one machine listen.
const SERVERS: &str = "127.0.0.1:7001,7002,7003";

/// What every command that talks to a cluster takes, before or after its name.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Nodes to ask first, host:port of their gRPC listeners, with commas between. A port alone is one of the host
    /// before it (127.0.0.1 at first).
    #[arg(
        long,
        global = true,
        env = "QUORATE_SERVERS",
        default_value = SERVERS,
        value_name = "HOST:PORT,..",
        help_heading = "Global options"
    )]
    pub(crate) servers: Servers,
}

/// `--servers` of a command that asks none: it is taken, as before the command's name, and not shown.
fn unasked_servers() -> Arg {
    Arg::new("servers").long("servers").hide(true).value_parser(clap::value_parser!(Servers))
}

/// The largest number of partitions or replicas that can be asked for.
const NUMBER_MAX: u32 = i32::MAX.unsigned_abs();

/// Reads a whole number from a range. Give its type (`number::<u32>(1..=9)`): clap learns only at run time that it is not
/// the field's.
fn number<N>(range: RangeInclusive<N>) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: FromStr + PartialOrd + fmt::Display + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse::<N>().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Node(Box<node::NodeArgs>),
    /// Create, list, describe, change and delete topics.
    Topic(topic::TopicArgs),
    /// Send lines, a record each, and say how many were acknowledged.
    Produce(produce::ProduceArgs),
    /// Print records.
    Consume(consume::ConsumeArgs),
    /// Show the cluster, and change which nodes belong to it and hold what.
    Cluster(cluster::ClusterArgs),
    /// Look into the data folder of a stopped node, without changing it.
    Log(log::LogArgs),
    /// Run a whole cluster on this machine.
    Dev(dev::DevArgs),
    /// Measure the cluster, or the bare disk.
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell.
    Completion(completion::CompletionArgs),
}

/// Why a command did not do its work; each kind has an exit status of its own.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The work failed: status 1.
    Work(anyhow::Error),
    /// The command line and the environment alone show that it cannot be meant so: status 2. What only a file or a
    /// server can tell, such as an unknown key in `node --config` or in `topic create --config`, is work that failed.
    Usage(String),
    /// The work failed and what there is to say was said already: status 1.
    Said,
    /// A node stopped itself after a failed write or sync: status 3.
    StoppedItself(String),
    /// Ctrl-C came before the work was done: status 130, as if the signal had ended the process.
    Interrupted(&'static str),
}

impl Failure {
    /// Work that failed, in one sentence.
    pub(crate) fn work(message: impl fmt::Display) -> Self {
        Self::Work(anyhow::anyhow!("{message}"))
    }

    fn status(&self) -> u8 {
        match self {
            Self::Work(_) | Self::Said => 1,
            Self::Usage(_) => 2,
            Self::StoppedItself(_) => 3,
            Self::Interrupted(_) => 130,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Work(error.into())
    }
}

/// Reads the command line, runs the command and gives the process's exit status.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_to_be_run(&error),
    };
    let outcome = match cli.command {
        Command::Node(args) => on_runtime(node::run(*args)),
        Command::Topic(args) => on_runtime(topic::run(cli.global, args)),
        Command::Produce(args) => on_runtime(produce::run(cli.global, args)),
        Command::Consume(args) => on_runtime(consume::run(cli.global, args)),
        Command::Cluster(args) => on_runtime(cluster::run(cli.global, args)),
        Command::Log(args) => log::run(args),
        Command::Dev(args) => on_runtime(dev::run(args)),
        Command::Bench(args) => on_runtime(bench::run(cli.global, args)),
        Command::Completion(args) => completion::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match &failure {
                Failure::Work(error) => output::Output::note(format!("error: {error:#}")),
                Failure::Usage(message) | Failure::StoppedItself(message) => {
                    output::Output::note(format!("error: {message}"))
                }
                Failure::Interrupted(message) => output::Output::note(message),
                Failure::Said => {}
            }
            ExitCode::from(failure.status())
        }
    }
}

/// Prints help, or what is wrong with the command line or the environment: then the status is 2.
fn not_to_be_run(error: &clap::Error) -> ExitCode {
    // Nobody can be told that there is nowhere to print.
    drop(error.print());
    if let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg)
        && let Some(variable) = variable(arg, std::env::args().skip(1))
        && std::env::var_os(&variable).is_some()
    {
        output::Output::note(format!("This value comes from the environment: {variable}."));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The variable that a flag has its value from, unless it was typed. `arg` is as clap names it: `--id <ID>`.
fn variable(arg: &str, mut typed: impl Iterator<Item = String>) -> Option<String> {
    let flag = arg.split([' ', '[', '=']).next()?;
    let name = flag.strip_prefix("--")?.to_uppercase().replace('-', "_");
    let is_it =
        |word: String| word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    (!typed.any(is_it)).then(|| format!("QUORATE_{name}"))
}

/// Runs a command of a client on a runtime of its own. Use: `Command::Topic(args) => on_runtime(topic::run(cli.global, args))`.
fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // Blocking work is commits and reads of one disk: many threads would not make it faster. But a commit must not wait
    // behind names that nobody resolves, each of which holds a thread.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().max_blocking_threads(256).enable_all().build()?;
    let outcome = runtime.block_on(work);
    // A thread may still wait for standard input, for ever.
    runtime.shutdown_background();
    outcome
}

/// The signals that ask a process to end, caught from now on.
struct Signals([tokio::signal::unix::Signal; 3]);

/// Catches SIGINT, SIGTERM and SIGHUP.
fn signals() -> std::io::Result<Signals> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Signals([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ]))
}

impl Signals {
    /// Ready at the next one.
    async fn wait(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! { biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The addresses of `--servers`, each `host:port`, in the order given; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Servers(Vec<String>);

impl Servers {
    /// The addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.0.clone()
    }
}

impl FromStr for Servers {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        // A variable that is set to nothing is as good as none.
        let list = if list.trim().is_empty() { SERVERS } else { list };
        let mut host = "127.0.0.1".to_owned();
        let mut servers = Vec::new();
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (before, port) = part.rsplit_once(':').unwrap_or((&host, part));
            if part.contains('/') {
                return Err(format!("{part:?}: give host:port alone, without a scheme or a path"));
            }
            if before.is_empty() || port.parse::<u16>().is_err() {
                return Err(format!("{part:?} is not host:port, nor a port alone"));
            }
            servers.push(format!("{before}:{port}"));
            host = before.to_owned();
        }
        if servers.is_empty() { Err("name at least one host:port".to_owned()) } else { Ok(Self(servers)) }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    /// Checks a command and all below it.
    fn shows_examples(command: &mut clap::Command, name: &str) {
        let (short, long) = (command.render_help().to_string(), command.render_long_help().to_string());
        for help in [&short, &long] {
            let examples = help.split_once("Example").map(|(_, examples)| examples).unwrap_or_default();
            assert!(examples.contains(name), "the help of `{name}` shows no example:\n{help}");
        }
        for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
            // Global options may stand between `quorate` and this.
            let name = format!("{name} {}", below.get_name());
            shows_examples(below, name.trim_start_matches("quorate "));
        }
    }

    #[test]
    fn the_help_of_every_command_shows_an_example_of_it() {
        let mut cli = Cli::command();
        cli.build();
        shows_examples(&mut cli, "quorate");
    }

    #[test]
    fn servers_are_shown_where_they_are_asked() {
        let mut cli = Cli::command();
        cli.build();
        let shown = |path: &[&str]| {
            let below = |command: &mut clap::Command, name: &&str| {
                command.find_subcommand_mut(name).expect("it is a command").clone()
            };
            let mut command = path.iter().fold(cli.clone(), |mut command, name| below(&mut command, name));
            command.render_long_help().to_string().contains("--servers")
        };
        for path in [
            &["topic", "list"][..],
            &["produce"],
            &["consume"],
            &["cluster", "status"],
            &["cluster", "replace-node"],
            &["bench", "produce"],
        ] {
            assert!(shown(path), "{path:?}");
        }
        for path in [&["node"][..], &["dev"], &["completion"], &["bench", "disk"], &["log", "verify"]] {
            assert!(!shown(path), "{path:?}");
        }
        for line in ["quorate dev --servers 7009", "quorate --servers 7009 bench disk --servers 7001"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        let cli = Cli::try_parse_from("quorate topic list --servers 7009".split(' ')).unwrap();
        assert_eq!(cli.global.servers.addresses(), ["127.0.0.1:7009"]);
    }

    #[test]
    fn a_value_from_the_environment_is_told_from_one_that_was_typed() {
        let check = |arg: &str, typed: &str, expected: Option<&str>| {
            let typed = typed.split_whitespace().map(str::to_owned);
            assert_eq!(variable(arg, typed).as_deref(), expected, "{arg}");
        };
        check("--id <ID>", "node --data d", Some("QUORATE_ID"));
        check("--listen-grpc <HOST:PORT>", "node", Some("QUORATE_LISTEN_GRPC"));
        check("--id <ID>", "node --id abc", None);
        check("--id <ID>", "node --id=abc", None);
        check("--insecure[=<INSECURE>]", "node --insecurely", Some("QUORATE_INSECURE"));
        check("<TOPIC>", "produce", None);
    }

    #[test]
    fn what_is_no_number_of_the_range_is_told_the_range() {
        let read = number::<u16>(1..=99);
        assert_eq!((read("1"), read("99")), (Ok(1), Ok(99)));
        for wrong in ["0", "100", "-1", "70000", "abc", "", "1.5"] {
            assert_eq!(read(wrong).unwrap_err(), "must be a whole number from 1 to 99", "{wrong}");
        }
    }

    #[test]
    fn a_port_alone_is_one_of_the_host_before() {
        let check = |list: &str, expected: &[&str]| {
            assert_eq!(
                list.parse::<Servers>().map(|servers| servers.0),
                Ok(expected.iter().map(|s| s.to_string()).collect())
            );
        };
        check("127.0.0.1:7001,7002", &["127.0.0.1:7001", "127.0.0.1:7002"]);
        check("7001, b:1,2", &["127.0.0.1:7001", "b:1", "b:2"]);
        check("[::1]:1,2", &["[::1]:1", "[::1]:2"]);
        check(" ", &["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]);
        for bad in
            ["http://127.0.0.1:7001", "a:1,grpc://b:2", "a:1/", ",", "host", "host:", "host:70000", ":1"]
        {
            assert!(bad.parse::<Servers>().is_err(), "{bad}");
        }
    }
}
