//! `clutch doctor` on environments that were broken on purpose: each is found under its own check,
//! named, and told with what to do. A whole one passes.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use clutch_tests::builder::private_environment;
use clutch_tests::command::Output;
use clutch_tests::tmp::Tmp;
use clutch_tests::{Clutch, Program, Python, SECOND, skip};
use serde_json::Value;

/// A folder of its own, with `clutch.toml` for one pool that runs the newest Python here.
struct Patient {
    tmp: Tmp,
}

impl Patient {
    fn new(keys: &str) -> Patient {
        Patient::of(&Python::any().path, keys)
    }

    fn of(python: &Path, keys: &str) -> Patient {
        Patient::with_workers(1, python, keys)
    }

    fn with_workers(count: u32, python: &Path, keys: &str) -> Patient {
        let tmp = Tmp::new();
        let text = format!("[pools.sick]\nworkers = {count}\npython = {python:?}\n{keys}\n");
        tmp.write("clutch.toml", text);
        Patient { tmp }
    }

    fn run(&self, prefix: &[&str], words: &[&str]) -> Output {
        let binary = Clutch::binary().to_str().expect("test paths are text");
        let all = [prefix, &[binary, "doctor"], words].concat();
        Clutch::private(Program::new(all[0]))
            .args(&all[1..])
            .envs(private_environment(&self.tmp))
            .dir(self.tmp.path())
            .timeout(180 * SECOND)
            .run()
    }

    fn examine(&self, words: &[&str]) -> Report {
        self.examine_through(&[], words)
    }

    #[track_caller]
    fn examine_through(&self, prefix: &[&str], words: &[&str]) -> Report {
        let output = self.run(prefix, &[&["--json"], words].concat());
        let json = serde_json::from_str(&output.stdout);
        let json = json.unwrap_or_else(|error| {
            panic!("{error}: exit code {}\n{}\n{}", output.code, output.stdout, output.stderr)
        });
        Report { json, code: output.code, took: output.took }
    }
}

/// What `clutch doctor --json` has printed.
struct Report {
    json: Value,
    code: i32,
    took: Duration,
}

impl Report {
    /// The finding of a check about a subject, if any.
    #[track_caller]
    fn finding(&self, check: &str, subject: Option<&str>) -> &Value {
        let all = self.json["findings"].as_array().expect("it is a list");
        let is_it = |it: &&Value| it["check"] == check && it["subject"].as_str() == subject;
        all.iter()
            .find(is_it)
            .unwrap_or_else(|| panic!("no {check} {subject:?} in {:#}", self.json))
    }

    /// That check fails; its text and its advice hold all these words.
    #[track_caller]
    fn fails(&self, check: &str, subject: Option<&str>, text: &[&str], advice: &[&str]) {
        let finding = self.finding(check, subject);
        assert_eq!(("fail", 8), (word(finding, "status"), self.code), "{finding:#}");
        assert_eq!("fail", self.json["status"]);
        for part in text {
            assert!(word(finding, "text").contains(part), "{part:?} in {finding:#}");
        }
        for part in advice {
            assert!(word(finding, "advice").contains(part), "{part:?} in {finding:#}");
        }
    }

    /// Nothing else of the pool fails.
    #[track_caller]
    fn only_fails(&self, check: &str) {
        let all = self.json["findings"].as_array().expect("it is a list");
        let others: Vec<_> =
            all.iter().filter(|it| it["status"] == "fail" && it["check"] != check).collect();
        assert!(others.is_empty(), "{others:#?}");
    }
}

#[track_caller]
fn word<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().expect("it is text")
}

fn has(program: &str) -> bool {
    Program::new("sh").args(["-c", "command -v \"$0\"", program]).run().code == 0
}

/// Builds a shared object from C; gives whether that worked.
fn compile(tmp: &Tmp, name: &str, source: &str, more: &[&str]) -> bool {
    let source = tmp.write(format!("{name}.c"), source);
    let library = tmp.join(name);
    let words = ["-shared", "-fPIC", "-o", library.to_str().expect("test paths are text")];
    let source = source.to_str().expect("test paths are text");
    let words = [&words[..], &[source], more].concat();
    Program::new("gcc").args(words).dir(tmp.path()).run().code == 0
}

#[test]
fn a_whole_pool_passes_on_every_python() {
    for python in Python::supported() {
        let start = "preload = [\"json\"]\nmain = \"tasks.py\"\n\
                     initializer = \"__main__:begin\"\ninitargs = [1, { two = \"x\" }]\n\
                     warm = [\"__main__:load\", \"random:random\"]";
        let patient = Patient::of(&python.path, start);
        let tasks = "import decimal, json, sys\n\
                     def begin(*arguments):\n    global begun\n    begun = json.dumps(arguments)\n\
                     async def load():\n    assert begun == '[1, {\"two\": \"x\"}]', begun\n\
                     \x20   assert sys.argv == ['tasks.py'], sys.argv\n";
        patient.tmp.write("tasks.py", tasks);
        let report = patient.examine(&["sqlite3"]);
        assert_eq!(0, report.code, "{python}: {:#}", report.json);
        let all = report.json["findings"].as_array().expect("it is a list");
        let ids = ["interpreter", "environment", "variables", "shadowed", "threads", "limits"];
        let more = ["temp", "subprocess", "shm", "socket", "state", "open_files", "clock"];
        for check in ids.iter().chain(&more) {
            let finding = report.finding(check, None);
            assert!(["ok", "warn"].contains(&word(finding, "status")), "{python}: {finding:#}");
        }
        for method in ["fork", "spawn", "forkserver"] {
            assert_eq!("ok", report.finding("multiprocessing", Some(method))["status"]);
        }
        for (check, subject) in [
            ("import", "json"),
            ("import", "sqlite3"),
            ("main", "tasks.py"),
            ("initializer", "__main__:begin"),
            ("warm", "__main__:load"),
            ("warm", "random:random"),
        ] {
            let finding = report.finding(check, Some(subject));
            assert_eq!("ok", word(finding, "status"), "{python}: {finding:#}");
            assert!(finding["time_ms"].is_u64() && finding["memory_bytes"].is_u64(), "{finding:#}");
        }
        let version = format!("{}.{}.{}", python.version.0, python.version.1, python.version.2);
        let text = word(report.finding("interpreter", None), "text");
        assert!(text.contains(&version), "{text}");
        let is_whole = |it: &Value| it["status"] == "ok" || !word(it, "advice").is_empty();
        assert!(all.iter().all(|it| it["status"] == "skipped" || is_whole(it)), "{all:#?}");
    }
}

#[test]
fn people_get_a_table_and_every_fault_with_what_to_do() {
    let patient = Patient::new("");
    let output = patient.run(&[], &["nowhere_to_be_found"]).expect_code(8);
    let text = output.stdout;
    assert!(text.starts_with("STATUS "), "{text}");
    // The worst comes first, and again last, which is what a screen still shows.
    let mut lines = text.lines().skip(1);
    let line = lines.next().expect("there is one");
    assert!(line.starts_with("fail "), "{text}");
    assert!(line.contains(" sick ") && line.contains("import nowhere_to_be_found"), "{line}");
    assert!(lines.next().is_some_and(|line| line.trim().starts_with("-> install")), "{text}");
    assert!(text.contains("\nfailed: sick: import nowhere_to_be_found\n"), "{text}");
    assert!(text.contains("-> install nowhere_to_be_found"), "{text}");
    assert_eq!(1, text.matches("ModuleNotFoundError: No module named").count(), "{text}");
    assert!(text.trim_end().lines().last().is_some_and(|it| it.contains("1 fail")), "{text}");
}

#[test]
fn a_pool_is_chosen_and_a_strict_doctor_fails_on_warnings() {
    let patient = Patient::new("env = { set = { PYTHONPATH = \"/nowhere\" } }\n[pools.other]");
    let report = patient.examine(&["--pool", "sick"]);
    assert_eq!(("warn", 0), (word(report.finding("variables", None), "status"), report.code));
    let all = report.json["findings"].as_array().expect("it is a list");
    assert!(all.iter().all(|it| it["pool"].is_null() || it["pool"] == "sick"), "{all:#?}");
    assert_eq!(8, patient.examine(&["--pool", "sick", "--strict"]).code);
    patient.run(&[], &["--pool", "none"]).expect_code(2).expect_stderr("other, sick");
}

#[test]
fn a_missing_shared_library_is_named_with_the_module() {
    if !has("gcc") {
        skip!("needs gcc to build an extension module");
    }
    let patient = Patient::new("");
    let library = "int nowhere(void) { return 1; }";
    let module = "extern int nowhere(void); void *PyInit_needy(void) { nowhere(); return 0; }";
    let built = compile(&patient.tmp, "libnowhere.so", library, &[])
        && compile(&patient.tmp, "needy.so", module, &["-L.", "-l:libnowhere.so"]);
    assert!(built, "gcc can build a shared object");
    std::fs::remove_file(patient.tmp.join("libnowhere.so")).expect("it was just built");
    let report = patient.examine(&["needy"]);
    let advice = ["libnowhere.so", "LD_LIBRARY_PATH"];
    report.fails("import", Some("needy"), &["`needy`", "libnowhere.so"], &advice);
    report.only_fails("import");
}

#[test]
fn a_module_that_crashes_is_named_with_its_signal_and_the_others_are_still_imported() {
    let patient = Patient::new("preload = [\"crasher\"]");
    patient.tmp.write("crasher.py", "import ctypes\nctypes.string_at(0)\n");
    let report = patient.examine(&["json"]);
    let text = ["`crasher`", "SIGSEGV", "ctypes"];
    report.fails("import", Some("crasher"), &text, &["install it again"]);
    assert!(word(report.finding("import", Some("crasher")), "detail").contains("crasher.py"));
    assert_eq!("ok", report.finding("import", Some("json"))["status"]);
    report.only_fails("import");
}

#[test]
fn pythonhome_of_the_terminal_does_no_harm_and_in_the_configuration_it_is_named() {
    let patient = Patient::new("");
    let report = patient.examine_through(&["env", "PYTHONHOME=/nowhere"], &[]);
    let finding = report.finding("variables", None);
    assert_eq!(("ok", 0), (word(finding, "status"), report.code), "{:#}", report.json);
    assert!(word(finding, "text").contains("PYTHONHOME"), "{finding:#}");

    let patient = Patient::new("env = { set = { PYTHONHOME = \"/nowhere\" } }");
    let report = patient.examine(&["json"]);
    report.fails("variables", None, &["PYTHONHOME=/nowhere"], &["env.set", "pools.sick"]);
    report.fails("start", None, &["no worker starts"], &["env.set"]);
    assert_eq!("skipped", report.finding("import", Some("json"))["status"]);
}

#[test]
fn a_virtual_environment_whose_base_is_gone_is_named_with_it() {
    let patient = Patient::new("");
    let venv = patient.tmp.dir("venv");
    patient.tmp.dir("venv/bin");
    patient.tmp.write("venv/pyvenv.cfg", "home = /gone/bin\nversion = 3.12.0\n");
    symlink("/gone/bin/python3.12", venv.join("bin/python")).expect("a link can be made");
    let report = patient.examine(&["--venv", "venv", "json"]);
    let (text, advice) = (["venv/bin/python", "/gone/bin/python3.12"], ["base Python", "-m venv"]);
    report.fails("interpreter", None, &text, &advice);
    assert_eq!("skipped", report.finding("import", Some("json"))["status"]);
    report.only_fails("interpreter");
}

#[test]
fn a_folder_for_temporary_files_that_cannot_be_written_is_named() {
    // Not even root writes there.
    let patient = Patient::new("env = { set = { TMPDIR = \"/proc\" } }");
    let report = patient.examine(&[]);
    report.fails("temp", None, &["TMPDIR=/proc", "cannot be written"], &["TMPDIR", "env.set"]);
    report.only_fails("temp");
}

#[test]
fn a_machine_without_shared_memory_is_told_what_to_mount() {
    let hide = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && \
                mknod -m 666 /dev/urandom c 1 9 && test ! -e /dev/shm";
    let unshare = |script: &str| Program::new("unshare").args(["-m", "sh", "-c", script]).run();
    if !has("unshare") || unshare(hide).code != 0 {
        skip!("needs root and unshare (util-linux) for a mount namespace of its own");
    }
    let patient = Patient::new("");
    let script = format!("{hide} && exec \"$0\" \"$@\"");
    let report = patient.examine_through(&["unshare", "-m", "sh", "-c", &script], &[]);
    let advice = ["mount -t tmpfs", "--shm-size", "multiprocessing"];
    report.fails("shm", None, &["there is no /dev/shm"], &advice);
}

#[test]
fn a_python_that_is_too_old_is_named_with_its_version() {
    let old = Python::installed().iter().find(|it| it.version.0 == 3 && it.version < (3, 8, 0));
    let Some(old) = old else {
        skip!("needs a Python 3.7 or older");
    };
    let report = Patient::of(&old.path, "").examine(&[]);
    let version = format!("{}.{}.{}", old.version.0, old.version.1, old.version.2);
    let path = old.path.to_str().expect("test paths are text");
    report.fails("interpreter", None, &[&version, path], &["3.8 or newer", "`python`"]);
}

#[test]
fn an_interpreter_for_another_machine_is_named_with_both() {
    let tmp = Tmp::new();
    // The header of a 64-bit program for SPARC, version 9, which nobody runs this on.
    let mut header = b"\x7fELF\x02\x02\x01".to_vec();
    header.resize(16, 0);
    header.extend([0, 2, 0, 43, 0, 0, 0, 1]);
    header.resize(64, 0);
    let python = tmp.program("python3", header);
    let report = Patient::of(&python, "").examine(&[]);
    let text = ["a program for machine number 43", "this machine is"];
    report.fails("interpreter", None, &text, &["install a Python for"]);
    report.only_fails("interpreter");
}

#[test]
fn a_file_that_stands_in_for_a_module_of_the_standard_library_is_named() {
    let patient = Patient::new("");
    let file = patient.tmp.write("random.py", "value = 4\n");
    let file = file.to_str().expect("test paths are text");
    let report = patient.examine(&["tempfile"]);
    report.fails("shadowed", None, &[file, "`random`"], &["rename", file]);
    assert_eq!("fail", report.finding("import", Some("tempfile"))["status"], "it needs random");
}

#[test]
fn an_import_that_hangs_is_given_up_and_named_with_where_it_was() {
    let patient = Patient::new("");
    let text = "import threading\ndef stuck():\n    threading.Event().wait()\nstuck()\n";
    patient.tmp.write("sleeper.py", text);
    let report = patient.examine(&["--import-timeout", "3s", "sleeper", "json"]);
    let text = ["`sleeper`", "hangs", "3 s", "threading.py"];
    report.fails("import", Some("sleeper"), &text, &["--import-timeout"]);
    assert!(word(report.finding("import", Some("sleeper")), "detail").contains("sleeper.py"));
    assert_eq!("ok", report.finding("import", Some("json"))["status"]);
    assert!(report.took < 60 * SECOND, "{:?}", report.took);
}

#[test]
fn what_a_pool_calls_at_its_start_is_called_and_each_failure_is_its_own() {
    let start = "initializer = \"start:begin\"\n\
                 warm = [\"start:stuck\", \"start:gone\", \"start:leave\", \"start:fine\"]";
    let patient = Patient::new(start);
    let text = "import os, sys, threading\ndef begin():\n    global begun\n    begun = True\n\
                def stuck():\n    threading.Event().wait()\n\
                def leave():\n    sys.exit(3)\ndef fine():\n    assert begun\n";
    patient.tmp.write("start.py", text);
    let report = patient.examine(&["--import-timeout", "3s"]);
    let advice = ["--import-timeout"];
    report.fails("warm", Some("start:stuck"), &["hangs", "3 s", "threading.py"], &advice);
    let advice = ["write that function", "`warm`"];
    report.fails("warm", Some("start:gone"), &["no attribute 'gone'"], &advice);
    report.fails("warm", Some("start:leave"), &["SystemExit: 3"], &["sys.exit"]);
    for (check, subject) in [("initializer", "start:begin"), ("warm", "start:fine")] {
        assert_eq!("ok", report.finding(check, Some(subject))["status"], "{:#}", report.json);
    }
    report.only_fails("warm");
}

#[test]
fn what_a_pool_of_several_calls_at_once_needs_at_its_start_is_there() {
    let text = "import asyncio, signal\nsignal.signal(signal.SIGUSR1, signal.SIG_DFL)\n\
                async def begin():\n    global loop\n    loop = asyncio.get_running_loop()\n\
                async def fine():\n    assert asyncio.get_running_loop() is loop\n\
                def plain():\n    pass\n";
    let on_a_loop = "async = 5\ninitializer = \"start:begin\"\nwarm = [\"start:fine\"]";
    for keys in [on_a_loop, "threads = 3\ninitializer = \"start:plain\""] {
        let patient = Patient::new(&format!("{keys}\npreload = [\"start\"]"));
        patient.tmp.write("start.py", text);
        let report = patient.examine(&[]);
        let all = report.json["findings"].as_array().expect("it is a list");
        let fails: Vec<_> = all.iter().filter(|finding| finding["status"] == "fail").collect();
        assert!(fails.is_empty(), "{keys}: {fails:#?}");
    }
}

#[test]
fn behind_an_initializer_that_fails_nothing_is_tried() {
    let patient = Patient::new("initializer = \"start:begin\"\nwarm = [\"start:load\"]");
    let text = "def begin():\n    raise RuntimeError(\"on purpose\")\ndef load():\n    pass\n";
    patient.tmp.write("start.py", text);
    let report = patient.examine(&[]);
    let text = ["`start:begin` fails", "RuntimeError: on purpose"];
    report.fails("initializer", Some("start:begin"), &text, &["traceback"]);
    let detail = word(report.finding("initializer", Some("start:begin")), "detail");
    assert!(detail.contains("start.py"), "{detail}");
    let skipped = report.finding("warm", Some("start:load"));
    assert_eq!("skipped", word(skipped, "status"));
    assert!(word(skipped, "text").contains("initializer start:begin fails"), "{skipped:#}");
}

#[test]
fn threads_are_those_that_workers_will_be_told_and_that_libraries_then_use() {
    if !has("gcc") {
        skip!("needs gcc to build a library");
    }
    // Many workers share the processors, so each is told to start few threads.
    let patient = Patient::with_workers(64, &Python::any().path, "");
    let report = patient.examine(&["json"]);
    let finding = report.finding("threads", None);
    assert_eq!("ok", word(finding, "status"), "{finding:#}");
    for part in ["64 workers", "OMP_NUM_THREADS=1", "only the environment was read"] {
        assert!(word(finding, "text").contains(part), "{part:?} in {finding:#}");
    }

    // A library that heeds nobody is asked itself.
    let library = "int openblas_get_num_threads(void) { return 100; }";
    assert!(compile(&patient.tmp, "libopenblas.so", library, &[]), "gcc can build a library");
    patient.tmp.write("numeric.py", "import ctypes\nctypes.CDLL('./libopenblas.so')\n");
    let finding = &patient.examine(&["numeric"]).finding("threads", None).clone();
    assert_eq!("warn", word(finding, "status"), "{finding:#}");
    assert!(word(finding, "text").contains("6400 threads"), "{finding:#}");
    assert!(word(finding, "text").contains("libopenblas.so uses 100"), "{finding:#}");
}

#[test]
fn an_environment_that_cannot_be_built_is_its_own_pools_fault() {
    let other = "[pools.other]\nrequirements = [\"nothing @ file:///nowhere/nothing.whl\"]";
    let patient = Patient::new(other);
    let report = patient.examine(&["json"]);
    report.only_fails("environment");
    let all = report.json["findings"].as_array().expect("it is a list");
    let of = |pool: &str, check: &str| {
        let found = all.iter().find(|it| it["pool"] == pool && it["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} of {pool} in {all:#?}"))
    };
    let broken = of("other", "environment");
    assert_eq!(("fail", 8), (word(broken, "status"), report.code), "{broken:#}");
    assert!(word(broken, "advice").contains("clutch env build --pool other"), "{broken:#}");
    assert_eq!("ok", word(of("sick", "import"), "status"));
}

#[test]
fn a_terminal_that_is_narrow_gets_lines_that_fit() {
    if !has("script") {
        skip!("needs script (util-linux) for a terminal");
    }
    let patient = Patient::new("");
    let binary = Clutch::binary().display().to_string();
    let line = format!("stty cols 60; exec {binary} doctor nowhere_to_be_found");
    let output = Clutch::private(Program::new("script"))
        .args(["-qec", &line, "/dev/null"])
        .envs(private_environment(&patient.tmp))
        .dir(patient.tmp.path())
        .timeout(180 * SECOND)
        .run()
        .expect_code(8);
    let mut lines = output.stdout.lines();
    assert_eq!(Some("STATUS   POOL  CHECK"), lines.next().map(str::trim_end), "{}", output.stdout);
    let path = patient.tmp.path().display().to_string();
    let is_word = |line: &str| line.split_whitespace().any(|word| word.len() > 55 || word == path);
    for line in output.stdout.lines().map(str::trim_end) {
        let fits = line.chars().count() <= 60 || is_word(line);
        assert!(fits, "{line:?} in {}", output.stdout);
    }
}
