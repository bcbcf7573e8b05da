//! `docs/STATUS.md`, the schema and what a daemon prints say the same: no field is undocumented,
//! and none is documented that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use clutch_tests::ground::{Ground, needs};
use clutch_tests::packages::Slow;
use clutch_tests::{Clutch, Pool, SECOND, kill, wait_for};
use serde_json::Value;

/// Fields by their path, with their types as the page writes them.
type Fields = BTreeMap<String, String>;

fn page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/STATUS.md");
    std::fs::read_to_string(page).expect("the page is there")
}

/// What the page documents: the rows whose first cell is a path in backticks.
fn documented() -> Fields {
    let text = page();
    let mut fields = Fields::new();
    let rows =
        text.lines().filter(|line| line.starts_with("| `daemon") || line.starts_with("| `pools"));
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(4, cells.len(), "a field's row has four cells: {row}");
        assert!(!cells[3].is_empty(), "what is it? {row}");
        let name = cells[0].trim_matches('`').to_owned();
        assert!(fields.insert(name, cells[1].to_owned()).is_none(), "twice: {row}");
        for (end, unit) in [("_ms", "ms"), ("_bytes", "bytes")] {
            let has = cells[0].trim_matches('`').ends_with(end);
            assert!(!has || cells[2] == unit, "its unit is {unit}: {row}");
        }
    }
    fields
}

struct Schema(Value);

impl Schema {
    fn follow<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node["$ref"].as_str() {
            Some(to) => &self.0["$defs"][to.rsplit('/').next().expect("it has parts")],
            None => node,
        }
    }

    /// The type in words: `string`, `object or null`.
    fn type_of(&self, node: &Value) -> String {
        let node = self.follow(node);
        let join = |types: BTreeSet<String>| {
            let mut types: Vec<_> = types.into_iter().collect();
            types.sort_by_key(|one| one == "null");
            types.join(" or ")
        };
        if let Some(several) = node["anyOf"].as_array().or(node["oneOf"].as_array()) {
            return join(several.iter().map(|one| self.type_of(one)).collect());
        }
        match &node["type"] {
            Value::String(one) => one.clone(),
            Value::Array(several) => {
                join(several.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
            }
            other => panic!("no type: {other} in {node}"),
        }
    }

    fn walk(&self, node: &Value, path: &str, fields: &mut Fields) {
        let mut node = self.follow(node);
        if let Some(several) = node["anyOf"].as_array() {
            let real = several.iter().find(|one| one["type"] != "null").expect("one is no null");
            node = self.follow(real);
        }
        if node["type"] == "array" {
            return self.walk(&node["items"], &format!("{path}[]"), fields);
        }
        let Some(properties) = node["properties"].as_object() else { return };
        for (name, inner) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            fields.insert(path.clone(), self.type_of(inner));
            self.walk(inner, &path, fields);
        }
        let required = node["required"].as_array().map_or(0, Vec::len);
        assert_eq!(properties.len(), required, "{path}: every field is always printed");
    }
}

#[test]
fn the_page_documents_what_the_schema_has() {
    let text = Clutch::command(["status", "--schema"]).run().expect_code(0).stdout;
    let schema = Schema(serde_json::from_str(&text).expect("the schema is JSON"));
    let mut fields = Fields::new();
    schema.walk(&schema.0, "", &mut fields);
    let documented = documented();
    assert!(fields.len() > 40, "{fields:?}");
    for (field, type_name) in &fields {
        let wanted = Some(type_name);
        assert_eq!(wanted, documented.get(field), "{field} in docs/STATUS.md has another type");
    }
    for field in documented.keys() {
        assert!(fields.contains_key(field), "{field} is documented, but there is none");
    }
}

/// Every path in a printed status. An object whose keys are data is one field.
fn printed(value: &Value, path: &str, known: &Fields, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(inner) => {
            let begins = |field: &String| field.starts_with(&format!("{path}."));
            if !path.is_empty() && !known.keys().any(begins) && known.contains_key(path) {
                return;
            }
            for (name, value) in inner {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields.insert(path.clone());
                printed(value, &path, known, fields);
            }
        }
        Value::Array(items) => {
            let path = format!("{path}[]");
            items.iter().for_each(|item| {
                if let Value::Object(inner) = item {
                    for (name, value) in inner {
                        fields.insert(format!("{path}.{name}"));
                        printed(value, &format!("{path}.{name}"), known, fields);
                    }
                }
            });
        }
        _ => {}
    }
}

#[test]
fn a_daemon_prints_what_the_page_documents_and_nothing_else() {
    // Slow enough that its imports are told.
    let tmp = clutch_tests::Tmp::new();
    let code = "import time, clutch\ntime.sleep(0.6)\ndef tells():\n    \
                clutch.progress(1, 2, 'half of it')\n    time.sleep(60)\n";
    tmp.write("code/slow.py", code);
    let slow = |pool: Pool| pool.workers(2).path(tmp.join("code")).preload(&["slow"]);
    // And one whose environment is not there before this is over.
    let ground = Ground::new();
    let never = Slow::new(&ground.tmp).requirement();
    let daemon =
        ground.daemon().pool("default", slow).pool("waits", needs(&[&never])).start_partly();
    wait_for("it is built", 60 * SECOND, || daemon.status().pools[1].building.is_some());
    let victim = daemon.worker_pids("default")[0];
    kill(victim);
    wait_for("the death is known", 10 * SECOND, || daemon.status().pools[0].last_death.is_some());
    let program = daemon.command(["run", "-c", "input()"]);
    let mut program = program.spawn(Stdio::piped(), Stdio::null(), Stdio::null());
    let runs = || daemon.status().pools[0].runs.iter().any(|run| run.pid > 0);
    wait_for("a program runs", 20 * SECOND, runs);
    let mut client = daemon.raw();
    client.start("default", "slow:tells", "[]");
    let has_told = || {
        let status = daemon.status();
        let mut calls = status.pools[0].workers.iter().flat_map(|worker| &worker.calls);
        calls.any(|call| call.progress.is_some())
    };
    wait_for("a call says how far it has come", 20 * SECOND, has_told);
    let text = daemon.cli(["status", "--json"]).expect_code(0).stdout;
    drop(program.stdin.take());
    program.wait().expect("it is ours");
    let status: Value = serde_json::from_str(&text).expect("a status is JSON");
    let documented = documented();
    let mut fields = BTreeSet::new();
    printed(&status, "", &documented, &mut fields);
    let wanted: BTreeSet<_> = documented.keys().cloned().collect();
    let missing: Vec<_> = wanted.difference(&fields).collect();
    let unknown: Vec<_> = fields.difference(&wanted).collect();
    assert!(missing.is_empty(), "documented, but not printed: {missing:?}");
    assert!(unknown.is_empty(), "printed, but not documented: {unknown:?}");
    let page = page();
    for counters in [&status["daemon"]["counters"], &status["pools"][0]["counters"]] {
        for name in counters.as_object().expect("they have names").keys() {
            let group = name.split_inclusive('.').next().expect("a name is not empty");
            let known = page.contains(&format!("`{name}`")) || group.ends_with('.');
            assert!(known && page.contains(&format!("`{group}")), "the counter {name} is unknown");
        }
    }
}

/// The counters' names in the page's two tables.
fn documented_counters() -> BTreeSet<String> {
    let text = page();
    let section = text.split("## Counters").nth(1).expect("the page has a section of them");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = cells.filter_map(|line| line.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split('`')).map(str::to_owned);
    let is_name = |name: &String| name.starts_with(|c: char| c.is_ascii_lowercase());
    names.filter(is_name).collect()
}

/// The names that the daemon's code certainly gives to counters, and all its texts.
fn counted_names() -> (BTreeSet<String>, BTreeSet<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../supervisor/src");
    let (mut names, mut texts) = (BTreeSet::new(), BTreeSet::new());
    for file in clutch_tests::daemon::files_below(&root) {
        let text = std::fs::read_to_string(root.join(&file)).expect("our own sources are text");
        let code = text.split("#[cfg(test)]").next().expect("there is a first part");
        let is_door = file == Path::new("door.rs");
        let mut literals = code.split('"');
        let mut before = literals.next().expect("there is a first part");
        while let (Some(literal), Some(after)) = (literals.next(), literals.next()) {
            let calls = [".one(", ".one(format!(", ".add(", ".count(", "counters.insert("];
            let is_call = calls.iter().any(|call| before.trim_end().ends_with(call));
            let groups = ["answered.", "deaths.", "retries.", "refused."];
            let is_grouped = groups.iter().any(|group| literal.starts_with(group));
            let is_end = is_door && before.ends_with("=> ");
            if is_call || is_grouped || is_end {
                names.insert(literal.to_owned());
            }
            texts.insert(literal.to_owned());
            before = after;
        }
    }
    (names, texts)
}

#[test]
fn the_page_documents_every_counter_there_is_and_no_other() {
    let (documented, (counted, texts)) = (documented_counters(), counted_names());
    assert!(counted.len() > 50 && documented.len() > 40, "{counted:?} {documented:?}");
    let group = |name: &str| name.split_once('.').map(|(group, _)| format!("{group}."));
    let groups: BTreeSet<_> = documented.iter().filter_map(|name| group(name)).collect();
    let is_known = |name: &&String| {
        documented.contains(*name) || group(name).is_some_and(|group| groups.contains(&group))
    };
    let unknown: Vec<_> = counted.iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "counted, but not documented: {unknown:?}");
    let is_counted = |name: &&String| {
        let (family, member) = name.rsplit_once('.').unwrap_or((name, ""));
        let open = format!("{family}.{{}}");
        texts.contains(*name) || (!member.is_empty() && texts.contains(&open))
    };
    let dead: Vec<_> = documented.iter().filter(|name| !is_counted(name)).collect();
    assert!(dead.is_empty(), "documented, but never counted: {dead:?}");
}
