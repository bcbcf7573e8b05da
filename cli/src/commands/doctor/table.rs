//! Findings for people: a line for each check, and below it what to do.

use std::fmt::Write as _;

use clutch_supervisor::doctor::{Finding, Status};

/// Lines of a traceback that are shown; the last ones, which say what it is about.
const DETAIL_LINES_MAX: usize = 12;

/// The longest text of one check, in characters; `--json` has all of it.
const TEXT_CHARS_MAX: usize = 400;

const HEAD: [&str; 4] = ["POOL", "CHECK", "STATUS", "FINDING"];

/// All findings as text.
pub(super) fn table(findings: &[Finding]) -> String {
    let pool = |finding: &Finding| finding.pool.clone().unwrap_or_else(|| "-".to_owned());
    let width = |head: &str, of: &dyn Fn(&Finding) -> String| {
        let widths = findings.iter().map(|finding| of(finding).chars().count());
        widths.chain([head.len()]).max().unwrap_or(0)
    };
    let (pools, checks) = (width(HEAD[0], &pool), width(HEAD[1], &Finding::title));
    let mut text = String::new();
    let mut line = |pool: &str, check: &str, status: &str, rest: &str| {
        let _ = writeln!(text, "{pool:pools$}  {check:checks$}  {status:7}  {rest}");
    };
    line(HEAD[0], HEAD[1], HEAD[2], HEAD[3]);
    for finding in findings {
        line(&pool(finding), &finding.title(), finding.status.name(), &one_line(&finding.text));
        if finding.status < Status::Warn {
            continue;
        }
        let detail: Vec<_> = finding.detail.lines().collect();
        let skipped = detail.len().saturating_sub(DETAIL_LINES_MAX);
        if skipped > 0 {
            line("", "", "", &format!("  ({skipped} lines more with --json)"));
        }
        for words in &detail[skipped..] {
            line("", "", "", &format!("  {words}"));
        }
        line("", "", "", &format!("-> {}", finding.advice));
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let _ = writeln!(
        text,
        "{} checks: {} ok, {} warn, {} fail, {} skipped",
        findings.len(),
        count(Status::Ok),
        count(Status::Warn),
        count(Status::Fail),
        count(Status::Skipped)
    );
    text
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

    #[test]
    fn columns_are_aligned_and_what_to_do_stands_below() {
        let bad = Finding::new("import", Status::Fail, "a\nb", "do this").of("default");
        let bad = Finding { subject: Some("m".to_owned()), ..bad }.with_detail("Trace\nLast");
        let text = table(&[Finding::ok("clock", "set"), bad]);
        let expected = "\
POOL     CHECK     STATUS   FINDING
-        clock     ok       set
default  import m  fail     a b
                              Trace
                              Last
                            -> do this
2 checks: 1 ok, 0 warn, 1 fail, 0 skipped
";
        assert_eq!(expected, text);
    }

    #[test]
    fn long_texts_and_tracebacks_are_cut_to_what_matters() {
        let detail: Vec<_> = (0..20).map(|line| format!("line {line}")).collect();
        let bad = Finding::new("main", Status::Fail, "x".repeat(1_000), "y");
        let text = table(&[bad.with_detail(detail.join("\n"))]);
        assert!(text.contains("(8 lines more") && !text.contains("line 7\n"), "{text}");
        assert!(text.contains("line 8\n") && text.contains("line 19\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 450), "{text}");
    }
}
