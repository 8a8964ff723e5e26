//! `quorate completion`: a script that teaches a shell the command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate completion bash > /etc/bash_completion.d/quorate")]
pub(crate) struct CompletionArgs {
    /// The shell to write for.
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> Result<(), Failure> {
    clap_complete::generate(args.shell, &mut Cli::command(), "quorate", &mut std::io::stdout());
    Ok(())
}
