//! Failures in words: what a person reads on standard error when a call fails.
//!
//! A failure is always one `error:` line that can stand alone, and that ends with the number which
//! `clutch explain` takes. Above it goes what Python had to say: the traceback, or the last words
//! of a worker that died. Its exit code is in `exit`.

use clutch_protocol::failure::{Certificate, Exception, Payload};
use clutch_protocol::{Failure, Reason};

use crate::exit::Exit;
use crate::interrupt::Ask;
use crate::output;

/// Lines of a stack that are shown to a person: the innermost are what matters.
const STACK_LINES_MAX: usize = 12;

/// How failures are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureFormat {
    /// For people.
    Text,
    /// One JSON object in one line.
    Json,
}

/// Shows why a call failed, and gives the exit code that belongs to it. `printed` is the end of
/// what the call has printed to standard error, which was shown already.
pub(crate) fn failure(failure: &Failure, format: FailureFormat, printed: &str) -> Exit {
    match format {
        FailureFormat::Text => text("", failure, json_sentence, printed),
        FailureFormat::Json => output::json_note(&json(failure)),
    }
    Exit::of(&failure.reason)
}

/// Shows why an item of a map failed, and gives the exit code that belongs to it.
pub(crate) fn item(index: u64, failure: &Failure, format: FailureFormat) -> Exit {
    match format {
        // Nothing is wrong with an item when a function is not there.
        FailureFormat::Text if is_of_no_item(&failure.reason) => {
            text("", failure, json_sentence, "");
        }
        FailureFormat::Text => text(&format!("item {index}: "), failure, json_sentence, ""),
        FailureFormat::Json if is_of_no_item(&failure.reason) => {
            output::json_note(&serde_json::json!({"error": failure}).to_string());
        }
        FailureFormat::Json => {
            let json = serde_json::json!({"index": index, "error": failure});
            output::json_note(&json.to_string());
        }
    }
    Exit::of(&failure.reason)
}

/// Whether the function, or what folds, is to blame for this, whichever item came first.
fn is_of_no_item(reason: &Reason) -> bool {
    match reason {
        Reason::NotFound(_) | Reason::NotAllowed => true,
        // So begins what workers say of a fold.
        Reason::BadArguments { message } => message.starts_with("the fold "),
        _ => false,
    }
}

/// Shows why a chunk of a file failed, and gives the exit code that belongs to it. `place` is what
/// JSON says about the chunk.
pub(crate) fn chunk(
    name: &str,
    place: &serde_json::Value,
    failure: &Failure,
    format: FailureFormat,
) -> Exit {
    match format {
        FailureFormat::Text => text(&format!("{name}: "), failure, sentence, ""),
        FailureFormat::Json => {
            let json = serde_json::json!({"chunk": place, "error": failure});
            output::json_note(&json.to_string());
        }
    }
    Exit::of(&failure.reason)
}

/// Says that a call was cancelled from here, and gives the exit code that belongs to it.
pub(crate) fn interrupted(failure: &Failure, ask: Ask, format: FailureFormat) -> Exit {
    match format {
        FailureFormat::Text => {
            let sentence = format!("{} was cancelled by {ask}", failure.function);
            output::error_with_tail(&sentence, &number(failure));
        }
        FailureFormat::Json => output::json_note(&json(failure)),
    }
    Exit::asked(ask)
}

fn text(prefix: &str, failure: &Failure, sentence: fn(&Failure) -> String, printed: &str) {
    let context = context(failure, printed);
    if !context.trim().is_empty() {
        output::block(&context);
    }
    output::error_with_tail(&format!("{prefix}{}", sentence(failure)), &number(failure));
}

/// What to ask `clutch explain` about, if anything.
fn number(failure: &Failure) -> String {
    match failure.call {
        0 => String::new(),
        call => format!(" (call {call})"),
    }
}

/// The failure as one JSON object.
pub(crate) fn json(failure: &Failure) -> String {
    serde_json::to_string(failure).expect("a failure is plain data")
}

/// The failure as one sentence, without what [`context`] tells.
pub(crate) fn sentence(failure: &Failure) -> String {
    let mut short = failure.clone();
    match &mut short.reason {
        Reason::WorkerDied(certificate) => shorten(certificate),
        Reason::CrashLoop { last, .. } => shorten(last),
        _ => {}
    }
    short.to_string()
}

/// The same, of a call in JSON. That has nothing beside its payload, so there is one key to raise.
pub(crate) fn json_sentence(failure: &Failure) -> String {
    let Reason::TooLarge { what, bytes, limit } = &failure.reason else {
        return sentence(failure);
    };
    let (subject, advice) = match what {
        Payload::Arguments => ("arguments", "pass"),
        Payload::Result => ("result", "return"),
    };
    format!(
        "the {subject} of {}: {bytes} bytes, and at most {limit} are allowed; {advice} less at \
         once, or raise `payload` under [daemon] in the configuration",
        failure.function
    )
}

/// What Python had to say about it, in as many lines as it took; empty when nothing.
fn context(failure: &Failure, printed: &str) -> String {
    match &failure.reason {
        Reason::Raised(exception) => traceback(exception),
        Reason::NotFound(missing) => missing.traceback.clone(),
        Reason::WorkerDied(certificate) | Reason::CrashLoop { last: certificate, .. } => {
            last_words(certificate, printed)
        }
        Reason::TimedOut { stack, .. } => doing(stack),
        _ => String::new(),
    }
}

/// What a call was doing when its time was over, innermost frame first.
fn doing(stack: &str) -> String {
    if stack.is_empty() {
        return String::new();
    }
    let mut text = String::from("when its time was over it was at (innermost first):\n");
    let lines = stack.lines().take(STACK_LINES_MAX);
    text.extend(lines.flat_map(|line| [line, "\n"]));
    if stack.lines().count() > STACK_LINES_MAX {
        text.push_str("  ... (`--json` shows all)\n");
    }
    text
}

fn traceback(exception: &Exception) -> String {
    if !exception.traceback.is_empty() {
        return exception.traceback.clone();
    }
    // An exception that cannot be formatted still has its notes.
    exception.notes.join("\n")
}

/// A detail in several lines is told by [`last_words`] instead.
fn shorten(certificate: &mut Certificate) {
    if certificate.detail.trim_end().contains('\n') {
        certificate.detail.clear();
    }
}

fn last_words(certificate: &Certificate, printed: &str) -> String {
    let mut text = String::new();
    let stderr = certificate.stderr_tail.trim_end();
    if !stderr.is_empty() && !printed.trim_end().ends_with(stderr) {
        text.push_str("the last lines of the worker's standard error:\n");
        for line in stderr.lines() {
            text.push_str("  ");
            text.push_str(line);
            text.push('\n');
        }
    }
    let stack = certificate.stack.trim_end();
    if !stack.is_empty() {
        text.push_str("its Python code was at (innermost first):\n");
        text.extend(stack.lines().flat_map(|line| ["  ", line, "\n"]));
    }
    let detail = certificate.detail.trim_end();
    if detail.contains('\n') && !stderr.contains(detail) {
        text.push_str(detail);
    }
    text
}

#[cfg(test)]
mod tests {
    use clutch_protocol::failure::{Cause, Hindrance};
    use clutch_protocol::message::{Exit as ProcessExit, Phases, WorkerId};

    use super::*;

    fn died(stderr_tail: &str, detail: &str) -> Failure {
        let certificate = Certificate {
            pool: "default".into(),
            worker: WorkerId { slot: 0, generation: 2 },
            pid: 7,
            cause: Cause::Signalled,
            exit: Some(ProcessExit::Signal(11)),
            exit_name: "SIGSEGV".into(),
            peak_rss_bytes: 1,
            uptime_ms: 10,
            calls_served: 3,
            function: Some("m:f".into()),
            stderr_tail: stderr_tail.into(),
            detail: detail.into(),
            out_of_memory: false,
            cpu_ms: 0,
            call: 1,
            stack: String::new(),
        };
        Failure {
            call: 1,
            pool: "default".into(),
            function: "m:f".into(),
            attempt: 1,
            started: true,
            phases: Phases::default(),
            reason: Reason::WorkerDied(Box::new(certificate)),
            quarantined: false,
            item: None,
        }
    }

    #[test]
    fn a_death_is_one_sentence_with_the_last_words_above() {
        let failure = died("Fatal Python error\nCurrent thread\n", "");
        let sentence = sentence(&failure);
        assert!(sentence.contains("SIGSEGV"), "{sentence}");
        assert!(!sentence.contains('\n'), "{sentence}");
        let context = context(&failure, "");
        assert!(context.contains("\n  Fatal Python error\n  Current thread"));
    }

    #[test]
    fn what_is_too_large_names_one_key_and_where_it_stands() {
        let mut failure = died("", "");
        for (what, subject) in [(Payload::Arguments, "arguments"), (Payload::Result, "result")] {
            failure.reason = Reason::TooLarge { what, bytes: 12, limit: 10 };
            let told = json_sentence(&failure);
            assert!(told.starts_with(&format!("the {subject} of m:f: 12 bytes")), "{told}");
            assert!(told.contains("raise `payload` under [daemon]"), "{told}");
            assert!(told.contains("at most 10") && !told.contains("attached"), "{told}");
        }
    }

    #[test]
    fn last_words_that_were_printed_already_are_not_repeated() {
        let failure = died("first\nlast\n", "");
        assert!(context(&failure, "much\nfirst\nlast\n").is_empty());
        assert!(context(&failure, "much\nlast\n").contains("first"));
    }

    #[test]
    fn what_a_late_call_was_doing_is_told_above_in_few_lines_f011() {
        let stack: Vec<_> = (0..40).map(|line| format!("  File \"m.py\", line {line}")).collect();
        let mut failure = died("", "");
        failure.reason =
            Reason::TimedOut { timeout_ms: 1, stack: stack.join("\n"), hindrance: Hindrance::Work };
        let told = context(&failure, "");
        assert!(told.contains("line 0\n") && told.contains("line 11\n"), "{told}");
        assert!(!told.contains("line 12\n") && !sentence(&failure).contains('\n'), "{told}");
        failure.reason =
            Reason::TimedOut { timeout_ms: 1, stack: String::new(), hindrance: Hindrance::Work };
        assert!(context(&failure, "").is_empty());
    }

    #[test]
    fn a_long_detail_moves_above_and_a_short_one_stays() {
        let failure = died("", "Traceback\n  line\nImportError: x");
        assert!(!sentence(&failure).contains("Traceback"));
        assert!(context(&failure, "").contains("ImportError: x"));
        let failure = died("", "no such file");
        assert!(sentence(&failure).contains("no such file"));
        assert!(context(&failure, "").is_empty());
    }

    #[test]
    fn as_json_it_is_one_line_with_the_kind() {
        let json = json(&died("a\nb\x1b[2J", ""));
        assert!(json.contains(r#""kind":"WorkerDied""#), "{json}");
        assert!(!json.contains('\n') && !json.contains('\x1b'), "{json}");
    }
}
