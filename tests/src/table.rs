//! The tables of `docs/COMPATIBILITY.md`, which hold what the tests have seen.
//!
//! A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Its first two columns say what
//! was tried, each further one holds what one interpreter (or set of packages) made of it.
//! `UPDATE_GOLDEN=1` writes what was seen; otherwise a difference fails the test. Columns of
//! interpreters that this machine lacks stay as they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What was tried: its group, and the thing itself.
pub type Row = (String, String);

/// What came of each row, in one column.
pub type Column = Vec<(Row, String)>;

/// What stands where nothing is known.
const UNKNOWN: &str = "?";

/// Tests of one program share the file; programs run one after the other.
static FILE: Mutex<()> = Mutex::new(());

/// Compares what was seen with the table of this name, or writes it there.
///
/// # Panics
///
/// When the table says something else, or there is none.
#[track_caller]
pub fn compare(name: &str, seen: &BTreeMap<(u32, u32), Column>, title: fn((u32, u32)) -> String) {
    assert!(seen.values().all(|column| !column.is_empty()), "nothing was seen");
    let _file = FILE.lock();
    let path = path();
    let text = std::fs::read_to_string(&path).expect("docs/COMPATIBILITY.md is there");
    let (from, to) = place(&text, name);
    let old = &text[from..to];
    let is_update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut seen = seen.clone();
    if !is_update {
        let (titles, _) = parse(old);
        seen.retain(|version, _| {
            let is_there = titles.contains(&title(*version));
            if !is_there {
                let reason = format!("the table {name} has no column {}", title(*version));
                crate::say_skipped(module_path!(), &reason);
            }
            is_there
        });
        if seen.is_empty() {
            return;
        }
    }
    let new = render(&merge(old, &seen, title));
    if is_update {
        let text = [&text[..from], &new, &text[to..]].concat();
        std::fs::write(&path, text).expect("the docs can be written to");
        return;
    }
    let differences = differences(old, &new);
    assert!(
        differences.is_empty(),
        "docs/COMPATIBILITY.md, table {name}, is not what was seen (`UPDATE_GOLDEN=1` writes \
         that):\n{differences}"
    );
}

/// The title of an interpreter's column.
pub fn dotted((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/COMPATIBILITY.md")
}

/// Where the lines of the table begin and end.
#[track_caller]
fn place(text: &str, name: &str) -> (usize, usize) {
    let mark = format!("<!-- table: {name} -->\n");
    let from = text.find(&mark).map(|at| at + mark.len());
    let from = from.unwrap_or_else(|| panic!("docs/COMPATIBILITY.md has no table {name}"));
    let to = text[from..].find("<!-- end -->").expect("a table has an end");
    (from, from + to)
}

type Rows = Vec<(Row, Vec<String>)>;

/// Titles of the columns behind the first two, and rows.
fn parse(text: &str) -> (Vec<String>, Rows) {
    let mut lines = text.lines().filter(|line| line.starts_with('|')).map(|line| {
        let inner = line.trim_matches('|');
        inner.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    });
    let titles = lines.next().unwrap_or_default().split_off_or_empty(2);
    let rows = lines.skip(1).filter(|cells| cells.len() >= 2);
    let rows = rows.map(|mut cells| {
        let rest = cells.split_off(2);
        let what = cells.pop().unwrap_or_default();
        ((cells.pop().unwrap_or_default(), what), rest)
    });
    (titles, rows.collect())
}

trait SplitOff {
    fn split_off_or_empty(self, at: usize) -> Vec<String>;
}

impl SplitOff for Vec<String> {
    fn split_off_or_empty(mut self, at: usize) -> Vec<String> {
        if self.len() < at { Vec::new() } else { self.split_off(at) }
    }
}

/// The old table with what was seen in it. The rows are those that were seen.
fn merge(
    old: &str,
    seen: &BTreeMap<(u32, u32), Column>,
    title: fn((u32, u32)) -> String,
) -> (Vec<String>, Rows) {
    let (old_titles, old_rows) = parse(old);
    let seen: Vec<(String, &Column)> =
        seen.iter().map(|(version, column)| (title(*version), column)).collect();
    let mut titles: Vec<String> = old_titles.clone();
    titles.extend(seen.iter().map(|(title, _)| title.clone()));
    titles.sort_by_key(|title| numbers(title));
    titles.dedup();
    let known = |row: &Row, title: &String| -> Option<String> {
        let (_, cells) = old_rows.iter().find(|(old, _)| old == row)?;
        cells.get(old_titles.iter().position(|old| old == title)?).cloned()
    };
    let mut rows = Vec::new();
    for (row, _) in seen.first().map_or(&Vec::new(), |(_, column)| column) {
        let cells = titles.iter().map(|title| {
            let column = seen.iter().find(|(seen, _)| seen == title).map(|(_, column)| column);
            let cell = match column {
                Some(column) => column.iter().find(|(seen, _)| seen == row).map(|(_, c)| c.clone()),
                None => known(row, title),
            };
            cell.unwrap_or_else(|| UNKNOWN.to_owned())
        });
        let cells = cells.collect();
        rows.push((row.clone(), cells));
    }
    (titles, rows)
}

/// `3.10` behind `3.9`.
fn numbers(title: &str) -> Vec<u32> {
    title.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

fn render((titles, rows): &(Vec<String>, Rows)) -> String {
    let mut text = format!("\n| | what | {} |\n|---|---|", titles.join(" | "));
    text.push_str(&"---|".repeat(titles.len()));
    text.push('\n');
    for ((group, what), cells) in rows {
        let _ = writeln!(text, "| {group} | {what} | {} |", cells.join(" | "));
    }
    text.push('\n');
    text
}

fn differences(old: &str, new: &str) -> String {
    let mut text = String::new();
    for line in old.lines().filter(|line| !new.lines().any(|other| other == *line)) {
        let _ = writeln!(text, "- {line}");
    }
    for line in new.lines().filter(|line| !old.lines().any(|other| other == *line)) {
        let _ = writeln!(text, "+ {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(cells: [&str; 2]) -> Column {
        let row = |what: &str, cell: &str| (("g".to_owned(), what.to_owned()), cell.to_owned());
        vec![row("a", cells[0]), row("b", cells[1])]
    }

    #[test]
    fn what_was_not_seen_stays_and_what_was_seen_replaces() {
        let first =
            BTreeMap::from([((3, 9), column(["same", "no"])), ((3, 10), column(["-", "-"]))]);
        let old = render(&merge("", &first, dotted));
        assert_eq!(
            "\n| | what | 3.9 | 3.10 |\n|---|---|---|---|\n\
             | g | a | same | - |\n| g | b | no | - |\n\n",
            old
        );
        assert_eq!(old, render(&merge(&old, &first, dotted)), "nothing has changed");
        let second = BTreeMap::from([((3, 9), column(["same", "same"]))]);
        let new = render(&merge(&old, &second, dotted));
        assert_eq!("- | g | b | no | - |\n+ | g | b | same | - |\n", differences(&old, &new));
    }
}
