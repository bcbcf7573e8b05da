//! `clutch reload`: have the daemon read its configuration anew.

use clutch_protocol::reload::{ReloadResult, Reloaded};

use crate::connect::{self, Socket};
use crate::error::Error;
use crate::exit::Exit;
use crate::output;

/// Make the daemon read its configuration anew
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "\
Pools that have not changed are not touched; new limits hold at once; where the workers themselves
have to be others, they are replaced one by one, new ones first, and no call is refused or lost. A
configuration that is wrong, or whose workers do not start, changes nothing: exit code 8.

Examples:
  clutch reload                 wait until every worker is replaced
  clutch reload --no-wait       until it is clear that the configuration is right
  clutch reload --json          what changed, for programs")]
pub(crate) struct Args {
    /// Do not wait until the workers are replaced
    #[arg(long)]
    no_wait: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, socket: &Socket) -> Result<Exit, Error> {
    let client = connect::daemon(socket).await?;
    let reloaded = client.reload(!args.no_wait).await?;
    if args.json {
        let json = serde_json::to_string(&reloaded).expect("a report is plain data");
        output::page(&(json + "\n")).map_err(Error::Output)?;
        return Ok(exit(reloaded.result));
    }
    match reloaded.result {
        ReloadResult::Done | ReloadResult::UnderWay => {
            output::page(&output::escape_block(&text(&reloaded))).map_err(Error::Output)?;
            if !reloaded.message.is_empty() {
                output::note(&reloaded.message);
            }
        }
        ReloadResult::Wrong => {
            output::rendered(&output::escape_block(&reloaded.message));
            output::error("the daemon cannot reload, as shown above; nothing was changed");
        }
        ReloadResult::Failed | ReloadResult::Refused => {
            output::error_with_details(&reloaded.message);
        }
    }
    Ok(exit(reloaded.result))
}

const fn exit(result: ReloadResult) -> Exit {
    match result {
        ReloadResult::Done | ReloadResult::UnderWay => Exit::Ok,
        ReloadResult::Wrong | ReloadResult::Failed => Exit::Configuration,
        ReloadResult::Refused => Exit::Refused,
    }
}

fn text(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for (name, change) in &reloaded.pools {
        text += &format!("pool {name}: {change}\n");
    }
    for key in &reloaded.daemon {
        text += &format!("daemon.{key}: changed\n");
    }
    if reloaded.result == ReloadResult::UnderWay {
        text += "workers are being replaced; `clutch status` shows how far that is\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clutch_protocol::reload::PoolChange;

    use super::*;

    #[test]
    fn the_answer_says_what_became_of_each_pool() {
        let pools = BTreeMap::from([
            ("a".to_owned(), PoolChange::Replaced { workers: 4 }),
            ("b".to_owned(), PoolChange::Removed),
        ]);
        let (result, message) = (ReloadResult::Done, String::new());
        let reloaded = Reloaded { result, message, pools, daemon: vec!["stop_grace".into()] };
        let expected = "pool a: replaced 4 workers\npool b: removed\ndaemon.stop_grace: changed\n";
        assert_eq!(expected, text(&reloaded));
    }
}
