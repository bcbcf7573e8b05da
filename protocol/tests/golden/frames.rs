//! A sample of every kind of frame and of every variant in a meta.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bytes::BytesMut;
use clutch_protocol::attachment::{Attachment, Attachments, Content, Split};
use clutch_protocol::failure::{
    Ancestor, Cause, Certificate, Exception, Failure, HandleQuota, Hindrance, Link, Missing,
    MissingWhat, NestedBound, Payload, Reason, Relation, Shutdown, TraceFrame, WorkerFailure,
};
use clutch_protocol::frame::{Codec, Decoder, Flags, Header, Kind, Step};
use clutch_protocol::message::{
    Answer, Apply, Call, Each, Exit, Exited, Forward, Halted, Hello, Identity, ImportTime, Imports,
    Log, LogLines, Logs, Mode, OomScore, Output, Phases, PoolSize, ProcessLimits, Ready, Refusal,
    Refused, Reload, Resource, ResourceLimit, Retry, RetryOn, Role, Run, RunEnded, RunProgram,
    RunRefusal, RunRefused, RunStarted, Setup, Signal, Spawn, SpawnFailed, SpawnProgram,
    SpawnStage, Spawned, Stop, Stream, Streams, Swept, Target, Welcome, WorkerId,
};
use clutch_protocol::operate::{Denial, Operation, Outcome, PoolOrder};
use clutch_protocol::stream::{Credit, Item, ItemsEnd, Progress};
use clutch_protocol::wire::{Decode, Encode};
use clutch_protocol::{json, plain, wire};
use serde_json::{Value as Json, json};

use super::describe::{Describe, ENUMS, Node};
use super::{compare, hex};

#[test]
fn every_frame_is_the_same_bytes_for_ever() {
    let mut samples = Samples::default();
    connection(&mut samples);
    calls(&mut samples);
    streams(&mut samples);
    attachments(&mut samples);
    failures(&mut samples);
    operations(&mut samples);
    workers(&mut samples);
    guardians(&mut samples);
    programs(&mut samples);
    samples.check_that_all_is_shown();

    // One frame a line, so that a difference is one line too.
    let lines = |entries: &[Json]| {
        let lines: Vec<String> = entries.iter().map(Json::to_string).collect();
        lines.join(",\n")
    };
    let text = format!(
        "{{\"frames\": [\n{}\n],\n\"tables\": [\n{}\n],\n\"invalid\": [\n{}\n]}}\n",
        lines(&samples.frames),
        lines(&samples.tables),
        lines(&invalid())
    );
    compare("frames.json", &text);
}

#[derive(Default)]
struct Samples {
    frames: Vec<Json>,
    tables: Vec<Json>,
    kinds: Vec<Kind>,
    variants: BTreeSet<(&'static str, u32)>,
}

/// What a frame has besides its kind, its meta and its id.
#[derive(Clone, Copy, Default)]
struct Rest<'a> {
    flags: Flags,
    payload: Option<(Codec, &'a [u8])>,
    descriptors: u8,
}

impl Samples {
    fn bare(&mut self, name: &str, kind: Kind, id: u64, rest: Rest<'_>) {
        self.push(name, kind, id, None, rest);
    }

    fn meta<T>(&mut self, name: &str, kind: Kind, id: u64, meta: &T, rest: Rest<'_>)
    where
        T: Describe + Encode + Decode<()> + PartialEq + Debug,
    {
        let node = meta.describe();
        let mut bytes = Vec::new();
        node.bytes(&mut bytes);
        assert_eq!(bytes, wire::encode(meta).unwrap(), "{name}: the layout");
        assert_eq!(*meta, wire::decode(&bytes).unwrap(), "{name}: the way back");
        self.push(name, kind, id, Some((node, bytes)), rest);
    }

    fn push(
        &mut self,
        name: &str,
        kind: Kind,
        id: u64,
        meta: Option<(Node, Vec<u8>)>,
        rest: Rest<'_>,
    ) {
        let (node, meta) = meta.unzip();
        let meta = meta.unwrap_or_default();
        let (codec, payload) = rest.payload.unwrap_or((Codec::None, &[]));
        let header = Header {
            kind,
            flags: rest.flags,
            codec,
            descriptors: rest.descriptors,
            id,
            meta_bytes: meta.len().try_into().unwrap(),
            payload_bytes: payload.len().try_into().unwrap(),
        };
        let bytes = [&header.encode()[..], &meta, payload].concat();
        let Ok(Step::Frame(frame)) =
            Decoder::with_payload_max(1024).step(&mut BytesMut::from(&bytes[..]))
        else {
            panic!("{name}: no frame")
        };
        assert_eq!(
            (header, &meta[..], payload),
            (frame.header, &frame.meta[..], &frame.payload[..])
        );
        self.kinds.push(kind);
        if let Some(node) = &node {
            node.variants(&mut |name, index| {
                self.variants.insert((name, index));
            });
        }
        self.frames.push(json!({
            "name": name,
            "kind": format!("{kind:?}"),
            "header": {
                "kind": kind as u8, "flags": header.flags.byte(), "codec": codec as u8,
                "descriptors": header.descriptors, "id": id,
                "meta_bytes": header.meta_bytes, "payload_bytes": header.payload_bytes,
            },
            "meta": node.map(|node| node.json()),
            "payload": hex(payload),
            "frame": hex(&bytes),
        }));
    }

    /// A table of attachments, which goes in front of a payload.
    fn table(&mut self, name: &str, table: &Attachments) {
        let node = table.describe();
        let mut bytes = Vec::new();
        node.bytes(&mut bytes);
        let head = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        assert_eq!([&head[..], &bytes].concat(), table.encode().unwrap(), "{name}: the layout");
        node.variants(&mut |name, index| {
            self.variants.insert((name, index));
        });
        self.tables.push(json!({
            "name": name, "table": node.json(), "bytes": hex(&table.encode().unwrap()),
        }));
    }

    fn check_that_all_is_shown(&self) {
        for kind in Kind::ALL {
            assert!(self.kinds.contains(kind), "no sample of {kind:?}");
        }
        for (name, indexes) in ENUMS {
            for index in *indexes {
                assert!(
                    self.variants.contains(&(name, *index)),
                    "no sample of {name}, variant {index}"
                );
            }
        }
    }
}

const NONE: Rest<'_> = Rest { flags: Flags::NONE, payload: None, descriptors: 0 };

const WORKER: WorkerId = WorkerId { slot: 3, generation: 2 };

const PHASES: Phases = Phases { queue_us: 12, run_us: 345_678, start_us: 9_000 };

fn connection(samples: &mut Samples) {
    for (name, role) in [
        ("hello-client", Role::Client),
        ("hello-worker", Role::Worker),
        ("hello-guardian", Role::Guardian),
    ] {
        let worker = if name == "hello-client" { "c0ffee" } else { "" };
        let hello = Hello {
            version_min: 1,
            version_max: 258,
            role,
            program: "clutch-client 0.1.0".into(),
            worker: worker.into(),
        };
        samples.meta(name, Kind::Hello, 0, &hello, NONE);
    }
    let welcome = Welcome {
        version: 1,
        pid: 4_000_000_000,
        program: "clutch 0.1.0".into(),
        payload_bytes_max: 64 << 20,
        in_flight_max: 1024,
        pools: vec![PoolSize { name: "default".into(), workers: 2 }],
        attached_bytes_max: 16 << 30,
    };
    samples.meta("welcome", Kind::Welcome, 0, &welcome, NONE);
    for refusal in [
        Refusal::Version,
        Refusal::Role,
        Refusal::Protocol,
        Refusal::Overloaded,
        Refusal::TooSlow,
        Refusal::User,
        Refusal::ShuttingDown,
    ] {
        let refused = Refused { refusal, sentence: format!("no: {refusal:?} (größer ☃)") };
        let name = format!("refused-{refusal:?}");
        samples.meta(&name, Kind::Refused, 0, &refused, NONE);
    }
    samples.bare("ping", Kind::Ping, u64::MAX, NONE);
    samples.bare("pong", Kind::Pong, u64::MAX, NONE);
    samples.bare("status", Kind::Status, 5, NONE);
    let report = Rest { payload: Some((Codec::Json, br#"{"pools":[]}"#)), ..NONE };
    samples.bare("status-report", Kind::StatusReport, 5, report);
    samples.meta("stop-graceful", Kind::Stop, 6, &Stop::Graceful, NONE);
    samples.meta("stop-now", Kind::Stop, 6, &Stop::Now, NONE);
    samples.bare("stopping", Kind::Stopping, 6, NONE);
    samples.meta("reload", Kind::Reload, 7, &Reload { wait: true }, NONE);
    let answer = br#"{"result":"done","message":"","pools":{},"daemon":[]}"#;
    let answer = Rest { payload: Some((Codec::Json, answer)), ..NONE };
    samples.bare("reloaded", Kind::Reloaded, 7, answer);
    logs(samples);
}

fn logs(samples: &mut Samples) {
    let all = Logs { pool: String::new(), call: 0, slot: None, lines: 200, follow: true };
    let one = Logs { pool: "default".into(), call: 7, slot: Some(1), lines: 0, follow: false };
    samples.meta("logs-all", Kind::Logs, 8, &all, NONE);
    samples.meta("logs-one", Kind::Logs, 8, &one, NONE);
    let lines = Rest { payload: Some((Codec::Json, b"[]")), ..NONE };
    let meta = LogLines { dropped: 1 << 33, last: true };
    samples.meta("log-lines", Kind::LogLines, 8, &meta, lines);
}

fn calls(samples: &mut Samples) {
    let call = Call {
        pool: "default".into(),
        function: "math:sqrt".into(),
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
        handles: Vec::new(),
    };
    let retry = Retry {
        attempts: 3,
        on: RetryOn {
            worker_died: true,
            timed_out: true,
            raised: vec!["mytasks.Transient".into(), "OSError".into()],
        },
        backoff_ms: 100,
        attempt_timeout_ms: 2_000,
    };
    let insistent = Call { priority: -5, retry: Some(retry), ..call.clone() };
    let run = Run { timeout_ms: 30_000, function: "math:sqrt".into(), each: None };
    let answer = Answer { phases: PHASES, worker: WORKER, call: 1 << 40, attempt: 2, pid: 4711 };
    let arguments = plain::to_vec(&(2,)).unwrap();
    let keywords = json::to_vec(&([2], json!({"base": 10}))).unwrap();
    let items = plain::to_vec(&[1, 2, 3]).unwrap();
    let with = |codec, payload, flags| Rest { flags, payload: Some((codec, payload)), ..NONE };
    let variants = [
        ("plain", with(Codec::Plain, &arguments, Flags::NONE)),
        ("json-keywords", with(Codec::Json, &keywords, Flags::KEYWORDS.with(Flags::OUTPUT))),
        ("items", with(Codec::Plain, &items, Flags::ITEMS)),
        ("raw", with(Codec::Raw, b"\0\xff bytes", Flags::NONE)),
    ];
    for (name, rest) in variants {
        samples.meta(&format!("call-{name}"), Kind::Call, 7, &call, rest);
        samples.meta(&format!("run-{name}"), Kind::Run, 7, &run, rest);
    }
    let rest = with(Codec::Plain, &arguments, Flags::NONE);
    samples.meta("call-retry", Kind::Call, 7, &insistent, rest);
    let rest = with(Codec::Plain, &arguments, Flags::STREAM.with(Flags::PROGRESS));
    samples.meta("call-stream", Kind::Call, 7, &call, rest);
    handles(samples, &call);
    each(samples, &call, &run, with(Codec::Plain, &items, Flags::ITEMS));
    samples.bare("cancel", Kind::Cancel, 7, NONE);
    let value = plain::to_vec(&2f64.sqrt()).unwrap();
    let value = with(Codec::Plain, &value, Flags::NONE);
    samples.meta("result-to-client", Kind::Result, 7, &answer, value);
    samples.bare("result-from-worker", Kind::Result, 7, value);
    for (name, stream, dropped_bytes) in
        [("output-stdout", Stream::Stdout, 0), ("output-stderr", Stream::Stderr, 1 << 33)]
    {
        let output = Output { stream, dropped_bytes };
        let text = with(Codec::Raw, b"half a line, ", Flags::NONE);
        samples.meta(name, Kind::Output, 7, &output, text);
    }
}

fn each(samples: &mut Samples, call: &Call, run: &Run, rest: Rest<'_>) {
    for (name, apply, fold) in [
        ("item", Apply::Item, "operator:add"),
        ("star", Apply::Star, ""),
        ("nothing", Apply::Nothing, "größe:max"),
    ] {
        let each = Some(Each { apply, fold: fold.into() });
        let call = Call { each: each.clone(), ..call.clone() };
        samples.meta(&format!("call-each-{name}"), Kind::Call, 7, &call, rest);
        let run = Run { each, ..run.clone() };
        samples.meta(&format!("run-each-{name}"), Kind::Run, 7, &run, rest);
    }
}

/// A value that is put, used twice by a call with nothing else, and released.
fn handles(samples: &mut Samples, call: &Call) {
    samples.bare("put", Kind::Put, 6, Rest { descriptors: 2, ..NONE });
    samples.bare("kept", Kind::Kept, 6, NONE);
    let value = Attachment { descriptor: 0, offset: 64, bytes: 48, content: Content::Value };
    let table = Attachments { list: vec![value.clone(), value] };
    // The list of both: PROTO 5, EMPTY_LIST, MARK, NEXT_BUFFER..., APPENDS, STOP.
    let payload = [table.encode().unwrap(), b"\x80\x05](\x97\x97e.".to_vec()].concat();
    let call = Call { handles: vec![6], ..call.clone() };
    let rest =
        Rest { flags: Flags::ATTACHED, payload: Some((Codec::Plain, &payload)), descriptors: 0 };
    samples.meta("call-handles", Kind::Call, 7, &call, rest);
    samples.bare("release", Kind::Release, 6, NONE);
}

fn streams(samples: &mut Samples) {
    let item = plain::to_vec(&"größe").unwrap();
    let item = Rest { payload: Some((Codec::Plain, &item)), ..NONE };
    samples.meta("item", Kind::Item, 7, &Item { stream: 0, index: 1 << 40 }, item);
    samples.meta("credit", Kind::Credit, 7, &Credit { stream: 0, items: 32 }, NONE);
    for (name, failure) in [("items-end", ""), ("items-broken", "the file ended: größe")] {
        let end = ItemsEnd { stream: 1, failure: failure.into() };
        samples.meta(name, Kind::ItemsEnd, 7, &end, NONE);
    }
    let progress = Progress { done: 1.5, total: None, message: "größe".into() };
    samples.meta("progress", Kind::Progress, 7, &progress, NONE);
    let progress = Progress { total: Some(3.0), message: String::new(), ..progress };
    samples.meta("progress-of", Kind::Progress, 7, &progress, NONE);
}

/// A payload of everything that can be attached: the list of it all.
fn attachments(samples: &mut Samples) {
    let array = |writable, strides| Content::Array {
        dtype: "<f8".into(),
        shape: vec![2, 3],
        strides,
        writable,
    };
    let contents = [
        (0, Content::Bytes),
        (0, Content::ByteArray),
        (0, array(false, vec![])),
        (1, array(true, vec![8, 16])),
        (0, Content::Arrow),
        (2, Content::Range { split: Split::Bytes }),
        (2, Content::Range { split: Split::Lines }),
        (2, Content::RowGroup { index: 5 }),
        (0, Content::Stream { stream: 1 }),
        (2, Content::Value),
    ];
    let list = contents.into_iter().map(|(descriptor, content)| {
        let none = matches!(content, Content::Stream { .. });
        let (offset, bytes) = if none { (0, 0) } else { (64, 48) };
        Attachment { descriptor, offset, bytes, content }
    });
    let table = Attachments { list: list.collect() };
    samples.table("attachments", &table);
    // The list of ten buffers: PROTO 5, EMPTY_LIST, MARK, NEXT_BUFFER..., APPENDS, STOP.
    let value = [&b"\x80\x05]("[..], &[0x97; 10], b"e."].concat();
    let payload = [table.encode().unwrap(), value].concat();
    let (read, _) = Attachments::split(&payload, 3).unwrap();
    assert_eq!(table, read);
    let rest =
        Rest { flags: Flags::ATTACHED, payload: Some((Codec::Plain, &payload)), descriptors: 3 };
    samples.bare("result-attached", Kind::Result, 7, rest);
}

fn exception() -> Exception {
    Exception {
        type_name: "mytasks.Rejected".into(),
        message: "größe 3 > 2".into(),
        notes: vec!["row 17".into(), String::new()],
        frames: vec![TraceFrame {
            file: "/home/me/mytasks.py".into(),
            line: 12,
            function: "check".into(),
            source: "raise Rejected(size) from error".into(),
        }],
        traceback: "Traceback (most recent call last):\n  ...\nmytasks.Rejected: größe 3 > 2\n"
            .into(),
        chain: vec![
            Link { relation: Relation::Cause, type_name: "ValueError".into(), message: "3".into() },
            Link {
                relation: Relation::Context,
                type_name: "KeyError".into(),
                message: "'size'".into(),
            },
        ],
        bases: vec!["ValueError".into(), "Exception".into(), "BaseException".into()],
    }
}

fn missing(what: MissingWhat) -> Missing {
    Missing {
        what,
        message: "module 'mth' cannot be imported: No module named 'mth'".into(),
        traceback: "Traceback (most recent call last):\nModuleNotFoundError: ...\n".into(),
    }
}

fn certificate(cause: Cause, exit: Option<Exit>) -> Certificate {
    Certificate {
        pool: "default".into(),
        worker: WORKER,
        pid: 4711,
        cause,
        exit,
        exit_name: "SIGKILL".into(),
        peak_rss_bytes: 12 << 20,
        uptime_ms: 86_400_000,
        calls_served: 17,
        function: exit.map(|_| "math:sqrt".into()),
        stderr_tail: "killed\n".into(),
        detail: String::new(),
        out_of_memory: cause == Cause::OutOfMemory,
        cpu_ms: 1_500,
        call: 9,
        stack: "Fatal Python error: Segmentation fault\n".into(),
    }
}

const CAUSES: [Cause; 12] = [
    Cause::Exited,
    Cause::Signalled,
    Cause::StartFailed,
    Cause::StartTimedOut,
    Cause::Interrupted,
    Cause::Protocol,
    Cause::ChannelLost,
    Cause::GuardianLost,
    Cause::Stopped,
    Cause::OutOfMemory,
    Cause::MemoryLimit,
    Cause::Stalled,
];

const HINDRANCES: [Hindrance; 6] = [
    Hindrance::Attempt,
    Hindrance::Paused,
    Hindrance::NoWorker,
    Hindrance::Caller,
    Hindrance::Unanswered,
    Hindrance::Building,
];

const MISSING: [MissingWhat; 5] = [
    MissingWhat::Pool,
    MissingWhat::Module,
    MissingWhat::Function,
    MissingWhat::NotCallable,
    MissingWhat::Name,
];

fn reasons() -> Vec<(String, Reason)> {
    let text = || String::from("what was wrong");
    let mut reasons: Vec<(String, Reason)> = [
        Reason::Raised(Box::new(exception())),
        Reason::TimedOut {
            timeout_ms: 200,
            stack: "  File \"m.py\", line 3 in f".into(),
            hindrance: Hindrance::Work,
        },
        Reason::Cancelled,
        Reason::QueueFull { limit: 4096 },
        Reason::CrashLoop {
            failures: 5,
            last: Box::new(certificate(Cause::Exited, Some(Exit::Code(-3)))),
        },
        Reason::NotAllowed,
        Reason::BadArguments { message: text() },
        Reason::Unserializable {
            path: "result[3].lock".into(),
            type_name: "_thread.lock".into(),
            message: text(),
        },
        Reason::ShuttingDown { why: Shutdown::Daemon },
        Reason::Disconnected { detail: text() },
        Reason::Protocol { detail: text() },
    ]
    .into_iter()
    .map(|reason| (reason.name().into(), reason))
    .collect();
    for cause in CAUSES {
        let exit = (cause == Cause::Signalled).then_some(Exit::Signal(9));
        let reason = Reason::WorkerDied(Box::new(certificate(cause, exit)));
        reasons.push((format!("WorkerDied-{cause:?}"), reason));
    }
    for hindrance in HINDRANCES {
        let stack = "  File \"m.py\", line 3 in f".into();
        let name = format!("TimedOut-{hindrance:?}");
        reasons.push((name, Reason::TimedOut { timeout_ms: 200, stack, hindrance }));
    }
    let stopped = Reason::TimedOut {
        timeout_ms: 200,
        stack: String::new(),
        hindrance: Hindrance::Stopped { pids: vec![4711, 4712] },
    };
    reasons.push(("TimedOut-Stopped".into(), stopped));
    for (name, hindrance) in [
        ("TimedOut-Capped", Hindrance::Capped { wished_ms: 60_000 }),
        ("TimedOut-Frozen", Hindrance::Frozen { pid: 4711 }),
        ("TimedOut-Reader", Hindrance::Reader { items: 32 }),
    ] {
        let reason = Reason::TimedOut { timeout_ms: 200, stack: String::new(), hindrance };
        reasons.push((name.into(), reason));
    }
    for why in [Shutdown::Ended, Shutdown::Drain] {
        reasons.push((format!("ShuttingDown-{why:?}"), Reason::ShuttingDown { why }));
    }
    for bound in [NestedBound::Depth, NestedBound::Extra] {
        let ancestor = |call| Ancestor { call, pool: "default".into(), function: "m:f".into() };
        let reason =
            Reason::Nested { chain: vec![ancestor(7), ancestor(1 << 40)], bound, limit: 8 };
        reasons.push((format!("Nested-{bound:?}"), reason));
    }
    for quota in [
        HandleQuota::ClientBytes,
        HandleQuota::Bytes,
        HandleQuota::ClientDescriptors,
        HandleQuota::Descriptors,
    ] {
        let reason = Reason::HandlesFull { quota, needed: 1 << 30, held: 1 << 33, limit: 1 << 33 };
        reasons.push((format!("HandlesFull-{quota:?}"), reason));
    }
    for what in MISSING {
        let reason = Reason::NotFound(Box::new(missing(what)));
        reasons.push((format!("NotFound-{what:?}"), reason));
    }
    for what in [Payload::Arguments, Payload::Result] {
        let reason = Reason::TooLarge { what, bytes: 1 << 40, limit: 64 << 20 };
        reasons.push((format!("TooLarge-{what:?}"), reason));
    }
    reasons
}

fn failures(samples: &mut Samples) {
    for (index, (name, reason)) in reasons().into_iter().enumerate() {
        let failure = Failure {
            call: 1 << 40,
            pool: "default".into(),
            function: "math:sqrt".into(),
            attempt: 1,
            started: index % 2 == 0,
            phases: PHASES,
            reason,
            quarantined: index % 3 == 0,
            item: (index % 3 == 1).then_some(1 << 40),
        };
        samples.meta(&format!("error-{name}"), Kind::Error, 7, &failure, NONE);
    }
    let mut worker_failures = vec![
        ("Raised".into(), WorkerFailure::Raised(exception())),
        (
            "BadArguments".into(),
            WorkerFailure::BadArguments {
                message: "f() takes 1 positional argument but 2 were given".into(),
            },
        ),
        (
            "Unserializable".into(),
            WorkerFailure::Unserializable {
                path: "result[3].lock".into(),
                type_name: "_thread.lock".into(),
                message: "return plain data".into(),
            },
        ),
        ("TooLarge".into(), WorkerFailure::TooLarge { bytes: 1 << 40, limit: 64 << 20 }),
        ("Cancelled".into(), WorkerFailure::Cancelled),
    ];
    for what in MISSING {
        let failure = WorkerFailure::NotFound(missing(what));
        worker_failures.push((format!("NotFound-{what:?}"), failure));
    }
    for (name, failure) in worker_failures {
        samples.meta(&format!("failed-{name}"), Kind::Failed, 7, &failure, NONE);
    }
}

fn operations(samples: &mut Samples) {
    let orders = [
        PoolOrder::Pause,
        PoolOrder::Resume,
        PoolOrder::Drain,
        PoolOrder::Resize { min: 1, max: 4 },
        PoolOrder::Recycle,
        PoolOrder::Reset,
    ];
    let mut operations: Vec<_> = orders
        .into_iter()
        .map(|order| {
            let word = format!("{order:?}").to_lowercase();
            let word = word.split(' ').next().unwrap_or_default().to_owned();
            (format!("pool-{word}"), Operation::Pool { name: "default".into(), order })
        })
        .collect();
    operations.push(("cancel".into(), Operation::Cancel { call: 1 << 40 }));
    operations.push(("explain".into(), Operation::Explain { call: 1 << 40 }));
    operations.push(("stack".into(), Operation::Stack { pool: "default".into(), slot: 3 }));
    for (name, operation) in operations {
        samples.meta(&format!("operate-{name}"), Kind::Operate, 8, &operation, NONE);
    }
    let told = Rest { payload: Some((Codec::Json, br#"{"call":17}"#)), ..NONE };
    samples.meta("operated-done", Kind::Operated, 8, &Outcome::Done, NONE);
    samples.meta("operated-told", Kind::Operated, 8, &Outcome::Done, told);
    for denial in [
        Denial::NoSuchPool,
        Denial::NoSuchSlot,
        Denial::NoSuchCall,
        Denial::Invalid,
        Denial::Ended,
        Denial::ShuttingDown,
        Denial::Unavailable,
        Denial::TimedOut,
        Denial::Busy,
    ] {
        let outcome = Outcome::Refused { denial, sentence: "what was wrong".into() };
        samples.meta(&format!("operated-{denial:?}"), Kind::Operated, 8, &outcome, NONE);
    }
}

fn workers(samples: &mut Samples) {
    let setup = Setup {
        version: 1,
        pool: "default".into(),
        worker: WORKER,
        argv: vec!["main.py".into(), "--größe".into(), b"\xff\xfe".into()],
        main: "/home/me/main.py".into(),
        path: vec!["/home/me".into()],
        preload: vec!["numpy".into(), "os.path".into()],
        payload_bytes_max: 64 << 20,
        start_stack_ms: 55_000,
        log_level: 20,
        initializer: "mytasks:connect".into(),
        initargs: "[\"größe\",1]".into(),
        warm: vec!["mytasks:load".into(), "mytasks:Model.warm".into()],
        mode: Mode::Threads,
        lanes: 8,
        attached_bytes_max: 16 << 30,
    };
    samples.meta("setup", Kind::Setup, 0, &setup, NONE);
    let bare = Setup {
        argv: Vec::new(),
        main: Vec::new(),
        path: Vec::new(),
        preload: Vec::new(),
        initializer: String::new(),
        initargs: Vec::new(),
        warm: Vec::new(),
        mode: Mode::One,
        lanes: 1,
        ..setup
    };
    samples.meta("setup-bare", Kind::Setup, 0, &bare, NONE);
    let tasks = Setup { mode: Mode::Async, lanes: 256, ..bare };
    samples.meta("setup-async", Kind::Setup, 0, &tasks, NONE);
    let isolated = Setup { mode: Mode::Subinterpreters, lanes: 2, ..tasks };
    samples.meta("setup-subinterpreters", Kind::Setup, 0, &isolated, NONE);
    let ready = Ready {
        version: 1,
        pid: 4711,
        python: "3.12.1".into(),
        executable: "/usr/bin/python3.12".into(),
    };
    samples.meta("ready", Kind::Ready, 0, &ready, NONE);
    samples.bare("interrupt", Kind::Interrupt, 7, NONE);
    samples.bare("warn", Kind::Warn, 7, NONE);
    samples.bare("stack", Kind::Stack, 0, NONE);
    samples.bare("exit", Kind::Exit, 0, NONE);
    let log = Log {
        level: 25,
        level_name: "NOTICE".into(),
        logger: "mytasks.größe".into(),
        created_ms: 1_795_000_000_123,
        call: 7,
        dropped: 3,
        text: "two\nlines".into(),
    };
    samples.meta("log", Kind::Log, 0, &log, NONE);
    let time =
        |module: &str, total_ms, own_ms| ImportTime { module: module.into(), total_ms, own_ms };
    let modules = vec![time("pandas", 1900, 700), time("numpy", 1200, 1200)];
    let imports = Imports { finished: true, elapsed_ms: 2100, modules };
    samples.meta("imports", Kind::Imports, 0, &imports, NONE);
    let imports = Imports { finished: false, elapsed_ms: 500, modules: vec![] };
    samples.meta("imports-none", Kind::Imports, 0, &imports, NONE);
}

/// Every limit there is.
fn limits() -> ProcessLimits {
    let resources = [
        Resource::Core,
        Resource::OpenFiles,
        Resource::AddressSpace,
        Resource::CpuTime,
        Resource::FileSize,
        Resource::Processes,
    ];
    ProcessLimits {
        resources: resources.map(|resource| ResourceLimit { resource, value: 1 << 33 }).into(),
        cpus: vec![0, 3],
        nice: Some(-5),
        umask: Some(0o27),
        identity: Some(Identity { user: 65_534, group: 65_533, groups: vec![7] }),
        oom_score_adj: Some(OomScore { value: 500, required: false }),
    }
}

fn guardians(samples: &mut Samples) {
    let spawn = Spawn {
        program: b"/usr/bin/python3.12".into(),
        argv: vec![b"python3.12".into(), b"--call={call}".into(), Vec::new()],
        environment: vec![b"PATH=/usr/bin".into(), b"ODD=\xff\xfe".into()],
        directory: b"/home/me".into(),
        grace_ms: 5_000,
        open_files: 1_024,
        limits: limits(),
        cgroup: b"/sys/fs/cgroup/clutch/a.0-1".into(),
    };
    let descriptors = Rest { descriptors: 4, ..NONE };
    samples.meta("spawn", Kind::Spawn, 0, &spawn, descriptors);
    samples.meta("spawned", Kind::Spawned, 0, &Spawned { pid: 4711, cgroup_errno: 2 }, NONE);
    for (name, stage) in [
        ("spawn-failed-prepare", SpawnStage::Prepare),
        ("spawn-failed-directory", SpawnStage::Directory),
        ("spawn-failed-execute", SpawnStage::Execute),
        ("spawn-failed-limits", SpawnStage::Limits),
    ] {
        let failed = SpawnFailed { stage, errno: 2 };
        samples.meta(name, Kind::SpawnFailed, 0, &failed, NONE);
    }
    samples.meta("signal-terminate", Kind::Signal, 0, &Signal::Terminate, NONE);
    samples.meta("signal-kill", Kind::Signal, 0, &Signal::Kill, NONE);
    samples.meta("signal-dump-stack", Kind::Signal, 0, &Signal::DumpStack, NONE);
    samples.meta("signal-continue", Kind::Signal, 0, &Signal::Continue, NONE);
    for (name, exit) in [("exited-code", Exit::Code(3)), ("exited-signal", Exit::Signal(9))] {
        let exited =
            Exited { pid: 4711, exit, user_us: 1_000_001, system_us: 2, peak_rss_bytes: 12 << 20 };
        samples.meta(name, Kind::Exited, 0, &exited, NONE);
    }
    let swept = Swept { killed: 2, survivors: 1 };
    samples.meta("swept", Kind::Swept, 0, &swept, NONE);
    samples.meta("halted", Kind::Halted, 0, &Halted { stopped: true }, NONE);
}

fn programs(samples: &mut Samples) {
    let streams = Streams { open: vec![0, 2], terminal: Some(2), ignored: 1 };
    let program = RunProgram {
        pool: "default".into(),
        arguments: vec![b"-u".into(), b"train.py".into(), b"\xff\xfe".into()],
        environment: vec![b"PATH=/usr/bin".into()],
        set: vec![b"MODE=test".into()],
        directory: b"/home/me".into(),
        interpreter: b"/home/me/venv/bin/python".into(),
        venv: b"/home/me/venv".into(),
        umask: 0o022,
        streams: streams.clone(),
    };
    samples.meta("run-program", Kind::RunProgram, 8, &program, NONE);
    samples.bare("run-ready", Kind::RunReady, 8, NONE);
    samples.bare("run-streams", Kind::RunStreams, 8, Rest { descriptors: 2, ..NONE });
    samples.meta("run-started", Kind::RunStarted, 8, &RunStarted { pid: 4711 }, NONE);
    for (name, target) in [("process", Target::Process), ("group", Target::Group)] {
        let forward = Forward { signal: 2, target };
        samples.meta(&format!("run-signal-{name}"), Kind::RunSignal, 8, &forward, NONE);
    }
    let ended = RunEnded { exit: Exit::Code(3), killed: 2, survivors: 1 };
    samples.meta("run-ended", Kind::RunEnded, 8, &ended, NONE);
    for refusal in [
        RunRefusal::NoSuchPool,
        RunRefusal::NotAllowed,
        RunRefusal::TooMany,
        RunRefusal::ShuttingDown,
        RunRefusal::CannotStart,
        RunRefusal::Lost,
        RunRefusal::NotYet,
    ] {
        let refused = RunRefused { refusal, sentence: format!("no: {refusal:?}") };
        let name = format!("run-refused-{refusal:?}");
        samples.meta(&name, Kind::RunRefused, 8, &refused, NONE);
    }
    let spawn = Spawn {
        program: b"/usr/bin/python3.12".into(),
        argv: vec![b"/usr/bin/python3.12".into(), b"-c".into(), b"pass".into()],
        environment: vec![b"PATH=/usr/bin".into()],
        directory: b"/".into(),
        grace_ms: 5_000,
        open_files: 1_024,
        limits: ProcessLimits::default(),
        cgroup: Vec::new(),
    };
    let spawn = SpawnProgram { spawn, streams };
    let descriptors = Rest { descriptors: 2, ..NONE };
    samples.meta("spawn-program", Kind::SpawnProgram, 0, &spawn, descriptors);
    let forward = Forward { signal: 15, target: Target::Process };
    samples.meta("forward", Kind::Forward, 0, &forward, NONE);
}

/// Bytes that are no frame, and why.
fn invalid() -> Vec<Json> {
    let good = Header {
        meta_bytes: 3,
        payload_bytes: 5,
        codec: Codec::Plain,
        ..Header::new(Kind::Call, 7)
    };
    let edited = |at: usize, bytes: &[u8]| {
        let mut header = good.encode();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32fast::hash(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
        header.to_vec()
    };
    let mut damaged = good.encode().to_vec();
    damaged[8] ^= 1;
    [
        ("http", "Magic", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("one-wrong-byte", "Magic", b"X".to_vec()),
        ("flipped-bit", "Checksum", damaged),
        ("unknown-kind", "Kind", edited(20, &[200])),
        ("unknown-flags", "Flags", edited(21, &[0x80])),
        ("unknown-codec", "Codec", edited(22, &[9])),
        ("reserved", "Reserved", edited(24, &[1])),
        ("descriptors", "Descriptors", edited(23, &[253])),
        ("four-gigabytes", "TooLong", edited(4, &[0xff; 4])),
        ("meta-beyond-frame", "Meta", edited(16, &[9])),
    ]
    .into_iter()
    .map(|(name, error, bytes)| {
        let refusal =
            Decoder::with_payload_max(1024).step(&mut BytesMut::from(&bytes[..])).expect_err(name);
        let found = format!("{refusal:?}");
        assert!(found.starts_with(error), "{name}: {found}");
        json!({"name": name, "error": error, "bytes": hex(&bytes)})
    })
    .collect()
}
