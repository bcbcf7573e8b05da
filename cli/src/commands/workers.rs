//! `clutch workers`: every worker in one table, with the call it runs.

use clutch_protocol::status::{PoolStatus, Status, WorkerCall, WorkerStatus};
use serde_json::json;

use crate::commands::status::{dash, functions, how_far, reason, span, table};
use crate::error::Error;
use crate::exit::Exit;
use crate::{args, connect, json, output};

/// Show every worker, what it is doing, and the call it runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A worker is named by its slot and its generation: 0.3 is the third process in slot 0. The number
under `call` is the one that `clutch explain` and `clutch cancel` take, the slot is the one that
`clutch stack` takes. A worker that runs several calls at once has a line for each.

Examples:
  clutch workers
  clutch workers --pool cpu
  clutch workers --json | jq '.[] | select(.call_ms > 60000) | .call'")]
pub(crate) struct Args {
    /// The workers of this pool only
    #[arg(long, value_name = "NAME", value_parser = args::pool_name)]
    pool: Option<String>,
    /// Print them as a JSON list; docs/STATUS.md explains the fields
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, socket: &connect::Socket) -> Result<Exit, Error> {
    let client = connect::daemon(socket).await?;
    let status = client.status().await.map_err(Error::from)?;
    let pools = pools(&status, args.pool.as_deref())?;
    let text = if args.json { json::pretty(&as_json(&pools)) + "\n" } else { page(&pools) };
    output::page(&text).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

/// The pools that are meant.
fn pools<'a>(status: &'a Status, name: Option<&str>) -> Result<Vec<&'a PoolStatus>, Error> {
    let pools = status.pools.iter();
    let pools: Vec<_> = pools.filter(|pool| name.is_none_or(|name| pool.name == name)).collect();
    if pools.is_empty() {
        let known: Vec<_> = status.pools.iter().map(|pool| pool.name.as_str()).collect();
        let name = name.unwrap_or_default().to_owned();
        return Err(Error::NoSuchPool { name, known: known.join(", ") });
    }
    Ok(pools)
}

fn rows<'a>(
    pools: &'a [&'a PoolStatus],
) -> impl Iterator<Item = (&'a PoolStatus, &'a WorkerStatus)> {
    pools.iter().flat_map(|pool| pool.workers.iter().map(move |worker| (*pool, worker)))
}

fn as_json(pools: &[&PoolStatus]) -> String {
    let workers: Vec<_> = rows(pools)
        .map(|(pool, worker)| {
            let mut fields = serde_json::to_value(worker).expect("a status is plain data");
            fields["pool"] = json!(pool.name);
            fields
        })
        .collect();
    serde_json::to_string(&workers).expect("a status is plain data")
}

fn page(pools: &[&PoolStatus]) -> String {
    let head = [
        "pool", "worker", "pid", "state", "since", "call", "function", "for", "served", "memory",
        "doing", "python", "reason",
    ];
    let rows = rows(pools).flat_map(|(pool, worker)| {
        let own = vec![
            dash(&pool.name),
            worker.id.to_string(),
            dash(&number(u64::from(worker.pid))),
            dash(&worker.state),
            span(worker.since_ms),
            dash(&worker.call.map_or_else(String::new, |call| call.to_string())),
            dash(&functions(worker)),
            dash(&worker.call_ms.map_or_else(String::new, span)),
            worker.calls_served.to_string(),
            dash(&mebibytes(worker.rss_bytes)),
            dash(&worker.activity),
            dash(&worker.python),
            dash(&reason(worker)),
        ];
        let others = worker.calls.iter().filter(|call| Some(call.call) != worker.call);
        std::iter::once(own).chain(others.map(call_row))
    });
    table(&head, &[2, 4, 5, 7, 8, 9], rows.collect())
}

/// A call that a worker has beside the one that its own line names.
fn call_row(call: &WorkerCall) -> Vec<String> {
    let mut row = vec![String::new(); 13];
    row[3] = dash(&call.state);
    row[5] = call.call.to_string();
    row[6] = dash(&call.function);
    row[7] = span(call.call_ms);
    row[12] = dash(&how_far(call));
    row
}

/// Memory in MiB; nothing when it was not looked at.
fn mebibytes(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!("{} MiB", bytes >> 20) }
}

/// A number that is nothing when it is zero.
fn number(number: u64) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(slot: u32, call: Option<u64>) -> WorkerStatus {
        let fields = json!({
            "slot": slot,
            "generation": 3,
            "state": if call.is_some() { "busy" } else { "backoff" },
            "reason": "",
            "since_ms": 61_000,
            "pid": if call.is_some() { 4711 } else { 0 },
            "python": "3.12.1",
            "function": call.map(|_| "m:f\n\x1b[2J"),
            "call": call,
            "call_ms": call.map(|_| 1_500),
            "calls_served": 12,
            "activity": "idle",
            "rss_bytes": 12 << 20,
        });
        serde_json::from_value(fields).unwrap()
    }

    fn pool(name: &str, workers: Vec<WorkerStatus>) -> PoolStatus {
        let fields = json!({
            "name": name,
            "state": "running",
            "reason": "",
            "python": "python3",
            "workers_wanted": 2,
            "workers": workers,
            "queued": 0,
            "queued_oldest_ms": 0,
            "running": 0,
            "queue_limit": 4096,
            "counters": {},
        });
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn each_worker_is_one_line_with_its_call() {
        let pool = pool("default", vec![worker(0, Some(17)), worker(1, None)]);
        let page = page(&[&pool]);
        let lines: Vec<_> = page.lines().collect();
        assert_eq!(3, lines.len(), "{page}");
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(
            [
                "default",
                "0.3",
                "4711",
                "busy",
                "1m1s",
                "17",
                "m:f\\n\\x1b[2J",
                "1s",
                "12",
                "12",
                "MiB",
                "idle",
                "3.12.1",
                "-"
            ],
            words[..]
        );
        assert!(lines[2].contains("1.3") && lines[2].contains("backoff"), "{page}");
        assert!(lines.iter().all(|line| *line == line.trim_end()), "{page:?}");
    }

    #[test]
    fn every_further_call_of_a_worker_has_a_line() {
        let mut worker = worker(0, Some(17));
        let call = |call, state: &str| WorkerCall {
            call,
            function: "m:g".into(),
            state: state.into(),
            call_ms: 2_000,
            waits_for: 0,
            items: Some(2),
            waits_for_reader: call == 19,
            progress: None,
        };
        worker.calls = vec![call(17, "running"), call(19, "interrupting")];
        let page = page(&[&pool("default", vec![worker])]);
        let lines: Vec<_> = page.lines().collect();
        assert!(lines.len() == 3 && lines[1].contains(" (+1)"), "{page}");
        let words: Vec<_> = lines[2].split_whitespace().collect();
        assert_eq!(["interrupting", "19", "m:g", "2s"], words[..4]);
        assert!(lines[1].ends_with("2 items sent"), "{page}");
        assert!(lines[2].ends_with("2 items sent, waits for its reader"), "{page}");
    }

    #[test]
    fn as_json_each_says_its_pool() {
        let pool = pool("default", vec![worker(0, Some(17))]);
        let list: serde_json::Value = serde_json::from_str(&as_json(&[&pool])).unwrap();
        assert_eq!((&json!("default"), &json!(17)), (&list[0]["pool"], &list[0]["call"]));
        assert_eq!((&json!(0), &json!(3)), (&list[0]["slot"], &list[0]["generation"]));
    }
}
