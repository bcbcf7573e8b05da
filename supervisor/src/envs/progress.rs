//! How far an environment is, for whoever waits for it: told by the thread that provides it, read
//! by everybody else.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

/// The longest part of a builder's line that is shown.
const LINE_CHARS_MAX: usize = 160;

/// What is being done for an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Its declaration is read, and it is looked whether it is there.
    #[default]
    Looking,
    /// It has to be built, after others of this process.
    Queued,
    /// Another process builds it.
    Waiting,
    /// It is built.
    Building,
}

/// How far an environment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What is done for it.
    pub stage: Stage,
    /// Since when it is known that it is not there.
    pub since: Instant,
    /// The declaration, for people.
    pub what: String,
    /// What the builder is at, or what is waited for: a word.
    pub phase: &'static str,
    /// What the builder said last, or who is waited for.
    pub line: String,
}

/// How far one pool's environment is. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Progress(Arc<watch::Sender<Report>>);

impl Default for Progress {
    fn default() -> Progress {
        let (stage, what, line) = (Stage::default(), String::new(), String::new());
        let report = Report { stage, since: Instant::now(), what, phase: "looking", line };
        Progress(Arc::new(watch::Sender::new(report)))
    }
}

impl Progress {
    /// How far it is.
    pub fn report(&self) -> Report {
        self.0.borrow().clone()
    }

    /// Is told when it is at another stage. What a builder says wakes nobody.
    pub fn stages(&self) -> watch::Receiver<Report> {
        self.0.subscribe()
    }

    /// It is at this stage from now on.
    pub(super) fn enter(&self, stage: Stage, what: &str, phase: &'static str, line: &str) {
        self.0.send_if_modified(|report| {
            let is_other = report.stage != stage;
            if report.stage == Stage::Looking {
                report.since = Instant::now();
            }
            let (what, line) = (what.to_owned(), cut(line));
            *report = Report { stage, since: report.since, what, phase, line };
            is_other
        });
    }

    /// The builder has said something.
    pub(super) fn say(&self, phase: Option<&'static str>, line: &str) {
        self.0.send_if_modified(|report| {
            report.phase = phase.unwrap_or(report.phase);
            report.line = cut(line);
            false
        });
    }

    /// Takes over how far something is that is waited for as well.
    pub(super) fn follow(&self, other: &Report) {
        self.enter(other.stage, &other.what, other.phase, &other.line);
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_told_and_lines_are_there_to_be_read() {
        let progress = Progress::default();
        let mut stages = progress.stages();
        progress.enter(Stage::Building, "w", "making", "");
        assert!(stages.has_changed().unwrap());
        let since = stages.borrow_and_update().since;
        progress.say(Some("resolving"), "Collecting a");
        progress.say(None, &"x".repeat(1000));
        assert!(!stages.has_changed().unwrap());
        let report = progress.report();
        assert_eq!(("resolving", "w", since), (report.phase, &*report.what, report.since));
        assert!(report.line.len() < 200, "{}", report.line);
        let other = Progress::default();
        other.follow(&report);
        assert_eq!((Stage::Building, "resolving"), (other.report().stage, other.report().phase));
    }
}
