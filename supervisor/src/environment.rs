//! The environment of a pool's workers: inherited, then unset, then set.
//!
//! A worker gets what a person at the daemon's terminal would have, less what was meant for
//! another program: what bends an interpreter or a loader, a virtual environment that is not the
//! pool's, and what the service manager told the daemon alone. What is listed by name or set in the
//! configuration is taken at its word. Values are bytes and stay so.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::{Account, Env, Inherit};

/// What is not inherited unless it is listed by name.
const NOT_INHERITED: [&str; 19] = [
    // They bend an interpreter that they were not written for.
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONEXECUTABLE",
    "PYTHONINSPECT",
    "PYTHONPLATLIBDIR",
    "PYTHONMALLOC",
    "__PYVENV_LAUNCHER__",
    // They put foreign code into every program.
    "LD_PRELOAD",
    "LD_AUDIT",
    // A virtual environment, but not the pool's.
    "VIRTUAL_ENV",
    "VIRTUAL_ENV_PROMPT",
    // The service manager speaks to the daemon, and must not hear from a worker.
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// What `inherit = "minimal"` keeps, besides `LC_*`.
const MINIMAL: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR"];

/// What the system searches when there is no `PATH`.
const PATH_WITHOUT_PATH: &str = "/bin:/usr/bin";

/// Builds an environment, sorted by name.
pub fn build(
    env: &Env,
    parent: impl Iterator<Item = (OsString, OsString)>,
    venv: Option<&Path>,
    account: Option<&Account>,
) -> Vec<(OsString, OsString)> {
    let mut variables: BTreeMap<OsString, OsString> =
        parent.filter(|(name, _)| !name.is_empty() && inherits(&env.inherit, name)).collect();
    if let Some(venv) = venv {
        activate(&mut variables, venv);
    }
    if let Some(account) = account {
        log_in(&mut variables, account);
    }
    for name in &env.unset {
        variables.remove(OsStr::new(name));
    }
    for (name, value) in &env.set {
        variables.insert(name.into(), value.into());
    }
    variables.into_iter().collect()
}

fn inherits(inherit: &Inherit, name: &OsStr) -> bool {
    let is_among = |names: &[&str]| names.iter().any(|known| name == OsStr::new(known));
    match inherit {
        Inherit::All => !is_among(&NOT_INHERITED),
        Inherit::Minimal => name.as_bytes().starts_with(b"LC_") || is_among(&MINIMAL),
        Inherit::List(names) => names.iter().any(|known| name == OsStr::new(known)),
    }
}

/// What a login of that user would set: the daemon's own home is none of a worker's.
fn log_in(variables: &mut BTreeMap<OsString, OsString>, account: &Account) {
    for name in ["HOME", "USER", "LOGNAME", "MAIL", "XDG_RUNTIME_DIR"] {
        variables.remove(OsStr::new(name));
    }
    if let Some(home) = &account.home {
        variables.insert("HOME".into(), home.into());
    }
    if let Some(name) = &account.name {
        variables.insert("USER".into(), name.into());
        variables.insert("LOGNAME".into(), name.into());
    }
}

/// What `bin/activate` of a virtual environment would do.
fn activate(variables: &mut BTreeMap<OsString, OsString>, venv: &Path) {
    variables.insert("VIRTUAL_ENV".into(), venv.into());
    variables.remove(OsStr::new("VIRTUAL_ENV_PROMPT"));
    let bin = venv.join("bin");
    let path = variables.entry("PATH".into()).or_insert_with(|| PATH_WITHOUT_PATH.into());
    if std::env::split_paths(path).next().as_deref() != Some(&bin) {
        // `join_paths` would refuse a colon, which `PATH` cannot express: then it splits in two,
        // as it does for a person.
        let mut joined = bin.into_os_string();
        joined.push(":");
        joined.push(&*path);
        *path = joined;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

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
        let mut parent: Vec<(&str, &str)> =
            NOT_INHERITED.iter().map(|name| (*name, "evil")).collect();
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
}
