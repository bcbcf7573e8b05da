//! `clutch stop`: ask the daemon to stop, and wait until it has.

use std::path::Path;
use std::time::{Duration, Instant};

use clutch_client::{Client, ConnectOptions, Stop};

use crate::args;
use crate::connect::{self, Socket};
use crate::error::Error;
use crate::exit::Exit;
use crate::output;

/// How often the socket is looked at, once the connection is closed.
const STEP: Duration = Duration::from_millis(10);

/// Stop the daemon, and wait until it is gone
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "\
New calls are refused at once; running ones may finish within the daemon's stop_grace.

Examples:
  clutch stop
  clutch stop --now             end running calls too
  clutch stop --wait 5m         for calls that take long; exit code 4 when that is not enough")]
pub(crate) struct Args {
    /// End running calls too
    #[arg(long)]
    now: bool,
    /// How long to wait until the daemon is gone
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = args::duration)]
    wait: Duration,
}

pub(crate) async fn run(args: Args, socket: &Socket) -> Result<Exit, Error> {
    let path = socket.path()?;
    let client = connect::daemon(socket).await?;
    let pid = client.welcome().pid;
    let end = Instant::now() + args.wait;
    let how = if args.now { Stop::Now } else { Stop::Graceful };
    client.stop(how).await?;
    let gone = async {
        client.closed().await;
        let mut steps = tokio::time::interval(STEP);
        while is_there(&path, pid).await {
            steps.tick().await;
        }
    };
    match tokio::time::timeout_at(end.into(), gone).await {
        Ok(()) => {
            output::note(&format!("the daemon (pid {pid}) has stopped"));
            Ok(Exit::Ok)
        }
        Err(_) => Err(Error::StillStopping { pid, socket: path, wait: args.wait }),
    }
}

/// Whether the daemon still holds what a new one would need: its socket, or the lock beside it.
async fn is_there(path: &Path, pid: u32) -> bool {
    let options = ConnectOptions::new(path).timeout(STEP * 10);
    if let Ok(client) = Client::connect_with(options).await {
        // Another one may have taken its place already.
        return client.welcome().pid == pid;
    }
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    // A daemon that was killed leaves both, but holds neither.
    let files = path.exists() || Path::new(&lock).exists();
    files && Path::new("/proc").join(pid.to_string()).exists()
}
