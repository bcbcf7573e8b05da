//! The only file that writes to standard output and standard error.
//!
//! Results go to standard output and nothing else does. Messages for people go to standard error;
//! when even that fails there is nobody left to tell, so those errors end here. Text that came from
//! Python passes through [`escape_block`] or [`escape_line`] first: it must not move the cursor,
//! change colours or forge a line of ours.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use anstream::ColorChoice;

/// The longest one-line message, in characters: more would push what matters off the screen. The
/// whole text is in the traceback above it.
const LINE_CHARS_MAX: usize = 2_000;

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into files and pipes
    Always,
    /// Never
    Never,
}

/// Decides about colours for the rest of the program.
pub(crate) fn set_color(color: Color) {
    match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    }
    .write_global();
}

/// Whether standard error shall have colours.
pub(crate) fn stderr_has_color() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// Whether a person watches standard error.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// How many columns a line has, where a person reads standard output on a terminal.
pub(crate) fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Where results are written to: standard output, buffered until [`Results::flush`].
pub(crate) struct Results {
    stdout: io::BufWriter<io::StdoutLock<'static>>,
    terminal: bool,
}

impl Results {
    /// Takes standard output.
    pub(crate) fn new() -> Results {
        let stdout = io::stdout().lock();
        Results {
            terminal: stdout.is_terminal(),
            stdout: io::BufWriter::with_capacity(64 << 10, stdout),
        }
    }

    /// Writes one JSON text and a newline: the bytes as they are, or, on a terminal, with control
    /// characters as `\u001b`. Those can only stand inside strings, so it is the same value.
    pub(crate) fn line(&mut self, json: &[u8]) -> io::Result<()> {
        match std::str::from_utf8(json) {
            Ok(text) if self.terminal => {
                self.stdout.write_all(escape_json(text).as_bytes())?;
            }
            _ => self.stdout.write_all(json)?,
        }
        self.stdout.write_all(b"\n")
    }

    /// Whether writing this line will show what was written before it.
    pub(crate) fn would_flush(&self, json: &[u8]) -> bool {
        self.stdout.buffer().len() + json.len() + 1 > self.stdout.capacity() || self.terminal
    }

    /// Writes text that is fit to be shown, and a newline.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.stdout.write_all(text.as_bytes())?;
        self.stdout.write_all(b"\n")
    }

    /// Whether a person reads them.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Hands everything to the reader.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Writes one JSON text and a newline to standard output, at once.
pub(crate) fn result(json: &[u8]) -> io::Result<()> {
    let mut results = Results::new();
    results.line(json)?;
    results.flush()
}

/// Writes text for people to standard output, at once. Colours are dropped where not wanted.
pub(crate) fn page(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes bytes to standard error as they are: what the user's own function printed.
pub(crate) fn passthrough(bytes: &[u8]) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(bytes);
    let _ = stderr.flush();
}

/// Writes a line of the log to standard error as it is.
pub(crate) fn log(line: &[u8]) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(line)?;
    stderr.flush()
}

/// Writes one line for people to standard error.
pub(crate) fn note(line: &str) {
    let _ = writeln!(anstream::stderr(), "{}", escape_line(line));
}

/// Writes one JSON text in one line to standard error.
pub(crate) fn json_note(json: &str) {
    let _ = writeln!(io::stderr(), "{}", escape_json(json));
}

/// Writes several lines for people to standard error. A final newline is added where missing.
pub(crate) fn block(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", escape_block(text.trim_end_matches('\n')));
}

/// Writes text with our own colours to standard error.
pub(crate) fn rendered(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", text.trim_end_matches('\n'));
}

/// Writes `error: …`, always one line, to standard error.
pub(crate) fn error(message: &str) {
    error_with_tail(message, "");
}

/// Writes `warning: …`, always one line, to standard error.
pub(crate) fn warning(message: &str) {
    let message = escape_line(message);
    let _ = writeln!(anstream::stderr(), "\x1b[1;33mwarning:\x1b[0m {}", cut(&message));
}

/// As [`error`]; `tail` is shown however long the message is.
pub(crate) fn error_with_tail(message: &str, tail: &str) {
    let message = escape_line(message);
    let message = cut(&message);
    let _ = writeln!(anstream::stderr(), "\x1b[1;31merror:\x1b[0m {message}{tail}");
}

/// Writes `error: …` to standard error; a message in several lines keeps them, below the first.
pub(crate) fn error_with_details(message: &str) {
    match message.trim_end().split_once('\n') {
        None => error(message),
        Some((first, details)) => {
            error(first);
            block(details);
        }
    }
}

/// Text in several lines, with control characters other than newline and tab made visible.
pub(crate) fn escape_block(text: &str) -> Cow<'_, str> {
    escape(text, |c| (c.is_control() && c != '\n' && c != '\t') || is_reordering(c))
}

/// Text in one line, with every control character made visible.
pub(crate) fn escape_line(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_control() || is_reordering(c))
}

/// Characters that show text in another order than it is written in.
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !hidden(c) => shown.push(c),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if u32::from(c) <= 0xff => {
                let _ = write!(shown, "\\x{:02x}", u32::from(c));
            }
            c => {
                let _ = write!(shown, "\\u{:04x}", u32::from(c));
            }
        }
    }
    Cow::Owned(shown)
}

/// JSON with the control characters inside its strings as JSON escapes. Newline and tab stay: where
/// JSON may hold them they are white space.
pub(crate) fn escape_json(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| c.is_control() && c != '\n' && c != '\t' || is_reordering(c);
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn cut(line: &str) -> Cow<'_, str> {
    match line.char_indices().nth(LINE_CHARS_MAX) {
        None => Cow::Borrowed(line),
        Some((end, _)) => Cow::Owned(format!("{}... (cut)", &line[..end])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_made_visible_f170() {
        let hostile = "a\x1b[2Jb\r\n{\"level\":\"error\"}\x07\u{9b}31m\u{202e}\tü\x7f";
        assert_eq!(
            "a\\x1b[2Jb\\r\n{\"level\":\"error\"}\\x07\\x9b31m\\u202e\tü\\x7f",
            escape_block(hostile)
        );
        assert_eq!(
            "a\\x1b[2Jb\\r\\n{\"level\":\"error\"}\\x07\\x9b31m\\u202e\\tü\\x7f",
            escape_line(hostile)
        );
        assert!(matches!(escape_block("plain\n\ttext"), Cow::Borrowed("plain\n\ttext")));
    }

    #[test]
    fn json_on_a_terminal_stays_the_same_value_f170() {
        let json = "[\"a\u{9b}31m\u{7f}\", 1]";
        let shown = escape_json(json);
        assert_eq!("[\"a\\u009b31m\\u007f\", 1]", shown);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(json), value(&shown));
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        let line = "ü".repeat(LINE_CHARS_MAX + 1);
        assert_eq!("ü".repeat(LINE_CHARS_MAX) + "... (cut)", cut(&line).into_owned());
        assert_eq!("short", cut("short"));
    }
}
