//! `clutch run` at a terminal: what a person sees and types is, byte for byte, what it is with
//! `python`, and the terminal is as it was afterwards.

use std::ffi::OsStr;
use std::fs;

use clutch_tests::binary::Clutch;
use clutch_tests::builder::private_environment;
use clutch_tests::{Daemon, Program, Python, SECOND, Tmp};

/// Plays the person: starts a command line at a terminal of its own, types, and writes down what
/// the terminal shows.
const PERSON: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time

has_shell, words = sys.argv[1] == 'shell', sys.argv[2:]
master, slave = pty.openpty()

def size(rows, columns):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

def play_shell():
    """What a shell with job control does about one command; a line to `news` for each change."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    try:
        os.setpgid(job, job)
    except PermissionError:
        pass  # Its own call came first, and it has begun.
    os.tcsetpgrp(slave, job or os.getpid())
    if job == 0:
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        return
    while True:
        _, status = os.waitpid(job, os.WUNTRACED)
        os.tcsetpgrp(slave, os.getpid())
        if not os.WIFSTOPPED(status):
            os.write(news[1], b'%d\n' % status)
            os._exit(0)
        os.write(news[1], b'stopped\n')
        os.read(go_on[0], 1)
        os.tcsetpgrp(slave, job)
        os.killpg(job, signal.SIGCONT)
        os.write(news[1], b'continued\n')

size(33, 99)
before = termios.tcgetattr(slave)
news, go_on = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    if has_shell:
        play_shell()
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    for number in range(3):
        os.dup2(slave, number)
    os.closerange(3, 100)
    os.execv(words[0], words)

seen = b''
def until(text, at=[0]):
    global seen
    end = time.monotonic() + 30
    while text not in seen[at[0]:]:
        left = end - time.monotonic()
        if left <= 0 or not select.select([master], [], [], left)[0]:
            sys.exit('no %r in %r' % (text, seen))
        seen += os.read(master, 4096)
    at[0] = seen.index(text, at[0]) + len(text)

def check_restored(when):
    if termios.tcgetattr(slave) != before:
        sys.exit('the terminal is not as it was ' + when)

until(b'name? ')
os.write(master, b'Anx\x7fn\r')
until(b'waiting\r\n')
size(40, 80)
until(b'lines=40)\r\n')
os.write(master, b'\x1a')
until(b'^Z')
if has_shell:
    told = os.read(news[0], 100)
    if told != b'stopped\n':
        sys.exit('it did not stop: %r %r' % (told, seen))
    check_restored('while it is stopped')
    os.write(go_on[1], b'.')
    os.read(news[0], 100)
os.write(master, b'\x03')
until(b'interrupted')
until(b'assword: ')
os.write(master, b'secret\r')
until(b'secret has 6')
until(b'more? ')
os.write(master, b'\x04')
until(b'end of file')
_, status = os.waitpid(child, 0)
if has_shell:
    status = int(os.read(news[0], 100))
check_restored('at the end')
while select.select([master], [], [], 0)[0]:
    seen += os.read(master, 4096)
print(seen, status)
"#;

/// What runs at the terminal.
const PROGRAM: &str = r#"
import getpass, os, signal, sys, time
print([os.isatty(i) for i in range(3)], os.get_terminal_size(), sys.stdin.isatty())
print('hello', input('name? '))
terminal = os.open('/dev/tty', os.O_RDWR)
print(os.tcgetpgrp(terminal) == os.getpgrp(), os.ttyname(0) == os.ttyname(2))
signal.signal(signal.SIGWINCH, lambda *_: print(os.get_terminal_size(), flush=True))
try:
    print('waiting', flush=True)
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    print('interrupted')
print('secret has', len(getpass.getpass()))
try:
    input('more? ')
except EOFError:
    print('end of file')
sys.exit(6)
"#;

/// What a person sees of the program, started by `launcher`.
fn transcript(tmp: &Tmp, mode: &str, launcher: &[&OsStr]) -> String {
    let program = tmp.join("program.py");
    fs::write(&program, PROGRAM).unwrap();
    let seen = Clutch::private(Program::new(&Python::any().path))
        .args(["-c", PERSON, mode])
        .args(launcher)
        .args([&program])
        .envs(private_environment(tmp))
        .env("TERM", "dumb")
        .timeout(60 * SECOND)
        .run()
        .expect_code(0);
    seen.stdout
}

fn plain_daemon(python: &Python) -> Daemon {
    let text = format!("[pools.default]\npython = '{}'\nworkers = 1\n", python.path.display());
    Daemon::builder().config_text(text).start()
}

/// Compares what a person sees of python, of a program of the daemon's, and of one without.
fn compare(mode: &str) {
    let python = Python::any();
    let daemon = plain_daemon(python);
    let tmp = Tmp::new();
    let expected = transcript(&tmp, mode, &[python.path.as_os_str()]);
    assert!(expected.contains("[True, True, True] os.terminal_size(columns=99, lines=33)"));
    assert!(expected.contains("^Z") && expected.contains("end of file"), "{expected}");
    let word = OsStr::new;
    let binary = Clutch::binary().as_os_str();
    let by_daemon = [binary, word("--socket"), daemon.socket().as_os_str(), word("run")];
    assert_eq!(expected, transcript(&tmp, mode, &by_daemon));
    let by_itself =
        [binary, word("run"), word("--local"), word("--python"), python.path.as_os_str()];
    assert_eq!(expected, transcript(&tmp, mode, &by_itself));
}

#[test]
fn a_person_sees_what_python_shows_and_stops_and_continues_it() {
    compare("shell");
}

#[test]
fn nothing_is_stopped_where_no_shell_could_continue_it() {
    compare("alone");
}
