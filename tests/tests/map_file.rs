//! A function over the chunks of a file: each record once and whole, in the file's order, by
//! mappings that end with their calls; whatever dies or changes meanwhile.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clutch_client::{Csv, FileError, FileFault, MapFileError, Reason, Retry, SourceFile, Split};
use clutch_protocol::value::Value;
use clutch_tests::{
    Clutch, Daemon, Program, SECOND, Tmp, command, kill, park, process, skip, wait_for, wait_until,
};

fn daemon(workers: u32) -> Daemon {
    Daemon::builder().pool("default", |pool| pool.workers(workers)).start()
}

/// Lines of many lengths, the last one without its end.
fn lines(count: u64) -> String {
    let mut text = String::new();
    for number in 0..count {
        let width = usize::try_from(number * number % 97).expect("it is small");
        let _ = writeln!(text, "{number}{}", "x".repeat(width));
    }
    text.push_str("the end");
    text
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// A map-file under way in another thread, whose first chunk is held: the path whose `.go` lets it
/// go on, and the thread.
struct Held {
    go: PathBuf,
    file: PathBuf,
    thread: std::thread::JoinHandle<Result<Vec<u64>, MapFileError>>,
}

impl Held {
    /// A file of so many bytes; its first line names what lets its call go on.
    fn file(daemon: &Daemon, bytes: usize) -> (PathBuf, PathBuf) {
        let mark = daemon.tmp().join("held");
        let mut text = format!("{}\n", path_text(&mark));
        while text.len() < bytes {
            text.push_str("a line of no importance\n");
        }
        (daemon.tmp().write("held.txt", text), mark)
    }

    fn begin(daemon: &Daemon, chunk: u64) -> Held {
        let (file, mark) = Held::file(daemon, 1 << 20);
        let map = daemon.blocking().map_file("job_files:hold", &file).chunk_bytes(chunk);
        let thread = std::thread::spawn(move || map.collect());
        let begun = mark.with_extension("begun");
        wait_for("the call has begun", 20 * SECOND, || begun.exists());
        Held { go: mark.with_extension("go"), file, thread }
    }

    fn release(&self) {
        fs::write(&self.go, "").expect("the directory is ours");
    }

    #[track_caller]
    fn end(self) -> Result<Vec<u64>, MapFileError> {
        self.thread.join().expect("it does not panic")
    }
}

/// No worker has anything of the file any more.
#[track_caller]
fn assert_let_go(daemon: &Daemon, file: &Path) {
    let name = path_text(file);
    wait_until("no worker holds the file", 5 * SECOND, || {
        for pid in daemon.worker_pids("default") {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            let open = process::descriptor_list(pid);
            if maps.contains(name) || open.values().any(|path| path.contains(name)) {
                return Err(format!("{pid} holds it: {open:?}\n{maps}"));
            }
        }
        Ok(())
    });
}

#[test]
fn every_line_is_in_one_chunk_and_chunks_come_in_order() {
    let daemon = daemon(2);
    let oracle = daemon.oracle();
    let text = lines(30_000);
    let file = daemon.tmp().write("lines.txt", &text);
    let client = daemon.blocking();
    for chunk in [5_000, 4096, 100_001, 64 << 20] {
        let map = || client.map_file("job_files:text", &file).chunk_bytes(chunk);
        let pieces: Vec<String> = map().collect().expect("it can be read");
        assert!(text == pieces.concat(), "chunks of {chunk}");
        let is_whole = |piece: &String| piece.ends_with('\n') || piece.ends_with("the end");
        assert!(pieces.iter().all(is_whole), "chunks of {chunk}");
        let mut apart: Vec<(u64, String)> =
            map().unordered().expect("it can be read").map(Result::unwrap).collect();
        apart.sort_unstable();
        assert!(apart.into_iter().map(|(_, piece)| piece).eq(pieces), "chunks of {chunk}");
    }
    let counts: Vec<u64> =
        client.map_file("job_files:count_lines", &file).chunk_bytes(4096).collect().unwrap();
    assert_eq!(30_000, counts.iter().sum::<u64>());
    let facts: Vec<(String, bool, String, u32, u64)> =
        client.map_file("job_files:facts", &file).collect().unwrap();
    let length = text.len() as u64;
    assert_eq!([("memoryview".to_owned(), true, "B".to_owned(), 1, length)], *facts);
    assert_let_go(&daemon, &file);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn the_async_client_does_the_same() {
    let daemon = daemon(2);
    let text = lines(20_000);
    let file = daemon.tmp().write("lines.txt", &text);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("descriptors are left");
    runtime.block_on(async {
        let client = daemon.client().await;
        let map = || client.map_file::<String>("job_files:text", &file).chunk_bytes(10_000);
        let pieces: Vec<String> = map().collect().await.expect("it can be read");
        assert!(text == pieces.concat());
        let mut results = map().unordered().expect("it can be opened");
        let mut apart = Vec::new();
        while let Some(result) = results.next().await {
            apart.push(result.expect("it can be read"));
        }
        assert_eq!(text.len() as u64, results.bytes_done());
        apart.sort_unstable();
        assert!(apart.into_iter().map(|(_, piece)| piece).eq(pieces));
        let csv = map().split(Split::Csv(Csv::new()));
        assert!(text == csv.collect::<Vec<_>>().await.expect("it has no quotes").concat());
        let bytes: Vec<String> = map().split(Split::Bytes).collect().await.unwrap();
        assert!(bytes[..bytes.len() - 1].iter().all(|piece| piece.len() == 10_000));
        assert!(text == bytes.concat());
    });
}

#[test]
fn a_record_longer_than_its_chunk_leaves_chunks_out_and_nothing_is_called_for_them() {
    let daemon = daemon(1);
    let client = daemon.blocking();
    let text = "a\nbbbbbbbbbbbbbbbbbbbb\n\nc\n";
    let file = daemon.tmp().write("lines.txt", text);
    for chunk in 1..=text.len() as u64 {
        let map = client.map_file("job_files:text", &file).chunk_bytes(chunk);
        let pieces: Vec<String> = map.collect().expect("it can be read");
        assert_eq!(text, pieces.concat(), "chunks of {chunk}");
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
    }
    // An index counts chunks, also those that nothing begins in.
    let map = client.map_file::<String>("job_files:text", &file).chunk_bytes(5);
    let indices: Vec<u64> =
        map.unordered().unwrap().map(|result| result.expect("it can be read").0).collect();
    assert_eq!([0, 4], *indices);
}

#[test]
fn every_mode_of_a_worker_takes_chunks() {
    let daemon = Daemon::builder()
        .pool("threads", |pool| pool.workers(1).key("threads", 2))
        .pool("async", |pool| pool.workers(1).key("async", 2))
        .start();
    let text = lines(5_000);
    let file = daemon.tmp().write("lines.txt", &text);
    let client = daemon.blocking();
    for (pool, function) in [
        ("threads", "job_files:count_lines"),
        ("async", "job_files:count_lines"),
        ("async", "job_files:count_lines_async"),
    ] {
        let map = client.map_file(function, &file).pool(pool).chunk_bytes(3_000);
        let counts: Vec<u64> = map.collect().expect("it can be read");
        assert_eq!(5_000, counts.iter().sum::<u64>(), "{pool} {function}");
        // A chunk that no record begins in is no call, whatever the mode.
        let file = daemon.tmp().write("long.txt", "x".repeat(100) + "\n");
        let map = client.map_file::<u64>(function, &file).pool(pool).chunk_bytes(10);
        assert_eq!(vec![1], map.collect::<Vec<_>>().expect("it can be read"));
    }
}

#[test]
fn csv_is_cut_as_python_reads_it() {
    let daemon = daemon(2);
    let client = daemon.blocking();
    let mut text = String::from("\u{feff}id,\"a \"\"name\"\"\",note\r\n");
    for number in 0..2_000 {
        let end = if number % 3 == 0 { "\r\n" } else { "\n" };
        let _ = write!(text, "{number},\"x\ny \"\"{number}\"\",\",5\" disk{end}");
    }
    text.push_str("2000,,no end");
    let file = daemon.tmp().write("rows.csv", &text);
    let csv = Csv::new().with_header();
    type Row = std::collections::BTreeMap<String, String>;
    for chunk in [1, 100, 5_000, 1 << 20] {
        let map = client.map_file("job_files:rows", &file);
        let map = map.split(Split::Csv(csv)).chunk_bytes(chunk);
        let rows: Vec<Vec<Row>> = map.collect().expect("it can be read");
        let rows = rows.concat();
        assert_eq!(2_001, rows.len(), "chunks of {chunk}");
        for (number, row) in rows.iter().enumerate().take(2_000) {
            let value = |name: &str| row[name].clone();
            let expected = (number.to_string(), format!("x\ny \"{number}\","), "5\" disk".into());
            assert_eq!(expected, (value("id"), value("a \"name\""), value("note")));
        }
    }
    let records: Vec<Vec<Vec<String>>> = client
        .map_file("job_files:rows", daemon.tmp().write("rows.tsv", "a\t\"b\n\"\nc\td\n"))
        .split(Split::Csv(Csv::new().delimiter(b'\t')))
        .chunk_bytes(1)
        .collect()
        .expect("it can be read");
    // Python's reader is told of no tabs here: it shows where the records were cut.
    assert_eq!(2, records.len());
    let open = daemon.tmp().write("open.csv", "a,b\n1,\"2\n");
    let map = client.map_file::<Value>("job_files:rows", &open).split(Split::Csv(Csv::new()));
    let error = map.chunk_bytes(1).collect::<Vec<_>>().unwrap_err();
    assert!(error.to_string().contains("begins at byte 6 has no end"), "{error}");
}

/// What stands for pyarrow where there is none.
const PYARROW: &str = "
class Table:
    pass

class ParquetFile:
    def __init__(self, source):
        self.source = source

    def read_row_group(self, index):
        table = Table()
        table.index = index
        table.source_bytes = self.source.seek(0, 2)
        self.source.seek(-4, 2)
        table.tail = self.source.read().decode()
        return table
";

/// What a Parquet file with two row groups of nothing ends with.
fn parquet() -> Vec<u8> {
    let footer = b"\x15\x04\x19\x0c\x16\x00\x19\x2c\x00\x00\x00";
    let mut bytes = [&b"PAR1data"[..], footer].concat();
    bytes.extend_from_slice(&u32::try_from(footer.len()).expect("it is short").to_le_bytes());
    bytes.extend_from_slice(b"PAR1");
    bytes
}

#[test]
fn row_groups_are_read_by_pyarrow() {
    let builder = Daemon::builder();
    let modules = builder.tmp().dir("modules");
    fs::create_dir(modules.join("pyarrow")).expect("the directory is ours");
    fs::write(modules.join("pyarrow/__init__.py"), "").expect("the directory is ours");
    fs::write(modules.join("pyarrow/parquet.py"), PYARROW).expect("the directory is ours");
    let daemon = builder
        .pool("default", |pool| pool.workers(2).path(&modules))
        .pool("without", |pool| pool.workers(1).env("PYTHONNOUSERSITE", "1"))
        .start();
    let client = daemon.blocking();
    let file = daemon.tmp().write("data.parquet", parquet());
    let groups = || {
        client
            .map_file::<(String, u32, u64, String)>("job_files:table_facts", &file)
            .split(Split::ParquetRowGroups)
    };
    let tables: Vec<_> = groups().collect().expect("it can be read");
    let table = |index| ("Table".to_owned(), index, parquet().len() as u64, "PAR1".to_owned());
    assert_eq!([table(0), table(1)], *tables);
    let missing = groups().pool("without").collect::<Vec<_>>();
    match missing {
        Err(MapFileError::Chunk { chunk, failure }) => {
            assert!(matches!(failure.reason, Reason::BadArguments { .. }), "{failure}");
            let said = failure.to_string();
            assert!(said.contains("install pyarrow"), "{said}");
            assert_eq!("row group 0", chunk.to_string());
        }
        // It is installed for everybody here: a file of nothing is no file to it.
        other => skip!("this machine's python has pyarrow: {other:?}"),
    }
}

#[test]
fn files_that_cannot_be_read_in_ranges_are_refused_before_anything_is_called() {
    let daemon = daemon(1);
    let client = daemon.blocking();
    let tmp = daemon.tmp();
    let fault = |path: &Path, split| {
        let map = client.map_file::<u64>("job_files:count_lines", path).split(split);
        match map.collect::<Vec<_>>() {
            Err(MapFileError::File(FileError { fault, .. })) => fault,
            other => panic!("{other:?}"),
        }
    };
    let pipe = tmp.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("the directory is ours");
    for (path, what) in [(tmp.path(), "a directory"), (&pipe, "a pipe")] {
        let fault = fault(path, Split::Lines);
        assert!(matches!(fault, FileFault::NotRegular(found) if found == what), "{fault}");
    }
    assert!(matches!(fault(&tmp.join("none"), Split::Lines), FileFault::Open(_)));
    let text = tmp.write("text", "a\n");
    assert!(matches!(fault(&text, Split::ParquetRowGroups), FileFault::Parquet(_)));
    let empty = tmp.write("empty", "");
    for split in [Split::Lines, Split::Bytes, Split::Csv(Csv::new()), Split::ParquetRowGroups] {
        let map = client.map_file::<u64>("job_files:count_lines", &empty).split(split);
        assert!(map.collect::<Vec<_>>().expect("that is a success").is_empty());
    }
    let calls = daemon.status().pools[0].counters.get("calls.accepted").copied();
    assert_eq!(Some(0), calls.or(Some(0)));
}

#[test]
fn a_file_that_may_not_be_read_is_the_clients_to_open() {
    if !nix::unistd::geteuid().is_root() {
        skip!("needs root to be another user");
    }
    let daemon = daemon(1);
    let file = daemon.tmp().write("secret.txt", "a\nb\n");
    // The worker reads by the descriptor that its client has opened.
    let source = SourceFile::open(&file).expect("it is ours");
    fs::remove_file(&file).expect("it is ours");
    let client = daemon.blocking();
    let map = client.map_source::<u64>("job_files:count_lines", source);
    assert_eq!(vec![2], map.collect::<Vec<_>>().expect("it is open"));
    // What its reader may not open is not read by those who may.
    let outside = Tmp::new();
    let closed = outside.write("closed.txt", "a\n");
    fs::set_permissions(&closed, Permissions::from_mode(0o600)).expect("it is ours");
    fs::set_permissions(outside.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let copy = outside.program("clutch", fs::read(Clutch::binary()).expect("it was built"));
    let words = ["map-file", "job_files:count_lines", path_text(&closed)];
    let nobody = Clutch::private(Program::new(copy)).args(words).user(65_534, 65_534).dir("/");
    nobody.run().expect_code(2).expect_stderr("cannot be opened: Permission denied");
}

#[test]
fn a_file_that_is_cut_short_is_told_as_that() {
    let daemon = daemon(1);
    let oracle = daemon.oracle();
    let held = Held::begin(&daemon, 4096);
    File::options().write(true).open(&held.file).unwrap().set_len(100).unwrap();
    held.release();
    let file = held.file.clone();
    match held.end() {
        Err(MapFileError::File(FileError { path, fault: FileFault::Shrunk { before, now } })) => {
            assert_eq!((&file, 100), (&path, now));
            assert!(before > 1 << 20);
        }
        other => panic!("{other:?}"),
    }
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_worker_that_touches_what_was_cut_off_dies_and_another_takes_its_place() {
    let daemon = daemon(1);
    let oracle = daemon.oracle();
    // The whole file is one chunk, so that it is mapped when it is cut short.
    let held = Held::begin(&daemon, 64 << 20);
    let held_file = held.file.clone();
    File::options().write(true).open(&held.file).unwrap().set_len(100).unwrap();
    held.release();
    let ended = held.end();
    assert!(
        matches!(ended, Err(MapFileError::File(FileError { fault: FileFault::Shrunk { .. }, .. }))),
        "{ended:?}"
    );
    daemon.wait_ready();
    assert_eq!(1, daemon.counter("default", "deaths.signalled.SIGBUS"));
    // Who touches a mapping of his own is told what such a death usually is.
    let client = daemon.blocking();
    let failure = client.call::<()>("job_files:touch_cut", (&held_file,)).expect_err("it dies");
    let said = failure.to_string();
    assert!(said.contains("SIGBUS") && said.contains("was cut short"), "{said}");
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_file_that_is_written_to_is_told_and_one_that_grows_is_fine() {
    let daemon = daemon(1);
    let held = Held::begin(&daemon, 64 << 20);
    let mut file = File::options().append(true).open(&held.file).unwrap();
    file.write_all(b"one more\n").unwrap();
    held.release();
    assert_eq!(1, held.end().expect("what is appended does not count").len());
    for path in ["held.begun", "held.go"] {
        fs::remove_file(daemon.tmp().join(path)).unwrap();
    }
    let held = Held::begin(&daemon, 64 << 20);
    // The clock of files is coarse; a time of long ago is another one for certain.
    let file = File::options().write(true).open(&held.file).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    held.release();
    let ended = held.end();
    assert!(
        matches!(ended, Err(MapFileError::File(FileError { fault: FileFault::Rewritten, .. }))),
        "{ended:?}"
    );
}

#[test]
fn a_killed_worker_costs_its_chunk_or_a_retry() {
    let daemon = daemon(1);
    let oracle = daemon.oracle();
    let held = Held::begin(&daemon, 64 << 20);
    let victim = daemon.worker_pids("default")[0];
    kill(victim);
    match held.end() {
        Err(MapFileError::Chunk { chunk, failure }) => {
            assert_eq!((0, 0), (chunk.index, chunk.offset));
            assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    daemon.wait_ready();
    fs::remove_file(daemon.tmp().join("held.begun")).unwrap();
    let (file, _) = Held::file(&daemon, 100_000);
    let map = daemon.blocking().map_file("job_files:die_once", &file).chunk_bytes(1 << 20);
    let lengths: Vec<u64> =
        map.retry(Retry::new(2).on_worker_died()).collect().expect("the second one lives");
    assert_eq!(fs::metadata(&file).unwrap().len(), lengths[0]);
    assert_let_go(&daemon, &file);
    oracle.judge(daemon);
}

#[test]
fn a_killed_client_leaves_nothing_open() {
    let daemon = daemon(2);
    let oracle = daemon.oracle();
    let (file, mark) = Held::file(&daemon, 1 << 20);
    for _ in 0..3 {
        let mut child = daemon
            .command(["map-file", "job_files:hold", path_text(&file), "--chunk", "100KiB"])
            .spawn(Stdio::null(), Stdio::null(), Stdio::null());
        let begun = mark.with_extension("begun");
        wait_for("the call has begun", 20 * SECOND, || begun.exists());
        kill(child.id());
        let _ = child.wait();
        // Its calls are cancelled, and with them the wait for what never comes.
        wait_until("nothing runs", 20 * SECOND, || {
            let status = daemon.try_status()?;
            let pool = &status.pools[0];
            if pool.running + pool.queued == 0 { Ok(()) } else { Err(format!("{pool:?}")) }
        });
        fs::remove_file(begun).unwrap();
    }
    assert_let_go(&daemon, &file);
    oracle.judge(daemon);
}

#[test]
fn a_killed_daemon_is_told_at_once_and_its_workers_are_gone() {
    let daemon = daemon(2);
    let held = Held::begin(&daemon, 100_000);
    kill(daemon.pid());
    match held.end() {
        Err(MapFileError::Chunk { failure, .. }) => {
            assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    daemon.assert_swept(5 * SECOND);
}

#[test]
fn dropped_results_cancel_what_is_under_way() {
    let daemon = daemon(2);
    let (file, mark) = Held::file(&daemon, 1 << 20);
    let client = daemon.blocking();
    let map = client.map_file::<u64>("job_files:hold", &file).chunk_bytes(100_000);
    let mut results = map.timeout(Duration::from_secs(2)).unordered().expect("it can be opened");
    let first = results.next();
    assert!(mark.with_extension("begun").exists(), "{first:?}");
    drop(results);
    wait_until("nothing runs", 20 * SECOND, || {
        let status = daemon.try_status()?;
        let pool = &status.pools[0];
        if pool.running + pool.queued == 0 { Ok(()) } else { Err(format!("{pool:?}")) }
    });
    assert_let_go(&daemon, &file);
}

#[test]
fn a_chunk_that_is_kept_stays_and_others_go() {
    let daemon = daemon(1);
    let text = lines(1_000);
    let file = daemon.tmp().write("lines.txt", &text);
    let client = daemon.blocking();
    let lengths: Vec<u64> =
        client.map_file("job_files:keep", &file).chunk_bytes(1 << 20).collect().unwrap();
    assert_eq!([text.len() as u64], *lengths);
    let held = || client.call::<(u32, u32)>("job_files:held", (path_text(&file),)).unwrap();
    assert_eq!(1, held().0);
    let _: Vec<u64> =
        client.map_file("job_files:count_lines", &file).chunk_bytes(5_000).collect().unwrap();
    assert_eq!(1, held().0, "those of the other calls are gone");
}

/// What the file may be at most in memory: of the daemon, and of each worker.
#[track_caller]
fn count(daemon: &Daemon, file: &Path, chunk: u64, expected: u64, peak_max: u64) {
    let client = daemon.blocking();
    let counts: Vec<u64> =
        client.map_file("job_files:count_lines", file).chunk_bytes(chunk).collect().unwrap();
    assert_eq!(expected, counts.iter().sum::<u64>());
    let peaks: Vec<u64> =
        daemon.worker_pids("default").iter().map(|pid| peak_bytes(*pid)).collect();
    let peak = peaks.iter().copied().max().expect("there are workers");
    assert!(peak <= peak_max, "{peaks:?}");
    assert!(peak_bytes(daemon.pid()) < 64 << 20, "{}", peak_bytes(daemon.pid()));
}

/// The most memory that was ever resident, pages of files included.
fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux says so");
    1024 * line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number")
}

#[test]
fn memory_is_bounded_by_the_chunk_and_not_by_the_file() {
    let daemon = daemon(2);
    let before = daemon.worker_pids("default").iter().map(|pid| peak_bytes(*pid)).max();
    let file = daemon.tmp().join("large.txt");
    let line = "x".repeat(127) + "\n";
    let block = line.repeat(8192);
    let mut large = File::create(&file).unwrap();
    for _ in 0..160 {
        large.write_all(block.as_bytes()).unwrap();
    }
    let lines = 160 * 8192;
    let bound = before.expect("there are workers") + (8 << 20) + (16 << 20);
    count(&daemon, &file, 8 << 20, lines, bound);
}

#[test]
fn a_file_may_be_larger_than_a_workers_address_space() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(1).process("address_space", "2GiB"))
        .start();
    // Sparse: nobody writes or reads what is in it.
    let file = daemon.tmp().join("sparse");
    File::create(&file).unwrap().set_len(20 << 30).unwrap();
    let client = daemon.blocking();
    type Facts = (String, bool, String, u32, u64);
    let map = client.map_file::<Facts>("job_files:facts", &file).split(Split::Bytes);
    let facts: Vec<Facts> = map.clone().chunk_bytes(1 << 30).collect().expect("each part fits");
    assert_eq!([1 << 30; 20], *facts.iter().map(|facts| facts.4).collect::<Vec<_>>());
    match map.chunk_bytes(10 << 30).collect::<Vec<_>>() {
        Err(MapFileError::Chunk { chunk, failure }) => {
            assert_eq!("chunk 0 (10737418240 bytes at byte 0)", chunk.to_string());
            assert!(matches!(failure.reason, Reason::BadArguments { .. }), "{failure}");
            assert!(failure.to_string().contains("make the chunks smaller"), "{failure}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hail_of_kills_leaves_nothing_open() {
    let rounds = if std::env::var_os("CLUTCH_TEST_LONG").is_some() { 100 } else { 8 };
    let daemon = daemon(2);
    let oracle = daemon.oracle();
    let text = lines(20_000);
    let file = daemon.tmp().write("lines.txt", &text);
    let words = ["map-file", "job_files:count_lines", path_text(&file), "--chunk", "8KiB"];
    let all_of_it = daemon.cli(words).expect_code(0).took;
    let mut chance = 7_u32;
    for round in 0..rounds {
        let mut child = daemon.command(words).spawn(Stdio::null(), Stdio::null(), Stdio::null());
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        park(all_of_it * (chance >> 24) / 256);
        match round % 2 {
            0 => kill(child.id()),
            _ => daemon.worker_pids("default").into_iter().take(1).for_each(kill),
        }
        command::wait(&mut child, 30 * SECOND).expect("it ends");
    }
    daemon.wait_ready();
    let output = daemon.cli(words).expect_code(0);
    let counts = output.stdout.lines().map(|line| line.parse::<u64>().expect("a number"));
    assert_eq!(20_000, counts.sum::<u64>());
    assert_let_go(&daemon, &file);
    oracle.judge(daemon);
}

#[test]
fn four_gibibytes_take_less_than_two_hundred_mebibytes_of_memory() {
    if std::env::var_os("CLUTCH_TEST_LONG").is_none() {
        skip!("it writes 4 GiB: CLUTCH_TEST_LONG=1 runs it");
    }
    let daemon = daemon(2);
    let file = daemon.tmp().join("large.txt");
    let block = lines(200_000) + "\n";
    let times = (4_u64 << 30).div_ceil(block.len() as u64);
    let mut large = File::create(&file).unwrap();
    for _ in 0..times {
        large.write_all(block.as_bytes()).unwrap();
    }
    drop(large);
    let counted = Program::new("wc").args(["-l", path_text(&file)]).run();
    let counted = counted.expect_code(0).stdout;
    let expected: u64 = counted.split(' ').next().and_then(|n| n.parse().ok()).expect("wc counts");
    assert_eq!(times * 200_001, expected);
    count(&daemon, &file, 64 << 20, expected, 200 << 20);
}
