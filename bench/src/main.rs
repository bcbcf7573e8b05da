//! Measurements of a release build, beside its peers where there are any.
//!
//! - `cargo run --release -p clutch-bench -- [ROUNDS] [CALLS]`: what a null call costs, beside
//!   `ProcessPoolExecutor` and a bare forwarder (default 15 rounds of 2000 calls).
//! - `cargo run --release -p clutch-bench -- supervision [SECONDS]`: what callers notice of
//!   workers that die, are replaced and are fought over (default 60 seconds of kills).
//! - `cargo run --release -p clutch-bench -- arrays [ROUNDS] [MIB]`: what a large array costs,
//!   beside `ProcessPoolExecutor`, loky, Ray and one copy (default 15 rounds of 100 MB).
//! - `cargo run --release -p clutch-bench -- curve [MAX_MIB]`: what a call costs by the size of
//!   what it is given and gives, in the frame and beside it (default up to 1024 MiB).
//! - `cargo run --release -p clutch-bench -- flight [CALLS] [ROUNDS]`: null calls in flight
//!   together, beside `multiprocessing.Pool` and `ProcessPoolExecutor` (default 9 rounds of 20000).
//! - `cargo run --release -p clutch-bench -- mixed [CALLS] [ROUNDS]`: what short calls wait where
//!   one in eight is long, beside an ideal queue (default 5 rounds of 400).
//! - `cargo run --release -p clutch-bench -- scaling [ROUNDS]`: calls that need a processor, on
//!   one worker and on as many as there are processors (default 9 rounds).
//! - `cargo run --release -p clutch-bench -- cold [ROUNDS]`: from nothing to the first result,
//!   beside a python that does nothing (default 25 rounds).
//! - `cargo run --release -p clutch-bench -- map [ITEMS]`: what a map costs for each item, beside
//!   `multiprocessing.Pool.map` (default 1000000 items), and how near its schedule is to the ideal.
//! - `cargo run --release -p clutch-bench -- map-file [GIB]`: a function over the chunks of a file,
//!   beside a plain Python loop (default 1 GiB).
//!
//! `docs/PERFORMANCE.md` has what came out.
//!
//! Needs `target/release/clutch` (`cargo build --release`) and a `python3`.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod arrays;
mod board;
mod calls;
mod cold;
mod curve;
mod daemon;
mod flight;
mod forward;
mod machine;
mod map;
mod map_file;
mod mixed;
mod peer;
mod peers;
mod plot;
mod scaling;
mod supervision;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "usage: clutch-bench [ROUNDS] [CALLS] | supervision [SECONDS] | \
                     arrays [ROUNDS] [MIB] | curve [MAX_MIB] | map [ITEMS] | map-file [GIB]";

#[expect(clippy::print_stderr, reason = "it is a program of its own, and has no log")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match measure(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for by an argument: a number, or the default where there is none.
fn number_of(args: &[String], index: usize, default: u64) -> Result<u64, String> {
    let number = |text: &String| {
        text.parse().map_err(|_| match index {
            0 => format!("'{text}' is neither a measurement nor a whole number; {USAGE}"),
            _ => format!("'{text}' is no whole number; {USAGE}"),
        })
    };
    args.get(index).map_or(Ok(default), number)
}

fn measure(args: &[String]) -> Outcome<()> {
    let number = |index, default| number_of(args, index, default);
    let count = |index, default| Outcome::Ok(usize::try_from(number(index, default)?)?);
    match args.first().map(String::as_str) {
        Some("supervision") => supervision::run(Duration::from_secs(number(1, 60)?)),
        Some("arrays") => arrays::run(count(1, 15)?, args.get(2).map(|_| count(2, 0)).transpose()?),
        Some("curve") => curve::run(number(1, 1024)? << 20),
        Some("map") => map::run(number(1, 1_000_000)?),
        Some("map-file") => map_file::run(number(1, 1)?),
        Some("flight") => flight::run(count(1, 20_000)?, count(2, 9)?),
        Some("mixed") => mixed::run(count(1, 400)?, count(2, 5)?),
        Some("scaling") => scaling::run(count(1, 9)?),
        Some("cold") => cold::run(count(1, 25)?),
        Some(forward::WORD) => forward::run(),
        _ => calls::run(count(0, 15)?, count(1, 2000)?),
    }
}

/// How long it is since then, in milliseconds.
fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The value below which `per_mille` thousandths of the samples are.
fn percentile(samples: &[f64], per_mille: usize) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() - 1) * per_mille / 1000]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_argument_is_named_and_told_what_there_is() {
        let args: Vec<String> = ["fast", "7", "1.5"].map(str::to_owned).to_vec();
        assert_eq!((Ok(7), Ok(9)), (number_of(&args, 1, 5), number_of(&args, 3, 9)));
        for (index, says) in [(0, "'fast' is neither a measurement nor"), (2, "'1.5' is no whole")]
        {
            let told = number_of(&args, index, 5).unwrap_err();
            assert!(told.starts_with(says) && told.ends_with(USAGE), "{told}");
        }
    }
}
