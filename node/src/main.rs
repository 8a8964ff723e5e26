//! The binary `quorate`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
