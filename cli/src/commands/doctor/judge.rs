//! From how a check's call ended to a finding that says what to do.

use clutch_client::Failure;
use clutch_protocol::failure::{Cause, Certificate, Exception, Reason};
use clutch_supervisor::doctor::{Finding, Status};
use serde_json::Value;

/// What a loader says of a library it does not find, behind the library's name.
const NO_LIBRARY: &str = ": cannot open shared object file";

/// What the loader says of a library for another machine.
const WRONG_LIBRARY: [&str; 3] = ["wrong ELF class", "invalid ELF header", "incompatible arch"];

/// What Python says of a module that nobody has.
const NO_MODULE: &str = "No module named ";

/// The checks of functions that are called by name, which are keys of a pool, too.
const CALLED: [&str; 2] = ["initializer", "warm"];

/// Frames of Python's own import.
const IMPORTERS: &str = "<frozen importlib";

/// The frame below which a stack is the worker's own.
const OURS: &str = "/clutch/_doctor";

/// What a check answered.
pub(super) fn answered(id: &'static str, value: &Value) -> Finding {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let status = serde_json::from_value(value["status"].clone()).unwrap_or(Status::Fail);
    let mut advice = text("advice");
    if status > Status::Skipped && advice.is_empty() {
        advice = "look at this check's own words".to_owned();
    }
    Finding {
        time_ms: value["time_ms"].as_u64(),
        memory_bytes: value["memory_bytes"].as_u64(),
        ..Finding::new(id, status, text("text"), advice)
    }
}

/// A pool whose workers do not start. A traceback says it best; what Python printed, second best.
pub(super) fn no_start(why: &str, stderr: &str) -> Finding {
    let (first, rest) = why.split_once('\n').unwrap_or((why, ""));
    let detail = if rest.is_empty() { stderr } else { rest };
    let text = format!("no worker starts: {first}");
    Finding::new("start", Status::Fail, text, advice_for_start(first))
        .with_detail(detail.trim_end())
}

fn advice_for_start(why: &str) -> &'static str {
    if why.contains("Permission denied") {
        "let the workers' user (`process.user`) reach the interpreter and the folders above it, or \
         name an interpreter that everybody may run"
    } else if why.contains("clutch-local-") {
        "set TMPDIR of this terminal to a folder that can be written, with room in it"
    } else {
        "run the interpreter by hand, with the variables of `env.set`, and mend what it complains \
         about"
    }
}

/// A check whose call failed. `subject` is what it looked at, with the interpreter `python`.
pub(super) fn failed(
    id: &'static str,
    subject: Option<&str>,
    python: &str,
    failure: &Failure,
) -> Finding {
    let what = subject.map_or_else(|| format!("the check {id}"), |it| format!("`{it}`"));
    match &failure.reason {
        Reason::Raised(exception) => {
            let subject = subject.unwrap_or_default();
            let advice = match exception.type_name.as_str() {
                "SystemExit" => "it calls sys.exit while a worker starts: take that out".to_owned(),
                "AttributeError" if CALLED.contains(&id) && exception.frames.is_empty() => {
                    format!("write that function, or name another one with the key `{id}`")
                }
                _ => advice_for(subject, python, &exception.message),
            };
            raised(id, &what, advice, exception)
        }
        Reason::WorkerDied(certificate) => died(id, &what, certificate),
        Reason::TimedOut { timeout_ms, stack, .. } => {
            let text = format!(
                "{what} hangs, or takes long: it had not ended after {} s{}",
                timeout_ms / 1000,
                at(stack)
            );
            let advice = "look at its stack for what it waits for (a network, a lock, a child?), \
                          and do that in a call, not at the start of a worker; give a slow one \
                          more time with --import-timeout";
            Finding::new(id, Status::Fail, text, advice).with_detail(of_user(stack))
        }
        _ => {
            let advice = "run it again with --verbose, and see `clutch config check`";
            Finding::new(id, Status::Fail, format!("{what}: {failure}"), advice)
        }
    }
}

fn raised(id: &'static str, what: &str, advice: String, error: &Exception) -> Finding {
    let Exception { type_name, message, .. } = error;
    let text = format!("{what} fails: {type_name}: {message}");
    Finding::new(id, Status::Fail, text, advice).with_detail(error.traceback.trim_end())
}

fn advice_for(subject: &str, python: &str, message: &str) -> String {
    let module = subject.split(':').next().unwrap_or_default();
    let named = message.split_once(NO_MODULE).map(|(_, name)| name.trim_matches('\''));
    if let Some((library, _)) = message.split_once(NO_LIBRARY) {
        return format!(
            "install the system package that has {library}, or name its folder with \
             LD_LIBRARY_PATH in `env.set`"
        );
    }
    if WRONG_LIBRARY.iter().any(|words| message.contains(words)) {
        return "it was built for another machine: install the package again, for this one".into();
    }
    if message.contains("partially initialized module") {
        return "a file of that name stands in for it, or it imports itself in a circle: see the \
                check `shadowed`, and the last line of the traceback"
            .into();
    }
    match named {
        // Whatever is in front of the last dot was found.
        Some(name) if name == module && name.contains('.') => {
            let (package, part) = name.rsplit_once('.').expect("it has a dot");
            format!(
                "{package} is there, without {part}: see how that is spelled, and whether another \
                 version of the package has it"
            )
        }
        Some(name) if name == module || module.starts_with(&format!("{name}.")) => format!(
            "install {name} in this pool's environment ({python} -m pip install ..., by the name \
             of its package), or name its folder with the key `path`"
        ),
        Some(name) => format!(
            "it needs {name}, which is not there: install that ({python} -m pip install ...)"
        ),
        None => "mend what the traceback's last line names".to_owned(),
    }
}

fn died(id: &'static str, what: &str, certificate: &Certificate) -> Finding {
    if certificate.cause == Cause::MemoryLimit {
        let text = format!("{what} takes more memory than the pool allows: {}", certificate.detail);
        let advice = "raise memory.kill_above of the pool, or load less at its start";
        return Finding::new(id, Status::Fail, text, advice)
            .with_detail(of_user(&certificate.stack));
    }
    let how = if certificate.exit_name.starts_with("SIG") { "was ended by" } else { "ended with" };
    let text = format!(
        "{what} takes the whole interpreter down: it {how} {}{}",
        certificate.exit_name,
        at(&certificate.stack)
    );
    let advice = match certificate.exit_name.as_str() {
        "SIGKILL" => {
            "it was killed: most often memory had run out; see `memory` of the pool, and \
                      the system's log"
        }
        "SIGILL" => "it uses instructions that this processor lacks: install a build for it",
        name if name.starts_with("SIG") => {
            "its binary part is broken, or built for another Python or library: install it again, \
             for this version of Python, and see the stack for which module it is in"
        }
        _ => "it ends the process (os._exit?) while a worker starts: take that out",
    };
    let stack = of_user(&certificate.stack);
    let words = [&*stack, &*certificate.stderr_tail, &*certificate.detail];
    let words: Vec<_> = words.iter().map(|it| it.trim_end()).filter(|it| !it.is_empty()).collect();
    Finding::new(id, Status::Fail, text, advice).with_detail(words.join("\n"))
}

/// What of a stack is the user's: neither Python's import, nor what has called the check.
fn of_user(stack: &str) -> String {
    let lines = stack.lines().filter(|line| !line.contains(IMPORTERS));
    lines.take_while(|line| !line.contains(OURS)).collect::<Vec<_>>().join("\n")
}

/// Where a stack says that its code was: its innermost frame.
fn at(stack: &str) -> String {
    let frame = stack.lines().map(str::trim).find(|line| line.starts_with("File "));
    frame.map_or_else(String::new, |frame| format!(", at {frame}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_keep_their_words_and_measures() {
        let value = json!({"status": "ok", "text": "fine", "time_ms": 12, "memory_bytes": 4096});
        let finding = answered("import", &value);
        assert_eq!((Status::Ok, "fine"), (finding.status, &*finding.text));
        assert_eq!((Some(12), Some(4096)), (finding.time_ms, finding.memory_bytes));
        assert_eq!(Status::Fail, answered("temp", &json!(null)).status, "never taken for good");
    }

    #[test]
    fn what_to_do_depends_on_what_is_missing() {
        let advice = |message| advice_for("pkg.sub", "/v/bin/python", message);
        let library = "libnope.so.1: cannot open shared object file: No such file or directory";
        assert!(advice(library).contains("package that has libnope.so.1,"));
        assert!(advice("No module named 'pkg'").contains("(/v/bin/python -m pip install"));
        assert!(advice("No module named 'other'").starts_with("it needs other,"));
        assert!(advice("/x.so: wrong ELF class: ELFCLASS32").contains("another machine"));
        assert!(advice("boom").contains("traceback"));
    }

    #[test]
    fn a_start_that_fails_says_what_stands_in_its_way() {
        let advice = |why| no_start(why, "").advice;
        assert!(advice("failed to execute: Permission denied").contains("process.user"));
        assert!(advice("cannot make a directory at \"/x/clutch-local-1\"").contains("TMPDIR"));
        let finding = no_start("worker a/0.1 ended\nTraceback\nBoom", "noise");
        assert_eq!(("Traceback\nBoom", Status::Fail), (&*finding.detail, finding.status));
        assert!(finding.advice.contains("env.set"), "{}", finding.advice);
    }

    #[test]
    fn the_innermost_frame_is_named() {
        let stack = "Thread 0x1:\n  File \"a.py\", line 3 in f\n  File \"b.py\", line 1 in g\n";
        assert_eq!(", at File \"a.py\", line 3 in f", at(stack));
        assert_eq!("", at(""));
    }

    #[test]
    fn a_stack_ends_where_the_check_begins() {
        let stack = "Thread 0x1:\n  File \"m.py\", line 1 in <module>\n  \
                     File \"<frozen importlib._bootstrap>\", line 9 in _load\n  \
                     File \"/t/clutch/_doctor.py\", line 2 in module\n  File \"boot.py\", line 3";
        assert_eq!("Thread 0x1:\n  File \"m.py\", line 1 in <module>", of_user(stack));
    }
}
