//! What comes one by one: the items of a call's streams, and how far it has come.
//!
//! A call with the flag `STREAM` answers with stream 0: `Item`s from the worker, then its `Result`,
//! whose value is what the generator returned, or its `Error`. An argument that is an attachment
//! [`Content::Stream`](crate::attachment::Content) stands for a stream of the client's, 1 or more:
//! `Item`s from the client, then `ItemsEnd`.
//!
//! Whoever receives items says by `Credit` how many more may come. Without credit none may be sent,
//! and at first there is none.

use crate::wire::{Decode, Encode};

/// The meta of an item. Its payload is the item, in the codec of the call.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Item {
    /// Which of the call's streams: 0 for what it answers with.
    pub stream: u32,
    /// Its number in the stream, from 0.
    pub index: u64,
}

/// Leave to send more items of a stream.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Credit {
    /// Which of the call's streams.
    pub stream: u32,
    /// How many more than before: at most so many that
    /// [`STREAM_CREDIT_MAX`](crate::limits::STREAM_CREDIT_MAX) are outstanding.
    pub items: u32,
}

/// A stream of a client's has ended.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct ItemsEnd {
    /// Which of the call's streams.
    pub stream: u32,
    /// Why it broke off; empty when it is complete.
    pub failure: String,
}

/// How far a call has come, in whatever unit its function counts.
#[derive(Clone, Debug, Decode, Encode, PartialEq)]
pub struct Progress {
    /// How much is done.
    pub done: f64,
    /// How much there is to do, where that is known.
    pub total: Option<f64>,
    /// What it is doing, at most
    /// [`PROGRESS_TEXT_BYTES_MAX`](crate::limits::PROGRESS_TEXT_BYTES_MAX) bytes; may be empty.
    pub message: String,
}
