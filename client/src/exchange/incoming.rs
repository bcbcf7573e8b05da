//! What a frame from the daemon is to a client.

use clutch_protocol::message::{LogLines, Output, Refusal, Refused};
use clutch_protocol::stream::{Credit, Progress};
use clutch_protocol::{Kind, wire};

use crate::inbox::Delivery;
use crate::pending::{Closing, LogChunk, OutputChunk};

/// What a frame from the daemon is to a client.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// The answer to a request.
    Answer(Delivery),
    /// Something call `.0` printed.
    Output(u64, OutputChunk),
    /// An item of a call's answer.
    Item(Delivery),
    /// Call `.0` asks for items of a stream.
    Credit(u64, Credit),
    /// How far call `.0` has come.
    Progress(u64, Progress),
    /// Log lines for request `.0`, and more will come.
    Lines(u64, LogChunk),
    /// The daemon asks whether we are there.
    Ping(u64),
    /// The connection is over.
    Close(Closing),
}

/// Sorts a frame.
pub(crate) fn sort(delivery: Delivery) -> Incoming {
    let frame = &delivery.frame;
    match frame.header.kind {
        Kind::Result
        | Kind::Error
        | Kind::Pong
        | Kind::StatusReport
        | Kind::Stopping
        | Kind::Reloaded
        | Kind::Operated
        | Kind::Kept => Incoming::Answer(delivery),
        Kind::Ping => Incoming::Ping(frame.header.id),
        Kind::Output => match wire::decode::<Output>(&frame.meta) {
            Ok(Output { stream, dropped_bytes }) => {
                let id = frame.header.id;
                let bytes = frame.payload.clone();
                let chunk = OutputChunk { id, stream, dropped_bytes, bytes };
                Incoming::Output(id, chunk)
            }
            Err(error) => Incoming::Close(garbage(&error)),
        },
        Kind::Item => Incoming::Item(delivery),
        Kind::Credit => match wire::decode(&frame.meta) {
            Ok(credit) => Incoming::Credit(frame.header.id, credit),
            Err(error) => Incoming::Close(garbage(&error)),
        },
        Kind::Progress => match wire::decode(&frame.meta) {
            Ok(progress) => Incoming::Progress(frame.header.id, progress),
            Err(error) => Incoming::Close(garbage(&error)),
        },
        Kind::LogLines => match wire::decode::<LogLines>(&frame.meta) {
            Ok(LogLines { last: true, .. }) => Incoming::Answer(delivery),
            Ok(LogLines { dropped, .. }) => {
                let json = frame.payload.clone();
                Incoming::Lines(frame.header.id, LogChunk { dropped, json })
            }
            Err(error) => Incoming::Close(garbage(&error)),
        },
        Kind::Refused => Incoming::Close(match wire::decode::<Refused>(&frame.meta) {
            Ok(Refused { refusal, sentence }) => match refusal {
                Refusal::Protocol => Closing::Protocol(sentence.into()),
                _ => Closing::Lost(sentence.into()),
            },
            Err(error) => garbage(&error),
        }),
        kind => Incoming::Close(Closing::Protocol(
            format!("the daemon sent {kind:?}, which is not for clients").into(),
        )),
    }
}

/// What to say when the daemon's bytes have no meaning.
pub(crate) fn garbage(error: &dyn std::error::Error) -> Closing {
    Closing::Protocol(format!("the daemon sent something unreadable: {error}").into())
}
