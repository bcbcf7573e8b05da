//! What builders say: their last words, what they are at, and what may be done when they fail.

use std::collections::VecDeque;

/// How many of a builder's last lines are shown when it fails.
const WORDS_LINES_MAX: usize = 30;

/// And how many bytes of them.
const WORDS_BYTES_MAX: usize = 4 << 10;

/// How lines begin, after blanks, and what the builder is at then. pip and uv say these words.
const PHASES: [(&str, &str); 22] = [
    ("Collecting ", "resolving"),
    ("Looking in ", "resolving"),
    ("Requirement already satisfied", "resolving"),
    ("INFO: pip is looking at", "resolving"),
    ("Using cached ", "downloading"),
    ("Downloading ", "downloading"),
    ("Resolved ", "downloading"),
    ("Processing ", "compiling"),
    ("Obtaining ", "compiling"),
    ("Installing build dependencies", "compiling"),
    ("Installing backend dependencies", "compiling"),
    ("Getting requirements to build", "compiling"),
    ("Preparing metadata", "compiling"),
    ("Running setup.py", "compiling"),
    ("Running command ", "compiling"),
    ("Building ", "compiling"),
    ("Created wheel", "compiling"),
    ("Stored in directory", "compiling"),
    ("Installing collected packages", "installing"),
    ("Prepared ", "installing"),
    ("Installed ", "installing"),
    ("Successfully installed", "installing"),
];

/// What pip and uv say when they cannot reach an index, in lower case.
const NO_NETWORK: [&str; 16] = [
    "newconnectionerror",
    "connecttimeouterror",
    "readtimeouterror",
    "nameresolutionerror",
    "proxyerror",
    "max retries exceeded",
    "temporary failure in name resolution",
    "name or service not known",
    "network is unreachable",
    "connection refused",
    "connection timed out",
    "error sending request",
    "client error (connect)",
    "dns error",
    "request failed after",
    "network connectivity is disabled",
];

/// What may be done then.
const NO_NETWORK_HINT: &str = " (a package index could not be reached: see the network; the \
    builder inherits the daemon's proxy and index settings, such as HTTPS_PROXY, PIP_INDEX_URL, \
    pip.conf, UV_DEFAULT_INDEX and uv.toml, and build.index_url names another index)";

/// What an index says that wants to know who asks.
const NOT_LET_IN: [&str; 3] = ["401 unauthorized", "403 forbidden", "401 error"];

const NOT_LET_IN_HINT: &str = " (a package index wants a user and a password: write them into \
    build.index_url, or into the settings of pip or uv, which the builder inherits)";

/// What a builder is at when it says this; none when that says nothing about it.
pub(super) fn phase(line: &str) -> Option<&'static str> {
    let line = line.trim_start();
    PHASES.iter().find(|(beginning, _)| line.starts_with(beginning)).map(|(_, phase)| *phase)
}

/// What may be done about a failure with these last words; empty, or in parentheses.
pub(super) fn hint(words: &str) -> &'static str {
    let words = words.to_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| words.contains(text));
    match () {
        () if says(&NOT_LET_IN) => NOT_LET_IN_HINT,
        () if says(&NO_NETWORK) => NO_NETWORK_HINT,
        () => "",
    }
}

/// The last lines of a builder.
#[derive(Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    pub(super) fn push(&mut self, line: &str) {
        self.bytes += line.len();
        self.lines.push_back(line.to_owned());
        while self.lines.len() > WORDS_LINES_MAX
            || (self.bytes > WORDS_BYTES_MAX && self.lines.len() > 1)
        {
            let gone = self.lines.pop_front().map_or(0, |line| line.len());
            self.bytes -= gone;
        }
    }

    pub(super) fn text(&self) -> String {
        self.lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_bounded() {
        let mut tail = Tail::default();
        for number in 0..100 {
            tail.push(&format!("line {number}"));
        }
        assert_eq!(WORDS_LINES_MAX, tail.text().lines().count());
        assert!(tail.text().ends_with("  line 99"));
        for _ in 0..10 {
            tail.push(&"x".repeat(2000));
        }
        assert!(tail.text().len() <= WORDS_BYTES_MAX + 100, "{}", tail.text().len());
    }

    #[test]
    fn what_a_builder_is_at_is_read_off_its_words() {
        for (line, expected) in [
            ("Collecting numpy>=2", Some("resolving")),
            ("  Downloading numpy-2.0-cp312-manylinux.whl (19.5 MB)", Some("downloading")),
            ("Resolved 12 packages in 80ms", Some("downloading")),
            ("  Preparing metadata (pyproject.toml): started", Some("compiling")),
            ("Installing build dependencies: finished", Some("compiling")),
            ("Installing collected packages: a, b", Some("installing")),
            ("Prepared 2 packages in 1.2s", Some("installing")),
            ("whatever a package prints", None),
        ] {
            assert_eq!(expected, phase(line), "{line}");
        }
    }

    #[test]
    fn a_missing_network_and_a_closed_door_are_told_apart() {
        for (words, expected) in [
            ("WARNING: Retrying (...) after connection broken by 'NewConnectionError('", "network"),
            ("error: Failed to fetch: `https://x`\n  Caused by: dns error", "network"),
            ("ERROR: 401 Client Error: 401 Unauthorized for url", "password"),
        ] {
            assert!(hint(words).contains(expected), "{words}");
        }
        assert_eq!("", hint("ERROR: No matching distribution found for a"));
    }
}
