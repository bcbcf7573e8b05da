//! From what a client asks for and a pool's rules to the process that runs it.
//!
//! Interpreter, interpreter options, limits, user and the rules of the environment are the pool's.
//! What the rules are applied to is the client's: its environment, its working directory, its mask.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clutch_protocol::message::{RunProgram, Spawn, SpawnProgram, Streams};
use clutch_protocol::wire::{self, Decode, Encode};
use thiserror::Error;

use crate::config::{self, Python};
use crate::environment;

/// The longest command that `status` shows, in characters.
const COMMAND_CHARS_MAX: usize = 200;

/// Why what a client asks for cannot be run.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProgramFault {
    /// A path has to be absolute: the daemon has another working directory.
    #[error("the {0} of a program is not an absolute path")]
    Relative(&'static str),
    /// The streams contradict themselves.
    #[error("the streams of a program are not some of 0, 1 and 2, each once and in order")]
    Streams,
}

/// What a guardian is to run. `base` is the process of a worker of that pool.
///
/// # Errors
///
/// When what is asked for contradicts itself.
pub fn program(
    pool: &config::Pool,
    base: Spawn,
    asked: RunProgram,
) -> Result<SpawnProgram, ProgramFault> {
    check_streams(&asked.streams)?;
    check_absolute("working directory", &asked.directory)?;
    let own = Some(&pool.python).filter(|_| asked.interpreter.is_empty());
    let (interpreter, venv) = match own {
        Some(python) => (base.program.clone(), venv_of(python).map(Path::to_owned)),
        None => {
            check_absolute("interpreter", &asked.interpreter)?;
            let venv = (!asked.venv.is_empty()).then(|| PathBuf::from(text(&asked.venv)));
            (asked.interpreter.clone(), venv)
        }
    };
    let environment = environment(pool, &asked, venv.as_deref(), Path::new(text(&interpreter)));
    let flags = pool.flags.iter().map(|flag| flag.clone().into_bytes());
    let argv = std::iter::once(interpreter.clone()).chain(flags).chain(asked.arguments);
    let mut spawn = Spawn {
        program: interpreter,
        argv: argv.collect(),
        environment,
        directory: asked.directory,
        ..base
    };
    spawn.limits.umask = spawn.limits.umask.or(Some(asked.umask & 0o777));
    Ok(SpawnProgram { spawn, streams: asked.streams })
}

/// The meta that carries a program, if its reader takes it: that bounds the memory of what it makes
/// of it, in which many short arguments are more than their bytes.
pub fn encode<T: Encode + Decode<()>>(program: &T) -> Option<Vec<u8>> {
    let meta = wire::encode(program).ok()?;
    wire::decode::<T>(&meta).is_ok().then_some(meta)
}

/// The virtual environment of a pool, if it has one.
pub fn venv_of(python: &Python) -> Option<&Path> {
    match python {
        Python::Venv(path) => Some(path),
        Python::Named(_) | Python::File(_) => None,
    }
}

/// What a person calls the program: its arguments, in one line that cannot disturb a terminal.
pub fn command(arguments: &[Vec<u8>]) -> String {
    let words: Vec<_> = arguments.iter().map(|word| String::from_utf8_lossy(word)).collect();
    let line = if words.is_empty() { "(interactive)".to_owned() } else { words.join(" ") };
    let line = line.replace(char::is_control, "\u{fffd}");
    match line.char_indices().nth(COMMAND_CHARS_MAX) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

fn check_absolute(what: &'static str, path: &[u8]) -> Result<(), ProgramFault> {
    if Path::new(text(path)).is_absolute() { Ok(()) } else { Err(ProgramFault::Relative(what)) }
}

fn check_streams(streams: &Streams) -> Result<(), ProgramFault> {
    let in_order = streams.open.is_sorted_by(|a, b| a < b);
    let known = streams.open.iter().all(|number| *number < 3);
    let is_open = |terminal| streams.open.iter().any(|number| u32::from(*number) == terminal);
    let terminal = streams.terminal.is_none_or(is_open);
    if in_order && known && terminal { Ok(()) } else { Err(ProgramFault::Streams) }
}

/// The pool's rules applied to the client's environment. The pool's `path` goes into `PYTHONPATH`,
/// where a fresh interpreter finds it behind `sys.path[0]`, as a worker's is.
fn environment(
    pool: &config::Pool,
    asked: &RunProgram,
    venv: Option<&Path>,
    interpreter: &Path,
) -> Vec<Vec<u8>> {
    let parent = || asked.environment.iter().filter_map(|variable| split(variable));
    let account = pool.process.account.as_ref();
    let mut variables = environment::build(&pool.env, parent(), venv, account);
    if venv.is_none() {
        // What is active in the client's terminal goes on if this interpreter is of it.
        let of_client = |name: &str| parent().find(|(known, _)| known == name).map(|(_, it)| it);
        let active = environment::active(of_client);
        environment::settle(&mut variables, &pool.env, &active, interpreter);
    }
    if !pool.path.is_empty() {
        let name = OsStr::new("PYTHONPATH");
        let mut joined = OsString::new();
        for path in &pool.path {
            joined.push(path);
            joined.push(":");
        }
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => {
                joined.push(&*value);
                *value = joined;
            }
            None => {
                // Without the last colon, which would stand for the working directory.
                let joined = joined.into_vec();
                let joined = joined[..joined.len() - 1].to_vec();
                variables.push((name.to_owned(), OsString::from_vec(joined)));
            }
        }
    }
    for (name, value) in asked.set.iter().filter_map(|variable| split(variable)) {
        variables.retain(|(known, _)| *known != name);
        variables.push((name, value));
    }
    let line = |(name, value): (OsString, OsString)| {
        [&name.into_vec()[..], b"=", value.as_bytes()].concat()
    };
    variables.into_iter().map(line).collect()
}

/// `NAME=value` in its two parts. A name may start with `=`, which some shells make.
fn split(variable: &[u8]) -> Option<(OsString, OsString)> {
    let sign = variable.iter().skip(1).position(|byte| *byte == b'=')? + 1;
    Some((text(&variable[..sign]).to_owned(), text(&variable[sign + 1..]).to_owned()))
}

fn text(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use clutch_protocol::message::ProcessLimits;

    use super::*;
    use crate::config::{Config, LocalOptions};

    fn pool(text: &str) -> config::Pool {
        let options = LocalOptions { cwd: "/".into(), ..LocalOptions::default() };
        let mut pool = Config::local(options).unwrap().pools.remove("default").unwrap();
        match text {
            "path" => pool.path = vec!["/a".into(), "/b".into()],
            "venv" => pool.python = Python::Venv("/v".into()),
            _ => {}
        }
        pool
    }

    fn base() -> Spawn {
        Spawn {
            program: b"/bin/python3".into(),
            argv: vec![],
            environment: vec![b"SECRET=of the daemon".into()],
            directory: b"/pool".into(),
            grace_ms: 5,
            open_files: 6,
            limits: ProcessLimits::default(),
            cgroup: Vec::new(),
        }
    }

    fn asked() -> RunProgram {
        RunProgram {
            pool: "default".into(),
            arguments: vec![b"x.py".into(), b"{call}\xff".into()],
            environment: vec![b"A=1".into(), b"PATH=/bin".into(), b"PYTHONHOME=/evil".into()],
            set: vec![b"B=2=3".into()],
            directory: b"/mine".into(),
            interpreter: vec![],
            venv: vec![],
            umask: 0o27,
            streams: Streams { open: vec![0, 1, 2], terminal: None, ignored: 0 },
        }
    }

    #[test]
    fn a_program_has_the_callers_place_and_the_pools_rules() {
        let SpawnProgram { spawn, .. } = program(&pool(""), base(), asked()).unwrap();
        assert_eq!(b"/mine".to_vec(), spawn.directory);
        let argv: [&[u8]; 3] = [b"/bin/python3", b"x.py", b"{call}\xff"];
        assert_eq!(argv.as_slice(), spawn.argv);
        let environment: [&[u8]; 3] = [b"A=1", b"PATH=/bin", b"B=2=3"];
        assert_eq!(environment.as_slice(), spawn.environment, "and no secret of the daemon");
        assert_eq!((Some(0o27), 5, 6), (spawn.limits.umask, spawn.grace_ms, spawn.open_files));
    }

    #[test]
    fn the_pools_path_and_environment_go_along() {
        let spawn = program(&pool("path"), base(), asked()).unwrap().spawn;
        assert!(spawn.environment.contains(&b"PYTHONPATH=/a:/b".to_vec()));
        let spawn = program(&pool("venv"), base(), asked()).unwrap().spawn;
        assert!(spawn.environment.contains(&b"PATH=/v/bin:/bin".to_vec()));
        let other = RunProgram { interpreter: b"/o/bin/python".into(), ..asked() };
        let spawn = program(&pool("venv"), base(), other).unwrap().spawn;
        assert_eq!(b"/o/bin/python".to_vec(), spawn.program);
        assert!(spawn.environment.contains(&b"PATH=/bin".to_vec()), "not the pool's environment");
    }

    #[test]
    fn what_is_active_in_the_clients_terminal_goes_on_only_if_it_runs_the_program() {
        let variables = [&b"PATH=/mine/bin:/bin"[..], b"VIRTUAL_ENV=/mine"];
        let variables: Vec<_> = variables.iter().map(|variable| variable.to_vec()).collect();
        let asked = |interpreter: &[u8]| RunProgram {
            environment: variables.clone(),
            set: vec![],
            interpreter: interpreter.into(),
            ..asked()
        };
        let foreign = program(&pool(""), base(), asked(b"/bin/python3")).unwrap().spawn;
        assert_eq!(vec![b"PATH=/bin".to_vec()], foreign.environment);
        let own = program(&pool(""), base(), asked(b"/mine/bin/python")).unwrap().spawn;
        assert_eq!(variables, own.environment);
    }

    #[test]
    fn nonsense_is_refused() {
        let streams = |open: &[u8], terminal| Streams { open: open.into(), terminal, ignored: 0 };
        for streams in [
            streams(&[0, 0], None),
            streams(&[1, 0], None),
            streams(&[3], None),
            streams(&[0], Some(1)),
        ] {
            let asked = RunProgram { streams, ..asked() };
            assert_eq!(Err(ProgramFault::Streams), program(&pool(""), base(), asked));
        }
        let asked = RunProgram { directory: b"here".into(), ..asked() };
        assert!(program(&pool(""), base(), asked).is_err());
    }

    #[test]
    fn what_is_sent_is_what_can_be_read() {
        let many = RunProgram { arguments: vec![b"x".to_vec(); 60_000], ..asked() };
        assert!(wire::encode(&many).is_ok() && encode(&many).is_none());
        let meta = encode(&asked()).unwrap();
        assert_eq!(asked(), wire::decode(&meta).unwrap());
    }

    #[test]
    fn a_command_is_one_short_line() {
        assert_eq!("-c a\u{fffd}b", command(&[b"-c".into(), b"a\nb".into()]));
        assert_eq!("(interactive)", command(&[]));
        assert!(command(&[vec![b'x'; 1000]]).len() < 210);
    }
}
