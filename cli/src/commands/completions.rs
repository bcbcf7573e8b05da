//! `clutch completions`: a script that completes verbs and options in a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::Error;
use crate::exit::Exit;
use crate::output;

/// Print a script that completes verbs and options in your shell
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(clutch completions bash)
  clutch completions zsh > \"${fpath[1]}/_clutch\"
  clutch completions fish > ~/.config/fish/completions/clutch.fish")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: Args) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "clutch", &mut script);
    output::page(&String::from_utf8_lossy(&script)).map_err(Error::Output)?;
    Ok(Exit::Ok)
}
