//! The progress bar of a map, on standard error and only when a person watches it.

use std::fmt;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output;

/// Shown when it is known or guessed how many items there are.
const BAR: &str = "[{bar:32}] {human_pos}/{human_len} {rate}, {eta} left";

/// Shown when nothing is known.
const COUNT: &str = "{spinner} {human_pos} done, {rate}";

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
        style(BYTES);
    }
}
