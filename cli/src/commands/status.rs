//! `clutch status`: what everyone is doing, as text for people or JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clutch_protocol::status::{
    Building, DaemonStatus, PoolStatus, Status, WorkerCall, WorkerStatus,
};
use comfy_table::{CellAlignment, Table, presets};

use crate::commands::pythons::described;
use crate::error::Error;
use crate::exit::Exit;
use crate::{connect, json, output};

/// Show the pools, their workers, and what each is doing
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  clutch status
  clutch status --json | jq '.pools[].workers[].state'
  clutch status --schema > status.schema.json   docs/STATUS.md explains each field")]
pub(crate) struct Args {
    /// Print everything there is as JSON
    #[arg(long)]
    json: bool,
    /// Print the JSON schema of that instead; needs no daemon
    #[arg(long, conflicts_with = "json")]
    schema: bool,
}

pub(crate) async fn run(args: Args, socket: &connect::Socket) -> Result<Exit, Error> {
    if args.schema {
        let schema = clutch_protocol::status::schema();
        let text = serde_json::to_string_pretty(&schema).expect("a schema is plain data");
        output::page(&(text + "\n")).map_err(Error::Output)?;
        return Ok(Exit::Ok);
    }
    let client = connect::daemon(socket).await?;
    let text = if args.json {
        let json = client.status_json().await.map_err(Error::from)?;
        json::pretty(&String::from_utf8_lossy(&json)) + "\n"
    } else {
        let status = client.status().await.map_err(Error::from)?;
        output::escape_block(&page(&status)).into_owned()
    };
    output::page(&text).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

fn page(status: &Status) -> String {
    let mut page = daemon_line(&status.daemon);
    for pool in &status.pools {
        page.push('\n');
        page.push_str(&pool_section(pool));
    }
    page
}

fn daemon_line(daemon: &DaemonStatus) -> String {
    let mut line = format!(
        "clutch {} (pid {}) is {}, up {}, {}, {} descriptors",
        daemon.version,
        daemon.pid,
        daemon.state,
        span(daemon.uptime_ms),
        count(daemon.clients, "client"),
        daemon.descriptors,
    );
    if !daemon.socket.is_empty() {
        let _ = write!(line, ", at {}", one_line(&daemon.socket));
    }
    line.push('\n');
    line + &counters("counters", &daemon.counters)
}

fn pool_section(pool: &PoolStatus) -> String {
    let mut text = format!("pool {} ({}) is {}", pool.name, one_line(&pool.python), pool.state);
    if !pool.reason.is_empty() {
        let _ = write!(text, ": {}", one_line(&pool.reason));
    }
    let _ = write!(
        text,
        "\n  {} running, {} of {} queued",
        pool.running, pool.queued, pool.queue_limit
    );
    if pool.queued > 0 {
        let _ = write!(text, ", the oldest for {}", span(pool.queued_oldest_ms));
    }
    let wanted = match (pool.spares, pool.extra) {
        (0, 0) => count(pool.workers_wanted.into(), "worker"),
        _ => format!("{} workers", super::pool::wanted(pool)),
    };
    let _ = writeln!(text, "; {wanted} wanted");
    if let Some(facts) = &pool.interpreter {
        let at = &facts.executable;
        let _ = writeln!(text, "  {}", one_line(&format!("{}, at {at}", described(facts))));
    }
    if let Some(Building { made_of, since_ms, phase, line }) = &pool.building {
        let said = if line.is_empty() { String::new() } else { format!(": {line}") };
        let building = format!("builds its {made_of} for {}: {phase}{said}", span(*since_ms));
        let _ = writeln!(text, "  {}", one_line(&building));
    }
    for line in worker_table(&pool.workers).lines() {
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    for run in &pool.runs {
        let (pid, command) = (run.pid, one_line(&run.command));
        let _ = writeln!(text, "  runs for {}: {command} (pid {pid})", span(run.since_ms));
    }
    text.push_str(&counters("  counters", &pool.counters));
    if let Some(death) = &pool.last_death {
        let first_line = death.to_string();
        let first_line = first_line.lines().next().unwrap_or_default();
        let _ = writeln!(text, "  last death: {}", one_line(first_line));
    }
    text
}

/// Why a worker is in its state, and how far the call is that its line names.
pub(super) fn reason(worker: &WorkerStatus) -> String {
    let named = worker.calls.iter().find(|call| Some(call.call) == worker.call);
    let parts = [worker.reason.clone(), named.map_or_else(String::new, how_far)];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

/// How far a call has come, as far as that is known: `41 % (rows read); 120 items sent`.
pub(super) fn how_far(call: &WorkerCall) -> String {
    let told = call.progress.as_ref().map(|told| {
        let number = match told.total {
            Some(total) if total > 0.0 => format!("{:.0} %", (told.done / total * 100.0).floor()),
            _ => told.done.to_string(),
        };
        let message = &told.message;
        if message.is_empty() { number } else { format!("{number} ({message})") }
    });
    let items = call.items.map(|items| {
        let plural = if items == 1 { "" } else { "s" };
        let waits = if call.waits_for_reader { ", waits for its reader" } else { "" };
        format!("{items} item{plural} sent{waits}")
    });
    told.into_iter().chain(items).collect::<Vec<_>>().join("; ")
}

/// The function of the call a worker has; of several that of the one that is named, and how many
/// more there are.
pub(super) fn functions(worker: &WorkerStatus) -> String {
    let function = worker.function.as_deref().unwrap_or_default();
    match worker.calls.len() {
        0 | 1 => function.to_owned(),
        count => format!("{function} (+{})", count - 1),
    }
}

fn worker_table(workers: &[WorkerStatus]) -> String {
    let head =
        ["worker", "state", "since", "pid", "python", "served", "call", "function", "reason"];
    let rows = workers.iter().map(|worker| {
        vec![
            format!("{}.{}", worker.id.slot, worker.id.generation),
            state(worker),
            span(worker.since_ms),
            dash(&match worker.pid {
                0 => String::new(),
                pid => pid.to_string(),
            }),
            dash(&worker.python),
            worker.calls_served.to_string(),
            dash(&worker.call.map_or_else(String::new, |call| call.to_string())),
            dash(&functions(worker)),
            one_line(&reason(worker)),
        ]
    });
    table(&head, &[2, 3, 5, 6], rows.collect())
}

/// Text in columns, some of them aligned to the right.
pub(crate) fn table(head: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head.to_vec());
    table.add_rows(rows);
    for right in right {
        if let Some(column) = table.column_mut(*right) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Text for a cell; a dash for none.
pub(crate) fn dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => one_line(text),
    }
}

/// What a worker is doing, as far as that says more than its state.
fn state(worker: &WorkerStatus) -> String {
    match worker.activity.as_str() {
        "" | "idle" | "starting" | "running" => worker.state.clone(),
        activity => format!("{} ({})", worker.state, one_line(activity)),
    }
}

/// The counters that have counted anything, in one line.
fn counters(title: &str, counters: &BTreeMap<String, u64>) -> String {
    let counted: Vec<String> = counters
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if counted.is_empty() {
        return String::new();
    }
    format!("{title}: {}\n", counted.join(", "))
}

fn count(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// A time span with the two units that matter.
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3_600 => format!("{}m{}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3_600 % 24),
    }
}

/// Text from elsewhere, so that it cannot break a table or a line.
fn one_line(text: &str) -> String {
    output::escape_line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use clutch_protocol::message::WorkerId;

    use super::*;

    fn worker(slot: u32, state: &str, function: Option<&str>) -> WorkerStatus {
        WorkerStatus {
            id: WorkerId { slot, generation: 3 },
            state: state.into(),
            reason: String::new(),
            since_ms: 61_000,
            pid: if state == "backoff" { 0 } else { 4711 },
            python: "3.12.1".into(),
            function: function.map(Into::into),
            call: function.map(|_| 17),
            call_ms: function.map(|_| 61_000),
            chain: Vec::new(),
            waits_for: 0,
            calls_served: 12,
            activity: if state == "busy" { "holding_gil" } else { "" }.into(),
            rss_bytes: 0,
            cpu_ms: 0,
            imports: Vec::new(),
            lanes: 1,
            calls: Vec::new(),
        }
    }

    fn status() -> Status {
        let counters = |pairs: &[(&str, u64)]| {
            let pairs = pairs.iter().map(|(name, count)| ((*name).to_owned(), *count));
            pairs.collect()
        };
        Status {
            daemon: DaemonStatus {
                version: "0.1.0".into(),
                pid: 99,
                uptime_ms: 90_061_000,
                state: "running".into(),
                socket: "/run/clutch.sock".into(),
                clients: 1,
                descriptors: 17,
                descriptors_attached: 0,
                attached_bytes: 0,
                handles: 0,
                handle_bytes: 0,
                handle_descriptors: 0,
                counters: counters(&[("accepted", 5), ("refused.version", 0)]),
            },
            pools: vec![PoolStatus {
                name: "default".into(),
                state: "running".into(),
                reason: String::new(),
                python: "python3".into(),
                interpreter: None,
                workers_wanted: 2,
                workers_min: 2,
                workers_max: 2,
                spares: 0,
                extra: 0,
                threads: None,
                workers: vec![
                    worker(0, "busy", Some("m:f\x1b[2J\nforged")),
                    worker(1, "backoff", None),
                ],
                queued: 4,
                queued_oldest_ms: 1_500,
                running: 1,
                queue_limit: 4096,
                runs: Vec::new(),
                memory_bound: String::new(),
                memory_bound_reason: String::new(),
                last_death: None,
                counters: counters(&[("answered.ok", 12), ("deaths.exited", 0)]),
                building: Some(Building {
                    made_of: "requirements = [\"a\"]".into(),
                    since_ms: 12_000,
                    phase: "downloading".into(),
                    line: "Downloading a".into(),
                }),
            }],
        }
    }

    #[test]
    fn a_page_shows_what_matters_and_nothing_that_is_zero() {
        let page = page(&status());
        assert!(
            page.starts_with("clutch 0.1.0 (pid 99) is running, up 1d1h, 1 client, 17 desc"),
            "{page}"
        );
        for part in [
            "pool default (python3) is running\n",
            "  1 running, 4 of 4096 queued, the oldest for 1s; 2 workers wanted\n",
            "\ncounters: accepted 5\n",
            "  builds its requirements = [\"a\"] for 12s: downloading: Downloading a\n",
            "counters: answered.ok 12\n",
            "0.3",
            "1m1s",
            "busy (holding_gil)",
        ] {
            assert!(page.contains(part), "{part:?} in {page}");
        }
        assert!(!page.contains("refused.version") && !page.contains("deaths"), "{page}");
    }

    #[test]
    fn a_worker_is_one_row_whatever_its_function_is_called_f170() {
        let page = page(&status());
        let rows = page.lines().filter(|line| line.contains("3.12.1")).count();
        assert_eq!(2, rows, "{page}");
        assert!(page.contains("m:f\\x1b[2J\\nforged") && !page.contains('\x1b'), "{page}");
    }

    #[test]
    fn spans_have_two_units() {
        let expected = [
            (0, "0ms"),
            (999, "999ms"),
            (59_999, "59s"),
            (3_599_000, "59m59s"),
            (3_600_000, "1h0m"),
            (90_000_000, "1d1h"),
        ];
        for (ms, text) in expected {
            assert_eq!(text, span(ms));
        }
    }
}
