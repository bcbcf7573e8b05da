//! The thread that writes output to files, and the bounded way to it. Nobody waits for a disk: what
//! does not fit is dropped and counted.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Instant;

use super::entry::Entry;
use super::rotate::RotatedFile;
use crate::config;
use crate::limits::{
    FILE_FLUSH_TIMEOUT, FILE_QUEUE_BYTES_MAX, FILE_QUEUE_JOBS_MAX, FILE_RETRY_PAUSE,
};

/// Where a pool's lines are written to.
#[derive(Debug)]
pub struct Sink {
    pool: String,
    file: PathBuf,
    bytes_max: u64,
    files: u32,
    dropped: AtomicU64,
}

impl Sink {
    /// The sink of a pool, if it has one.
    pub fn of(pool: &config::Pool) -> Option<Arc<Sink>> {
        let output = &pool.output;
        Some(Arc::new(Sink {
            pool: pool.name.clone(),
            file: output.file.clone()?,
            bytes_max: output.file_bytes,
            files: output.files,
            dropped: AtomicU64::new(0),
        }))
    }

    /// Makes `sink` what the pool's configuration says now.
    pub fn renew(sink: &mut Option<Arc<Sink>>, pool: &config::Pool) {
        let output = &pool.output;
        let is_same = match (&*sink, &output.file) {
            (None, None) => true,
            (Some(sink), Some(file)) => {
                sink.file == *file
                    && (sink.bytes_max, sink.files) == (output.file_bytes, output.files)
            }
            _ => false,
        };
        if !is_same {
            *sink = Sink::of(pool);
        }
    }

    /// Lines that are in no file.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Job {
    sink: Arc<Sink>,
    entries: Vec<Entry>,
    bytes: usize,
}

/// The way to the thread. It is started when there is something to write.
#[derive(Debug, Default)]
pub struct Files {
    writer: Option<Writer>,
    /// The system has no thread for it.
    is_unavailable: bool,
}

#[derive(Debug)]
struct Writer {
    jobs: SyncSender<Job>,
    waiting_bytes: Arc<AtomicUsize>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Files {
    /// Has lines written, if there is room for them. Never waits.
    pub fn write(&mut self, sink: &Arc<Sink>, entries: &[Entry]) {
        let drop_all = || {
            sink.dropped.fetch_add(entries.len() as u64, Ordering::Relaxed);
        };
        if self.writer.is_none() && !self.is_unavailable {
            self.writer = start();
            self.is_unavailable = self.writer.is_none();
        }
        let Some(writer) = &self.writer else {
            return drop_all();
        };
        let bytes: usize = entries.iter().map(Entry::cost_bytes).sum();
        if writer.waiting_bytes.load(Ordering::Relaxed) + bytes > FILE_QUEUE_BYTES_MAX {
            return drop_all();
        }
        // Counted before it is sent, or the thread could take off what was not added yet.
        writer.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let job = Job { sink: sink.clone(), entries: entries.to_vec(), bytes };
        if writer.jobs.try_send(job).is_err() {
            writer.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            drop_all();
        }
    }

    /// Waits until everything is written, within a bound.
    pub fn finish(&mut self) {
        if let Some(Writer { jobs, ended, .. }) = self.writer.take() {
            drop(jobs);
            if ended.recv_timeout(FILE_FLUSH_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the last lines of output are not in their files yet; not waiting");
            }
        }
    }
}

fn start() -> Option<Writer> {
    let (jobs, receiver) = sync_channel(FILE_QUEUE_JOBS_MAX);
    let (alive, ended) = sync_channel(1);
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let waiting = waiting_bytes.clone();
    let started = std::thread::Builder::new().name("clutch-output".into()).spawn(move || {
        let _alive = alive;
        write_jobs(&receiver, &waiting);
    });
    match started {
        Ok(_) => Some(Writer { jobs, waiting_bytes, ended }),
        Err(error) => {
            tracing::error!(%error, "no thread to write output files with; lines are dropped");
            None
        }
    }
}

/// A file, and what has become of it.
struct Target {
    file: RotatedFile,
    /// Until when it is left alone, and how many lines it has cost.
    failing: Option<(Instant, u64)>,
}

fn write_jobs(jobs: &Receiver<Job>, waiting_bytes: &AtomicUsize) {
    let mut targets: HashMap<PathBuf, Target> = HashMap::new();
    while let Ok(Job { sink, entries, bytes }) = jobs.recv() {
        let target = targets.entry(sink.file.clone()).or_insert_with(|| Target {
            file: RotatedFile::new(&sink.file, sink.bytes_max, sink.files),
            failing: None,
        });
        target.file.set_rules(sink.bytes_max, sink.files);
        target.write(&sink, &entries);
        waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Target {
    fn write(&mut self, sink: &Sink, entries: &[Entry]) {
        let lost = |count: usize| {
            sink.dropped.fetch_add(count as u64, Ordering::Relaxed);
            count as u64
        };
        if let Some((until, cost)) = &mut self.failing
            && Instant::now() < *until
        {
            *cost += lost(entries.len());
            return;
        }
        let lines: Vec<_> = entries.iter().map(|entry| json_line(entry, &sink.pool)).collect();
        let (written, result) = self.file.append(&lines);
        let missing = lost(lines.len() - written);
        let file = sink.file.display();
        match (result, self.failing.take()) {
            (Ok(()), None) => {}
            (Ok(()), Some((_, cost))) => {
                tracing::warn!(%file, lines_dropped = cost, "output file is written again");
            }
            (Err(error), before) => {
                if before.is_none() {
                    tracing::error!(%file, %error, pool = sink.pool,
                        "output file cannot be written; its lines are dropped until it can");
                }
                let cost = before.map_or(0, |(_, cost)| cost) + missing;
                self.failing = Some((Instant::now() + FILE_RETRY_PAUSE, cost));
            }
        }
    }
}

fn json_line(entry: &Entry, pool: &str) -> Vec<u8> {
    let mut line = serde_json::to_vec(&entry.show(pool)).expect("a line is plain data");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::ring::tests::entry;
    use super::*;

    fn sink(file: &Path) -> Arc<Sink> {
        Arc::new(Sink {
            pool: "p".into(),
            file: file.to_owned(),
            bytes_max: 1 << 20,
            files: 2,
            dropped: AtomicU64::new(0),
        })
    }

    #[test]
    fn everything_is_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let (sink, mut files) = (sink(&path), Files::default());
        for order in 0..1000 {
            files.write(&sink, &[entry(order, 7, "some text")]);
        }
        files.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!((1000, 0), (text.lines().count(), sink.dropped()));
        assert!(text.lines().all(|line| line.contains(r#""call":7,"stream":"stdout""#)));
    }

    #[test]
    fn a_full_disk_costs_lines_that_are_counted_f137() {
        let (sink, mut files) = (sink(Path::new("/dev/full")), Files::default());
        for order in 0..10 {
            files.write(&sink, &[entry(order, 0, "text"), entry(order, 0, "text")]);
        }
        files.finish();
        assert_eq!(20, sink.dropped());
    }

    #[test]
    fn a_slow_disk_holds_nobody_up_f137() {
        let (jobs, receiver) = sync_channel(2);
        let (_alive, ended) = sync_channel(1);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let writer = Writer { jobs, waiting_bytes: waiting_bytes.clone(), ended };
        let (sink, mut files) =
            (sink(Path::new("/x")), Files { writer: Some(writer), is_unavailable: false });
        for order in 0..10 {
            files.write(&sink, &[entry(order, 0, "text")]);
        }
        assert_eq!(8, sink.dropped());
        let line = entry(0, 0, "text");
        assert_eq!(2 * line.cost_bytes(), waiting_bytes.load(Ordering::Relaxed));
        drop(receiver);
        let much = vec![entry(0, 0, &"x".repeat(FILE_QUEUE_BYTES_MAX))];
        files.write(&sink, &much);
        assert_eq!(9, sink.dropped());
    }
}
