//! `clutch ping`: does the daemon answer, and how fast.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::args::count;
use crate::error::Error;
use crate::exit::Exit;
use crate::{connect, output};

/// Ask the daemon for a sign of life, and show how long it took
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  clutch ping
  clutch ping --count 1000          and the shortest, mean and longest time
  clutch ping && echo it is up      exit code 3 when no daemon answers")]
pub(crate) struct Args {
    /// How many times, one after the other
    #[arg(long, value_name = "N", default_value = "1", value_parser = count)]
    count: NonZeroU32,
}

pub(crate) async fn run(args: Args, socket: &connect::Socket) -> Result<Exit, Error> {
    let client = connect::daemon(socket).await?;
    let pid = client.welcome().pid;
    let mut times = Times::default();
    for _ in 0..args.count.get() {
        let time = client.ping().await.map_err(Error::from)?;
        times.add(time);
        output::page(&format!("pong from pid {pid} in {}\n", milliseconds(time)))
            .map_err(Error::Output)?;
    }
    if args.count.get() > 1 {
        output::page(&format!("{times}\n")).map_err(Error::Output)?;
    }
    Ok(Exit::Ok)
}

#[derive(Default)]
struct Times {
    count: u32,
    sum: Duration,
    min: Option<Duration>,
    max: Duration,
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.sum += time;
        self.min = Some(self.min.map_or(time, |min| min.min(time)));
        self.max = self.max.max(time);
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} answers: shortest {}, mean {}, longest {}",
            self.count,
            milliseconds(self.min.unwrap_or_default()),
            milliseconds(self.sum / self.count.max(1)),
            milliseconds(self.max)
        )
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_shortest_mean_and_longest() {
        let mut times = Times::default();
        for us in [100, 200, 600] {
            times.add(Duration::from_micros(us));
        }
        assert_eq!(
            "3 answers: shortest 0.100 ms, mean 0.300 ms, longest 0.600 ms",
            times.to_string()
        );
    }
}
