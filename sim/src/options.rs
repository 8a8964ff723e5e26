//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use quorate_sim::classes::{Class, Classes, no_such};
use quorate_sim::run::Options;
use quorate_sim::scenario::ALL;
use quorate_sim::sweep::{Plan, Until};
use quorate_sim::trace::Show;

use crate::exhaustive::Exhaust;
use crate::interrupt;

/// Real nodes on a simulated clock, disk and network: everything that happens is drawn from one seed, so that what
/// went wrong once goes wrong again.
///
/// Exit status: 0 clean; 1 a promise was broken, whatever else went wrong; 2 wrong usage; 3 the simulator itself failed:
/// the same seed gave two traces, it panicked, its results could not be written, or more than one run of a sweep in fifty
/// was vacuous, with too little in it to say anything; 130 Ctrl-C came first, and until then nothing was broken.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs one seed.
    ///
    /// A run in which too little happened to say anything is said to be vacuous, and is no failure by itself.
    ///
    /// Examples: quorate-sim run --seed 7 -v, quorate-sim run --scenario quiet-group
    Run(Run),
    /// Runs many seeds, and says which of them broke a promise.
    ///
    /// Ctrl-C lets the runs under way come to their end and tells what was found so far; a second one ends at once.
    ///
    /// Example: quorate-sim sweep --from 0 --count 1000 --jobs 2
    Sweep(Sweep),
    /// Runs many seeds, and says which interesting points they reached, and which none did.
    ///
    /// Example: quorate-sim marks --for 10m
    Marks(Sweep),
    /// Plays short stories of a cluster with the power cut at every disk operation of theirs.
    ///
    /// Example: quorate-sim exhaust --scenario roll --every 10
    Exhaust(Exhaust),
    /// Lists what is promised: the oracle's name, the promise, the file that judges it, and its source.
    Oracles,
}

/// The seed of a written-out scenario if none was given.
const SEED_OF_SCENARIOS: u64 = 7;

/// One run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Everything in the run is drawn from it. It may be left out with --scenario, which leaves little to chance, and is
    /// 7 then.
    #[arg(
        long,
        value_name = "N",
        value_parser = seed,
        allow_negative_numbers = true,
        required_unless_present = "scenario"
    )]
    seed: Option<u64>,
    #[command(flatten)]
    pub(crate) world: World,
    /// Shows what happens, in simulated time, on standard error; given twice, every message too.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Prints one JSON document and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes every event to this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace_file: Option<PathBuf>,
    /// Runs it twice and prints the first event that differs, if any does.
    #[arg(long)]
    pub(crate) diff_trace: bool,
}

/// What a run's world is like.
#[derive(Debug, Args)]
pub(crate) struct World {
    /// Only faults of these classes, separated by commas: network, clock, process, crash, disk, client,
    /// membership, damage.
    ///
    /// network: links cut, clogged, half open, narrow or reset, requests and replies lost, frames lost, late, doubled or
    /// flipped. clock: steps, leaps, standstills, drift, an hour back at a restart. process: pauses, waits for a
    /// processor, stops, rolling restarts, leadership handed over, a node with an empty disk or another node's. crash:
    /// kills and power cuts, at a disk operation, in a recovery, in a loop, of all nodes. disk: slow disks, stalls,
    /// failed syncs, full disks. client: what is done to clients and their connections. membership: disks lost for good and
    /// replaced, nodes that leave and come again, partitions that move. damage: what a disk holds rots, goes missing, or is
    /// older than it was.
    ///
    /// Whatever the classes, unless the run is a calm one, which has hardly any fault: for the last nine seconds before
    /// all is mended, the nodes outside of a majority stay broken in one way or another (down, cut off, paused, slow,
    /// stalled or full disk, frozen clock), and the points at which the code itself asks for unkindness belong to no class.
    #[arg(long, value_name = "CLASSES", value_delimiter = ',', value_parser = class, conflicts_with = "scenario")]
    only: Vec<Class>,
    /// How many nodes there are [default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9), conflicts_with = "scenario")]
    nodes: Option<u32>,
    /// Simulated time in which faults strike, such as 10m or 24h; what comes before and after takes about 24 s more
    /// [default: 36s, so that a run as a whole lasts about 60 s].
    #[arg(long, value_name = "TIME", value_parser = length, conflicts_with = "scenario")]
    length: Option<Duration>,
    #[arg(long, value_name = "NAME", value_parser = scenario, help = scenarios())]
    scenario: Option<&'static str>,
}

/// Many runs.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// The first seed.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = seed, allow_negative_numbers = true)]
    from: u64,
    /// How many seeds [default: 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "time")]
    count: Option<u64>,
    /// Begins no further run after this real time, such as 10m; instead of a count.
    #[arg(long = "for", id = "time", value_name = "TIME", value_parser = length)]
    time: Option<Duration>,
    /// How many run at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    #[command(flatten)]
    world: World,
    /// Prints one JSON document and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
    /// Begins no further run once something is wrong.
    #[arg(long)]
    stop_at_first: bool,
    /// One seed in so many is run twice, and the traces compared; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 50)]
    twice_every: u64,
}

impl Run {
    /// What everything in the run is drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or(SEED_OF_SCENARIOS)
    }

    /// What the run is to do.
    pub(crate) fn options(&self) -> Options {
        let show = match self.verbose {
            0 => Show::Nothing,
            1 => Show::Story,
            _ => Show::Everything,
        };
        let keeps = self.trace_file.is_some() || self.diff_trace;
        let keep = if keeps { Show::Everything } else { Show::Nothing };
        Options { show, keep, ..self.world.options() }
    }
}

impl Sweep {
    /// What the sweep is to do.
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let count = self.count.unwrap_or(100);
        if self.time.is_none() && self.from.checked_add(count - 1).is_none() {
            return Err(format!("{count} seeds from {} on go beyond the last one, {}", self.from, u64::MAX));
        }
        Ok(Plan {
            from: self.from,
            until: self.time.map_or(Until::Count(count), Until::Elapsed),
            jobs: self.jobs,
            stop_at_first: self.stop_at_first,
            twice_every: self.twice_every,
            options: self.world.options(),
            stop: Some(&interrupt::CAME),
        })
    }
}

impl World {
    fn options(&self) -> Options {
        let only =
            if self.only.is_empty() { Classes::default() } else { self.only.iter().copied().collect() };
        Options {
            only,
            nodes: self.nodes,
            length: self.length,
            scenario: self.scenario,
            ..Options::default()
        }
    }
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("a seed is a whole number from 0 to {}", u64::MAX))
}

fn class(word: &str) -> Result<Class, String> {
    word.trim().parse()
}

fn scenarios() -> String {
    let lines = ALL.map(|(name, _, what)| format!("- {name}: {what}"));
    format!("Plays a written-out scenario instead of what chance brings:\n{}", lines.join("\n"))
}

fn scenario(name: &str) -> Result<&'static str, String> {
    let names = ALL.map(|(name, ..)| name);
    names.into_iter().find(|known| *known == name).ok_or_else(|| no_such("scenario", name, &names))
}

fn length(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("it must be longer than nothing".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}; a time is written like 90s, 10m or 24h")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &str) -> Result<Cli, String> {
        let words = std::iter::once("quorate-sim").chain(words.split_whitespace());
        Cli::try_parse_from(words).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let Ok(Cli { command: Command::Run(run) }) =
            parse("run --seed 7 -v --json --only network,crash --nodes 5")
        else {
            panic!("a run")
        };
        let options = run.options();
        assert_eq!((options.show, options.nodes, options.keep), (Show::Story, Some(5), Show::Nothing));
        assert_eq!(options.only.to_string(), "network,crash");
        let Ok(Cli { command: Command::Sweep(sweep) }) = parse("sweep --for 10m --jobs 1 --stop-at-first")
        else {
            panic!("a sweep")
        };
        let plan = sweep.plan().unwrap();
        assert!(matches!(plan.until, Until::Elapsed(time) if time == Duration::from_secs(600)), "{plan:?}");
        assert!(plan.stop_at_first && plan.jobs == 1 && plan.twice_every == 50, "{plan:?}");
        assert!(matches!(parse("marks").unwrap().command, Command::Marks(sweep) if !sweep.json));
    }

    #[test]
    fn a_scenario_needs_no_seed_and_takes_one() {
        let seed = |words: &str| {
            let Ok(Cli { command: Command::Run(run) }) = parse(words) else { panic!("{words}") };
            run.seed()
        };
        assert_eq!(seed("run --scenario leader-restore"), SEED_OF_SCENARIOS);
        assert_eq!(seed("run --scenario leader-restore --seed 2"), 2);
        assert_eq!(seed("run --seed 3"), 3);
        // As its help says.
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("run").expect("it is there").render_help().to_string();
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("and is {SEED_OF_SCENARIOS} then")), "{help}");
    }

    #[test]
    fn blanks_between_classes_do_no_harm() {
        let words = ["quorate-sim", "run", "--seed", "7", "--only", "network, crash"];
        let Ok(Cli { command: Command::Run(run) }) = Cli::try_parse_from(words) else { panic!("a run") };
        assert_eq!(run.options().only.to_string(), "network,crash");
    }

    #[test]
    fn a_range_of_seeds_ends_at_the_last_one() {
        let plan = |words: &str| {
            let Ok(Cli { command: Command::Sweep(sweep) }) = parse(words) else { panic!("{words}") };
            sweep.plan()
        };
        assert!(plan("sweep --from 18446744073709551615 --count 1").is_ok());
        let said = plan("sweep --from 18446744073709551615 --count 2").unwrap_err();
        assert!(said.contains("2 seeds from 18446744073709551615 on go beyond the last one"), "{said}");
    }

    #[test]
    fn wrong_usage_is_said_so() {
        let scenario = ALL[0].0;
        let cases = [
            ("run", "--seed"),
            ("run --nodes 5 -v", "--seed"),
            ("run --seed seven", "a seed is a whole number from 0 to 18446744073709551615"),
            ("run --seed -1", "a seed is a whole number from 0 to 18446744073709551615"),
            ("run --seed 18446744073709551616", "a seed is a whole number"),
            ("sweep --from -5", "a seed is a whole number"),
            ("run --seed 7 --nodes 0", "0 is not in 1..=9"),
            ("run --seed 7 --only netwrok", "did you mean network?"),
            ("run --seed 7 --scenario leader-restor", "did you mean leader-restore?"),
            (&format!("run --seed 7 --scenario {scenario} --nodes 5"), "cannot be used with"),
            (&format!("run --seed 7 --scenario {scenario} --only crash"), "cannot be used with"),
            ("sweep --count 5 --for 10m", "cannot be used with"),
            ("sweep --count 0", "0 is not in 1.."),
            ("sweep --for soon", "like 90s, 10m or 24h"),
            ("sweep --for 0s", "longer than nothing"),
            ("sweep --jobs 0", "0 is not in 1..=256"),
            ("exhaust --scenario roll --node 1 --operation 3 --every 2", "cannot be used with"),
            ("swep", "unrecognized subcommand"),
        ];
        for (words, expected) in cases {
            let said = parse(words).expect_err(words);
            assert!(said.contains(expected), "{words}: {said}");
        }
    }
}
