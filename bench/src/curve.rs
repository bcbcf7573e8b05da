//! What a call costs by the size of what it is given, and of what it gives: in the frame, and
//! beside it in memory of its own. Where the two meet is where the threshold belongs.
//!
//! The client and the worker decide by a constant; so that both ways can be measured at any size,
//! payloads that are to stay in the frame are encoded here, and the tasks change the worker's
//! constant. Only bytes under 64 KiB never leave a frame, since the pickler does not show them.

use std::fmt;
use std::io::Write;
use std::time::Instant;

use clutch_client::blocking::Client;
use clutch_client::{Codec, Flags, Tensor};
use clutch_protocol::limits::ATTACH_BYTES_MIN;
use clutch_protocol::plain;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::daemon::Daemon;
use crate::machine::describe;
use crate::peers::Environment;
use crate::plot::{Line, draw, size_label};
use crate::{Outcome, percentile};

/// Times that are counted for each size and way, at least; small ones have a hundred times more.
const ROUNDS: usize = 5;

/// About how many bytes a way is given in one turn, and the most calls that is.
const TURN_BYTES: u64 = 4 << 20;
const TURN_CALLS_MAX: u64 = 100;

/// The sizes, as powers of two: every second one, and all where the lines meet.
const POWERS: [u32; 21] =
    [0, 2, 4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 26, 28, 29, 30];

/// The longest payload that a frame may have.
const FRAME_BYTES_MAX: u64 = (1 << 30) - 4096;

/// What the workers run. Results are made before they are asked for.
const TASKS: &str = "\
import clutch._outgoing as outgoing
import clutch._plain as plain
import numpy

LENGTH = -1
BYTES = ARRAY = None

def prepare(length):
    global LENGTH, BYTES, ARRAY
    LENGTH, BYTES, ARRAY = length, None, None
    BYTES = b'x' * length
    ARRAY = numpy.zeros(length // 8) if length >= 8 else numpy.zeros(length, numpy.uint8)

def length_of(data):
    return len(data)

def length_of_bytes(array):
    return len(bytes(array))

def length_from_buffer(data):
    return numpy.frombuffer(data, numpy.uint8).nbytes

def length_of_array(array):
    return array.nbytes

def give_bytes(threshold):
    plain.ATTACH_BYTES_MIN = threshold
    return BYTES

def give_array_as_bytes(threshold):
    plain.ATTACH_BYTES_MIN = threshold
    return ARRAY.tobytes()

def give_array(threshold):
    plain.ATTACH_BYTES_MIN = threshold
    return ARRAY
";

/// A threshold under everything, and one over everything.
const ALWAYS: u64 = 0;
const NEVER: u64 = 1 << 62;

/// One way of passing something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    BytesIn,
    ArrayIn,
    BytesOut,
    ArrayOut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Frame,
    Beside,
}

/// All of them, in pairs, as columns of the table and lines of the plot.
const COLUMNS: [(&str, Way, Place); 8] = [
    ("bytes in, in the frame", Way::BytesIn, Place::Frame),
    ("bytes in, beside it", Way::BytesIn, Place::Beside),
    ("array in, in the frame", Way::ArrayIn, Place::Frame),
    ("array in, beside it", Way::ArrayIn, Place::Beside),
    ("bytes out, in the frame", Way::BytesOut, Place::Frame),
    ("bytes out, beside it", Way::BytesOut, Place::Beside),
    ("array out, in the frame", Way::ArrayOut, Place::Frame),
    ("array out, beside it", Way::ArrayOut, Place::Beside),
];

/// Measures sizes up to `bytes_max`; writes the plot beside the binaries.
pub(crate) fn run(bytes_max: u64) -> Outcome<()> {
    let environment = Environment::make()?;
    let config = format!(
        "[daemon]\npayload = \"1GiB\"\n[pools.default]\npath = [\".\"]\nworkers = 1\n\
         python = {:?}\npreload = [\"numpy\"]\n",
        environment.python()
    );
    let mut daemon = Daemon::start(&config, TASKS)?;
    let client = daemon.client()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "p50 of a call in µs; {}; {}\n", environment.versions()?, describe()?)?;
    let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    writeln!(out, "| size | {} |\n|---:|{}", names.join(" | "), "---:|".repeat(names.len()))?;
    let mut lines: Vec<Line> =
        names.iter().map(|&name| Line { name, points: Vec::new() }).collect();
    for power in POWERS {
        let bytes = 1_u64 << power;
        if bytes > bytes_max {
            break;
        }
        let medians = measure(&client, bytes)?;
        let cells: Vec<String> = medians.iter().map(|median| cell(*median)).collect();
        writeln!(out, "| {} | {} |", size_label(bytes), cells.join(" | "))?;
        for (line, median) in lines.iter_mut().zip(medians) {
            line.points.extend(median.map(|median| (bytes as f64, median)));
        }
    }
    let plot = std::env::current_exe()?.with_file_name("curve.svg");
    std::fs::write(&plot, draw(&lines, ATTACH_BYTES_MIN as f64))?;
    writeln!(out, "\nThe plot is in {}.", plot.display())?;
    drop((out, client));
    daemon.stop()
}

fn cell(median: Option<f64>) -> String {
    match median {
        None => String::new(),
        Some(time) if time < 1e4 => format!("{time:.0}"),
        Some(time) => format!("{:.0}", (time / 100.0).round() * 100.0),
    }
}

/// The median of each column at this size; none where it cannot be.
fn measure(client: &Client, bytes: u64) -> Outcome<[Option<f64>; COLUMNS.len()]> {
    client.call::<()>("tasks:prepare", (bytes,))?;
    let source = Source::new(usize::try_from(bytes)?)?;
    let calls = (TURN_BYTES / bytes).clamp(1, TURN_CALLS_MAX);
    let mut times: [Vec<f64>; COLUMNS.len()] = Default::default();
    for round in 0..=ROUNDS {
        for (times, (name, way, place)) in times.iter_mut().zip(COLUMNS) {
            if !source.can(way, place) {
                continue;
            }
            for _ in 0..calls {
                let start = Instant::now();
                let length = source.call(client, way, place)?;
                let took = start.elapsed().as_secs_f64() * 1e6;
                if length != bytes {
                    return Err(format!("{name}: {length} of {bytes} bytes").into());
                }
                if round > 0 {
                    times.push(took);
                }
            }
        }
    }
    Ok(times.map(|times| (!times.is_empty()).then(|| percentile(&times, 500))))
}

/// What is sent.
struct Source {
    bytes: Vec<u8>,
    /// The same as an array: of float64 where that is possible.
    array: Tensor,
}

impl Source {
    fn new(length: usize) -> Outcome<Source> {
        let array = match length {
            0..8 => Tensor::from(vec![1_u8; length]),
            _ => Tensor::from(vec![1.0_f64; length / 8]),
        };
        Ok(Source { bytes: vec![b'x'; length], array })
    }

    fn can(&self, way: Way, place: Place) -> bool {
        let length = self.bytes.len();
        match (way, place) {
            (_, Place::Frame) => length as u64 <= FRAME_BYTES_MAX,
            (Way::BytesOut, Place::Beside) => length >= ATTACH_BYTES_MIN,
            _ => true,
        }
    }

    /// Makes one call; gives the length that its receiver found, all of it read or ready to be.
    fn call(&self, client: &Client, way: Way, place: Place) -> Outcome<u64> {
        let threshold = if place == Place::Frame { NEVER } else { ALWAYS };
        let in_frame = |function: &str| -> Outcome<u64> {
            let payload = plain::to_vec(&(AsBytes(&self.bytes),))?;
            let request = client.request(function);
            Ok(request.encoded(Codec::Plain, Flags::default(), payload).send()?)
        };
        let given = |bytes: GivenBytes| bytes.0.len() as u64;
        Ok(match (way, place) {
            (Way::BytesIn, Place::Frame) => in_frame("tasks:length_of")?,
            (Way::BytesIn, Place::Beside) if self.bytes.len() < ATTACH_BYTES_MIN => {
                client.call("tasks:length_of_bytes", (&self.array,))?
            }
            (Way::BytesIn, Place::Beside) => {
                client.call("tasks:length_of", (AsBytes(&self.bytes),))?
            }
            (Way::ArrayIn, Place::Frame) => in_frame("tasks:length_from_buffer")?,
            (Way::ArrayIn, Place::Beside) => {
                client.call("tasks:length_of_array", (&self.array,))?
            }
            (Way::BytesOut, _) => given(client.call("tasks:give_bytes", (threshold,))?),
            (Way::ArrayOut, Place::Frame) => {
                given(client.call("tasks:give_array_as_bytes", (threshold,))?)
            }
            (Way::ArrayOut, Place::Beside) => {
                let array: Tensor = client.call("tasks:give_array", (threshold,))?;
                (array.len() * array.dtype().item_bytes()) as u64
            }
        })
    }
}

/// Bytes, which serde would take for a list of numbers.
struct AsBytes<'a>(&'a [u8]);

impl Serialize for AsBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Bytes that came, in memory of this process.
struct GivenBytes(Vec<u8>);

impl<'de> Deserialize<'de> for GivenBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<GivenBytes, D::Error> {
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = GivenBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<GivenBytes, E> {
        Ok(GivenBytes(bytes.to_vec()))
    }
}
