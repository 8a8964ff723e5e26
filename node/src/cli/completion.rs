//! `quorate completion`: a script that teaches a shell the command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::Output;
use super::{Cli, Failure, unasked_servers};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate completion bash > /etc/bash_completion.d/quorate", arg = unasked_servers())]
pub(crate) struct CompletionArgs {
    /// The shell to write for.
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "quorate", &mut script);
    let mut out = Output::new();
    out.bytes(&script)?;
    out.flush().map(drop)
}
