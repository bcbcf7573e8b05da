//! The repository checks itself: the habits that a reader relies on, as tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The longest line, in characters.
const LINE_CHARS_MAX: usize = 100;

/// The longest function, in lines.
const FUNCTION_LINES_MAX: usize = 70;

/// The longest file of shipped code, in lines before its tests.
const FILE_LINES_MAX: usize = 400;

/// The longest `mod.rs`, in lines.
const MOD_LINES_MAX: usize = 80;

/// A source file of the repository.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }

    fn is(&self, part: &str) -> bool {
        self.name().contains(part)
    }

    /// The text before the file's own tests.
    fn shipped(&self) -> &str {
        self.text.split("\n#[cfg(test)]\n").next().unwrap_or(&self.text)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is in the workspace").to_owned()
}

/// Every Rust and Python file of the project, with its path from the root.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let folders = [
        "bench",
        "cli",
        "client",
        "examples",
        "protocol",
        "py-worker",
        "supervisor",
        "tests",
        "worker-shim",
    ];
    for folder in folders {
        collect(&root(), Path::new(folder), &mut found);
    }
    assert!(found.len() > 100, "the project was not found: {} files", found.len());
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(folder)).expect("the folder is there") {
        let entry = entry.expect("it can be listed");
        let path = folder.join(entry.file_name());
        let name = entry.file_name();
        let is_source = Path::new(&name).extension().is_some_and(|e| e == "rs" || e == "py");
        if entry.path().is_dir() && name != "target" && name != "__pycache__" {
            collect(root, &path, found);
        } else if is_source {
            let text = fs::read_to_string(entry.path()).expect("it is text");
            found.push(Source { path, text });
        }
    }
}

#[track_caller]
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let opens = |source: &Source| {
        let first = source.text.lines().find(|line| !line.starts_with("#!")).unwrap_or("");
        let docs = ["//!", "\"\"\"", "r\"\"\""];
        docs.iter().any(|doc| first.starts_with(doc)) || source.text.trim().is_empty()
    };
    none(sources().iter().filter(|s| !opens(s)).map(Source::name).collect());
}

#[test]
fn lines_fit_a_screen() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if line.chars().count() > LINE_CHARS_MAX && !line.contains("http") {
                faults.push(format!("{}:{}", source.name(), number + 1));
            }
        }
    }
    none(faults);
}

#[test]
fn functions_fit_a_screen() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        if source.is("/tests/") || source.is("_tests.rs") {
            // A test reads as one story, however long.
            continue;
        }
        let lines: Vec<_> = source.text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let body = line.trim_start();
            let words =
                ["fn ", "pub fn ", "async fn ", "pub async fn ", "const fn ", "pub const fn "];
            let visible = body.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            if !words.iter().any(|word| visible.starts_with(word)) {
                continue;
            }
            let indent = &line[..line.len() - body.len()];
            let close = format!("{indent}}}");
            let end = lines[start..].iter().position(|line| **line == close).unwrap_or(0);
            if end + 1 > FUNCTION_LINES_MAX {
                faults.push(format!("{}:{} has {} lines", source.name(), start + 1, end + 1));
            }
        }
    }
    none(faults);
}

#[test]
fn files_can_be_read_in_one_go() {
    let mut faults = Vec::new();
    for source in sources() {
        let is_test = source.is("/tests/") || source.is("tests/workers") || source.is("_tests.rs");
        let lines = source.shipped().lines().count();
        if !is_test && lines > FILE_LINES_MAX {
            faults.push(format!("{} has {lines} lines", source.name()));
        }
        let is_map = source.path.file_name().is_some_and(|name| name == "mod.rs");
        let has_logic = source.shipped().contains("\nimpl ") || source.shipped().contains("\nfn ");
        if is_map && !has_logic && lines > MOD_LINES_MAX {
            faults.push(format!("{} has {lines} lines", source.name()));
        }
    }
    none(faults);
}

#[test]
fn policy_is_pure() {
    let banned = [
        "tokio",
        "nix::",
        "std::io",
        "std::fs",
        "std::net",
        "std::thread",
        ".await",
        "Instant::now",
    ];
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.is("supervisor/src/pool/")) {
        if source.is("_tests.rs") {
            continue;
        }
        for (number, line) in source.shipped().lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            faults.extend(
                banned
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| format!("{}:{} uses {word}", source.name(), number + 1)),
            );
        }
    }
    none(faults);
}

#[test]
fn the_serializer_and_the_unsafe_code_each_have_their_file() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let code = source.text.lines().map(|line| line.split("//").next().unwrap_or(""));
        for (number, line) in code.enumerate() {
            let place = || format!("{}:{}", source.name(), number + 1);
            if line.contains(&("bincode".to_owned() + "::")) && !source.is("protocol/src/wire.rs") {
                faults.push(format!("{} names the serializer", place()));
            }
            let is_block = line.contains("unsafe {") || line.contains("unsafe fn ");
            if is_block && !source.is("sys.rs") && !source.is("/tests/") && !source.is("tests/") {
                faults.push(format!("{} is unsafe outside a sys.rs", place()));
            }
        }
    }
    none(faults);
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "XX".to_owned() + "X"];
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                faults.push(format!("{}:{}", source.name(), number + 1));
            }
        }
    }
    none(faults);
}

/// PROTOCOL.md ends with a fingerprint of the files it describes. Whoever changes the wire has to
/// read the document again, and then writes the new fingerprint that this test prints.
#[test]
fn the_protocol_is_described_as_it_is() {
    let mut fingerprint = 0xcbf2_9ce4_8422_2325_u64;
    let names = [
        "kind.rs",
        "frame.rs",
        "message.rs",
        "guardian.rs",
        "program.rs",
        "failure.rs",
        "operate.rs",
        "limits.rs",
    ];
    for name in names {
        let text = fs::read_to_string(root().join("protocol/src").join(name)).expect(name);
        // Only what has meaning on the wire: neither comments nor the file's own tests.
        let shipped = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
        let code = shipped.lines().map(|line| line.split("//").next().unwrap_or("").trim());
        for byte in code.flat_map(str::bytes) {
            // FNV-1a, 64 bits.
            fingerprint = (fingerprint ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    let wanted = format!("<!-- sources: {fingerprint:016x} -->");
    let text = fs::read_to_string(root().join("docs/PROTOCOL.md")).expect("it is there");
    assert!(
        text.trim_end().ends_with(&wanted),
        "the protocol's sources have changed: bring docs/PROTOCOL.md up to date, and end it \
         with\n{wanted}"
    );
}

#[test]
fn the_changelog_has_a_place_for_what_comes() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).expect("it is there");
    assert!(text.contains("## [Unreleased]"));
}

/// The numbers of the faults that somebody who reads names has to find: `f007`, from the name of a
/// test that starts or ends with it.
fn faults_in(source: &Source) -> BTreeSet<u32> {
    let keyword = if source.is_rust() { "fn " } else { "def test_" };
    let names = source.text.lines().filter_map(|line| {
        let name = line.trim_start().trim_start_matches("async ").strip_prefix(keyword)?;
        name.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next()
    });
    let number = |word: &str| {
        let digits = word.strip_prefix('f').filter(|digits| digits.len() == 3)?;
        digits.parse::<u32>().ok()
    };
    names.flat_map(|name| name.split('_').filter_map(number)).collect()
}

/// Every fault of a worker, of its code, of a client, of the daemon's life and of the system below
/// has a test, or a reason in docs/TESTING.md why it has none; never both.
#[test]
fn every_fault_has_a_test_or_a_reason() {
    let wanted: BTreeSet<u32> = (1..=70).chain(93..=104).chain(128..=148).collect();
    let tested: BTreeSet<u32> = sources().iter().flat_map(faults_in).collect();
    let text = fs::read_to_string(root().join("docs/TESTING.md")).expect("it is there");
    let row = |line: &str| line.strip_prefix("| F")?.split(" |").next()?.parse::<u32>().ok();
    let reasoned: BTreeSet<u32> = text.lines().filter_map(row).collect();
    assert!(!reasoned.is_empty(), "the table of docs/TESTING.md was not found");
    let mut faults: Vec<_> = wanted
        .iter()
        .filter(|number| !tested.contains(number) && !reasoned.contains(number))
        .map(|number| format!("F{number:03} has neither a test nor a reason"))
        .collect();
    let both = reasoned.intersection(&tested);
    faults.extend(both.map(|number| format!("F{number:03} has a test, and a reason to have none")));
    none(faults);
}
