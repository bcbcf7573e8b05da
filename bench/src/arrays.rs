//! A large float64 array: sent and summed, doubled in place, sent there and back. From the Rust
//! client through the daemon, beside the peers, and beside what nobody can do without: one copy,
//! the sum, the multiplication.
//!
//! All contenders take turns, so ratios are of the same run. One worker on each side, the same
//! interpreter, the same numpy. Whatever is timed is checked, outside the time.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use clutch_client::blocking::Client;
use clutch_client::{SharedTensor, Tensor};

use crate::board::{Row, Yardstick, play, print};
use crate::daemon::Daemon;
use crate::machine::{describe, status_kib};
use crate::peer::Peer;
use crate::peers::Environment;
use crate::{Outcome, milliseconds};

/// What the daemon may have had in memory at most, whatever went through it.
const DAEMON_KIB_MAX: u64 = 20 << 10;

/// Doubling that often leaves every element a number.
const ROUNDS_MAX: usize = 500;

/// What the workers run.
const TASKS: &str = "\
def total(array):
    return float(array.sum())

def echo(array):
    return array

def double(array):
    array *= 2.0
";

/// The peers: what `peers/arrays.py` calls them, what they need, and what they are called.
const PEERS: [(&str, &str, &str); 3] = [
    ("executor", "numpy", "`ProcessPoolExecutor`"),
    ("loky", "loky", "loky"),
    ("ray", "ray", "Ray"),
];

/// Compares `rounds` rounds with an array of `mib` MiB, or of 100 MB.
pub(crate) fn run(rounds: usize, mib: Option<usize>) -> Outcome<()> {
    if rounds == 0 || rounds > ROUNDS_MAX {
        return Err(format!("from 1 to {ROUNDS_MAX} rounds, not {rounds}").into());
    }
    let bytes = mib.map_or(100_000_000, |mib| mib << 20);
    let environment = Environment::make()?;
    let config = format!(
        "[pools.default]\npath = [\".\"]\nworkers = 1\npython = {:?}\npreload = [\"numpy\"]\n",
        environment.python()
    );
    let mut daemon = Daemon::start(&config, TASKS)?;
    let client = daemon.client()?;
    let memory = || status_kib(daemon.pid(), "VmHWM");
    let before = memory()?;

    let scene = Scene::new(&client, &environment, bytes)?;
    let mut tables = [scene.alone(), scene.sums()?, scene.doubles()?, scene.echoes()?];
    play(&mut tables, rounds)?;
    report(&tables, &environment, bytes, rounds)?;

    let after = memory()?;
    writeln!(
        std::io::stdout().lock(),
        "\nThe daemon's peak memory: {before} KiB before the first array, {after} KiB after the \
         last."
    )?;
    drop(tables);
    drop(scene);
    drop(client);
    daemon.stop()?;
    match after > DAEMON_KIB_MAX {
        true => Err(format!("the daemon took {after} KiB, more than {DAEMON_KIB_MAX}").into()),
        false => Ok(()),
    }
}

fn report(
    tables: &[Vec<Row<'_>>; 4],
    environment: &Environment,
    bytes: usize,
    rounds: usize,
) -> Outcome<()> {
    let [alone, sums, doubles, echoes] = tables;
    let [touched, fresh, sum, double] = &alone[..] else {
        return Err("there are four yardsticks".into());
    };
    writeln!(
        std::io::stdout().lock(),
        "{:.1} MB of float64, {rounds} rounds in turns; {}; {}",
        bytes as f64 / 1e6,
        environment.versions()?,
        describe()?
    )?;
    print("alone, in one process", alone, &[Yardstick::of("copy", &[touched])])?;
    let copy_and_sum = [
        Yardstick::of("(copy + sum)", &[touched, sum]),
        Yardstick::of("(fresh copy + sum)", &[fresh, sum]),
    ];
    print("send and sum", sums, &copy_and_sum)?;
    print("double in place", doubles, &[Yardstick::of("numpy's own", &[double])])?;
    let copies = [Yardstick::of("copy", &[touched]), Yardstick::of("fresh copy", &[fresh])];
    print("echo", echoes, &copies)
}

/// A peer with an array of this length.
fn start(environment: &Environment, name: &str, bytes: usize) -> Outcome<Peer> {
    Peer::start(environment.python(), "arrays.py", &[name, &bytes.to_string()])
}

/// Who takes part.
struct Scene<'a> {
    client: &'a Client,
    peers: Vec<Result<RefCell<Peer>, String>>,
    numpy: RefCell<Peer>,
    source: Vec<f64>,
    total: f64,
}

impl<'a> Scene<'a> {
    fn new(client: &'a Client, environment: &Environment, bytes: usize) -> Outcome<Scene<'a>> {
        let peer = |(name, package, _)| match environment.lacks(package) {
            Some(why) => Ok(Err(why.to_owned())),
            None => Outcome::Ok(Ok(RefCell::new(start(environment, name, bytes)?))),
        };
        let source: Vec<f64> = (0..bytes / 8).map(|index| (index % 1000) as f64).collect();
        Ok(Scene {
            client,
            peers: PEERS.into_iter().map(peer).collect::<Outcome<_>>()?,
            numpy: RefCell::new(start(environment, "numpy", bytes)?),
            total: source.iter().sum(),
            source,
        })
    }

    /// What everything else is measured by.
    fn alone(&self) -> Vec<Row<'_>> {
        let source = &self.source;
        let mut target = source.clone();
        let copy = move || {
            let start = Instant::now();
            black_box(&mut target[..]).copy_from_slice(black_box(source));
            Ok(milliseconds(start))
        };
        let fresh_copy = move || {
            let start = Instant::now();
            let copy = black_box(black_box(source).clone());
            let took = milliseconds(start);
            drop(copy);
            Ok(took)
        };
        vec![
            Row::new("one copy, into memory that was used before", copy),
            Row::new("one copy, into fresh memory", fresh_copy),
            Row::new("numpy's sum", || self.numpy.borrow_mut().time("sum")),
            Row::new("numpy's `array *= 2.0`", || self.numpy.borrow_mut().time("double")),
        ]
    }

    /// The same numbers each time, so that the peers' times are of the same work.
    fn sums(&self) -> Outcome<Vec<Row<'_>>> {
        let call = |array: &Tensor| {
            let total: f64 = self.client.call("tasks:total", (array,))?;
            right(total == self.total)
        };
        let vector = Tensor::from(self.source.clone());
        let built = Tensor::build(&[self.source.len()], |own| own.copy_from_slice(&self.source))?;
        let shared = SharedTensor::for_readers::<f64>(&[self.source.len()])?;
        let write_and_call = move || {
            shared.write_from(0, &self.source)?;
            call(&shared.read_only())
        };
        let kept = self.client.put(&built)?;
        let put = move || right(self.client.call::<f64>("tasks:total", (&kept,))? == self.total);
        let mut rows = vec![
            Row::new("Clutch, a vector", timed(move || call(&vector))),
            Row::new("Clutch, a vector copied into a `SharedTensor`", timed(write_and_call)),
            Row::new("Clutch, a `Tensor` built where it is", timed(move || call(&built))),
            Row::new("Clutch, an array that was put before", timed(put)),
        ];
        rows.extend(self.theirs("sum", "", &["executor", "loky", "ray"]));
        rows.extend(self.theirs("put", ", an array that was put before", &["ray"]));
        Ok(rows)
    }

    fn doubles(&self) -> Outcome<Vec<Row<'_>>> {
        let shared = SharedTensor::from_slice(&[self.source.len()], &self.source)?;
        let last = self.source.len() - 1;
        let expected = Cell::new(self.source[last]);
        let double = move || {
            let start = Instant::now();
            self.client.call::<()>("tasks:double", (shared.writable()?,))?;
            let took = milliseconds(start);
            expected.set(expected.get() * 2.0);
            let mut found = [0.0];
            shared.read_into(last, &mut found)?;
            right(found == [expected.get()]).map(|()| took)
        };
        let mut rows = vec![Row::new("Clutch, a `SharedTensor`", double)];
        let shared = ", in a `SharedMemory` by hand";
        rows.extend(self.theirs("shared", shared, &["executor", "loky"]));
        rows.extend(self.theirs("double", ", sent and sent back", &["executor", "loky", "ray"]));
        Ok(rows)
    }

    fn echoes(&self) -> Outcome<Vec<Row<'_>>> {
        let echo =
            |array: &Tensor| Outcome::Ok(self.client.call::<Tensor>("tasks:echo", (array,))?);
        let is_right = |found: &[f64]| {
            let step = (found.len() / 1000).max(1);
            let pairs = || found.iter().zip(&self.source).step_by(step);
            right(found.len() == self.source.len() && pairs().all(|(one, other)| one == other))
        };
        let vector = Tensor::from(self.source.clone());
        let other = vector.clone();
        let built = Tensor::build(&[self.source.len()], |own| own.copy_from_slice(&self.source))?;
        let as_tensor = |array: Tensor| {
            move || {
                let start = Instant::now();
                let found = echo(&array)?;
                let took = milliseconds(start);
                is_right(found.as_slice()?).map(|()| took)
            }
        };
        let as_vector = move || {
            let start = Instant::now();
            let found = echo(&other)?.to_vec::<f64>()?;
            let took = milliseconds(start);
            is_right(&found).map(|()| took)
        };
        let mut rows = vec![
            Row::new("Clutch, a vector, back as a `Tensor`", as_tensor(vector)),
            Row::new("Clutch, a vector, back as a vector", as_vector),
            Row::new("Clutch, a `Tensor` built where it is, back as one", as_tensor(built)),
        ];
        rows.extend(self.theirs("echo", "", &["executor", "loky", "ray"]));
        Ok(rows)
    }

    /// A row for each of these peers.
    fn theirs(&self, task: &'static str, how: &str, whose: &[&str]) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for ((name, _, title), peer) in PEERS.iter().zip(&self.peers) {
            if !whose.contains(name) {
                continue;
            }
            let title = format!("{title}{how}");
            rows.push(match peer {
                Ok(peer) => Row::new(&title, move || peer.borrow_mut().time(task)),
                Err(why) => Row::absent(&title, why),
            });
        }
        rows
    }
}

/// A run that is timed as a whole.
fn timed<'a>(mut run: impl FnMut() -> Outcome<()> + 'a) -> impl FnMut() -> Outcome<f64> + 'a {
    move || {
        let start = Instant::now();
        run().map(|()| milliseconds(start))
    }
}

fn right(is_right: bool) -> Outcome<()> {
    if is_right { Ok(()) } else { Err("a result is wrong".into()) }
}
