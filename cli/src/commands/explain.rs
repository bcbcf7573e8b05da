//! `clutch explain`: the life of a call, from its arrival to its answer.

use std::fmt::Write as _;

use clutch_client::{Ahead, Ancestor, Explanation, Step};
use clutch_supervisor::logs::entry::rfc3339;

use crate::args::CallArgs;
use crate::error::Error;
use crate::exit::Exit;
use crate::{connect, json, output};

/// Tell the life of a call: when it came, what it waited for, who ran it, how it ended
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "\
The number is the one in error messages (call 17), in the log, in `clutch workers`, and in what
`clutch call --report` prints. The daemon remembers the last twenty thousand calls or so.

Exit code 2 when there never was such a call, 7 when it is forgotten.

Examples:
  clutch explain 17
  clutch explain 17 --json | jq '.steps[] | {at_us, what}'")]
pub(crate) struct Args {
    #[command(flatten)]
    of: CallArgs,
}

pub(crate) async fn run(args: Args, socket: &connect::Socket) -> Result<Exit, Error> {
    let client = connect::daemon(socket).await?;
    let life = client.explain(args.of.call).await?;
    let text = if args.of.json {
        let json = serde_json::to_string(&life).expect("an explanation is plain data");
        json::pretty(&json) + "\n"
    } else {
        output::escape_block(&page(&life)).into_owned()
    };
    output::page(&text).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

fn page(life: &Explanation) -> String {
    let function = match &*life.function {
        "" => "a function whose name is forgotten".to_owned(),
        function => output::escape_line(function).into_owned(),
    };
    let state = match (&life.outcome, &*life.state) {
        (Some(outcome), state) => format!("{state}: {outcome}"),
        (None, "answered") => "answered; how is forgotten".to_owned(),
        (None, state) => state.to_owned(),
    };
    let pool = match life.pool.as_str() {
        "" => "a pool that was removed".to_owned(),
        pool => format!("pool {pool}"),
    };
    let mut text = format!("call {}: {function} in {pool}, {state}\n", life.call);
    if let Some(ms) = life.arrived_unix_ms {
        let _ = writeln!(text, "came in at {}", rfc3339(ms));
    }
    if life.beginning_lost {
        text.push_str("its beginning is forgotten; this is what is still known\n");
    }
    if !life.chain.is_empty() {
        let _ = writeln!(text, "called by {}", chain(&life.chain));
    }
    if let Some(phases) = &life.phases {
        let _ = writeln!(text, "so far: {phases}");
    }
    if !life.waits_for.is_empty() {
        let calls: Vec<_> = life.waits_for.iter().map(u64::to_string).collect();
        let _ = writeln!(text, "it waits for its nested calls {}", calls.join(", "));
    }
    let is_retried = life.steps.iter().any(|step| step.what == "retried");
    for step in &life.steps {
        let told = told(step, step.attempt.filter(|_| is_retried));
        let _ = writeln!(text, "{:>12}  {told}", format!("+{}", micros(step.at_us)));
    }
    if !life.ahead.is_empty() {
        text.push_str("while it waited, the workers were busy with\n");
        for one in &life.ahead {
            let _ = writeln!(text, "{:>12}  {}", one.worker.to_string(), ahead(one));
        }
    }
    if life.ahead_left_out > 0 {
        let _ = writeln!(text, "{:>12}  and {} more calls", "", life.ahead_left_out);
    }
    text
}

/// The calls that wait for one another, the first one first.
fn chain(calls: &[Ancestor]) -> String {
    let told = calls.iter().map(|one| {
        let function = output::escape_line(&one.function);
        format!("call {} ({function} in pool {})", one.call, one.pool)
    });
    told.collect::<Vec<_>>().join(" -> ")
}

/// A step in words; the attempt is named where there are several.
fn told(step: &Step, attempt: Option<u32>) -> String {
    let worker = match (step.worker, step.pid) {
        (Some(worker), Some(pid)) => format!("worker {worker} (pid {pid})"),
        (Some(worker), None) => format!("worker {worker}"),
        (None, _) => "a worker".to_owned(),
    };
    let detail = output::escape_line(&step.detail);
    match &*step.what {
        "arrived" => "it came in".to_owned(),
        "nested" => format!("{detail} waits for it"),
        "queued" => format!("it had to wait: {detail}"),
        "assigned" => match attempt {
            Some(attempt) => format!("given to {worker}, attempt {attempt}"),
            None => format!("given to {worker}"),
        },
        "warned" => format!("{worker} was told that it is not wanted any more"),
        "interrupted" => format!("{worker} was told to interrupt it"),
        "moved_back" => format!("it had not begun on {worker}; it waits again"),
        "retried" => match attempt {
            Some(attempt) => format!("attempt {attempt} failed on {worker}; there will be another"),
            None => format!("the attempt on {worker} failed; there will be another"),
        },
        "unwanted" => detail.into_owned(),
        "answered" => format!("answered: {detail}"),
        "late_answer" => format!("{worker} gave it up, and is free"),
        "worker_launched" => format!("{worker} is being started"),
        "worker_ready" => format!("{worker} is ready"),
        "worker_stopping" => format!("{worker} was told to go: {detail}"),
        "worker_died" => format!("{worker} ended: {detail}"),
        other => format!("{} {detail}", output::escape_line(other)),
    }
}

fn ahead(one: &Ahead) -> String {
    let function = match &*one.function {
        "" => "-".to_owned(),
        function => output::escape_line(function).into_owned(),
    };
    let until = match one.until_us {
        Some(until) => format!("until {}", signed(until)),
        None => "and still is".to_owned(),
    };
    format!("call {} ({function}) from {} {until}", one.call, signed(one.from_us))
}

/// A time before or after the call came in.
fn signed(us: i64) -> String {
    let sign = if us < 0 { '-' } else { '+' };
    format!("{sign}{}", micros(us.unsigned_abs()))
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn micros(us: u64) -> String {
    match us {
        ..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use clutch_protocol::message::{Phases, WorkerId};

    use super::*;

    const WORKER: WorkerId = WorkerId { slot: 0, generation: 2 };

    fn step(at_us: u64, what: &str, detail: &str, worker: Option<WorkerId>) -> Step {
        let pid = worker.map(|_| 4711);
        Step { at_us, what: what.into(), detail: detail.into(), worker, pid, attempt: None }
    }

    #[test]
    fn a_life_is_told_step_by_step() {
        let life = Explanation {
            call: 17,
            pool: "default".into(),
            function: "m:f\n\x1b[2J".into(),
            state: "answered".into(),
            outcome: Some("TimedOut".into()),
            arrived_unix_ms: Some(951_782_400_001),
            beginning_lost: false,
            steps: vec![
                step(0, "arrived", "m:f", None),
                step(3, "queued", "one of 2 calls that wait", None),
                step(1_500, "assigned", "", Some(WORKER)),
                step(2_000_000, "answered", "TimedOut", None),
                step(2_000_001, "of the future", "x", Some(WORKER)),
            ],
            ahead: vec![
                Ahead {
                    call: 15,
                    function: "m:g".into(),
                    worker: WORKER,
                    from_us: -2_000,
                    until_us: Some(1_499),
                },
                Ahead {
                    call: 16,
                    function: String::new(),
                    worker: WorkerId { slot: 1, generation: 1 },
                    from_us: 10,
                    until_us: None,
                },
            ],
            ahead_left_out: 3,
            chain: vec![Ancestor { call: 12, pool: "web".into(), function: "m:g".into() }],
            waits_for: vec![18, 19],
            phases: Some(Phases { queue_us: 3, start_us: 1_200, run_us: 2_000_000 }),
        };
        let expected = "\
call 17: m:f\\n\\x1b[2J in pool default, answered: TimedOut
came in at 2000-02-29T00:00:00.001Z
called by call 12 (m:g in pool web)
so far: queue 3 us, start 1.2 ms, run 2.0 s
it waits for its nested calls 18, 19
       +0 us  it came in
       +3 us  it had to wait: one of 2 calls that wait
     +1.5 ms  given to worker 0.2 (pid 4711)
      +2.0 s  answered: TimedOut
      +2.0 s  of the future x
while it waited, the workers were busy with
         0.2  call 15 (m:g) from -2.0 ms until +1.5 ms
         1.1  call 16 (-) from +10 us and still is
              and 3 more calls
";
        assert_eq!(expected, page(&life));
    }

    #[test]
    fn moments_are_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_767_225_599_000, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(text, rfc3339(ms));
        }
    }
}
