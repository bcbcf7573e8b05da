//! The Rust client of Clutch: functions of supervised Python workers, called like functions of
//! your own.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let client = clutch_client::Client::connect_default().await?;
//! let mean: f64 = client.call("statistics:fmean", (vec![1.0, 2.0, 3.5],)).await?;
//! let roots: Vec<f64> = client.map("math:sqrt", 1..=1000).collect().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Arguments are a tuple of anything serde can serialize, results anything it can deserialize. A
//! program without an async runtime uses [`blocking::Client`], with the same verbs.
//! `examples/tour.rs` shows everything once.
//!
//! A call that fails says how: a [`Failure`] holds a [`Reason`], which for a Python exception is
//! the exception with its traceback, for a dead worker its death certificate; and `started`, which
//! is false when sending the call again is safe. What this side notices itself uses the same
//! reasons: `BadArguments` when arguments cannot be encoded, `TooLarge` before they are sent,
//! `Unserializable` when a result does not fit the type asked for, `Disconnected` and `Protocol`
//! when the connection is gone, `TimedOut` when the daemon overstays a deadline.
//!
//! Suggested reading order:
//!
//! - [`Client`] and [`ConnectError`]: connecting, and the verbs.
//! - [`Request`]: one call with everything that can be said about it.
//! - [`Retry`]: when it is tried again.
//! - [`Answered`]: a result together with how the call went.
//! - [`ItemStream`]: the items of a generator, as they come; [`Feed`]: the other way round.
//! - [`Ref`]: a value that is put with the daemon once, and used in many calls.
//! - [`Map`]: one function over many items.
//! - [`Tensor`] and [`SharedTensor`]: arrays, passed on by their memory.
//! - [`MapFile`]: one function over the chunks of a file.
//! - [`OperateError`]: what can keep an operator's verbs from being done.
//! - [`LogQuery`]: what workers print and log.
//! - [`blocking`]: the same without a runtime.
//!
//! And inside: `exchange` (what is sent and what comes back), `codec` (values and bytes),
//! `pending` (who waits for what), `items` (what comes one by one), `feeding` (what is sent one by
//! one), `inbox` and `outbound` (bytes), `transport` and `opening` (connecting), `memory` (what
//! travels beside a value), `connection` (the async client's tasks), `owner` (forks), `limits`
//! (every bound).

#![expect(
    clippy::result_large_err,
    reason = "a failure is what a caller matches on; a box around it would help no one, since \
              next to a call's round trip its 152 bytes cost nothing"
)]

mod limits;

mod sys;

mod error;

mod transport;

mod memory;

mod tensor;

mod exchange;

mod codec;

mod pending;

mod inbox;

mod outbound;

mod owner;

mod opening;

mod connection;

mod client;

mod retry;

mod request;

mod items;

mod stream;

mod feed;

mod handle;

mod feeding;

mod reply;

mod operate;

mod map;

mod map_file;

mod logs;

pub mod blocking;

pub use client::Client;
pub use clutch_protocol::dtype::DType;
pub use clutch_protocol::failure::{Ancestor, HandleQuota, Hindrance, NestedBound, Shutdown};
pub use clutch_protocol::logs::{LogLine, LogStream};
pub use clutch_protocol::message::{
    Answer, Phases, Refusal, Stop, Stream as OutputStream, Welcome, WorkerId,
};
pub use clutch_protocol::operate::{
    Ahead, CancelledCall, Denial, Explanation, PoolOrder, Stack, Step,
};
pub use clutch_protocol::retry::RetryError;
pub use clutch_protocol::status::{DaemonStatus, PoolStatus, Status, WorkerCall, WorkerStatus};
pub use clutch_protocol::stream::Progress;
pub use clutch_protocol::value::Value;
pub use clutch_protocol::{Codec, Failure, Flags, Reason};
pub use codec::NoArguments;
pub use error::{ConnectError, HandshakeError};
pub use exchange::{Beside, DEFAULT_POOL, Reply};
pub use feed::Feed;
pub use handle::Ref;
pub use limits::{CONNECT_TIMEOUT, CONTROL_TIMEOUT, SOCKET_PATH_BYTES_MAX, TIMEOUT_GRACE};
pub use logs::{LogBatch, LogQuery, LogTail};
pub use map::{Chunk, Enumerated, ItemError, Items, Map, Ordered, Outcome, Unordered};
pub use map_file::{
    Csv, FileChunk, FileError, FileFault, FileOrdered, FileUnordered, MapFile, MapFileError,
    ParquetFault, SourceFile, Split,
};
pub use operate::OperateError;
pub use pending::OutputChunk;
pub use reply::Answered;
pub use request::Request;
pub use retry::Retry;
pub use serde_json::value::RawValue;
pub use stream::ItemStream;
pub use sys::Element;
#[cfg(feature = "arrow")]
pub use tensor::ArrowTable;
pub use tensor::{SharedTensor, Tensor, TensorError};
pub use transport::{ConnectOptions, default_socket};
