//! What Python's `faulthandler` writes for the daemon: the stack of a crash, and the stacks that
//! were asked for. The worker's control thread writes those, and a line behind them that says so.
//! Where it cannot run, a signal makes the main thread write them.
//!
//! The main thread is written last, and its outermost frame is the script every worker starts
//! with: so a signal's text, too, says itself when it is whole.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use tokio::net::unix::pipe::Receiver;

use super::output::{Asker, escape};
use crate::limits::{STACK_BYTES_MAX, STACK_TEXT_BYTES_MAX};

/// Taken from the pipe in one go: what it holds at most.
const READ_BYTES: usize = 64 << 10;

/// How the section of the thread that was signalled begins: the main one.
const MAIN_THREAD: &str = "Current thread 0x";

/// What the control thread writes behind the stacks.
const ALL: &str = "(all)\n";

/// How the section of any other thread begins.
const OTHER_THREAD: &str = "Thread 0x";

/// How `faulthandler` begins when the process crashes. Nothing is written after that.
const CRASH: &str = "Fatal Python error: ";

/// The pipe that stacks come through, and what came.
#[derive(Debug)]
pub struct StackPipe {
    pipe: Rc<Receiver>,
    text: Vec<u8>,
    open: bool,
}

impl StackPipe {
    /// Reads `pipe` without ever waiting on it.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch it.
    pub fn new(pipe: PipeReader) -> io::Result<StackPipe> {
        let pipe = Rc::new(Receiver::from_owned_fd(OwnedFd::from(pipe))?);
        Ok(StackPipe { pipe, text: Vec::new(), open: true })
    }

    /// What to wait for.
    pub fn source(&self) -> Rc<Receiver> {
        self.pipe.clone()
    }

    /// Whether the other end may still write.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Takes what is there. The newest is kept, within a bound.
    pub fn read(&mut self, asker: Asker) {
        let mut buffer = vec![0; READ_BYTES];
        let got = match asker {
            Asker::Task => self.pipe.try_read(&mut buffer),
            Asker::Dispatcher => {
                nix::unistd::read(self.pipe.as_fd(), &mut buffer).map_err(io::Error::from)
            }
        };
        match got {
            Ok(0) => self.open = false,
            Ok(count) => {
                self.text.extend_from_slice(&buffer[..count]);
                let extra = self.text.len().saturating_sub(STACK_BYTES_MAX);
                self.text.drain(..extra);
            }
            Err(error) => {
                let wait = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];
                self.open = wait.contains(&error.kind());
            }
        }
    }

    /// Forgets what came so far, so that what comes next stands alone.
    pub fn clear(&mut self) {
        self.read(Asker::Dispatcher);
        self.forget();
    }

    /// Forgets what was read so far: it was told, or is of a call that is over. A crash is kept,
    /// since its worker's death is yet to be told. No system call, since this is on the call path.
    pub fn forget(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let crash = self.text.windows(CRASH.len()).rposition(|part| part == CRASH.as_bytes());
        self.text = crash.map_or_else(Vec::new, |at| self.text.split_off(at));
    }

    /// Whether all stacks that were asked for are there.
    pub fn is_whole(&self) -> bool {
        is_whole(&String::from_utf8_lossy(&self.text))
    }

    /// What came, fit for a terminal.
    pub fn text(&self) -> String {
        let lines: Vec<_> = self.text.split(|byte| *byte == b'\n').map(escape).collect();
        lines.join("\n").trim_end().trim_end_matches(ALL.trim_end()).trim_end().to_owned()
    }

    /// What came, fit for a terminal. It is not told again.
    pub fn take(&mut self) -> String {
        let text = self.text();
        self.text = Vec::new();
        text
    }
}

/// The frames of user code in a dump, those of the main thread first, innermost first. `package`
/// is the folder of the worker's own files, whose frames are left out.
pub fn of_user(dump: &str, package: &str) -> String {
    let own = format!("/{package}/");
    let mut sections = Vec::new();
    let (mut header, mut frames) = ("", Vec::new());
    // One section more, so that the last one is taken in like the others.
    for line in dump.lines().chain([OTHER_THREAD]) {
        if !line.starts_with(MAIN_THREAD) && !line.starts_with(OTHER_THREAD) {
            if line.starts_with("  ") && !line.contains(&own) {
                frames.push(line);
            }
            continue;
        }
        if !header.is_empty() {
            sections.push((header, frames.join("\n")));
        }
        (header, frames) = (line, Vec::new());
    }
    // Whoever writes them, the main thread is the oldest and comes last.
    let main = sections.pop().map_or_else(String::new, |(_, text)| text);
    let others: String = sections
        .iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(header, text)| format!("\n{header}\n{text}"))
        .collect();
    cut(format!("{main}{others}").trim_matches('\n'))
}

/// The frames of user code in a dump as far as they are a call's: those of its thread, where the
/// worker runs each of several calls on one and says which; else all.
pub fn of_user_in(dump: &str, package: &str, call: u64) -> String {
    match thread_of(dump, call).and_then(|thread| section_of(dump, thread)) {
        Some(section) => of_user(section, package),
        None => of_user(dump, package),
    }
}

/// The thread of a call, by the line `NAME (thread 0x...): call N, FUNCTION`.
fn thread_of(dump: &str, call: u64) -> Option<&str> {
    let calls = dump.lines().filter_map(|line| line.split_once(": call "));
    let mut own = calls.filter(|(_, rest)| rest.split(',').next() == Some(&call.to_string()));
    let (who, _) = own.next_back()?;
    who.strip_suffix(')')?.rsplit_once("(thread ").map(|(_, thread)| thread)
}

/// The section of a thread, from its header on.
fn section_of<'a>(dump: &'a str, thread: &str) -> Option<&'a str> {
    let header = format!("hread {thread} ");
    let at = dump.rfind(&header)?;
    let begin = dump[..at].rfind('\n').map_or(0, |end| end + 1);
    let section = &dump[begin..];
    Some(section.find("\n\n").map_or(section, |end| &section[..end]))
}

/// What a certificate tells of what a worker wrote: its crash, if that is there, and first of that
/// the thread that crashed, which is the one that must not be cut off.
pub fn of_death(text: &str) -> String {
    let Some(at) = text.rfind(CRASH) else {
        return cut(text);
    };
    let crash = &text[at..];
    let (Some(threads), Some(current)) = (crash.find(OTHER_THREAD), crash.find(MAIN_THREAD)) else {
        return cut(crash);
    };
    if current < threads {
        return cut(crash);
    }
    let after = crash[current..].find("\n\n").map_or(crash.len(), |end| current + end + 2);
    let (head, others) = (&crash[..threads], &crash[threads..current]);
    let (crashed, rest) = (&crash[current..after], &crash[after..]);
    cut(&format!("{head}{}\n\n{}{rest}", crashed.trim_end(), others))
}

/// Whether all is there: the control thread says so itself; behind a signal's stacks nobody says
/// anything, but those end with the signalled thread, which is the main one.
fn is_whole(dump: &str) -> bool {
    if dump.ends_with(ALL) {
        return true;
    }
    // After a hundred threads nothing more is written, not even the main one.
    if dump.ends_with("\n...\n") {
        return true;
    }
    let Some(at) = dump.rfind(MAIN_THREAD) else {
        return false;
    };
    let ends = |line: &str| {
        // The last frame of all, or the mark where too many were left out.
        line.contains("/boot.py\", line ") && line.ends_with(" in <module>\n")
            || line == "  ...\n"
            || line == "  <no Python frame>\n"
    };
    let last = &dump[at..];
    !last.contains("\nThread 0x") && last.split_inclusive('\n').any(ends)
}

/// The beginning of a text that is too long for an error, in whole lines.
pub fn cut(text: &str) -> String {
    if text.len() <= STACK_TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let mut short = String::new();
    for line in text.split_inclusive('\n') {
        if short.len() + line.len() > STACK_TEXT_BYTES_MAX {
            break;
        }
        short.push_str(line);
    }
    short + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"Thread 0x00007f00 (most recent call first):
  File "/state/py-1/clutch/_control.py", line 140 in _serve
  File "/state/py-1/clutch/_control.py", line 120 in _run

Thread 0x00007f01 (most recent call first):
  File "/home/me/job.py", line 5 in beside

Current thread 0x00007f02 (most recent call first):
  File "/home/me/job.py", line 17 in spin
  File "/home/me/job.py", line 20 in outer
  File "/state/py-1/clutch/_execute.py", line 140 in execute
  File "/state/py-1/boot.py", line 33 in start
  File "/state/py-1/boot.py", line 37 in <module>
"#;

    #[test]
    fn what_user_code_was_doing_is_told_without_our_own_frames_f011() {
        let wanted = "  File \"/home/me/job.py\", line 17 in spin\n  \
                      File \"/home/me/job.py\", line 20 in outer\n\
                      Thread 0x00007f01 (most recent call first):\n  \
                      File \"/home/me/job.py\", line 5 in beside";
        assert_eq!(wanted, of_user(DUMP, "py-1"));
        assert_eq!("", of_user("", "py-1"));
    }

    #[test]
    fn of_several_calls_each_is_told_what_its_own_thread_does() {
        let calls = "clutch-1 (thread 0x00007f00): call 7, a:f\n\
                     clutch-2 (thread 0x00007f01): call 17, a:g: call 7, x\n\
                     task-3: call 18, a:h\n";
        let dump = format!("{calls}{DUMP}");
        let of = |call| of_user_in(&dump, "py-1", call);
        assert_eq!("  File \"/home/me/job.py\", line 5 in beside", of(17));
        assert_eq!("", of(7));
        for call in [18, 99] {
            assert_eq!(of_user(&dump, "py-1"), of(call), "its thread is not known");
        }
    }

    #[test]
    fn a_dump_says_itself_when_it_is_whole() {
        assert!(is_whole(DUMP));
        for length in 0..DUMP.len() {
            assert!(!is_whole(&DUMP[..length]), "{length}");
        }
        assert!(is_whole("Current thread 0x1 (most recent call first):\n  File \"a\"\n  ...\n"));
        assert!(is_whole("Current thread 0x1 (most recent call first):\n  <no Python frame>\n"));
        assert!(is_whole("Thread 0x1 (most recent call first):\n  File \"a\"\n...\n"));
    }

    #[test]
    fn a_crash_is_told_without_what_came_before_it_and_its_thread_first_f006() {
        let (others, current) = DUMP.split_at(DUMP.find(MAIN_THREAD).unwrap());
        let head = "Fatal Python error: Segmentation fault\n\n";
        let trailer = "\nExtension modules: a, b (total: 2)";
        let text = format!("{DUMP}{head}{DUMP}{trailer}");
        let wanted = format!("{head}{current}\n{others}Extension modules: a, b (total: 2)");
        assert_eq!(wanted, of_death(&text));
        assert_eq!(wanted, of_death(&wanted));
        assert_eq!(format!("{head}{current}"), of_death(&format!("{DUMP}{head}{current}")));
        assert_eq!(DUMP, of_death(DUMP));
        assert_eq!("", of_death(""));
    }

    #[test]
    fn what_is_forgotten_is_all_but_a_crash() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (reader, _writer) = io::pipe().unwrap();
        let mut pipe = StackPipe::new(reader).unwrap();
        for (text, left) in
            [("", ""), (DUMP, ""), ("Fatal Python error: A", "Fatal Python error: A")]
        {
            pipe.text = text.as_bytes().to_vec();
            pipe.forget();
            assert_eq!(left, pipe.text());
        }
        pipe.text = format!("{DUMP}Fatal Python error: B").into_bytes();
        pipe.forget();
        assert_eq!("Fatal Python error: B", pipe.text());
    }

    #[test]
    fn a_long_text_is_cut_between_lines() {
        let text = "x".repeat(99) + "\n";
        let short = cut(&text.repeat(10_000));
        assert!(short.len() <= STACK_TEXT_BYTES_MAX + 3 && short.ends_with("x\n..."), "{short}");
    }
}
