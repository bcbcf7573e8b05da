//! The first result from nothing: `clutch call --local`, beside a python that does nothing, and a
//! `ProcessPoolExecutor` in a new interpreter.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use crate::board::{Row, Yardstick, play, print};
use crate::daemon::{binary, program};
use crate::{Outcome, milliseconds};

/// What a user of the standard executor writes.
const EXECUTOR: &str = "
import math
from concurrent.futures import ProcessPoolExecutor
if __name__ == '__main__':
    with ProcessPoolExecutor(1) as executor:
        print(executor.submit(math.sqrt, 2).result())
";

/// So many rounds.
pub(crate) fn run(rounds: usize) -> Outcome<()> {
    let binary = binary()?;
    let directory = tempfile::tempdir()?;
    let script = directory.path().join("executor.py");
    std::fs::write(&script, EXECUTOR)?;
    let script = script.to_string_lossy().into_owned();
    let python = Path::new("python3");
    let mut tables = [vec![
        Row::new("`python3 -c pass`", || time(python, &["-c", "pass"], "")),
        Row::new("`clutch call --local math:sqrt 2`", || {
            time(&binary, &["call", "--local", "math:sqrt", "2"], "1.4142135623730951")
        }),
        Row::new("a script with a `ProcessPoolExecutor`", || {
            time(python, &[&script], "1.4142135623730951")
        }),
    ]];
    play(&mut tables, rounds)?;
    let [rows] = &tables;
    print("from cold to the end", rows, &[Yardstick::of("`python3 -c pass`", &[&rows[0]])])
}

/// How long a program takes from its start to its end, in milliseconds.
fn time(path: &Path, args: &[&str], says: &str) -> Outcome<f64> {
    let start = Instant::now();
    let output = program(path).args(args).stdin(Stdio::null()).output()?;
    let took = milliseconds(start);
    match output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == says {
        true => Ok(took),
        false => Err(format!("{}: {output:?}", path.display()).into()),
    }
}
