//! `clutch serve`: the daemon in the foreground.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clutch_supervisor::config::Config;
use clutch_supervisor::socket::make_directory;
use clutch_supervisor::{Activated, ServeError, ServeOptions, ServeReady};
use serde_json::json;

use crate::args::Global;
use crate::commands::config::named_or_here;
use crate::connect::{self, Socket};
use crate::error::Error;
use crate::exit::Exit;
use crate::logging::{self, LogFormat};
use crate::output;

/// Run the daemon: keep the configured pools, answer calls
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The daemon stays in the foreground and logs to standard error, or where [daemon.log] says;
CLUTCH_LOG sets what (error, warn, info, debug, trace; info without). SIGTERM or Ctrl-C stops it:
running calls may finish; a second one ends them. SIGHUP makes it read its configuration anew, as
`clutch reload` does.

The socket is --socket or CLUTCH_SOCKET, else the one in the configuration, else one for each user.

Examples:
  clutch config default > clutch.toml
  clutch serve
  clutch serve --config prod.toml --log-format json 2>> clutch.log
  CLUTCH_LOG=debug clutch serve")]
pub(crate) struct Args {
    /// The configuration [default: ./clutch.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How the log is written [default: what the configuration says, else text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit, Error> {
    // First thing: what was handed over is known by the number of its descriptor.
    let activated = Activated::take().map_err(ServeError::from)?;
    let config = named_or_here(args.config.as_deref())?.ok_or(Error::NoConfig)?;
    let named = Socket::of(global);
    let socket = match &activated {
        Some(activated) => {
            let named = named.named().or_else(|| config.daemon.socket.clone());
            activated.must_be(named.as_deref()).map_err(ServeError::from)?;
            activated.path().to_owned()
        }
        None => socket(&named, &config)?,
    };
    let level = if global.verbose { "debug" } else { &config.daemon.log.level };
    let format = args.log_format.unwrap_or(config.daemon.log.format.into());
    let log = logging::start(format, level)?;
    let spares = config.pools.iter().map(|(name, pool)| (name.clone(), pool.spares)).collect();
    let options = ServeOptions { config, socket, activated, guardian: connect::guardian() };
    clutch_supervisor::serve(options, |ready| {
        let (text, json) = (ready_text(ready, &spares), ready_json(ready, &spares));
        log.line(&text, &json);
    })?;
    Ok(Exit::Ok)
}

fn socket(named: &Socket, config: &Config) -> Result<PathBuf, Error> {
    let path = match named.named().or_else(|| config.daemon.socket.clone()) {
        Some(path) => path,
        None => named.path()?,
    };
    // Nobody was asked to make the default directory, so it is made here, also when it was named.
    let is_default = clutch_client::default_socket().is_ok_and(|default| default == path);
    if is_default && std::env::var_os("CLUTCH_SOCKET").is_none() {
        make_directory(&path).map_err(ServeError::from)?;
    }
    Ok(path)
}

/// How many workers each pool keeps ready beyond those that have calls.
type Spares = BTreeMap<String, u32>;

fn ready_text(ready: &ServeReady, spares: &Spares) -> String {
    let pools: Vec<String> = ready
        .pools
        .iter()
        .map(|(pool, workers, python)| {
            let plural = if *workers == 1 { "" } else { "s" };
            let spares = match spares.get(pool) {
                None | Some(0) => String::new(),
                Some(1) => " and 1 spare".to_owned(),
                Some(spares) => format!(" and {spares} spares"),
            };
            format!("{pool} ({workers} worker{plural}{spares}, Python {python})")
        })
        .collect();
    let plural = if pools.len() == 1 { "" } else { "s" };
    let mut text = format!(
        "clutch is ready at {} (pid {}), pool{plural} {}",
        ready.socket.display(),
        ready.pid,
        pools.join(", ")
    );
    for pool in &ready.building {
        text += &format!("\npool {pool} builds its environment; calls wait for it");
    }
    for (pool, reason) in &ready.broken {
        text += &format!("\npool {pool} is broken: {}", output::escape_block(reason));
    }
    text
}

fn ready_json(ready: &ServeReady, spares: &Spares) -> serde_json::Value {
    let pools: Vec<_> = ready
        .pools
        .iter()
        .map(|(pool, workers, python)| {
            let spares = spares.get(pool).copied().unwrap_or(0);
            json!({"name": pool, "workers": workers, "spares": spares, "python": python})
        })
        .collect();
    let broken: Vec<_> =
        ready.broken.iter().map(|(pool, reason)| json!({"name": pool, "reason": reason})).collect();
    json!({
        "level": "INFO",
        "message": "ready",
        "socket": ready.socket.to_string_lossy(),
        "pid": ready.pid,
        "pools": pools,
        "broken": broken,
        "building": ready.building,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_says_where_who_and_what() {
        let mut ready = ServeReady {
            socket: "/run/c.sock".into(),
            pid: 7,
            pools: vec![("cpu".into(), 1, "3.12.1".into()), ("io".into(), 4, "3.8.18".into())],
            broken: Vec::new(),
            building: Vec::new(),
        };
        let spares = Spares::from([("cpu".into(), 0), ("io".into(), 2)]);
        assert_eq!(
            "clutch is ready at /run/c.sock (pid 7), pools cpu (1 worker, Python 3.12.1), \
             io (4 workers and 2 spares, Python 3.8.18)",
            ready_text(&ready, &spares)
        );
        let json = ready_json(&ready, &spares);
        assert_eq!(
            (&json!(4), &json!(2)),
            (&json["pools"][1]["workers"], &json["pools"][1]["spares"])
        );
        assert_eq!(0, json["pools"][0]["spares"]);
        ready.broken.push(("gpu".into(), "there is no python9 on PATH".into()));
        let text = ready_text(&ready, &spares);
        let broken = "\npool gpu is broken: there is no python9 on PATH";
        assert!(text.ends_with(broken), "{text}");
        assert_eq!("gpu", ready_json(&ready, &spares)["broken"][0]["name"]);
    }
}
