//! What the imports of a slow start took.

use clutch_protocol::limits::IMPORT_TIMES_MAX;
use clutch_protocol::message::{ImportTime, Imports};
use clutch_protocol::wire;

use super::dispatcher::{Dispatcher, Worker};
use crate::config;
use crate::limits::SLOW_START;
use crate::worker::link::Link;
use crate::worker::output::escape;

/// How many of them are worth a place in a sentence.
const TOLD_MAX: usize = 5;

/// The longest name of a module that a worker of ours tells, in characters.
const NAME_CHARS_MAX: usize = 128;

impl Dispatcher {
    /// A worker tells what its imports take.
    ///
    /// # Errors
    ///
    /// When no worker of ours would send it.
    pub(super) fn take_imports(&mut self, link: &Link, meta: &[u8]) -> Result<(), String> {
        let imports: Imports = wire::decode(meta).map_err(|error| error.to_string())?;
        let is_short = |time: &ImportTime| time.module.chars().count() <= NAME_CHARS_MAX;
        if imports.modules.len() > IMPORT_TIMES_MAX || !imports.modules.iter().all(is_short) {
            return Err("it tells of more imports than anybody reads".to_owned());
        }
        let state = self.pool(link.pool);
        let limits = &state.config.limits;
        let bound = SLOW_START.min(limits.start_timeout / 2);
        let is_slow = u128::from(imports.elapsed_ms) >= bound.as_millis();
        let Some(entry) = state.workers.get_mut(&link.worker) else { return Ok(()) };
        entry.imports = imports.modules;
        for time in &mut entry.imports {
            time.module = escape(time.module.as_bytes());
        }
        if imports.finished && is_slow {
            let slowest = list(&entry.imports);
            tracing::warn!(pool = state.config.name, worker = %link.worker, pid = entry.pid,
                import_ms = imports.elapsed_ms, slowest, "its start is slow");
        }
        Ok(())
    }
}

/// Why a start that took too long did.
pub(super) fn of_late_start(limits: &config::Limits, entry: &Worker) -> String {
    let mut text = format!("it was not ready within {:?}", limits.start_timeout);
    if !entry.detail.is_empty() {
        text += &format!(": {}", entry.detail);
    }
    if !entry.imports.is_empty() {
        text += &format!("; its slowest imports so far: {}", list(&entry.imports));
    }
    text + "; raise limits.start_timeout if it needs longer"
}

/// `pandas 1900 ms (700 ms without others), numpy 1200 ms`.
fn list(imports: &[ImportTime]) -> String {
    let one = |ImportTime { module, total_ms, own_ms }: &ImportTime| {
        if own_ms == total_ms {
            format!("{module} {total_ms} ms")
        } else {
            format!("{module} {total_ms} ms ({own_ms} ms without others)")
        }
    };
    imports.iter().take(TOLD_MAX).map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_listed_with_what_is_their_own() {
        let time =
            |module: &str, total_ms, own_ms| ImportTime { module: module.into(), total_ms, own_ms };
        let imports = [time("pandas", 1900, 700), time("numpy", 1200, 1200)];
        let text = "pandas 1900 ms (700 ms without others), numpy 1200 ms";
        assert_eq!(text, list(&imports));
    }
}
