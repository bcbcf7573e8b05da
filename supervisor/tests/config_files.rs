//! Configuration files: the samples, the defaults they promise, and which files are trusted.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clutch_supervisor::config::{
    Config, ConfigError, Inherit, Limits, LocalOptions, Python, default_text, load, parse, schema,
};
use serde_json::Value;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn good(result: Result<Config, ConfigError>) -> Config {
    result.unwrap_or_else(|error| panic!("{}", error.render(false)))
}

fn write(directory: &Path, text: &[u8]) -> PathBuf {
    let path = directory.join("clutch.toml");
    fs::write(&path, text).expect("a file");
    // Whatever the umask of whoever runs the tests.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode");
    path
}

/// The commented sample with the `#` before each default taken away.
fn uncommented() -> String {
    default_text()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn every_sample_loads() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut count = 0;
    for entry in fs::read_dir(samples()).expect("the samples") {
        let path = entry.expect("a sample").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            // A copy: a checkout may belong to somebody else, or have any mode.
            let text = fs::read(&path).expect("a sample");
            good(load(&write(directory.path(), &text)));
            count += 1;
        }
    }
    assert!(count >= 4, "{count} samples were found");
}

#[test]
fn the_commented_defaults_are_the_defaults() {
    let base = Path::new("/");
    let bare = good(parse("[pools.default]", None, base));
    assert_eq!(bare, good(parse(default_text(), None, base)));
    let uncommented = uncommented();
    assert_ne!(default_text(), uncommented);
    assert_eq!(bare, good(parse(&uncommented, None, base)));
}

#[test]
fn the_commented_sample_shows_every_key() {
    fn keys(schema: &Value, into: &mut Vec<String>) {
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            if below["type"] == "object" {
                keys(below, into);
                keys(&below["additionalProperties"], into);
            } else {
                into.push(name.clone());
            }
        }
    }
    let mut all = Vec::new();
    keys(&schema(), &mut all);
    assert!(all.len() > 20, "{all:?}");
    let text = default_text();
    for key in all {
        let default = format!("\n#{key} = ");
        let example = format!("\n# Example: {key} = ");
        assert!(text.contains(&default) || text.contains(&example), "{key}");
    }
    // Two tables may have keys of one name.
    for table in text.split("\n[") {
        for (at, _) in table.match_indices("\n# Example: ") {
            let key = table[at + "\n# Example: ".len()..].split(' ').next().expect("a key");
            assert!(!table.contains(&format!("\n#{key} = ")), "{key} has a default and an example");
        }
    }
}

#[test]
fn the_schema_names_the_same_defaults() {
    fn defaults(schema: &Value, at: &str, into: &mut String) {
        let mut tables = Vec::new();
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            assert!(below["description"].is_string(), "{at}.{name} is described");
            if below["type"] == "object" && below["properties"].is_object() {
                tables.push((name, below));
            } else if let Some(default) =
                below.get("default").filter(|value| **value != Value::Null)
            {
                *into += &format!("{name} = {default}\n");
            }
        }
        for (name, below) in tables {
            let at = format!("{at}{name}");
            *into += &format!("[{at}]\n");
            defaults(below, &format!("{at}."), into);
        }
    }
    let schema = schema();
    assert_eq!("https://json-schema.org/draft/2020-12/schema", schema["$schema"]);
    let mut text = "[daemon]\n".to_owned();
    defaults(&schema["properties"]["daemon"], "daemon.", &mut text);
    text += "[pools.default]\n";
    let pool = &schema["properties"]["pools"]["additionalProperties"];
    assert_eq!(Value::Bool(false), pool["additionalProperties"]);
    defaults(pool, "pools.default.", &mut text);
    let base = Path::new("/");
    assert!(text.contains("call_timeout_max"), "{text}");
    assert_eq!(good(parse("[pools.default]", None, base)), good(parse(&text, None, base)));
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = good(parse("[pools.a]", None, Path::new("/")));
    assert_eq!((2048, 8192, 64 << 20, 1 << 30), {
        let daemon = &config.daemon;
        (daemon.connections, daemon.in_flight, daemon.payload, daemon.memory)
    });
    assert_eq!(Duration::from_secs(30), config.daemon.stop_grace);
    let pool = &config.pools["a"];
    assert_eq!(Python::Named("python3".to_owned()), pool.python);
    assert!(pool.workers >= 1);
    assert_eq!(Path::new("/"), pool.cwd);
    let limits = Limits {
        queue: 4096,
        call_timeout: Duration::from_secs(30),
        call_timeout_max: Duration::from_secs(24 * 3600),
        start_timeout: Duration::from_secs(60),
        grace: Duration::from_secs(5),
        cooperate: Duration::ZERO,
        interrupt: Duration::from_millis(100),
    };
    assert_eq!(limits, pool.limits);
    assert_eq!((pool.workers, 0), (pool.workers_min, pool.spares));
    assert_eq!(Duration::from_millis(100), pool.scale.up_after);
    assert_eq!(Duration::from_secs(60), pool.scale.down_after);
    assert_eq!((5, Duration::from_secs(30)), (pool.restart.deaths, pool.restart.window));
    assert_eq!(Duration::from_millis(100), pool.restart.backoff);
    assert_eq!(Duration::from_secs(5), pool.restart.backoff_max);
    let replace = pool.replace;
    assert_eq!((None, None, None), (replace.max_calls, replace.max_age, replace.max_idle));
    assert_eq!(1, replace.at_once);
}

#[test]
fn a_pool_can_have_bounds_spares_and_rules_for_replacement() {
    let text = "[pools.a]\nworkers = { min = 0, max = 3 }\nspares = 2\n\
                restart = { backoff_max = '50ms', deaths = 3, window = '1m' }\n\
                replace = { max_calls = 10, max_age = '1h', max_idle = '10m', at_once = 2 }\n\
                [pools.b]\nworkers = { max = 3 }\n[pools.c]\nworkers.min = 4000\n";
    let config = good(parse(text, None, Path::new("/")));
    let [a, b, c] = ["a", "b", "c"].map(|name| &config.pools[name]);
    assert_eq!((0, 3, 2), (a.workers_min, a.workers, a.spares));
    assert_eq!((1, 3, 0), (b.workers_min, b.workers, b.spares));
    assert_eq!((4000, 4000), (c.workers_min, c.workers));
    let (millis, secs) = (Duration::from_millis, Duration::from_secs);
    let restart = (a.restart.backoff, a.restart.backoff_max, a.restart.deaths, a.restart.window);
    assert_eq!((millis(50), millis(50), 3, secs(60)), restart);
    let replace = (a.replace.max_calls, a.replace.max_age, a.replace.max_idle);
    assert_eq!((Some(10), Some(secs(3600)), Some(secs(600))), replace);
    assert_eq!(2, a.replace.at_once);
}

#[test]
fn rules_that_contradict_themselves_are_refused() {
    let refused = |text: &str| {
        let error = parse(text, None, Path::new("/")).expect_err("it contradicts itself");
        error.render(false).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let report = refused("[pools.a]\nworkers = { min = 3, max = 2 }\n");
    assert!(report.contains("min (3) is more than max (2)"), "{report}");
    assert!(refused("[pools.a]\nworkers = { max = 0 }\n").contains("write 1 to 4096"));
    assert!(refused("[pools.a]\nworkers = { mim = 1 }\n").contains("did you mean `min`?"));
    assert!(refused("[pools.a]\nworkers = { min = '1' }\n").contains("a whole number"));
    let report = refused("[pools.a]\nrestart = { backoff = '10s' }\n");
    assert!(report.contains("backoff (10s) is longer than backoff_max (5s)"), "{report}");
    assert!(refused("[pools.a]\nreplace = { max_cals = 1 }\n").contains("`max_calls`?"));
}

#[test]
fn paths_start_at_the_files_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let base = fs::canonicalize(directory.path()).expect("its real path");
    fs::create_dir_all(base.join("sub/lib")).expect("directories");
    fs::write(base.join("main.py"), "").expect("a script");
    fs::write(base.join("sub/other.py"), "").expect("a script");
    let text = "daemon.socket = './s'\n\
                [pools.a]\npath = ['.', 'sub/lib/']\nmain = './main.py'\nvenv = '.venv'\n\
                [pools.b]\ncwd = 'sub'\nmain = 'sub/other.py'\npython = './py'\nargs = ['-x']\n\
                [pools.c]\ncwd = 'sub'\nmain = 'main.py'\npython = '~/py'\n\
                [pools.d]\npython = '3.12'\nworkers = 3\nallow = ['m:*']\nflags = ['-X', 'dev']\n";
    let config = good(load(&write(&base, text.as_bytes())));
    assert_eq!(Some(base.join("clutch.toml")), config.source);
    assert_eq!(Some(base.join("s")), config.daemon.socket);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| &config.pools[name]);
    assert_eq!(vec![base.clone(), base.join("sub/lib")], a.path);
    assert_eq!((&base, Python::Venv(base.join(".venv"))), (&a.cwd, a.python.clone()));
    let main = |pool: &clutch_supervisor::config::Pool| {
        let main = pool.main.clone().expect("a script");
        (main.argv0, main.file)
    };
    assert_eq!(("./main.py".to_owned(), base.join("main.py")), main(a));
    assert_eq!(("other.py".to_owned(), base.join("sub/other.py")), main(b));
    assert_eq!(Python::File(base.join("py")), b.python);
    let absolute = base.join("main.py").to_str().expect("UTF-8").to_owned();
    assert_eq!((absolute, base.join("main.py")), main(c));
    let home = PathBuf::from(std::env::var_os("HOME").expect("tests run with a home"));
    assert_eq!(Python::File(home.join("py")), c.python);
    assert_eq!(Python::Named("3.12".to_owned()), d.python);
    let allow = d.allow.as_ref().expect("patterns");
    assert!(allow.allows("m", "f") && !allow.allows("m", "os.system"));
}

#[test]
fn the_environment_is_as_written() {
    let text = "[pools.a.env]\ninherit = 'minimal'\nunset = ['TZ']\nset = { K = 'v', E = '' }\n\
                [pools.b.env]\ninherit = ['PATH', 'X']\n";
    let config = good(parse(text, None, Path::new("/")));
    let env = &config.pools["a"].env;
    assert_eq!(Inherit::Minimal, env.inherit);
    assert_eq!(vec!["TZ"], env.unset);
    assert_eq!(Some("v"), env.set.get("K").map(String::as_str));
    assert_eq!(Some(""), env.set.get("E").map(String::as_str));
    let names = vec!["PATH".to_owned(), "X".to_owned()];
    assert_eq!(Inherit::List(names), config.pools["b"].env.inherit);
}

#[test]
fn a_smaller_bound_alone_makes_its_default_smaller() {
    let text = "daemon.memory = '1MiB'\n[pools.a]\nlimits.call_timeout_max = '10s'\n";
    let config = good(parse(text, None, Path::new("/")));
    assert_eq!(1 << 20, config.daemon.payload);
    assert_eq!(Duration::from_secs(10), config.pools["a"].limits.call_timeout);
}

#[test]
fn a_pools_output_is_the_daemons_unless_it_says_otherwise() {
    let text = "[daemon.output]\nlines = 500\nfile = 'logs/all'\n[pools.a]\nlogging = 'INFO'\n\
                [pools.b]\noutput = { lines = 700, file = '/b' }\n";
    let config = good(parse(text, None, Path::new("/")));
    let (a, b) = (&config.pools["a"], &config.pools["b"]);
    assert_eq!((500, 700), (a.output.lines, b.output.lines));
    assert_eq!(Some(Path::new("/logs/all")), a.output.file.as_deref());
    assert_eq!(Some(Path::new("/b")), b.output.file.as_deref());
    assert_eq!((4 << 20, 20, 0), (a.output.bytes, a.logging, b.logging));
}

#[test]
fn an_initializer_has_its_arguments_as_json() {
    let text = "[pools.a]\ninitializer = 'm:C.f'\nwarm = ['m:g', 'n.o:h']\n\
                initargs = ['größe', 1, -2.5, true, [[], [1]], { b = { c = '' } }]\n\
                [pools.b]\ninitializer = 'm:f'\n";
    let config = good(parse(text, None, Path::new("/")));
    let warm_up = &config.pools["a"].warm_up;
    assert_eq!(Some("m:C.f"), warm_up.initializer.as_deref());
    assert_eq!(r#"["größe",1,-2.5,true,[[],[1]],{"b":{"c":""}}]"#, warm_up.initargs);
    assert_eq!(vec!["m:g", "n.o:h"], warm_up.warm);
    assert_eq!("[]", config.pools["b"].warm_up.initargs);
}

#[test]
fn local_has_one_pool_with_the_longest_timeout() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cwd = directory.path().to_owned();
    fs::write(cwd.join("main.py"), "").expect("a script");
    let config = good(Config::local(LocalOptions {
        path: vec![".".into()],
        cwd: cwd.clone(),
        main: Some("main.py".into()),
        ..LocalOptions::default()
    }));
    let pool = &config.pools["default"];
    assert_eq!((1, "default"), (pool.workers, pool.name.as_str()));
    assert_eq!(vec![cwd.clone()], pool.path);
    assert_eq!(Python::default(), pool.python);
    assert_eq!(pool.limits.call_timeout_max, pool.limits.call_timeout);
    let main = pool.main.as_ref().expect("a script");
    assert_eq!(("main.py", cwd.join("main.py")), (main.argv0.as_str(), main.file.clone()));
    let named = Config::local(LocalOptions {
        python: Some("./bin/python".to_owned()),
        workers: Some(2),
        cwd: cwd.clone(),
        ..LocalOptions::default()
    });
    let pool = good(named).pools["default"].clone();
    assert_eq!((2, Python::File(cwd.join("bin/python"))), (pool.workers, pool.python));
}

#[test]
fn a_file_that_cannot_be_read_is_said_so_f155() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let refused = |path: &Path| {
        let error = load(path).expect_err("a bad file");
        let report = error.render(false).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(report.contains(&path.display().to_string()), "{report}");
        report
    };
    assert!(refused(&directory.path().join("none.toml")).contains("there is no such file"));
    assert!(refused(directory.path()).contains("it is a directory"));
    assert!(refused(Path::new("/dev/null")).contains("no regular file"));
    let latin = write(directory.path(), b"# caf\xe9\n[pools.a]\n");
    assert!(refused(&latin).contains("not UTF-8 from byte 5 on"));
    let huge = write(directory.path(), &vec![b'#'; (1 << 20) + 1]);
    assert!(refused(&huge).contains("more than 1048576 bytes"));
}

#[test]
fn a_file_that_others_can_write_to_is_refused_f159() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = write(directory.path(), b"[pools.a]\n");
    good(load(&path));
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("its mode");
    let report = load(&path).expect_err("a file anybody can write to").render(false);
    assert!(report.contains("anybody may write to it (mode 666)"), "{report}");
    assert!(report.contains("chmod o-w"), "{report}");
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn a_strangers_file_is_refused_to_root_f159() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = write(directory.path(), b"[pools.a]\n");
    if chown(&path, Some(12_345), None).is_err() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let error = load(&path).expect_err("a stranger's file").to_string();
    assert!(error.contains("belongs to the user with id 12345"), "{error}");
}
