//! What a meta means, field by field, and its bytes by the layout PROTOCOL.md writes down. Nothing
//! here asks the serializer, so it is a second opinion on it.

use clutch_protocol::attachment::{Attachment, Attachments, Content, Split};
use clutch_protocol::failure::{
    Ancestor, Cause, Certificate, Exception, Failure, HandleQuota, Hindrance, Link, Missing,
    MissingWhat, NestedBound, Payload, Reason, Relation, Shutdown, TraceFrame, WorkerFailure,
};
use clutch_protocol::message::{
    Answer, Apply, Call, Each, Exit, Exited, Forward, Halted, Hello, Identity, ImportTime, Imports,
    Log, LogLines, Logs, Mode, OomScore, Output, Phases, PoolSize, ProcessLimits, Ready, Refusal,
    Refused, Reload, Resource, ResourceLimit, Retry, RetryOn, Role, Run, RunEnded, RunProgram,
    RunRefusal, RunRefused, RunStarted, Setup, Signal, Spawn, SpawnFailed, SpawnProgram,
    SpawnStage, Spawned, Stop, Stream, Streams, Swept, Target, Welcome, WorkerId,
};
use clutch_protocol::operate::{Denial, Operation, Outcome, PoolOrder};
use clutch_protocol::stream::{Credit, Item, ItemsEnd, Progress};
use serde_json::{Value as Json, json};

use super::hex;

pub(super) type Fields = Vec<(&'static str, Node)>;

/// One value of a meta.
pub(super) enum Node {
    I8(i8),
    U16(u16),
    U32(u32),
    U64(u64),
    I32(i32),
    Bool(bool),
    F64(f64),
    I64(i64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<Node>),
    Option(Option<Box<Node>>),
    Struct(&'static str, Fields),
    Enum(&'static str, &'static str, u32, Fields),
}

impl Node {
    pub(super) fn bytes(&self, out: &mut Vec<u8>) {
        match self {
            Node::I8(int) => out.extend(int.to_le_bytes()),
            Node::U16(int) => out.extend(int.to_le_bytes()),
            Node::U32(int) => out.extend(int.to_le_bytes()),
            Node::U64(int) => out.extend(int.to_le_bytes()),
            Node::I32(int) => out.extend(int.to_le_bytes()),
            Node::Bool(bool) => out.push((*bool).into()),
            Node::F64(float) => out.extend(float.to_le_bytes()),
            Node::I64(int) => out.extend(int.to_le_bytes()),
            Node::Str(text) => {
                out.extend((text.len() as u64).to_le_bytes());
                out.extend(text.as_bytes());
            }
            Node::Bytes(bytes) => {
                out.extend((bytes.len() as u64).to_le_bytes());
                out.extend(bytes);
            }
            Node::List(items) => {
                out.extend((items.len() as u64).to_le_bytes());
                items.iter().for_each(|item| item.bytes(out));
            }
            Node::Option(None) => out.push(0),
            Node::Option(Some(node)) => {
                out.push(1);
                node.bytes(out);
            }
            Node::Struct(_, fields) => fields.iter().for_each(|(_, field)| field.bytes(out)),
            Node::Enum(_, _, index, fields) => {
                out.extend(index.to_le_bytes());
                fields.iter().for_each(|(_, field)| field.bytes(out));
            }
        }
    }

    pub(super) fn json(&self) -> Json {
        let fields = |fields: &Fields| -> Vec<Json> {
            fields.iter().map(|(name, field)| json!([name, field.json()])).collect()
        };
        match self {
            Node::I8(int) => json!({"type": "i8", "value": int}),
            Node::U16(int) => json!({"type": "u16", "value": int}),
            Node::U32(int) => json!({"type": "u32", "value": int}),
            Node::U64(int) => json!({"type": "u64", "value": int}),
            Node::I32(int) => json!({"type": "i32", "value": int}),
            Node::Bool(bool) => json!({"type": "bool", "value": bool}),
            Node::F64(float) => json!({"type": "f64", "value": float}),
            Node::I64(int) => json!({"type": "i64", "value": int}),
            Node::Str(text) => json!({"type": "str", "value": text}),
            Node::Bytes(bytes) => json!({"type": "bytes", "value": hex(bytes)}),
            Node::List(items) => {
                json!({"type": "list", "items": items.iter().map(Node::json).collect::<Vec<_>>()})
            }
            Node::Option(node) => {
                json!({"type": "option", "value": node.as_ref().map(|node| node.json())})
            }
            Node::Struct(name, inner) => {
                json!({"type": "struct", "name": name, "fields": fields(inner)})
            }
            Node::Enum(name, variant, index, inner) => json!({
                "type": "enum", "name": name, "variant": variant, "index": index,
                "fields": fields(inner),
            }),
        }
    }

    /// Notes every enum's variant in it.
    pub(super) fn variants(&self, seen: &mut dyn FnMut(&'static str, u32)) {
        match self {
            Node::List(items) => items.iter().for_each(|item| item.variants(seen)),
            Node::Option(Some(node)) => node.variants(seen),
            Node::Struct(_, fields) => fields.iter().for_each(|(_, field)| field.variants(seen)),
            Node::Enum(name, _, index, fields) => {
                seen(name, *index);
                fields.iter().for_each(|(_, field)| field.variants(seen));
            }
            _ => {}
        }
    }
}

pub(super) trait Describe {
    fn describe(&self) -> Node;
}

macro_rules! plain {
    ($($type:ty => |$value:ident| $node:expr;)*) => {
        $(impl Describe for $type {
            fn describe(&self) -> Node { let $value = self; $node }
        })*
    };
}

plain! {
    i8 => |int| Node::I8(*int);
    u16 => |int| Node::U16(*int);
    u32 => |int| Node::U32(*int);
    u64 => |int| Node::U64(*int);
    i32 => |int| Node::I32(*int);
    bool => |bool| Node::Bool(*bool);
    f64 => |float| Node::F64(*float);
    i64 => |int| Node::I64(*int);
    String => |text| Node::Str(text.clone());
    Vec<u8> => |bytes| Node::Bytes(bytes.clone());
}

impl<T: Describe> Describe for Box<T> {
    fn describe(&self) -> Node {
        (**self).describe()
    }
}

impl<T: Describe> Describe for Option<T> {
    fn describe(&self) -> Node {
        Node::Option(self.as_ref().map(|value| Box::new(value.describe())))
    }
}

macro_rules! lists {
    ($($type:ty)*) => {
        $(impl Describe for Vec<$type> {
            fn describe(&self) -> Node {
                Node::List(self.iter().map(Describe::describe).collect())
            }
        })*
    };
}

lists! {
    String Vec<u8> ImportTime TraceFrame Link Ancestor PoolSize ResourceLimit u32 u64 i64 Attachment
}

/// The fields of a struct in the order of the wire. One that is left out does not compile.
macro_rules! structs {
    ($($name:ident { $($field:ident),* })*) => {
        $(impl Describe for $name {
            fn describe(&self) -> Node {
                let $name { $($field),* } = self;
                Node::Struct(
                    stringify!($name),
                    vec![$((stringify!($field), $field.describe())),*],
                )
            }
        })*
    };
}

structs! {
    Hello { version_min, version_max, role, program, worker }
    Welcome {
        version, pid, program, payload_bytes_max, in_flight_max, pools, attached_bytes_max
    }
    PoolSize { name, workers }
    Refused { refusal, sentence }
    Reload { wait }
    Call { pool, function, timeout_ms, priority, retry, each, handles }
    Each { apply, fold }
    Retry { attempts, on, backoff_ms, attempt_timeout_ms }
    RetryOn { worker_died, timed_out, raised }
    Phases { queue_us, run_us, start_us }
    WorkerId { slot, generation }
    Answer { phases, worker, call, attempt, pid }
    Output { stream, dropped_bytes }
    Setup {
        version, pool, worker, argv, main, path, preload, payload_bytes_max, start_stack_ms,
        log_level, initializer, initargs, warm, mode, lanes,
        attached_bytes_max
    }
    Attachments { list }
    Attachment { descriptor, offset, bytes, content }
    Item { stream, index }
    Credit { stream, items }
    ItemsEnd { stream, failure }
    Progress { done, total, message }
    Imports { finished, elapsed_ms, modules }
    ImportTime { module, total_ms, own_ms }
    Log { level, level_name, logger, created_ms, call, dropped, text }
    Logs { pool, call, slot, lines, follow }
    LogLines { dropped, last }
    Ready { version, pid, python, executable }
    Run { timeout_ms, function, each }
    Spawn { program, argv, environment, directory, grace_ms, open_files, limits, cgroup }
    ProcessLimits { resources, cpus, nice, umask, identity, oom_score_adj }
    ResourceLimit { resource, value }
    Identity { user, group, groups }
    OomScore { value, required }
    Spawned { pid, cgroup_errno }
    Halted { stopped }
    SpawnFailed { stage, errno }
    Exited { pid, exit, user_us, system_us, peak_rss_bytes }
    Swept { killed, survivors }
    RunProgram {
        pool, arguments, environment, set, directory, interpreter, venv, umask, streams
    }
    Streams { open, terminal, ignored }
    Forward { signal, target }
    RunEnded { exit, killed, survivors }
    RunStarted { pid }
    RunRefused { refusal, sentence }
    SpawnProgram { spawn, streams }
    Failure { call, pool, function, attempt, started, phases, reason, quarantined, item }
    Ancestor { call, pool, function }
    Missing { what, message, traceback }
    Exception { type_name, message, notes, frames, traceback, chain, bases }
    TraceFrame { file, line, function, source }
    Link { relation, type_name, message }
    Certificate {
        pool, worker, pid, cause, exit, exit_name, peak_rss_bytes, uptime_ms, calls_served,
        function, stderr_tail, detail, out_of_memory, cpu_ms, call, stack
    }
}

/// The variants of an enum with their numbers on the wire. One that is left out does not compile,
/// and [`ENUMS`] makes the samples show each.
macro_rules! enums {
    ($($name:ident {
        $($index:literal $variant:ident $(($inner:ident))? $({ $($field:ident),* })?),* $(,)?
    })*) => {
        $(impl Describe for $name {
            fn describe(&self) -> Node {
                match self {
                    $($name::$variant $(($inner))? $({ $($field),* })? => Node::Enum(
                        stringify!($name),
                        stringify!($variant),
                        $index,
                        vec![
                            $(("0", $inner.describe()))?
                            $($((stringify!($field), $field.describe())),*)?
                        ],
                    ),)*
                }
            }
        })*

        /// Every enum of a meta, and the numbers of its variants.
        pub(super) const ENUMS: &[(&str, &[u32])] = &[$((stringify!($name), &[$($index),*])),*];
    };
}

enums! {
    Role { 0 Client, 1 Worker, 2 Guardian }
    Refusal {
        0 Version, 1 Role, 2 Protocol, 3 Overloaded, 4 TooSlow, 5 User, 6 ShuttingDown
    }
    Stream { 0 Stdout, 1 Stderr }
    Stop { 0 Graceful, 1 Now }
    Content {
        0 Bytes, 1 ByteArray, 2 Array { dtype, shape, strides, writable }, 3 Arrow,
        4 Range { split }, 5 RowGroup { index }, 6 Stream { stream }, 7 Value,
    }
    Split { 0 Bytes, 1 Lines }
    Apply { 0 Item, 1 Star, 2 Nothing }
    Mode { 0 One, 1 Threads, 2 Async, 3 Subinterpreters }
    SpawnStage { 0 Prepare, 1 Directory, 2 Execute, 3 Limits }
    Resource {
        0 Core, 1 OpenFiles, 2 AddressSpace, 3 CpuTime, 4 FileSize, 5 Processes
    }
    Signal { 0 Terminate, 1 Kill, 2 DumpStack, 3 Continue }
    Exit { 0 Code(code), 1 Signal(signal) }
    Target { 0 Process, 1 Group }
    RunRefusal {
        0 NoSuchPool, 1 NotAllowed, 2 TooMany, 3 ShuttingDown, 4 CannotStart, 5 Lost,
        6 NotYet,
    }
    Reason {
        0 Raised(exception),
        1 TimedOut { timeout_ms, stack, hindrance },
        2 Cancelled,
        3 WorkerDied(certificate),
        4 QueueFull { limit },
        5 CrashLoop { failures, last },
        6 NotAllowed,
        7 NotFound(missing),
        8 BadArguments { message },
        9 Unserializable { path, type_name, message },
        10 TooLarge { what, bytes, limit },
        11 ShuttingDown { why },
        12 Disconnected { detail },
        13 Protocol { detail },
        14 Nested { chain, bound, limit },
        15 HandlesFull { quota, needed, held, limit },
    }
    NestedBound { 0 Depth, 1 Extra }
    HandleQuota { 0 ClientBytes, 1 Bytes, 2 ClientDescriptors, 3 Descriptors }
    Hindrance {
        0 Work,
        1 Attempt,
        2 Paused,
        3 NoWorker,
        4 Caller,
        5 Stopped { pids },
        6 Capped { wished_ms },
        7 Unanswered,
        8 Frozen { pid },
        9 Building,
        10 Reader { items },
    }
    Shutdown { 0 Daemon, 1 Ended, 2 Drain }
    Payload { 0 Arguments, 1 Result }
    WorkerFailure {
        0 Raised(exception),
        1 NotFound(missing),
        2 BadArguments { message },
        3 Unserializable { path, type_name, message },
        4 TooLarge { bytes, limit },
        5 Cancelled,
    }
    MissingWhat { 0 Pool, 1 Module, 2 Function, 3 NotCallable, 4 Name }
    Relation { 0 Cause, 1 Context }
    Cause {
        0 Exited, 1 Signalled, 2 StartFailed, 3 StartTimedOut, 4 Interrupted, 5 Protocol,
        6 ChannelLost, 7 GuardianLost, 8 Stopped, 9 OutOfMemory,
        10 MemoryLimit, 11 Stalled,
    }
    Operation {
        0 Pool { name, order }, 1 Cancel { call }, 2 Explain { call }, 3 Stack { pool, slot },
    }
    PoolOrder { 0 Pause, 1 Resume, 2 Drain, 3 Resize { min, max }, 4 Recycle, 5 Reset }
    Outcome { 0 Done, 1 Refused { denial, sentence } }
    Denial {
        0 NoSuchPool, 1 NoSuchSlot, 2 NoSuchCall, 3 Invalid, 4 Ended, 5 ShuttingDown,
        6 Unavailable, 7 TimedOut, 8 Busy,
    }
}
