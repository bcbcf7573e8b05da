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

suspends, words = sys.argv[1] == 'suspends', sys.argv[2:]
master, slave = pty.openpty()

def size(rows, columns):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

size(33, 99)
before = termios.tcgetattr(slave)
child = os.fork()
if child == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
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
if suspends:
    os.write(master, b'\x1a')
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        sys.exit('it did not stop: %r %r' % (status, seen))
    check_restored('while it is stopped')
    os.kill(child, signal.SIGCONT)
os.write(master, b'\x03')
until(b'interrupted')
until(b'assword: ')
os.write(master, b'secret\r')
until(b'secret has 6')
until(b'more? ')
os.write(master, b'\x04')
until(b'end of file')
_, status = os.waitpid(child, 0)
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

#[test]
fn a_person_at_a_terminal_sees_what_python_shows() {
    let python = Python::any();
    let daemon = plain_daemon(python);
    let tmp = Tmp::new();
    let expected = transcript(&tmp, "plain", &[python.path.as_os_str()]);
    assert!(expected.contains("[True, True, True] os.terminal_size(columns=99, lines=33)"));
    let word = OsStr::new;
    let binary = Clutch::binary().as_os_str();
    let by_daemon = [binary, word("--socket"), daemon.socket().as_os_str(), word("run")];
    assert_eq!(expected, transcript(&tmp, "plain", &by_daemon));
    let by_itself =
        [binary, word("run"), word("--local"), word("--python"), python.path.as_os_str()];
    assert_eq!(expected, transcript(&tmp, "plain", &by_itself));
}

#[test]
fn a_person_stops_a_program_and_goes_on_with_it() {
    let python = Python::any();
    let daemon = plain_daemon(python);
    let tmp = Tmp::new();
    let word = OsStr::new;
    let binary = Clutch::binary().as_os_str();
    let by_daemon = [binary, word("--socket"), daemon.socket().as_os_str(), word("run")];
    let seen = transcript(&tmp, "suspends", &by_daemon);
    assert!(seen.contains("^Z") && seen.contains("end of file"), "{seen}");
    let by_itself =
        [binary, word("run"), word("--local"), word("--python"), python.path.as_os_str()];
    let seen = transcript(&tmp, "suspends", &by_itself);
    assert!(seen.contains("^Z") && seen.contains("end of file"), "{seen}");
}
