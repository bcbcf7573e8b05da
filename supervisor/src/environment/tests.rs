//! What a worker inherits, and what not.

use super::*;

fn built(env: &Env, parent: &[(&str, &str)], venv: Option<&str>) -> Vec<String> {
    let parent = parent.iter().map(|(name, value)| (name.into(), value.into()));
    build(env, parent, venv.map(Path::new), None)
        .into_iter()
        .map(|(name, value)| format!("{}={}", name.display(), value.display()))
        .collect()
}

#[test]
fn all_leaves_out_what_bends_an_interpreter_or_a_loader_f152() {
    let mut parent: Vec<(&str, &str)> = NOT_INHERITED.iter().map(|name| (*name, "evil")).collect();
    parent.extend([("PATH", "/bin"), ("LD_LIBRARY_PATH", "/lib"), ("PYTHONUTF8", "1")]);
    let expected = ["LD_LIBRARY_PATH=/lib", "PATH=/bin", "PYTHONUTF8=1"];
    assert_eq!(expected.as_slice(), built(&Env::default(), &parent, None));
    for name in ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONMALLOC", "LD_PRELOAD"] {
        assert!(NOT_INHERITED.contains(&name), "{name}");
    }
}

#[test]
fn minimal_keeps_what_programs_need() {
    let env = Env { inherit: Inherit::Minimal, ..Env::default() };
    let parent = [
        ("PATH", "p"),
        ("HOME", "h"),
        ("USER", "u"),
        ("LANG", "l"),
        ("LC_ALL", "c"),
        ("TZ", "z"),
        ("TMPDIR", "t"),
        ("SECRET", "s"),
        ("XLC_", "x"),
        ("PATHS", "x"),
    ];
    let expected = ["HOME=h", "LANG=l", "LC_ALL=c", "PATH=p", "TMPDIR=t", "TZ=z", "USER=u"];
    assert_eq!(expected.as_slice(), built(&env, &parent, None));
}

#[test]
fn a_list_is_taken_at_its_word() {
    let inherit = Inherit::List(vec!["PYTHONPATH".to_owned(), "B".to_owned()]);
    let env = Env { inherit, ..Env::default() };
    let parent = [("A", "1"), ("B", "2"), ("PYTHONPATH", "/mine")];
    assert_eq!(["B=2", "PYTHONPATH=/mine"].as_slice(), built(&env, &parent, None));
}

#[test]
fn set_wins_over_unset_and_both_over_what_was_inherited() {
    let set = [("A", "set"), ("PYTHONHOME", "/mine")];
    let env = Env {
        inherit: Inherit::All,
        set: set.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        unset: vec!["A".to_owned(), "B".to_owned(), "VIRTUAL_ENV".to_owned()],
    };
    let parent = [("A", "1"), ("B", "2"), ("C", "3"), ("PYTHONHOME", "/evil"), ("", "x")];
    let expected = ["A=set", "C=3", "PATH=/v/bin:/bin:/usr/bin", "PYTHONHOME=/mine"];
    assert_eq!(expected.as_slice(), built(&env, &parent, Some("/v")));
}

#[test]
fn the_pools_virtual_environment_is_activated_and_a_foreign_one_is_not_f152() {
    let parent = [("PATH", "/other/bin:/bin"), ("VIRTUAL_ENV", "/other")];
    let expected = ["PATH=/other/bin:/bin"];
    assert_eq!(expected.as_slice(), built(&Env::default(), &parent, None));
    let expected = ["PATH=/v/bin:/other/bin:/bin", "VIRTUAL_ENV=/v"];
    assert_eq!(expected.as_slice(), built(&Env::default(), &parent, Some("/v")));
    let parent = [("PATH", "/v/bin:/bin"), ("VIRTUAL_ENV", "/v")];
    let expected = ["PATH=/v/bin:/bin", "VIRTUAL_ENV=/v"];
    assert_eq!(expected.as_slice(), built(&Env::default(), &parent, Some("/v")));
    let env = Env { inherit: Inherit::Minimal, ..Env::default() };
    assert_eq!(expected.as_slice(), built(&env, &parent, Some("/v")));
}

#[test]
fn bytes_that_are_not_utf8_survive_f157() {
    let odd = || OsString::from_vec(b"\xff\xfe=".to_vec());
    let parent = [(OsString::from("B"), odd()), (OsString::from_vec(b"A\xff".to_vec()), odd())];
    let built = build(&Env::default(), parent.clone().into_iter(), None, None);
    assert_eq!(vec![parent[1].clone(), parent[0].clone()], built);
}

#[test]
fn wildcards_stand_for_names_but_not_for_what_is_foreign() {
    let inherit = |patterns: &[&str]| {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Env { inherit: Inherit::List(patterns), ..Env::default() }
    };
    let parent = [
        ("LC_ALL", "1"),
        ("LC_", "2"),
        ("XLC_", "3"),
        ("AWS_A_KEY", "4"),
        ("AWS_B_ID", "5"),
        ("NOTIFY_SOCKET", "6"),
        ("CONDA_PREFIX", "7"),
        ("PYTHONHOME", "8"),
    ];
    assert_eq!(["LC_=2", "LC_ALL=1"].as_slice(), built(&inherit(&["LC_*"]), &parent, None));
    assert_eq!(["AWS_A_KEY=4"].as_slice(), built(&inherit(&["AWS_*_KEY"]), &parent, None));
    let all = built(&inherit(&["*"]), &parent, None);
    assert_eq!(["AWS_A_KEY=4", "AWS_B_ID=5", "LC_=2", "LC_ALL=1", "XLC_=3"].as_slice(), all);
    let named = built(&inherit(&["PYTHONHOME", "X*"]), &parent, None);
    assert_eq!(["PYTHONHOME=8", "XLC_=3"].as_slice(), named, "a name is taken at its word");
    for (pattern, name, expected) in [
        ("*", "", true),
        ("A*", "A", true),
        ("A*B*C", "AxBBxC", true),
        ("A*B*C", "AxxC", false),
        ("*A", "BAB", false),
        ("A*A", "A", false),
    ] {
        assert_eq!(expected, stands_for(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
    }
}

fn settled(env: &Env, parent: &[(&str, &str)], executable: &str) -> Vec<String> {
    let pairs = || parent.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let mut variables = build(env, pairs(), None, None);
    let find =
        |name: &str| parent.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
    settle(&mut variables, env, &active(find), Path::new(executable));
    variables.into_iter().map(|(n, v)| format!("{}={}", n.display(), v.display())).collect()
}

#[test]
fn an_active_environment_stays_only_for_its_own_interpreter_f152() {
    let parent = [("PATH", "/v/bin:/c/bin:/bin"), ("VIRTUAL_ENV", "/v"), ("CONDA_PREFIX", "/c")];
    let all = Env::default();
    assert_eq!(["PATH=/bin"].as_slice(), settled(&all, &parent, "/usr/bin/python3"));
    let expected = ["PATH=/v/bin:/bin", "VIRTUAL_ENV=/v"];
    assert_eq!(expected.as_slice(), settled(&all, &parent, "/v/bin/python"));
    let expected = ["CONDA_PREFIX=/c", "PATH=/c/bin:/bin"];
    assert_eq!(expected.as_slice(), settled(&all, &parent, "/c/bin/python"));
    let minimal = Env { inherit: Inherit::Minimal, ..Env::default() };
    assert_eq!(["PATH=/v/bin:/bin"].as_slice(), settled(&minimal, &parent, "/v/bin/python"));
    assert_eq!(["PATH=/bin"].as_slice(), settled(&minimal, &parent, "/usr/bin/python"));
    let listed = Env { inherit: Inherit::List(vec!["PATH".into()]), ..Env::default() };
    let expected = ["PATH=/v/bin:/c/bin:/bin"];
    assert_eq!(expected.as_slice(), settled(&listed, &parent, "/usr/bin/python"));
    let unset = Env { unset: vec!["VIRTUAL_ENV".into()], ..Env::default() };
    assert_eq!(["PATH=/v/bin:/bin"].as_slice(), settled(&unset, &parent, "/v/bin/python"));
    let set = Env { set: [("PATH".into(), "/v/bin".into())].into(), ..Env::default() };
    assert_eq!(["PATH=/v/bin"].as_slice(), settled(&set, &parent, "/usr/bin/python"));
    let only = [("PATH", "/v/bin"), ("VIRTUAL_ENV", "/v")];
    assert_eq!(["PATH=/bin:/usr/bin"].as_slice(), settled(&all, &only, "/usr/bin/python"));
}

#[test]
fn what_the_service_manager_tells_the_daemon_stays_with_it() {
    let parent: Vec<(&str, &str)> = [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "CREDENTIALS_DIRECTORY",
        "JOURNAL_STREAM",
        "CLUTCH_SOCKET",
        "CLUTCH_WORKER",
        "CLUTCH_BIN",
        "CLUTCH_LOG",
        "CONDA_DEFAULT_ENV",
        "_CE_CONDA",
    ]
    .map(|name| (name, "secret"))
    .into();
    assert_eq!(Vec::<String>::new(), built(&Env::default(), &parent, None));
}

#[test]
fn without_a_path_the_working_directory_is_not_searched() {
    assert_eq!("/bin:/usr/bin", search_path(&[]));
    assert_eq!("/opt:", search_path(&[("PATH".into(), "/opt:".into())]), "at its word");
}
