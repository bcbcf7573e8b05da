//! Help a newcomer can act on: every verb has it, with examples that are right.

use crate::clutch;

const VERBS: [(&str, &[&str]); 17] = [
    ("serve", &["clutch serve --config", "SIGTERM", "CLUTCH_LOG", "--log-format"]),
    (
        "call",
        &[
            "clutch call --local math:sqrt 2",
            "keyword argument",
            "standard input",
            "--timeout",
            "--python",
            "behind --",
            "--report",
        ],
    ),
    ("map", &["--on-error", "--unordered", "--chunk", "--window", "--no-progress", "blank lines"]),
    ("status", &["--json", "jq", "--schema"]),
    ("workers", &["--pool", "--json", "clutch explain"]),
    (
        "pool",
        &["pause", "resume", "drain", "resize default 1..8", "recycle", "reset", "crash_loop"],
    ),
    ("stack", &["POOL/SLOT", "--pool", "Exit code 7"]),
    ("explain", &["--json", "Exit code 2", "(call 17)"]),
    ("cancel", &["Exit code 2", "clutch.Cancelled"]),
    ("ping", &["--count", "exit code 3"]),
    ("plan", &["--config", "--json", "ends with 8"]),
    ("pythons", &["--config", "--json", "pyenv"]),
    ("reload", &["--no-wait", "--json", "exit code 8"]),
    ("stop", &["--now", "--wait", "exit code 4"]),
    ("config", &["check", "default", "schema", "clutch config default > clutch.toml"]),
    ("env", &["list", "build", "gc", "path", "clutch env gc --dry-run"]),
    ("completions", &["bash", "zsh", "fish"]),
];

#[test]
fn every_verb_explains_itself_with_examples() {
    for (verb, phrases) in VERBS {
        let help = clutch([verb, "--help"]).expect_code(0);
        assert_eq!("", help.stderr, "{verb}");
        assert!(help.stdout.contains("Examples:"), "{verb}: {}", help.stdout);
        assert!(help.stdout.contains("--socket"), "{verb}: {}", help.stdout);
        for phrase in phrases {
            assert!(help.stdout.contains(phrase), "{verb}: {phrase:?} in {}", help.stdout);
        }
        assert!(!help.stdout.contains("shim"), "{verb}: the guardian is hidden");
    }
}

#[test]
fn the_first_page_has_every_verb_and_exit_code() {
    let help = clutch(["--help"]).expect_code(0).stdout;
    for (verb, _) in VERBS {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb} in {help}");
    }
    for code in (0..=8).chain([129, 130, 143]) {
        assert!(help.contains(&format!("\n  {code}  ")), "{code} in {help}");
    }
    assert!(!help.contains("shim"), "the guardian is hidden: {help}");
    let nothing: [&str; 0] = [];
    clutch(nothing).expect_code(2).expect_stderr("Usage: clutch");
}

#[test]
fn lines_of_help_fit_a_terminal() {
    for (verb, _) in VERBS {
        for flag in ["-h", "--help"] {
            let help = clutch([verb, flag]).stdout;
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{verb} {flag}: {line:?}");
            }
        }
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = clutch(["--version"]).expect_code(0).stdout;
    assert_eq!(concat!("clutch ", env!("CARGO_PKG_VERSION"), "\n"), version);
}
