//! `clutch run` beside `python`: the same command lines, by a daemon and with `--local`, give the
//! same bytes on standard output and standard error and end in the same way, signals included.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use clutch_tests::binary::Clutch;
use clutch_tests::builder::private_environment;
use clutch_tests::command::{Program, wait};
use clutch_tests::{Daemon, Python, SECOND, Tmp};

/// A command line of a shell, with `"$@"` where `python` would be, and `exec` before it where its
/// own end is to be seen.
struct Case {
    name: &'static str,
    line: &'static str,
}

const fn case(name: &'static str, line: &'static str) -> Case {
    Case { name, line }
}

/// The scripts that command lines name.
const FILES: &[(&str, &str)] = &[
    ("show.py", "import sys\nprint(sys.argv, sys.path[0], __name__, __file__, sys.flags)\n"),
    ("mod.py", "import sys\nprint(sys.argv, sys.path[0], __name__, __spec__.name)\n"),
    ("pkg/__init__.py", ""),
    ("pkg/__main__.py", "import sys\nprint(sys.argv, __name__, __package__)\nsys.exit(5)\n"),
    ("app/__main__.py", "import sys, helper\nprint(sys.argv, sys.path[0], helper.X)\n"),
    ("app/helper.py", "X = 'beside'\n"),
    (
        "tb.py",
        "def f(x):\n    return 1 / x\n\n\ndef g():\n    try:\n        f(0)\n    except \
              ZeroDivisionError as error:\n        raise KeyError('k\u{e9}') from error\n\n\ng()\n",
    ),
    ("syntax.py", "print('never')\ndef f(:\n    pass\n"),
    (
        "spawn.py",
        "import multiprocessing as mp\n\n\ndef square(x):\n    return x * x\n\n\nif \
                 __name__ == '__main__':\n    for method in \
                 ('fork', 'spawn', 'forkserver'):\n        with \
                 mp.get_context(method).Pool(2) as pool:\n            \
                 print(method, pool.map(square, range(5)), flush=True)\n",
    ),
    (
        "main.py",
        "import sys, types\nthis = sys.modules['__main__']\nprint(this.__dict__ is \
                globals(), this.__spec__, this.__builtins__.__name__)\nimport pickle\n\n\n\
                class A:\n    pass\n\n\nprint(pickle.loads(pickle.dumps(A())).__class__ is A)\n\
                import main\nprint(main.A is A, main.__name__)\n",
    ),
    (
        "atexit.py_",
        "import atexit, sys\natexit.register(print, 'last')\nsys.stdout.write('no end')\n\
                   sys.exit('said on stderr')\n",
    ),
    (
        "both.py",
        "import os, sys\nfor i in range(200):\n    print('out', i)\n    print('err', i, \
                file=sys.stderr)\n    os.write(1, b'raw\\n')\n",
    ),
    (
        "big.py",
        "import sys\nline = b'x' * 1023 + b'\\n'\nfor _ in range(50 * 1024):\n    \
               sys.stdout.buffer.write(line)\n",
    ),
    (
        "term.py",
        "import os, signal, sys, time\ndef end(number, frame):\n    print('handled', number, \
                flush=True)\n    sys.exit(3)\nsignal.signal(signal.SIGTERM, end)\nfor s in \
                (signal.SIGUSR1, signal.SIGALRM, signal.SIGPWR):\n    signal.signal(s, \
                end)\nopen('up', 'w').close()\nwhile True:\n    time.sleep(0.05)\n",
    ),
    ("sleep.py", "import time\nopen('up', 'w').close()\ntime.sleep(60)\n"),
    (
        "env.py",
        "import os\nfor k in sorted(os.environ):\n    if k != '_' and not \
               k.startswith('CLUTCH_'): print(k, os.environ[k])\n",
    ),
];

/// Sends a signal once the script says that it is up. Its sender is in the background, not the
/// script: a shell has what it starts there ignore SIGINT.
macro_rules! signalled {
    ($script:literal, $signal:literal) => {
        concat!(
            "rm -f up; (while [ ! -e up ]; do kill -0 $$ || exit; sleep 0.02; done; ",
            "kill -",
            $signal,
            " $$) & exec \"$@\" ",
            $script
        )
    };
}

const CASES: &[Case] = &[
    case("a script and its arguments", r#"exec "$@" show.py a 'b c' --pool x -h '' '*'"#),
    case("a script elsewhere", r#"cd pkg && exec "$@" ../show.py"#),
    case("an absolute script", r#"exec "$@" "$PWD/show.py" 1"#),
    case("a module", r#"exec "$@" -m mod --local -c"#),
    case("a package", r#"exec "$@" -m pkg one"#),
    case("a directory", r#"exec "$@" app x"#),
    case("a module of the library", r#"echo '{"b":1,"a":[1,2]}' | "$@" -m json.tool"#),
    case("no such module", r#"exec "$@" -m no_such_module"#),
    case("no such script", r#"exec "$@" no_such.py"#),
    case("code", r#"exec "$@" -c 'import sys; print(sys.argv, sys.path[0], __name__)' -c x"#),
    case("code on standard input", r#"echo 'import sys; print(sys.argv, __name__)' | "$@""#),
    case("code on standard input, by name", r#"echo 'import sys; print(sys.argv)' | "$@" - a -b"#),
    case(
        "a here document",
        "exec \"$@\" <<'END'\nprint(input.__name__)\nraise SystemExit(9)\nEND\n",
    ),
    case(
        "standard input is read",
        r#"printf 'a\nb' | "$@" -c 'import sys; print(list(sys.stdin))'"#,
    ),
    case(
        "every exit code",
        r#"seq 0 255 | xargs -P 4 -I{} sh -c '"$@" -S -c "import sys; sys.exit({})"; code=$?
        test $code = {} || echo {} became $code' sh "$@"; echo all"#,
    ),
    case(
        "exit codes at the edges",
        r#"for code in 0 1 2 3 7 8 77 126 127 128 130 137 200 254 255 256 -1; do
        "$@" -c "import sys; sys.exit($code)"; echo $?; done"#,
    ),
    case(
        "exit in every way",
        r#"for end in None True "''" "'words'" "(1,)" 1.5 "b'x'"; do
        "$@" -c "import sys; sys.exit($end)"; echo $?; done"#,
    ),
    case("_exit", r#"exec "$@" -c 'import os; print("lost"); os._exit(4)'"#),
    case("exit handlers", r#"exec "$@" atexit.py_"#),
    case("a traceback", r#"exec "$@" tb.py"#),
    case("a syntax error", r#"exec "$@" syntax.py"#),
    case(
        "an unraisable one",
        r#"exec "$@" -c 'class R:
    def __repr__(self): return "R"
    def __call__(self): raise ValueError(1)
import atexit; atexit.register(R())'"#,
    ),
    case("killed", r#"exec "$@" -c 'import os; os.kill(os.getpid(), 9)'"#),
    case("terminated", r#"exec "$@" -c 'import os; os.kill(os.getpid(), 15)'"#),
    case("aborted", r#"ulimit -c 0; exec "$@" -c 'import os; os.abort()'"#),
    case(
        "a segmentation fault",
        r#"ulimit -c 0; exec "$@" -c 'import ctypes; ctypes.string_at(0)'"#,
    ),
    case(
        "killed by a broken pipe",
        r#"exec "$@" -c 'import os, signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
r, w = os.pipe(); os.close(r); os.write(w, b"x")'"#,
    ),
    case("interrupted by itself", r#"exec "$@" -c 'raise KeyboardInterrupt'"#),
    case("interrupted", signalled!("sleep.py", "INT")),
    case("terminated from outside", signalled!("sleep.py", "TERM")),
    case("hung up", signalled!("sleep.py", "HUP")),
    case("a handler of SIGTERM", signalled!("term.py", "TERM")),
    case("a handler of SIGUSR1", signalled!("term.py", "USR1")),
    case("a handler of SIGALRM", signalled!("term.py", "ALRM")),
    case("a handler of SIGPWR", signalled!("term.py", "PWR")),
    case("an alarm", signalled!("sleep.py", "ALRM")),
    case(
        "in a shell's background",
        r#""$@" -c 'import signal
print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGQUIT))' & wait $!"#,
    ),
    case(
        "without a hang-up",
        r#"trap '' HUP; exec "$@" -c 'import signal
print(signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGINT))'"#,
    ),
    case("__main__", r#"exec "$@" main.py"#),
    case("processes of every kind", r#"exec "$@" spawn.py"#),
    case(
        "a broken pipe",
        r#"{ "$@" -c 'for i in range(100000): print(i)'; echo $? >&2; } | head -n 3"#,
    ),
    case("both streams in one file", r#"exec "$@" -u both.py 2>&1"#),
    case("both streams, buffered", r#"exec "$@" both.py"#),
    case("fifty megabytes", r#""$@" big.py | sha256sum"#),
    case("fifty megabytes into a file", r#"exec "$@" big.py"#),
    case("text of the world", r#"exec "$@" show.py 'größer ☃' '日本語' '😀'"#),
    case(
        "bytes that are no text",
        "exec \"$@\" -c 'import sys, os; print([os.fsencode(a) for a in \
        sys.argv])' \"$(printf '\\377\\376=x')\" \"$(printf 'a\\200b')\"",
    ),
    // Whoever is at the other end must see the program close it, or the program waits for ever.
    case(
        "standard output that is closed early",
        r#"mkfifo end; "$@" -c 'import os
os.close(1)
print(open("end").read(), file=open("closed", "w"))' | { cat; echo seen > end; }
cat closed; rm end closed"#,
    ),
    case(
        "standard input that is closed early",
        r#"mkfifo end; { trap '' PIPE; while echo x 2>/dev/null; do :; done; echo seen > end; } |
"$@" -c 'import os
os.close(0)
print(open("end").read())'; rm end"#,
    ),
    case("closed standard input", r#"exec "$@" -c 'import sys; print(sys.stdin); input()' <&-"#),
    case(
        "closed standard output",
        r#"exec "$@" -c 'import sys; print(sys.stdout, file=sys.stderr); print(1)' >&-"#,
    ),
    case("closed standard error", r#"exec "$@" -c 'import sys; print(sys.stderr); 1/0' 2>&-"#),
    case(
        "all closed",
        r#""$@" -c 'open("all","w").write("x")' <&- >&- 2>&-; echo $?; cat all; rm all"#,
    ),
    case("appended", r#"echo 1 >>log; "$@" -c 'print(2)' >>log; echo 3 >>log; cat log; rm log"#),
    case("options of python", r#"exec "$@" -B -O -W error -X dev -X utf8 show.py"#),
    case("joined options", r#"exec "$@" -BuOOWignore -Xdev show.py -u"#),
    case("isolated", r#"exec "$@" -I show.py"#),
    case(
        "without site",
        r#"exec "$@" -S -E -s -c 'import sys; print(sys.flags, "site" in sys.modules)'"#,
    ),
    case("a warning as an error", r#"exec "$@" -W error -c 'import warnings; warnings.warn("w")'"#),
    case("the version", r#"exec "$@" -V"#),
    case("the version, in full", r#"exec "$@" --version"#),
    case("an unknown option", r#"exec "$@" -Z"#),
    case("options end", r#"exec "$@" -- show.py -x"#),
    case("-i", r#"echo 'print(x)' | "$@" -i -c 'x = 5' 2>/dev/null"#),
    case("-v is python's", r#""$@" -v -c pass 2>&1 | grep -c 'import .site'"#),
    case("the mask", r#"umask 027; "$@" -c 'open("m","w")'; stat -c %a m; rm m"#),
    case("the directory", r#"mkdir -p d; cd d; exec "$@" -c 'import os; print(os.getcwd())'"#),
    case("a variable", r#"WORD=größer exec "$@" -c 'import os; print(os.environ["WORD"])'"#),
    case("the environment", r#"exec "$@" env.py"#),
    case(
        "limits",
        r#"ulimit -Sn 200; exec "$@" -c 'import resource; print(resource.RLIMIT_NOFILE)'"#,
    ),
    case(
        "children are waited for by nobody",
        r#"exec "$@" -c 'import subprocess
print(subprocess.run("echo $((6*7)); exit 3", shell=True, capture_output=True))'"#,
    ),
    case(
        "asyncio and its children",
        r#"exec "$@" -c 'import asyncio
async def f():
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print(await p.communicate(b"through"))
asyncio.run(f())'"#,
    ),
];

/// How a command line ended.
#[derive(PartialEq, Eq)]
struct Ended {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn run(case: &Case, launcher: &[&OsStr], tmp: &Tmp) -> Ended {
    let (out, err) = (tmp.join("stdout"), tmp.join("stderr"));
    let file = |path: &Path| Stdio::from(File::create(path).expect("a test may write"));
    let program = Clutch::private(Program::with_default_signals("sh"))
        .args(["-c", case.line, "sh"])
        .args(launcher)
        .envs(private_environment(tmp))
        .env_remove("VIRTUAL_ENV")
        .dir(tmp.dir("work"));
    let mut child = program.spawn(Stdio::null(), file(&out), file(&err));
    let status = wait(&mut child, 60 * SECOND).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{} does not end: {}", case.name, String::from_utf8_lossy(&fs::read(&err).unwrap()))
    });
    let read = |path: &Path| fs::read(path).expect("it was just written");
    Ended { status, stdout: read(&out), stderr: read(&err) }
}

/// The end of a text, for people.
fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).into_owned()
}

fn compare_all(tmp: &Tmp, python: &Python, launcher: &[&OsStr]) {
    let work = tmp.dir("work");
    for (name, text) in FILES {
        let path = work.join(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).unwrap();
        fs::write(path, text).unwrap();
    }
    // Whether caches are there shows in nothing but `-v`; both find them.
    let _ = run(&case("warm", r#"exec "$@" -c 'import json'"#), &[python.path.as_os_str()], tmp);
    let mut different = Vec::new();
    for case in CASES {
        let expected = run(case, &[python.path.as_os_str()], tmp);
        let got = run(case, launcher, tmp);
        if got != expected {
            different.push(format!(
                "{}: {}\n--- python: {}\n{}\n{}\n--- clutch run: {}\n{}\n{}",
                case.name,
                case.line,
                expected.status,
                tail(&expected.stdout),
                tail(&expected.stderr),
                got.status,
                tail(&got.stdout),
                tail(&got.stderr),
            ));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {} differ\n\n{}",
        different.len(),
        CASES.len(),
        different.join("\n\n")
    );
}

/// A daemon whose pool asks for nothing.
fn plain_daemon(python: &Python) -> Daemon {
    let text = format!("[pools.default]\npython = '{}'\nworkers = 1\n", python.path.display());
    Daemon::builder().config_text(text).start()
}

#[test]
fn a_program_of_the_daemon_is_a_program_of_python() {
    let python = Python::any();
    let mut daemon = plain_daemon(python);
    let tmp = Tmp::new();
    let socket = daemon.socket().to_owned();
    let binary = Clutch::binary().as_os_str();
    let launcher = [binary, OsStr::new("--socket"), socket.as_os_str(), OsStr::new("run")];
    compare_all(&tmp, python, &launcher);
    let status = daemon.status();
    assert_eq!(
        Vec::<u32>::new(),
        status.pools[0].runs.iter().map(|run| run.pid).collect::<Vec<_>>()
    );
    assert!(daemon.counter("default", "runs") > 80, "they were the daemon's");
    assert_eq!(0, daemon.stop(10 * SECOND));
}

#[test]
fn a_program_without_a_daemon_is_a_program_of_python() {
    let python = Python::any();
    let tmp = Tmp::new();
    let words = [b"run" as &[u8], b"--local", b"--python"].map(OsStr::from_bytes);
    let binary = Clutch::binary().as_os_str();
    let launcher = [binary, words[0], words[1], words[2], python.path.as_os_str()];
    compare_all(&tmp, python, &launcher);
}
