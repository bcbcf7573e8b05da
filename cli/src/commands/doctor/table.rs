//! Findings for people: the worst first, a line for each, and below it what to do.
//!
//! What is the same in several pools is said once. On a terminal nothing is longer than its lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clutch_supervisor::doctor::{Finding, Status};

/// Lines of a traceback that are shown; the last ones, which say what it is about.
const DETAIL_LINES_MAX: usize = 12;

/// The longest text of one check, in characters; `--json` has all of it.
const TEXT_CHARS_MAX: usize = 400;

/// Where fewer columns than this are left for the finding, it gets lines of its own.
const FINDING_COLUMNS_LEAST: usize = 40;

/// How far those are moved in.
const STEP: usize = 4;

const HEAD: [&str; 4] = ["STATUS", "POOL", "CHECK", "FINDING"];

/// What is the same in some pools.
struct Row<'a> {
    pools: Vec<&'a str>,
    finding: &'a Finding,
}

impl Row<'_> {
    fn pools(&self) -> String {
        if self.pools.is_empty() { "-".to_owned() } else { self.pools.join(",") }
    }
}

/// All findings as text, for a terminal of so many columns, or for a file.
pub(super) fn table(findings: &[Finding], width: Option<usize>) -> String {
    let rows = rows(findings);
    let longest = |head: &str, of: &dyn Fn(&Row<'_>) -> String| {
        let widths = rows.iter().map(|row| of(row).chars().count());
        widths.chain([head.len()]).max().unwrap_or(0)
    };
    let pools = longest(HEAD[1], &|row| row.pools());
    let checks = longest(HEAD[2], &|row| row.finding.title());
    let left = format!("{:7}  {:pools$}  {:checks$}  ", "", "", "").len();
    let is_narrow = width.is_some_and(|width| width < left + FINDING_COLUMNS_LEAST);
    let indent = if is_narrow { STEP } else { left };
    let room = width.map(|width| width.saturating_sub(indent).max(STEP));

    let mut text = String::new();
    let head = |status: &str, pool: &str, check: &str| {
        if is_narrow {
            format!("{status:7}  {pool}  {check}")
        } else {
            format!("{status:7}  {pool:pools$}  {check:checks$}  ")
        }
    };
    let first = head(HEAD[0], HEAD[1], HEAD[2]);
    let _ = writeln!(text, "{first}{}", if is_narrow { "" } else { HEAD[3] });
    for row in &rows {
        let finding = row.finding;
        let first = head(finding.status.name(), &row.pools(), &finding.title());
        if finding.status < Status::Warn {
            // Nobody has to read it to its end.
            let colon = if is_narrow { ": " } else { "" };
            let line = format!("{first}{colon}{}", one_line(&finding.text));
            let _ = writeln!(text, "{}", shortened(line, width));
            continue;
        }
        let mut lines = wrapped(&one_line(&finding.text), room);
        lines.extend(wrapped(&format!("-> {}", finding.advice), room));
        lines.extend(detail(finding));
        let beside = if is_narrow { String::new() } else { lines.remove(0) };
        let _ = writeln!(text, "{first}{beside}");
        for line in lines {
            let _ = writeln!(text, "{:indent$}{line}", "");
        }
    }
    text + &summary(findings, width)
}

/// How many of each, and the names of what fails: the last thing that is left on a screen.
fn summary(findings: &[Finding], width: Option<usize>) -> String {
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let mut failed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.status == Status::Fail) {
        let pool = finding.pool.as_deref().unwrap_or("the machine");
        failed.entry(pool).or_default().push(finding.title());
    }
    let failed: Vec<_> =
        failed.iter().map(|(pool, titles)| format!("{pool}: {}", titles.join(", "))).collect();
    let failed = match failed.is_empty() {
        true => String::new(),
        false => wrapped(&format!("failed: {}", failed.join("; ")), width).join("\n") + "\n",
    };
    format!(
        "{failed}{} checks: {} fail, {} warn, {} skipped, {} ok\n",
        findings.len(),
        count(Status::Fail),
        count(Status::Warn),
        count(Status::Skipped),
        count(Status::Ok)
    )
}

/// The worst first, otherwise in their order; those of several pools that say the same as one.
fn rows(findings: &[Finding]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for finding in findings {
        let is_same = |row: &&mut Row<'_>| {
            let (one, other) = (row.finding, finding);
            let alike = one.title() == other.title() && one.status == other.status;
            alike && one.text == other.text && one.advice == other.advice && one.pool.is_some()
        };
        let pool = finding.pool.as_deref();
        match (rows.iter_mut().find(is_same), pool) {
            (Some(row), Some(pool)) => row.pools.push(pool),
            _ => rows.push(Row { pools: pool.into_iter().collect(), finding }),
        }
    }
    // Of those that may be skipped over, what is well comes last.
    let rank = |row: &Row<'_>| std::cmp::Reverse(row.finding.status);
    rows.sort_by_key(rank);
    rows
}

/// The end of a traceback or stack, if it says more than the finding's text.
fn detail(finding: &Finding) -> Vec<String> {
    let all: Vec<_> = finding.detail.lines().collect();
    if all.len() == 1 && finding.text.contains(all[0].trim()) {
        return Vec::new();
    }
    let skipped = all.len().saturating_sub(DETAIL_LINES_MAX);
    let more = (skipped > 0).then(|| format!("  ({skipped} lines more with --json)"));
    more.into_iter().chain(all[skipped..].iter().map(|line| format!("  {line}"))).collect()
}

/// A text in lines of so many characters, cut between words. A longer word is left whole.
fn wrapped(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else { return vec![text.to_owned()] };
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A line that is no longer than that, with a sign that it was.
fn shortened(line: String, width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    if line.chars().count() <= width {
        return line;
    }
    line.chars().take(width.saturating_sub(3)).chain("...".chars()).collect()
}

fn one_line(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match joined.char_indices().nth(TEXT_CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &joined[..cut]),
        None => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad() -> Finding {
        let bad = Finding::new("import", Status::Fail, "a\nb", "do this").of("default");
        Finding { subject: Some("m".to_owned()), ..bad }.with_detail("Trace\nLast")
    }

    #[test]
    fn the_worst_comes_first_and_what_to_do_stands_below() {
        let warning = Finding::new("threads", Status::Warn, "too many", "set less").of("b");
        let findings = [
            Finding::ok("clock", "set"),
            Finding::ok("temp", "fine").of("a"),
            Finding::ok("temp", "fine").of("b"),
            warning,
            bad(),
        ];
        let expected = "\
STATUS   POOL     CHECK     FINDING
fail     default  import m  a b
                            -> do this
                              Trace
                              Last
warn     b        threads   too many
                            -> set less
ok       -        clock     set
ok       a,b      temp      fine
failed: default: import m
5 checks: 1 fail, 1 warn, 0 skipped, 3 ok
";
        assert_eq!(expected, table(&findings, None));
    }

    #[test]
    fn on_a_narrow_terminal_a_finding_has_lines_of_its_own() {
        let long = Finding { text: "some words and more of them".to_owned(), ..bad() };
        let findings = [long, Finding::ok("temp", "/tmp is writable and has room").of("a")];
        let expected = "\
STATUS   POOL  CHECK
fail     default  import m
    some words and
    more of them
    -> do this
      Trace
      Last
ok       a  tem...
";
        let text = table(&findings, Some(18));
        assert!(text.starts_with(expected), "{text}");
        for width in [60, 80, 120] {
            let text = table(&findings, Some(width));
            assert!(text.lines().all(|line| line.trim_end().chars().count() <= width), "{text}");
        }
    }

    #[test]
    fn long_texts_and_tracebacks_are_cut_to_what_matters() {
        let detail: Vec<_> = (0..20).map(|line| format!("line {line}")).collect();
        let bad = Finding::new("main", Status::Fail, "x".repeat(1_000), "y");
        let text = table(&[bad.with_detail(detail.join("\n"))], None);
        assert!(text.contains("(8 lines more") && !text.contains("line 7\n"), "{text}");
        assert!(text.contains("line 8\n") && text.contains("line 19\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 450), "{text}");
    }

    #[test]
    fn a_traceback_that_says_no_more_than_the_finding_is_left_out() {
        let bad = Finding::new("import", Status::Fail, "`m` fails: E: no", "y");
        let text = table(&[bad.clone().with_detail("E: no")], None);
        assert_eq!(1, text.matches("E: no").count(), "{text}");
        let text = table(&[bad.with_detail("File\nE: no")], None);
        assert_eq!(2, text.matches("E: no").count(), "{text}");
    }
}
