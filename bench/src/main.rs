//! Measurements of a release build, beside its peers where there are any.
//!
//! - `cargo run --release -p clutch-bench -- [ROUNDS] [CALLS]`: what a null call costs, beside
//!   `ProcessPoolExecutor` (default 15 rounds of 2000 calls).
//! - `cargo run --release -p clutch-bench -- supervision [SECONDS]`: what callers notice of
//!   workers that die, are replaced and are fought over (default 60 seconds of kills).
//! - `cargo run --release -p clutch-bench -- map [ITEMS]`: what a map costs for each item, beside
//!   `multiprocessing.Pool.map` (default 1000000 items), and how near its schedule is to the ideal.
//! - `cargo run --release -p clutch-bench -- map-file [GIB]`: a function over the chunks of a file,
//!   beside a plain Python loop (default 1 GiB).
//!
//! Needs `target/release/clutch` (`cargo build --release`) and a `python3`.

use std::error::Error;

mod calls;
mod daemon;
mod map;
mod map_file;
mod supervision;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| {
        args.get(index).map_or(Ok(default), |text| text.parse::<u64>())
    };
    if args.first().is_some_and(|first| first == "supervision") {
        return supervision::run(std::time::Duration::from_secs(number(1, 60)?));
    }
    if args.first().is_some_and(|first| first == "map") {
        return map::run(number(1, 1_000_000)?);
    }
    if args.first().is_some_and(|first| first == "map-file") {
        return map_file::run(number(1, 1)?);
    }
    calls::run(usize::try_from(number(0, 15)?)?, usize::try_from(number(1, 2000)?)?)
}

/// The value below which `per_mille` thousandths of the samples are.
fn percentile(samples: &[f64], per_mille: usize) -> f64 {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() - 1) * per_mille / 1000]
}
