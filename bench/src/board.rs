//! Contenders that take turns: rows of times, and what they are relative to each other.

use std::io::Write;

use crate::{Outcome, percentile};

/// Does a thing once; gives the milliseconds it took.
pub(crate) type Run<'a> = Box<dyn FnMut() -> Outcome<f64> + 'a>;

/// One contender.
pub(crate) struct Row<'a> {
    name: String,
    run: Result<Run<'a>, String>,
    times: Vec<f64>,
}

impl<'a> Row<'a> {
    pub(crate) fn new(name: &str, run: impl FnMut() -> Outcome<f64> + 'a) -> Row<'a> {
        Row { name: name.to_owned(), run: Ok(Box::new(run)), times: Vec::new() }
    }

    /// One that cannot take part, and why.
    pub(crate) fn absent(name: &str, why: &str) -> Row<'a> {
        Row { name: name.to_owned(), run: Err(why.to_owned()), times: Vec::new() }
    }
}

/// Lets every row of every table run once a round, so that whatever else the machine does hits all
/// alike. The first round warms caches and the processor's clock, and is not counted.
pub(crate) fn play(tables: &mut [Vec<Row<'_>>], rounds: usize) -> Outcome<()> {
    for round in 0..=rounds {
        for row in tables.iter_mut().flatten() {
            let Ok(run) = &mut row.run else { continue };
            let time = run().map_err(|error| format!("{}: {error}", row.name))?;
            if round > 0 {
                row.times.push(time);
            }
        }
    }
    Ok(())
}

/// What rows are divided by: a name, and its milliseconds in each round.
pub(crate) struct Yardstick {
    pub(crate) name: &'static str,
    pub(crate) times: Vec<f64>,
}

impl Yardstick {
    pub(crate) fn of(name: &'static str, parts: &[&Row<'_>]) -> Yardstick {
        let rounds = parts.iter().map(|row| row.times.len()).min().unwrap_or(0);
        let sum = |round| parts.iter().map(|row| row.times[round]).sum();
        Yardstick { name, times: (0..rounds).map(sum).collect() }
    }

    /// The median of what `row` took relative to this in the same round.
    fn ratio(&self, row: &Row<'_>) -> f64 {
        let ratios: Vec<f64> =
            row.times.iter().zip(&self.times).map(|(time, unit)| time / unit).collect();
        percentile(&ratios, 500)
    }
}

/// Prints a table as Markdown: medians, their spread, and the ratio to each yardstick.
pub(crate) fn print(title: &str, rows: &[Row<'_>], yardsticks: &[Yardstick]) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "\n| {title} | p50 ms | p10 to p90 |")?;
    for yardstick in yardsticks {
        write!(out, " / {} |", yardstick.name)?;
    }
    writeln!(out, "\n|---|---:|---:|{}", "---:|".repeat(yardsticks.len()))?;
    for row in rows {
        let times = &row.times;
        match &row.run {
            Err(why) => write!(out, "| {} | {why} | |", row.name)?,
            Ok(_) => write!(
                out,
                "| {} | {:.1} | {:.1} to {:.1} |",
                row.name,
                percentile(times, 500),
                percentile(times, 100),
                percentile(times, 900)
            )?,
        }
        for yardstick in yardsticks {
            match times.is_empty() {
                true => write!(out, " |")?,
                false => write!(out, " {:.2} |", yardstick.ratio(row))?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}
