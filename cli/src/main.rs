//! The program `clutch`: arguments in, calls to the client library, text out.
//!
//! Suggested reading order:
//!
//! - [`args`]: the command line.
//! - [`commands`]: the verbs, one file each.
//! - [`value`], [`items`]: from words and lines to the JSON that is sent.
//! - [`connect`]: the daemon, or a private one.
//! - [`report`], [`exit`], [`error`]: failures in words and in exit codes.
//! - [`sheet`]: what a map writes; [`unread`]: knowing that nobody reads it.
//! - [`output`], [`json`], [`logging`], [`interrupt`],
//!   [`progress`], [`program`]: text, log, Ctrl-C, the bar, a program that runs.

use std::process::ExitCode;

use clap::Parser;

mod args;

mod commands;

mod value;
mod wishes;

mod items;

mod connect;

mod report;

mod sheet;

mod unread;

mod exit;

mod error;

mod output;

mod printed;

mod json;

mod logging;

mod interrupt;

mod progress;

mod program;

use args::{Cli, Verb};
use commands::{
    call, cancel, completions, config, doctor, env, explain, logs, map, map_file, ping, plan, pool,
    pythons, reload, run as program_verb, serve, stack, status, stop, workers,
};
use connect::Socket;
use error::Error;
use exit::Exit;

/// The hidden verb that turns this program into the guardian of one worker.
const GUARDIAN_VERB: &str = "shim";

fn main() -> ExitCode {
    // Before anything else is set up: a guardian has one thread and next to no memory.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == GUARDIAN_VERB) {
        return clutch_worker_shim::main();
    }
    let cli = match Cli::try_parse_from(program_verb::shield(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. That nobody reads them is no error.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    output::set_color(cli.global.color);
    if let Verb::Run(args) = &cli.verb {
        // Its exit code is python's.
        return program_verb::run(args, &cli.global);
    }
    run(cli).unwrap_or_else(|error| error.report()).into()
}

fn run(cli: Cli) -> Result<Exit, Error> {
    let Cli { global, verb } = cli;
    let socket = Socket::of(&global);
    match verb {
        Verb::Serve(args) => serve::run(&args, &global),
        Verb::Call(args) => block_on(call::run(args, &global)),
        Verb::Run(_) => unreachable!("it has an exit code of its own, and is done by now"),
        Verb::Map(args) => block_on_beside_reader(map::run(args, &global)),
        Verb::MapFile(args) => block_on_beside_reader(map_file::run(args, &global)),
        Verb::Status(args) => block_on(status::run(args, &socket)),
        Verb::Workers(args) => block_on(workers::run(args, &socket)),
        Verb::Pool(args) => block_on(pool::run(args, &socket)),
        Verb::Stack(args) => block_on(stack::run(args, &socket)),
        Verb::Explain(args) => block_on(explain::run(args, &socket)),
        Verb::Cancel(args) => block_on(cancel::run(args, &socket)),
        Verb::Logs(args) => block_on(logs::run(args, &socket)),
        Verb::Ping(args) => block_on(ping::run(args, &socket)),
        Verb::Plan(args) => plan::run(&args),
        Verb::Pythons(args) => pythons::run(&args),
        Verb::Reload(args) => block_on(reload::run(args, &socket)),
        Verb::Stop(args) => block_on(stop::run(args, &socket)),
        Verb::Config(args) => config::run(&args),
        Verb::Env(args) => block_on(env::run(args, &global)),
        Verb::Doctor(args) => block_on(doctor::run(args, &global)),
        Verb::Completions(args) => completions::run(args),
    }
}

/// Runs a verb that may be held up by whoever reads its output: the connection has a thread of its
/// own, so that answers are taken in meanwhile and the daemon does not have to keep them.
fn block_on_beside_reader(verb: impl Future<Output = Result<Exit, Error>>) -> Result<Exit, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Error::Prepare)?
        .block_on(verb)
}

/// Runs a verb that talks to a daemon. One thread is enough for one connection.
fn block_on(verb: impl Future<Output = Result<Exit, Error>>) -> Result<Exit, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Prepare)?
        .block_on(verb)
}
