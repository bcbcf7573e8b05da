//! The progress bars of a map and of a call, on standard error and only when a person watches it.

use std::fmt;

use clutch_client::{Client, Progress as Report, Request};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::sync::watch;

use crate::output;

/// Shown when it is known or guessed how many items there are.
const BAR: &str = "[{bar:32}] {human_pos}/{human_len} {rate}, {eta} left";

/// Shown when nothing is known.
const COUNT: &str = "{spinner} {human_pos} done, {rate}";

/// Of a call that says how much there is to do, and of one that does not.
const CALL_BAR: &str = "[{bar:32}] {percent} % {msg}";
const CALL_COUNT: &str = "{spinner} {msg}";

/// How finely the bar of a call is drawn.
const CALL_STEPS: u64 = 10_000;

/// Shown of a file.
const BYTES: &str = "[{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";

/// A bar, or nothing.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total: Option<u64>,
}

impl Progress {
    /// A bar when it is wanted and somebody watches.
    pub(crate) fn new(wanted: bool) -> Progress {
        let bar = (wanted && output::stderr_is_terminal()).then(|| {
            let bar = ProgressBar::no_length().with_style(style(COUNT));
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar
        });
        Progress { bar, total: None }
    }

    /// A bar of a file's bytes.
    pub(crate) fn of_bytes(wanted: bool, total: u64) -> Progress {
        let mut progress = Progress::new(wanted);
        progress.total(Some(total));
        if let Some(bar) = &progress.bar {
            bar.set_style(style(BYTES));
        }
        progress
    }

    /// This much is done.
    pub(crate) fn at(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Sets how many items there are, as far as that is known.
    pub(crate) fn total(&mut self, total: Option<u64>) {
        let (Some(bar), Some(items)) = (&self.bar, total) else {
            return;
        };
        if self.total == total {
            return;
        }
        if self.total.is_none() {
            bar.set_style(style(BAR));
        }
        self.total = total;
        bar.set_length(items.max(bar.position()));
    }

    /// One more item is done.
    pub(crate) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Does something that writes to the terminal, with the bar out of the way.
    pub(crate) fn aside<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The bar of one call whose function says how far it is; nothing as long as it does not.
pub(crate) struct CallBar {
    wanted: bool,
    bar: Option<ProgressBar>,
}

impl CallBar {
    /// A bar when it is wanted and somebody watches.
    pub(crate) fn new(wanted: bool) -> CallBar {
        CallBar { wanted: wanted && output::stderr_is_terminal(), bar: None }
    }

    /// Has a call say how far it is, if a bar is wanted.
    pub(crate) fn follow<A, K>(
        &self,
        request: Request<Client, A, K>,
    ) -> (Request<Client, A, K>, watch::Receiver<Option<Report>>) {
        let (sender, receiver) = watch::channel(None);
        if !self.wanted {
            return (request, receiver);
        }
        let tell = move |report| {
            // Only the newest is worth showing.
            let _before = sender.send_replace(Some(report));
        };
        (request.on_progress(tell), receiver)
    }

    /// Shows how far the call is.
    pub(crate) fn show_newest(&mut self, reports: &mut watch::Receiver<Option<Report>>) {
        let Some(report) = reports.borrow_and_update().clone() else { return };
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(CALL_STEPS);
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar
        });
        let message = output::escape_line(&report.message).into_owned();
        match report.total.filter(|total| *total > 0.0) {
            Some(total) => {
                let part = (report.done / total).clamp(0.0, 1.0);
                bar.set_style(style(CALL_BAR));
                bar.set_position(steps(part));
                bar.set_message(message);
            }
            None => {
                bar.set_style(style(CALL_COUNT));
                bar.set_message(format!("{} {message}", report.done));
            }
        }
        bar.tick();
    }

    /// Does something that writes to the terminal, with the bar out of the way.
    pub(crate) fn aside<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for CallBar {
    fn drop(&mut self) {
        self.end();
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "it is between 0 and the number of steps, which is small"
)]
fn steps(part: f64) -> u64 {
    (part * CALL_STEPS as f64) as u64
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants").with_key(
        "rate",
        |state: &ProgressState, text: &mut dyn fmt::Write| {
            // What cannot be written to a string is not worth a panic.
            let _ = write!(text, "{:.1}/s", state.per_sec());
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_right() {
        style(BAR);
        style(COUNT);
        style(CALL_BAR);
        style(CALL_COUNT);
        style(BYTES);
    }
}
