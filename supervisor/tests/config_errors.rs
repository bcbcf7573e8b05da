//! What a person is told about a configuration that is wrong: the file, the line, the offending
//! text, and what to write instead. Nothing is started by any of these.

use std::fs;
use std::path::Path;

use clutch_supervisor::config::{Concurrency, Config, ConfigError, LocalOptions, parse};

/// The error of a text, which names itself `clutch.toml`.
fn error_in(text: &str, base_dir: &Path) -> ConfigError {
    parse(text, Some(Path::new("clutch.toml")), base_dir).expect_err(text)
}

/// The report on a text, as one line of words, so that wrapping does not matter.
fn report(text: &str) -> String {
    let rendered = error_in(text, Path::new("/")).render(false);
    assert!(!rendered.contains('\u{1b}'), "no colour was asked for: {rendered}");
    words(&rendered)
}

fn words(text: &str) -> String {
    text.split_whitespace().filter(|word| *word != "|").collect::<Vec<_>>().join(" ")
}

/// Each text with its place, and parts of what is said about it.
fn check_all(cases: &[(&str, &str, &[&str])]) {
    for (text, place, parts) in cases {
        let report = report(text);
        assert!(report.contains(&format!("[clutch.toml:{place}]")), "{place} in {report}");
        for part in *parts {
            assert!(report.contains(part), "{part:?} in {report}");
        }
    }
}

#[test]
fn unknown_keys_are_pointed_at_with_what_was_meant_f155() {
    check_all(&[
        (
            "[pools.a]\nworker = 2\n",
            "2:1",
            &[
                "unknown key `worker`",
                "did you mean `workers`?",
                "python, ",
                "2 worker = 2 : ^^^|^^",
            ],
        ),
        ("[pool.a]\n", "1:2", &["unknown key `pool`", "did you mean `pools`?"]),
        ("[pools.a]\nqueue = 5\n", "2:1", &["did you mean `limits.queue`?"]),
        ("[pools.a]\nset = {}\n", "2:1", &["did you mean `env.set`?"]),
        ("[pools.a.limits]\ncall-timeout = '1s'\n", "2:1", &["did you mean `call_timeout`?"]),
        ("[pools.a]\ncolour = 1\n", "2:1", &["unknown key `colour`", "known here: allow, args"]),
        ("[deamon]\n[pools.a]\n", "1:2", &["did you mean `daemon`?"]),
        ("[pools.a]\nenv.inherited = 'all'\n", "2:5", &["did you mean `inherit`?"]),
    ]);
}

#[test]
fn wrong_types_are_pointed_at_with_an_example_f155() {
    check_all(&[
        (
            "[pools.a]\nworkers = true\n",
            "2:11",
            &[
                "pools.a.workers: expected a whole number or text",
                "found a truth value",
                "\"auto\"",
            ],
        ),
        (
            "[pools.a]\npython = 3.12\n",
            "2:10",
            &["found a number with a fraction", "python = \"3.12\""],
        ),
        ("[pools.a]\npath = 'lib'\n", "2:8", &["expected a list in brackets, found text"]),
        (
            "[pools.a]\npath = ['a', 3]\n",
            "2:14",
            &["pools.a.path.1: expected text in quotes", "this: \"3\""],
        ),
        (
            "[pools.a.limits]\ncall_timeout = 30\n",
            "2:16",
            &["expected text in quotes, found a whole number", "call_timeout = \"30s\""],
        ),
        ("[daemon]\npayload = 1024\n[pools.a]\n", "2:11", &["payload = \"64MiB\""]),
        ("[pools.a]\nlimits = 3\n", "2:10", &["expected a table, found a whole number"]),
        ("pools = 3\n", "1:9", &["expected a table"]),
        ("[pools]\na = 3\n", "2:5", &["expected a table", "[pools.a]"]),
        ("[pools.a.env]\nset = { N = 4 }\n", "2:13", &["expected text in quotes", "N = \"4\""]),
        ("[pools.a.limits]\nqueue = 99999999999999999999\n", "2:9", &[]),
    ]);
}

#[test]
fn zero_negative_and_huge_numbers_are_refused_f155() {
    check_all(&[
        ("[pools.a]\nworkers = 0\n", "2:11", &["0 is out of range", "write 1 to 4096"]),
        ("[pools.a]\nworkers = -1\n", "2:11", &["-1 is out of range"]),
        ("[pools.a]\nworkers = 99999\n", "2:11", &["99999 is out of range"]),
        ("[pools.a]\nworkers = 'many'\n", "2:11", &["\"many\" is not understood", "\"auto\""]),
        ("[pools.a.limits]\nqueue = 0\n", "2:9", &["0 is out of range"]),
        ("[pools.a.limits]\nstart_timeout = '0s'\n", "2:17", &["write \"1ms\" to \"366d\""]),
        ("[pools.a.limits]\ncall_timeout = '0s'\n", "2:16", &["out of range"]),
        ("[pools.a.limits]\ncall_timeout = '-5s'\n", "2:16", &["whole number"]),
        ("[pools.a.limits]\ngrace = '5'\n", "2:9", &["5 has no unit", "write \"5s\""]),
        ("[pools.a.limits]\ngrace = '2d'\n", "2:9", &["out of range", "\"1d\""]),
        ("[daemon]\nconnections = 0\n[pools.a]\n", "2:15", &["out of range"]),
        ("[daemon]\npayload = '0B'\n[pools.a]\n", "2:11", &["\"1KiB\" to \"1GiB\""]),
        ("[daemon]\npayload = '2GiB'\n[pools.a]\n", "2:11", &["2GiB is out of range"]),
        ("[daemon]\nmemory = '64M'\n[pools.a]\n", "2:10", &["\"M\" is no unit of size"]),
    ]);
}

#[test]
fn contradictions_are_refused_f155() {
    check_all(&[
        (
            "[pools.a.limits]\ncall_timeout = '1m'\ncall_timeout_max = '30s'\n",
            "2:16",
            &["call_timeout (1m) is longer than call_timeout_max (30s)"],
        ),
        ("[pools.a]\npython = 'p'\nvenv = 'v'\n", "3:8", &["`python` and `venv` both", "keep one"]),
        ("[pools.a]\nargs = ['x']\n", "2:8", &["no `main` to give them to"]),
        (
            "[daemon]\npayload = '64MiB'\nmemory = '1MiB'\n[pools.a]\n",
            "3:10",
            &["memory (1MiB) is less than one payload (64MiB)"],
        ),
        ("[pools.a.env]\nunset = ['X']\nset = { X = '1' }\n", "3:13", &["X is both set and unset"]),
        ("[pools.a]\nworkers = 1\nworkers = 2\n", "3:1", &["duplicate key"]),
        ("[pools.a]\n[pools.a]\n", "2:8", &["duplicate key"]),
        ("[pools.a]\npath = ['/', '/']\n", "2:14", &["\"/\" stands twice"]),
        ("[pools.a.env]\nunset = ['X', 'X']\n", "2:15", &["\"X\" stands twice"]),
    ]);
}

#[test]
fn names_patterns_and_options_are_checked_f155_f167() {
    check_all(&[
        ("[pools.\"a b\"]\n", "1:8", &["a pool name holds only letters"]),
        ("[pools.\"\"]\n", "1:8", &["the name is empty"]),
        ("[pools.\"--help\"]\n", "1:8", &["a pool name holds only letters"]),
        ("[pools.a]\nallow = ['os']\n", "2:10", &["\"os\" is not MODULE:QUALNAME"]),
        ("[pools.a]\nallow = ['m:f', 'm:***']\n", "2:17", &["pools.a.allow.1", "\"***\""]),
        ("[pools.a]\nflags = ['-c']\n", "2:10", &["\"-c\" is no interpreter option"]),
        ("[pools.a]\nflags = ['-u', '-X']\n", "2:16", &["\"-X\" lacks its value"]),
        ("[pools.a]\npreload = ['../x']\n", "2:12", &["\"../x\" is not the name of a module"]),
        ("[pools.a.env.set]\n'A=B' = 'c'\n", "2:9", &["\"A=B\" cannot be the name"]),
        ("[pools.a.env.set]\n\"A\\u0000\" = 'c'\n", "2:13", &["cannot be the name"]),
        ("[pools.a.env.set]\nA = \"\\u0000\"\n", "2:5", &["holds a NUL character"]),
        ("[pools.a.env]\nunset = ['']\n", "2:10", &["cannot be the name"]),
        (
            "[pools.a.env]\ninherit = 'some'\n",
            "2:11",
            &["\"some\" is not understood", "\"minimal\""],
        ),
        ("[pools.a]\npython = ''\n", "2:10", &["it is empty"]),
        ("[pools.a]\nargs = [\"\\u0000\"]\n", "2:9", &["NUL"]),
    ]);
}

#[test]
fn what_workers_call_before_they_are_ready_is_checked() {
    let long = format!("[pools.a]\ninitializer = 'm:f'\ninitargs = ['{}']\n", "x".repeat(70_000));
    check_all(&[
        ("[pools.a]\nwarm = ['m:f', 'm']\n", "2:16", &["\"m\" is not the name of a function"]),
        ("[pools.a]\nwarm = ['m:f', 'm:f']\n", "2:16", &["\"m:f\" stands twice"]),
        ("[pools.a]\nwarm = 'm:f'\n", "2:8", &["a list in brackets"]),
        ("[pools.a]\ninitializer = 'm.f'\n", "2:15", &["write \"mytasks:load\""]),
        ("[pools.a]\ninitializer = '__main__:f'\n", "2:15", &["add main = \"SCRIPT.py\""]),
        ("[pools.a]\ninitargs = [1]\n", "2:12", &["no `initializer` to give them to"]),
        (
            "[pools.a]\ninitializer = 'm:f'\ninitargs = [1, nan]\n",
            "3:16",
            &["a number that is not finite cannot be an argument"],
        ),
        (
            "[pools.a]\ninitializer = 'm:f'\ninitargs = [[1979-05-27]]\n",
            "3:13",
            &["a date or time cannot be an argument"],
        ),
        (long.as_str(), "3:12", &["the arguments have 70004 bytes as JSON, at most 65536"]),
    ]);
}

#[test]
fn paths_that_lead_nowhere_are_named_in_full_f155() {
    check_all(&[
        ("[pools.a]\ncwd = 'no/where'\n", "2:7", &["there is no /no/where", "relative paths"]),
        ("[pools.a]\ncwd = '/dev/null'\n", "2:7", &["/dev/null is not a directory"]),
        ("[pools.a]\npath = ['/', 'nowhere']\n", "2:14", &["there is no /nowhere"]),
        ("[pools.a]\nmain = 'nowhere.py'\n", "2:8", &["there is no /nowhere.py"]),
        ("[pools.a]\nmain = '.'\n", "2:8", &["/ is not a file"]),
        ("[pools.a]\ncwd = '~nobody'\n", "2:7", &["the daemon's own user only"]),
    ]);
}

#[test]
fn a_socket_path_that_is_too_long_is_refused_with_its_length_f156() {
    let path = format!("/{}", "s".repeat(107));
    let text = format!("[daemon]\nsocket = '{path}'\n[pools.a]\n");
    let report = report(&text);
    assert!(report.contains("108 bytes, the system takes at most 107"), "{report}");
    let text = format!("[daemon]\nsocket = '{}'\n[pools.a]\n", &path[..107]);
    assert!(parse(&text, None, Path::new("/")).is_ok());
}

#[test]
fn no_pools_and_no_toml_are_said_f155() {
    check_all(&[
        ("", "1:1", &["no pool is configured", "[pools.default]"]),
        ("[daemon]\n", "1:1", &["no pool is configured"]),
        ("[pools]\n", "1:2", &["no pool is configured"]),
        ("[pools.a\n", "1:9", &[]),
        ("pools = [\n", "1:10", &["unclosed array"]),
        ("x = \"unclosed\n", "1:14", &[]),
    ]);
}

#[test]
fn several_problems_come_at_once_each_with_its_place_f155() {
    let text = "[daemon]\nconnections = 0\npaylod = '1MiB'\n\
                [pools.a]\nworkers = 'x'\ncwd = '/nowhere'\npath = 3\n\
                [pools.b.limits]\ngrace = '5'\n";
    let error = error_in(text, Path::new("/"));
    assert_eq!(6, error.problems().len(), "{error:?}");
    let report = words(&error.render(false));
    assert!(report.starts_with("x 6 problems in clutch.toml"), "{report}");
    for place in ["2:15", "3:1", "5:11", "6:7", "7:8", "9:9"] {
        assert!(report.contains(&format!("[clutch.toml:{place}]")), "{place} in {report}");
    }
}

#[test]
fn colour_is_used_when_it_is_asked_for() {
    let error = error_in("[pools.a]\nworker = 2\n", Path::new("/"));
    assert!(error.render(true).contains('\u{1b}'));
    assert!(error.render(false).is_ascii());
}

#[test]
fn local_options_are_checked_like_keys() {
    let local = |options| Config::local(options).map_err(|error| words(&error.render(false)));
    let cwd = Path::new("/").to_owned();
    let options = LocalOptions { cwd, ..LocalOptions::default() };
    let none = LocalOptions { workers: Some(0), ..options.clone() };
    assert!(local(none).unwrap_err().contains("workers: 0 is out of range"));
    let main = LocalOptions { main: Some("nowhere.py".into()), ..options.clone() };
    assert!(local(main).unwrap_err().contains("main: there is no /nowhere.py"));
    let path = LocalOptions { path: vec!["nowhere".into()], workers: Some(0), ..options };
    let report = local(path).unwrap_err();
    assert!(report.contains("there is no /nowhere") && report.contains("workers"), "{report}");
}

#[test]
fn no_text_makes_the_checks_panic() {
    let base = Path::new("/");
    let sample = clutch_supervisor::config::default_text();
    for end in (0..sample.len()).filter(|end| sample.is_char_boundary(*end)).step_by(7) {
        if let Err(error) = parse(&sample[..end], None, base) {
            assert!(!error.render(false).is_empty());
        }
    }
    let deep = format!("pools = {}", "[".repeat(100_000));
    assert!(!error_in(&deep, base).render(false).is_empty());
    let many: String = (0..10_000).map(|n| format!("k{n} = 1\n")).collect();
    assert!(error_in(&many, base).problems().len() <= 50);
}

#[test]
fn a_crooked_name_is_quoted_in_the_report() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("clutch.toml"), "[pools.\"a.b\\n\"]\nworkers = 0\n").expect("a file");
    let error = clutch_supervisor::config::load(&dir.path().join("clutch.toml")).unwrap_err();
    let report = words(&error.render(false));
    assert!(report.contains("pools.\"a.b\\n\".workers: 0 is out of range"), "{report}");
}

#[test]
fn patterns_to_watch_are_checked_with_the_directory_they_start_at() {
    check_all(&[
        ("[pools.a]\nwatch = ['nowhere/**/*.py']\n", "2:10", &["there is no /nowhere"]),
        ("[pools.a]\nwatch = ['tmp/[a']\n", "2:10", &["no pattern of files", "src/**/*.py"]),
        ("[pools.a]\nwatch = ['tmp/']\n", "2:10", &["it names no file"]),
        ("[pools.a]\nwatch = ['*.py', '*.py']\n", "2:18", &["stands twice"]),
        ("[pools.a]\nwatch = '*.py'\n", "2:9", &["a list in brackets"]),
    ]);
}

#[test]
fn what_to_write_instead_would_be_taken() {
    check_all(&[
        ("[pools.a]\npreload = 'm'\n", "2:11", &["preload = [\"m\"]"]),
        ("[pools.a]\nmemory = { kill_above = 100 }\n", "2:25", &["kill_above = \"4GiB\""]),
    ]);
}

#[test]
fn output_and_log_are_checked_f155() {
    check_all(&[
        (
            "[pools.a]\nlogging = 'warn'\n",
            "2:11",
            &["\"warn\" is not understood here", "\"off\", \"debug\", \"info\", \"warning\""],
        ),
        ("[pools.a]\noutput = { lines = 5 }\n", "2:20", &["out of range", "write 100 to 100000"]),
        ("[daemon.output]\nfile = ''\n[pools.a]\n", "2:8", &["it is empty"]),
        ("[daemon.log]\nformat = 'xml'\n[pools.a]\n", "2:10", &["\"text\", \"json\" or"]),
        ("[daemon.log]\nlevel = 'inf[o'\n[pools.a]\n", "2:9", &["it is not a log filter"]),
        (
            "[daemon.log]\nlevel = 'loud'\n[pools.a]\n",
            "2:9",
            &["\"loud\" is no level", "error, warn, info, debug, trace"],
        ),
        (
            "[daemon.output]\nfile = '/x'\n[pools.a]\n[pools.b]\noutput = { files = 2 }\n",
            "5:1",
            &["pool `a` writes the same file", "give each pool a file of its own"],
        ),
    ]);
}

#[test]
fn what_is_to_be_installed_is_said_once_and_so_that_it_can_be_f151() {
    check_all(&[
        (
            "[pools.a]\nvenv = \"/v\"\nrequirements = [\"numpy\"]\n",
            "3:16",
            &["`venv` and `requirements` both say what is installed", "keep one"],
        ),
        (
            "[pools.a]\nrequirements = []\nproject = \"/\"\n",
            "3:11",
            &["`requirements` and `project` both say what is installed"],
        ),
        (
            "[pools.a]\nrequirements = [\"pandas\", \"numpy=2\"]\n",
            "2:27",
            &["\"numpy=2\" is no requirement", "numpy>=2"],
        ),
        ("[pools.a]\nrequirements = [\"-r x.txt\"]\n", "2:17", &["stand in a requirements file"]),
        ("[pools.a]\nrequirements = [\"a\", \"a\"]\n", "2:22", &["stands twice"]),
        ("[pools.a]\nrequirements = \"/nonexistent.txt\"\n", "2:16", &["there is no"]),
        ("[pools.a]\nrequirements = 2\n", "2:16", &["a list in brackets or text in quotes"]),
        ("[pools.a]\nproject = \"/proc\"\n", "2:11", &["/proc/pyproject.toml"]),
        ("[pools.a]\nscript_metadata = \"no\"\n", "2:19", &["\"use\" or \"ignore\""]),
        ("[pools.a.build]\ntool = \"conda\"\n", "2:8", &["\"auto\", \"uv\" or \"pip\""]),
        ("[pools.a.build]\ntimeout = \"0s\"\n", "2:11", &["out of range"]),
        ("[pools.a.build]\nindex_url = \"pypi\"\n", "2:13", &["https://pypi.example.com/simple"]),
        ("[pools.a.build]\nextra_index_urls = [\"a://b c\"]\n", "2:21", &["a URL like"]),
        ("[pools.a.build]\nfind_links = [\"/nonexistent\"]\n", "2:15", &["there is no"]),
    ]);
}

#[test]
fn a_worker_runs_its_calls_in_one_way_only() {
    check_all(&[
        (
            "[pools.a]\nthreads = 4\nasync = 8\n",
            "3:9",
            &["`threads` and `async` both say", "keep one of them"],
        ),
        ("[pools.a]\nthreads = 0\n", "2:11", &["0 is out of range", "write 1 to 256"]),
        (
            "[pools.a]\nasync = 4\nsubinterpreters = 8\n",
            "3:19",
            &["`async` and `subinterpreters` both say", "keep one of them"],
        ),
        ("[pools.a]\nsubinterpreters = 257\n", "2:19", &["257 is out of range"]),
        ("[pools.a]\nasync = 257\n", "2:9", &["257 is out of range", "write 1 to 256"]),
    ]);
    for (text, concurrency) in [
        ("[pools.a]\n", Concurrency::One),
        ("[pools.a]\nthreads = 1\n", Concurrency::Threads(1)),
        ("[pools.a]\nasync = 256\n", Concurrency::Async(256)),
        ("[pools.a]\nsubinterpreters = 2\n", Concurrency::Subinterpreters(2)),
    ] {
        let config = parse(text, None, Path::new("/")).unwrap();
        assert_eq!(concurrency, config.pools["a"].concurrency);
    }
}
